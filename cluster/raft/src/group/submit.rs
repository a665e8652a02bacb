//! Commands that follow one another without waiting.
//!
//! One task hands what was submitted to openraft, a batch at a time. openraft takes a batch whole or not at all, and the task sends
//! the next only when it knows that the one before was taken: a leader that was refused its own commands for a moment, because a quorum
//! had not confirmed it, would otherwise take the later ones a moment after. Whenever a command has failed, all that were submitted
//! before its caller could know are refused as well.

use std::collections::VecDeque;
use std::sync::Arc;

use bytes::Bytes;
use futures_util::stream::BoxStream;
use futures_util::{FutureExt, StreamExt};
use openraft::error::{ClientWriteError, Fatal};
use openraft::raft::WriteResult;
use parking_lot::Mutex;
use tokio::sync::Notify;

use super::error::ProposeError;
use super::machine::Failure;
use super::types::{Command, Raft, Types};
use super::{COMMAND_BYTES_MAX, STOPPED, reason};

/// So many commands are handed over at once.
const BATCH_COMMANDS_MAX: usize = 512;

/// A batch is full when its commands have so many bytes.
const BATCH_BYTES_MAX: usize = 1024 * 1024;

/// So many commands may be without an answer.
pub(super) const OUTSTANDING_COMMANDS_MAX: usize = 64 * 1024;

/// The commands without an answer may have so many bytes.
pub(super) const OUTSTANDING_BYTES_MAX: usize = 64 * 1024 * 1024;

const _: () = assert!(COMMAND_BYTES_MAX <= OUTSTANDING_BYTES_MAX);

/// What becomes of a command: its index and answer.
type Outcome = Result<(u64, Bytes), ProposeError>;

/// The commands that were submitted, in order.
pub(super) struct Submissions {
    state: Mutex<State>,
    wake: Notify,
    failure: Failure,
}

#[derive(Default)]
struct State {
    waiting: VecDeque<Submission>,
    outstanding_commands: usize,
    outstanding_bytes: usize,
    has_ended: bool,
}

struct Submission {
    command: Bytes,
    done: Done,
}

impl Submissions {
    pub(super) fn new(failure: Failure) -> Arc<Self> {
        Arc::new(Self { state: Mutex::default(), wake: Notify::new(), failure })
    }

    /// Takes a command, or tells `done` at once why not.
    pub(super) fn submit(self: &Arc<Self>, command: Bytes, done: impl FnOnce(Outcome) + Send + 'static) {
        let refusal = {
            let state = &mut *self.state.lock();
            let (bytes, limit) = (command.len(), COMMAND_BYTES_MAX);
            if bytes > limit {
                ProposeError::TooLarge { bytes, limit }
            } else if state.has_ended {
                self.stopped()
            } else if state.outstanding_commands == OUTSTANDING_COMMANDS_MAX
                || state.outstanding_bytes + bytes > OUTSTANDING_BYTES_MAX
            {
                ProposeError::Full
            } else {
                state.outstanding_commands += 1;
                state.outstanding_bytes += bytes;
                let done = Done { tell: Some(Box::new(done)), bytes, submissions: Arc::clone(self) };
                state.waiting.push_back(Submission { command, done });
                self.wake.notify_one();
                return;
            }
        };
        done(Err(refusal));
    }

    /// Takes the commands of the next batch; none where nothing waits.
    fn next_batch(&self) -> (Vec<Command>, VecDeque<Done>) {
        let state = &mut *self.state.lock();
        let (mut commands, mut dones, mut bytes) = (Vec::new(), VecDeque::new(), 0);
        while commands.len() < BATCH_COMMANDS_MAX && bytes < BATCH_BYTES_MAX {
            let Some(Submission { command, done }) = state.waiting.pop_front() else { break };
            bytes += command.len();
            commands.push(Command(command));
            dones.push_back(done);
        }
        (commands, dones)
    }

    fn take_waiting(&self) -> VecDeque<Submission> {
        std::mem::take(&mut self.state.lock().waiting)
    }

    fn stopped(&self) -> ProposeError {
        ProposeError::Stopped(self.failure.reason().unwrap_or(STOPPED).to_owned())
    }
}

/// Tells the caller once, also when it is dropped.
struct Done {
    tell: Option<Box<dyn FnOnce(Outcome) + Send>>,
    bytes: usize,
    submissions: Arc<Submissions>,
}

impl Done {
    fn tell(mut self, outcome: Outcome) {
        self.finish(outcome);
    }

