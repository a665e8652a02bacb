//! The clients whose connection is on this node.
//!
//! # Invariants
//!
//! * A client is here from the moment in which the shell is told that it is granted, until the shell says that its connection
//!   has ended, or the registrar has it discarded.
//! * Nobody who asks for a client stays without an answer: it gets one, or gives up itself.
//!
//! It does not know of claims.

use std::collections::{BTreeMap, BTreeSet};

use flotilla_mqtt::session::ClientId;
use flotilla_state::{ConnectionEpoch, ShardId};

use crate::{
    Output, RequestId, Tenure,
    context::Context,
    message::{Entry, EntryRole, Hold, Message},
};

/// See the module.
#[derive(Debug, Default)]
pub(crate) struct Owner {
    owned: BTreeMap<ClientId, Owned>,
}

/// A client whose connection is here.
#[derive(Debug)]
struct Owned {
    tenure: Tenure,
    /// It is from an older life of this node: somebody else may have the client by now, and a claim must ask.
    is_from_before: bool,
    /// Set while the shell closes the connection for another node.
    closing: Option<Box<Closing>>,
}

#[derive(Debug)]
struct Closing {
    /// The claim that the shell was told of.
    told: ConnectionEpoch,
    /// Who waits for it.
    wanted: Hold,
}

impl Owner {
    pub(crate) fn len(&self) -> usize {
        self.owned.len()
    }

    // For this node's own claims.

    /// The tenure of a client that is here so that a claim of this node is none of the others' business.
    pub(crate) fn settled(&self, client: &ClientId) -> Option<Tenure> {
        let owned = self.owned.get(client)?;
        (!owned.is_from_before && owned.closing.is_none()).then_some(owned.tenure)
    }

    /// A claim has the client.
    pub(crate) fn begin(
        &mut self,
        context: &mut Context<'_>,
        request: RequestId,
        client: &ClientId,
        tenure: Tenure,
    ) {
        let owned = Owned { tenure, is_from_before: false, closing: None };
        let before = self.owned.insert(client.clone(), owned);
        let Tenure { epoch, .. } = tenure;
        if before.is_none_or(|before| before.tenure.epoch != epoch) {
            context.send_registrar(client, Message::Confirm { client: client.clone(), epoch });
        }
        context.output(Output::Granted { request, client: client.clone(), tenure });
    }

    // Calls of the shell.

    pub(crate) fn release(&mut self, context: &mut Context<'_>, client: &ClientId, tenure: Tenure) {
        // One that is being closed may still have something on its way: `handle_closed` will tell.
        if self.owned.get(client).is_some_and(|owned| owned.tenure == tenure && owned.closing.is_none()) {
            self.remove(context, client);
        }
    }

    pub(crate) fn handle_closed(
        &mut self,
        context: &mut Context<'_>,
        client: &ClientId,
        epoch: ConnectionEpoch,
    ) {
        let closing = self.owned.get(client).and_then(|owned| owned.closing.as_deref());
        if let Some(&Closing { wanted, .. }) = closing.filter(|closing| closing.told == epoch) {
            self.remove(context, client);
            hand(context, client, wanted);
        }
    }

    /// While this node is no member: a connection has ended.
    pub(crate) fn forget(&mut self, client: &ClientId, tenure: Tenure) {
        if self.owned.get(client).is_some_and(|owned| owned.tenure == tenure) {
            self.owned.remove(client);
        }
    }

    // Messages of the registrar.

    pub(crate) fn handle_discard(
        &mut self,
        context: &mut Context<'_>,
        client: &ClientId,
        epoch: ConnectionEpoch,
    ) {
        let owned = self.owned.get(client).filter(|owned| owned.tenure.epoch == epoch);
        // One that is being closed is as good as gone, and somebody waits until it is.
        if let Some(&Owned { tenure, closing: None, .. }) = owned {
            self.owned.remove(client);
            context.output(Output::Discard { client: client.clone(), tenure });
        }
    }

    // Messages of the new owner.

    /// Another member has been granted a client that was here.
    pub(crate) fn hand_over(&mut self, context: &mut Context<'_>, client: &ClientId, wanted: Hold) {
        let Some(owned) = self.owned.get_mut(client) else { return hand(context, client, wanted) };
        if wanted.epoch <= owned.tenure.epoch {
            // It has been given up, or this node would not have a later one.
            return;
        }
        match &mut owned.closing {
            // Claims of one client are granted one after the other: the earlier one has been given up.
            Some(closing) if closing.wanted.epoch < wanted.epoch => closing.wanted = wanted,
            Some(_) => {}
            None => {
                let Hold { epoch, .. } = wanted;
                owned.closing = Some(Box::new(Closing { told: epoch, wanted }));
                context.output(Output::Close { client: client.clone(), epoch });
            }
        }
    }

    // Changes of the cluster.

    /// The lease is lost or this life is over: the shell ends the connections, and tells of each. Whoever waits for one has
    /// been told of the end of this life.
    pub(crate) fn handle_fenced(&mut self, mut output: impl FnMut(Output)) {
        self.owned.retain(|client, owned| {
            owned.is_from_before = true;
            if owned.closing.is_some() {
                output(Output::Discard { client: client.clone(), tenure: owned.tenure });
            }
            owned.closing.is_none()
        });
    }

    /// Adds what this node has in some shards.
    pub(crate) fn report(
        &self,
        context: &Context<'_>,
        shards: &BTreeSet<ShardId>,
        entries: &mut BTreeMap<ShardId, Vec<Entry>>,
    ) {
        for (client, owned) in &self.owned {
            let shard = context.cluster.shard_of(client);
            if shards.contains(&shard) {
                let role = EntryRole::Owner { registered: !owned.is_from_before };
                let entry = Entry { client: client.clone(), epoch: owned.tenure.epoch, role };
                entries.entry(shard).or_default().push(entry);
            }
        }
    }

    /// Forgets a client that is here no more.
    fn remove(&mut self, context: &mut Context<'_>, client: &ClientId) {
        if let Some(owned) = self.owned.remove(client) {
            let Tenure { epoch, .. } = owned.tenure;
            context.send_registrar(client, Message::Release { client: client.clone(), epoch });
        }
    }
}

/// Tells whoever waits for a client that it is not here.
fn hand(context: &mut Context<'_>, client: &ClientId, wanted: Hold) {
    let Hold { member, epoch } = wanted;
    context.send(member, Message::Handed { client: client.clone(), epoch });
}
