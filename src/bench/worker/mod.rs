//! A thread that serves many clients: the loop around [`Client`].
//!
//! Each round takes what all sockets have to say, then lets publishers send, then writes once to each connection that has something to
//! write: acknowledgements and messages go together. Everything is read into one buffer, and parsed where it lies.

mod fleet;
mod phases;
mod shared;
mod socket;
mod timer;
mod work;

pub(super) use fleet::Fleet;

use std::{
    io::{self, Read, Write},
    net::SocketAddr,
    sync::{Arc, atomic::Ordering::Relaxed},
    time::Duration,
};

use flotilla_mqtt::codec::Decoder;
use mio::{Events, Poll, Token, event::Event, net::TcpStream};

use super::{
    client::{Client, Context, Pace},
    clock::Clock,
    error::Ending,
    plan::{ClientPlan, RolePlan},
    schedule::Schedule,
    settings::Settings,
    tally::{Period, Progress, Tally},
};
use shared::{Phase, Shared};
use timer::Timer;
use work::WorkList;

/// One thread.
#[derive(Debug)]
struct Worker {
    thread: usize,
    settings: Arc<Settings>,
    shared: Arc<Shared>,
    clock: Clock,
    poll: Poll,
    events: Events,
    timer: Timer,
    /// What the timer is set to.
    timer_due: u64,
    slots: Vec<Slot>,
    /// Those of the slots that publish, in the order of the schedule.
    publishers: Vec<usize>,
    phase: Phase,
    period: Period,
    /// When connections are due, and messages; `None`: as soon as they can.
    connects: Option<Schedule>,
    messages: Option<Schedule>,
    next_connect: usize,
    next_message: u64,
    /// How many connections are in progress, and may be.
    connecting: u32,
    connecting_max: u32,
    /// Who may be able to send, and who has something to write.
    sending: WorkList,
    writing: WorkList,
    decoder: Decoder,
    scratch: Vec<u8>,
    deliveries: Vec<(u32, u32)>,
    /// Threads whose publishers were waiting for what has arrived here.
    to_wake: Vec<bool>,
    ticked_at: u64,
    tally: Tally,
    reported: Progress,
    open: usize,
}

/// A client and its socket.
#[derive(Debug)]
struct Slot {
    client: Client,
    broker: SocketAddr,
    /// Its number among all clients of the thread's plan, for the local address.
    number: usize,
    stream: Option<TcpStream>,
    /// The beginning of a packet.
    rest: Vec<u8>,
    is_connecting: bool,
    can_write: bool,
    /// There may be something to read that was left, for the broker does not take our answers.
    is_unread: bool,
    /// Its place in `publishers`, and its flow where it has one.
    publisher: Option<u64>,
    flow: Option<u32>,
}

impl Worker {
    /// Runs until everybody has left.
    fn run(mut self) -> io::Result<Tally> {
        while self.phase != Phase::Leave {
            self.round()?;
        }
        self.leave()?;
        if let Some(messages) = &self.messages {
            let due = |time| messages.due_before(time);
            self.tally.measured.due = due(self.period.until).saturating_sub(due(self.period.from));
        }
        Ok(self.tally)
    }

    fn round(&mut self) -> io::Result<()> {
        let timeout = self.timeout()?;
        self.poll(timeout)?;
        let phase = self.shared.phase();
        // Behind the phase, for what is measured is known before anybody sends.
        self.period = self.shared.period();
        self.enter(phase);
        self.connect_more();
        self.handle_due();
        if self.clock.now().saturating_sub(self.ticked_at) >= TICK {
            self.tick();
        }
        self.send();
        self.write_all();
        self.report();
        Ok(())
    }

    /// Waits for sockets, and takes what they have to say.
    fn poll(&mut self, timeout: Duration) -> io::Result<()> {
        let mut events = std::mem::replace(&mut self.events, Events::with_capacity(0));
        let polled = match self.poll.poll(&mut events, Some(timeout)) {
            Err(error) if error.kind() == io::ErrorKind::Interrupted => Ok(()),
            polled => polled,
        };
        // Before anything is read: another thread's messages may be the first that are meant for it.
        self.period = self.shared.period();
        if polled.is_ok() {
            for event in &events {
                match event.token() {
                    TIMER => {}
                    WAKER => self.publishers.iter().for_each(|index| self.sending.insert(*index)),
                    Token(index) => self.handle_event(index, event),
                }
            }
        }
        self.events = events;
        polled
    }

