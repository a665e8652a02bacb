//! Messages that come for a session before the session itself.
//!
//! The node that a client leaves passes on what still comes for it from the moment in which it exports the session; the
//! session travels another way and may be slower.

use std::{collections::HashMap, sync::Arc};

use flotilla_mqtt::{
    Message,
    session::{ClientId, DeliveryOptions},
};
use flotilla_state::LogIndex;
use parking_lot::Mutex;

use crate::router::SessionRef;

/// A message for a session that is not here yet.
#[derive(Debug)]
pub(crate) struct Early {
    pub(crate) message: Arc<Message>,
    pub(crate) options: DeliveryOptions,
    pub(crate) stamp: LogIndex,
}

/// Those of all clients that this node has claimed and that have no session here yet.
#[derive(Debug, Default)]
pub(super) struct EarlyMessages(Mutex<HashMap<ClientId, Expected>>);

#[derive(Debug, Default)]
struct Expected {
    /// CONNECTs that wait.
    claims: usize,
    messages: Vec<Early>,
    bytes: usize,
}

/// What is kept for one client: about what its queue may hold by default.
const MESSAGES_MAX: usize = 1_000;
const BYTES_MAX: usize = 16 << 20;

impl EarlyMessages {
    /// A CONNECT of this client waits for its session.
    pub(super) fn expect(&self, client_id: &ClientId) {
        self.0.lock().entry(client_id.clone()).or_default().claims += 1;
    }

    /// The CONNECT has its session, or has come to nothing.
    pub(super) fn done(&self, client_id: &ClientId) {
        let mut expected = self.0.lock();
        let Some(entry) = expected.get_mut(client_id) else { return };
        entry.claims -= 1;
        if entry.claims == 0 {
            expected.remove(client_id);
        }
    }

    /// The session of a client that `find` finds. While it finds none and the client is expected, the message is kept.
    ///
    /// `find` looks under the lock: a session that was not there a moment ago has either not taken what was kept, or is
    /// found.
    pub(super) fn find_or_keep(
        &self,
        client_id: &ClientId,
        find: impl FnOnce() -> Option<SessionRef>,
        early: impl FnOnce() -> Early,
    ) -> Option<SessionRef> {
        let mut expected = self.0.lock();
        if let Some(session) = find() {
            return Some(session);
        }
        let entry = expected.get_mut(client_id)?;
        let early = early();
        let bytes = entry.bytes + early.message.size();
        if entry.messages.len() < MESSAGES_MAX && bytes <= BYTES_MAX {
            entry.bytes = bytes;
            entry.messages.push(early);
        }
        None
    }

    /// The messages of a client whose session is here now.
    pub(super) fn take(&self, client_id: &ClientId) -> Vec<Early> {
        let mut expected = self.0.lock();
        expected.get_mut(client_id).map(|entry| std::mem::take(&mut entry.messages)).unwrap_or_default()
    }
}

#[cfg(test)]
mod tests {
    use bytes::Bytes;
    use flotilla_mqtt::QoS;

    use super::*;

    fn early(payload: &'static [u8]) -> Early {
        let message = Message {
            topic: "t".into(),
            properties: Bytes::new(),
            payload: Bytes::from_static(payload),
            qos: QoS::AtLeastOnce,
            retain: false,
            expires_at: None,
            publisher: None,
        };
        Early { message: Arc::new(message), options: DeliveryOptions::default(), stamp: LogIndex(1) }
    }

    #[test]
    fn messages_are_kept_in_order_while_the_client_is_expected() {
        let (messages, client) = (EarlyMessages::default(), ClientId::new("c").expect("not empty"));
        let keep = |payload| messages.find_or_keep(&client, || None, || early(payload));
        keep(b"lost");
        messages.expect(&client);
        messages.expect(&client);
        keep(b"1");
        keep(b"2");
        let here = SessionRef { worker: 1, slot: 2, epoch: 3 };
        assert_eq!(messages.find_or_keep(&client, || Some(here), || early(b"found")), Some(here));
        let payloads: Vec<_> =
            messages.take(&client).iter().map(|early| early.message.payload.clone()).collect();
        assert_eq!(payloads, [&b"1"[..], b"2"]);
        messages.done(&client);
        keep(b"3");
        messages.done(&client);
        assert!(messages.take(&client).is_empty() && messages.0.lock().is_empty());
    }
}
