//! Bans in a cluster: how they come to this node, and how an operator sets them here.

use std::time::{Instant, SystemTime};

use flotilla_mqtt::session::ClientId;
use flotilla_raft::meta::ProposeError;
use flotilla_rpc::admin;
use flotilla_state::{BANS, Ban, BanKind, Banned, ClusterState, Command, Reply, limits};

use super::member::Member;
use crate::{
    admin::AdminError,
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
                let kick = Event::Order(Order::Kick { client_id });
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

impl Member {
    /// All bans, as this node has applied them.
    pub(super) fn bans(&self) -> Vec<admin::Ban> {
        let settings = self.state.read().settings().clone();
        let told = |(key, value): (&str, &bytes::Bytes)| {
            let banned = Banned::from_key(key)?;
            // A value of a later version: who is banned is known all the same.
            let Ban { reason, by, at } = Ban::decode(value).unwrap_or_default();
            Some(admin::Ban {
                r#as: banned.kind().name().to_owned(),
                who: banned.who().to_owned(),
                reason: reason.into(),
                by: by.into(),
                at,
            })
        };
        settings.with_prefix(BANS).filter_map(told).collect()
    }

    /// Bans, or changes why and by whom.
    pub(super) async fn ban(
        &self,
        banned: &Banned,
        reason: String,
        by: String,
        deadline: Instant,
    ) -> Result<(), AdminError> {
        let since = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default();
        let at = u64::try_from(since.as_millis()).unwrap_or(u64::MAX);
        let ban = Ban { reason: reason.into(), by: by.into(), at };
        let value = ban.encode().map_err(|error| AdminError::Refused(error.to_string()))?;
        self.change(Command::SetSetting { key: banned.key().into(), value: Some(value) }, deadline).await
    }

    /// Lifts a ban.
    pub(super) async fn lift_ban(&self, banned: &Banned, deadline: Instant) -> Result<(), AdminError> {
        let change = self.change(Command::SetSetting { key: banned.key().into(), value: None }, deadline);
        change.await.map_err(|error| match error {
            AdminError::NotFound(_) => {
                AdminError::NotFound(format!("ban of {} {:?}", banned.kind(), banned.who()))
            }
            error => error,
        })
    }

    /// Proposes a change, and waits until this node has applied it.
    pub(super) async fn change(&self, command: Command, deadline: Instant) -> Result<(), AdminError> {
        match self.meta.propose(command, deadline).await {
            Ok((index, Reply::Done)) => {
                // It is committed, also where this node does not apply it in time.
                let _ = tokio::time::timeout_at(deadline.into(), self.applied.wait_for(index)).await;
                Ok(())
            }
            Ok((_, Reply::UnknownSetting)) => Err(AdminError::NotFound("such setting".to_owned())),
            Ok((_, reply)) => Err(AdminError::Refused(refusal(reply))),
            Err(ProposeError::Unknown(reason)) => Err(AdminError::Unknown(reason)),
            Err(ProposeError::Refused(reason)) => Err(AdminError::Refused(reason)),
            Err(error) => Err(AdminError::Unavailable(error.to_string())),
        }
    }
}

/// Why a setting was not changed.
fn refusal(reply: Reply) -> String {
    match reply {
        Reply::TooManySettings => format!("the cluster has {} settings already", limits::SETTINGS_MAX),
        Reply::SettingsFull => {
            format!("the settings of the cluster would have more than {} bytes", limits::SETTINGS_BYTES_MAX)
        }
        Reply::Invalid(invalid) => invalid.to_string(),
        Reply::NotCreated => "there is no cluster yet".to_owned(),
        other => format!("the cluster answers {other:?}"),
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
    use flotilla_state::LogIndex;

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
        let seat = seat_beside("x/#", Box::new(Alone));
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
