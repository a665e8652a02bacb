//! A sender and a receiver with a connection between them that breaks at any point.

use std::collections::VecDeque;

use bytes::Bytes;
use proptest::{collection::vec, prelude::*};

use crate::{
    Arrival, BATCH_FRAMES_SOFT, Batch, BatchWriter, Frame, ProtocolError, Receiver, Sender, Sequence, Window,
};

const UNTAKEN_MAX: u64 = 3;
const WINDOW: Window = Window { batches: 4, bytes: 400 };

/// Both ends, what is on its way between them, and what should be and is received.
#[derive(Debug)]
struct Link {
    sender: Sender<u64>,
    receiver: Receiver,
    up: VecDeque<(Sequence, Bytes)>,
    down: VecDeque<Sequence>,
    is_connected: bool,
    /// The last batch that was ever sent.
    sent: Sequence,
    enqueued: u64,
    received: Vec<u64>,
    /// Received and not taken.
    in_hand: Vec<Sequence>,
    done: Vec<u64>,
}

#[derive(Debug, Clone, Copy)]
enum Step {
    Enqueue,
    Connect,
    Break,
    Send,
    Arrive,
    /// Any of those in hand is taken.
    Take(u8),
    Ack,
    AckArrives,
}

fn batch(id: u64) -> Batch {
    let mut writer = BatchWriter::new();
    writer.push(&Frame::Control { kind: 0, bytes: &id.to_le_bytes() });
    writer.take().expect("there is a frame")
}

/// A batch that no other joins.
fn full(id: u64) -> Batch {
    let mut writer = BatchWriter::new();
    (0..BATCH_FRAMES_SOFT).for_each(|_| writer.push(&Frame::Control { kind: 0, bytes: &id.to_le_bytes() }));
    writer.take().expect("there are frames")
}

fn frames(bytes: &Bytes) -> Vec<u64> {
    let batch = Batch::decode(bytes.clone()).expect("it was written");
    let id = |frame| match frame {
        Frame::Control { bytes, .. } => u64::from_le_bytes(bytes.try_into().expect("a number")),
        _ => panic!("{frame:?} was not written"),
    };
    batch.frames().map(id).collect()
}

impl Link {
    fn new() -> Self {
        Self {
            sender: Sender::new(WINDOW),
            receiver: Receiver::new(),
            up: VecDeque::new(),
            down: VecDeque::new(),
            is_connected: false,
            sent: Sequence(0),
            enqueued: 0,
            received: Vec::new(),
            in_hand: Vec::new(),
            done: Vec::new(),
        }
    }

    fn step(&mut self, step: Step) {
        match step {
            Step::Enqueue => {
                self.enqueued += 1;
                let before = self.sender.last();
                let sequence = self.sender.enqueue(batch(self.enqueued), [self.enqueued]);
                assert!(sequence == before && before > self.sent || sequence == before.next());
            }
            Step::Connect => {
                self.disconnect();
                let resume_after = self.receiver.resume_point();
                self.sender.handle_connected(resume_after).expect("the receiver is honest");
                self.is_connected = true;
            }
            Step::Break => self.disconnect(),
            Step::Send => {
                if let Some(sent) = self.sender.poll_transmit() {
                    assert!(self.is_connected);
                    self.sent = self.sent.max(sent.0);
                    self.up.push_back(sent);
                }
            }
            Step::Arrive => self.arrive(),
            Step::Take(which) => {
                if !self.in_hand.is_empty() {
                    let sequence = self.in_hand.swap_remove(usize::from(which) % self.in_hand.len());
                    self.receiver.taken(sequence);
                }
            }
            Step::Ack if self.is_connected => {
                if let Some(upto) = self.receiver.ack_due() {
                    self.receiver.handle_acked(upto);
                    self.down.push_back(upto);
                }
            }
            Step::Ack => {}
            Step::AckArrives => {
                if let Some(upto) = self.down.pop_front() {
                    self.sender.handle_ack(upto, &mut self.done).expect("the receiver is honest");
                }
            }
        }
        self.check();
    }

    fn arrive(&mut self) {
        if !self.receiver.is_ready(UNTAKEN_MAX) {
            return;
        }
        let Some((sequence, bytes)) = self.up.pop_front() else { return };
        match self.receiver.handle_batch(sequence) {
            Arrival::Fresh => {
                self.received.extend(frames(&bytes));
                self.in_hand.push(sequence);
            }
            other => panic!("{other:?} without a reason"),
        }
    }

