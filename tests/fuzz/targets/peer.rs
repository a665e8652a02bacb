//! Bytes of another node.
//!
//! The first byte chooses for whom they are: a batch of a lane, a message, an entry of the meta group's log, a snapshot of its
//! state, the registry. Whatever they are, they are taken or refused; what a batch, a message or a command decodes to is encoded
//! and decoded again to the same.

#![no_main]

use bytes::Bytes;
use flotilla_lane::{Batch, BatchWriter};
use flotilla_mqtt::{Message, Timestamp};
use flotilla_registry::{Limits, Registry, View};
use flotilla_state::{
    ClusterState, Command, Incarnation, LogIndex, Member, NodeId, Placement, ShardEpoch, ShardRing,
};
use libfuzzer_sys::fuzz_target;

const NOW: Timestamp = Timestamp::from_millis(1_000);
const ME: Member = Member { node: NodeId(1), incarnation: Incarnation(1) };
const OTHER: Member = Member { node: NodeId(2), incarnation: Incarnation(2) };

fuzz_target!(|input: &[u8]| {
    let [whom, bytes @ ..] = input else { return };
    match whom % 5 {
        0 => batch(bytes),
        1 => message(bytes),
        2 => command(bytes),
        3 => drop(ClusterState::restore([Bytes::copy_from_slice(bytes)])),
        _ => registry(bytes),
    }
});

fn batch(bytes: &[u8]) {
    let Ok(batch) = Batch::decode(Bytes::copy_from_slice(bytes)) else { return };
    let mut writer = BatchWriter::new();
    batch.frames().for_each(|frame| writer.push(&frame));
    assert_eq!(batch.frames().count(), batch.len());
    let Some(again) = writer.take() else { return };
    assert!(batch.frames().eq(again.frames()), "a frame is not what it was");
}

fn message(bytes: &[u8]) {
    let Ok(message) = Message::decode(bytes, NOW) else { return };
    assert_eq!(Message::decode(&message.encode(NOW), NOW).expect("it was encoded"), message);
}

fn command(bytes: &[u8]) {
    let Ok(command) = Command::decode(bytes) else { return };
    assert_eq!(Command::decode(&command.encode()).expect("it was encoded"), command);
    let mut state = ClusterState::new();
    let create = Command::Create { cluster_id: 1, name: "c".into(), shards: 4, replicas: 2, hash_seed: 7 };
    state.apply(LogIndex(1), create);
    state.apply(LogIndex(2), command);
    state.check_invariants();
}

fn registry(bytes: &[u8]) {
    let mut registry = Registry::new(Limits::default(), ShardRing::new(1));
    registry.handle_admitted(ME);
    let placements = vec![Placement { epoch: ShardEpoch(2), nodes: vec![ME.node, OTHER.node] }];
    registry.handle_view(View { index: LogIndex(2), members: vec![ME, OTHER], placements });
    let _ = registry.handle_message(OTHER, &Bytes::copy_from_slice(bytes));
    while registry.poll_output().is_some() {}
}
