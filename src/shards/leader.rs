//! What the leader of a shard does beside leading its Raft group.
//!
//! It puts what the nodes want into the log, many wishes an entry, and answers them when that is applied. It hands the messages of
//! sessions out to the nodes where their clients are (`streams`), tells the cluster what the sessions want (`routes`), has wills
//! published, ends what is over, and sees to the members of its group (`members`).
//!
//! All of this is soft: whoever leads next finds what it needs in the state of the shard, and asks the nodes for the rest.

use std::{
    collections::{BTreeSet, VecDeque},
    pin::Pin,
    sync::Arc,
    time::{Duration, Instant},
};

use bytes::Bytes;
use flotilla_raft::{group::Role, meta::ProposeError as MetaError};
use flotilla_shard::{Answers, Changes, Entry, Op, Part, RetainedPage};
use flotilla_state::{Command, Member, Reply, ShardChange, ShardId};

use super::{
    Shards,
    clock::ShardClock,
    desk::{Answered, Answering, Applied, Asked, Brought},
    losses::Losses,
    members::follow_placement,
    message::{Message, Query, What},
    post::Post,
    presence::{Inquiry, Presence},
    replica::Replica,
    retained::{LookUp, PAGE_BYTES, PAGE_COUNT, Page},
    routes::RouteTeller,
    streams::Streams,
};

/// Entries that are on their way at a time: one that is written, and one that waits for that. More would only be smaller, and each
/// has its cost.
const ENTRIES_MAX: usize = 2;
/// Queries that are answered in one go: others want something of the leader too.
const QUERIES_AT_ONCE: usize = 32;
/// An entry with so many bytes of parts takes no more.
const ENTRY_BYTES: usize = 512 << 10;
/// How long a proposal to the meta group is tried before it is looked at again.
const TELL_TIMEOUT: Duration = Duration::from_secs(5);
/// The pause after a proposal that failed, and after one that was refused.
const PAUSE: Duration = Duration::from_millis(100);
const REFUSED_PAUSE: Duration = Duration::from_secs(1);

/// Leads whenever the group says that this node does, until the group stops.
pub(super) async fn run(replica: Arc<Replica>, shards: Arc<Shards>) {
    let mut status = replica.group.watch_role();
    loop {
        let (role, term) = *status.borrow_and_update();
        match role {
            Role::Leader => {
                tokio::select! {
                    () = lead(&replica, &shards, term) => {}
                    _ = status.wait_for(|status| *status != (Role::Leader, term)) => {}
                }
                replica.desk.begin(0);
                replica.state.set_leading(false);
            }
            Role::Stopped => {
                let failed = replica.group.watch().borrow().failed.clone();
                if let Some(reason) = failed {
                    shards.fail(replica.id, &reason).await;
                }
                return;
            }
            Role::Learner | Role::Follower | Role::Candidate => {
                if status.changed().await.is_err() {
                    return;
                }
            }
        }
    }
}

/// Leads in a term, until it is dropped or the group fails.
async fn lead(replica: &Arc<Replica>, shards: &Arc<Shards>, term: u64) {
    replica.state.set_leading(true);
    let clock = shards.clock(replica);
    // When an entry of this term is applied, everything before it is.
    while let Err(error) = replica.group.propose(tick_of(shards.me(), clock)).await {
        tracing::debug!(shard = replica.id.0, %error, "the leader of a shard cannot begin yet");
        tokio::time::sleep(PAUSE).await;
    }
    replica.desk.begin(term);
    let mut leader = Leader::begin(replica, shards, term, clock);
    tracing::debug!(shard = replica.id.0, term, "this node leads a shard");
    leader.tell_all();
    let mut telling: Option<Telling> = None;
    let members = follow_placement(replica, shards, term);
    tokio::pin!(members);
    loop {
        leader.work();
        if leader.has_lost {
            // A quorum has not confirmed this leader for a moment.
            tokio::time::sleep(PAUSE).await;
            leader.ask_again();
        }
        if telling.is_none()
            && let Some(change) = leader.routes.next()
        {
            telling = Some(Box::pin(tell(Arc::clone(shards), replica.id, term, change)));
        }
        let deadline = leader.next_tick();
        tokio::select! {
            () = tokio::task::yield_now(), if leader.has_more() => {}
            () = replica.desk.wake.notified() => {}
            () = replica.state.applied.notified() => {}
            () = &mut members => {}
            is_known = async { telling.as_mut().expect("it is there").await }, if telling.is_some() => {
                telling = None;
                leader.routes_told(is_known);
            }
            () = until(deadline), if deadline.is_some() => leader.tick(),
            // Its confirmation is no event, and neither is what a snapshot says.
            () = tokio::time::sleep(PAUSE), if leader.is_unsure || !leader.unknown.is_empty() => {}
        }
    }
}

