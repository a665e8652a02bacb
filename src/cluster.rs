//! Where the other nodes attach.

use std::{future::Future, pin::Pin, sync::Arc};

use flotilla_mqtt::{
    Message, ReasonCode, Transit,
    session::{ClientId, Ticket},
    topic::TopicFilter,
};

use crate::router::{RouteChange, SessionRef};

/// What a worker needs of the rest of the cluster. A node alone is [`Alone`].
///
/// Everything that may have to wait for other nodes answers in one of two ways: at once, or later through the
/// [`Completion`] that it was given. The client is told only then.
pub(crate) trait Cluster: Send + Sync + std::fmt::Debug {
    /// Makes this node the only one that serves `client_id`: whoever else does has closed its connection when the
    /// future is ready.
    ///
    /// # Errors
    /// The reason code of the CONNACK.
    fn claim<'a>(&'a self, client_id: &'a ClientId) -> BoxFuture<'a, Result<(), ReasonCode>>;

    /// The session of `client_id` on this node is over.
    fn release(&self, client_id: &ClientId);

    /// This node's interest in `filter` has begun or ended; a SUBACK waits for the answer (P6). For
    /// [`RouteChange::None`] too: somebody else's announcement may still be on its way.
    fn announce(&self, filter: &TopicFilter, change: RouteChange, done: Option<Completion>) -> Receipt;

    /// Forwards a message to the nodes and shards that want it; its PUBACK or PUBREC waits for the answer (P2).
    fn publish(&self, message: &Transit<'_>, done: Option<Completion>) -> Receipt;

    /// The will of a connected client, to be published if this node dies (P5); `None` when it has none any more.
    fn keep_will(&self, client_id: &ClientId, will: Option<&Arc<Message>>);
}

/// A future of a rare operation.
pub(crate) type BoxFuture<'a, T> = Pin<Box<dyn Future<Output = T> + Send + 'a>>;

/// Whom to tell when something has been kept.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Completion {
    pub(crate) session: SessionRef,
    pub(crate) what: Awaited,
}

/// What a session waits for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Awaited {
    /// A PUBLISH.
    Publish(Ticket),
    /// The routes of a SUBSCRIBE.
    Routes(flotilla_mqtt::PacketId),
}

/// Whether something is done.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Receipt {
    /// It is done.
    Done,
    /// The completion tells when.
    Later,
}

/// A cluster of one: nobody else has to be asked.
#[derive(Debug)]
pub(crate) struct Alone;

impl Cluster for Alone {
    fn claim<'a>(&'a self, _: &'a ClientId) -> BoxFuture<'a, Result<(), ReasonCode>> {
        Box::pin(std::future::ready(Ok(())))
    }

    fn release(&self, _: &ClientId) {}

    fn announce(&self, _: &TopicFilter, _: RouteChange, _: Option<Completion>) -> Receipt {
        Receipt::Done
    }

    fn publish(&self, _: &Transit<'_>, _: Option<Completion>) -> Receipt {
        Receipt::Done
    }

    fn keep_will(&self, _: &ClientId, _: Option<&Arc<Message>>) {}
}
