//! The stubs of sessions that have gone from one node to another: what still comes for a session to its old place goes to
//! the new one through them, until the routes to the new place are in force.
//!
//! A stub has two ends, and each end knows the other one's node. It ends when its last message has passed, or is void when
//! the session did not come after all, or is discarded, or when the other node ends.

use std::collections::BTreeMap;

use flotilla_mqtt::session::ClientId;
use flotilla_state::{ConnectionEpoch, LogIndex, Member};

use crate::{Output, context::Context, message::Message};

/// See the module. A stub is named by the claim under which the session went.
#[derive(Debug, Default)]
pub(crate) struct Stubs {
    /// Of sessions that went elsewhere: to whom.
    outgoing: BTreeMap<(ClientId, ConnectionEpoch), Member>,
    /// Of sessions that came from elsewhere: from whom.
    incoming: BTreeMap<(ClientId, ConnectionEpoch), Member>,
}

impl Stubs {
    pub(crate) fn len(&self) -> usize {
        self.outgoing.len() + self.incoming.len()
    }

    pub(crate) fn clear(&mut self) {
        self.outgoing.clear();
        self.incoming.clear();
    }

    /// The session has been sent.
    pub(crate) fn add_outgoing(&mut self, client: &ClientId, epoch: ConnectionEpoch, to: Member) {
        self.outgoing.insert((client.clone(), epoch), to);
    }

    /// The session has come back: the shell needs not be told.
    pub(crate) fn remove_outgoing(&mut self, client: &ClientId, epoch: ConnectionEpoch) {
        self.outgoing.remove(&(client.clone(), epoch));
    }

    /// The session has come.
    pub(crate) fn add_incoming(
        &mut self,
        context: &mut Context<'_>,
        client: &ClientId,
        epoch: ConnectionEpoch,
        from: Member,
    ) {
        if context.cluster.is_live(from) {
            self.incoming.insert((client.clone(), epoch), from);
        } else {
            context.output(Output::StubVoid { client: client.clone(), epoch });
        }
    }

    /// The session is here no more: from whom it came.
    pub(crate) fn remove_incoming(&mut self, client: &ClientId, epoch: ConnectionEpoch) -> Option<Member> {
        self.incoming.remove(&(client.clone(), epoch))
    }

    /// At this end, the last message has passed.
    pub(crate) fn handle_ended(&mut self, client: &ClientId, epoch: ConnectionEpoch) {
        let key = (client.clone(), epoch);
        self.outgoing.remove(&key);
        self.incoming.remove(&key);
    }

    /// The routes to the new place are in force here from `index` on.
    pub(crate) fn settle(
        &self,
        context: &mut Context<'_>,
        client: &ClientId,
        epoch: ConnectionEpoch,
        index: LogIndex,
    ) {
        if let Some(&previous) = self.incoming.get(&(client.clone(), epoch)) {
            context.send(previous, Message::Settle { client: client.clone(), epoch, index });
        }
    }

    /// The new owner says so.
    pub(crate) fn handle_settle(
        &self,
        context: &mut Context<'_>,
        client: &ClientId,
        epoch: ConnectionEpoch,
        index: LogIndex,
    ) {
        if let Some(&to) = self.outgoing.get(&(client.clone(), epoch)) {
            context.output(Output::Settle { client: client.clone(), epoch, to, index });
        }
    }

    /// The new owner does not wait for it, or no longer.
    pub(crate) fn handle_unstub(
        &mut self,
        context: &mut Context<'_>,
        client: &ClientId,
        epoch: ConnectionEpoch,
    ) {
        if self.outgoing.remove(&(client.clone(), epoch)).is_some() {
            context.output(Output::StubVoid { client: client.clone(), epoch });
        }
    }

    /// Members have ended, and with them the other ends.
    pub(crate) fn handle_members_ended(&mut self, context: &mut Context<'_>, ended: &[Member]) {
        for stubs in [&mut self.outgoing, &mut self.incoming] {
            stubs.retain(|(client, epoch), member| {
                let is_void = ended.contains(member);
                if is_void {
                    context.output(Output::StubVoid { client: client.clone(), epoch: *epoch });
                }
                !is_void
            });
        }
    }
}
