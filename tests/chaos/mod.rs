//! Many clients at once, each doing by itself what a seed tells it, and at the end of each round a look at the books.
//!
//! A round is a storm and a calm. In the storm publishers, subscribers, group members, wills, takeovers, retained
//! messages and hostile clients run on threads of their own and come and go as they like. In the calm everybody stays
//! until it has what it is owed. Then [`check`] holds what was received against what was sent, and [`quiet`] waits
//! until nothing of the round is left in the broker.
//!
//! `FLOTILLA_CHAOS_SECS` (10 unless set) says how long new rounds begin, `FLOTILLA_CHAOS_SEED` repeats the decisions of
//! a run; the seed is printed. How the threads interleave is not repeated.

mod check;
mod group;
mod hostile;
mod message;
mod order;
mod publisher;
mod quiet;
mod receiver;
mod retained;
mod subscriber;
mod takeover;
mod will;

use std::{
    collections::HashSet,
    env,
    sync::{Mutex, OnceLock, PoisonError},
    thread::{self, ScopedJoinHandle},
    time::{Duration, Instant, SystemTime},
};

use self::{
    message::{Id, Sendings},
    publisher::Publisher,
    quiet::Observer,
    random::Random,
};
use crate::harness::{Broker, DEADLINE, random};

/// One round, as its actors see it.
struct Storm<'b> {
    broker: &'b Broker,
    /// Part of all names: what comes from the round before shows. It is one of [`NAMES`], so that the memory that the
    /// broker has for names and topics can be compared.
    round: usize,
    begins: Instant,
    /// Everything that was sent, once the storm is over.
    sendings: OnceLock<Sendings>,
    /// What the members of the group have acknowledged.
    consumed: Mutex<HashSet<Id>>,
    /// Since when the group has a member that stays.
    group_since: OnceLock<Instant>,
    /// The retained messages by topic, once the storm is over.
    retained: OnceLock<retained::Values>,
}

/// How long a storm lasts.
const STORM: Duration = Duration::from_millis(1_500);
/// Memory is compared with that after the second round, so there must be a third.
const ROUNDS_MIN: usize = 3;

/// Rounds after which names repeat.
const NAMES: usize = 2;

const PUBLISHERS: usize = 6;
const SUBSCRIBERS: usize = 8;
const MEMBERS: usize = 4;

#[test]
fn many_clients_at_once() {
    let settings = [
        ("node.workers", "4"),
        ("sys.interval", "1s"),
        ("log.level", "warn"),
        // Nothing may be dropped for want of room.
        ("session.queue_messages_max", "1000000"),
        ("session.queue_bytes_max", "1GiB"),
    ];
    let Some(broker) = Broker::with(&settings) else { return };
    let seed = number_from("FLOTILLA_CHAOS_SEED").unwrap_or_else(|| {
        let now = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).expect("after 1970");
        u64::from(now.subsec_nanos()) ^ now.as_secs()
    });
    let seconds = number_from("FLOTILLA_CHAOS_SECS").unwrap_or(10);
    eprintln!("chaos: FLOTILLA_CHAOS_SEED={seed} FLOTILLA_CHAOS_SECS={seconds}");
    let mut random = Random::new(seed);
    let mut observer = Observer::new(&broker);
    let ends = Instant::now() + Duration::from_secs(seconds);
    let mut round = 0;
    while round < ROUNDS_MIN || Instant::now() < ends {
        let storm = Storm {
            broker: &broker,
            round: round % NAMES,
            begins: Instant::now(),
            sendings: OnceLock::new(),
            consumed: Mutex::default(),
            group_since: OnceLock::new(),
            retained: OnceLock::new(),
        };
        let (sent, received) = storm.run(&mut random);
        let lasted = storm.begins.elapsed();
        eprintln!("chaos: round {round}: {sent} messages, {received} deliveries, {lasted:?}");
        broker.assert_healthy();
        observer.expect_quiet(&broker);
        round += 1;
    }
    observer.assert_memory_is_bounded();
}

fn number_from(variable: &str) -> Option<u64> {
    Some(env::var(variable).ok()?.parse().unwrap_or_else(|_| panic!("{variable} is a number")))
}

impl Storm<'_> {
    /// Returns how many messages were sent, and how many came to the subscribers.
    fn run(&self, random: &mut Random) -> (usize, usize) {
        thread::scope(|scope| {
            let subscribers: Vec<_> = (0..SUBSCRIBERS)
                .map(|number| {
                    let random = random.fork();
                    scope.spawn(move || subscriber::run(self, number, random))
                })
                .collect();
            let members: Vec<_> = (0..MEMBERS)
                .map(|number| {
                    let random = random.fork();
                    scope.spawn(move || group::run(self, number, random))
                })
                .collect();
            let publishers: Vec<_> = (0..PUBLISHERS)
                .map(|number| {
                    let random = random.fork();
                    scope.spawn(move || Publisher::new(self, number, random).run())
                })
                .collect();
            let wills: Vec<_> = (0..2)
                .map(|number| {
                    let random = random.fork();
                    scope.spawn(move || will::run(self, number, random))
                })
                .collect();
            let takeovers: Vec<Vec<_>> = (0..2)
                .map(|number| {
                    let rival = |_| {
                        let random = random.fork();
                        scope.spawn(move || takeover::run(self, number, random))
                    };
                    (0..3).map(rival).collect()
                })
                .collect();
            let writers: Vec<_> = (0..2)
                .map(|number| {
                    let random = random.fork();
                    scope.spawn(move || retained::write(self, number, random))
                })
                .collect();
            let readers: Vec<_> = (0..2)
                .map(|number| {
                    let random = random.fork();
                    scope.spawn(move || retained::read(self, number, random))
                })
                .collect();
            let watcher = scope.spawn(|| retained::watch(self));
            let garbler = {
                let random = random.fork();
                scope.spawn(move || hostile::send_garbage(self, random))
            };
            let deaf = scope.spawn(|| hostile::never_read(self));

            let sendings = publishers.into_iter().chain(wills).flat_map(join).collect();
            let sendings = self.sendings.get_or_init(|| sendings);
            for (number, rivals) in takeovers.into_iter().enumerate() {
                takeover::expect_one_survivor(self, number, rivals.into_iter().map(join).collect());
            }
            self.retained.get_or_init(|| writers.into_iter().flat_map(join).collect());
            readers.into_iter().for_each(join);
            join(watcher);
            retained::expect_final(self);
            join(garbler);
            let received: Vec<_> = subscribers.into_iter().map(join).collect();
            members.into_iter().for_each(join);
            drop(join(deaf));
            for outcome in &received {
                check::subscriber(outcome, sendings);
            }
            check::group(self, sendings);
            (sendings.len(), received.iter().map(|outcome| outcome.received.len()).sum())
        })
    }

    /// Whether the storm is not over.
    fn goes_on(&self) -> bool {
        self.begins.elapsed() < STORM
    }

    /// Whether the first part of the storm is over, after which latecomers come.
    fn is_late(&self) -> bool {
        self.begins.elapsed() > STORM / 3
    }

    /// Whether the calm takes so long that somebody who is waited for must have panicked.
    fn is_lost(&self) -> bool {
        self.begins.elapsed() > STORM + 6 * DEADLINE
    }

    fn note_consumed(&self, client: &str, id: &Id) {
        if group::is_member(client) {
            self.consumed.lock().unwrap_or_else(PoisonError::into_inner).insert(id.clone());
        }
    }
}

/// Waits for an actor; its panic is the test's.
fn join<T>(actor: ScopedJoinHandle<'_, T>) -> T {
    actor.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic))
}
