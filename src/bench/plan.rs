//! Which clients a scenario has, and what each does. Pure: nothing is connected here.

use std::net::SocketAddr;

use super::{settings::Settings, wildcard};

/// The clients of a run, or of a part of it.
#[derive(Debug, Default)]
pub(super) struct Plan {
    pub(super) clients: Vec<ClientPlan>,
    /// Messages belong to flows, numbered from 0, which are counted separately.
    pub(super) flows: u32,
    /// How often a message should arrive.
    pub(super) fan: u64,
}

/// One client.
#[derive(Debug)]
pub(super) struct ClientPlan {
    pub(super) name: Name,
    pub(super) broker: SocketAddr,
    pub(super) session: SessionPlan,
    pub(super) role: RolePlan,
}

/// What tells the client identifiers of a run apart.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Name {
    kind: &'static str,
    number: u32,
}

/// What is to become of the session.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum SessionPlan {
    /// It begins and ends with the connection.
    Transient,
    /// It begins now, and stays when the connection ends.
    Begins,
    /// It is there, and stays.
    Resumes,
}

#[derive(Debug)]
pub(super) enum RolePlan {
    Subscriber(SubscriberPlan),
    Publisher(PublisherPlan),
}

#[derive(Debug)]
pub(super) struct SubscriberPlan {
    pub(super) filters: Filters,
    pub(super) expected: Expected,
}

/// What is subscribed to.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Filters {
    /// Nothing: somebody who is just there, or whose session has its subscriptions.
    None,
    One(String),
    /// Filters with wildcards, of these numbers.
    Wildcards {
        first: u32,
        count: u32,
    },
}

/// What should arrive at one subscriber.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Expected {
    Nothing,
    /// Messages of these flows, each in its order.
    Flows {
        first: u32,
        count: u32,
    },
    /// One message of each flow below `count`, in any order.
    Set {
        count: u32,
    },
}

#[derive(Debug)]
pub(super) struct PublisherPlan {
    pub(super) topics: Topics,
    pub(super) retain: bool,
    /// An empty payload: removes what is retained.
    pub(super) is_empty: bool,
    /// Messages to send; `None`: as long as it goes on.
    pub(super) limit: Option<u64>,
}

/// What is published to.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Topics {
    /// One topic, and one flow.
    Fixed { topic: String, flow: u32 },
    /// Topics that match one of so many filters with wildcards each, at random; one flow.
    Wildcards { filters: u32, flow: u32 },
    /// `{stem}/{number}` for every `step`th number from `first` on, `count` of them, in turn. Each is a flow of this number.
    Numbered { stem: &'static str, first: u32, step: u32, count: u32 },
}

impl Topics {
    /// The only flow, where there is one.
    pub(super) const fn single_flow(&self) -> Option<u32> {
        match self {
            Self::Fixed { flow, .. } | Self::Wildcards { flow, .. } => Some(*flow),
            Self::Numbered { .. } => None,
        }
    }
}

impl Name {
    /// The client identifier.
    pub(super) fn client_id(self, prefix: &str) -> String {
        format!("{prefix}-{}{}", self.kind, self.number)
    }
}

impl Plan {
    pub(super) fn connections(settings: &Settings, count: u32, subscribe: bool) -> Self {
        let filters = |number| match subscribe {
            true => Filters::One(format!("{}/connections/{number}", settings.topic_prefix)),
            false => Filters::None,
        };
        let mut plan = Self::default();
        (0..count).for_each(|number| plan.subscriber(settings, number, filters(number), Expected::Nothing));
        plan
    }

    pub(super) fn pairs(settings: &Settings, count: u32) -> Self {
        let topic = |number| format!("{}/pairs/{number}", settings.topic_prefix);
        let mut plan = Self { flows: count, fan: 1, ..Self::default() };
        for number in 0..count {
            let expected = Expected::Flows { first: number, count: 1 };
            plan.subscriber(settings, number, Filters::One(topic(number)), expected);
        }
        (0..count)
            .for_each(|flow| plan.publisher(settings, flow, Topics::Fixed { topic: topic(flow), flow }));
        plan
    }

