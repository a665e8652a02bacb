//! What this node sends to the others.

use std::{
    sync::{
        Arc, OnceLock,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};

use bytes::Bytes;
use flotilla_lane::{Batch, BatchWriter, CONTROL, Frame, LaneId};
use flotilla_mqtt::{QoS, ReasonCode, session::ClientId};
use flotilla_raft::{
    lanes::{Lanes, Sent, Untaken},
    meta::Lease,
};
use flotilla_state::{Member, NodeId};
use parking_lot::{RwLock, RwLockReadGuard, RwLockWriteGuard};

use super::{Completion, inbox::Events};
use crate::{node::Node, worker::Event};

/// The lanes to the other nodes, and who they are.
#[derive(Debug)]
pub(super) struct Links {
    lease: Lease,
    lanes: OnceLock<Lanes<Events>>,
    node: OnceLock<Arc<Node>>,
    /// The other nodes in their present lives.
    members: RwLock<Vec<Member>>,
    /// Whether too much waits for any of them: nearly always it does not, and then nobody has to look further.
    any_congested: AtomicBool,
    /// See [`Links::receive`].
    door: RwLock<()>,
}

/// What a control frame is for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(u8)]
pub(super) enum Control {
    /// For the registry.
    Registry = 1,
    /// What a node says of itself.
    Report = 4,
    /// About a shard; in one of the lanes of messages.
    Shard = 5,
}

impl Control {
    pub(super) fn from_u8(kind: u8) -> Option<Self> {
        [Self::Registry, Self::Report, Self::Shard].into_iter().find(|control| *control as u8 == kind)
    }
}

impl Links {
    pub(super) fn new(lease: Lease) -> Self {
        Self {
            lease,
            lanes: OnceLock::new(),
            node: OnceLock::new(),
            members: RwLock::default(),
            any_congested: AtomicBool::new(false),
            door: RwLock::new(()),
        }
    }

    /// Held while a batch of another node is worked off.
    pub(super) fn receive(&self) -> RwLockReadGuard<'_, ()> {
        self.door.read()
    }

    /// Held while the parts of this node are told of a life that begins, its own or another's. The lanes are opened first,
    /// so that whatever a part sends goes out, and nothing is taken in until all parts know from whom: they pass over what
    /// members send that they have not heard of, and nobody would send it again.
    pub(super) fn begin_life(&self) -> RwLockWriteGuard<'_, ()> {
        self.door.write()
    }

    /// Gives it what could not be made before it.
    pub(super) fn connect(&self, lanes: Lanes<Events>, node: Arc<Node>) {
        self.lanes.set(lanes).expect("it is connected once");
        self.node.set(node).expect("it is connected once");
    }

    /// This node cannot go on in its present life: it disconnects its clients and asks for admission in a new one.
    pub(super) fn give_up_life(&self) {
        self.lease.give_up();
    }

    /// The other nodes in their present lives.
    pub(super) fn members(&self) -> Vec<Member> {
        self.members.read().clone()
    }

    pub(super) fn member_of(&self, node: NodeId) -> Option<Member> {
        self.members.read().iter().find(|member| member.node == node).copied()
    }

    /// A node begins a life.
    pub(super) fn joined(&self, member: Member) {
        let mut members = self.members.write();
        members.retain(|other| other.node != member.node);
        members.push(member);
        drop(members);
        if let Some(lanes) = self.lanes.get() {
            lanes.member_joined(member);
        }
    }

    /// The life of a node has ended.
    pub(super) fn ended(&self, member: Member) {
        self.members.write().retain(|other| *other != member);
        if let Some(lanes) = self.lanes.get() {
            lanes.member_ended(member).into_iter().for_each(|untaken| self.recover(untaken));
        }
        self.let_publishers_go_on();
    }

    /// Exactly these live.
    pub(super) fn replace(&self, live: Vec<Member>) {
        (*self.members.write()).clone_from(&live);
        if let Some(lanes) = self.lanes.get() {
            lanes.set_members(live).into_iter().for_each(|(_, untaken)| self.recover(untaken));
        }
        self.let_publishers_go_on();
    }

    /// Whoever waited for a node that has ended waits for nobody: it is not going to say that it is no longer congested.
    fn let_publishers_go_on(&self) {
        self.note_decongested();
        if let Some(node) = self.node.get() {
            node.note_decongested();
        }
    }

    /// This node begins a life. What its last one has not sent is void.
    pub(super) fn admitted(&self, me: Member) {
        if let Some(lanes) = self.lanes.get() {
            drop(lanes.admitted(me));
        }
    }

    /// This node's life has ended.
    pub(super) fn fenced(&self) {
        if let Some(lanes) = self.lanes.get() {
            drop(lanes.fenced());
        }
    }

    /// Whether there is a member that this node has not reached for `time`.
    pub(super) fn is_any_out_of_reach(&self, time: Duration) -> bool {
        let lanes = self.lanes.get();
        lanes.is_some_and(|lanes| lanes.broken_since().iter().any(|(_, since)| since.elapsed() >= time))
    }

    /// Whether the other nodes have everything that was sent to them.
    pub(super) fn is_all_sent(&self) -> bool {
        self.lanes.get().is_none_or(|lanes| lanes.queued_bytes().iter().all(|(_, bytes)| *bytes == 0))
    }

    pub(super) fn is_congested(&self, to: NodeId) -> bool {
        if !self.any_congested.load(Ordering::Relaxed) {
            return false;
        }
        let lanes = self.lanes.get();
        lanes.zip(self.member_of(to)).is_some_and(|(lanes, member)| lanes.is_congested(member))
    }

    /// A node that was congested is no longer.
    pub(super) fn note_decongested(&self) {
        let Some(lanes) = self.lanes.get() else { return };
        let any = self.members().into_iter().any(|member| lanes.is_congested(member));
        self.any_congested.store(any, Ordering::Relaxed);
    }

    /// Sends messages of clients.
    pub(super) fn forward(&self, to: NodeId, lane: LaneId, batch: Batch, completions: Vec<Completion>) {
        match self.member_of(to) {
            Some(member) => self.send(member, lane, batch, completions),
            None => self.recover(Untaken { lane, batch, done: completions }),
        }
    }

    pub(super) fn send_registry(&self, to: Member, bytes: &Bytes) {
        self.send_control(to, Control::Registry, bytes);
    }

    pub(super) fn send_control(&self, to: Member, control: Control, bytes: &[u8]) {
        self.send_frame(to, CONTROL, &Frame::Control { kind: control as u8, bytes });
    }

    pub(super) fn send_frame(&self, to: Member, lane: LaneId, frame: &Frame<'_>) {
        let mut writer = BatchWriter::new();
        writer.push(frame);
        if let Some(batch) = writer.take() {
            self.send(to, lane, batch, Vec::new());
        }
    }

    pub(super) fn send(&self, to: Member, lane: LaneId, batch: Batch, completions: Vec<Completion>) {
        let Some(lanes) = self.lanes.get() else { return };
        match lanes.send(to, lane, batch, completions) {
            Ok(Sent::Queued) => {}
            // Workers ask before they read on from their clients.
            Ok(Sent::Congested) => self.any_congested.store(true, Ordering::Relaxed),
            Err(untaken) => {
                // A member that lives and has not got it: nobody says that it has. The publishers' sessions end in time, and
                // they send it again where they connect next.
                if self.member_of(to.node) != Some(to) {
                    self.recover(*untaken);
                }
            }
        }
    }

    /// A node has taken what completes these.
    pub(super) fn complete(&self, completions: Vec<Completion>) {
        let Some(node) = self.node.get() else { return };
        let mut by_worker: Vec<Vec<Completion>> = vec![Vec::new(); node.mailboxes.len()];
        for completion in completions {
            by_worker[usize::from(completion.session.worker)].push(completion);
        }
        for (mailbox, completions) in node.mailboxes.iter().zip(by_worker) {
            if !completions.is_empty() {
                mailbox.send(Event::Completed(completions, ReasonCode::Success));
            }
        }
    }

    /// A node has ended before it took a batch. Its own subscribers have ended with it, but a message for a member of a
    /// group has others that it can go to.
    fn recover(&self, untaken: Untaken<Completion>) {
        let Some(node) = self.node.get() else { return };
        for frame in untaken.batch.frames() {
            if let Frame::Group { filter, message, .. } = frame
                && message.qos > QoS::AtMostOnce
            {
                let publisher = message.publisher.and_then(ClientId::new);
                let message = message.transit(node.clock.now(), publisher.as_ref()).keep();
                node.mailboxes[0].send(Event::Redispatch(filter.into(), message));
            }
        }
        self.complete(untaken.done);
    }
}
