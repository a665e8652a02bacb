//! The clients whose session or connection is on this node, and those sessions of them that are on their way to another one.
//!
//! A session goes in three steps: the shell is asked for it, it is sent while a copy stays, and the new owner says that it has
//! it. Before that it can be taken back, for a new owner that gives up or ends leaves it where it was.
//!
//! # Invariants
//!
//! * A client is here from the moment in which the shell is told that it is granted, until the shell releases it, its new
//!   owner has it, or the registrar has it discarded.
//! * A session that was sent is in the end either taken, or taken back and then the client's again.
//! * Nobody who asks for a session stays without an answer: it gets one, or gives up itself.
//!
//! It does not know of claims. What this node's own claim of a client must hear is returned, as [`News`].

mod export;
mod owned;
mod stubs;

use std::collections::{BTreeMap, BTreeSet};

use bytes::Bytes;
use flotilla_mqtt::session::ClientId;
use flotilla_state::{ConnectionEpoch, Member, ShardId};

use crate::{
    KeptWill, Output, RequestId, Source, Tenure,
    context::Context,
    message::{Entry, Hold, Message, Origin},
    own_will::OwnWill,
};
use export::{Export, ExportStage, send_session};
use owned::Owned;

pub(crate) use export::Wanted;
pub(crate) use stubs::Stubs;

/// See the module.
#[derive(Debug, Default)]
pub(crate) struct Owner {
    owned: BTreeMap<ClientId, Owned>,
    stubs: Stubs,
}

/// What this node's own claim of a client must hear: see [`Claimant::handle_news`](crate::claimant::Claimant::handle_news).
#[derive(Debug, Clone, Copy)]
pub(crate) enum News {
    /// The client is here for the claim that was granted under `epoch`.
    Here { epoch: ConnectionEpoch },
    /// Nothing is here for the claim that was granted under `epoch`.
    Nothing { epoch: ConnectionEpoch },
    /// Another node asks for the session: the client is no longer settled.
    Leaving,
    /// The client is here no more. Who has asked for its session meanwhile is answered after this has been heard.
    Gone { next: Option<Wanted> },
}

/// A client that begins, or goes on, to be here.
#[derive(Debug)]
pub(crate) struct Arrival {
    pub(crate) request: RequestId,
    pub(crate) tenure: Tenure,
    pub(crate) clean_start: bool,
    pub(crate) will: Option<Box<OwnWill>>,
    pub(crate) hand: Hand,
}

/// What a claim has brought.
#[derive(Debug)]
pub(crate) enum Hand {
    /// The client was here before.
    Local {
        /// The claim that it had before, if it is another one.
        previous: Option<Hold>,
    },
    /// No session.
    Nothing { origin: Option<Origin> },
    /// A session, whose previous owner keeps a copy.
    Session { previous: Hold, session: Bytes },
}

impl Owner {
    pub(crate) fn len(&self) -> usize {
        self.owned.len()
    }

    /// What is left of sessions that have gone elsewhere or come from there.
    pub(crate) fn stubs(&self) -> &Stubs {
        &self.stubs
    }

    pub(crate) fn stubs_mut(&mut self) -> &mut Stubs {
        &mut self.stubs
    }

    // For this node's own claims.

    /// The tenure of a client that is here so that a claim of this node is none of the others' business.
    pub(crate) fn settled(&self, client: &ClientId) -> Option<Tenure> {
        let owned = self.owned.get(client)?;
        owned.is_settled().then_some(owned.tenure)
    }

    /// A claim is granted, and its will is kept.
    pub(crate) fn begin(&mut self, context: &mut Context<'_>, client: &ClientId, arrival: Arrival) {
        let Arrival { request, tenure, clean_start, will, hand } = arrival;
        let epoch = tenure.epoch;
        let mut before = self.owned.remove(client);
        if !matches!(hand, Hand::Local { .. })
            && let Some(before) = before.take()
        {
            before.give_way(context, client);
        }
        let mut owned = Owned::new(tenure, clean_start, will);
        let source = match hand {
            Hand::Local { previous } => {
                if let Some(before) = before {
                    owned.follow(context, client, before, previous.is_none());
                }
                if previous.is_some() {
                    owned.origin = None;
                    confirm(context, client, epoch, true, clean_start);
                }
                Source::Here
            }
            Hand::Nothing { origin } => {
                owned.origin = origin.map(Box::new);
                let handed = origin.is_some_and(|origin| origin.handed);
                confirm(context, client, epoch, handed, clean_start);
                Source::Nowhere
            }
            Hand::Session { previous, session } => {
                owned.origin = Some(Box::new(Origin { previous, handed: true }));
                let from = previous.member;
                if clean_start {
                    // It had already been asked for when the client changed its mind.
                    context.send(from, Message::Taken { client: client.clone(), epoch, wants_stub: false });
                    confirm(context, client, epoch, true, clean_start);
                    Source::Nowhere
                } else {
                    owned.importing = Some(from);
                    Source::Elsewhere { from, session }
                }
            }
        };
        let from = if let Source::Elsewhere { from, .. } = source { Some(from) } else { None };
        self.owned.insert(client.clone(), owned);
        context.output(Output::Granted { request, client: client.clone(), tenure, source });
        if let Some(from) = from {
            self.stubs.add_incoming(context, client, epoch, from);
        }
    }