    pub(super) fn fan_out(settings: &Settings, publishers: u32, subscribers: u32) -> Self {
        let topic = format!("{}/fan-out", settings.topic_prefix);
        let mut plan = Self { flows: publishers, fan: subscribers.into(), ..Self::default() };
        for number in 0..subscribers {
            let expected = Expected::Flows { first: 0, count: publishers };
            plan.subscriber(settings, number, Filters::One(topic.clone()), expected);
        }
        for flow in 0..publishers {
            plan.publisher(settings, flow, Topics::Fixed { topic: topic.clone(), flow });
        }
        plan
    }

    /// `members` of a shared subscription; `None`: one subscriber gets all.
    pub(super) fn fan_in(settings: &Settings, publishers: u32, members: Option<u32>) -> Self {
        let stem = format!("{}/fan-in", settings.topic_prefix);
        let filter = match members {
            Some(_) => format!("$share/bench/{stem}/#"),
            None => format!("{stem}/#"),
        };
        let mut plan = Self { flows: publishers, fan: 1, ..Self::default() };
        for number in 0..members.unwrap_or(1) {
            let expected = Expected::Flows { first: 0, count: publishers };
            plan.subscriber(settings, number, Filters::One(filter.clone()), expected);
        }
        for flow in 0..publishers {
            plan.publisher(settings, flow, Topics::Fixed { topic: format!("{stem}/{flow}"), flow });
        }
        plan
    }

    pub(super) fn wildcard(settings: &Settings, filters: u32, subscribers: u32, publishers: u32) -> Self {
        let mut plan = Self { flows: publishers, fan: 1, ..Self::default() };
        for number in 0..subscribers {
            let (first, count) = part(filters, subscribers, number);
            let expected = Expected::Flows { first: 0, count: publishers };
            plan.subscriber(settings, number, Filters::Wildcards { first, count }, expected);
        }
        (0..publishers).for_each(|flow| plan.publisher(settings, flow, Topics::Wildcards { filters, flow }));
        plan
    }

    /// Those who set retained messages, or remove them.
    pub(super) fn retained_publishers(
        settings: &Settings,
        messages: u32,
        publishers: u32,
        remove: bool,
    ) -> Self {
        let mut plan = Self { flows: messages, ..Self::default() };
        plan.numbered_publishers(settings, "retained", messages, publishers, 1);
        for client in &mut plan.clients {
            if let RolePlan::Publisher(publisher) = &mut client.role {
                (publisher.retain, publisher.is_empty) = (true, remove);
            }
        }
        plan
    }

    pub(super) fn retained_subscribers(settings: &Settings, messages: u32, subscribers: u32) -> Self {
        let filter = format!("{}/retained/#", settings.topic_prefix);
        let mut plan = Self { flows: messages, fan: subscribers.into(), ..Self::default() };
        for number in 0..subscribers {
            let expected = Expected::Set { count: messages };
            plan.subscriber(settings, number, Filters::One(filter.clone()), expected);
        }
        plan
    }

    /// Those whose sessions begin, resume or end.
    pub(super) fn offline_subscribers(settings: &Settings, sessions: u32, session: SessionPlan) -> Self {
        let mut plan = Self { flows: sessions, fan: 1, ..Self::default() };
        for number in 0..sessions {
            let filters = match session {
                SessionPlan::Begins => Filters::One(format!("{}/offline/{number}", settings.topic_prefix)),
                SessionPlan::Resumes | SessionPlan::Transient => Filters::None,
            };
            plan.subscriber(settings, number, filters, Expected::Flows { first: number, count: 1 });
        }
        plan.clients.iter_mut().for_each(|client| client.session = session);
        plan
    }

    pub(super) fn offline_publishers(
        settings: &Settings,
        sessions: u32,
        messages: u32,
        publishers: u32,
    ) -> Self {
        let mut plan = Self { flows: sessions, ..Self::default() };
        plan.numbered_publishers(settings, "offline", sessions, publishers, messages);
        plan
    }

    /// Divides the clients between threads. Where a flow has one subscriber, both its ends are on one thread.
    pub(super) fn divide(self, threads: usize) -> Division {
        let mut division = Division {
            shares: (0..threads).map(|_| Vec::new()).collect(),
            owners: vec![None; self.flows as usize],
        };
        for (index, client) in self.clients.into_iter().enumerate() {
            let flow = match &client.role {
                RolePlan::Publisher(publisher) => publisher.topics.single_flow(),
                RolePlan::Subscriber(SubscriberPlan {
                    expected: Expected::Flows { first, count: 1 },
                    ..
                }) if self.flows > 1 => Some(*first),
                RolePlan::Subscriber(_) => None,
            };
            let thread = flow.map_or(index, |flow| flow as usize) % threads;
            let share = &mut division.shares[thread];
            if let (RolePlan::Publisher(_), Some(flow)) = (&client.role, flow) {
                division.owners[flow as usize] = Some(Owner { thread, client: share.len() });
            }
            share.push(client);
        }
        division
    }