    /// Whatever was on its way is lost.
    fn disconnect(&mut self) {
        self.sender.handle_disconnected();
        self.up.clear();
        self.down.clear();
        self.is_connected = false;
    }

    fn check(&self) {
        self.sender.check_invariants();
        self.receiver.check_invariants();
        assert!(self.received.iter().copied().eq(1..=self.received.len() as u64), "in order, each once");
        assert!(self.done.iter().copied().eq(1..=self.done.len() as u64), "in order, each once");
        assert!(
            self.done.len() + self.in_hand.len() <= self.received.len(),
            "nothing is done before it is taken"
        );
        assert!(self.in_hand.len() as u64 <= UNTAKEN_MAX);
        assert!(self.up.len() <= WINDOW.batches);
    }
}

fn step() -> impl Strategy<Value = Step> {
    prop_oneof![
        6 => Just(Step::Enqueue),
        3 => Just(Step::Connect),
        2 => Just(Step::Break),
        8 => Just(Step::Send),
        8 => Just(Step::Arrive),
        8 => any::<u8>().prop_map(Step::Take),
        6 => Just(Step::Ack),
        6 => Just(Step::AckArrives),
    ]
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(400))]

    #[test]
    fn nothing_is_lost_or_repeated_or_out_of_order(steps in vec(step(), 0..200)) {
        let mut link = Link::new();
        for step in steps {
            link.step(step);
        }
        // With a connection that lasts, everything arrives.
        link.step(Step::Connect);
        for _ in 0..=link.enqueued {
            for step in [Step::Send, Step::Arrive, Step::Take(0), Step::Take(0), Step::Take(0), Step::Ack, Step::AckArrives] {
                link.step(step);
            }
        }
        prop_assert_eq!(link.received.len() as u64, link.enqueued);
        prop_assert_eq!(link.done.len() as u64, link.enqueued);
        prop_assert!(link.sender.is_idle());
        prop_assert_eq!(link.sender.queued_bytes(), 0);
    }
}

#[test]
fn what_waits_is_joined_until_it_was_sent() {
    let mut sender = Sender::new(Window::default());
    assert_eq!(sender.enqueue(batch(1), [1]), Sequence(1));
    assert_eq!(sender.enqueue(batch(2), [2, 3]), Sequence(1));
    sender.handle_connected(Sequence(0)).unwrap();
    let (sequence, bytes) = sender.poll_transmit().expect("it is connected");
    assert_eq!((sequence, frames(&bytes)), (Sequence(1), vec![1, 2]));
    // What was sent is as it is, also when it has to be sent again.
    assert_eq!(sender.enqueue(batch(3), [4]), Sequence(2));
    sender.handle_disconnected();
    assert_eq!(sender.enqueue(batch(4), [5]), Sequence(2));
    sender.handle_connected(Sequence(0)).unwrap();
    assert_eq!(sender.poll_transmit(), Some((Sequence(1), bytes)));
    assert_eq!(sender.poll_transmit().map(|(_, bytes)| frames(&bytes)), Some(vec![3, 4]));
    let mut done = Vec::new();
    sender.handle_ack(Sequence(2), &mut done).unwrap();
    assert_eq!(done, [1, 2, 3, 4, 5]);
    assert_eq!(sender.queued_bytes(), 0);
    // With nothing left in the queue, the last that was sent is still as it is.
    assert_eq!(sender.enqueue(batch(5), [6]), Sequence(3));
    // A batch that is full stays alone.
    assert_eq!(sender.enqueue(full(6), [7]), Sequence(4));
    assert_eq!(sender.enqueue(batch(7), [8]), Sequence(5));
    let untaken: Vec<_> = sender.into_untaken().map(|(batch, done)| (batch.len(), done)).collect();
    assert_eq!(untaken, [(1, vec![6]), (BATCH_FRAMES_SOFT, vec![7]), (1, vec![8])]);
}

