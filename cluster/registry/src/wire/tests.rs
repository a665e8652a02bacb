use std::{sync::Arc, time::Duration};

use flotilla_mqtt::{
    Message as MqttMessage, QoS,
    session::{ClientId, SessionExpiry},
};
use flotilla_state::{ConnectionEpoch, Member, NodeId, ShardEpoch, ShardId};
use proptest::prelude::*;

use super::{fields::Will, item::Kind, *};
use crate::{KeptWill, Tenure, message};

fn member(node: u64) -> Member {
    Member { node: NodeId(node), incarnation: Incarnation(7) }
}

fn messages() -> Vec<Message> {
    let client = ClientId::new("sensor-7").expect("not empty");
    let epoch = ConnectionEpoch { shard: ShardEpoch(5), sequence: 6 };
    let tenure = Tenure { epoch, turn: 3 };
    let term = ShardEpoch(5);
    let hold = message::Hold { member: member(2), epoch };
    let message = MqttMessage {
        topic: "gone".into(),
        properties: Bytes::from_static(b"\x01\x01"),
        payload: Bytes::from_static(b"payload"),
        qos: QoS::ExactlyOnce,
        retain: true,
        expires_at: None,
        publisher: Some(client.clone()),
    };
    let will = message::SentWill {
        will: KeptWill {
            message: Arc::new(message),
            delay: Duration::from_secs(9),
            expiry: Some(Duration::from_secs(8)),
            session_expiry: SessionExpiry::After(Duration::from_secs(7)),
        },
        rest: Some(Duration::from_millis(1_234)),
    };
    let orphan = message::SentOrphan {
        owner: member(3),
        client: client.clone(),
        tenure,
        will: will.clone(),
        ended_at: LogIndex(11),
    };
    let origin = Some(message::Origin { previous: hold, handed: true });
    let roles = [
        message::EntryRole::Owner { registered: true, past: message::Past { origin, clean: false } },
        message::EntryRole::Owner { registered: false, past: message::Past { origin: None, clean: true } },
        message::EntryRole::Claimant { claim: 12, previous: Some(hold) },
        message::EntryRole::Claimant { claim: 13, previous: None },
    ];
    let entries = roles.map(|role| message::Entry { client: client.clone(), epoch, role }).to_vec();
    let report = message::Report {
        shard: ShardId(9),
        term,
        entries,
        orphans: vec![orphan.clone()],
        as_of: LogIndex(10),
        authority: LogIndex(8),
        last: true,
    };
    let client = || client.clone();
    vec![
        Message::Claim { client: client(), term, claim: 1 },
        Message::Withdraw { client: client(), claim: 2 },
        Message::Confirm { client: client(), epoch, handed: true, clean: false },
        Message::Confirm { client: client(), epoch, handed: false, clean: true },
        Message::Release { client: client(), epoch },
        Message::Register { client: client(), epoch },
        Message::Report(report),
        Message::Orphans { owner: member(3), wills: vec![orphan], last: false },
        Message::Granted { client: client(), claim: 3, epoch, previous: Some(hold) },
        Message::Granted { client: client(), claim: 3, epoch, previous: None },
        Message::Superseded { client: client(), term, claim: 4 },
        Message::Registered { client: client(), term, epoch },
        Message::Discard { client: client(), term, epoch },
        Message::WillDone { owner: member(4), client: client() },
        Message::Handover { client: client(), epoch, discard: true },
        Message::Handed { client: client(), epoch, part: None, more: false },
        Message::Handed { client: client(), epoch, part: Some(Bytes::new()), more: true },
        Message::Cancel { client: client(), epoch },
        Message::Taken { client: client(), epoch, wants_stub: true },
        Message::Settle { client: client(), epoch, index: LogIndex(77) },
        Message::Unstub { client: client(), epoch },
        Message::Keep { client: client(), tenure, will },
        Message::Kept { client: client(), tenure },
        Message::Drop { client: client(), tenure },
    ]
}

#[test]
fn what_is_encoded_decodes_to_the_same() {
    let envelope = || Envelope { view: LogIndex(4), to: Incarnation(3), messages: messages() };
    assert_eq!(Envelope::decode(envelope().encode()).expect("it decodes"), envelope());
}

#[test]
fn another_version_is_refused() {
    let batch = Batch { version: 2, ..Batch::default() };
    let refused = Envelope::decode(batch.encode_to_vec().into());
    assert!(matches!(refused, Err(MessageError::UnknownVersion(2))), "{refused:?}");
    // Nothing at all is no batch without messages.
    let refused = Envelope::decode(Bytes::new());
    assert!(matches!(refused, Err(MessageError::UnknownVersion(0))), "{refused:?}");
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
    check(item(Kind::Orphans), "member");
    check(item(Kind::WillDone), "member");
    check(item(Kind::Keep), "will");
    check(Item { will: Some(Will::default()), ..item(Kind::Keep) }, "topic");
    let will = Will { topic: "t".into(), qos: 3, ..Will::default() };
    check(Item { will: Some(will), ..item(Kind::Keep) }, "QoS");
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