    fn numbered_publishers(
        &mut self,
        settings: &Settings,
        stem: &'static str,
        topics: u32,
        publishers: u32,
        rounds: u32,
    ) {
        let step = publishers.min(topics);
        for first in 0..step {
            let count = (topics - first).div_ceil(step);
            self.publisher(settings, first, Topics::Numbered { stem, first, step, count });
            if let Some(ClientPlan { role: RolePlan::Publisher(publisher), .. }) = self.clients.last_mut() {
                publisher.limit = Some(u64::from(count) * u64::from(rounds));
            }
        }
    }

    fn subscriber(&mut self, settings: &Settings, number: u32, filters: Filters, expected: Expected) {
        let role = RolePlan::Subscriber(SubscriberPlan { filters, expected });
        self.client(&settings.brokers.subscribers, Name { kind: "s", number }, role);
    }

    fn publisher(&mut self, settings: &Settings, number: u32, topics: Topics) {
        let role = RolePlan::Publisher(PublisherPlan { topics, retain: false, is_empty: false, limit: None });
        self.client(&settings.brokers.publishers, Name { kind: "p", number }, role);
    }

    fn client(&mut self, brokers: &[SocketAddr], name: Name, role: RolePlan) {
        let broker = brokers[name.number as usize % brokers.len()];
        self.clients.push(ClientPlan { name, broker, session: SessionPlan::Transient, role });
    }
}

/// A plan, divided between threads.
#[derive(Debug)]
pub(super) struct Division {
    pub(super) shares: Vec<Vec<ClientPlan>>,
    /// Who publishes each flow, where that is one client.
    pub(super) owners: Vec<Option<Owner>>,
}

/// Where a client is: on which thread, and there which.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Owner {
    pub(super) thread: usize,
    pub(super) client: usize,
}

impl Filters {
    /// How many there are.
    pub(super) const fn count(&self) -> u32 {
        match self {
            Self::None => 0,
            Self::One(_) => 1,
            Self::Wildcards { count, .. } => *count,
        }
    }

    /// The filter at this place.
    pub(super) fn at(&self, index: u32, topic_prefix: &str) -> String {
        match self {
            Self::None => String::new(),
            Self::One(filter) => filter.clone(),
            Self::Wildcards { first, .. } => wildcard::filter(topic_prefix, first + index),
        }
    }
}

