//! Telling the cluster what this node wants.
//!
//! Workers put changes into one queue; one task takes what has gathered, proposes it as one entry of the meta group's log,
//! and answers those who wait when it is committed. While an entry is on its way the next one gathers, so a storm of
//! SUBSCRIBEs costs hundreds of entries and not one each. The queue is bounded by those who fill it: a client's SUBACK
//! waits for its change.

use std::{
    collections::{HashMap, HashSet, VecDeque},
    sync::Arc,
    time::Duration,
};

use flotilla_mqtt::topic::TopicFilter;
use flotilla_state::{Fingerprint, RouteChange as Change, limits::CHANGES_MAX};
use parking_lot::Mutex;
use tokio::sync::{Notify, oneshot};

use super::{Completion, Receipt};
use crate::router::{Members, RouteChange};

/// The changes that the cluster has not been told.
#[derive(Debug, Default)]
pub(super) struct Announcer {
    queue: Mutex<Queue>,
    wake: Notify,
}

#[derive(Debug, Default)]
struct Queue {
    items: VecDeque<Item>,
    /// Groups in `items`, so that each is there once; its members are counted when it is proposed.
    groups: HashSet<Arc<str>>,
    /// Whether an entry is on its way.
    in_flight: bool,
    /// Fingerprints that stand for several filters of this node, and for how many besides the first. Two topics of 64-bit
    /// fingerprints hardly ever meet, but a route that one of them still needs must not go with the other.
    shared_fingerprints: HashMap<Fingerprint, u32>,
    /// What `items` and the entry on its way say last of a fingerprint; what they do not mention is as committed.
    unsettled: HashMap<Fingerprint, (bool, u32)>,
}

#[derive(Debug)]
struct Item {
    want: Want,
    done: Option<Done>,
}

#[derive(Debug)]
enum Want {
    Nothing,
    Exact(Fingerprint, bool),
    Wildcard(Box<str>, bool),
    Group(Arc<str>),
}

impl Want {
    /// The bytes of the filter that it names.
    fn text_len(&self) -> usize {
        match self {
            Self::Nothing | Self::Exact(..) => 0,
            Self::Wildcard(filter, _) => filter.len(),
            Self::Group(filter) => filter.len(),
        }
    }
}

/// Whom to tell that a change is committed.
#[derive(Debug)]
pub(super) enum Done {
    /// A session.
    Session(Completion),
    /// A task of this node.
    Task(oneshot::Sender<()>),
}

/// What goes into one entry.
#[derive(Debug, Default)]
pub(super) struct Announcement {
    pub(super) changes: Vec<Change>,
    pub(super) done: Vec<Done>,
    fingerprints: Vec<Fingerprint>,
}

/// About how many bytes of filters go into one entry: one that the log refuses would be nobody's announcement, and filters
/// may be long.
const CHANGES_BYTES: usize = 256 << 10;
/// How long changes gather before the first of them is proposed.
pub(crate) const GATHER: Duration = Duration::from_millis(2);

/// What the announcer asks of the node.
pub(super) trait Wants {
    /// The fingerprint of a filter without wildcards.
    fn fingerprint(&self, filter: &str) -> Fingerprint;
    /// Whether the cluster's state has it among the routes of this node.
    fn is_committed(&self, fingerprint: Fingerprint) -> bool;
    /// How many members a group has here.
    fn members(&self, filter: &str) -> Members;
    /// Calls `visit` with each filter that has subscribers here, and each group.
    fn for_each(&self, visit: &mut dyn FnMut(&TopicFilter, RouteChange));
}

impl Announcer {
    /// Takes a change in.
    pub(super) fn announce(
        &self,
        wants: &impl Wants,
        filter: &TopicFilter,
        change: RouteChange,
        done: Option<Completion>,
    ) -> Receipt {
        let mut queue = self.queue.lock();
        let want = queue.want(wants, filter, change);
        if matches!(want, Want::Nothing) && (done.is_none() || queue.is_idle()) {
            return Receipt::Done;
        }
        queue.push(want, done.map(Done::Session));
        drop(queue);
        self.wake.notify_one();
        Receipt::Later
    }

    /// Takes in everything that this node wants, after its routes were reset; the receiver is told when it is committed.
    pub(super) fn announce_all(&self, wants: &impl Wants) -> oneshot::Receiver<()> {
        // The queue is locked for all of it: a change that comes meanwhile must stand behind what was read before it.
        let mut queue = self.queue.lock();
        queue.forget();
        wants.for_each(&mut |filter, change| {
            let want = queue.want(wants, filter, change);
            if !matches!(want, Want::Nothing) {
                queue.push(want, None);
            }
        });
        let (done, committed) = oneshot::channel();
        queue.push(Want::Nothing, Some(Done::Task(done)));
        drop(queue);
        self.wake.notify_one();
        committed
    }

