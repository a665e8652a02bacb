//! The state machine of one node.

use std::collections::VecDeque;

use bytes::Bytes;
use flotilla_mqtt::{Timestamp, session::ClientId};
use flotilla_state::{ConnectionEpoch, LogIndex, Member, ShardEpoch, ShardRing};

use crate::{KeptWill, Limits, MessageError, Output, RequestId, Source, Stats, Tenure, View, WillId};

/// One node's part in deciding who serves which client.
#[derive(Debug)]
pub struct Registry {
    me: Option<Member>,
    sequence: u64,
    outputs: VecDeque<Output>,
}

impl Registry {
    /// A registry that is not a member yet.
    #[must_use]
    pub fn new(_limits: Limits, _shards: ShardRing) -> Self {
        Self { me: None, sequence: 0, outputs: VecDeque::new() }
    }

    /// This node has been admitted, under a new incarnation. What it knew as registrar and as keeper of wills is void; the
    /// sessions that it still has are registered anew.
    pub fn handle_admitted(&mut self, _now: Timestamp, me: Member) {
        self.me = Some(me);
    }

    /// The lease is lost: waiting claims are refused, and nothing is answered until the next admission.
    pub fn handle_fenced(&mut self) {
        self.me = None;
    }

    /// The members or the placements have changed.
    pub fn handle_view(&mut self, _now: Timestamp, _view: View) {}

    /// A CONNECT: makes this node the only one that serves `client`. The answer is [`Output::Granted`] or
    /// [`Output::Refused`].
    pub fn claim(
        &mut self,
        _now: Timestamp,
        request: RequestId,
        client: ClientId,
        _clean_start: bool,
        _will: Option<KeptWill>,
    ) {
        self.sequence += 1;
        let epoch = ConnectionEpoch { shard: ShardEpoch(0), sequence: self.sequence };
        let tenure = Tenure { epoch, turn: 0 };
        self.outputs.push_back(Output::Granted { request, client, tenure, source: Source::Here });
    }

    /// The client of a CONNECT that waits is gone.
    pub fn cancel(&mut self, _now: Timestamp, _client: &ClientId, _request: RequestId) {}

    /// The session of [`Source::Elsewhere`] has been imported.
    pub fn handle_imported(&mut self, _now: Timestamp, _client: &ClientId, _tenure: Tenure) {}

    /// The session of this client has ended here. Ignored if somebody else has taken it over since. For an imported session
    /// that was not reported by [`Registry::handle_imported`]: it could not be imported, and goes back.
    pub fn release(&mut self, _now: Timestamp, _client: &ClientId, _tenure: Tenure) {}

    /// The will of a client has changed: `None` if it was published or dropped.
    pub fn keep_will(
        &mut self,
        _now: Timestamp,
        _client: &ClientId,
        _tenure: Tenure,
        _will: Option<KeptWill>,
    ) {
    }

    /// The connection has ended and the delay of its will has begun.
    pub fn handle_will_delayed(&mut self, _now: Timestamp, _client: &ClientId, _tenure: Tenure) {}

    /// The answer to [`Output::Export`].
    pub fn handle_exported(
        &mut self,
        _now: Timestamp,
        _client: &ClientId,
        _epoch: ConnectionEpoch,
        _session: Option<Bytes>,
    ) {
    }

    /// The routes of a session that was imported under `epoch` are in force from `index` on.
    pub fn settle(&mut self, _client: &ClientId, _epoch: ConnectionEpoch, _index: LogIndex) {}

    /// At either end: the last message of a stub has been sent, or has come.
    pub fn handle_stub_ended(&mut self, _client: &ClientId, _epoch: ConnectionEpoch) {}

    /// The will has been published.
    pub fn handle_published(&mut self, _now: Timestamp, _id: WillId) {}

    /// Bytes of an [`Output::Send`] of another member.
    ///
    /// # Errors
    /// They do not decode, or cannot be kept.
    pub fn handle_message(
        &mut self,
        _now: Timestamp,
        _from: Member,
        _bytes: &Bytes,
    ) -> Result<(), MessageError> {
        Ok(())
    }

    /// When [`Registry::handle_deadline`] wants to run.
    #[must_use]
    pub fn next_deadline(&self) -> Option<Timestamp> {
        None
    }

    /// A claim has waited too long, or the delay of a will is over.
    pub fn handle_deadline(&mut self, _now: Timestamp) {}

    /// What must happen next. Asked only after a burst of inputs, so that what goes to one member goes together.
    pub fn poll_output(&mut self) -> Option<Output> {
        self.outputs.pop_front()
    }

    /// What it holds.
    #[must_use]
    pub fn stats(&self) -> Stats {
        Stats::default()
    }
}
