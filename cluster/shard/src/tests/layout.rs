//! The rows of formats 1 to 3: a replica must read what an earlier version has written.

use std::time::Duration;

use flotilla_lane::Origin;
use flotilla_mqtt::{PacketId, QoS, session::SessionExpiry};
use flotilla_state::ShardId;
use flotilla_store::Store;

use super::harness::{
    Published, Replica, SHARD, connection, member, open, packet, publish, say, subscription, will,
};
use crate::{Connection, GroupStrategy, Letter, Op, Open, Part, Seq, WillFate};

#[test]
fn the_rows_are_fixed() {
    let mut replica = Replica::new();
    replica.open(open("a", 5));
    // A QoS 0 message for a client that is away, in a turn that is not its first.
    let c = || Connection { turn: 3, ..connection("c", 1) };
    replica.open(Open { connection: c(), queue_qos0: true, ..open("c", 1) });
    replica.one(Op::Subscribe { connection: c(), subscriptions: vec![subscription("v", 0, 0)] });
    replica.one(close(c(), 1, Vec::new()));
    let at_most_once = Published { qos: QoS::AtMostOnce, ..Published::new("v", "0") };
    replica.one(publish(&[at_most_once]));
    replica.open(Open { will: Some(will("w", 0)), ..open("b", 1) });
    for (client, epoch) in [("a", 5), ("b", 1)] {
        let subscriptions = vec![subscription("t", 2, 300)];
        replica.one(Op::Subscribe { connection: connection(client, epoch), subscriptions });
    }
    replica.one(Op::Receive { connection: connection("a", 5), packet_id: packet(9) });
    let origin = Some(Origin { shard: ShardId(7), session: 8, number: 3, floor: 2 });
    let both = Published { origin, retains: true, expires_in: Some(200), ..Published::new("t", "both") };
    let part = Part { source: member(4), number: 1, ops: vec![publish(&[both])] };
    replica.apply_parts(vec![part]);
    let b = || connection("b", 1);
    replica.apply([8, 7].map(|id| Op::Receive { connection: b(), packet_id: packet(id) }).to_vec());
    replica.one(close(b(), 2, vec![packet(7)]));
    replica.one(Op::Unsubscribe { connection: b(), filters: vec![super::harness::filter("t")] });
    replica.apply(vec![say("t", "2"), say("t", "3"), say("t", "4")]);
    replica.one(Op::Acknowledge {
        connection: connection("a", 5),
        released: vec![Seq(2)],
        done: vec![Seq(3)],
    });
    replica.flush();
    check(&mut replica, EXPECTED);
}

fn check(replica: &mut Replica, expected: &str) {
    let rows = replica.store.scan(&SHARD.0.to_be_bytes(), &[0xFF; 4], usize::MAX).unwrap();
    let rows: Vec<String> = rows.iter().map(|(key, value)| format!("{} {}", hex(key), hex(value))).collect();
    let expected: Vec<&str> = expected.split_whitespace().collect();
    let expected: Vec<String> = expected.chunks(2).map(|row| row.join(" ")).collect();
    assert_eq!(rows, expected, "\n{}", rows.join("\n"));
    replica.reopen();
}

/// The shard is on both sides of the post here.
#[test]
fn the_rows_of_groups_are_fixed() {
    let mut replica = Replica::new();
    replica.open(Open { group_strategy: GroupStrategy::HashTopic, ..open("a", 1) });
    replica.one(Op::Subscribe {
        connection: connection("a", 1),
        subscriptions: vec![subscription("$queue/t", 2, 0)],
    });
    let letters = |replica: &Replica| -> Vec<(u64, Letter)> {
        let letters = replica.shard.letters(0, 9, usize::MAX).expect("valid rows");
        letters.into_iter().map(|outbound| (outbound.number, outbound.letter)).collect()
    };
    let take = |replica: &mut Replica, letters: Vec<(u64, Letter)>| {
        let posted = letters.iter().map(|(number, _)| *number).collect();
        replica
            .apply(vec![Op::Letters { from: ShardId(3), after: 0, letters }, Op::Posted { letters: posted }]);
    };
    let join = letters(&replica);
    take(&mut replica, join);
    let expiring = Published { expires_in: Some(200), ..Published::new("t", "1") };
    replica.one(publish(&[
        expiring,
        Published::new("t", "2"),
        Published::new("t", "3"),
        Published::new("t", "4"),
    ]));
    let lent = letters(&replica)[..2].to_vec();
    take(&mut replica, lent);
    replica.one(Op::Acknowledge { connection: connection("a", 1), released: vec![Seq(1)], done: Vec::new() });
    replica.one(Op::Subscribe {
        connection: connection("a", 1),
        subscriptions: vec![subscription("$queue/u", 1, 0)],
    });
    replica.flush();
    check(&mut replica, EXPECTED_OF_GROUPS);
}

