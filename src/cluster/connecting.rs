//! How a CONNECT gets its client: the claim first, and then the shard of the client.

use std::sync::Arc;

use flotilla_mqtt::{
    ReasonCode,
    session::{ClientId, SessionExpiry},
};
use flotilla_registry::Tenure;
use flotilla_shard::{Answer, Connection, Op, Open, Opened};
use flotilla_state::ShardId;
use tokio::sync::oneshot;

use super::{BoxFuture, Claim, Claimed, Cluster, Kept, Opening, claims::Input, member::Member};
use crate::worker::{Event, Order};

impl Member {
    /// Claims the client of a CONNECT, and tells its shard.
    pub(super) fn connect(self: &Arc<Self>, claim: Claim) -> BoxFuture<'_, Result<Claimed, ReasonCode>> {
        let Claim { client_id, clean_start, open } = claim;
        let (sender, answer) = oneshot::channel();
        self.claims.put_now(Input::Claim(client_id.clone(), sender));
        let mut pending = PendingClaim { member: self, client_id: client_id.clone(), answer: Some(answer) };
        Box::pin(async move {
            let claimed = pending.wait().await?;
            match open {
                Some(open) => self.open(&client_id, clean_start, *open, claimed).await,
                None => Ok(claimed),
            }
        })
    }

    /// Tells the shard of a client that it connects; a claim that it has no answer for comes to nothing.
    async fn open(
        self: &Arc<Self>,
        client_id: &ClientId,
        clean_start: bool,
        opening: Opening,
        claimed: Claimed,
    ) -> Result<Claimed, ReasonCode> {
        let Tenure { epoch, turn } = claimed.tenure;
        let connection = Connection { client: client_id.clone(), epoch, turn };
        let mut given_up = GivenUp { member: self, client_id, claimed: Some(claimed), opening: None };
        let Some(shard) = self.shards.shard_of(client_id.as_str().as_bytes()) else {
            return Err(ReasonCode::ServerUnavailable);
        };
        if self.shards.is_busy(shard) {
            // Perhaps nobody leads it: who waits there, and comes again and again, takes room.
            return Err(ReasonCode::ServerBusy);
        }
        self.displace(client_id, given_up.tenure()).await;
        let has_will = opening.will.is_some();
        let expiry = opening.expiry;
        // Nothing of the connection outlives it, and nothing that is there has to be ended: that is no entry of the log. Whoever had
        // the client before has closed its connection before this claim was granted, and what a CONNECT that came to nothing may yet
        // begin in the shard, its node takes back.
        let is_transient = expiry == SessionExpiry::AtDisconnect && !has_will;
        if is_transient && self.shards.lacks(shard, client_id).await {
            return Ok(given_up.claimed.take().unwrap_or_default());
        }
        let open = Open {
            connection: connection.clone(),
            clean_start,
            only_present: self.shards.is_short(shard),
            expiry,
            window: opening.window,
            queue: opening.queue,
            awaiting_rel_max: opening.awaiting_rel_max,
            queue_qos0: opening.queue_qos0,
            overlap: opening.overlap,
            group_strategy: opening.group_strategy,
            will: opening.will,
        };
        given_up.opening = Some((shard, Op::Abandon { connection: connection.clone(), expiry }));
        let answer = self.shards.request(shard, Op::Open(Box::new(open)));
        let opened = match answer.await {
            Ok(Answer::Opened(opened)) => *opened,
            // The disks are nearly full.
            Ok(Answer::Full) => return Err(ReasonCode::QuotaExceeded),
            // A later connection of the client has come before.
            Ok(_) => return Err(ReasonCode::ServerBusy),
            Err(_) => return Err(ReasonCode::ServerUnavailable),
        };
        given_up.opening = None;
        let mut claimed = given_up.claimed.take().unwrap_or_default();
        let Opened { present, session } = opened;
        if let Some(session) = session {
            // A will alone needs no session there: what the client gets ends with its connection.
            let is_will_alone = has_will && !present && expiry == SessionExpiry::AtDisconnect;
            let session = (!is_will_alone).then_some(session);
            claimed.kept = Some(Box::new(Kept { shard, connection, present, expiry, session }));
        }
        Ok(claimed)
    }

    /// Closes the connection that the client has on this node, if it has one.
    async fn displace(&self, client_id: &ClientId, tenure: Tenure) {
        let Some(node) = self.node.get() else { return };
        let Some(session) = node.registry.find(client_id) else { return };
        let (done, displaced) = oneshot::channel();
        let order = Order::Displace { client_id: client_id.clone(), tenure, done };
        node.mailboxes[usize::from(session.worker)].send(Event::Order(order));
        // An error: the worker ends.
        let _ = displaced.await;
    }
}

/// A claim that was granted, and is given back unless the shard of the client answers.
struct GivenUp<'a> {
    member: &'a Arc<Member>,
    client_id: &'a ClientId,
    claimed: Option<Claimed>,
    /// What the shard is told behind the opening that it has not answered: that may be committed at any time.
    opening: Option<(ShardId, Op)>,
}

impl GivenUp<'_> {
    fn tenure(&self) -> Tenure {
        self.claimed.as_ref().map(|claimed| claimed.tenure).unwrap_or_default()
    }
}

impl Drop for GivenUp<'_> {
    fn drop(&mut self) {
        if let Some(claimed) = self.claimed.take() {
            self.member.abandon(self.client_id, &claimed);
        }
        if let Some((shard, close)) = self.opening.take() {
            self.member.shards.tell(shard, close);
        }
    }
}

/// A claim that is waited for. Whoever gives up waiting may have been granted it at the same moment: then it is given back.
struct PendingClaim<'a> {
    member: &'a Arc<Member>,
    client_id: ClientId,
    answer: Option<oneshot::Receiver<Result<Claimed, ReasonCode>>>,
}

impl PendingClaim<'_> {
    async fn wait(&mut self) -> Result<Claimed, ReasonCode> {
        let Some(answer) = &mut self.answer else { return Err(ReasonCode::ServerUnavailable) };
        let granted = answer.await.unwrap_or(Err(ReasonCode::ServerUnavailable));
        if granted.is_ok() {
            self.answer = None;
        }
        granted
    }
}

impl Drop for PendingClaim<'_> {
    fn drop(&mut self) {
        let Some(mut answer) = self.answer.take() else { return };
        answer.close();
        if let Ok(Ok(claimed)) = answer.try_recv() {
            self.member.abandon(&self.client_id, &claimed);
        }
    }
}
