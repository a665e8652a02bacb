//! MQTT 3.1, 3.1.1 and 5.0 without I/O.
//!
//! Everything in this crate is pure: bytes, packets and the time come in as arguments, bytes and
//! decisions go out. There is no socket, no clock, no task and no lock here, which is what makes it
//! testable by property, by fuzzing and by simulation.
//!
//! * [`packet`]: one packet model for all protocol versions, borrowing from the bytes that it was read from;
//! * [`codec`]: bytes to packets and back, with every limit checked before anything is allocated;
//! * [`topic`]: topic names, topic filters, the subscription index and the ordered store of retained messages;
//! * [`session`]: what MQTT says about one client, as a state machine;
//! * [`Message`]: a message on its way through the broker.
//!
//! Clause numbers such as `[MQTT-3.3.1-2]` are those of MQTT 5.0; where 3.1.1 differs it is said.

pub mod codec;
mod message;
mod message_wire;
pub mod packet;
mod reason;
pub mod session;
mod time;
pub mod topic;

pub use message::{Message, SubscriptionIds, Transit};
pub use message_wire::MessageError;
pub use packet::{PacketId, ProtocolVersion, QoS};
pub use reason::ReasonCode;
pub use time::Timestamp;
