//! `$SYS`: what the broker tells about itself.
//!
//! Two dialects at once: `$SYS/brokers/<node>/...` as EMQX has it, and `$SYS/broker/...` as Mosquitto has it. Every
//! value comes from a counter that is really counted; what is not counted is not published. A member of a cluster tells of it
//! below `$SYS/cluster`.

mod cluster;
mod events;
mod load;
mod tree;

pub(crate) use cluster::publish_changes;
pub(crate) use events::{ClientEvent, Subject};

use std::{rc::Rc, sync::Arc};

use bytes::Bytes;
use flotilla_mqtt::{Message, QoS};
use tokio::{
    task::spawn_blocking,
    time::{MissedTickBehavior, interval},
};

use self::{load::Load, tree::Tree};
use crate::{
    node::Node,
    shards::{self, DiskUse},
    worker::WorkerCell,
};

/// Publishes the trees every `sys.interval`, for ever.
pub(crate) async fn publish_regularly(cell: Rc<WorkerCell>) {
    let node = cell.with(|worker| Arc::clone(worker.node()));
    let Some(period) = node.config.sys.interval else { return };
    let mut tree = Tree::default();
    let mut load = Load::default();
    let mut ticks = interval(period);
    ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    loop {
        ticks.tick().await;
        let totals = node.totals();
        load.update(&totals, node.clock.uptime());
        let mut values = Vec::new();
        let kept = kept(&node).await;
        tree.values(&node, &totals, kept, &load, &mut values);
        for chunk in values.chunks(CHUNK) {
            cell.with(|worker| {
                for (topic, value) in chunk {
                    worker.publish_own(&message(topic, value.clone().into(), true));
                }
            });
            // Clients get their turn between the chunks.
            tokio::task::yield_now().await;
        }
    }
}

/// What shards have here: sessions of clients that are away, and what is on the disk.
async fn kept(node: &Arc<Node>) -> Option<(u64, DiskUse)> {
    let node = Arc::clone(node);
    // Not here, where clients wait.
    let kept = spawn_blocking(move || {
        let shards = node.cluster.shards()?;
        Some((shards::away(&shards.led()), shards.disk_use()))
    });
    kept.await.ok().flatten()
}

/// Values that are published in one go.
const CHUNK: usize = 32;

/// A message of the broker itself.
pub(crate) fn message(topic: &str, payload: Bytes, retain: bool) -> Arc<Message> {
    Arc::new(Message {
        topic: topic.into(),
        properties: Bytes::new(),
        payload,
        qos: QoS::ExactlyOnce,
        retain,
        expires_at: None,
        publisher: None,
    })
}
