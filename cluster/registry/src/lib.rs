//! Which node serves which client, and the wills of clients whose node dies. Pure: no clock, no randomness, no I/O.
//!
//! [`Registry`] is the state machine of one node. It plays three parts:
//!
//! * *owner* of the clients whose session or connection is on this node, and *claimant* for its CONNECTs;
//! * *registrar* of the shards whose placement names this node first: it orders the claims of a client and knows who has it;
//! * *keeper* of wills of other nodes' clients, for the shards whose placement names this node at all.
//!
//! The shell gives it views of the cluster in the order of the log, the messages of other members (reliable, in order, of
//! live incarnations), its own clients' events and the time; it gets [`Output`]s back.
//!
//! # A takeover
//!
//! The claimant asks the registrar, which grants one claim of a client after the other and names who has the client. The
//! claimant asks that one, which ends its connection and hands over the session, and keeps a copy. When the claimant has
//! imported it, it tells both. A claimant that gives up or ends before that leaves the session where it was. So the session
//! and the right to be connected are in one place at any time, and only the end of that node's life can lose them.
//!
//! # A new registrar
//!
//! Every member reports what it has in the shard as soon as it reads of a new term, and asks again for what was not granted.
//! The registrar grants nothing before all members that live have reported. Messages of an older term are void. Every message
//! says how far its sender had read the log, and waits until the receiver has read as much.
//!
//! # Wills
//!
//! The will of a connected client is kept by up to two members of the shard's placement, first by the registrar, and the
//! CONNECT is granted only when the first of them has it. When the owner's life ends, the registrar of that moment publishes
//! the will, after its delay unless the client is back. It tells the others when that is done; until then they have it,
//! and report it to the next registrar.
//!
//! What is not exactly once: if an owner and the registrar that published for it both end within moments, the next registrar
//! may publish again. If an owner ends in the very moment in which it has published or dropped a will itself, nobody may have
//! heard of that. If the registrar changes in the very moment in which a client comes back and goes again, the new one may
//! not know that it was back. A new CONNECT on the same node takes its predecessor's place with its will, shortly before it is
//! granted.
//!
//! # Invariants
//!
//! * Of the members whose lease is valid, one at most has a connection of a client.
//! * Every claim is answered within [`Limits::claim_timeout`], if deadlines are handled.
//! * Every table is empty when the clients and the members that it speaks of are gone.
//!
//! Absent on purpose: storage. A session lives as long as its node's process; what survives that is for others to say.

mod claimant;
mod context;
mod keeper;
mod message;
mod office;
mod own_will;
mod owner;
mod parts;
mod registrar;
mod registry;
mod types;
mod wire;

pub use registry::Registry;
pub use types::{
    KeptWill, Limits, MessageError, Output, Refusal, RequestId, Source, Stats, Tenure, View, WillId,
};
