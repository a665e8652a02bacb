//! What this node knows of a client that is here.

use flotilla_mqtt::session::ClientId;
use flotilla_state::Member;

use super::export::Export;
use crate::{
    Output, Tenure,
    context::Context,
    message::{EntryRole, Origin, Past},
    own_will::OwnWill,
};

/// A client whose session or connection is here.
#[derive(Debug)]
pub(super) struct Owned {
    pub(super) tenure: Tenure,
    /// A registrar knows. While none does, somebody else may have the client, and a claim must ask.
    pub(super) registered: bool,
    /// It is from an older life of this node: the next claim tells the registrar that the client is back, for the will.
    pub(super) is_from_before: bool,
    /// The previous owner, until the shell has imported its session.
    pub(super) importing: Option<Member>,
    pub(super) origin: Option<Box<Origin>>,
    /// The claim that brought the client here started clean.
    pub(super) clean: bool,
    pub(super) will: Option<Box<OwnWill>>,
    pub(super) export: Option<Box<Export>>,
}

impl Owned {
    pub(super) fn new(tenure: Tenure, clean: bool, will: Option<Box<OwnWill>>) -> Self {
        Self {
            tenure,
            registered: true,
            is_from_before: false,
            importing: None,
            origin: None,
            clean,
            will,
            export: None,
        }
    }

    /// The client was here before, under a claim that this one follows, or under the same one.
    pub(super) fn follow(
        &mut self,
        context: &mut Context<'_>,
        client: &ClientId,
        before: Self,
        is_same_claim: bool,
    ) {
        self.importing = before.importing;
        self.registered = before.registered || !is_same_claim;
        self.origin = before.origin;
        if is_same_claim {
            self.clean = before.clean;
        }
        let Some(old) = before.will else { return };
        match &mut self.will {
            Some(will) => {
                will.replace(Some(*old));
                will.place(context, client, self.tenure);
            }
            None => old.drop_everywhere(context, client, self.tenure),
        }
    }

    /// How a new registrar is told of it.
    pub(super) fn role(&self) -> EntryRole {
        match (self.importing, self.origin.as_deref()) {
            (Some(_), Some(origin)) => EntryRole::Claimant { claim: 0, previous: Some(origin.previous) },
            (_, origin) => {
                let past = Past { origin: origin.copied(), clean: self.clean };
                // The new owner may have it already, and then goes first.
                let is_sent = self.export.as_deref().is_some_and(Export::is_sent);
                EntryRole::Owner { registered: self.registered && !is_sent, past }
            }
        }
    }

    /// Whether a claim of this node is none of the others' business.
    pub(super) fn is_settled(&self) -> bool {
        self.registered && !self.is_from_before && self.export.is_none()
    }

    /// The client comes from elsewhere: what is still here is only what this node has not been told of yet.
    pub(super) fn give_way(self, context: &mut Context<'_>, client: &ClientId) {
        let taken = self.export.filter(|export| export.is_sent());
        context.output(match taken {
            Some(export) => Output::Taken { client: client.clone(), epoch: export.epoch },
            None => Output::Discard { client: client.clone(), tenure: self.tenure },
        });
        if let Some(old) = self.will {
            old.drop_everywhere(context, client, self.tenure);
        }
    }
}
