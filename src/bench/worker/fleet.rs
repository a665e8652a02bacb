//! All threads of a run, or of a part of it.

use std::{
    io,
    sync::Arc,
    thread::{self, JoinHandle},
    time::Duration,
};

use flotilla_mqtt::codec::Decoder;
use mio::{Events, Poll, Waker};

use super::{
    EVENTS, READ_SIZE, Slot, TIMER, WAKER, Worker,
    shared::{Phase, Shared},
    timer::Timer,
    work::WorkList,
};
use crate::bench::{
    clock::Clock,
    error::BenchError,
    plan::{ClientPlan, Plan},
    schedule::Schedule,
    settings::Settings,
    tally::{Period, Progress, Tally},
};

/// The threads. They begin to connect as soon as they are there.
#[derive(Debug)]
pub(in crate::bench) struct Fleet {
    shared: Arc<Shared>,
    threads: Vec<JoinHandle<io::Result<Tally>>>,
    clients: u64,
}

impl Fleet {
    /// # Errors
    /// There is no thread, or no file descriptor for it.
    pub(in crate::bench) fn start(
        plan: Plan,
        settings: &Arc<Settings>,
        clock: Clock,
    ) -> Result<Self, BenchError> {
        let (clients, fan) = (plan.clients.len(), plan.fan);
        let division = plan.divide(settings.threads);
        let polls: Vec<Poll> = division
            .shares
            .iter()
            .map(|_| Poll::new())
            .collect::<Result<_, _>>()
            .map_err(BenchError::Start)?;
        let wakers = polls.iter().map(|poll| Waker::new(poll.registry(), WAKER)).collect::<Result<_, _>>();
        let wakers = wakers.map_err(BenchError::Start)?;
        let shared = Arc::new(Shared::new(clock, division.owners, fan, wakers));
        let mut fleet = Self { shared, threads: Vec::new(), clients: clients as u64 };
        let (mut first, total) = (0, clients);
        for (thread, (share, poll)) in division.shares.into_iter().zip(polls).enumerate() {
            let count = share.len();
            let part = Part { thread, first, total };
            first += count;
            let worker = Worker::new(&part, share, poll, settings, &fleet.shared)?;
            let builder = thread::Builder::new().name(format!("bench-{thread}"));
            fleet.threads.push(builder.spawn(move || worker.run()).map_err(BenchError::Start)?);
        }
        Ok(fleet)
    }

    /// How many clients there are.
    pub(in crate::bench) const fn clients(&self) -> u64 {
        self.clients
    }

    /// How far they are.
    pub(in crate::bench) fn progress(&self) -> Progress {
        self.shared.progress()
    }

    /// Whether a thread has ended that should not have.
    pub(in crate::bench) fn has_failed(&self) -> bool {
        self.threads.iter().any(JoinHandle::is_finished)
    }

    /// Lets everybody subscribe.
    pub(in crate::bench) fn subscribe(&self) {
        self.shared.enter(Phase::Subscribe);
    }

    /// Lets everybody send. What is meant for the time after `warm_up` is measured; `None`: all of what follows.
    pub(in crate::bench) fn send(&self, warm_up: Duration, time: Option<Duration>) -> Period {
        let period = self.shared.begin_period(warm_up, time);
        self.shared.enter(Phase::Send);
        period
    }

    /// Sends no more, and measures no more.
    pub(in crate::bench) fn stop_sending(&self) -> Period {
        self.shared.end_period();
        self.shared.period()
    }

    /// Lets everybody leave, and gives what they counted.
    ///
    /// # Errors
    /// A thread has failed.
    pub(in crate::bench) fn finish(self) -> Result<Tally, BenchError> {
        self.shared.enter(Phase::Leave);
        let mut all = Tally::new();
        for thread in self.threads {
            let tally = thread.join().map_err(|_| BenchError::Worker("it panicked".to_owned()))?;
            all.add(&tally.map_err(|error| BenchError::Worker(error.to_string()))?);
        }
        Ok(all)
    }
}

/// Which of the threads it is, and how many clients the ones before it and all of them have.
struct Part {
    thread: usize,
    first: usize,
    total: usize,
}

impl Worker {
    #[expect(clippy::cast_precision_loss, reason = "exact beyond any number of clients")]
    fn new(
        part: &Part,
        share: Vec<ClientPlan>,
        poll: Poll,
        settings: &Arc<Settings>,
        shared: &Arc<Shared>,
    ) -> Result<Self, BenchError> {
        let (clock, threads) = (shared.clock, settings.threads);
        let mut slots = Vec::with_capacity(share.len());
        let mut publishers = Vec::new();
        for (index, plan) in share.into_iter().enumerate() {
            let slot = Slot::new(plan, part.first + index, publishers.len(), settings);
            let slot = slot.map_err(|ending| BenchError::Usage(ending.to_string()))?;
            if slot.publisher.is_some() {
                publishers.push(index);
            }
            slots.push(slot);
        }
        let count = slots.len();
        let connects = settings.connect_rate.filter(|_| count > 0).map(|rate| {
            let shift = part.thread as f64 / threads as f64;
            Schedule::new(clock.now(), rate * count as f64 / part.total as f64, 1, shift)
        });
        let packet_max =
            u32::try_from(settings.traffic.payload_len).unwrap_or(u32::MAX).saturating_add(HEADERS_MAX);
        Ok(Self {
            thread: part.thread,
            settings: Arc::clone(settings),
            shared: Arc::clone(shared),
            clock,
            timer: Timer::new(poll.registry(), TIMER).map_err(BenchError::Start)?,
            timer_due: 0,
            poll,
            events: Events::with_capacity(EVENTS),
            slots,
            publishers,
            phase: Phase::Connect,
            period: Period::ALWAYS,
            connects,
            messages: None,
            next_connect: 0,
            next_message: 0,
            connecting: 0,
            connecting_max: settings.connecting_max.div_ceil(u32::try_from(threads).unwrap_or(1)),
            sending: WorkList::new(count),
            writing: WorkList::new(count),
            decoder: Decoder::client(settings.version, packet_max),
            scratch: vec![0; packet_max as usize + READ_SIZE],
            deliveries: Vec::new(),
            to_wake: vec![false; threads],
            ticked_at: clock.now(),
            tally: Tally::new(),
            reported: Progress::default(),
            open: 0,
        })
    }
}

/// A PUBLISH without its payload is no longer than this: its topic and some room for properties.
const HEADERS_MAX: u32 = 128 * 1024;