/// Where the part with this number begins, of `whole` divided as evenly as it can be, and how large it is.
fn part(whole: u32, parts: u32, number: u32) -> (u32, u32) {
    let begin = |number: u32| u64::from(whole) * u64::from(number) / u64::from(parts);
    let (first, end) = (begin(number), begin(number + 1));
    // Both are at most `whole`.
    (u32::try_from(first).unwrap_or(whole), u32::try_from(end - first).unwrap_or(0))
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use flotilla_mqtt::topic::{TopicFilter, matches};

    use super::*;
    use crate::bench::settings::tests::settings;

    /// How many clients there are to send and to receive.
    fn roles(plan: &Plan) -> (usize, usize) {
        let is_publisher = |client: &&ClientPlan| matches!(client.role, RolePlan::Publisher(_));
        let publishers = plan.clients.iter().filter(is_publisher).count();
        (publishers, plan.clients.len() - publishers)
    }

    /// What each topic of a plan with fixed topics reaches: how many subscribers.
    fn reach(plan: &Plan) -> Vec<usize> {
        let filters = plan.clients.iter().filter_map(|client| match &client.role {
            RolePlan::Subscriber(subscriber) => Some(subscriber.filters.at(0, "t")),
            RolePlan::Publisher(_) => None,
        });
        let filters: Vec<_> = filters.collect();
        let topics = plan.clients.iter().filter_map(|client| match &client.role {
            RolePlan::Publisher(PublisherPlan { topics: Topics::Fixed { topic, .. }, .. }) => Some(topic),
            _ => None,
        });
        let is_reached = |filter: &str, topic: &str| {
            let filter = filter.strip_prefix("$share/bench/").unwrap_or(filter);
            TopicFilter::parse(filter, 128).is_ok() && matches(filter, topic)
        };
        topics.map(|topic| filters.iter().filter(|filter| is_reached(filter, topic)).count()).collect()
    }

    #[test]
    fn messages_reach_whom_they_should() {
        let settings = settings();
        let check = |plan: &Plan, expected_roles, expected_reach: usize| {
            assert_eq!(roles(plan), expected_roles);
            assert!(reach(plan).iter().all(|count| *count == expected_reach), "{:?}", reach(plan));
        };
        check(&Plan::pairs(&settings, 5), (5, 5), 1);
        check(&Plan::fan_out(&settings, 2, 7), (2, 7), 7);
        check(&Plan::fan_in(&settings, 6, None), (6, 1), 1);
        check(&Plan::fan_in(&settings, 6, Some(3)), (6, 3), 3);
        check(&Plan::connections(&settings, 4, true), (0, 4), 0);
    }

    #[test]
    fn client_identifiers_differ() {
        let settings = settings();
        for plan in [Plan::pairs(&settings, 20), Plan::wildcard(&settings, 9, 4, 3)] {
            let mut names: Vec<_> = plan.clients.iter().map(|client| client.name.client_id("x")).collect();
            names.sort();
            names.dedup();
            assert_eq!(names.len(), plan.clients.len());
        }
    }

    #[test]
    fn every_filter_is_subscribed_once() {
        let plan = Plan::wildcard(&settings(), 1_003, 10, 2);
        let mut next = 0;
        for client in &plan.clients {
            if let RolePlan::Subscriber(SubscriberPlan {
                filters: Filters::Wildcards { first, count }, ..
            }) = &client.role
            {
                assert_eq!(*first, next);
                assert!((100..=101).contains(count));
                next += count;
            }
        }
        assert_eq!(next, 1_003);
    }

    #[test]
    fn every_session_gets_its_messages_from_one_publisher() {
        for (sessions, publishers) in [(10, 3), (3, 10), (7, 7), (1, 1)] {
            let plan = Plan::offline_publishers(&settings(), sessions, 6, publishers);
            let mut messages = BTreeMap::new();
            for client in &plan.clients {
                let RolePlan::Publisher(publisher) = &client.role else { panic!("nobody subscribes") };
                let Topics::Numbered { first, step, count, .. } = publisher.topics else { panic!() };
                assert_eq!(publisher.limit, Some(u64::from(count) * 6));
                (0..count).for_each(|index| *messages.entry(first + index * step).or_insert(0) += 1);
            }
            assert_eq!(
                messages.into_iter().collect::<Vec<_>>(),
                (0..sessions).map(|n| (n, 1)).collect::<Vec<_>>()
            );
        }
    }

    #[test]
    fn both_ends_of_a_pair_are_on_one_thread() {
        let division = Plan::pairs(&settings(), 10).divide(3);
        for (thread, share) in division.shares.iter().enumerate() {
            assert!(share.len() >= 6);
            for (index, client) in share.iter().enumerate() {
                let flow = match &client.role {
                    RolePlan::Subscriber(SubscriberPlan {
                        expected: Expected::Flows { first, .. }, ..
                    }) => *first,
                    RolePlan::Publisher(publisher) => {
                        let flow = publisher.topics.single_flow().unwrap();
                        assert_eq!(division.owners[flow as usize], Some(Owner { thread, client: index }));
                        flow
                    }
                    RolePlan::Subscriber(_) => panic!("each expects a flow"),
                };
                assert_eq!(flow as usize % 3, thread);
            }
        }
    }

    #[test]
    fn nodes_of_a_cluster_take_turns() {
        let mut settings = settings();
        settings.brokers.publishers = vec!["127.0.0.1:1".parse().unwrap()];
        settings.brokers.subscribers = vec!["127.0.0.1:2".parse().unwrap(), "127.0.0.1:3".parse().unwrap()];
        let plan = Plan::pairs(&settings, 2);
        let ports: Vec<_> = plan.clients.iter().map(|client| client.broker.port()).collect();
        assert_eq!(ports, [2, 3, 1, 1]);
    }
}
