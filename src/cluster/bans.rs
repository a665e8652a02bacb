//! Bans in a cluster: how they come to this node.

use flotilla_mqtt::session::ClientId;
use flotilla_state::{BANS, BanKind, Banned, ClusterState};

use crate::{
    node::Node,
    worker::{Event, Order},
};

/// A setting has changed.
pub(super) fn note_setting(node: &Node, key: &str, state: &ClusterState) {
    if !key.starts_with(BANS) {
        return;
    }
    let Some(banned) = known(key) else { return };
    let (kind, who) = (banned.kind().name(), banned.who());
    if state.settings().value(key).is_none() {
        node.bans.lift(&banned);
        tracing::info!(r#as = kind, ?who, "a client is banned no more");
        return;
    }
    // Before its connections are closed: then none can begin that is not seen.
    node.bans.add(&banned);
    tracing::info!(r#as = kind, ?who, "a client is banned");
    match ClientId::new(who).filter(|_| banned.kind() == BanKind::ClientId) {
        Some(client_id) => {
            if let Some(session) = node.registry.find(&client_id) {
                let kick = Event::Transfer(Order::Kick { client_id });
                node.mailboxes[usize::from(session.worker)].send(kick);
            }
        }
        None => close_banned(node),
    }
}

/// The state was replaced as a whole.
pub(super) fn note_restored(node: &Node, state: &ClusterState) {
    let all = state.settings().with_prefix(BANS).filter_map(|(key, _)| known(key));
    if node.bans.replace(all) {
        close_banned(node);
    }
}

fn known(key: &str) -> Option<Banned> {
    let banned = Banned::from_key(key);
    if banned.is_none() {
        tracing::warn!(key, "a ban that this version does not know is not in force here");
    }
    banned
}

fn close_banned(node: &Node) {
    for mailbox in &node.mailboxes {
        mailbox.send(Event::Banned);
    }
}

#[cfg(test)]
mod tests {
    use std::{
        io::{Read, Write},
        net::TcpStream,
        time::Duration,
    };

    use bytes::Bytes;
    use flotilla_state::{Command, LogIndex, Reply};

    use super::*;
    use crate::{
        Broker, BrokerHandle,
        cluster::{Alone, tests::seat_beside},
        config::Config,
    };

    #[test]
    fn a_snapshot_brings_bans_and_lifts_others() {
        let broker = start();
        let mut client = connect(&broker);
        assert_eq!(connack(&mut client), [0x20, 2, 0, 0]);
        // One that a later version has set does no harm.
        note_restored(broker.node(), &state_with(&["ban/peerhost/127.0.0.1", "ban/clientid_re/%5Ea"]));
        assert_eq!(client.read(&mut [0]).expect("it is closed"), 0);
        assert_eq!(connack(&mut connect(&broker)), [0x20, 2, 0, 5]);
        let totals = broker.node().totals();
        assert_eq!((totals.client_banned, totals.client_errors), (1, 0));
        note_restored(broker.node(), &state_with(&["ban/clientid/other", "another/setting"]));
        assert_eq!(connack(&mut connect(&broker)), [0x20, 2, 0, 0]);
        broker.stop(Duration::from_secs(10));
    }

    #[test]
    fn a_ban_that_is_set_again_and_lifted_is_in_force_until_then() {
        let broker = start();
        let mut client = connect(&broker);
        assert_eq!(connack(&mut client), [0x20, 2, 0, 0]);
        let with = state_with(&["ban/clientid/c"]);
        note_setting(broker.node(), "ban/clientid/c", &with);
        assert_eq!(client.read(&mut [0]).expect("it is closed"), 0);
        note_setting(broker.node(), "ban/clientid/c", &with);
        note_setting(broker.node(), "another/setting", &with);
        assert_eq!(connack(&mut connect(&broker)), [0x20, 2, 0, 5]);
        note_setting(broker.node(), "ban/clientid/c", &state_with(&[]));
        assert_eq!(connack(&mut connect(&broker)), [0x20, 2, 0, 0]);
        broker.stop(Duration::from_secs(10));
    }

    fn start() -> BrokerHandle {
        let set = ["listeners.tcp.bind=127.0.0.1:0", "sys.interval=0s", "node.workers=2"].map(str::to_owned);
        let config = Config::load(None, [], &set).expect("it is valid");
        let seat = seat_beside("x/#", &config, Box::new(Alone));
        Broker::start_in(config, seat).expect("it starts")
    }

    /// Sends CONNECT, 3.1.1, as the client "c".
    fn connect(broker: &BrokerHandle) -> TcpStream {
        let mut client = TcpStream::connect(broker.listeners()[0].1).expect("it listens");
        client.set_read_timeout(Some(Duration::from_secs(10))).expect("not zero");
        client.write_all(b"\x10\x0d\x00\x04MQTT\x04\x02\x00\x00\x00\x01c").expect("it reads");
        client
    }

    fn connack(client: &mut TcpStream) -> [u8; 4] {
        let mut answer = [0; 4];
        client.read_exact(&mut answer).expect("it answers");
        answer
    }

    /// A state with these settings, as it comes out of a snapshot.
    fn state_with(keys: &[&str]) -> ClusterState {
        let mut state = ClusterState::new();
        let create =
            Command::Create { cluster_id: 1, name: "c".into(), shards: 1, replicas: 1, hash_seed: 1 };
        let set = |key: &&str| Command::SetSetting {
            key: (*key).into(),
            value: Some(Bytes::from_static(b"later")),
        };
        for (index, command) in (1..).map(LogIndex).zip([create].into_iter().chain(keys.iter().map(set))) {
            assert_eq!(state.apply(index, command).reply, Reply::Done);
        }
        ClusterState::restore(state.snapshot()).expect("it is a snapshot")
    }
}
