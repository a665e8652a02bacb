//! A file comes back as it was written, and nothing else is taken for one.

use std::sync::Arc;

use bytes::Bytes;
use flotilla_shard::{Entry, GroupStrategy, Op, Open, Options, Overlap, Part, QueueLimits, Shard};
use flotilla_state::{ConnectionEpoch, Incarnation, Member, NodeId, ShardEpoch, ShardId};
use flotilla_store::MemoryStore;
use proptest::prelude::*;

use super::*;

/// Something of every kind.
fn records() -> Vec<Record> {
    let header = Header { cluster_name: "c".to_owned(), cluster_id: "0f".to_owned(), at: 1 << 40, shards: 2 };
    let ban = Ban {
        kind: "clientid".to_owned(),
        who: "x".to_owned(),
        reason: "why".to_owned(),
        by: "ctl".to_owned(),
    };
    let mut records = vec![Record::Header(header), Record::Ban(ban)];
    for shard in 0..2 {
        records.push(Record::Shard(ShardPoint { shard, at: 300 }));
        records.extend(saved().into_iter().map(|saved| Record::Saved(Box::new(saved))));
    }
    let mut totals = Totals::default();
    records.iter().for_each(|record| totals.add(record));
    records.push(Record::End(totals));
    records
}

fn saved() -> Vec<Saved> {
    let store = Arc::new(MemoryStore::new());
    let mut shard = Shard::open(ShardId(0), store, Options::default()).expect("an empty store");
    let epoch = ConnectionEpoch { shard: ShardEpoch(1), sequence: 1 };
    let open = |client| Open {
        connection: flotilla_shard::Connection {
            client: flotilla_mqtt::session::ClientId::new(client).expect("not empty"),
            epoch,
            turn: 0,
        },
        clean_start: false,
        only_present: false,
        expiry: flotilla_mqtt::session::SessionExpiry::Never,
        window: 3,
        queue: QueueLimits {
            messages_max: 9,
            bytes_max: 9,
            full: flotilla_mqtt::session::QueueFull::DropNewest,
        },
        awaiting_rel_max: 4,
        queue_qos0: false,
        overlap: Overlap::Merge,
        group_strategy: GroupStrategy::RoundRobin,
        will: None,
    };
    let ops = ["a", "b"].map(|client| Op::Open(Box::new(open(client)))).to_vec();
    let source = Member { node: NodeId(1), incarnation: Incarnation(1) };
    let entry = Entry { stamp: 300, retained_full: false, parts: vec![Part { source, number: 0, ops }] };
    shard.apply(1, &entry.encode()).expect("it is valid");
    shard.export().expect("the store takes it").map(|saved| saved.expect("it can be read")).collect()
}

fn file(records: &[Record]) -> Vec<u8> {
    let records: Vec<Bytes> = records.iter().map(Record::encode).collect();
    [&MAGIC[..], &records.concat()].concat()
}

/// Reads a file in pieces of so many bytes.
fn read(file: &[u8], piece: usize) -> Result<(Vec<Record>, Totals), BackupError> {
    let (mut reader, mut records) = (Reader::default(), Vec::new());
    for bytes in file.chunks(piece) {
        reader.feed(bytes);
        while let Some(record) = reader.next_record()? {
            records.push(record);
        }
    }
    let (_, totals) = reader.finish()?;
    Ok((records, totals))
}

#[test]
fn a_file_comes_back_in_whatever_pieces() {
    let records = records();
    let file = file(&records);
    for piece in [1, 7, 100, file.len()] {
        let (read, totals) = read(&file, piece).expect("it is one");
        assert_eq!(read, records);
        assert_eq!((totals.records, totals.shards, totals.sessions, totals.bans), (7, 2, 4, 1));
    }
}

#[test]
fn a_file_that_is_cut_off_or_longer_is_none() {
    let whole = file(&records());
    for len in 0..whole.len() {
        assert!(matches!(read(&whole[..len], 64), Err(BackupError::CutOff { .. })), "{len}");
    }
    assert!(read(&[&whole[..], b"x"].concat(), 64).is_err());
    let again = Record::Shard(ShardPoint::default()).encode();
    assert!(matches!(read(&[&whole[..], &again].concat(), 64), Err(BackupError::Invalid { .. })));
}

#[test]
fn a_file_that_lacks_a_record_is_none() {
    let records = records();
    for missing in 0..records.len() {
        let mut fewer = records.clone();
        fewer.remove(missing);
        assert!(read(&file(&fewer), 64).is_err(), "{:?}", records[missing]);
        fewer.insert(missing, records[missing].clone());
        fewer.insert(missing, records[missing].clone());
        assert!(read(&file(&fewer), 64).is_err(), "twice {:?}", records[missing]);
    }
}

#[test]
fn what_this_program_does_not_know_is_refused() {
    let foreign = b"PK\x03\x04 something else".to_vec();
    assert!(matches!(read(&foreign, 64), Err(BackupError::Foreign)));
    let frame = |record: &[u8]| {
        let length = u32::try_from(record.len()).expect("short").to_be_bytes();
        [&MAGIC[..], &length, &checksum(&length, record).to_be_bytes(), record].concat()
    };
    // A header of version 2, and a record of another kind.
    assert!(matches!(read(&frame(b"\x0A\x02\x08\x02"), 64), Err(BackupError::UnknownVersion(2))));
    assert!(matches!(read(&frame(b"\x4A\x02\x08\x02"), 64), Err(BackupError::Invalid { .. })));
}

proptest! {
    #[test]
    fn a_flipped_bit_is_found(at in any::<prop::sample::Index>(), bit in 0..8_u8) {
        let mut file = file(&records());
        let at = at.index(file.len());
        file[at] ^= 1 << bit;
        prop_assert!(read(&file, 64).is_err());
    }

    #[test]
    fn random_bytes_do_no_harm(bytes: Vec<u8>) {
        let _ = read(&[&MAGIC[..], &bytes].concat(), 16);
    }
}
