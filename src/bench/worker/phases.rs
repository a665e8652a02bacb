//! What a thread does when the phase changes, and what it does because of the time.

use std::{io, net::Shutdown, sync::atomic::Ordering::Relaxed, time::Duration};

use mio::{Interest, Token};

use super::{Worker, shared::Phase, socket};
use crate::bench::{error::Ending, schedule::Schedule};

impl Worker {
    /// The phase is this one from here on.
    pub(super) fn enter(&mut self, phase: Phase) {
        if phase == self.phase {
            return;
        }
        self.phase = phase;
        match phase {
            Phase::Connect | Phase::Leave => {}
            Phase::Subscribe => {
                for index in 0..self.slots.len() {
                    self.with(index, |client, cx| client.subscribe(cx));
                }
            }
            Phase::Send => {
                self.messages = self.message_schedule();
                self.publishers.iter().for_each(|index| self.sending.insert(*index));
            }
        }
    }

    /// This thread's part of the messages of `--rate`.
    #[expect(clippy::cast_precision_loss, reason = "exact beyond any number of clients")]
    fn message_schedule(&self) -> Option<Schedule> {
        let publishers = self.publishers.len();
        let all = self.shared.owners.iter().flatten().count();
        let rate = self.settings.traffic.rate.filter(|_| publishers > 0)?;
        let shift = self.thread as f64 / self.settings.threads as f64;
        let start = self.shared.start.load(Relaxed);
        Some(Schedule::new(start, rate * publishers as f64 / all as f64, publishers as u64, shift))
    }

    /// Begins as many connections as may be in progress, and are due.
    pub(super) fn connect_more(&mut self) {
        while self.phase != Phase::Leave
            && self.next_connect < self.slots.len()
            && self.connecting < self.connecting_max
            && self.connects.is_none_or(|connects| connects.due(self.next_connect as u64) <= self.clock.now())
        {
            let index = self.next_connect;
            self.next_connect += 1;
            self.connecting += 1;
            let slot = &mut self.slots[index];
            slot.is_connecting = true;
            slot.client.handle_begun(self.clock.now());
            let local = self.settings.local_addresses.pick(slot.number, slot.broker);
            let begun = socket::connect(slot.broker, local).and_then(|mut stream| {
                let interest = Interest::READABLE | Interest::WRITABLE;
                self.poll.registry().register(&mut stream, Token(index), interest)?;
                Ok(stream)
            });
            self.open += 1;
            match begun {
                Ok(stream) => slot.stream = Some(stream),
                Err(error) => {
                    let broker = slot.broker;
                    self.end(index, &Ending::Connect { broker, error });
                }
            }
        }
    }

    /// Publishers whose messages are due may send.
    pub(super) fn handle_due(&mut self) {
        let Some(messages) = &self.messages else { return };
        let now = self.clock.now().min(self.period.until);
        // Whoever could not send for a while is called once for each message, which costs no more than to find out how often.
        while messages.due(self.next_message) <= now {
            let publisher = usize::try_from(messages.publisher(self.next_message)).unwrap_or(0);
            self.sending.insert(self.publishers[publisher]);
            self.next_message += 1;
        }
    }

    /// Once a second, looks at everybody.
    pub(super) fn tick(&mut self) {
        self.ticked_at = self.clock.now();
        for index in 0..self.next_connect {
            if self.slots[index].stream.is_some() {
                let pace = self.pace(index);
                self.with(index, |client, cx| client.tick(&pace, cx));
            }
            if self.slots[index].publisher.is_some() {
                self.sending.insert(index);
            }
        }
    }

    /// Says goodbye for everybody, and waits shortly until the broker has taken it.
    ///
    /// # Errors
    /// The poll does not work.
    pub(super) fn leave(&mut self) -> io::Result<()> {
        let deadline = self.clock.now() + LEAVE_TIME;
        for index in 0..self.next_connect {
            let version = self.settings.version;
            if self.slots[index].stream.is_some() {
                self.with(index, |client, _| client.disconnect(version));
                self.writing.insert(index);
            }
        }
        while self.open > 0 && self.clock.now() < deadline {
            let list = self.writing.take();
            for index in &list {
                self.write(*index);
                self.shut_down(*index);
            }
            self.writing.put_back(list);
            if self.open > 0 {
                self.poll(Duration::from_millis(100))?;
            }
        }
        self.report();
        Ok(())
    }

    /// Nothing more is sent. The broker closes when it has read everything.
    fn shut_down(&mut self, index: usize) {
        let slot = &self.slots[index];
        let Some(stream) = &slot.stream else { return };
        let is_unheard = slot.is_connecting || stream.shutdown(Shutdown::Write).is_err();
        if slot.client.output().is_empty() && is_unheard {
            self.end(index, &Ending::Closed);
        }
    }
}

/// Nanoseconds that all may take to leave.
const LEAVE_TIME: u64 = 2_000_000_000;
