//! Which node serves which client. Pure: no clock, no randomness, no I/O.
//!
//! [`Registry`] is the state machine of one node. It plays three parts:
//!
//! * *owner* of the clients whose connection is on this node;
//! * *claimant* for its CONNECTs;
//! * *registrar* of the shards whose placement names this node first: it orders the claims of a client and knows who has it.
//!
//! The shell gives it views of the cluster in the order of the log, the messages of other members (reliable, in order, of
//! live incarnations), its own clients' events and the time; it gets [`Output`]s back.
//!
//! # A takeover
//!
//! The claimant asks the registrar, which grants one claim of a client after the other and names who has the client. The
//! claimant asks that one, which ends its connection and says so when all that the client has said there is on its way. Then
//! the claimant has the client, and confirms that to the registrar. So the right to be connected is in one place at any time.
//! Within a node nobody else is asked: the shell closes the connection that is there before it begins the next one.
//!
//! # A new registrar
//!
//! Every member reports what it has in the shard as soon as it reads of a new term, and asks again for what was not granted.
//! The registrar grants nothing before all members that live have reported. Messages of an older term are void. Every message
//! says how far its sender had read the log, and waits until the receiver has read as much.
//!
//! # Invariants
//!
//! * Of the members whose lease is valid, one at most has a connection of a client.
//! * Every claim is answered within [`Limits::claim_timeout`], if deadlines are handled.
//! * Of the grants of one client, a later one has a higher [`Tenure`].
//! * Every table is empty when the clients and the members that it speaks of are gone.
//!
//! Absent on purpose: sessions and wills. What outlives a connection is in the shards.

mod claimant;
mod context;
mod message;
mod office;
mod owner;
mod parts;
mod registrar;
mod registry;
mod types;
mod wire;

pub use registry::Registry;
pub use types::{Limits, MessageError, Output, Refusal, RequestId, Stats, Tenure, View};