    /// At its keepers, the will of a claim that came to nothing may have taken the place of that of the connection.
    pub(crate) fn place_will_again(&mut self, context: &mut Context<'_>, client: &ClientId) {
        if let Some(owned) = self.owned.get_mut(client)
            && let Some(will) = &mut owned.will
        {
            will.place_again(context, client, owned.tenure);
        }
    }

    /// This node's own claim waited for its own export, and does no more.
    pub(crate) fn forget_wanted(&mut self, client: &ClientId, epoch: ConnectionEpoch) {
        if let Some(owned) = self.owned.get_mut(client)
            && let Some(export) = &mut owned.export
        {
            export.forget_wanted(epoch);
        }
    }

    // Calls of the shell.

    pub(crate) fn handle_imported(&mut self, context: &mut Context<'_>, client: &ClientId, tenure: Tenure) {
        let Some(owned) = self.owned.get_mut(client) else { return };
        // A takeover within the node may have come meanwhile.
        if owned.tenure.epoch != tenure.epoch {
            return;
        }
        let Some(previous) = owned.importing.take() else { return };
        owned.registered = true;
        let epoch = tenure.epoch;
        context.send(previous, Message::Taken { client: client.clone(), epoch, wants_stub: true });
        confirm(context, client, epoch, true, owned.clean);
    }

    #[must_use]
    pub(crate) fn release(
        &mut self,
        context: &mut Context<'_>,
        client: &ClientId,
        tenure: Tenure,
    ) -> Option<News> {
        let owned = self.owned.get(client)?;
        if owned.tenure != tenure || owned.export.is_some() {
            // Somebody else has it by now, or `handle_exported` will say that it has ended.
            return None;
        }
        let epoch = tenure.epoch;
        if let Some(previous) = owned.importing {
            context.send(previous, Message::Cancel { client: client.clone(), epoch });
            self.stubs.remove_incoming(client, epoch);
        }
        self.remove(context, client, true, None)
    }

    pub(crate) fn keep_will(
        &mut self,
        context: &mut Context<'_>,
        client: &ClientId,
        tenure: Tenure,
        will: Option<KeptWill>,
    ) {
        let Some(owned) = self.owned.get_mut(client).filter(|owned| owned.tenure == tenure) else { return };
        let before = owned.will.take();
        match will {
            None => {
                if let Some(will) = before {
                    will.drop_everywhere(context, client, tenure);
                }
            }
            Some(will) => {
                let mut will = OwnWill::new(will);
                will.replace(before.map(|before| *before));
                will.place(context, client, tenure);
                owned.will = Some(Box::new(will));
            }
        }
    }

    pub(crate) fn delay_will(&mut self, context: &mut Context<'_>, client: &ClientId, tenure: Tenure) {
        let Some(owned) = self.owned.get_mut(client).filter(|owned| owned.tenure == tenure) else { return };
        if let Some(will) = &mut owned.will {
            will.begin_delay(context, client, tenure);
        }
    }

    #[must_use]
    pub(crate) fn handle_exported(
        &mut self,
        context: &mut Context<'_>,
        client: &ClientId,
        epoch: ConnectionEpoch,
        session: Option<Bytes>,
    ) -> Option<News> {
        let owned = self.owned.get_mut(client);
        let asked = owned.and_then(|owned| match owned.export.as_deref() {
            Some(Export { epoch: asked, to, stage: ExportStage::Asked { cancelled, next } })
                if *asked == epoch =>
            {
                let (cancelled, next, to) = (*cancelled, *next, *to);
                Some((owned, cancelled, next, to))
            }
            _ => None,
        });
        let Some((owned, cancelled, next, to)) = asked else {
            if session.is_some() {
                // The client was discarded while the shell exported it: neither the copy nor the stub is for anybody.
                context.output(Output::StubVoid { client: client.clone(), epoch });
            }
            return None;
        };
        let is_wanted = !cancelled && next.is_none();
        if let Some(will) = owned.will.take() {
            // It has been published or dropped with the connection.
            will.drop_everywhere(context, client, owned.tenure);
        }
        match session {
            Some(session) if is_wanted => {
                owned.export = Some(Box::new(Export { epoch, to, stage: ExportStage::Sent }));
                self.stubs.add_outgoing(client, epoch, to);
                send_session(context, client, epoch, to, session);
                None
            }
            Some(_) => {
                owned.export = None;
                context.output(Output::TakeBack { client: client.clone(), epoch });
                if !owned.registered {
                    register(context, client, owned.tenure.epoch);
                }
                self.hand_over(context, client, next?)
            }
            None => {
                let is_awaited = next.is_some() || !cancelled;
                let wanted = next.unwrap_or(Wanted { by: to, epoch, discard: false });
                self.remove(context, client, true, is_awaited.then_some(wanted))
            }
        }
    }

