//! Batches of frames.
//!
//! ```text
//! batch    version: u8 = 1, frames: u32, frame...
//! frame    length of what follows: u32, kind: u8, ...
//! Publish  message                     Group      tried: u8, filter: text, message
//! Control  kind: u8, the rest
//! Store    flags: u8 (0 has an origin, 1 is retained), [shard, session, number, floor], message
//! Kept     term, client id: text, shard epoch, sequence of the claim, turn, sequence, options, message
//! Release  term, client id: text, shard epoch, sequence of the claim, turn, sequence
//! message  flags: u8 (0-1 QoS, 2 RETAIN, 3 expires, 4 has a publisher), topic: text, [milliseconds left],
//!          [publisher: text], properties: blob, payload: the rest
//! options  flags: u8 (0-1 QoS, 2 RETAIN, 3 shared), number of ids, id..., [filter: text]
//! ```
//! `u32` is little-endian, other numbers have seven bits a byte, the lowest first; a text or blob follows its length. The
//! length of a frame has a fixed size so that it can be filled in afterwards, and a frame is written in one pass.

use bytes::{Bytes, BytesMut};

use crate::{
    frame::{Check, Frame},
    layout::{DecodeError, Reader},
};

/// A batch with this many frames is full.
pub const BATCH_FRAMES_SOFT: usize = 512;
/// A batch with this many bytes is full. One frame may go beyond it, by its whole length.
pub const BATCH_BYTES_SOFT: usize = 128 << 10;

/// A batch of frames. It is valid because it exists.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Batch {
    bytes: Bytes,
    frames: u32,
}

/// A batch that others may still be appended to.
#[derive(Debug)]
pub(crate) enum Growing {
    /// Nothing has been appended, or nothing can be any more.
    Whole(Batch),
    /// The bytes of several, and how many frames they have; the number in the header is that of the first.
    Joined(BytesMut, u32),
}

/// Collects frames for a batch.
#[derive(Debug, Default)]
pub struct BatchWriter {
    /// Empty, or a header and frames.
    bytes: Vec<u8>,
    frames: u32,
}

/// The frames of a batch, first to last.
#[derive(Debug, Clone)]
pub struct Frames<'a> {
    batch: &'a Bytes,
    reader: Reader<'a>,
    left: u32,
}

impl BatchWriter {
    /// An empty batch; it owns no memory yet.
    #[must_use]
    pub const fn new() -> Self {
        Self { bytes: Vec::new(), frames: 0 }
    }

    /// Appends a frame.
    ///
    /// # Panics
    /// The frame has more than 4 GiB, or the batch 2^32 frames.
    pub fn push(&mut self, frame: &Frame<'_>) {
        if self.bytes.is_empty() {
            self.bytes.extend_from_slice(&[VERSION, 0, 0, 0, 0]);
        }
        let start = self.bytes.len();
        self.bytes.extend_from_slice(&[0; 4]);
        frame.write(&mut self.bytes);
        let len = self.bytes.len() - start - 4;
        let len = u32::try_from(len).expect("a frame has less than 4 GiB");
        self.bytes[start..start + 4].copy_from_slice(&len.to_le_bytes());
        self.frames = self.frames.checked_add(1).expect("a batch has less than 2^32 frames");
    }

    /// How many frames there are.
    #[must_use]
    pub const fn len(&self) -> usize {
        self.frames as usize
    }

    /// Whether there is no frame.
    #[must_use]
    pub const fn is_empty(&self) -> bool {
        self.frames == 0
    }

    /// The bytes that the batch has by now.
    #[must_use]
    pub const fn size(&self) -> usize {
        self.bytes.len()
    }

    /// Whether the next frame should go into another batch.
    #[must_use]
    pub const fn is_full(&self) -> bool {
        self.len() >= BATCH_FRAMES_SOFT || self.bytes.len() >= BATCH_BYTES_SOFT
    }

    /// Takes the batch out; `None`: there is no frame.
    ///
    /// It takes along the memory in which it was written, unless it has a small part of it.
    #[must_use]
    pub fn take(&mut self) -> Option<Batch> {
        if self.is_empty() {
            return None;
        }
        self.bytes[1..HEADER].copy_from_slice(&self.frames.to_le_bytes());
        let len = self.bytes.len();
        let bytes = if self.bytes.capacity() <= len * SPARE_RATIO_MAX {
            // The next one is often about as large, or somewhat larger. A long message is an exception.
            let next = Vec::with_capacity((len + len / 4).min(BATCH_BYTES_SOFT));
            Bytes::from(std::mem::replace(&mut self.bytes, next))
        } else {
            let bytes = Bytes::copy_from_slice(&self.bytes);
            self.bytes.clear();
            self.bytes.shrink_to(len * SPARE_RATIO_MAX);
            bytes
        };
        Some(Batch { bytes, frames: std::mem::take(&mut self.frames) })
    }
}