    fn handle_event(&mut self, index: usize, event: &Event) {
        // Nothing more is told about a socket that is closed: then it is read to its end.
        let is_closed = event.is_read_closed() || event.is_error();
        let is_writable = event.is_writable() || event.is_error();
        let slot = &mut self.slots[index];
        let Some(stream) = &slot.stream else { return };
        if is_writable && !slot.can_write {
            if slot.is_connecting {
                match socket::is_connected(stream) {
                    Ok(true) => {}
                    Ok(false) => return,
                    Err(error) => {
                        let broker = slot.broker;
                        return self.end(index, &Ending::Connect { broker, error });
                    }
                }
            }
            slot.can_write = true;
            self.with(index, |client, cx| client.handle_open(cx));
            self.writing.insert(index);
        }
        if is_closed || event.is_readable() {
            self.read(index, is_closed);
        }
    }

    /// Reads until there is no more; `to_end`: until the socket says so.
    fn read(&mut self, index: usize, to_end: bool) {
        let mut scratch = std::mem::take(&mut self.scratch);
        // Less than there was room for: the socket is empty, and tells when it no longer is.
        while self.read_once(index, &mut scratch).is_some_and(|is_full| is_full || to_end) {}
        self.scratch = scratch;
    }

    /// Whether there was as much as there was room for; `None`: there was nothing, or is nobody.
    fn read_once(&mut self, index: usize, scratch: &mut [u8]) -> Option<bool> {
        let slot = &mut self.slots[index];
        let Some(stream) = &mut slot.stream else { return None };
        slot.is_unread = slot.client.is_congested();
        if slot.is_unread {
            return None;
        }
        // The beginning of a packet comes first, and leaves room behind it: no packet fills the buffer.
        let kept = slot.rest.len();
        scratch[..kept].copy_from_slice(&slot.rest);
        let read = match stream.read(&mut scratch[kept..]) {
            Ok(0) => {
                self.end(index, &Ending::Closed);
                return None;
            }
            Ok(read) => read,
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => return None,
            Err(error) if error.kind() == io::ErrorKind::Interrupted => return Some(true),
            Err(error) => {
                self.end(index, &Ending::Lost(error));
                return None;
            }
        };
        let end = kept + read;
        let taken = self.with(index, |client, cx| client.handle_input(&scratch[..end], cx))?;
        let slot = &mut self.slots[index];
        slot.rest.clear();
        slot.rest.extend_from_slice(&scratch[taken..end]);
        if slot.publisher.is_some() {
            self.sending.insert(index);
        }
        Some(end == scratch.len())
    }