/// An entry that only lets time pass.
pub(super) fn tick_of(source: Member, clock: ShardClock) -> Bytes {
    let part = Part { source, number: 0, ops: vec![Op::Tick] };
    Entry { stamp: clock.now(), retained_full: false, parts: vec![part] }.encode()
}

/// Changes of routes on their way to the meta group.
type Telling = Pin<Box<dyn Future<Output = bool> + Send>>;

/// Tells the cluster what the sessions of a shard want. Returns whether it knows that now, and this node, too; if not, some time has
/// passed.
async fn tell(shards: Arc<Shards>, shard: ShardId, term: u64, change: ShardChange) -> bool {
    let command = Command::Shard { shard, term, change };
    loop {
        match shards.meta().propose(command.clone(), Instant::now() + TELL_TIMEOUT).await {
            Ok((index, Reply::Done)) => {
                let mut meta = shards.meta().group().watch();
                return meta.wait_for(|status| status.applied >= Some(index.0)).await.is_ok();
            }
            // Somebody else leads by now, as this node will find out.
            Ok((_, reply)) => {
                tracing::debug!(shard = shard.0, ?reply, "routes of a shard were not taken");
                break;
            }
            Err(MetaError::Refused(error) | MetaError::Stopped(error)) => {
                tracing::error!(shard = shard.0, %error, "the routes of a shard cannot be told");
                break;
            }
            Err(error) => tracing::debug!(shard = shard.0, %error, "routes of a shard are not known yet"),
        }
        tokio::time::sleep(PAUSE).await;
    }
    tokio::time::sleep(REFUSED_PAUSE).await;
    false
}

async fn until(at: Option<Instant>) {
    if let Some(at) = at {
        tokio::time::sleep_until(at.into()).await;
    }
}

/// What the leader of a shard knows in a term.
struct Leader<'a> {
    replica: &'a Arc<Replica>,
    shards: &'a Arc<Shards>,
    term: u64,
    clock: ShardClock,
    streams: Streams,
    routes: RouteTeller<Answering>,
    post: Post<Answering>,
    /// What it wants done itself.
    ops: Vec<Op>,
    /// Owners of which this node knows neither that they live nor that they have ended: it is behind.
    unknown: Vec<Member>,
    entries: usize,
    /// Whether a tick is wanted, and not applied yet.
    ticking: bool,
    /// Whether queries wait because a quorum has not confirmed this leader of late.
    is_unsure: bool,
    /// What this replica had lost when it was last asked.
    losses: Losses,
    /// Whether an entry was not committed although this node leads, and how often what was lost was asked for again.
    has_lost: bool,
    round: u64,
}

impl<'a> Leader<'a> {
    fn begin(replica: &'a Arc<Replica>, shards: &'a Arc<Shards>, term: u64, clock: ShardClock) -> Self {
        let mut shard = replica.state.shard.lock();
        drop(shard.take_changes());
        let state = shards.state().read();
        // Those that have ended while nobody led.
        let owners: BTreeSet<Member> = shard.owners().collect();
        let unknown = owners.into_iter().filter(|owner| !state.is_live(*owner)).collect();
        let losses = Losses::of(&shard.stats());
        drop((state, shard));
        let leader = Self {
            replica,
            shards,
            term,
            clock,
            streams: Streams::default(),
            routes: RouteTeller::new(replica.id),
            post: Post::new(),
            ops: Vec::new(),
            unknown,
            entries: 0,
            ticking: false,
            is_unsure: false,
            losses,
            has_lost: false,
            round: 0,
        };
        leader.publish_all_wills();
        leader
    }