impl Batch {
    /// Checks what a peer sent: the whole of it, so that a batch with a fault has no effect at all.
    ///
    /// # Errors
    /// Some of it is not what a [`BatchWriter`] writes.
    pub fn decode(bytes: Bytes) -> Result<Self, DecodeError> {
        let mut reader = Reader::new(&bytes);
        let version = reader.u8()?;
        if version != VERSION {
            return Err(DecodeError::UnknownVersion(version));
        }
        let frames = reader.u32()?;
        // A batch without frames would be a number without a meaning.
        if frames == 0 || frames as usize > reader.len() / FRAME_BYTES_MIN {
            return Err(DecodeError::FrameCount);
        }
        for _ in 0..frames {
            read_frame(&mut reader, &bytes, Check::All)?;
        }
        reader.finish().map_err(|_| DecodeError::FrameCount)?;
        Ok(Self { bytes, frames })
    }

    /// The frames, first to last.
    #[must_use]
    pub fn frames(&self) -> Frames<'_> {
        let mut reader = Reader::new(&self.bytes);
        let header = reader.bytes(HEADER);
        debug_assert!(header.is_ok(), "a batch has a header");
        Frames { batch: &self.bytes, reader, left: self.frames }
    }

    /// How many frames there are; not zero.
    #[must_use]
    #[expect(clippy::len_without_is_empty, reason = "it is never empty")]
    pub const fn len(&self) -> usize {
        self.frames as usize
    }

    /// Its length in bytes.
    #[must_use]
    pub const fn size(&self) -> usize {
        self.bytes.len()
    }

    /// What it counts against bounds on memory: its bytes, and what keeping it takes besides.
    #[must_use]
    pub const fn cost(&self) -> usize {
        self.bytes.len() + COST_BESIDES
    }

    /// What goes over the wire.
    #[must_use]
    pub const fn bytes(&self) -> &Bytes {
        &self.bytes
    }
}

impl Growing {
    /// Whether it stays within the bounds of a batch when `batch` is appended.
    pub(crate) fn has_room_for(&self, batch: &Batch) -> bool {
        let (bytes, frames) = match self {
            Self::Whole(whole) => (whole.size(), whole.frames),
            Self::Joined(bytes, frames) => (bytes.len(), *frames),
        };
        bytes + batch.size() <= BATCH_BYTES_SOFT && (frames + batch.frames) as usize <= BATCH_FRAMES_SOFT
    }

    /// Appends the frames of a batch.
    pub(crate) fn append(&mut self, batch: &Batch) {
        if let Self::Whole(whole) = self {
            let bytes = std::mem::take(&mut whole.bytes).try_into_mut();
            let bytes = bytes.unwrap_or_else(|shared| BytesMut::from(&shared[..]));
            *self = Self::Joined(bytes, whole.frames);
        }
        let Self::Joined(bytes, frames) = self else { unreachable!("it has just been made so") };
        bytes.extend_from_slice(&batch.bytes[HEADER..]);
        *frames += batch.frames;
    }

    /// Makes it whole: nothing can be appended any more.
    pub(crate) fn fix(&mut self) -> &Batch {
        if let Self::Joined(bytes, frames) = self {
            let (mut bytes, frames) = (std::mem::take(bytes), *frames);
            bytes[1..HEADER].copy_from_slice(&frames.to_le_bytes());
            *self = Self::Whole(Batch { bytes: bytes.freeze(), frames });
        }
        let Self::Whole(batch) = self else { unreachable!("it has just been made so") };
        batch
    }

    pub(crate) fn into_batch(mut self) -> Batch {
        self.fix().clone()
    }

    /// See [`Batch::cost`].
    pub(crate) fn cost(&self) -> usize {
        match self {
            Self::Whole(batch) => batch.cost(),
            Self::Joined(bytes, _) => bytes.len() + COST_BESIDES,
        }
    }
}

impl From<Batch> for Growing {
    fn from(batch: Batch) -> Self {
        Self::Whole(batch)
    }
}

impl<'a> Iterator for Frames<'a> {
    type Item = Frame<'a>;

    #[inline]
    fn next(&mut self) -> Option<Frame<'a>> {
        self.left = self.left.checked_sub(1)?;
        let frame = read_frame(&mut self.reader, self.batch, Check::Bounds);
        debug_assert!(frame.is_ok(), "the batch has been checked: {frame:?}");
        frame.ok()
    }

    fn size_hint(&self) -> (usize, Option<usize>) {
        (self.left as usize, Some(self.left as usize))
    }
}

impl ExactSizeIterator for Frames<'_> {}

#[inline]
fn read_frame<'a>(reader: &mut Reader<'a>, batch: &'a Bytes, check: Check) -> Result<Frame<'a>, DecodeError> {
    let len = usize::try_from(reader.u32()?).map_err(|_| DecodeError::CutOff)?;
    Frame::read(reader.bytes(len)?, batch, check)
}

/// An entry in a queue and in the allocator.
const COST_BESIDES: usize = 128;
const VERSION: u8 = 1;
/// Version and number of frames.
const HEADER: usize = 5;
/// The length and the kind of a frame.
const FRAME_BYTES_MIN: usize = 5;
/// The memory of a batch is at most so many times as large as the batch.
const SPARE_RATIO_MAX: usize = 2;
