//! The state of one place.

use crate::DecodeError;

/// What is at one place of an inbox: a message of some size that waits for its PUBACK or PUBREC, one that waits for its
/// PUBCOMP, or nothing any more.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Slot(u32);

impl Slot {
    pub(crate) const DONE: Self = Self(u32::MAX);
    pub(crate) const RELEASED: Self = Self(u32::MAX - 1);

    pub(crate) fn queued(size: usize) -> Self {
        Self(u32::try_from(size).map_or(SIZE_MAX, |size| size.min(SIZE_MAX)))
    }

    /// What it counts against the bound of the queue, in bytes; nothing once it is released.
    pub(crate) const fn size(self) -> u64 {
        if self.is_queued() { self.0 as u64 } else { 0 }
    }

    pub(crate) const fn is_queued(self) -> bool {
        self.0 <= SIZE_MAX
    }

    pub(crate) const fn is_done(self) -> bool {
        self.0 == Self::DONE.0
    }

    pub(crate) const fn is_released(self) -> bool {
        self.0 == Self::RELEASED.0
    }

    /// 0: done, 1: released, otherwise size + 2.
    pub(crate) const fn number(self) -> u64 {
        match self {
            Self::DONE => 0,
            Self::RELEASED => 1,
            Self(size) => size as u64 + 2,
        }
    }

    pub(crate) fn of_number(number: u64) -> Result<Self, DecodeError> {
        let size = match number {
            0 => return Ok(Self::DONE),
            1 => return Ok(Self::RELEASED),
            _ => u32::try_from(number - 2).ok().filter(|size| *size <= SIZE_MAX),
        };
        size.map(Self).ok_or(DecodeError::Row("the state of a chunk has a size that no message has"))
    }
}

/// A packet has 256 MiB at most.
const SIZE_MAX: u32 = (1 << 29) - 1;