    /// Forgets what has not been told: whoever waits for it is no longer there.
    pub(super) fn clear(&self) {
        self.queue.lock().forget();
    }

    /// Waits until there is something to propose, lets more gather, and takes it.
    ///
    /// # Cancel safety
    /// Nothing is taken before it returns.
    pub(super) async fn next(&self, wants: &impl Wants) -> Announcement {
        loop {
            if !self.queue.lock().items.is_empty() {
                break;
            }
            self.wake.notified().await;
        }
        tokio::time::sleep(GATHER).await;
        self.queue.lock().take(wants)
    }

    /// An announcement is committed, or void.
    pub(super) fn settled(&self, announcement: &Announcement) {
        let mut queue = self.queue.lock();
        queue.in_flight = false;
        for fingerprint in &announcement.fingerprints {
            queue.settle(*fingerprint);
        }
    }
}

impl Queue {
    fn is_idle(&self) -> bool {
        self.items.is_empty() && !self.in_flight
    }

    /// What a change means for the cluster.
    fn want(&mut self, wants: &impl Wants, filter: &TopicFilter, change: RouteChange) -> Want {
        match change {
            RouteChange::None => Want::Nothing,
            RouteChange::Group => {
                let filter: Arc<str> = filter.as_str().into();
                if self.groups.insert(Arc::clone(&filter)) { Want::Group(filter) } else { Want::Nothing }
            }
            RouteChange::First | RouteChange::Last => {
                let add = change == RouteChange::First;
                if filter.has_wildcard() {
                    return Want::Wildcard(filter.filter().into(), add);
                }
                self.want_exact(wants, wants.fingerprint(filter.filter()), add)
            }
        }
    }

    fn want_exact(&mut self, wants: &impl Wants, fingerprint: Fingerprint, add: bool) -> Want {
        let unsettled = self.unsettled.get(&fingerprint).map(|(is_wanted, _)| *is_wanted);
        let is_wanted = unsettled.unwrap_or_else(|| wants.is_committed(fingerprint));
        if add && is_wanted {
            *self.shared_fingerprints.entry(fingerprint).or_default() += 1;
            return Want::Nothing;
        }
        if !add && let Some(others) = self.shared_fingerprints.get_mut(&fingerprint) {
            *others -= 1;
            if *others == 0 {
                self.shared_fingerprints.remove(&fingerprint);
            }
            return Want::Nothing;
        }
        let unsettled = self.unsettled.entry(fingerprint).or_default();
        *unsettled = (add, unsettled.1 + 1);
        Want::Exact(fingerprint, add)
    }

    fn settle(&mut self, fingerprint: Fingerprint) {
        if let Some((_, mentions)) = self.unsettled.get_mut(&fingerprint) {
            *mentions -= 1;
            if *mentions == 0 {
                self.unsettled.remove(&fingerprint);
            }
        }
    }

    fn push(&mut self, want: Want, done: Option<Done>) {
        self.items.push_back(Item { want, done });
    }

    fn take(&mut self, wants: &impl Wants) -> Announcement {
        let mut announcement = Announcement::default();
        let mut bytes = 0;
        while announcement.changes.len() < CHANGES_MAX && bytes < CHANGES_BYTES {
            let Some(Item { want, done }) = self.items.pop_front() else { break };
            bytes += want.text_len();
            announcement.done.extend(done);
            announcement.changes.extend(match want {
                Want::Nothing => None,
                Want::Exact(fingerprint, add) => {
                    announcement.fingerprints.push(fingerprint);
                    Some(if add { Change::AddExact(fingerprint) } else { Change::RemoveExact(fingerprint) })
                }
                Want::Wildcard(filter, true) => Some(Change::AddWildcard(filter)),
                Want::Wildcard(filter, false) => Some(Change::RemoveWildcard(filter)),
                Want::Group(filter) => {
                    self.groups.remove(&filter);
                    let Members { online, kept } = wants.members(&filter);
                    Some(Change::SetGroup { filter: (*filter).into(), online, kept })
                }
            });
        }
        self.in_flight = true;
        if self.items.capacity() > 4 * CHANGES_MAX && self.items.len() < CHANGES_MAX {
            self.items.shrink_to(CHANGES_MAX);
        }
        announcement
    }

    fn forget(&mut self) {
        self.items.clear();
        self.groups.clear();
        self.shared_fingerprints.clear();
        self.unsettled.clear();
    }
}

#[cfg(test)]
mod tests {
    use std::cell::RefCell;

    use flotilla_mqtt::PacketId;

    use super::*;
    use crate::{cluster::Awaited, router::SessionRef};

    /// A node whose fingerprints are the first byte of the filter, so that they meet.
    #[derive(Default)]
    struct Node {
        committed: RefCell<HashSet<Fingerprint>>,
        filters: Vec<&'static str>,
    }

