//! The state machine of one node.

use std::collections::{BTreeMap, BTreeSet, VecDeque};

use bytes::Bytes;
use flotilla_mqtt::{Timestamp, session::ClientId};
use flotilla_state::{ConnectionEpoch, LogIndex, Member, ShardId, ShardRing};

use crate::{
    KeptWill, Limits, MessageError, Output, Refusal, RequestId, Stats, Tenure, View, WillId,
    clients::Clients,
    context::{Cluster, Context, Outbox, Term},
    keeper::Keeper,
    message::{Message, Report, SentOrphan},
    registrar::Registrar,
    wire::Envelope,
};

/// One node's part in deciding who serves which client. See the [crate].
#[derive(Debug)]
pub struct Registry {
    held_bytes_max: usize,
    /// This node in its present life, if it is admitted.
    me: Option<Member>,
    cluster: Cluster,
    /// To whom this node has reported, by shard.
    reported: BTreeMap<ShardId, Told>,
    clients: Clients,
    keeper: Keeper,
    registrar: Registrar,
    held: BTreeMap<Member, Held>,
    out: Outbox,
}

/// Whom this node has told what it has in a shard.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Told {
    term: Option<Term>,
    keepers: Vec<Member>,
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
            reported: BTreeMap::new(),
            keeper: Keeper::new(limits.will_bytes_max),
            clients: Clients::new(limits),
            registrar: Registrar::default(),
            held: BTreeMap::new(),
            out: Outbox::default(),
        }
    }

    /// This node has been admitted, under a new incarnation. What it knew as registrar and as keeper of wills is void; the
    /// sessions that it still has are registered anew. It begins with the view that has it among the members, which may
    /// have come already.
    pub fn handle_admitted(&mut self, now: Timestamp, me: Member) {
        self.handle_fenced();
        self.me = Some(me);
        self.begin_view(now, &[]);
    }

    /// The lease is lost: waiting claims are refused, and nothing is answered until the next admission. The shell ends all
    /// connections without publishing their wills, forgets all stubs, and releases the sessions that end with their
    /// connection.
    pub fn handle_fenced(&mut self) {
        self.me = None;
        self.out.forget_messages();
        self.held.clear();
        self.reported.clear();
        self.keeper.clear();
        self.registrar.clear();
        let out = &mut self.out;
        self.clients.handle_fenced(|output| out.output(output));
    }

    /// The members or the placements have changed. To be called after each entry that changes them: then all nodes see the
    /// same things in the same order.
    pub fn handle_view(&mut self, now: Timestamp, view: View) {
        let was_live = self.is_active();
        let ended = self.cluster.update(view);
        if was_live && !self.is_active() {
            // Declared down before the lease was known to be lost.
            return self.handle_fenced();
        }
        self.begin_view(now, &ended);
    }

    /// A CONNECT: makes this node the only one that serves `client`. The answer is [`Output::Granted`] or
    /// [`Output::Refused`].
    pub fn claim(
        &mut self,
        now: Timestamp,
        request: RequestId,
        client: &ClientId,
        clean_start: bool,
        will: Option<KeptWill>,
    ) {
        if !self.is_active() {
            return self.out.output(Output::Refused { request, refusal: Refusal::Unavailable });
        }
        self.act(now, |registry, context| {
            registry.clients.claim(context, request, client, clean_start, will);
        });
    }

    /// The client of a CONNECT that waits is gone. No answer comes.
    pub fn cancel(&mut self, now: Timestamp, client: &ClientId, request: RequestId) {
        self.act(now, |registry, context| registry.clients.cancel(context, client, request));
    }

    /// The session of [`Source::Elsewhere`](crate::Source::Elsewhere) has been imported.
    pub fn handle_imported(&mut self, now: Timestamp, client: &ClientId, tenure: Tenure) {
        self.act(now, |registry, context| registry.clients.handle_imported(context, client, tenure));
    }

    /// The session of this client has ended here. Ignored if somebody else has taken it over since. For an imported session
    /// that was not reported by [`Registry::handle_imported`]: it could not be imported, and goes back.
    pub fn release(&mut self, now: Timestamp, client: &ClientId, tenure: Tenure) {
        if self.is_active() {
            self.act(now, |registry, context| registry.clients.release(context, client, tenure));
        } else {
            self.clients.forget(client, tenure);
        }
    }

    /// The will of a connected client has changed: `None` if it was published or dropped.
    pub fn keep_will(&mut self, now: Timestamp, client: &ClientId, tenure: Tenure, will: Option<KeptWill>) {
        self.act(now, |registry, context| registry.clients.keep_will(context, client, tenure, will));
    }

    /// The connection has ended, and the delay of its will has begun.
    pub fn delay_will(&mut self, now: Timestamp, client: &ClientId, tenure: Tenure) {
        self.act(now, |registry, context| registry.clients.delay_will(context, client, tenure));
    }

    /// The answer to [`Output::Export`]: the connection is closed, its will is published or dropped, and this is the
    /// session, unless it has ended.
    pub fn handle_exported(
        &mut self,
        now: Timestamp,
        client: &ClientId,
        epoch: ConnectionEpoch,
        session: Option<Bytes>,
    ) {
        self.act(now, |registry, context| {
            registry.clients.handle_exported(context, client, epoch, session);
        });
    }

    /// The routes of a session that was imported under `epoch` are in force from `index` on.
    pub fn settle(&mut self, now: Timestamp, client: &ClientId, epoch: ConnectionEpoch, index: LogIndex) {
        self.act(now, |registry, context| registry.clients.settle(context, client, epoch, index));
    }

    /// At either end: the last message of a stub has been sent, or has come.
    pub fn handle_stub_ended(&mut self, client: &ClientId, epoch: ConnectionEpoch) {
        self.clients.handle_stub_ended(client, epoch);
    }

    /// The will has been published.
    pub fn handle_published(&mut self, now: Timestamp, id: WillId) {
        self.act(now, |registry, context| registry.registrar.handle_published(context, id));
    }

    /// Bytes of an [`Output::Send`] of another member.
    ///
    /// # Errors
    /// They do not decode, or cannot be kept until this node has read as much of the log as the sender.
    pub fn handle_message(
        &mut self,
        now: Timestamp,
        from: Member,
        bytes: &Bytes,
    ) -> Result<(), MessageError> {
        let envelope = Envelope::decode(bytes.clone())?;
        if self.me.is_none_or(|me| me.incarnation != envelope.to) {
            return Ok(());
        }
        let is_held = self.held.contains_key(&from);
        if is_held || envelope.view > self.cluster.index() || !self.is_active() {
            let limit = self.held_bytes_max;
            let held = self.held.entry(from).or_default();
            if held.bytes + bytes.len() > limit {
                return Err(MessageError::TooFarBehind { limit });
            }
            held.bytes += bytes.len();
            held.envelopes.push_back((envelope.view, bytes.len(), envelope.messages));
            return Ok(());
        }
        self.take(now, from, envelope.messages);
        Ok(())
    }

    /// When [`Registry::handle_deadline`] wants to run.
    #[must_use]
    pub fn next_deadline(&self) -> Option<Timestamp> {
        [self.clients.next_deadline(), self.registrar.next_deadline()].into_iter().flatten().min()
    }

    /// A claim has waited too long, or the delay of a will is over.
    pub fn handle_deadline(&mut self, now: Timestamp) {
        self.act(now, |registry, context| {
            registry.clients.handle_deadline(context);
            registry.registrar.handle_deadline(context, registry.keeper);
        });
    }

    /// What must happen next. Asked only after a burst of inputs, so that what goes to one member goes together.
    pub fn poll_output(&mut self) -> Option<Output> {
        self.out.poll(self.cluster.index())
    }

    /// What it holds.
    #[must_use]
    pub fn stats(&self) -> Stats {
        Stats {
            owned: self.clients.owned_len(),
            pending: self.clients.pending_len(),
            stubs: self.clients.stubs_len(),
            records: self.registrar.records_len(),
            shards_collecting: self.registrar.collecting_len(),
            wills: self.keeper.len(),
            will_bytes: self.keeper.bytes(),
            wills_due: self.registrar.wills_len(),
            wills_refused: self.keeper.refused(),
            held_bytes: self.held.values().map(|held| held.bytes).sum(),
        }
    }

    /// Whether this node is a member as far as it knows.
    #[must_use]
    pub fn is_active(&self) -> bool {
        self.me.is_some_and(|me| self.cluster.is_live(me))
    }

    /// Does something as a member, and what follows from it within this node.
    fn act(&mut self, now: Timestamp, act: impl FnOnce(&mut Parts<'_>, &mut Context<'_>)) {
        let Some(me) = self.me.filter(|me| self.cluster.is_live(*me)) else { return };
        let mut context = Context { now, me, cluster: &self.cluster, out: &mut self.out };
        let mut parts =
            Parts { clients: &mut self.clients, keeper: &mut self.keeper, registrar: &mut self.registrar };
        act(&mut parts, &mut context);
        while let Some(message) = context.out.local.pop_front() {
            parts.handle(&mut context, me, message);
        }
    }

    fn take(&mut self, now: Timestamp, from: Member, messages: Vec<Message>) {
        if self.cluster.is_live(from) {
            for message in messages {
                self.act(now, |parts, context| parts.handle(context, from, message));
            }
        }
    }

    /// Acts on the view that has just come, then on the messages that waited for it.
    fn begin_view(&mut self, now: Timestamp, ended: &[Member]) {
        if !self.is_active() {
            return;
        }
        self.out.retain_live(&self.cluster);
        let reported = std::mem::take(&mut self.reported);
        let mut told = reported.clone();
        self.act(now, |parts, context| {
            parts.keeper.handle_ended(context.now, context.cluster.index(), ended);
            parts.registrar.handle_view(context, parts.keeper, ended);
            for owner in ended {
                // Before anybody hears of a claim that goes on because of this end, which decides about the will.
                parts.send_orphans(context, *owner);
            }
            parts.clients.handle_ended(context, ended);
            told = parts.report(context, &reported);
        });
        self.reported = told;
        self.release_held(now);
    }

    fn release_held(&mut self, now: Timestamp) {
        let index = self.cluster.index();
        let members: Vec<Member> = self.held.keys().copied().collect();
        for member in members {
            let Some(mut held) = self.held.remove(&member) else { continue };
            while let Some((view, bytes, messages)) = held.envelopes.pop_front() {
                if view > index {
                    held.envelopes.push_front((view, bytes, messages));
                    break;
                }
                held.bytes -= bytes;
                self.take(now, member, messages);
            }
            if !held.envelopes.is_empty() {
                self.held.insert(member, held);
            }
        }
    }
}