    /// Has a client do something. What it wants to write is written at the end of the round; `None`: it is at its end.
    fn with<R>(
        &mut self,
        index: usize,
        act: impl FnOnce(&mut Client, &mut Context<'_>) -> Result<R, Ending>,
    ) -> Option<R> {
        let slot = &mut self.slots[index];
        let mut context = Context {
            settings: &self.settings,
            decoder: self.decoder,
            now: self.clock.now(),
            period: self.period,
            tally: &mut self.tally,
            deliveries: &mut self.deliveries,
        };
        let result = act(&mut slot.client, &mut context);
        if slot.is_connecting && slot.client.is_connected() {
            slot.is_connecting = false;
            self.connecting -= 1;
        }
        if !slot.client.output().is_empty() {
            self.writing.insert(index);
        }
        if !self.deliveries.is_empty() {
            self.deliver();
        }
        result.map_err(|ending| self.end(index, &ending)).ok()
    }

    /// Publishers may send again when their messages have arrived.
    fn deliver(&mut self) {
        if self.is_windowed() {
            for (flow, count) in &self.deliveries {
                let Some(delivered) = self.shared.delivered.get(*flow as usize) else { continue };
                delivered.fetch_add(u64::from(*count), Relaxed);
                match self.shared.owners[*flow as usize] {
                    Some(owner) if owner.thread == self.thread => self.sending.insert(owner.client),
                    Some(owner) => self.to_wake[owner.thread] = true,
                    None => {}
                }
            }
        }
        self.deliveries.clear();
    }

    fn is_windowed(&self) -> bool {
        self.settings.traffic.rate.is_none() && self.settings.traffic.window.is_some()
    }

    fn send(&mut self) {
        let list = self.sending.take();
        if self.phase == Phase::Send {
            for index in &list {
                let pace = self.pace(*index);
                self.with(*index, |client, cx| client.send(&pace, cx));
            }
        }
        self.sending.put_back(list);
    }

    fn pace(&self, index: usize) -> Pace {
        let slot = &self.slots[index];
        let traffic = &self.settings.traffic;
        match (&self.messages, slot.publisher, slot.flow, traffic.window) {
            (Some(schedule), Some(publisher), _, _) => Pace::Schedule { schedule: *schedule, publisher },
            (None, Some(_), Some(flow), Some(window)) => {
                let delivered = self.shared.delivered[flow as usize].load(Relaxed);
                Pace::Window { size: window.into(), delivered, fan: self.shared.fan }
            }
            _ => Pace::Unlimited,
        }
    }

    fn write_all(&mut self) {
        let list = self.writing.take();
        list.iter().for_each(|index| self.write(*index));
        self.writing.put_back(list);
    }

    fn write(&mut self, index: usize) {
        let slot = &mut self.slots[index];
        let was_congested = slot.client.is_congested();
        while slot.can_write && !slot.client.output().is_empty() {
            let Some(stream) = &mut slot.stream else { return };
            match stream.write(slot.client.output()) {
                Ok(written) => slot.client.handle_written(written, self.clock.now()),
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => slot.can_write = false,
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => {
                    // The broker may have said why before it closed.
                    self.read(index, true);
                    return self.end(index, &Ending::Lost(error));
                }
            }
        }
        if was_congested && !slot.client.is_congested() {
            if slot.publisher.is_some() {
                self.sending.insert(index);
            }
            if slot.is_unread {
                self.read(index, true);
            }
        }
    }

    /// Tells the others how far this thread is.
    fn report(&mut self) {
        if self.tally.progress != self.reported {
            self.shared.report(&self.reported, &self.tally.progress);
            self.reported = self.tally.progress;
        }
        for (waker, to_wake) in self.shared.wakers.iter().zip(&mut self.to_wake) {
            if std::mem::take(to_wake) {
                // A thread that cannot be woken looks within a second.
                let _ = waker.wake();
            }
        }
    }

    /// How long nothing is to be done unless a socket has something to say. What is due is told by the timer.
    fn timeout(&mut self) -> io::Result<Duration> {
        let can_connect = self.next_connect < self.slots.len() && self.connecting < self.connecting_max;
        let is_busy = !self.sending.is_empty() || !self.writing.is_empty();
        if is_busy || (can_connect && self.connects.is_none()) {
            return Ok(Duration::ZERO);
        }
        let now = self.clock.now();
        let message = self.messages.map(|messages| messages.due(self.next_message));
        let message = message.filter(|due| *due < self.period.until);
        let connect =
            self.connects.filter(|_| can_connect).map(|connects| connects.due(self.next_connect as u64));
        let Some(due) = message.into_iter().chain(connect).min() else {
            return Ok(Duration::from_nanos(TICK));
        };
        let wait = Duration::from_nanos(due.saturating_sub(now).min(TICK));
        if wait.is_zero() {
            return Ok(wait);
        }
        if self.timer_due != due {
            self.timer.set(wait)?;
            self.timer_due = due;
        }
        Ok(if cfg!(target_os = "linux") { Duration::from_nanos(TICK) } else { wait })
    }

    /// A client is gone.
    fn end(&mut self, index: usize, ending: &Ending) {
        let slot = &mut self.slots[index];
        if let Some(mut stream) = slot.stream.take() {
            // It is closed right after, which ends the registration as well.
            let _ = self.poll.registry().deregister(&mut stream);
        } else if !slot.is_connecting {
            return;
        }
        self.open -= 1;
        slot.rest = Vec::new();
        let (was_connecting, was_ready) = (std::mem::take(&mut slot.is_connecting), slot.client.is_ready());
        let was_connected = slot.client.is_connected();
        self.connecting -= u32::from(was_connecting);
        if self.phase == Phase::Leave {
            return;
        }
        let progress = &mut self.tally.progress;
        progress.failed += u64::from(!was_connected);
        progress.disconnected += u64::from(was_connected);
        progress.unready += u64::from(was_connected && !was_ready);
        self.tally.failures.note(ending);
    }
}

impl Slot {
    fn new(plan: ClientPlan, number: usize, publishers: usize, settings: &Settings) -> Result<Self, Ending> {
        let (publisher, flow) = match &plan.role {
            RolePlan::Publisher(publisher) => (Some(publishers as u64), publisher.topics.single_flow()),
            RolePlan::Subscriber(_) => (None, None),
        };
        Ok(Self {
            broker: plan.broker,
            client: Client::new(plan, settings)?,
            number,
            stream: None,
            rest: Vec::new(),
            is_connecting: false,
            can_write: false,
            is_unread: false,
            publisher,
            flow,
        })
    }
}

const WAKER: Token = Token(usize::MAX - 1);
const TIMER: Token = Token(usize::MAX - 2);
/// Nanoseconds between looks at everybody.
const TICK: u64 = 1_000_000_000;
/// How much is read at once, beyond the largest packet.
const READ_SIZE: usize = 256 * 1024;
/// Events taken at once.
const EVENTS: usize = 1_024;
