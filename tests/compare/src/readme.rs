//! The place in a text where the table belongs.

use std::{fs, io, path::Path};

/// Why the table cannot be put there.
#[derive(Debug, thiserror::Error)]
pub(crate) enum ReadmeError {
    #[error("{0} must be there exactly once, on a line of its own")]
    Marker(&'static str),
    #[error("{END} is before {BEGIN}")]
    Order,
    #[error(transparent)]
    Io(#[from] io::Error),
}

/// Whether the table could be put into this file: who measures for an hour wants to know before.
///
/// # Errors
/// It could not.
pub(crate) fn check(path: &Path) -> Result<(), ReadmeError> {
    place(&fs::read_to_string(path)?, "").map(|_| ())
}

/// Puts the table between the markers of a file, in place of what is there. The rest of the file stays, byte by byte.
///
/// # Errors
/// The markers are not there, or the file cannot be read or written. It is as it was then, or, at the end of a write that failed,
/// still whole beside its new version.
pub(crate) fn write(path: &Path, table: &str) -> Result<(), ReadmeError> {
    let text = place(&fs::read_to_string(path)?, table)?;
    let mut new = path.as_os_str().to_owned();
    new.push(".new");
    fs::write(&new, text)?;
    Ok(fs::rename(&new, path)?)
}

/// The text with the table between its markers.
fn place(text: &str, table: &str) -> Result<String, ReadmeError> {
    let (begin, end) = (find(text, BEGIN)?, find(text, END)?);
    if end < begin {
        return Err(ReadmeError::Order);
    }
    let (before, after) = (&text[..begin + BEGIN.len()], &text[end..]);
    Ok(format!("{before}\n\n{}\n\n{after}", table.trim()))
}

/// Where a line begins that is the marker and nothing else. A text may speak of a marker elsewhere.
fn find(text: &str, marker: &'static str) -> Result<usize, ReadmeError> {
    let mut at = 0;
    let mut found = Vec::new();
    for line in text.split_inclusive('\n') {
        if line.trim_end() == marker {
            found.push(at);
        }
        at += line.len();
    }
    match found.as_slice() {
        [one] => Ok(*one),
        _ => Err(ReadmeError::Marker(marker)),
    }
}

const BEGIN: &str = "<!-- compare:begin -->";
const END: &str = "<!-- compare:end -->";

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_what_is_between_the_markers_changes() {
        let text = "# A\n`<!-- compare:begin -->` is a marker\n<!-- compare:begin -->\nold\n<!-- compare:end -->\r\nB";
        let expected = "# A\n`<!-- compare:begin -->` is a marker\n<!-- compare:begin -->\n\n| new |\n\n<!-- compare:end -->\r\nB";
        let once = place(text, "\n| new |\n").unwrap();
        assert_eq!(once, expected);
        assert_eq!(place(&once, "| new |").unwrap(), expected, "twice is as once");
    }

    #[test]
    fn without_its_place_a_text_stays() {
        let check = |text, expected: &str| assert_eq!(place(text, "x").unwrap_err().to_string(), expected);
        let missing = "must be there exactly once, on a line of its own";
        check("", &format!("{BEGIN} {missing}"));
        check("<!-- compare:begin -->\n", &format!("{END} {missing}"));
        check(
            "<!-- compare:begin -->\n<!-- compare:begin -->\n<!-- compare:end -->",
            &format!("{BEGIN} {missing}"),
        );
        check("<!-- compare:end -->\n<!-- compare:begin -->\n", &format!("{END} is before {BEGIN}"));
    }
}
