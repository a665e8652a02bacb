//! Reason codes.

/// A Reason Code (section 2.4).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
#[repr(u8)]
#[expect(missing_docs, reason = "the names of the specification")]
pub enum ReasonCode {
    Success = 0x00,
    MalformedPacket = 0x81,
    TopicFilterInvalid = 0x8F,
    TopicNameInvalid = 0x90,
}
