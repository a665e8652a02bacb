//! What brokers find on this machine.

use std::{
    env, fs,
    path::{Path, PathBuf},
    process::{Command, Stdio},
};

use crate::{
    description::Description,
    template::{TemplateError, Values, fill},
};

/// The program under test, and room for those who run.
#[derive(Debug, Clone)]
pub(crate) struct Place {
    pub(crate) flotilla: PathBuf,
    pub(crate) scratch: PathBuf,
    /// The limit of open files.
    pub(crate) files: u64,
}

impl Place {
    /// What stands for names that are the same for all runs.
    pub(crate) fn values(&self) -> Values {
        Values::from([("flotilla", self.flotilla.display().to_string()), ("files", self.files.to_string())])
    }

    /// The program of a broker that is not here; `None`: it is.
    ///
    /// # Errors
    /// It cannot be filled in.
    pub(crate) fn missing(&self, broker: &Description) -> Result<Option<String>, TemplateError> {
        let program = fill(&broker.start[0], &self.values())?;
        Ok(if is_there(&program) { None } else { Some(program) })
    }

    /// What a broker says about its version: the first line that says anything.
    pub(crate) fn version(&self, broker: &Description) -> Option<String> {
        let command: Result<Vec<_>, _> =
            broker.version.iter().map(|argument| fill(argument, &self.values())).collect();
        let command = command.ok()?;
        let (program, arguments) = command.split_first()?;
        // Some programs think that who asks for this makes a mistake, so the exit code says nothing.
        let output = Command::new(program).args(arguments).stdin(Stdio::null()).output().ok()?;
        let text = [output.stdout, output.stderr].concat();
        let text = String::from_utf8_lossy(&text);
        text.lines().map(str::trim).find(|line| !line.is_empty()).map(str::to_owned)
    }
}

fn is_there(program: &str) -> bool {
    let is_file = |path: &Path| fs::metadata(path).is_ok_and(|metadata| metadata.is_file());
    if program.contains('/') {
        return is_file(Path::new(program));
    }
    let path = env::var_os("PATH").unwrap_or_default();
    env::split_paths(&path).any(|directory| is_file(&directory.join(program)))
}
