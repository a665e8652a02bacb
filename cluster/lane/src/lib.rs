//! Ordered streams of frames between two nodes that neither lose nor repeat.
//!
//! Between each ordered pair of members there are [`LANES`] lanes. A lane is a queue of [`Frame`]s that travel in
//! [`Batch`]es; the batches of a lane are numbered, and the two ends of a lane are two state machines:
//!
//! * [`Sender`] keeps every batch until the other side has *taken* it, and sends again what a broken connection lost;
//! * [`Receiver`] tells new batches from repeated ones, and what it has taken to the sender.
//!
//! The invariants: as long as both members live, what a receiver is told to handle is what its sender was given, in that
//! order, each batch once, whatever happens to the connections between them. When either member's life ends, the lane is
//! void: nothing of it is carried over to the next life.
//!
//! [`BatchWriter`] writes frames into one buffer without an allocation for each; [`Batch::decode`] checks a whole batch
//! before any of it is used, so that bytes that are no batch change nothing. The layout is our own and described in
//! [`mod@batch`]; its first byte is a version.
//!
//! What is absent on purpose: connections, threads, time and the decision who is a member. Nothing here reads a clock:
//! the time that a message has left to live is written as such, and counted on from the receiver's own clock.

pub mod batch;
mod congestion;
mod frame;
mod lane;
mod layout;
mod receiver;
mod sender;
#[cfg(test)]
mod tests;
mod texts;

pub use batch::{BATCH_BYTES_SOFT, BATCH_FRAMES_SOFT, Batch, BatchWriter, Frames};
pub use congestion::{Change, Congestion};
pub use frame::{Forwarded, Frame, KeptFor, LastPublisher, Origin};
pub use lane::{CONTROL, LANES, LaneId, lane_of};
pub use layout::DecodeError;
pub use receiver::{Arrival, Receiver};
pub use sender::{ProtocolError, Sender, Sequence, Window};
pub use texts::{Texts, TextsWriter};