#[test]
fn the_rows_of_what_may_come_to_nothing_are_fixed() {
    let mut replica = Replica::new();
    replica.open(Open { will: Some(will("w", 30)), ..open("a", 1) });
    let expiry = SessionExpiry::After(Duration::from_secs(60));
    replica.one(Op::Close {
        connection: connection("a", 1),
        expiry,
        will: WillFate::Keep,
        sent_until: Seq(1),
        stored: Vec::new(),
    });
    replica.open(open("a", 2));
    replica.flush();
    check(&mut replica, EXPECTED_OF_FORMER);
    // Who knows the first format only can read it again when it is a connection.
    replica.one(Op::Subscribe { connection: connection("a", 2), subscriptions: Vec::new() });
    replica.flush();
    check(&mut replica, EXPECTED_WITHOUT_FORMER);
}

fn close(connection: Connection, sent_until: u64, stored: Vec<PacketId>) -> Op {
    let (expiry, will) = (SessionExpiry::Never, WillFate::Keep);
    Op::Close { connection, expiry, will, sent_until: Seq(sent_until), stored }
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

const EXPECTED: &str = "
010200000001010000000000000001
  0a016110011805220b090100000000000000100132004003480450c0843d5880808080802060016801700578018001028a01010992010101980101a80101
010200000001010000000000000002
  0a01631001180132004003480450c0843d588080808080206001680170027801800101980101a80101b00101b80101c00103
010200000001010000000000000003
  0a01621001180132004003480450c0843d5880808080802060016801700278028001038a010208079201020102980101a2010102a80102b00101
01020000000102000000000000000100000001 0a0174100218ac02
01020000000102000000000000000200000001 0a0176
010200000001040000000000000001 0002010106
010200000001040000000000000002 0301010409010006b0090000
010200000001040000000000000003 0303010109b009
010200000001050000000000000001 410700017602010130
010200000001050000000000000002 16ac0201000015ac020702017402010134
010200000001050000000000000003 16ac0201
010200000001060000000000000001 0ab0090174020101626f7468
010200000001070000000000000001 02
0102000000010800070000000000000008 0802120103
010200000001090000000000000004 08011001
0102000000010a0000000000000001 0a0b0a01771a04676f6e652002
0102000000010b0000000000000001 07b00974
0102000000010c0000000000000001 0ab0090174020101626f7468
0102ff 080110011a056174203135200f28e80730043802400248045002
";

const EXPECTED_OF_GROUPS: &str = "
010200000001010000000000000001
  0a016110011801220b090100000000000000100132004003480450c0843d588080808080206001680170037801800101980102a80101c80103
010200000001010000000000000002
  0a09002471756575652f74320050c0843d588080808080206001680170057801800101a80104c80103
01020000000102000000000000000100000001 0a082471756575652f741002
01020000000102000000000000000100000002 0a082471756575652f751001
010200000001040000000000000001
  0602010406060606b009000000efd787cb02efd787cb02efd787cb02efd787cb02
010200000001040000000000000002 020101020106b00900
010200000001050000000000000001
  05090ab009017402010131050702017402010132050702017402010133050702017402010134
010200000001050000000000000002 00050702017402010132
0102000000010d0000000000000002 08031001
0102000000010e000000000000000200030000000000000001 08031001
0102000000010f0000000003e80001 08021001180320012801
0102000000010f0000000003e80002 08021002180320012801
0102000000010f0000000003e80003 0802100318032001
010200000001100000000003e80004 0a092207088180a01f10011003
010200000001100000000003e80005
  0a210a1f0a082471756575652f751001180320c0843d28808080808020300138034001
0102000000011100000000000000010000000000000002 0803108280a01f1802
010200000001120003 088280a01f
0102ff 080210011a0461742037200728e80730033801400148035001588580a01f
";

const EXPECTED_OF_FORMER: &str = "
010200000001010000000000000001
  0a016110011802220b0901000000000000001001280132004003480450c0843d588080808080206001680170017801800101a80101
010200000001150000000000000001 0a0408e0d40310c8dc031a110a0b0a01771a04676f6e65200210b0ea012098f201
0102ff 080310011a0461742033200328e80730023801400148015001
";

const EXPECTED_WITHOUT_FORMER: &str = "
010200000001010000000000000001
  0a016110011802220b0901000000000000001001280132004003480450c0843d588080808080206001680170017801800101a80101
0102ff 080110011a0461742034200428e80730023801400148015001
";
