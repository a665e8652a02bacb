//! The way back from the loss of a majority, on a node that does not run.

use std::path::PathBuf;

use flotilla_raft::meta::{MetaError, Recovery, Storage};
use flotilla_wal::WalOptions;

use crate::config::Config;

/// Why a node cannot go on alone.
#[derive(Debug, thiserror::Error)]
pub enum RecoverError {
    /// It has never run.
    #[error("node.data_dir {}: there is nothing of a node", .0.display())]
    NoNode(PathBuf),
    /// Its data.
    #[error("node.data_dir {}: {source}", dir.display())]
    Data {
        /// The data directory.
        dir: PathBuf,
        /// What is wrong.
        source: MetaError,
    },
    /// What is in it.
    #[error(transparent)]
    Recover(#[from] flotilla_raft::meta::RecoverError),
}

/// Makes the node of this configuration, which must not run, the only one of its cluster, if `confirm` says so when it is told what
/// becomes of it. Returns whether it did.
///
/// # Errors
/// See [`RecoverError`].
pub fn recover(config: &Config, confirm: impl FnOnce(&Recovery) -> bool) -> Result<bool, RecoverError> {
    let dir = &config.node.data_dir;
    if !dir.join("wal").exists() {
        return Err(RecoverError::NoNode(dir.clone()));
    }
    let storage = Storage::open(dir, &config.node.name, &config.cluster.name, WalOptions::default())
        .map_err(|source| RecoverError::Data { dir: dir.clone(), source })?;
    let recovery = Recovery::plan(&storage)?;
    let is_confirmed = confirm(&recovery);
    if is_confirmed {
        recovery.carry_out(&storage)?;
    }
    Ok(is_confirmed)
}
