//! The state machine of one node.

use std::collections::{BTreeMap, VecDeque};

use bytes::Bytes;
use flotilla_mqtt::{Timestamp, session::ClientId};
use flotilla_state::{ConnectionEpoch, LogIndex, Member, ShardRing};

use crate::{
    Limits, MessageError, Output, Refusal, RequestId, Stats, Tenure, View,
    context::{Cluster, Context, Outbox},
    message::Message,
    parts::{Parts, Told},
    wire::Envelope,
};

/// One node's part in deciding who serves which client. See the [crate].
#[derive(Debug)]
pub struct Registry {
    held_bytes_max: usize,
    /// This node in its present life, if it is admitted.
    me: Option<Member>,
    cluster: Cluster,
    /// How far this node has read the log: nothing up to there has changed the view that it has.
    read: LogIndex,
    /// To whom this node has reported, by shard.
    reported: Told,
    parts: Parts,
    held: BTreeMap<Member, Held>,
    out: Outbox,
}

/// Messages of a member that has read more of the log than this node.
#[derive(Debug, Default)]
struct Held {
    envelopes: VecDeque<(LogIndex, usize, Vec<Message>)>,
    bytes: usize,
}

impl Registry {
    /// A registry that is not a member yet.
    #[must_use]
    pub fn new(limits: Limits, shards: ShardRing) -> Self {
        Self {
            held_bytes_max: limits.held_bytes_max,
            me: None,
            cluster: Cluster::new(shards),
            read: LogIndex(0),
            reported: Told::new(),
            parts: Parts::new(limits),
            held: BTreeMap::new(),
            out: Outbox::default(),
        }
    }

    /// This node has been admitted, under a new incarnation. What it knew as registrar is void; connections that have not
    /// ended yet are registered anew. It begins with the view that has it among the members, which may have come already.
    pub fn handle_admitted(&mut self, me: Member) {
        self.handle_fenced();
        self.me = Some(me);
        self.begin_view(&[]);
    }

    /// The lease is lost: waiting claims are refused, and nothing is answered until the next admission. The shell ends all
    /// connections, and releases them.
    pub fn handle_fenced(&mut self) {
        self.me = None;
        self.out.forget_messages();
        self.held.clear();
        self.reported.clear();
        let out = &mut self.out;
        self.parts.handle_fenced(|output| out.output(output));
    }

    /// The members or the placements have changed. To be called after each entry that changes them: then all nodes see the
    /// same things in the same order.
    pub fn handle_view(&mut self, view: View) {
        let was_live = self.is_active();
        self.read = self.read.max(view.index);
        let ended = self.cluster.update(view);
        if was_live && !self.is_active() {
            // Declared down before the lease was known to be lost.
            return self.handle_fenced();
        }
        self.begin_view(&ended);
    }

    /// This node has read the log up to `index`, and the views up to there have come. Only what [`Registry::is_behind`] waits for
    /// needs it: another node may have made its view of a snapshot, which is of a later entry than the last that changed it.
    pub fn handle_read(&mut self, index: LogIndex) {
        self.read = self.read.max(index);
        if self.is_active() {
            self.release_held();
        }
    }

    /// Whether messages of members wait that had read more of the log than this node.
    #[must_use]
    pub fn is_behind(&self) -> bool {
        !self.held.is_empty()
    }

    /// A CONNECT: makes this node the only one that serves `client`. The answer is [`Output::Granted`] or
    /// [`Output::Refused`].
    pub fn claim(&mut self, now: Timestamp, request: RequestId, client: &ClientId) {
        if !self.is_active() {
            return self.out.output(Output::Refused { request, refusal: Refusal::Unavailable });
        }
        self.act(|parts, context| {
            parts.claimant.claim(context, &mut parts.owner, now, request, client);
        });
    }

    /// The client of a CONNECT that waits is gone. No answer comes.
    pub fn cancel(&mut self, client: &ClientId, request: RequestId) {
        self.act(|parts, context| parts.claimant.cancel(context, client, request));
    }

    /// The connection of this client has ended here, or never began. Ignored if a later one has taken its place, and while it
    /// is being closed.
    pub fn release(&mut self, client: &ClientId, tenure: Tenure) {
        if self.is_active() {
            self.act(|parts, context| parts.owner.release(context, client, tenure));
        } else {
            self.parts.owner.forget(client, tenure);
        }
    }