    /// While this node is no member: a session has ended.
    pub(crate) fn forget(&mut self, client: &ClientId, tenure: Tenure) {
        if self.owned.get(client).is_some_and(|owned| owned.tenure == tenure) {
            self.owned.remove(client);
        }
    }

    // Messages of the registrar.

    pub(crate) fn handle_registered(&mut self, client: &ClientId, epoch: ConnectionEpoch) {
        if let Some(owned) = self.owned.get_mut(client).filter(|owned| owned.tenure.epoch == epoch) {
            owned.registered = true;
        }
    }

    #[must_use]
    pub(crate) fn handle_discard(
        &mut self,
        context: &mut Context<'_>,
        client: &ClientId,
        epoch: ConnectionEpoch,
    ) -> Option<News> {
        let owned = self.owned.get(client).filter(|owned| owned.tenure.epoch == epoch)?;
        let next = match owned.export.as_deref() {
            Some(&Export { epoch, stage: ExportStage::Sent, .. }) => {
                // Somebody has it who had it from the new owner, or is the new owner.
                context.output(Output::Taken { client: client.clone(), epoch });
                None
            }
            export => {
                context.output(Output::Discard { client: client.clone(), tenure: owned.tenure });
                export.map(|export| Wanted { by: export.to, epoch: export.epoch, discard: false })
            }
        };
        self.remove(context, client, false, next)
    }

    // Messages of the new owner.

    /// Somebody, who may be this node, has been granted a client that is here.
    #[must_use]
    pub(crate) fn hand_over(
        &mut self,
        context: &mut Context<'_>,
        client: &ClientId,
        wanted: Wanted,
    ) -> Option<News> {
        let Some(owned) = self.owned.get_mut(client) else {
            return hand_nothing(context, client, wanted);
        };
        if wanted.epoch <= owned.tenure.epoch {
            // It has been given up, or this node would not own a later one.
            return None;
        }
        match &mut owned.export {
            None => self.begin_export(context, client, wanted),
            Some(export) if wanted.epoch <= export.epoch => None,
            Some(export) => match &mut export.stage {
                ExportStage::Asked { next, .. } => {
                    // Claims of one client are granted one after the other: the first one has been given up.
                    if next.is_none_or(|next| next.epoch < wanted.epoch) {
                        *next = Some(wanted);
                    }
                    None
                }
                ExportStage::Sent => {
                    self.take_back(context, client);
                    self.begin_export(context, client, wanted)
                }
            },
        }
    }

    pub(crate) fn handle_cancel(
        &mut self,
        context: &mut Context<'_>,
        client: &ClientId,
        epoch: ConnectionEpoch,
    ) {
        let Some(owned) = self.owned.get_mut(client) else { return };
        let Some(export) = owned.export.as_mut().filter(|export| export.epoch == epoch) else { return };
        match &mut export.stage {
            ExportStage::Asked { cancelled, .. } => *cancelled = true,
            ExportStage::Sent => self.take_back(context, client),
        }
    }

    #[must_use]
    pub(crate) fn handle_taken(
        &mut self,
        context: &mut Context<'_>,
        client: &ClientId,
        epoch: ConnectionEpoch,
        wants_stub: bool,
    ) -> Option<News> {
        let mut news = None;
        let export = self.owned.get(client).and_then(|owned| owned.export.as_deref());
        if export.is_some_and(|export| export.epoch == epoch && export.is_sent()) {
            context.output(Output::Taken { client: client.clone(), epoch });
            // A registrar that took office in between may know this node as the owner, if the new one has gone since.
            news = self.remove(context, client, true, None);
        }
        if !wants_stub {
            self.stubs.handle_unstub(context, client, epoch);
        }
        news
    }

    // Messages of the keepers.

