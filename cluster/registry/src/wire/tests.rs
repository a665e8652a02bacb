use flotilla_mqtt::session::ClientId;
use flotilla_state::{ConnectionEpoch, Member, NodeId, ShardEpoch, ShardId};
use proptest::prelude::*;

use super::{fields, item::Kind, *};
use crate::message;

fn messages() -> Vec<Message> {
    let client = || ClientId::new("sensor-7").expect("not empty");
    let epoch = ConnectionEpoch { shard: ShardEpoch(5), sequence: 6 };
    let term = ShardEpoch(5);
    let member = Member { node: NodeId(2), incarnation: Incarnation(7) };
    let hold = message::Hold { member, epoch };
    let roles = [
        message::EntryRole::Owner { registered: true },
        message::EntryRole::Owner { registered: false },
        message::EntryRole::Claimant { claim: 12, previous: hold },
    ];
    let entries = roles.map(|role| message::Entry { client: client(), epoch, role }).to_vec();
    let report = message::Report { shard: ShardId(9), term, entries, last: true };
    vec![
        Message::Claim { client: client(), term, claim: 1 },
        Message::Withdraw { client: client(), claim: 2 },
        Message::Confirm { client: client(), epoch },
        Message::Release { client: client(), epoch },
        Message::Report(report),
        Message::Granted { client: client(), claim: 3, epoch, previous: Some(hold) },
        Message::Granted { client: client(), claim: 3, epoch, previous: None },
        Message::Superseded { client: client(), term, claim: 4 },
        Message::Discard { client: client(), term, epoch },
        Message::Handover { client: client(), epoch },
        Message::Handed { client: client(), epoch },
    ]
}

#[test]
fn what_is_encoded_decodes_to_the_same() {
    let envelope = || Envelope { view: LogIndex(4), to: Incarnation(3), messages: messages() };
    assert_eq!(Envelope::decode(envelope().encode()).expect("it decodes"), envelope());
}

#[test]
fn another_version_is_refused() {
    // Nothing at all is no batch without messages.
    for version in [0, VERSION - 1, VERSION + 1] {
        let batch = Batch { version, ..Batch::default() };
        let refused = Envelope::decode(batch.encode_to_vec().into());
        assert!(matches!(refused, Err(MessageError::UnknownVersion(of)) if of == version), "{refused:?}");
    }
}

#[test]
fn what_has_no_meaning_is_refused() {
    let check = |item: Item, expected: &str| {
        let batch = Batch { version: VERSION, items: vec![item], ..Batch::default() };
        match Envelope::decode(batch.encode_to_vec().into()) {
            Err(MessageError::Invalid(part)) => assert_eq!(part, expected),
            other => panic!("{other:?}"),
        }
    };
    let item = |kind: Kind| Item { kind: kind.into(), client: "c".into(), ..Item::default() };
    check(item(Kind::Unspecified), "kind");
    check(Item { kind: 99, ..item(Kind::Claim) }, "kind");
    check(Item { client: String::new(), ..item(Kind::Claim) }, "client identifier");
    check(Item { shard: 70_000, ..item(Kind::Report) }, "shard");
    check(Item { previous: Some(fields::Hold::default()), ..item(Kind::Granted) }, "member");
    let entry = fields::Entry { client: "c".into(), claims: true, ..fields::Entry::default() };
    check(Item { entries: vec![entry], ..item(Kind::Report) }, "previous owner");
    check(Item { entries: vec![fields::Entry::default()], ..item(Kind::Report) }, "client identifier");
}

proptest! {
    #[test]
    fn any_bytes_are_read_without_panic(bytes: Vec<u8>) {
        let _ = Envelope::decode(bytes.into());
    }

    #[test]
    fn a_changed_byte_is_read_without_panic(at: prop::sample::Index, to: u8) {
        let envelope = Envelope { view: LogIndex(4), to: Incarnation(3), messages: messages() };
        let mut bytes = envelope.encode().to_vec();
        let at = at.index(bytes.len());
        bytes[at] = to;
        let _ = Envelope::decode(bytes.into());
    }
}