    /// Has all wills published that are not known to be.
    fn publish_all_wills(&self) {
        let wills = self.replica.state.shard.lock().firing_wills();
        let floor = wills.first().map(|(will, _)| *will);
        self.shards.publish_wills(self.replica.id, wills, floor, self.clock.now());
    }

    /// Does what there is to do.
    fn work(&mut self) {
        self.end_lives();
        let (parts, applied) = self.take_inbox();
        self.handle_changes();
        for applied in applied {
            self.answer(applied);
        }
        self.propose(&parts);
        self.send_letters();
        self.answer_queries();
    }

    /// Looks whether lives of owners have ended that this node did not hear of.
    fn end_lives(&mut self) {
        if self.unknown.is_empty() {
            return;
        }
        let state = self.shards.state().read();
        let ops = &mut self.ops;
        self.unknown.retain(|owner| {
            let has_ended = state.has_ended(*owner);
            ops.extend(has_ended.then_some(Op::MemberEnded { member: *owner }));
            !has_ended && !state.is_live(*owner)
        });
    }

    fn take_inbox(&mut self) -> (Vec<(Member, Brought)>, VecDeque<Applied>) {
        let mut inbox = self.replica.desk.inbox.lock();
        let applied = std::mem::take(&mut inbox.applied);
        self.entries -= applied.len();
        let mut parts = Vec::new();
        let mut bytes = 0;
        if self.entries < ENTRIES_MAX {
            while let Some((from, part)) = inbox.parts.pop_front() {
                let len = part.part().bytes().len();
                if bytes > 0 && bytes + len > ENTRY_BYTES {
                    inbox.parts.push_front((from, part));
                    break;
                }
                bytes += len;
                parts.push((from, part));
            }
        }
        self.ops.extend(inbox.ended.drain(..).map(|member| Op::MemberEnded { member }));
        self.ops.extend(inbox.wills.drain(..).map(|will| Op::WillDone { will }));
        let posted = std::mem::take(&mut inbox.posted);
        if std::mem::take(&mut inbox.posts_again) {
            self.post.again();
        }
        let (attached, joined) = (std::mem::take(&mut inbox.attached), std::mem::take(&mut inbox.joined));
        drop(inbox);
        if !posted.is_empty() {
            self.post.posted(&posted);
            self.ops.push(Op::Posted { letters: posted });
        }
        for member in joined {
            self.shards.send(member, self.lead());
            if member.node == self.shards.node() {
                // What this node was about to publish, and to send, has gone with its life.
                self.publish_all_wills();
                self.post.again();
            }
        }
        for (from, attach) in attached {
            self.streams.attach(&self.replica.state.shard.lock(), from, attach);
        }
        (parts, applied)
    }

    /// Whether there is more to do at once.
    fn has_more(&self) -> bool {
        self.streams.has_more()
            || self.post.has_more()
            || self.entries < ENTRIES_MAX
                && (!self.ops.is_empty() || !self.replica.desk.inbox.lock().parts.is_empty())
            || !self.is_unsure && !self.replica.desk.inbox.lock().queries.is_empty()
    }