/// The parts that handle messages.
struct Parts<'a> {
    clients: &'a mut Clients,
    keeper: &'a mut Keeper,
    registrar: &'a mut Registrar,
}

/// So many entries go into one message of a report.
const ENTRIES_MAX: usize = 1_024;
/// Likewise for wills, which are larger.
const ORPHANS_MAX: usize = 64;

impl Parts<'_> {
    /// Tells new registrars and new keepers what they must know; returns whom it has told.
    fn report(
        &mut self,
        context: &mut Context<'_>,
        reported: &BTreeMap<ShardId, Told>,
    ) -> BTreeMap<ShardId, Told> {
        let told: BTreeMap<ShardId, Told> = context
            .cluster
            .shards()
            .map(|shard| {
                let keepers = context.cluster.keepers(shard, context.me.node);
                (shard, Told { term: context.cluster.term(shard), keepers })
            })
            .collect();
        let changed = |is_other: fn(&Told, &Told) -> bool| -> BTreeSet<ShardId> {
            let is_news = |(shard, now): &(&ShardId, &Told)| {
                reported.get(shard).is_none_or(|before| is_other(before, now))
            };
            told.iter().filter(is_news).map(|(shard, _)| *shard).collect()
        };
        let rekept = changed(|before, now| before != now);
        let reregistered = changed(|before, now| before.term != now.term);
        // A registrar gets the wills before the report, so that it has them when the report is complete.
        self.clients.move_wills(context, &rekept);
        if reregistered.is_empty() {
            return told;
        }
        let mut entries = self.clients.entries(context, &reregistered);
        for &shard in &reregistered {
            let Some(term) = told.get(&shard).and_then(|told| told.term) else { continue };
            let entries = entries.remove(&shard).unwrap_or_default();
            let orphans: Vec<SentOrphan> =
                self.keeper.orphans(context.now, context.cluster, None, |of| of == shard).collect();
            let as_of = context.cluster.index();
            let report = |entries, orphans, last| {
                let authority = self.registrar.authority(shard);
                Message::Report(Report { shard, term: term.epoch, entries, orphans, as_of, authority, last })
            };
            for entries in entries.chunks(ENTRIES_MAX) {
                context.send(term.registrar, report(entries.to_vec(), Vec::new(), false));
            }
            for orphans in orphans.chunks(ORPHANS_MAX) {
                context.send(term.registrar, report(Vec::new(), orphans.to_vec(), false));
            }
            context.send(term.registrar, report(Vec::new(), Vec::new(), true));
        }
        self.clients.claim_again(context, &reregistered);
        told
    }

    /// Tells all registrars which wills of an ended member are kept here.
    fn send_orphans(&self, context: &mut Context<'_>, owner: Member) {
        let mut shards: BTreeMap<Member, BTreeSet<ShardId>> = BTreeMap::new();
        for shard in context.cluster.shards() {
            if let Some(term) = context.cluster.term(shard) {
                shards.entry(term.registrar).or_default().insert(shard);
            }
        }
        for (registrar, shards) in shards {
            let wills: Vec<SentOrphan> = self
                .keeper
                .orphans(context.now, context.cluster, Some(owner), |shard| shards.contains(&shard))
                .collect();
            for wills in wills.chunks(ORPHANS_MAX) {
                context.send(registrar, Message::Orphans { owner, wills: wills.to_vec(), last: false });
            }
            context.send(registrar, Message::Orphans { owner, wills: Vec::new(), last: true });
        }
    }

    fn handle(&mut self, context: &mut Context<'_>, from: Member, message: Message) {
        let Self { clients, keeper, registrar } = self;
        match message {
            Message::Claim { client, term, claim } => {
                registrar.for_client(context, keeper, &client, |office, desk| {
                    office.handle_claim(desk, from, &client, term, claim);
                });
            }
            Message::Withdraw { client, claim } => {
                registrar.for_client(context, keeper, &client, |office, desk| {
                    office.handle_withdraw(desk, from, &client, claim);
                });
            }
            Message::Confirm { client, epoch, handed, clean } => {
                registrar.for_client(context, keeper, &client, |office, desk| {
                    office.handle_confirm(desk, from, &client, epoch, (handed, clean));
                });
            }
            Message::Release { client, epoch } => {
                registrar.for_client(context, keeper, &client, |office, desk| {
                    office.handle_release(desk, from, &client, epoch);
                });
            }
            Message::Register { client, epoch } => {
                registrar.for_client(context, keeper, &client, |office, desk| {
                    office.handle_register(desk, from, &client, epoch);
                });
            }
            Message::Report(report) => registrar.handle_report(context, keeper, from, report),
            Message::Orphans { owner, wills, last } => {
                registrar.handle_orphans(context, keeper, from, owner, (wills, last));
            }
            Message::Granted { client, claim, epoch, previous } => {
                clients.handle_granted(context, from, &client, claim, epoch, previous);
            }
            Message::Superseded { client, term, claim } if context.is_current(&client, from, term) => {
                clients.handle_superseded(context, &client, claim);
            }
            Message::Registered { client, term, epoch } if context.is_current(&client, from, term) => {
                clients.handle_registered(&client, epoch);
            }
            Message::Discard { client, term, epoch } if context.is_current(&client, from, term) => {
                clients.handle_discard(context, &client, epoch);
            }
            // Of a term that is over.
            Message::Superseded { .. } | Message::Registered { .. } | Message::Discard { .. } => {}
            Message::WillDone { owner, client } => keeper.forget_orphan(owner, &client),
            Message::Handover { client, epoch, discard } => {
                clients.handle_handover(context, from, &client, epoch, discard);
            }
            Message::Handed { client, epoch, part, more } => {
                clients.handle_handed(context, from, &client, epoch, part, more);
            }
            Message::Cancel { client, epoch } => clients.handle_cancel(context, &client, epoch),
            Message::Taken { client, epoch, wants_stub } => {
                clients.handle_taken(context, &client, epoch, wants_stub);
            }
            Message::Settle { client, epoch, index } => {
                clients.handle_settle(context, &client, epoch, index);
            }
            Message::Unstub { client, epoch } => clients.handle_unstub(context, &client, epoch),
            Message::Keep { client, tenure, will } => {
                keeper.handle_keep(context, from, client, tenure, will);
            }
            Message::Kept { client, tenure } => clients.handle_kept(context, from, &client, tenure),
            Message::Drop { client, tenure } => keeper.forget(from, &client, tenure),
        }
    }
}
