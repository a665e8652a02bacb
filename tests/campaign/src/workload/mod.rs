//! What clients do: the workloads of the campaign, each a file of its own unless it is nothing but publishers and receivers.

mod hostile;
mod retained;
mod sessions;
mod wills;

use std::{str::FromStr, sync::Arc};

use tokio::task::JoinSet;

use crate::{
    check,
    harness::random::Random,
    history::{Violation, Wanted},
    publisher::Publisher,
    receiver::Receiver,
    shelf::Shelf,
    world::{World, lock},
};

use retained::Registers;
use sessions::Sessions;
use wills::Wills;

/// W1 to W6 and W9. W7, members that come and go, is a fault; W8 is a long time.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Workload {
    Unique,
    Offline,
    Retained,
    Sessions,
    Shared,
    Wills,
    Hostile,
}

impl Workload {
    pub(crate) const ALL: [(Self, &'static str, &'static str); 7] = [
        (Self::Unique, "unique", "W1: publishers and persistent subscribers that come and go"),
        (Self::Offline, "offline", "W2: subscribers that are away and come back at the end"),
        (Self::Retained, "retained", "W3: retained messages set, deleted and read on all nodes"),
        (Self::Sessions, "sessions", "W4: sessions that end, expire and are taken over"),
        (Self::Shared, "shared", "W5: members of shared subscriptions"),
        (Self::Wills, "wills", "W6: connections that end in every way"),
        (Self::Hostile, "hostile", "W9: clients that mean no good, beside the others"),
    ];
}

impl FromStr for Workload {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let is_it = |(_, name, about): &&(Self, &str, &str)| {
            *name == text || about.split_once(':').is_some_and(|(row, _)| row.eq_ignore_ascii_case(text))
        };
        let found = Self::ALL.iter().find(is_it).map(|(workload, ..)| *workload);
        found.ok_or_else(|| {
            format!("no workload is called {text:?}; W7 is the fault churn, and W8 a long time")
        })
    }
}

/// How many clients of each kind.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Sizes {
    pub(crate) publishers: u16,
    pub(crate) offline: usize,
}

/// The histories of a round, in the making.
#[derive(Debug)]
pub(crate) struct Crew {
    unique: Arc<Shelf>,
    offline: Arc<Shelf>,
    groups: [Arc<Shelf>; 2],
    registers: Arc<Registers>,
    sessions: Arc<Sessions>,
    wills: Arc<Wills>,
}

impl Crew {
    /// Sets the clients of these workloads going.
    pub(crate) fn start(
        world: &Arc<World>,
        workloads: &[Workload],
        sizes: Sizes,
        random: &mut Random,
        tasks: &mut JoinSet<()>,
    ) -> Self {
        let crew = Self {
            unique: Arc::default(),
            offline: Arc::default(),
            groups: [Arc::default(), Arc::default()],
            registers: Registers::new(world),
            sessions: Arc::default(),
            wills: Arc::default(),
        };
        for workload in workloads {
            match workload {
                Workload::Unique => crew.unique(world, sizes, random, tasks),
                Workload::Offline => crew.offline(world, sizes, random, tasks),
                Workload::Retained => retained::start(world, &crew.registers, random, tasks),
                Workload::Sessions => sessions::start(world, &crew.sessions, random, tasks),
                Workload::Shared => crew.shared(world, sizes, random, tasks),
                Workload::Wills => wills::start(world, &crew.wills, random, tasks),
                Workload::Hostile => hostile::start(world, random, tasks),
            }
        }
        crew
    }