    fn handle_changes(&mut self) {
        let mut shard = self.replica.state.shard.lock();
        let Changes { filters, fed, closed: _, ended, ended_publishers, wills, has_letters } =
            shard.take_changes();
        let mut known = Vec::new();
        if self.routes.is_to_compare() {
            let mut filters = Vec::new();
            shard.for_each_filter(|filter| filters.push(filter.to_owned()));
            known = self.routes.compare(&self.shards.state().read(), filters.into_iter());
        } else if !filters.is_empty() {
            let state = self.shards.state().read();
            for (filter, change) in filters {
                self.routes.change(&state, &filter, change);
            }
        }
        for session in ended {
            self.streams.end(session);
        }
        let outgoing = self.streams.pump(&mut shard, fed, (self.term, self.clock.now()), &mut self.ops);
        if has_letters {
            self.post.note_new();
        }
        let posted = self.post.known(&shard);
        let (losses, floor) = (Losses::of(&shard.stats()), shard.first_firing_will());
        drop(shard);
        known.into_iter().for_each(|answering| self.send_routed(answering));
        posted.into_iter().for_each(|answering| self.answer_when_routed(answering));
        self.shards.count_losses(losses.since(self.losses));
        self.losses = losses;
        for session in ended_publishers {
            self.shards.forget_publisher(self.replica.id, session);
        }
        for (owner, batch) in outgoing {
            self.shards.deliver(owner, self.replica.id, batch);
        }
        self.shards.publish_wills(self.replica.id, wills, floor, self.clock.now());
    }

    /// Answers some queries, while it is certain that nobody else leads: what was acknowledged elsewhere must be found.
    fn answer_queries(&mut self) {
        let queries: Vec<_> = {
            let mut inbox = self.replica.desk.inbox.lock();
            let count = inbox.queries.len().min(QUERIES_AT_ONCE);
            inbox.queries.drain(..count).collect()
        };
        if queries.is_empty() {
            self.is_unsure = false;
            return;
        }
        let is_confirmed = self.replica.is_confirmed();
        let found = queries.iter().filter(|_| is_confirmed).map(|(_, query)| self.find(query));
        let found: Vec<_> = found.collect();
        // Behind the reads: this thread may have stood still in between, and somebody else may lead by then.
        self.is_unsure = found.is_empty() || !self.replica.is_confirmed();
        if self.is_unsure {
            let mut inbox = self.replica.desk.inbox.lock();
            queries.into_iter().rev().for_each(|query| inbox.queries.push_front(query));
            return;
        }
        for ((from, _), what) in queries.into_iter().zip(found) {
            self.shards.send(from, Message { shard: self.replica.id, term: self.term, what });
        }
    }

    fn find(&self, query: &Query) -> What {
        match query {
            Query::Retained(look_up) => What::Page(self.page(look_up)),
            Query::Presence(Inquiry { id, clients }) => {
                let shard = self.replica.state.shard.lock();
                let are_present = clients.iter().map(|client| shard.session_of(client).is_some()).collect();
                What::Presence(Presence { id: *id, are_present })
            }
        }
    }

    fn page(&self, LookUp { id, filter, after }: &LookUp) -> Page {
        let now = self.clock.now();
        let limits = (PAGE_COUNT, PAGE_BYTES);
        let found = self.replica.state.shard.lock().retained(filter, after.as_deref(), limits, now);
        // Whoever asked must not wait for ever.
        let RetainedPage { messages, next } = found.unwrap_or_else(|error| {
            tracing::error!(shard = self.replica.id.0, %error, "retained messages cannot be read");
            RetainedPage::default()
        });
        Page { id: *id, now, messages, next }
    }

    /// Answers those whose parts are applied.
    fn answer(&mut self, applied: Applied) {
        let bytes = match applied.outcome {
            Ok(bytes) => bytes,
            // Who leads next is asked again, be it this node.
            Err(error) => {
                self.has_lost = true;
                self.ops.extend(applied.own);
                return tracing::debug!(shard = self.replica.id.0, %error, "an entry of a shard was not committed");
            }
        };
        if applied.own.contains(&Op::Tick) {
            self.ticking = false;
        }
        let answers = match Answers::decode(&bytes) {
            Ok(answers) => answers,
            Err(error) => return tracing::error!(%error, "a shard has given answers that do not decode"),
        };
        // The leader's own part has no number, and is the last.
        for (asked, answer) in applied.parts.into_iter().zip(answers.parts) {
            let (waits_for_letters, waits_for_routes) = (asked.waits_for_letters, asked.waits_for_routes);
            let Some(answering) = asked.answered(answer) else { continue };
            match (waits_for_letters, waits_for_routes) {
                (true, _) => self.answer_when_posted(answering),
                (false, true) => self.answer_when_routed(answering),
                (false, false) => self.send_answer(answering),
            }
        }
    }

