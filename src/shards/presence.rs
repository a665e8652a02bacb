//! Asking the leader of a shard which clients have a session there.
//!
//! Whose connection keeps nothing has to know only that it leaves nothing behind, neither of its own nor of an earlier one: a question
//! is enough for that, and no entry of the log. One question of a line is on its way at a time; meanwhile the next one gathers. A new
//! leader is asked again; one that does not answer is asked no more.

use std::time::Duration;

use flotilla_mqtt::session::ClientId;
use flotilla_state::ShardId;
use tokio::{sync::oneshot, time::timeout};

use super::Shards;

/// Which of these clients have a session in the shard?
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Inquiry {
    /// Unique among those of its line.
    pub(super) id: u64,
    pub(super) clients: Vec<ClientId>,
}

/// The answer.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Presence {
    /// Of the inquiry.
    pub(super) id: u64,
    /// In the order of its clients.
    pub(super) are_present: Vec<bool>,
}

/// The inquiries of a line that are not answered.
#[derive(Debug, Default)]
pub(super) struct Inquiries {
    last_id: u64,
    asked: Option<(Inquiry, Vec<oneshot::Sender<bool>>)>,
    /// One for each CONNECT that waits, or has given up and was not passed over yet.
    waiting: Vec<(ClientId, oneshot::Sender<bool>)>,
}

/// Clients of one inquiry, and their bytes; one more may be longer.
const CLIENTS_MAX: usize = 512;
const INQUIRY_BYTES: usize = 64 << 10;
/// Clients that wait to be asked for; of more, the log is asked.
const WAITING_MAX: usize = 16_384;
/// How long an answer is waited for. A leader that is not sure of itself gives none, nor does one of an older version.
const INQUIRY_TIMEOUT: Duration = Duration::from_secs(2);

impl Inquiries {
    /// Wants to know whether a client has a session; `who` hears it, unless too many wait.
    pub(super) fn put(&mut self, client: ClientId, who: oneshot::Sender<bool>) {
        if self.waiting.len() >= WAITING_MAX {
            self.pass_over();
        }
        if self.waiting.len() < WAITING_MAX {
            self.waiting.push((client, who));
        }
    }

    /// Forgets those who have given up.
    fn pass_over(&mut self) {
        self.waiting.retain(|(_, who)| !who.is_closed());
    }

    /// The next one to be asked, if none is on its way; it counts as asked.
    pub(super) fn next(&mut self) -> Option<Inquiry> {
        if self.asked.is_some() {
            return None;
        }
        self.pass_over();
        let mut bytes = 0;
        let fits = |(client, _): &&(ClientId, _)| {
            let is_room = bytes <= INQUIRY_BYTES;
            bytes += client.as_str().len();
            is_room
        };
        let count = self.waiting.iter().take(CLIENTS_MAX).take_while(fits).count();
        if count == 0 {
            return None;
        }
        let (clients, who): (Vec<_>, Vec<_>) = self.waiting.drain(..count).unzip();
        self.last_id += 1;
        let inquiry = Inquiry { id: self.last_id, clients };
        self.asked = Some((inquiry.clone(), who));
        Some(inquiry)
    }

    /// The one that is asked, to be asked again.
    pub(super) fn asked(&self) -> Option<&Inquiry> {
        self.asked.as_ref().map(|(inquiry, _)| inquiry)
    }

    /// Tells those who wait.
    pub(super) fn answered(&mut self, Presence { id, are_present }: Presence) {
        let Some((_, who)) = self.asked.take_if(|(inquiry, _)| inquiry.id == id) else { return };
        for (who, is_present) in who.into_iter().zip(are_present) {
            // An error: it waits no more.
            let _ = who.send(is_present);
        }
    }

    /// Nobody waits any more.
    pub(super) fn clear(&mut self) {
        *self = Self { last_id: self.last_id, ..Self::default() };
    }
}

