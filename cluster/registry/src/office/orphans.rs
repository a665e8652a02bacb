//! The wills of nodes that have ended, in one office.
//!
//! Each is published, or forgotten, once; both are told to everybody who is known to keep it.

use std::collections::BTreeMap;

use flotilla_mqtt::{Timestamp, session::ClientId};
use flotilla_state::{Incarnation, LogIndex, Member, NodeId};

use super::{Desk, Record};
use crate::{
    context::Context,
    message::{Hold, Message, Origin, Past, SentOrphan},
};

/// See the module.
#[derive(Debug, Default)]
pub(super) struct Orphans {
    orphans: BTreeMap<(ClientId, Member), Orphan>,
}

/// A will whose owner has ended.
#[derive(Debug)]
pub(super) struct Orphan {
    pub(super) sent: SentOrphan,
    pub(super) due: Timestamp,
    /// Who keeps it, and forgets it when it is published or void.
    pub(super) keepers: Vec<Member>,
    /// The highest authority that it is known from.
    pub(super) authority: LogIndex,
}

/// What is done with the will of an ended owner.
#[derive(Debug, Clone, Copy)]
pub(super) enum Verdict {
    /// The takeover that goes on decides.
    Hold,
    /// It is published when its delay is over.
    Wait,
    Publish,
    Forget,
}

impl Orphan {
    pub(super) fn hold(&self) -> Hold {
        Hold { member: self.sent.owner, epoch: self.sent.tenure.epoch }
    }

    /// Whether it is to be published although its client is back: the session has ended with a clean start, or the will
    /// does not wait.
    pub(super) fn outlives(&self, clean: bool) -> bool {
        clean || self.sent.will.will.wait().is_zero()
    }

    /// What is to be done with it, as far as is known of its client.
    pub(super) fn verdict(&self, record: Option<&Record>, now: Timestamp) -> Verdict {
        let hold = self.hold();
        if let Some(progress) = record.and_then(|record| record.progress.as_ref())
            && progress.previous == Some(hold)
        {
            return Verdict::Hold;
        }
        if let Some(owner) = record.and_then(|record| record.owner.as_ref())
            && owner.hold.epoch > hold.epoch
        {
            // Somebody had the client after it, from it or from others.
            // Whoever handed the client on has taken care of its will; a later life of the owner knows of none.
            let is_open = |past: &Past| {
                past.origin.is_none_or(|Origin { previous, handed }| {
                    let is_later_life =
                        previous.member.node == hold.member.node && previous.member != hold.member;
                    is_later_life || previous == hold && !handed
                })
            };
            let past = owner.past.as_deref().filter(|past| is_open(past));
            let publish = past.is_some_and(|past| self.outlives(past.clean));
            return if publish { Verdict::Publish } else { Verdict::Forget };
        }
        if self.due <= now { Verdict::Publish } else { Verdict::Wait }
    }
}

impl Orphans {
    pub(super) fn len(&self) -> usize {
        self.orphans.len()
    }

    pub(super) fn find(&self, client: &ClientId, owner: Member) -> Option<&Orphan> {
        self.orphans.get(&(client.clone(), owner))
    }

    pub(super) fn keys(&self) -> Vec<(ClientId, Member)> {
        self.orphans.keys().cloned().collect()
    }

    /// Whose wills of this client there are.
    pub(super) fn owners(&self, client: &ClientId) -> Vec<Member> {
        let first = Member { node: NodeId(0), incarnation: Incarnation(0) };
        let of_client = self.orphans.range((client.clone(), first)..);
        of_client.take_while(|((of, _), _)| of == client).map(|((_, owner), _)| *owner).collect()
    }

    /// A member keeps it. `authority` is what the member knew of the shard.
    pub(super) fn collect(
        &mut self,
        context: &Context<'_>,
        from: Member,
        orphan: SentOrphan,
        authority: LogIndex,
    ) {
        let due = context.now + orphan.will.rest.unwrap_or_default();
        let key = (orphan.client.clone(), orphan.owner);
        let new = Orphan { sent: orphan, due, keepers: vec![from], authority };
        let Some(known) = self.orphans.get_mut(&key) else {
            self.orphans.insert(key, new);
            return;
        };
        if !known.keepers.contains(&from) {
            known.keepers.push(from);
        }
        known.authority = known.authority.max(authority);
        if known.sent.tenure < new.sent.tenure {
            known.sent = new.sent;
            known.due = new.due;
        }
    }

    /// A member keeps it too. Returns whether it is known.
    pub(super) fn add_keeper(&mut self, client: &ClientId, owner: Member, keeper: Member) -> bool {
        let Some(known) = self.orphans.get_mut(&(client.clone(), owner)) else { return false };
        if !known.keepers.contains(&keeper) {
            known.keepers.push(keeper);
        }
        true
    }

    /// Members have ended, and keep nothing any more.
    pub(super) fn handle_ended(&mut self, ended: &[Member]) {
        for orphan in self.orphans.values_mut() {
            orphan.keepers.retain(|member| !ended.contains(member));
        }
    }

    pub(super) fn execute(
        &mut self,
        desk: &mut Desk<'_, '_>,
        client: &ClientId,
        owner: Member,
        verdict: Verdict,
    ) {
        let key = (client.clone(), owner);
        match verdict {
            Verdict::Hold => {}
            Verdict::Wait => {
                if let Some(orphan) = self.orphans.get(&key) {
                    desk.publications.start_timer(orphan.due, desk.shard, key);
                }
            }
            Verdict::Publish => {
                if let Some(orphan) = self.orphans.remove(&key) {
                    // From here on this node answers for it, not as one of its keepers.
                    desk.keeper.forget_orphan(owner, client);
                    desk.publications.publish(desk.context, orphan);
                }
            }
            Verdict::Forget => {
                if let Some(orphan) = self.orphans.remove(&key) {
                    for keeper in orphan.keepers {
                        desk.context.send(keeper, Message::WillDone { owner, client: client.clone() });
                    }
                    desk.keeper.forget_orphan(owner, client);
                }
            }
        }
    }
}
