//! What one shard of a cluster keeps: subscriptions, inboxes, QoS 2 state and wills of durable sessions, and retained
//! messages. Pure: no clock, no randomness, no thread, and no I/O but through the port of the store.
//!
//! A shard is a Raft group, and [`Shard`] is the state machine of each of its replicas. It takes the committed entries in
//! order ([`Shard::apply`]); equal logs give equal states and equal answers on all replicas. Time is in the entries:
//! [`Entry::stamp`] is the leader's wall clock in milliseconds since the epoch, and never runs backwards here.
//!
//! # Entries
//!
//! An [`Entry`] consists of [`Part`]s, each with the [`Op`]s of one member. Parts are numbered, so that a part that is
//! proposed twice is applied once; what its ops were answered is told again as far as the state still knows it. A part behind
//! a gap, or of a life that has ended, changes nothing. Ops name the connection that wants them, and only the latest
//! connection of a session may act for it. [`EncodedPart::check`] keeps out of the log what would stop the replicas.
//!
//! # Inboxes
//!
//! The messages of a session have places, [`Seq`], from 1 on; the Packet Identifier follows from the place. They leave in
//! any order. The first `window` that are left may be in flight, the queue with its bounds begins behind them. While a client
//! is away that has said goodbye, these are the ones that were sent to it: the rest is the queue. What may be in flight stays
//! so, also if the next connection has a smaller window. What a subscription gets at QoS 0 is kept for a
//! client that is away and wants it, and otherwise it does not come here at all.
//!
//! # Retained messages
//!
//! A topic has one at most, set and deleted by messages that say so, in the order of the log. It goes when its Message Expiry
//! Interval is over by the stamps of the entries. How many there may be is for all shards together, and so for the leader to say
//! ([`Entry::retained_full`]).
//!
//! # Memory and disk
//!
//! Sessions, their subscriptions and the match index are in memory. Messages are there until they are *flushed*; after that
//! there are four bytes a message, and about a hundred for each row: a message that is flushed alone has a row alone. What is
//! acknowledged before a flush never touches the store. A flush writes all that has changed in one atomic batch, together with
//! the position in the log; it is durable after the next sync of the store, which is for the shell to call before it purges
//! the log. [`Shard::apply`] flushes by itself when too much is in memory. Of a retained message there is its topic and about
//! sixty bytes; its body is read when it is looked up.
//!
//! Messages lie in rows of up to 64 places of one inbox; a message that several entries have lies in a row of its own, with
//! the number of its references beside it, which are given back row by row. All keys are known: nothing is searched by a
//! scan that would have to step over what was deleted. The rows are listed in `rows`.
//!
//! # Groups of shared subscriptions
//!
//! The messages of a group are in one shard, in the inbox of a session that no client can have: its client identifier is U+0000
//! and the whole text of the shared subscription. It is there as long as it has members, which are sessions of any shard, and
//! subscribes to the plain filter at QoS 2. Messages are *lent* to members whose clients are connected, to each no more than may
//! be in flight to it, and stay where they are until the member is done with them. What a client has not acknowledged when it
//! goes comes back to its old place; but a message of QoS 2 that it may know is for it alone, or for nobody [MQTT-4.8.2-5].
//!
//! A session that an earlier version has kept is a member from its next connection on.
//!
//! Shards tell each other of members, loans and returns by [`Letter`]s. These are state of the shard that writes them, and are
//! numbered; [`Shard::letters`] gives the leader what it is to send, in order and as often as it likes, [`Op::Letters`] takes
//! each once, and [`Op::Posted`] ends it. A shard may write to itself. What a session says of itself has a lower number than
//! what it gives back because of that.
//!
//! # Backups
//!
//! [`Shard::export`] gives what a shard has of its sessions at one moment as [`Saved`] pieces, and [`Op::Restore`] puts them into
//! shards of any cluster, piece by piece. What is restored serves nobody before [`Op::Restored`] says that it is complete. What
//! was lent is of its group; its members come when their sessions begin.
//!
//! # Invariants
//!
//! * An entry that is refused has changed nothing.
//! * What the store has is the state after a prefix of the log, and it knows which.
//! * A row of messages is deleted when all of its places are done, wherever the head of the inbox is.
//! * [`Seq`], [`SessionId`], [`WillId`] and numbers of letters are never used again.
//! * A message of a group is lent to one member at most.
//! * Everything is bounded by what Open allows, or by the constants here: there is a letter for a session and its group, for a
//!   loan, and for what was borrowed, at most.
//!
//! Absent on purpose: members of shared groups whose sessions are not kept, which shard a group belongs to, QoS 0
//! for clients that are connected, who leads, and the log itself.

mod answer;
mod changes;
mod entry;
mod error;
mod groups;
mod ids;
mod inbox;
mod index;
mod layout;
mod letter;
mod letters;
mod message;
mod publishers;
mod retained;
mod rows;
mod saved;
mod sessions;
mod shard;
mod sources;
mod state;
#[cfg(test)]
mod tests;
mod wire;

pub use answer::{Answer, Answers, Opened, OpenedSession, PartAnswer, ReceivedId};
pub use changes::{Changes, Closed, FilterChange, Queued, QueuedMessage, SessionInfo, Stats, StoredMessage};
pub use entry::{
    EncodedPart, Entry, LIST_MAX, OPS_MAX, Op, Open, Overlap, Part, QueueLimits, RECEIVED_SPAN, RESTORED_MAX,
    TICK_MAX, Will, WillFate,
};
pub use error::{ApplyError, DecodeError, FlushError, OpenError, ReadError, RestoreError};
pub use ids::{Connection, IN_FLIGHT_SPAN, Owner, Seq, SessionId, WillId};
pub use letter::{GroupInfo, GroupMember, GroupStrategy, Letter, LoanFate, Outbound, To};
pub use publishers::Admitted;
pub use saved::{Saved, SavedCount};
pub use shard::{Export, Options, RetainedPage, SNAPSHOT_CHUNK_BYTES, Shard, SnapshotChunks};
