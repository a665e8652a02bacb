//! What is done a few at a time, so that those who are there get their turn in between: connections begin, and sessions end.
//!
//! Thousands of clients may come at once, and when a process or a network dies, thousands are seen to be gone at once. Either costs ten
//! times what it costs to see that it has to be done. So it is noted, and a task goes through it, which is behind all who are ready each
//! time.

use std::{
    collections::VecDeque,
    future::poll_fn,
    rc::Rc,
    task::{Poll, Waker},
};

use flotilla_mqtt::session::Cause;
use tokio::{sync::oneshot, task::yield_now};

use super::{Worker, WorkerCell, connection::LinkRef};

/// What a worker has yet to do, oldest first. There is one for each of its sockets at most.
#[derive(Debug, Default)]
pub(super) struct Turns {
    /// Clients that have gone.
    leaving: VecDeque<LinkRef>,
    /// Connections whose CONNECT is there.
    arriving: VecDeque<oneshot::Sender<()>>,
    /// Connections that have begun in this turn.
    begun: usize,
    /// Wakes the task that goes through it.
    waker: Option<Waker>,
}

/// Connections that begin in a turn.
const BEGINNINGS: usize = 16;

/// Ends and begins what is to be, a few each time.
pub(super) async fn take_turns(cell: Rc<WorkerCell>) {
    loop {
        poll_fn(|cx| {
            let mut worker = cell.worker.borrow_mut();
            if worker.turns.is_idle() {
                worker.turns.waker = Some(cx.waker().clone());
                return Poll::Pending;
            }
            Poll::Ready(())
        })
        .await;
        cell.with_turn(Worker::end_next);
        cell.with(|worker| worker.turns.begin_next());
        yield_now().await;
    }
}

/// Waits until a connection, whose CONNECT is there, may begin.
pub(super) async fn await_turn(cell: &WorkerCell) {
    let waiting = cell.with(|worker| worker.turns.queue_up());
    if let Some(turn) = waiting {
        // It cannot fail: the worker, which has the other end, is borrowed from the same cell.
        let _ = turn.await;
    }
}

impl Turns {
    fn is_idle(&self) -> bool {
        self.leaving.is_empty() && self.arriving.is_empty() && self.begun == 0
    }

    fn wake(&mut self) {
        if let Some(waker) = self.waker.take() {
            waker.wake();
        }
    }

    /// One more connection wants to begin; `None`: it may at once.
    fn queue_up(&mut self) -> Option<oneshot::Receiver<()>> {
        self.wake();
        if self.begun < BEGINNINGS {
            self.begun += 1;
            return None;
        }
        let (sender, turn) = oneshot::channel();
        self.arriving.push_back(sender);
        Some(turn)
    }

    /// Another turn: lets those begin who have waited longest.
    fn begin_next(&mut self) {
        self.begun = 0;
        while self.begun < BEGINNINGS
            && let Some(next) = self.arriving.pop_front()
        {
            // Who does not wait any more has had no time to send its CONNECT, or has gone.
            self.begun += usize::from(next.send(()).is_ok());
        }
    }
}

impl Worker {
    /// The client of a connection has gone: nothing more is read from it, and its session ends in its turn.
    pub(super) fn leave(&mut self, at: LinkRef, cause: Cause) {
        let Some(link) = self.link(at) else { return };
        link.left = Some(cause);
        self.turns.leaving.push_back(at);
        self.turns.wake();
    }

    /// Ends the session of the client that went first; whether there was one.
    fn end_next(&mut self) -> bool {
        let Some(LinkRef { slot, epoch }) = self.turns.leaving.pop_front() else { return false };
        // It may have been taken over meanwhile.
        if let Some(cause) = self.sessions.entry_of(slot, epoch).and_then(|entry| entry.link.left) {
            self.guard(slot, |worker| worker.end_link(slot, cause));
        }
        true
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn so_many_begin_in_a_turn_and_the_others_in_the_order_in_which_they_came() {
        let mut turns = Turns::default();
        for _ in 0..BEGINNINGS {
            assert!(turns.queue_up().is_none());
        }
        let mut waiting: Vec<_> = (0..2 * BEGINNINGS).map(|_| turns.queue_up().expect("it waits")).collect();
        let begun = |waiting: &mut [oneshot::Receiver<()>]| -> Vec<usize> {
            (0..waiting.len()).filter(|number| waiting[*number].try_recv().is_ok()).collect()
        };
        assert!(begun(&mut waiting).is_empty());
        // Who has gone takes nobody's turn.
        drop(waiting.remove(0));
        turns.begin_next();
        assert_eq!(begun(&mut waiting), (0..BEGINNINGS).collect::<Vec<_>>());
        // Nobody begins before those who wait.
        let mut late = turns.queue_up().expect("the turn has its connections");
        turns.begin_next();
        assert_eq!(begun(&mut waiting), (BEGINNINGS..2 * BEGINNINGS - 1).collect::<Vec<_>>());
        assert!(late.try_recv().is_ok());
        turns.begin_next();
        assert!(turns.is_idle() && turns.queue_up().is_none());
    }
}