impl Shards {
    /// Whether a shard surely has nothing of a client. Asks the leader, unless this node leads and is sure; without an answer in time
    /// nothing is sure.
    pub(crate) async fn lacks(&self, shard: ShardId, client: &ClientId) -> bool {
        if let Some(is_present) = self.is_present_here(shard, client) {
            return !is_present;
        }
        let Some(line) = self.line(shard) else { return false };
        let (who, is_present) = oneshot::channel();
        line.inquire(client.clone(), who, |outgoing| self.send_all(outgoing));
        match timeout(INQUIRY_TIMEOUT, is_present).await {
            // An error: nobody is asked, or this node's life has ended.
            Ok(is_present) => is_present == Ok(false),
            Err(_) => {
                line.note_mute();
                false
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn client(name: &str) -> ClientId {
        ClientId::new(name).expect("not empty")
    }

    #[test]
    fn one_inquiry_is_on_its_way_and_the_next_one_gathers() {
        let mut inquiries = Inquiries::default();
        let put = |inquiries: &mut Inquiries, name: &str| {
            let (who, is_present) = oneshot::channel();
            inquiries.put(client(name), who);
            is_present
        };
        assert_eq!(inquiries.next(), None);
        let mut a = put(&mut inquiries, "a");
        let asked = inquiries.next().expect("one waits");
        assert_eq!(asked, Inquiry { id: 1, clients: vec![client("a")] });
        let [mut b, gone, mut c] = ["b", "gone", "c"].map(|name| put(&mut inquiries, name));
        assert_eq!((inquiries.next(), inquiries.asked()), (None, Some(&asked)));
        drop(gone);
        // Of an earlier life, perhaps.
        inquiries.answered(Presence { id: 7, are_present: vec![true] });
        assert_eq!(inquiries.asked(), Some(&asked));
        inquiries.answered(Presence { id: 1, are_present: vec![true] });
        assert_eq!(a.try_recv(), Ok(true));
        assert_eq!(inquiries.next(), Some(Inquiry { id: 2, clients: vec![client("b"), client("c")] }));
        // An answer that is too short says nothing of the others.
        inquiries.answered(Presence { id: 2, are_present: vec![false] });
        assert_eq!((b.try_recv(), c.try_recv()), (Ok(false), Err(oneshot::error::TryRecvError::Closed)));
        let mut d = put(&mut inquiries, "d");
        inquiries.clear();
        assert_eq!((d.try_recv(), inquiries.next()), (Err(oneshot::error::TryRecvError::Closed), None));
    }

    #[test]
    fn an_inquiry_is_bounded() {
        let mut inquiries = Inquiries::default();
        let mut waiting = Vec::new();
        let mut put = |inquiries: &mut Inquiries, name: &str| {
            let (who, is_present) = oneshot::channel();
            inquiries.put(client(name), who);
            waiting.push(is_present);
        };
        let long = "x".repeat(40_000);
        (0..3).for_each(|_| put(&mut inquiries, &long));
        (0..1_000).for_each(|_| put(&mut inquiries, "a"));
        let mut counts = Vec::new();
        while let Some(Inquiry { id, clients }) = inquiries.next() {
            counts.push(clients.len());
            inquiries.answered(Presence { id, are_present: vec![false; clients.len()] });
        }
        assert_eq!(counts, [2, 512, 489]);
    }

    #[test]
    fn those_who_wait_are_bounded_also_when_nobody_answers() {
        let mut inquiries = Inquiries::default();
        let mut put = || {
            let (who, is_present) = oneshot::channel();
            inquiries.put(client("a"), who);
            (is_present, inquiries.waiting.len())
        };
        // They give up before an answer comes.
        for _ in 0..WAITING_MAX {
            drop(put());
        }
        let (first, count) = put();
        assert_eq!(count, 1, "the others wait no more");
        let mut waiting: Vec<_> = (1..WAITING_MAX).map(|_| put().0).collect();
        let (mut refused, count) = put();
        assert_eq!((count, refused.try_recv()), (WAITING_MAX, Err(oneshot::error::TryRecvError::Closed)));
        waiting.push(first);
        let is_open = |is_present: &mut oneshot::Receiver<bool>| {
            is_present.try_recv() == Err(oneshot::error::TryRecvError::Empty)
        };
        assert!(waiting.iter_mut().all(is_open));
    }
}
