//! What can be wrong with bytes.

/// Bytes that are not what they should be.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum DecodeError {
    /// Not protobuf, or not of this form.
    #[error("malformed: {0}")]
    Malformed(#[from] prost::DecodeError),
    /// Of a format that this program does not know.
    #[error("format version {0} is not known to this program")]
    UnknownVersion(u32),
    /// A field is missing or has a value that it cannot have.
    #[error("the field `{0}` is missing or has no valid value")]
    Field(&'static str),
}
