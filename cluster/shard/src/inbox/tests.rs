//! Inboxes.

use flotilla_mqtt::{QoS, SubscriptionIds};
use proptest::{collection::vec, prelude::*};

use super::*;
use crate::{SessionId, message::Parts};

fn push(inbox: &mut Inbox, seq: u64, payload: &[u8], expires_at: Option<u64>) {
    let parts = Parts {
        topic: "t",
        publisher: None,
        properties: b"",
        payload,
        qos: QoS::AtLeastOnce,
        retain: false,
        expires_at,
    };
    let entry = NewEntry {
        qos: QoS::AtLeastOnce,
        retain: false,
        subscription_ids: &SubscriptionIds::None,
        body: NewBody::Inline(&parts),
        size: parts.size(),
        expires_at,
        key: 0,
    };
    inbox.push(seq, &entry, &mut seq.clone());
}

const fn window(places: u16, kept_until: u64) -> Window {
    Window { places, kept_until }
}

fn firsts(inbox: &Inbox) -> Vec<u64> {
    inbox.chunks_from(0).map(|chunk| chunk.first).collect()
}

#[test]
fn a_chunk_is_full_by_messages_or_by_bytes() {
    let mut inbox = Inbox::new(window(8, 0));
    (1..=130).for_each(|seq| push(&mut inbox, seq, b"x", None));
    assert_eq!(firsts(&inbox), [1, 65, 129]);
    for seq in 131..=133 {
        push(&mut inbox, seq, &[7; 40_000], None);
    }
    assert_eq!(firsts(&inbox), [1, 65, 129, 132, 133]);
    // What is in the store does not grow.
    inbox.chunks_mut().for_each(Chunk::set_stored);
    push(&mut inbox, 134, b"x", None);
    assert_eq!(firsts(&inbox), [1, 65, 129, 132, 133, 134]);
    inbox.check_invariants();
}

#[test]
fn what_is_done_leaves_chunk_by_chunk() {
    let mut inbox = Inbox::new(window(2, 0));
    (1..=128).for_each(|seq| push(&mut inbox, seq, b"x", None));
    inbox.chunks_mut().for_each(Chunk::set_stored);
    for seq in 65..=127 {
        assert!(inbox.finish(seq).is_some_and(|freed| freed.chunk.is_none()));
    }
    let freed = inbox.finish(128).expect("it was there");
    assert_eq!(freed.chunk, Some(GoneChunk { id: ChunkId(65), has_references: false }));
    assert!(inbox.finish(128).is_none() && inbox.release(70).is_none());
    assert_eq!((inbox.head(), inbox.end(), inbox.live()), (Some(1), 65, 64));
    inbox.check_invariants();
}

#[test]
fn an_entry_has_one_qos_and_no_flags_that_mean_nothing() {
    let check = |head: u8, qos: Option<QoS>| {
        let bytes = [head];
        let read = ReadEntry::read(&mut crate::layout::Reader::new(&bytes));
        assert_eq!(read.ok().map(|entry| entry.qos), qos, "{head:08b}");
    };
    check(0, Some(QoS::AtLeastOnce));
    check(0b0000_0100, Some(QoS::ExactlyOnce));
    check(0b0100_0000, Some(QoS::AtMostOnce));
    check(0b0100_0100, None);
    check(0b1000_0000, None);
    check(0b0011_0000, None);
}

#[derive(Debug, Clone)]
enum Act {
    Push(u8),
    Finish(prop::sample::Index),
    Release(prop::sample::Index),
    /// So many places, and what is before so many of the last ones.
    Window(u16, u64),
    /// Everything is stored, and read again.
    Reload,
}

fn act() -> impl Strategy<Value = Act> {
    prop_oneof![
        4 => any::<u8>().prop_map(Act::Push),
        4 => any::<prop::sample::Index>().prop_map(Act::Finish),
        1 => any::<prop::sample::Index>().prop_map(Act::Release),
        1 => (0..9_u16, 0..20_u64).prop_map(|(places, back)| Act::Window(places, back)),
        1 => Just(Act::Reload),
    ]
}

proptest! {
    #[test]
    fn an_inbox_agrees_with_a_list(acts in vec(act(), 1..400)) {
        let mut window = window(3, 0);
        let mut inbox = Inbox::new(window);
        let mut list: Vec<(u64, u64, Option<u64>)> = Vec::new();
        let mut next = 1;
        for act in acts {
            match act {
                Act::Push(byte) => {
                    let expires_at = (byte % 3 == 0).then_some(u64::from(byte) + 1);
                    push(&mut inbox, next, &vec![byte; usize::from(byte) * 20], expires_at);
                    list.push((next, u64::from(byte) * 20 + 1, expires_at));
                    next += 1;
                }
                Act::Finish(index) if !list.is_empty() => {
                    let (seq, size, _) = list.remove(index.index(list.len()));
                    prop_assert_eq!(inbox.finish(seq).map(|freed| freed.size), Some(size));
                }
                Act::Release(index) if !list.is_empty() => {
                    let index = index.index(list.len());
                    let (seq, size, _) = &mut list[index];
                    prop_assert_eq!(inbox.release(*seq).is_some(), *size > 0);
                    *size = 0;
                }
                Act::Window(places, back) => {
                    window = Window { places, kept_until: next - back.min(next) };
                    inbox.set_window(window);
                }
                Act::Reload => {
                    let mut loaded = Inbox::new(window);
                    for chunk in inbox.chunks_from(0) {
                        let row = chunk.state_row(SessionId(7));
                        let (session, chunk) = Chunk::read(chunk.id, &row).expect("it was written");
                        prop_assert_eq!(session, SessionId(7));
                        loaded.restore(chunk);
                    }
                    loaded.set_window(window);
                    inbox = loaded;
                }
                Act::Finish(_) | Act::Release(_) => {}
            }
            prop_assert_eq!(inbox.is_empty(), list.is_empty());
            if !list.is_empty() {
                inbox.check_invariants();
            }
            let live: Vec<_> = inbox.chunks_from(0).flat_map(|chunk| chunk.live_from(0)).map(|(seq, slot)| (seq, slot.size())).collect();
            prop_assert_eq!(live, list.iter().map(|(seq, size, _)| (*seq, *size)).collect::<Vec<_>>());
            let kept = list.iter().filter(|(seq, ..)| *seq < window.kept_until).count();
            let in_window = kept.max(window.places.into());
            let oldest = list.get(in_window).map(|(seq, _, expires_at)| (*seq, *expires_at));
            prop_assert_eq!(inbox.oldest_queued(), oldest);
            prop_assert_eq!(inbox.head(), list.first().map(|(seq, _, _)| *seq));
        }
    }

    #[test]
    fn random_bytes_do_no_harm(bytes: Vec<u8>) {
        let _ = Chunk::read(ChunkId(1), &bytes);
        let _ = ReadEntry::read(&mut crate::layout::Reader::new(&bytes));
    }
}