    fn unique(&self, world: &Arc<World>, sizes: Sizes, random: &mut Random, tasks: &mut JoinSet<()>) {
        let root = world.name("w1");
        for number in 0..2 * world.doors().len() {
            let qos = if number % 2 == 0 { 1 } else { 2 };
            let (client, filter) = (format!("w1-sub{number}"), format!("{root}/#"));
            let subscriber =
                Receiver::new(world, &self.unique, &client, &filter, Wanted::All, qos, random.fork());
            tasks.spawn(Arc::clone(world).track(client, subscriber.run()));
        }
        for number in 0..sizes.publishers {
            let topics = (0..4).map(|topic| format!("{root}/{topic}")).collect();
            let publisher = Publisher::new(world, &self.unique, "w1", number, topics, random.fork());
            tasks.spawn(Arc::clone(world).track(format!("w1-pub{number}"), publisher.run()));
        }
    }

    fn offline(&self, world: &Arc<World>, sizes: Sizes, random: &mut Random, tasks: &mut JoinSet<()>) {
        let root = world.name("w2");
        // An even number, so that every topic is published to at both levels by one publisher or the other.
        let topics: Vec<String> = (0..sizes.offline).map(|topic| format!("{root}/{topic}")).collect();
        for (number, topic) in topics.iter().enumerate() {
            let (client, wanted) = (format!("w2-sub{number}"), Wanted::Topic(topic.clone()));
            let qos = if number % 4 < 2 { 2 } else { 1 };
            let subscriber = Receiver::new(world, &self.offline, &client, topic, wanted, qos, random.fork());
            tasks.spawn(Arc::clone(world).track(client, subscriber.run_away()));
        }
        for number in 0..sizes.publishers {
            let publisher = Publisher::new(world, &self.offline, "w2", number, topics.clone(), random.fork());
            tasks.spawn(Arc::clone(world).track(format!("w2-pub{number}"), publisher.run()));
        }
    }

    /// One group at QoS 1, one at QoS 2.
    fn shared(&self, world: &Arc<World>, sizes: Sizes, random: &mut Random, tasks: &mut JoinSet<()>) {
        for (qos, shelf) in [1, 2].into_iter().zip(&self.groups) {
            let root = world.name(&format!("w5-qos{qos}"));
            for number in 0..world.doors().len() + 1 {
                let (client, filter) = (format!("w5-qos{qos}-sub{number}"), format!("$share/g/{root}/#"));
                let member = Receiver::new(world, shelf, &client, &filter, Wanted::All, qos, random.fork());
                tasks.spawn(Arc::clone(world).track(client, member.run()));
            }
            for number in 0..sizes.publishers.div_ceil(2) {
                // At the second topic it is QoS 2.
                let topics = (0..2).map(|topic| format!("{root}/{topic}")).collect();
                let workload = format!("w5-qos{qos}");
                let publisher = Publisher::new(world, shelf, &workload, number, topics, random.fork());
                tasks.spawn(Arc::clone(world).track(format!("{workload}-pub{number}"), publisher.run()));
            }
        }
    }

    /// What is done when everybody has got what he is owed, with the cluster whole.
    pub(crate) async fn close(&self, world: &Arc<World>, random: &mut Random) {
        self.registers.read_last(world, random).await;
    }

    /// What the checkers say.
    pub(crate) fn check(&self, world: &World) -> Vec<Violation> {
        let mut violations = Vec::new();
        for shelf in [&self.unique, &self.offline] {
            let stream = shelf.stream();
            violations.extend(check::delivery::check(&stream));
            let mut tally = world.books.tally();
            tally.repetitions += check::delivery::repetitions(&stream);
            tally.unknown_publishes(&stream);
        }
        for shelf in &self.groups {
            let stream = shelf.stream();
            violations.extend(check::group::check(&stream));
            world.books.tally().unknown_publishes(&stream);
        }
        violations.extend(self.registers.check(world));
        for (client, events) in lock(&self.sessions.events).iter() {
            violations.extend(check::session::check(client, events));
        }
        let observers = lock(&self.wills.observers.subscriptions).clone();
        if !observers.is_empty() {
            violations.extend(check::will::check(&lock(&self.wills.mortals), &observers));
        }
        violations
    }
}
