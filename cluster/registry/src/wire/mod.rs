//! The bytes between registries: protobuf, with the version of the format in every batch.
//!
//! Field numbers are never given to something else. What an old program must not skip takes a new version.

mod fields;
mod item;
#[cfg(test)]
mod tests;

use bytes::Bytes;
use flotilla_state::{Incarnation, LogIndex};
use prost::Message as _;

use crate::{MessageError, message::Message};
use item::Item;

/// The version of the format.
pub(crate) const VERSION: u32 = 2;

/// Messages to one incarnation of a node.
#[derive(Debug, PartialEq)]
pub(crate) struct Envelope {
    /// How far the sender had read the log: a receiver that is behind must wait.
    pub(crate) view: LogIndex,
    /// To which life of the receiver.
    pub(crate) to: Incarnation,
    pub(crate) messages: Vec<Message>,
}

impl Envelope {
    pub(crate) fn encode(self) -> Bytes {
        let items = self.messages.into_iter().map(Item::from).collect();
        Batch { version: VERSION, view: self.view.0, to: self.to.0, items }.encode_to_vec().into()
    }

    pub(crate) fn decode(bytes: Bytes) -> Result<Self, MessageError> {
        // The version first: the rest of another version may look like anything.
        let OnlyVersion { version } = OnlyVersion::decode(bytes.clone())?;
        if version != VERSION {
            return Err(MessageError::UnknownVersion(version));
        }
        let batch = Batch::decode(bytes)?;
        let messages = batch.items.into_iter().map(Message::try_from).collect::<Result<_, _>>()?;
        Ok(Self { view: LogIndex(batch.view), to: Incarnation(batch.to), messages })
    }
}

#[derive(Clone, PartialEq, prost::Message)]
struct OnlyVersion {
    #[prost(uint32, tag = "1")]
    version: u32,
}

#[derive(Clone, PartialEq, prost::Message)]
struct Batch {
    #[prost(uint32, tag = "1")]
    version: u32,
    #[prost(uint64, tag = "2")]
    view: u64,
    #[prost(uint64, tag = "3")]
    to: u64,
    #[prost(message, repeated, tag = "4")]
    items: Vec<Item>,
}