    impl Wants for Node {
        fn fingerprint(&self, filter: &str) -> Fingerprint {
            Fingerprint::from_bits(filter.as_bytes()[0].into()).expect("not zero")
        }

        fn is_committed(&self, fingerprint: Fingerprint) -> bool {
            self.committed.borrow().contains(&fingerprint)
        }

        fn members(&self, _: &str) -> Members {
            Members { online: 2, kept: 1 }
        }

        fn for_each(&self, visit: &mut dyn FnMut(&TopicFilter, RouteChange)) {
            for text in &self.filters {
                visit(&filter(text), RouteChange::First);
            }
        }
    }

    impl Node {
        fn commit(&self, announcer: &Announcer) -> Vec<Change> {
            let announcement = announcer.queue.lock().take(self);
            for change in &announcement.changes {
                match change {
                    Change::AddExact(fingerprint) => drop(self.committed.borrow_mut().insert(*fingerprint)),
                    Change::RemoveExact(fingerprint) => drop(self.committed.borrow_mut().remove(fingerprint)),
                    _ => {}
                }
            }
            announcer.settled(&announcement);
            announcement.changes
        }
    }

    fn filter(text: &str) -> TopicFilter {
        TopicFilter::parse(text, 128).expect("valid")
    }

    fn done() -> Option<Completion> {
        let session = SessionRef { worker: 0, slot: 0, epoch: 0 };
        Some(Completion { session, what: Awaited::Routes(PacketId::MIN) })
    }

    #[test]
    fn a_fingerprint_that_two_filters_share_goes_with_the_last_of_them() {
        let (node, announcer) = (Node::default(), Announcer::default());
        let announce = |text: &str, change| announcer.announce(&node, &filter(text), change, None);
        announce("a1", RouteChange::First);
        announce("a2", RouteChange::First);
        assert_eq!(node.commit(&announcer).len(), 1);
        announce("a1", RouteChange::Last);
        assert!(node.commit(&announcer).is_empty());
        announce("a2", RouteChange::Last);
        assert!(matches!(node.commit(&announcer)[..], [Change::RemoveExact(_)]));
        announce("a3", RouteChange::First);
        assert!(matches!(node.commit(&announcer)[..], [Change::AddExact(_)]));
        assert!(announcer.queue.lock().unsettled.is_empty());
    }

    #[test]
    fn who_subscribes_to_what_is_being_announced_waits_for_it() {
        let (node, announcer) = (Node::default(), Announcer::default());
        let a = filter("a");
        assert_eq!(announcer.announce(&node, &a, RouteChange::None, done()), Receipt::Done);
        assert_eq!(announcer.announce(&node, &a, RouteChange::First, done()), Receipt::Later);
        assert_eq!(announcer.announce(&node, &a, RouteChange::None, done()), Receipt::Later);
        let announcement = announcer.queue.lock().take(&node);
        assert_eq!((announcement.changes.len(), announcement.done.len()), (1, 2));
        assert_eq!(announcer.announce(&node, &a, RouteChange::None, done()), Receipt::Later);
        announcer.settled(&announcement);
    }

    #[test]
    fn a_group_is_counted_once_for_many_changes() {
        let (node, announcer) = (Node::default(), Announcer::default());
        for _ in 0..10 {
            announcer.announce(&node, &filter("$share/g/t"), RouteChange::Group, None);
        }
        let changes = node.commit(&announcer);
        let [Change::SetGroup { filter, online: 2, kept: 1 }] = &changes[..] else { panic!("{changes:?}") };
        assert_eq!(&**filter, "$share/g/t");
    }

    #[test]
    fn long_filters_do_not_make_an_entry_that_the_log_refuses() {
        let (node, announcer) = (Node::default(), Announcer::default());
        for number in 0..100 {
            let long = format!("{number}/{}/#", "x".repeat(60_000));
            announcer.announce(&node, &filter(&long), RouteChange::First, None);
        }
        let (mut announced, mut entries) = (0, 0);
        while !announcer.queue.lock().items.is_empty() {
            let changes = node.commit(&announcer);
            let bytes: usize = changes.iter().map(|change| format!("{change:?}").len()).sum();
            assert!(bytes < 1 << 20, "{bytes}");
            (announced, entries) = (announced + changes.len(), entries + 1);
        }
        assert!(announced == 100 && entries >= 10, "{announced} in {entries}");
    }

    #[test]
    fn a_new_life_announces_everything_again() {
        let node = Node { filters: vec!["a", "b", "+/c"], ..Node::default() };
        let announcer = Announcer::default();
        announcer.announce(&node, &filter("a"), RouteChange::First, done());
        let mut committed = announcer.announce_all(&node);
        let announcement = announcer.queue.lock().take(&node);
        assert_eq!((announcement.changes.len(), announcement.done.len()), (3, 1));
        assert!(committed.try_recv().is_err());
    }
}
