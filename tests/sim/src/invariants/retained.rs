//! When all is quiet, every node has the same retained messages.

use std::collections::BTreeMap;

use super::Violation;

/// What a node keeps, by topic.
pub type Content = BTreeMap<String, Vec<u8>>;

/// Compares what the nodes keep.
pub fn check_retained(contents: &[(String, Content)]) -> Result<(), Violation> {
    let Some(((first, expected), others)) = contents.split_first() else { return Ok(()) };
    match others.iter().find(|(_, content)| content != expected) {
        Some((other, content)) => Err(format!("{first} keeps {expected:?}, and {other} keeps {content:?}")),
        None => Ok(()),
    }
}
