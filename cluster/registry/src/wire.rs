//! The bytes between registries.

/// The version of the format.
pub(crate) const VERSION: u32 = 1;
