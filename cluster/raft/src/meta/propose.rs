//! Proposing a command, wherever the leader is.

use std::time::{Duration, Instant};

use bytes::Bytes;
use flotilla_rpc::membership::{self as rpc, propose_reply::Outcome};
use flotilla_state::{Command, LogIndex, NewStatus, Reply};
use tokio::time::{sleep, timeout_at};
use tonic::{Code, ConnectError, Status};

use super::{
    member::{Way, flatten},
    shared::{Shared, client},
};
use crate::{clock, group, peers::Class};

/// Why a command was not applied, as far as is known.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum ProposeError {
    /// It was not taken until the deadline: nobody leads, or the leader is not reached.
    #[error("no leader took the command in time")]
    NoLeader,
    /// It was not taken until the deadline: too much is under way.
    #[error("too many commands are under way")]
    Busy,
    /// It may have been committed, or be yet.
    #[error("the outcome of the command is not known: {0}")]
    Unknown(String),
    /// It was not taken, and never will be.
    #[error("the command was refused: {0}")]
    Refused(String),
    /// This node is no member now.
    #[error("this node is not admitted to the cluster")]
    NotAdmitted,
    /// The group of this node has stopped.
    #[error("the meta group has stopped: {0}")]
    Stopped(String),
}

/// What one try has come to.
enum Try {
    Done(u64, Bytes),
    Failed(ProposeError),
    /// It was not taken. To be tried again.
    Again(ProposeError),
}

impl Shared {
    pub(super) async fn propose(
        &self,
        command: Bytes,
        deadline: Instant,
    ) -> Result<(LogIndex, Reply), ProposeError> {
        let Ok(Ok(_permit)) = timeout_at(deadline.into(), self.proposals.acquire()).await else {
            return Err(ProposeError::Busy);
        };
        let mut pause = PAUSE_MIN;
        loop {
            match self.try_to_propose(command.clone(), deadline).await {
                Try::Done(index, reply) => {
                    let reply =
                        Reply::decode(&reply).map_err(|error| ProposeError::Unknown(error.to_string()))?;
                    return Ok((LogIndex(index), reply));
                }
                Try::Failed(error) => return Err(error),
                Try::Again(error) if clock::now() + pause >= deadline => return Err(error),
                Try::Again(_) => {}
            }
            sleep(pause).await;
            pause = (pause * 2).min(PAUSE_MAX);
        }
    }

    async fn try_to_propose(&self, command: Bytes, deadline: Instant) -> Try {
        match self.way_to_leader(Class::Admin) {
            None => Try::Again(ProposeError::NoLeader),
            Some(Way::Here) => match timeout_at(deadline.into(), self.propose_here(command)).await {
                Ok(Ok((index, reply))) => Try::Done(index, reply),
                Ok(Err(error @ (ProposeError::NoLeader | ProposeError::Busy))) => Try::Again(error),
                Ok(Err(error)) => Try::Failed(error),
                Err(_) => Try::Failed(ProposeError::Unknown("not committed in time".to_owned())),
            },
            Some(Way::There(channel)) => {
                let mut client = client(channel);
                let call = client.propose(rpc::ProposeRequest { command });
                match flatten(timeout_at(deadline.into(), call).await) {
                    Ok(reply) => self.understand(reply.into_inner()),
                    Err(status) if never_arrived(&status) => {
                        self.doubt_way();
                        Try::Again(ProposeError::NoLeader)
                    }
                    Err(status) if status.code() == Code::InvalidArgument => {
                        Try::Failed(ProposeError::Refused(status.message().to_owned()))
                    }
                    Err(status) => {
                        self.doubt_way();
                        Try::Failed(ProposeError::Unknown(status.message().to_owned()))
                    }
                }
            }
        }
    }

    fn understand(&self, reply: rpc::ProposeReply) -> Try {
        match reply.outcome {
            Some(Outcome::Applied(rpc::Applied { index, reply })) => Try::Done(index, reply),
            Some(Outcome::NotLeader(other)) => {
                self.follow(other);
                Try::Again(ProposeError::NoLeader)
            }
            Some(Outcome::Busy(_)) => Try::Again(ProposeError::Busy),
            Some(Outcome::Unknown(reason)) => Try::Failed(ProposeError::Unknown(reason)),
            Some(Outcome::Refused(reason)) => Try::Failed(ProposeError::Refused(reason)),
            None => Try::Failed(ProposeError::Unknown("an empty answer".to_owned())),
        }
    }

    /// Proposes at this node, if it leads. There is no deadline.
    pub(super) async fn propose_here(&self, command: Bytes) -> Result<(u64, Bytes), ProposeError> {
        self.group.propose(command).await.map_err(|error| match error {
            group::ProposeError::NotLeader { .. } => ProposeError::NoLeader,
            group::ProposeError::Unknown { .. } => ProposeError::Unknown(error.to_string()),
            group::ProposeError::TooLarge { .. } => ProposeError::Refused(error.to_string()),
            group::ProposeError::Full => ProposeError::Busy,
            group::ProposeError::Stopped(reason) => ProposeError::Stopped(reason),
        })
    }

    pub(super) async fn set_status(
        &self,
        status: NewStatus,
        deadline: Instant,
    ) -> Result<Reply, ProposeError> {
        let member = (*self.me.borrow()).ok_or(ProposeError::NotAdmitted)?;
        let command = Command::SetStatus { member, status };
        loop {
            match self.propose(command.encode(), deadline).await {
                // To propose it once more does no harm.
                Err(ProposeError::Unknown(_)) if clock::now() + PAUSE_MAX < deadline => {
                    sleep(PAUSE_MAX).await;
                }
                outcome => return outcome.map(|(_, reply)| reply),
            }
        }
    }
}

/// Whether a request that failed so cannot have been seen by the service.
fn never_arrived(status: &Status) -> bool {
    // The gate answers with these.
    if matches!(status.code(), Code::PermissionDenied | Code::Unauthenticated | Code::FailedPrecondition) {
        return true;
    }
    let mut source = std::error::Error::source(status);
    while let Some(error) = source {
        if error.is::<ConnectError>() {
            return true;
        }
        source = error.source();
    }
    false
}

const PAUSE_MIN: Duration = Duration::from_millis(20);
const PAUSE_MAX: Duration = Duration::from_millis(500);
