//! How far the store was synced, kept beside it.
//!
//! fjall takes any damage of its last journal for the torn end that a power cut leaves, and drops what follows. The mark tells
//! the two apart: what it covers must be there. It is written after each sync and not flushed, so after a power cut it may be
//! an older one, which is a weaker check and never a wrong one.

use std::{fs::File, io, os::unix::fs::FileExt, path::Path};

use xxhash_rust::xxh3::xxh3_64;

/// The file, and the mark it has.
#[derive(Debug)]
pub(crate) struct SyncedMark {
    file: File,
    sequence: u64,
}

impl SyncedMark {
    /// The mark in the file at `path`, which is made where it is missing. A mark that cannot be read is none.
    pub(crate) fn open(path: &Path) -> io::Result<Self> {
        let file = File::options().read(true).write(true).create(true).truncate(false).open(path)?;
        let mut bytes = [0; MARK_BYTES];
        let sequence = match file.read_exact_at(&mut bytes, 0) {
            Ok(()) => decode(&bytes).unwrap_or(0),
            Err(error) if error.kind() == io::ErrorKind::UnexpectedEof => {
                // Takes its room now, and not when the disk is full.
                file.write_all_at(&encode(0), 0)?;
                file.sync_all()?;
                0
            }
            Err(error) => return Err(error),
        };
        Ok(Self { file, sequence })
    }

    /// The last batch known to be durable.
    pub(crate) fn sequence(&self) -> u64 {
        self.sequence
    }

    /// Notes that all batches up to `sequence` are durable.
    pub(crate) fn advance(&mut self, sequence: u64) -> io::Result<()> {
        if sequence > self.sequence {
            self.file.write_all_at(&encode(sequence), 0)?;
            self.sequence = sequence;
        }
        Ok(())
    }
}

const MAGIC: [u8; 8] = *b"FLSYNC\x01\n";
const MARK_BYTES: usize = 24;

fn encode(sequence: u64) -> [u8; MARK_BYTES] {
    let mut bytes = [0; MARK_BYTES];
    bytes[..8].copy_from_slice(&MAGIC);
    bytes[8..16].copy_from_slice(&sequence.to_le_bytes());
    let hash = xxh3_64(&bytes[..16]);
    bytes[16..].copy_from_slice(&hash.to_le_bytes());
    bytes
}

fn decode(bytes: &[u8; MARK_BYTES]) -> Option<u64> {
    let sequence = u64::from_le_bytes(bytes[8..16].try_into().ok()?);
    (encode(sequence) == *bytes).then_some(sequence)
}

#[cfg(test)]
mod tests {
    use std::fs;

    use super::*;

    #[test]
    fn only_a_whole_mark_counts() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("synced");
        let mut mark = SyncedMark::open(&path).unwrap();
        assert_eq!(mark.sequence(), 0);
        mark.advance(300).unwrap();
        mark.advance(299).unwrap();
        assert_eq!(SyncedMark::open(&path).unwrap().sequence(), 300);
        let whole = fs::read(&path).unwrap();
        for bit in 0..whole.len() * 8 {
            let mut damaged = whole.clone();
            damaged[bit / 8] ^= 1 << (bit % 8);
            fs::write(&path, damaged).unwrap();
            assert_eq!(SyncedMark::open(&path).unwrap().sequence(), 0, "bit {bit}");
        }
        fs::write(&path, &whole[..23]).unwrap();
        assert_eq!(SyncedMark::open(&path).unwrap().sequence(), 0);
    }
}
