//! What the parts of a registry share: the cluster as this node sees it, and what goes out.

use std::collections::{BTreeMap, VecDeque};

use flotilla_mqtt::session::ClientId;
use flotilla_state::{Incarnation, LogIndex, Member, NodeId, ShardEpoch, ShardId, ShardRing};

use crate::{Output, View, message::Message, wire::Envelope};

/// One step of a registry that is a member.
pub(crate) struct Context<'a> {
    pub(crate) me: Member,
    pub(crate) cluster: &'a Cluster,
    pub(crate) out: &'a mut Outbox,
}

impl Context<'_> {
    /// Sends to a member, which may be this one. What has ended gets nothing.
    pub(crate) fn send(&mut self, to: Member, message: Message) {
        if to == self.me {
            self.out.local.push_back(message);
        } else if self.cluster.is_live(to) {
            self.out.remote.entry(to).or_default().push_back(message);
        }
    }

    /// Sends to the registrar of a client, if there is one: the next one asks by itself.
    pub(crate) fn send_registrar(&mut self, client: &ClientId, message: Message) {
        if let Some(term) = self.cluster.term(self.cluster.shard_of(client)) {
            self.send(term.registrar, message);
        }
    }

    pub(crate) fn output(&mut self, output: Output) {
        self.out.outputs.push_back(output);
    }

    /// The term of a client's shard, if `epoch` names it: what comes from an older one is void.
    pub(crate) fn is_current(&self, client: &ClientId, from: Member, epoch: ShardEpoch) -> bool {
        let term = self.cluster.term(self.cluster.shard_of(client));
        term == Some(Term { epoch, registrar: from })
    }
}

/// A term of office: a registrar in one of its lives.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Term {
    pub(crate) epoch: ShardEpoch,
    pub(crate) registrar: Member,
}

/// The members and the placements as far as this node has read the log.
#[derive(Debug)]
pub(crate) struct Cluster {
    shards: ShardRing,
    index: LogIndex,
    members: BTreeMap<NodeId, Incarnation>,
    placements: Vec<flotilla_state::Placement>,
}

impl Cluster {
    pub(crate) fn new(shards: ShardRing) -> Self {
        Self { shards, index: LogIndex(0), members: BTreeMap::new(), placements: Vec::new() }
    }

    /// Replaces what is known; returns those who have ended since.
    pub(crate) fn update(&mut self, view: View) -> Vec<Member> {
        let before = std::mem::take(&mut self.members);
        self.members = view.members.iter().map(|member| (member.node, member.incarnation)).collect();
        self.index = view.index;
        self.placements = view.placements;
        let before = before.into_iter().map(|(node, incarnation)| Member { node, incarnation });
        before.filter(|member| !self.is_live(*member)).collect()
    }

    pub(crate) fn index(&self) -> LogIndex {
        self.index
    }

    pub(crate) fn members(&self) -> impl Iterator<Item = Member> + '_ {
        self.members.iter().map(|(&node, &incarnation)| Member { node, incarnation })
    }

    pub(crate) fn is_live(&self, member: Member) -> bool {
        self.members.get(&member.node) == Some(&member.incarnation)
    }

    fn member(&self, node: NodeId) -> Option<Member> {
        self.members.get(&node).map(|&incarnation| Member { node, incarnation })
    }

    pub(crate) fn shard_of(&self, client: &ClientId) -> ShardId {
        self.shards.shard_of(client.as_str().as_bytes())
    }

    pub(crate) fn shards(&self) -> impl Iterator<Item = ShardId> + use<> {
        (0..u16::try_from(self.placements.len()).unwrap_or(u16::MAX)).map(ShardId)
    }

    /// Who orders the claims of a shard; `None` while nobody does.
    pub(crate) fn term(&self, shard: ShardId) -> Option<Term> {
        let placement = self.placements.get(usize::from(shard.0))?;
        let registrar = self.member(*placement.nodes.first()?)?;
        Some(Term { epoch: placement.epoch, registrar })
    }
}

/// What goes out.
#[derive(Debug, Default)]
pub(crate) struct Outbox {
    /// To this node itself.
    pub(crate) local: VecDeque<Message>,
    remote: BTreeMap<Member, VecDeque<Message>>,
    outputs: VecDeque<Output>,
}

/// A batch is closed when it has this many messages...
const BATCH_MESSAGES_MAX: usize = 512;
/// ... or about this many bytes.
const BATCH_BYTES_MAX: usize = 128 << 10;

impl Outbox {
    /// Forgets what was for members that have ended.
    pub(crate) fn retain_live(&mut self, cluster: &Cluster) {
        self.remote.retain(|&member, _| cluster.is_live(member));
    }

    /// Forgets all messages.
    pub(crate) fn forget_messages(&mut self) {
        self.local.clear();
        self.remote.clear();
    }

    pub(crate) fn output(&mut self, output: Output) {
        self.outputs.push_back(output);
    }

    /// What the shell must do, then what it must send.
    pub(crate) fn poll(&mut self, view: LogIndex) -> Option<Output> {
        if let Some(output) = self.outputs.pop_front() {
            return Some(output);
        }
        let mut entry = self.remote.first_entry()?;
        let to = *entry.key();
        let queue = entry.get_mut();
        let (mut messages, mut bytes) = (Vec::new(), 0);
        while messages.len() < BATCH_MESSAGES_MAX && bytes < BATCH_BYTES_MAX {
            let Some(message) = queue.pop_front() else { break };
            bytes += message.size();
            messages.push(message);
        }
        if queue.is_empty() {
            entry.remove();
        }
        let envelope = Envelope { view, to: to.incarnation, messages };
        Some(Output::Send { to, bytes: envelope.encode() })
    }
}
