//! Being a member: asks for admission, keeps the lease alive, and fences the node when it cannot.

use std::{
    collections::BTreeSet,
    sync::Arc,
    time::{Duration, Instant},
};

use flotilla_rpc::membership::{self as rpc, join_reply, lease_reply};
use flotilla_state::{Incarnation, Member, NodeId};
use tokio::time::{sleep, timeout};
use tonic::Status;
use tracing::{debug, error, info, warn};

use super::shared::{Departure, Shared, client};
use crate::{
    clock,
    group::Role,
    peers::{Class, PeerChannel},
};

/// Runs until the node stops.
pub(crate) async fn run(shared: Arc<Shared>) {
    let stop = shared.stop.clone();
    stop.run_until_cancelled(live(&shared)).await;
    // Whatever happens next, this node does not act as a member any more.
    shared.fence();
}

async fn live(shared: &Arc<Shared>) {
    loop {
        let member = shared.seek_admission().await;
        shared.keep_lease(member).await;
        shared.fence();
    }
}

/// Why a node is not admitted.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
enum Denial {
    /// It may be admitted the next time.
    Yet(String),
    /// An operator has to change something.
    Refused(String),
}

/// What became of a heartbeat.
enum Renewal {
    /// Answered; the promise counts from this time.
    Held(Instant),
    Ended,
    Unanswered,
}

impl Shared {
    /// Ends the life of this node, if it leads one.
    pub(super) fn fence(&self) {
        self.lease.end();
        self.local.update(|bound| bound.incarnation = None);
        if self.me.send_replace(None).is_some() {
            self.observer.lease_lost();
        }
    }

    /// Asks for admission until it is given.
    async fn seek_admission(self: &Arc<Self>) -> Member {
        let mut said = BTreeSet::new();
        loop {
            self.may_join().await;
            match self.ask_to_join().await {
                Ok(member) => return member,
                // Each reason is told once: they may come in turns, and this may take long.
                Err(denial) if said.len() < DENIALS_SAID_MAX && !said.contains(&denial) => {
                    match &denial {
                        Denial::Yet(reason) => info!(%reason, "not admitted to the cluster yet"),
                        Denial::Refused(reason) => error!(%reason, "the cluster does not admit this node"),
                    }
                    said.insert(denial);
                }
                Err(_) => {}
            }
            sleep(self.options.retry).await;
        }
    }

    /// Waits until the node knows which cluster it belongs to, and for ever once it has left, was removed, or cannot follow the
    /// log any more.
    async fn may_join(&self) {
        let cannot_follow = || self.group.status().role == Role::Stopped;
        while *self.departure.borrow() != Departure::No
            || self.local.cluster_id().is_none()
            || cannot_follow()
        {
            sleep((self.options.retry / 2).min(Duration::from_millis(50))).await;
        }
    }

    async fn ask_to_join(self: &Arc<Self>) -> Result<Member, Denial> {
        let mut reason = "no leader is known".to_owned();
        for _ in 0..HOPS_MAX {
            let outcome = match self.way_to_leader(Class::Admin) {
                None => break,
                Some(Way::Here) => Arc::clone(self).admit(self.node_info()).await,
                Some(Way::There(channel)) => {
                    let request = rpc::JoinRequest { node: Some(self.node_info().encode()) };
                    let mut client = client(channel);
                    let call = timeout(self.timing.node_down_after * 2, client.join(request));
                    match flatten(call.await) {
                        Ok(reply) => {
                            let outcome = reply.into_inner().outcome;
                            outcome.ok_or_else(|| Denial::Yet("an empty answer".to_owned()))?
                        }
                        Err(status) => {
                            self.doubt_way();
                            return Err(Denial::Yet(status.message().to_owned()));
                        }
                    }
                }
            };
            match outcome {
                join_reply::Outcome::Admitted(incarnation) => {
                    let incarnation = Incarnation(incarnation);
                    return Ok(Member { node: self.local.node(), incarnation });
                }
                join_reply::Outcome::NotLeader(other) => {
                    reason = "the leader is not known".to_owned();
                    if !self.follow(other) {
                        break;
                    }
                }
                join_reply::Outcome::Wait(why) => return Err(Denial::Yet(why)),
                join_reply::Outcome::Refused(why) => return Err(Denial::Refused(why)),
            }
        }
        Err(Denial::Yet(reason))
    }

    /// Keeps the lease until it lapses, or the life of the node ends otherwise.
    async fn keep_lease(self: &Arc<Self>, member: Member) {
        // Nothing is promised before the first answer to a heartbeat, and nothing is admitted before this node itself has seen
        // its admission in the log.
        let mut admitted = false;
        let began = clock::now();
        loop {
            let beat = clock::now();
            match self.heartbeat(member, admitted).await {
                Renewal::Held(from) => {
                    let (now, until) = (clock::now(), from + self.timing.node_down_after);
                    if admitted && !self.lease.extend(now, until) {
                        debug!(member = %member, "the lease has lapsed");
                        return;
                    }
                    if !admitted && until > now && self.state.read().is_live(member) {
                        admitted = true;
                        self.lease.begin(until);
                        self.begin_life(member);
                    }
                }
                Renewal::Ended => {
                    debug!(member = %member, "this life of the node has ended");
                    return;
                }
                Renewal::Unanswered if admitted => {}
                Renewal::Unanswered if clock::since(began) > self.timing.node_down_after => return,
                Renewal::Unanswered => {}
            }
            let pause = if admitted { self.timing.interval() } else { self.timing.interval() / 4 };
            if !self.wait_within_life(member, admitted, pause.saturating_sub(clock::since(beat))).await {
                return;
            }
        }
    }

