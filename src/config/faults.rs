//! What can be wrong with a configuration.

use std::fmt;

/// Everything that is wrong with a configuration; never empty.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{}", .faults.iter().map(Fault::to_string).collect::<Vec<_>>().join("\n"))]
pub struct ConfigErrors {
    faults: Vec<Fault>,
}

impl ConfigErrors {
    /// An error of these faults, if there are any.
    pub(super) fn check(faults: Vec<Fault>) -> Result<(), Self> {
        if faults.is_empty() { Ok(()) } else { Err(Self { faults }) }
    }

    /// The faults: those of a file as a whole first, then by path.
    #[must_use]
    pub fn faults(&self) -> &[Fault] {
        &self.faults
    }
}

/// One thing that is wrong.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Fault {
    /// The key, such as `mqtt.max_packet_size`; `None`: the source as a whole cannot be read.
    pub path: Option<String>,
    /// What is wrong, and what would be right.
    pub message: String,
    /// Where the value came from; `None`: from the built-in defaults, or from nowhere.
    pub origin: Option<Origin>,
}

impl fmt::Display for Fault {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match (&self.path, &self.origin) {
            (Some(path), Some(origin)) => write!(f, "{path}: {} (from {origin})", self.message),
            (Some(path), None) => write!(f, "{path}: {}", self.message),
            (None, Some(origin)) => write!(f, "{origin}: {}", self.message),
            (None, None) => f.write_str(&self.message),
        }
    }
}

/// Where a value came from.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Origin {
    /// The file.
    File {
        /// Its name, as it was given.
        name: String,
        /// The line, from 1 on; `None`: the whole file.
        line: Option<usize>,
    },
    /// A variable of the environment, by its name.
    Env(String),
    /// A `--set` argument.
    Set(String),
}

impl fmt::Display for Origin {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::File { name, line: Some(line) } => write!(f, "{name}, line {line}"),
            Self::File { name, line: None } => f.write_str(name),
            Self::Env(name) => write!(f, "the environment {name}"),
            Self::Set(argument) => write!(f, "--set {argument}"),
        }
    }
}
