//! Whom the cluster lets in nowhere, for the check of every CONNECT.

use std::{
    collections::HashSet,
    net::IpAddr,
    sync::atomic::{AtomicU64, AtomicUsize, Ordering},
};

use flotilla_state::{BanKind, Banned};
use parking_lot::RwLock;

/// Who is banned. A node without a cluster knows of nobody.
#[derive(Debug, Default)]
pub(crate) struct Bans {
    names: RwLock<Names>,
    /// How many there are: nearly always none, and then nobody has to look further.
    count: AtomicUsize,
    /// Counts the bans that have come.
    generation: AtomicU64,
}

#[derive(Debug, Default)]
struct Names {
    client_ids: HashSet<Box<str>>,
    usernames: HashSet<Box<str>>,
    peer_hosts: HashSet<IpAddr>,
}

impl Bans {
    /// Whether a client may not connect.
    pub(crate) fn cover(&self, client_id: &str, username: Option<&str>, peer_host: IpAddr) -> bool {
        if self.count.load(Ordering::Acquire) == 0 {
            return false;
        }
        let names = self.names.read();
        names.client_ids.contains(client_id)
            || username.is_some_and(|username| names.usernames.contains(username))
            || (!names.peer_hosts.is_empty() && names.peer_hosts.contains(&peer_host.to_canonical()))
    }

    /// Whoever connects from now on is turned away; who is connected is the caller's business.
    pub(crate) fn add(&self, banned: &Banned) {
        self.change(|names| names.add(banned));
        self.generation.fetch_add(1, Ordering::Release);
    }

    pub(crate) fn lift(&self, banned: &Banned) {
        self.change(|names| names.remove(banned));
    }

    /// These are banned, and nobody else; whether there is any.
    pub(crate) fn replace(&self, all: impl Iterator<Item = Banned>) -> bool {
        let mut replaced = Names::default();
        all.for_each(|banned| replaced.add(&banned));
        self.change(|names| *names = replaced);
        self.generation.fetch_add(1, Ordering::Release);
        self.count.load(Ordering::Acquire) > 0
    }

    /// A number that is higher after each ban that has come.
    pub(crate) fn generation(&self) -> u64 {
        self.generation.load(Ordering::Acquire)
    }

    fn change(&self, change: impl FnOnce(&mut Names)) {
        let mut names = self.names.write();
        change(&mut names);
        self.count.store(names.len(), Ordering::Release);
    }
}

impl Names {
    fn add(&mut self, banned: &Banned) {
        match banned.kind() {
            BanKind::ClientId => drop(self.client_ids.insert(banned.who().into())),
            BanKind::Username => drop(self.usernames.insert(banned.who().into())),
            BanKind::PeerHost => self.peer_hosts.extend(banned.peer_host()),
        }
    }

    fn remove(&mut self, banned: &Banned) {
        match banned.kind() {
            BanKind::ClientId => drop(self.client_ids.remove(banned.who())),
            BanKind::Username => drop(self.usernames.remove(banned.who())),
            BanKind::PeerHost => {
                banned.peer_host().map(|address| self.peer_hosts.remove(&address));
            }
        }
    }

    fn len(&self) -> usize {
        self.client_ids.len() + self.usernames.len() + self.peer_hosts.len()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_client_is_known_by_any_of_its_names() {
        let bans = Bans::default();
        let client = |client_id: &str, username: Option<&str>, host: &str| {
            bans.cover(client_id, username, host.parse().unwrap())
        };
        assert!(!client("c", Some("u"), "192.0.2.7"));
        let all = [(BanKind::ClientId, "c"), (BanKind::Username, "u"), (BanKind::PeerHost, "192.0.2.7")];
        let all = all.map(|(kind, who)| Banned::new(kind, who).unwrap());
        all.iter().for_each(|banned| bans.add(banned));
        assert!(client("c", None, "192.0.2.8"));
        assert!(client("d", Some("u"), "192.0.2.8"));
        assert!(client("d", None, "192.0.2.7"));
        assert!(client("d", None, "::ffff:192.0.2.7"), "the same address at a listener of both families");
        // Each name is one of its kind only.
        assert!(!client("u", Some("c"), "192.0.2.8"));
        all.iter().for_each(|banned| bans.lift(banned));
        assert!(!client("c", Some("u"), "192.0.2.7"));
        assert_eq!(bans.count.load(Ordering::Relaxed), 0);
    }

    #[test]
    fn a_snapshot_replaces_all() {
        let bans = Bans::default();
        let banned = |who| Banned::new(BanKind::ClientId, who).unwrap();
        bans.add(&banned("a"));
        let before = bans.generation();
        assert!(bans.replace([banned("b")].into_iter()));
        assert!(bans.generation() > before);
        let covers = |client_id| bans.cover(client_id, None, IpAddr::from([192, 0, 2, 7]));
        assert!(covers("b") && !covers("a"));
        assert!(!bans.replace(std::iter::empty()));
        assert!(!covers("b"));
    }
}