#[test]
fn the_window_bounds_what_is_on_its_way() {
    let cost = full(1).cost();
    let mut sender = Sender::new(Window { batches: 10, bytes: 2 * cost });
    for id in 1..=5 {
        sender.enqueue(full(id), [id]);
    }
    assert_eq!(sender.poll_transmit(), None, "there is no connection");
    sender.handle_connected(Sequence(0)).unwrap();
    let sent: Vec<_> =
        std::iter::from_fn(|| sender.poll_transmit()).map(|(sequence, _)| sequence.0).collect();
    assert_eq!(sent, [1, 2]);
    let mut done = Vec::new();
    assert_eq!(sender.handle_ack(Sequence(1), &mut done), Ok(cost));
    assert_eq!(sender.poll_transmit().map(|(sequence, _)| sequence), Some(Sequence(3)));
    assert_eq!(sender.poll_transmit(), None);
    assert_eq!(done, [1]);
    // A batch larger than the window goes alone.
    let mut sender = Sender::new(Window { batches: 10, bytes: 1 });
    sender.enqueue(full(1), [()]);
    sender.enqueue(full(2), [()]);
    sender.handle_connected(Sequence(0)).unwrap();
    assert!(sender.poll_transmit().is_some());
    assert!(sender.poll_transmit().is_none());
    assert_eq!(sender.into_untaken().count(), 2);
}

#[test]
fn what_was_received_is_not_sent_again() {
    let mut sender = Sender::new(Window::default());
    (1..=4).for_each(|id| assert_eq!(sender.enqueue(full(id), [id]), Sequence(id)));
    sender.handle_connected(Sequence(0)).unwrap();
    while sender.poll_transmit().is_some() {}
    sender.handle_connected(Sequence(2)).unwrap();
    assert_eq!(sender.poll_transmit().map(|(sequence, _)| sequence), Some(Sequence(3)));
    // Those that it had before the connection broke are taken now.
    let mut done = Vec::new();
    sender.handle_ack(Sequence(2), &mut done).unwrap();
    assert_eq!(done, [1, 2]);
}

#[test]
fn a_peer_that_forgets_or_invents_is_refused() {
    let mut sender = Sender::new(Window::default());
    (1..=4).for_each(|id| assert_eq!(sender.enqueue(full(id), [id]), Sequence(id)));
    let mut done = Vec::new();
    for resume_after in [Sequence(1), Sequence(5)] {
        let invented = Err(ProtocolError::Invented(resume_after, Sequence(0)));
        assert_eq!(sender.handle_connected(resume_after), invented, "nothing was sent");
    }
    assert_eq!(sender.poll_transmit(), None);
    sender.handle_connected(Sequence(0)).unwrap();
    assert_eq!(sender.poll_transmit().map(|(sequence, _)| sequence), Some(Sequence(1)));
    assert_eq!(
        sender.handle_ack(Sequence(2), &mut done),
        Err(ProtocolError::Invented(Sequence(2), Sequence(1)))
    );
    sender.handle_ack(Sequence(1), &mut done).unwrap();
    assert_eq!(sender.handle_ack(Sequence(1), &mut done), Ok(0));
    assert_eq!(sender.handle_connected(Sequence(0)), Err(ProtocolError::Forgotten(Sequence(0), Sequence(1))));
    assert_eq!(sender.handle_ack(Sequence(u64::MAX), &mut done).map_err(|_| ()), Err(()));
    assert_eq!(done, [1]);
}

#[test]
fn repeats_and_gaps_are_told_apart() {
    let mut receiver = Receiver::new();
    assert_eq!(receiver.handle_batch(Sequence(1)), Arrival::Fresh);
    assert_eq!(receiver.handle_batch(Sequence(1)), Arrival::Repeat);
    assert_eq!(receiver.handle_batch(Sequence(0)), Arrival::Repeat);
    assert_eq!(receiver.handle_batch(Sequence(3)), Arrival::Gap { expected: Sequence(2) });
    assert_eq!(receiver.handle_batch(Sequence(2)), Arrival::Fresh);
}

#[test]
fn batches_are_taken_in_any_order_and_acknowledged_in_theirs() {
    let mut receiver = Receiver::new();
    for sequence in 1..=64 {
        assert!(receiver.is_ready(64));
        assert_eq!(receiver.handle_batch(Sequence(sequence)), Arrival::Fresh);
    }
    assert!(!receiver.is_ready(64));
    assert!(!receiver.is_ready(u64::MAX));
    for sequence in 2..=64 {
        receiver.taken(Sequence(sequence));
        assert_eq!(receiver.ack_due(), None);
    }
    receiver.taken(Sequence(1));
    assert_eq!(receiver.ack_due(), Some(Sequence(64)));
    receiver.handle_acked(Sequence(64));
    assert_eq!(receiver.ack_due(), None);
    // On another connection the sender is told again.
    assert_eq!(receiver.resume_point(), Sequence(64));
    assert_eq!(receiver.ack_due(), Some(Sequence(64)));
}