    /// Answers when other shards know of the memberships that are written by now, and then the cluster of the routes.
    fn answer_when_posted(&mut self, answering: Answering) {
        let known = self.post.wait(&self.replica.state.shard.lock(), answering);
        known.into_iter().for_each(|answering| self.answer_when_routed(answering));
    }

    fn answer_when_routed(&mut self, answering: Answering) {
        let known = self.routes.wait(answering);
        known.into_iter().for_each(|answering| self.send_routed(answering));
    }

    /// Sends letters of the shard to others, where there are some to be sent.
    fn send_letters(&mut self) {
        if !self.post.has_more() {
            return;
        }
        let letters = self.post.read(&self.replica.state.shard.lock());
        let letters = letters.unwrap_or_else(|error| {
            tracing::error!(shard = self.replica.id.0, %error, "what a shard has lent cannot be read");
            Vec::new()
        });
        for (to, letters) in self.post.address(letters, |to| self.shards.addressee(to)) {
            self.shards.post(self.replica.id, to, letters);
        }
    }

    /// Asks the nodes for everything that was not answered.
    fn ask_again(&mut self) {
        self.has_lost = false;
        self.round += 1;
        let mut inbox = self.replica.desk.inbox.lock();
        inbox.parts.clear();
        inbox.queries.clear();
        drop(inbox);
        self.tell_all();
    }

    fn tell_all(&self) {
        self.shards.for_each_member(|member| self.shards.send(member, self.lead()));
    }

    fn lead(&self) -> Message {
        let what = What::Lead { round: self.round, now: self.clock.now() };
        Message { shard: self.replica.id, term: self.term, what }
    }

    /// What was told of routes is known now, or was refused.
    fn routes_told(&mut self, is_known: bool) {
        if !is_known {
            return self.routes.refused();
        }
        for answering in self.routes.told() {
            self.send_routed(answering);
        }
    }

    /// Answers who waited for routes, which are known to this node now.
    fn send_routed(&self, answering: Answering) {
        self.send_answer(Answering { routes_at: self.shards.routes_at(), ..answering });
    }

    fn send_answer(&self, Answering { to, what, routes_at }: Answering) {
        match what {
            Answered::Part(number, answer) => {
                let what = What::Answer { number, answer, routes_at };
                self.shards.send(to, Message { shard: self.replica.id, term: self.term, what });
            }
            Answered::Letters(from, numbers) => self.shards.tell_posted(to, from, numbers, routes_at),
        }
    }

    /// Puts parts, and what this node wants itself, into the log.
    fn propose(&mut self, parts: &[(Member, Brought)]) {
        if parts.is_empty() && self.ops.is_empty() {
            return;
        }
        let own_ops = std::mem::take(&mut self.ops);
        let source = self.shards.me();
        let own = (!own_ops.is_empty()).then(|| Part { source, number: 0, ops: own_ops.clone() }.encode());
        let encoded = parts.iter().map(|(_, part)| part.part()).chain(&own);
        let retained_full = self.shards.are_retained_full();
        let command = Entry::encode_parts(self.clock.now(), retained_full, encoded);
        let asked = parts.iter().map(|(source, brought)| Asked::new(*source, brought)).collect();
        self.entries += 1;
        let (replica, term) = (Arc::clone(self.replica), self.term);
        self.replica.group.submit(command, move |outcome| {
            let outcome = outcome.map(|(_, answers)| answers);
            replica
                .desk
                .put(term, |inbox| inbox.applied.push_back(Applied { parts: asked, own: own_ops, outcome }));
        });
    }

    /// When the next tick is due.
    fn next_tick(&self) -> Option<Instant> {
        if self.ticking {
            return None;
        }
        let due = self.replica.state.shard.lock().next_deadline()?;
        Some(Instant::now() + Duration::from_millis(due.saturating_sub(self.clock.now())))
    }

    fn tick(&mut self) {
        self.ticking = true;
        self.ops.push(Op::Tick);
    }
}
