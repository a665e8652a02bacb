//! What goes wrong, in words.

use std::{io, path::PathBuf, process::ExitStatus, time::Duration};

use crate::{readme::ReadmeError, template::TemplateError};

/// Why nothing is compared.
#[derive(Debug, thiserror::Error)]
pub(crate) enum SetupError {
    #[error("{path}: {source}", path = path.display())]
    File { path: PathBuf, source: io::Error },
    #[error("{path}: {source}", path = path.display())]
    Readme { path: PathBuf, source: ReadmeError },
    #[error("the descriptions of brokers make no sense: {0}")]
    Descriptions(String),
    #[error("no {kind} is called {pattern:?}: --list says which there are")]
    Unknown { kind: &'static str, pattern: String },
    #[error("{broker} is not here: there is no program {program}")]
    NoProgram { broker: String, program: String },
    #[error("{name}: {source}")]
    Template { name: String, source: TemplateError },
    #[error("none of these brokers takes part in any of these scenarios")]
    Nothing,
    #[error("{}: {source}; build it, or name it with --flotilla", path.display())]
    NoFlotilla { path: PathBuf, source: io::Error },
    #[error("cannot start: {0}")]
    Start(#[from] io::Error),
}

/// Why a run has failed.
#[derive(Debug, thiserror::Error)]
pub(crate) enum RunError {
    #[error("interrupted")]
    Interrupted,
    #[error(transparent)]
    Template(#[from] TemplateError),
    #[error("{what}: {source}")]
    Io { what: &'static str, source: io::Error },
    #[error("{program} cannot be started: {source}")]
    Start { program: String, source: io::Error },
    #[error("the broker accepts no MQTT connection within {within:?}{log}")]
    NotReady { within: Duration, log: String },
    #[error("the broker has ended by itself ({status}){log}")]
    Ended { status: ExitStatus, log: String },
    #[error("the load was not done within {0:?}")]
    Slow(Duration),
    /// What the load generator says.
    #[error("{0}")]
    Load(String),
}

impl RunError {
    /// For `map_err`.
    pub(crate) fn io(what: &'static str) -> impl FnOnce(io::Error) -> Self {
        move |source| Self::Io { what, source }
    }
}