    /// The answer to [`Output::Close`]: no connection of the client that is older than `epoch` is here any more.
    pub fn handle_closed(&mut self, client: &ClientId, epoch: ConnectionEpoch) {
        self.act(|parts, context| parts.owner.handle_closed(context, client, epoch));
    }

    /// Bytes of an [`Output::Send`] of another member.
    ///
    /// # Errors
    /// They do not decode, or cannot be kept until this node has read as much of the log as the sender.
    pub fn handle_message(&mut self, from: Member, bytes: &Bytes) -> Result<(), MessageError> {
        let envelope = Envelope::decode(bytes.clone())?;
        if self.me.is_none_or(|me| me.incarnation != envelope.to) {
            return Ok(());
        }
        let is_held = self.held.contains_key(&from);
        if is_held || envelope.view > self.read || !self.is_active() {
            let limit = self.held_bytes_max;
            let held = self.held.entry(from).or_default();
            if held.bytes + bytes.len() > limit {
                return Err(MessageError::TooFarBehind { limit });
            }
            held.bytes += bytes.len();
            held.envelopes.push_back((envelope.view, bytes.len(), envelope.messages));
            return Ok(());
        }
        self.take(from, envelope.messages);
        Ok(())
    }

    /// When [`Registry::handle_deadline`] wants to run.
    #[must_use]
    pub fn next_deadline(&self) -> Option<Timestamp> {
        self.parts.claimant.next_deadline()
    }

    /// A claim has waited too long.
    pub fn handle_deadline(&mut self, now: Timestamp) {
        self.act(|parts, context| parts.claimant.handle_deadline(context, now));
    }

    /// What must happen next. Asked only after a burst of inputs, so that what goes to one member goes together.
    pub fn poll_output(&mut self) -> Option<Output> {
        self.out.poll(self.cluster.index())
    }

    /// What it holds.
    #[must_use]
    pub fn stats(&self) -> Stats {
        let Parts { claimant, owner, registrar } = &self.parts;
        Stats {
            owned: owner.len(),
            pending: claimant.len(),
            records: registrar.records_len(),
            shards_collecting: registrar.collecting_len(),
            held_bytes: self.held.values().map(|held| held.bytes).sum(),
        }
    }

    /// Whether this node is a member as far as it knows.
    #[must_use]
    pub fn is_active(&self) -> bool {
        self.me.is_some_and(|me| self.cluster.is_live(me))
    }

    /// Does something as a member, and what follows from it within this node.
    fn act(&mut self, act: impl FnOnce(&mut Parts, &mut Context<'_>)) {
        let Some(me) = self.me.filter(|me| self.cluster.is_live(*me)) else { return };
        let mut context = Context { me, cluster: &self.cluster, out: &mut self.out };
        act(&mut self.parts, &mut context);
        while let Some(message) = context.out.local.pop_front() {
            self.parts.handle(&mut context, me, message);
        }
    }

    fn take(&mut self, from: Member, messages: Vec<Message>) {
        if self.cluster.is_live(from) {
            for message in messages {
                self.act(|parts, context| parts.handle(context, from, message));
            }
        }
    }

    /// Acts on the view that has just come, then on the messages that waited for it.
    fn begin_view(&mut self, ended: &[Member]) {
        if !self.is_active() {
            return;
        }
        self.out.retain_live(&self.cluster);
        let mut reported = std::mem::take(&mut self.reported);
        self.act(|parts, context| {
            parts.handle_ended(context, ended);
            reported = parts.report(context, &reported);
        });
        self.reported = reported;
        self.release_held();
    }

    fn release_held(&mut self) {
        let index = self.read;
        let members: Vec<Member> = self.held.keys().copied().collect();
        for member in members {
            let Some(mut held) = self.held.remove(&member) else { continue };
            while let Some((view, bytes, messages)) = held.envelopes.pop_front() {
                if view > index {
                    held.envelopes.push_front((view, bytes, messages));
                    break;
                }
                held.bytes -= bytes;
                self.take(member, messages);
            }
            if !held.envelopes.is_empty() {
                self.held.insert(member, held);
            }
        }
    }
}