    pub(crate) fn handle_kept(
        &mut self,
        context: &mut Context<'_>,
        from: Member,
        client: &ClientId,
        tenure: Tenure,
    ) {
        if let Some(owned) = self.owned.get_mut(client)
            && owned.tenure == tenure
            && let Some(will) = &mut owned.will
        {
            will.handle_kept(context, client, tenure, from);
        }
    }

    // Changes of the cluster.

    /// The lease is lost or this life is over: what is between two nodes is not this node's any more. Away sessions stay.
    pub(crate) fn handle_fenced(&mut self, mut output: impl FnMut(Output)) {
        self.stubs.clear();
        self.owned.retain(|client, owned| {
            owned.registered = false;
            owned.is_from_before = true;
            owned.will = None;
            owned.origin = None;
            // Which of the two has it is not for this one to say: the other one lives.
            let is_mine = owned.export.is_none() && owned.importing.is_none();
            if !is_mine {
                output(Output::Discard { client: client.clone(), tenure: owned.tenure });
            }
            is_mine
        });
    }

    /// Members have ended.
    pub(crate) fn handle_ended(&mut self, context: &mut Context<'_>, ended: &[Member]) {
        let voided: Vec<ClientId> = self
            .owned
            .iter_mut()
            .filter_map(|(client, owned)| owned.export.as_mut()?.handle_ended(ended).then(|| client.clone()))
            .collect();
        for client in voided {
            let Some(owned) = self.owned.get_mut(&client) else { continue };
            // The registrar may have known the new owner: it has to say whether this one still counts.
            owned.registered = false;
            let epoch = owned.tenure.epoch;
            self.take_back(context, &client);
            register(context, &client, epoch);
        }
        self.stubs.handle_members_ended(context, ended);
    }

    /// The keepers of some shards are others now.
    pub(crate) fn move_wills(&mut self, context: &mut Context<'_>, shards: &BTreeSet<ShardId>) {
        for (client, owned) in &mut self.owned {
            if let Some(will) = &mut owned.will
                && shards.contains(&context.cluster.shard_of(client))
            {
                will.place(context, client, owned.tenure);
            }
        }
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
                let entry = Entry { client: client.clone(), epoch: owned.tenure.epoch, role: owned.role() };
                entries.entry(shard).or_default().push(entry);
            }
        }
    }

    // Steps.

    fn begin_export(&mut self, context: &mut Context<'_>, client: &ClientId, wanted: Wanted) -> Option<News> {
        let Wanted { by, epoch, discard } = wanted;
        if by == context.me {
            return Some(News::Here { epoch });
        }
        self.owned.get_mut(client)?.export = Some(Box::new(Export::new(wanted)));
        context.output(Output::Export { client: client.clone(), epoch, to: by, discard });
        Some(News::Leaving)
    }

    /// The copy of a session that was sent becomes the session again.
    fn take_back(&mut self, context: &mut Context<'_>, client: &ClientId) {
        let Some(owned) = self.owned.get_mut(client) else { return };
        let Some(export) = owned.export.take() else { return };
        self.stubs.remove_outgoing(client, export.epoch);
        context.output(Output::TakeBack { client: client.clone(), epoch: export.epoch });
    }

    /// Forgets a client that is here no more; `next` waits for its session.
    fn remove(
        &mut self,
        context: &mut Context<'_>,
        client: &ClientId,
        tell_registrar: bool,
        next: Option<Wanted>,
    ) -> Option<News> {
        let owned = self.owned.remove(client)?;
        let Tenure { epoch, .. } = owned.tenure;
        if let Some(will) = owned.will {
            will.drop_everywhere(context, client, owned.tenure);
        }
        if owned.export.is_none_or(|export| !export.is_sent())
            && let Some(previous) = self.stubs.remove_incoming(client, epoch)
        {
            context.send(previous, Message::Unstub { client: client.clone(), epoch });
        }
        if tell_registrar {
            context.send_registrar(client, Message::Release { client: client.clone(), epoch });
        }
        Some(News::Gone { next })
    }
}

fn hand_nothing(context: &mut Context<'_>, client: &ClientId, wanted: Wanted) -> Option<News> {
    let Wanted { by, epoch, .. } = wanted;
    if by == context.me {
        return Some(News::Nothing { epoch });
    }
    context.send(by, Message::Handed { client: client.clone(), epoch, part: None, more: false });
    None
}

fn confirm(context: &mut Context<'_>, client: &ClientId, epoch: ConnectionEpoch, handed: bool, clean: bool) {
    context.send_registrar(client, Message::Confirm { client: client.clone(), epoch, handed, clean });
}

fn register(context: &mut Context<'_>, client: &ClientId, epoch: ConnectionEpoch) {
    context.send_registrar(client, Message::Register { client: client.clone(), epoch });
}