    fn begin_life(&self, member: Member) {
        info!(%member, "this node is admitted to the cluster");
        self.local.update(|bound| bound.incarnation = Some(member.incarnation));
        self.me.send_replace(Some(member));
        self.observer.admitted(member);
    }

    /// Waits for the next heartbeat; false as soon as the lease has lapsed, or this node has applied the end of its life.
    async fn wait_within_life(&self, member: Member, admitted: bool, pause: Duration) -> bool {
        let next = clock::now() + pause;
        let mut progress = self.progress.clone();
        let mut departure = self.departure.subscribe();
        loop {
            let now = clock::now();
            progress.borrow_and_update();
            if *departure.borrow_and_update() == Departure::Done {
                return false;
            }
            if admitted {
                let is_live = self.state.read().is_live(member);
                if !is_live || !self.lease.is_valid(now) {
                    let why =
                        if is_live { "no leader answers its heartbeats" } else { "the cluster has ended it" };
                    warn!(member = %member, why, "this life of the node is over");
                    if progress.borrow().removed == Some(member) {
                        info!(
                            "this node belongs to the cluster no more; it asks for admission when it starts again"
                        );
                        self.departure.send_replace(Departure::Done);
                    }
                    return false;
                }
            }
            if now >= next {
                return true;
            }
            let lease = if admitted { self.lease.remaining(now) } else { pause };
            let wait = next.saturating_duration_since(now).min(lease).max(Duration::from_millis(1));
            tokio::select! {
                () = sleep(wait) => {}
                changed = progress.changed(), if admitted => {
                    if changed.is_err() {
                        error!("the Raft group of this node has stopped, so it is no member any more");
                        return false;
                    }
                }
                _ = departure.changed() => {}
            }
        }
    }

    async fn heartbeat(&self, member: Member, admitted: bool) -> Renewal {
        let status = self.group.status();
        if status.role == Role::Stopped {
            // A node that applies nothing more must not stay a member.
            return Renewal::Unanswered;
        }
        let Some(leader) = status.leader.map(NodeId) else { return Renewal::Unanswered };
        if leader == self.local.node() {
            // A quorum's confirmation of the leader is what keeps its own lease.
            let sent = self.quorum_age(&status).and_then(|age| clock::now().checked_sub(age));
            return match (self.renew(member, &self.options.advertise), sent) {
                (lease_reply::Outcome::Held(_), Some(sent)) => Renewal::Held(sent),
                (lease_reply::Outcome::Ended(_), _) => Renewal::Ended,
                _ => Renewal::Unanswered,
            };
        }
        let Some(channel) = self.peers.channel(leader, Class::Raft) else { return Renewal::Unanswered };
        let address = self.options.advertise.clone();
        let request = rpc::LeaseRequest { node: member.node.0, incarnation: member.incarnation.0, address };
        let sent = clock::now();
        // Not longer than the lease, so that its end is noticed in time.
        let left = if admitted { self.lease.remaining(sent) } else { self.timing.node_down_after };
        let limit = (self.timing.interval() * 2).min(left);
        let outcome = match flatten(timeout(limit, client(channel).lease(request)).await) {
            Ok(reply) => reply.into_inner().outcome,
            Err(status) => {
                debug!(leader = %leader, reason = status.message(), "a heartbeat was not answered");
                self.peers.reopen(leader);
                None
            }
        };
        match outcome {
            Some(lease_reply::Outcome::Held(_)) => {
                self.peers.heard(leader);
                Renewal::Held(sent)
            }
            Some(lease_reply::Outcome::Ended(_)) => Renewal::Ended,
            Some(lease_reply::Outcome::NotLeader(_) | lease_reply::Outcome::Uncertain(_)) | None => {
                Renewal::Unanswered
            }
        }
    }
}

/// Where the leader may be.
pub(super) enum Way {
    /// It is this node.
    Here,
    There(PeerChannel),
}

impl Shared {
    /// The way to the leader, or to somebody who may know it.
    pub(super) fn way_to_leader(&self, class: Class) -> Option<Way> {
        if let Some(leader) = self.group.status().leader.map(NodeId) {
            if leader == self.local.node() {
                return Some(Way::Here);
            }
            if let Some(channel) = self.peers.channel(leader, class) {
                return Some(Way::There(channel));
            }
        }
        let hint = self.hint.lock().clone()?;
        Some(Way::There(self.peers.channel_to(&hint)))
    }

    /// The way to the leader has failed: somebody else may know better by the next time, and a new connection may do better.
    pub(super) fn doubt_way(&self) {
        if let Some(leader) = self.group.status().leader {
            self.peers.reopen(NodeId(leader));
        }
        if let Some(address) = self.hint.lock().take() {
            self.peers.reopen_to(&address);
        }
    }

    /// Goes on to the leader that another node has named; false when it has named none.
    pub(super) fn follow(&self, other: rpc::NotLeader) -> bool {
        if other.leader == 0 || NodeId(other.leader) == self.local.node() {
            return false;
        }
        self.peers.told_by_another(NodeId(other.leader), &other.leader_address);
        *self.hint.lock() = Some(other.leader_address);
        true
    }
}

/// One error for both: no answer in time, and an answer that is an error.
pub(super) fn flatten<T>(
    outcome: Result<Result<T, Status>, tokio::time::error::Elapsed>,
) -> Result<T, Status> {
    outcome.unwrap_or_else(|_| Err(Status::deadline_exceeded("no answer in time")))
}

/// So many reasons for not being admitted are told.
const DENIALS_SAID_MAX: usize = 16;

/// So many nodes are asked in a row for the leader.
const HOPS_MAX: usize = 3;
