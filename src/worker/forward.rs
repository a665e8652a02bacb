//! Messages for other nodes.
//!
//! A worker writes them into one batch for each node and lane, and hands the batches over once per turn of the loop, as it
//! does for the other workers. The lane follows from the publisher, so what a client publishes on a topic keeps its order
//! whatever worker it is on.

use flotilla_lane::{BatchWriter, Forwarded, Frame, LaneId, Origin, Texts, lane_of};
use flotilla_mqtt::{QoS, ReasonCode, Transit, topic::TopicFilter};
use flotilla_state::{NodeId, ShardId};

use super::{Slow, Worker};
use crate::{
    cluster::{Awaited, Completion},
    router::{NodeChoice, PickHint},
    shards::MESSAGE_BYTES_MAX,
};

/// A batch for one lane to one node.
#[derive(Debug)]
pub(super) struct Outgoing {
    to: NodeId,
    lane: LaneId,
    batch: BatchWriter,
    /// What is complete when the node has taken the batch.
    completions: Vec<Completion>,
}

/// A batch for one shard.
#[derive(Debug)]
pub(super) struct Storing {
    shard: ShardId,
    batch: BatchWriter,
    /// What is complete when the shard has it.
    completions: Vec<Completion>,
}

impl Worker {
    /// Has a shard keep a message for its sessions that match, and for its groups but those of the shared subscriptions `without`;
    /// if it `retains` the message, for later ones. Returns 1 if the shard will say that it has it.
    ///
    /// # Errors
    /// It is not even sent: so much waits for the shard, or it is too large.
    pub(super) fn store(
        &mut self,
        shard: ShardId,
        message: &Transit<'_>,
        origin: Option<Origin>,
        retains: bool,
        without: Texts<'_>,
        done: Option<Completion>,
    ) -> Result<u32, ReasonCode> {
        let Some(shards) = self.node.cluster.shards() else { return Ok(0) };
        if is_too_large(message) {
            return Err(ReasonCode::PacketTooLarge);
        }
        if shards.is_congested(shard) {
            // Wills are few, and nobody sends them again.
            let is_will = matches!(done, Some(Completion { what: Awaited::Will { .. }, .. }));
            if shards.is_overrun(shard) && !is_will {
                self.metrics().dropped_forward_congested.increment();
                return Err(ReasonCode::ServerBusy);
            }
            // It goes all the same, and its publisher is not read until the shard has caught up.
            self.slow = Some(Slow::Shard(shard));
        }
        let frame = Frame::Store { origin, retains, without, message: Forwarded::new(message, self.now) };
        self.push_for_shard(shard, &frame, done);
        Ok(u32::from(done.is_some()))
    }

    /// Has the shard of a group keep a message for the group alone, which no member with a transient session can take; returns whether
    /// the group may be there.
    pub(super) fn store_for_group(&mut self, filter: &TopicFilter, message: &Transit<'_>) -> bool {
        let Some(shards) = self.node.cluster.shards().filter(|_| message.qos > QoS::AtMostOnce) else {
            return false;
        };
        let Some(shard) = shards.shard_of(filter.as_str().as_bytes()) else { return false };
        let is_wanted = self.cache.matches(message.topic, &self.node.router).shards.contains(&shard);
        if !is_wanted || shards.is_overrun(shard) || is_too_large(message) {
            return false;
        }
        let frame =
            Frame::Group { filter: filter.as_str(), tried: 0, message: Forwarded::new(message, self.now) };
        self.push_for_shard(shard, &frame, None);
        true
    }

    fn push_for_shard(&mut self, shard: ShardId, frame: &Frame<'_>, done: Option<Completion>) {
        let position = self.storing.iter().position(|storing| storing.shard == shard);
        let position = position.unwrap_or_else(|| {
            self.storing.push(Storing { shard, batch: BatchWriter::new(), completions: Vec::new() });
            self.storing.len() - 1
        });
        let storing = &mut self.storing[position];
        storing.batch.push(frame);
        storing.completions.extend(done);
        if storing.batch.is_full() {
            self.hand_over_stored(position);
        } else {
            self.wake_flusher();
        }
    }

    /// Hands the messages for shards over.
    pub(super) fn hand_over_all_stored(&mut self) {
        for position in 0..self.storing.len() {
            self.hand_over_stored(position);
        }
    }