    fn finish(&mut self, outcome: Outcome) {
        let Some(tell) = self.tell.take() else { return };
        {
            let state = &mut *self.submissions.state.lock();
            state.outstanding_commands -= 1;
            state.outstanding_bytes -= self.bytes;
        }
        tell(outcome);
    }
}

impl Drop for Done {
    fn drop(&mut self) {
        let stopped = self.submissions.stopped();
        self.finish(Err(stopped));
    }
}

/// An answer of openraft; `None` when no more will come.
type Answer = Option<Result<WriteResult<Types>, Fatal<Types>>>;

/// A batch that openraft has.
struct InFlight {
    answers: BoxStream<'static, Result<WriteResult<Types>, Fatal<Types>>>,
    /// The next answer, where it was looked at.
    next: Option<Answer>,
    dones: VecDeque<Done>,
}

/// Hands commands to openraft, and answers to their callers.
pub(super) struct Submitter {
    raft: Raft,
    in_flight: VecDeque<InFlight>,
    submissions: Arc<Submissions>,
    _end: End,
}

impl Submitter {
    pub(super) fn new(raft: Raft, submissions: Arc<Submissions>) -> Self {
        let end = End(Arc::clone(&submissions));
        Self { raft, in_flight: VecDeque::new(), submissions, _end: end }
    }

    /// Ends with the group. Who is not told by then is told that it has stopped.
    pub(super) async fn run(mut self) {
        let submissions = Arc::clone(&self.submissions);
        loop {
            tokio::select! {
                biased;
                answer = next_answer(&mut self.in_flight) => self.answer(answer),
                () = submissions.wake.notified() => {
                    if let Err(fatal) = self.send_waiting().await {
                        tracing::debug!(error = %fatal, "submissions end with their group");
                        return;
                    }
                }
            }
        }
    }

    /// Sends all that waits, batch by batch.
    async fn send_waiting(&mut self) -> Result<(), Fatal<Types>> {
        loop {
            let (commands, dones) = self.submissions.next_batch();
            if commands.is_empty() {
                return Ok(());
            }
            let mut answers = self.raft.client_write_many(commands).await?;
            // When this comes back, the batch was taken, or its refusal is there.
            self.raft.with_raft_state(|_| ()).await?;
            match answers.next().now_or_never() {
                Some(Some(Ok(Err(error)))) => self.refuse(dones, &error),
                next => self.in_flight.push_back(InFlight { answers, next, dones }),
            }
            // Who waits for an answer is not to wait for others to be sent.
            while let Some(answer) = next_answer(&mut self.in_flight).now_or_never() {
                self.answer(answer);
            }
        }
    }

    /// Takes the next answer to the oldest batch; `None` when nothing more will come.
    fn answer(&mut self, answer: Answer) {
        let done = self.in_flight.front_mut().and_then(|oldest| oldest.dones.pop_front());
        if self.in_flight.front().is_some_and(|oldest| oldest.dones.is_empty()) || answer.is_none() {
            self.in_flight.pop_front();
        }
        let Some(done) = done else { return };
        match answer {
            Some(Ok(Ok(response))) => done.tell(Ok((response.log_id.index(), response.response))),
            Some(Ok(Err(error))) => self.refuse([done], &error),
            Some(Err(fatal)) => {
                done.tell(Err(ProposeError::Stopped(reason(&self.submissions.failure, &fatal))));
            }
            None => drop(done),
        }
    }

    /// Tells these callers, and then those whose commands wait: they were submitted before anybody knew.
    fn refuse(&self, dones: impl IntoIterator<Item = Done>, error: &ClientWriteError<Types>) {
        let waiting = self.submissions.take_waiting();
        let error = ProposeError::of(error);
        let leader = match &error {
            ProposeError::NotLeader { leader } | ProposeError::Unknown { leader } => *leader,
            ProposeError::TooLarge { .. } | ProposeError::Full | ProposeError::Stopped(_) => None,
        };
        for done in dones {
            done.tell(Err(error.clone()));
        }
        for Submission { done, .. } in waiting {
            done.tell(Err(ProposeError::NotLeader { leader }));
        }
    }
}

/// The next answer to the oldest batch; waits for ever where there is none.
async fn next_answer(in_flight: &mut VecDeque<InFlight>) -> Answer {
    match in_flight.front_mut() {
        Some(oldest) => match oldest.next.take() {
            Some(answer) => answer,
            None => oldest.answers.next().await,
        },
        None => std::future::pending().await,
    }
}

/// Tells those who wait that there will be no answer.
struct End(Arc<Submissions>);

impl Drop for End {
    fn drop(&mut self) {
        self.0.state.lock().has_ended = true;
        drop(self.0.take_waiting());
    }
}
