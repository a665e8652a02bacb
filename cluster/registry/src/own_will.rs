//! The will of a client of this node, and where it is kept.

use flotilla_mqtt::{Timestamp, session::ClientId};
use flotilla_state::Member;

use crate::{
    KeptWill, Tenure,
    context::Context,
    message::{Message, SentWill},
};

/// See the module.
#[derive(Debug)]
pub(crate) struct OwnWill {
    will: KeptWill,
    /// When its delay ends, once that runs.
    due: Option<Timestamp>,
    keepers: Vec<Keeper>,
    /// Members that keep it no longer, but do not know it yet: they forget it when the new ones have it.
    former: Vec<Member>,
}

#[derive(Debug)]
struct Keeper {
    member: Member,
    has_it: bool,
}

impl OwnWill {
    pub(crate) fn new(will: KeptWill) -> Self {
        Self { will, due: None, keepers: Vec::new(), former: Vec::new() }
    }

    /// Takes the place of a will that is kept already.
    pub(crate) fn replace(&mut self, before: Option<Self>) {
        let Some(before) = before else { return };
        let members = before.keepers.into_iter().map(|keeper| keeper.member).chain(before.former);
        for member in members {
            let is_known = self.keepers.iter().any(|keeper| keeper.member == member);
            if !is_known && !self.former.contains(&member) {
                self.former.push(member);
            }
        }
    }

    /// Sends it to those who should keep it and do not.
    pub(crate) fn place(&mut self, context: &mut Context<'_>, client: &ClientId, tenure: Tenure) {
        let cluster = context.cluster;
        let wanted = cluster.keepers(cluster.shard_of(client), context.me.node);
        self.former.retain(|&member| cluster.is_live(member) && !wanted.contains(&member));
        let (keepers, former): (Vec<_>, Vec<_>) =
            std::mem::take(&mut self.keepers).into_iter().partition(|keeper| wanted.contains(&keeper.member));
        self.keepers = keepers;
        let former = former.into_iter().map(|keeper| keeper.member);
        self.former.extend(former.filter(|&member| cluster.is_live(member)));
        for member in wanted {
            if !self.keepers.iter().any(|keeper| keeper.member == member) {
                self.keepers.push(Keeper { member, has_it: false });
                let keep = self.keep(context.now, client, tenure);
                context.send(member, keep);
            }
        }
        self.forget_former(context, client, tenure);
    }

    /// Sends it once more: another one had taken its place.
    pub(crate) fn place_again(&mut self, context: &mut Context<'_>, client: &ClientId, tenure: Tenure) {
        for keeper in &mut self.keepers {
            keeper.has_it = false;
        }
        for index in 0..self.keepers.len() {
            let keep = self.keep(context.now, client, tenure);
            context.send(self.keepers[index].member, keep);
        }
    }

    /// The connection has ended, and the delay runs.
    pub(crate) fn begin_delay(&mut self, context: &mut Context<'_>, client: &ClientId, tenure: Tenure) {
        if self.due.is_none() {
            self.due = Some(context.now + self.will.wait());
            self.place_again(context, client, tenure);
        }
    }

    /// A member has it now.
    pub(crate) fn handle_kept(
        &mut self,
        context: &mut Context<'_>,
        client: &ClientId,
        tenure: Tenure,
        from: Member,
    ) {
        if let Some(keeper) = self.keepers.iter_mut().find(|keeper| keeper.member == from) {
            keeper.has_it = true;
        }
        self.forget_former(context, client, tenure);
    }

    /// Whether the one that would publish it has it; also when there is nobody to keep it.
    pub(crate) fn is_kept(&self, context: &Context<'_>, client: &ClientId) -> bool {
        let cluster = context.cluster;
        let first = cluster.keepers(cluster.shard_of(client), context.me.node).first().copied();
        first.is_none_or(|first| self.keepers.iter().any(|keeper| keeper.member == first && keeper.has_it))
    }

    /// The same will, which nobody keeps yet.
    pub(crate) fn anew(&self) -> Self {
        Self::new(self.will.clone())
    }

    /// Has it forgotten.
    pub(crate) fn drop_everywhere(self, context: &mut Context<'_>, client: &ClientId, tenure: Tenure) {
        let keepers = self.keepers.into_iter().map(|keeper| keeper.member);
        for member in keepers.chain(self.former) {
            context.send(member, Message::Drop { client: client.clone(), tenure });
        }
    }

    fn forget_former(&mut self, context: &mut Context<'_>, client: &ClientId, tenure: Tenure) {
        if self.keepers.iter().all(|keeper| keeper.has_it) {
            for member in std::mem::take(&mut self.former) {
                context.send(member, Message::Drop { client: client.clone(), tenure });
            }
        }
    }

    fn keep(&self, now: Timestamp, client: &ClientId, tenure: Tenure) -> Message {
        let will = SentWill { will: self.will.clone(), rest: self.due.map(|due| due.since(now)) };
        Message::Keep { client: client.clone(), tenure, will }
    }
}