    fn hand_over_stored(&mut self, position: usize) {
        let Storing { shard, batch, completions } = &mut self.storing[position];
        if let (Some(batch), Some(shards)) = (batch.take(), self.node.cluster.shards()) {
            shards.store(*shard, batch, std::mem::take(completions));
        }
    }

    /// Sends a message to all subscribers on another node. Returns 1 if the node will say that it has it.
    pub(super) fn forward(&mut self, to: NodeId, message: &Transit<'_>, done: Option<Completion>) -> u32 {
        let frame = Frame::Publish { message: Forwarded::new(message, self.now) };
        self.send_on(to, lane_for(message), message.qos, done, &frame)
    }

    /// Sends a message to one member of a group on another node.
    pub(super) fn forward_to_group(
        &mut self,
        to: NodeId,
        filter: &str,
        message: &Transit<'_>,
        tried: u8,
        done: Option<Completion>,
    ) -> u32 {
        let frame = Frame::Group { filter, tried, message: Forwarded::new(message, self.now) };
        self.send_on(to, lane_for(message), message.qos, done, &frame)
    }

    /// Sends a message that no member of a group on this node can take to another node; returns whether there is one.
    pub(super) fn forward_to_other_node(
        &mut self,
        filter: &TopicFilter,
        message: &Transit<'_>,
        tried: u8,
    ) -> bool {
        let target = self.node.group_target(filter);
        let hint = PickHint::of(message, self.random.next());
        let me = self.node.router.remote().me();
        match target.choose_member(self.node.router.strategy(), &hint, Some(me)) {
            Some(NodeChoice::Node(node)) => {
                self.forward_to_group(node, target.filter(), message, tried, None);
                true
            }
            Some(NodeChoice::Here | NodeChoice::Shard) | None => false,
        }
    }

    fn send_on(
        &mut self,
        to: NodeId,
        lane: LaneId,
        qos: QoS,
        done: Option<Completion>,
        frame: &Frame<'_>,
    ) -> u32 {
        if self.node.cluster.is_congested(to) {
            if qos == QoS::AtMostOnce {
                self.metrics().dropped_forward_congested.increment();
                return 0;
            }
            // It goes all the same, and its publisher is not read until the node has caught up.
            self.slow = Some(Slow::Node(to));
        }
        self.metrics().messages_forwarded.increment();
        let position = self.outgoing.iter().position(|outgoing| outgoing.to == to && outgoing.lane == lane);
        let position = position.unwrap_or_else(|| {
            let batch = BatchWriter::new();
            self.outgoing.push(Outgoing { to, lane, batch, completions: Vec::new() });
            self.outgoing.len() - 1
        });
        let outgoing = &mut self.outgoing[position];
        outgoing.batch.push(frame);
        outgoing.completions.extend(done);
        if outgoing.batch.is_full() {
            self.send_outgoing(position);
        } else {
            self.wake_flusher();
        }
        u32::from(done.is_some())
    }

    pub(super) fn outgoing_is_empty(&self) -> bool {
        self.outgoing.iter().all(|outgoing| outgoing.batch.is_empty())
            && self.storing.iter().all(|storing| storing.batch.is_empty())
            && self.kept_dirty.is_empty()
    }

    /// Hands the batches for other nodes and for shards over to the cluster.
    pub(super) fn hand_over_to_nodes(&mut self) {
        self.hand_over_kept();
        self.hand_over_all_stored();
        for position in 0..self.outgoing.len() {
            self.send_outgoing(position);
        }
    }

    fn send_outgoing(&mut self, position: usize) {
        let Outgoing { to, lane, batch, completions } = &mut self.outgoing[position];
        if let Some(batch) = batch.take() {
            self.node.cluster.forward(*to, *lane, batch, std::mem::take(completions));
        }
    }
}

/// Whether no shard takes a message of this size.
fn is_too_large(message: &Transit<'_>) -> bool {
    message.topic.len() + message.properties.len() + message.payload.len() > MESSAGE_BYTES_MAX
}

/// The lane of a message: that of its publisher.
fn lane_for(message: &Transit<'_>) -> LaneId {
    match message.publisher {
        Some(publisher) => lane_of(publisher.as_str().as_bytes()),
        None => lane_of(message.topic.as_bytes()),
    }
}
