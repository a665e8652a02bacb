//! Reads the segments after a start.

use std::{
    collections::BTreeMap,
    io,
    path::{Path, PathBuf},
    sync::Arc,
};

use crate::{
    files::{File, Files},
    index::{Group, Index, Place, Slot, Value},
    layout::{
        self, FORMAT_VERSION, FRAME_HEADER, HeaderError, Kind, Origin, SEGMENT_HEADER, SegmentHeader, Stored,
    },
    options::WalError,
    spares::zero,
};

/// What the directory has.
#[derive(Debug)]
pub(crate) struct Recovered {
    pub(crate) index: Index,
    /// The segments, by sequence number, without a gap. The last is the one to write to; empty in a new directory.
    pub(crate) segments: BTreeMap<u64, Segment>,
    /// Where the frames of the last segment end.
    pub(crate) end: u32,
    /// Whether the last segment is of the format that is written.
    pub(crate) is_current: bool,
    /// Files that wait to be used again.
    pub(crate) spares: Vec<String>,
}

/// A segment of the log.
#[derive(Debug, Clone)]
pub(crate) struct Segment {
    pub(crate) file: Arc<dyn File>,
    pub(crate) bytes: u32,
}

/// Name of a segment in use.
pub(crate) fn segment_name(sequence: u64) -> String {
    format!("{sequence:016x}.wal")
}

/// Name of a segment that waits to be used again.
pub(crate) fn spare_name(number: u64) -> String {
    format!("{number:016x}.spare")
}

/// The number in a name as the two functions above make it.
pub(crate) fn number_in(name: &str, extension: &str) -> Option<u64> {
    let digits = name.strip_suffix(extension)?;
    let number = u64::from_str_radix(digits, 16).ok()?;
    (format!("{number:016x}") == digits).then_some(number)
}

/// Reads what is in `dir`, and makes durable what it found: an earlier run may have been killed between a write and its flush.
pub(crate) fn recover(dir: &Path, files: &dyn Files, cache_bytes_max: usize) -> Result<Recovered, WalError> {
    let failed = |source| WalError::Io { dir: dir.to_owned(), source };
    let names = files.list(dir).map_err(failed)?;
    let spares = names.iter().filter(|name| number_in(name, ".spare").is_some()).cloned().collect();
    let mut sequences: Vec<u64> = names.iter().filter_map(|name| number_in(name, ".wal")).collect();
    sequences.sort_unstable();

    let mut opened = Vec::new();
    for sequence in sequences {
        opened.push(Opened::open(dir, files, sequence)?);
    }
    let mut rebuild = Rebuild::default();
    let mut end = End { offset: SEGMENT_HEADER, is_torn: false };
    for (position, segment) in opened.iter().enumerate() {
        let next = opened.get(position + 1);
        if let Some(next) = next.filter(|next| next.sequence != segment.sequence + 1) {
            return Err(next.damaged(0, "the segment before this one is missing"));
        }
        end = segment
            .replay(next.map(|next| next.previous_end), &mut rebuild)
            .map_err(|error| error.named(dir))?;
    }
    let index = rebuild.finish(cache_bytes_max, &opened)?;
    if let Some(last) = opened.last() {
        last.settle(&end).map_err(failed)?;
    }
    let is_current = opened.last().is_some_and(|last| last.version == FORMAT_VERSION);
    files.sync_dir(dir).map_err(failed)?;
    let segments = opened
        .into_iter()
        .map(|opened| (opened.sequence, Segment { file: opened.file, bytes: opened.bytes }))
        .collect();
    Ok(Recovered { index, segments, end: end.offset, is_current, spares })
}

/// A segment whose header was read.
#[derive(Debug)]
struct Opened {
    path: PathBuf,
    version: u32,
    sequence: u64,
    previous_end: u32,
    file: Arc<dyn File>,
    bytes: u32,
}

impl Opened {
    fn open(dir: &Path, files: &dyn Files, sequence: u64) -> Result<Self, WalError> {
        let path = dir.join(segment_name(sequence));
        let failed = |source| WalError::Io { dir: dir.to_owned(), source };
        let damaged = |what| WalError::Damaged { file: path.clone(), offset: 0, what };
        let file = files.open(&path).map_err(failed)?;
        let bytes =
            u32::try_from(file.size().map_err(failed)?).map_err(|_| damaged("no segment is so large"))?;
        // A segment gets its name only after its header is durable, so there is no innocent way to a broken one.
        if bytes < SEGMENT_HEADER {
            return Err(damaged("the header is cut off"));
        }
        let mut header = [0; SEGMENT_HEADER as usize];
        file.read_at(&mut header, 0).map_err(failed)?;
        let header = match SegmentHeader::decode(&header) {
            Ok(header) => header,
            Err(HeaderError::Damaged) => return Err(damaged("the header is not what was written")),
            Err(HeaderError::UnknownVersion(version)) => {
                return Err(WalError::UnknownVersion { file: path, version });
            }
        };
        if header.sequence != sequence {
            return Err(damaged("the header is that of another segment"));
        }
        Ok(Self { path, version: header.version, sequence, previous_end: header.previous_end, file, bytes })
    }

    /// Replays the frames, and says where they end. `end` is known of every segment but the last.
    fn replay(&self, end: Option<u32>, rebuild: &mut Rebuild) -> Result<End, ReplayError> {
        let mut segment = vec![0; self.bytes as usize];
        self.file.read_at(&mut segment, 0).map_err(ReplayError::Io)?;
        let damaged = |offset, what| ReplayError::Wal(self.damaged(offset, what));
        let (mut offset, mut is_torn) = (SEGMENT_HEADER, false);
        while end.is_none_or(|end| offset < end) {
            let Some(body) = layout::frame_at(&segment, self.sequence, offset) else {
                if end.is_some() {
                    return Err(damaged(offset, "a record is not what was written"));
                }
                match layout::is_vouched_for(&segment, self.sequence, offset) {
                    Some(true) => {
                        return Err(damaged(
                            offset,
                            "a record is not what was written, and others follow it",
                        ));
                    }
                    // Later writes of those that nobody flushed survived the power cut, and this one did not.
                    Some(false) => is_torn = true,
                    None => {}
                }
                break;
            };
            let frame = &segment[body.clone()];
            let mut position = 0;
            while position < frame.len() {
                let stored = layout::record_at(frame, position);
                let stored = stored.ok_or_else(|| damaged(offset, "a record has a form that none has"))?;
                let at = u32::try_from(body.start + stored.position).expect("a segment is smaller");
                let place = Place::At { segment: self.sequence, offset: at };
                rebuild.replay(&stored, place).map_err(|what| damaged(at, what))?;
                position = stored.position + stored.bytes.len();
            }
            let used = layout::frame_bytes(frame.len());
            offset += u32::try_from(used).expect("a segment is smaller");
        }
        match end {
            Some(end) if offset != end => {
                Err(damaged(offset, "the segment ends elsewhere than the next one says"))
            }
            _ => Ok(End { offset, is_torn }),
        }
    }

    /// Makes the end of the last segment fit to be written on.
    fn settle(&self, end: &End) -> io::Result<()> {
        let End { offset: end, is_torn } = *end;
        if is_torn {
            // None of the frames that follow may count, once there is one here again. From the front, so that those that are left count
            // as little after a crash in the middle.
            zero(&*self.file, end, self.bytes)?;
        }
        // A torn frame loses its header, so that nothing ever takes it for one again.
        let mut torn = vec![0; FRAME_HEADER.min(self.bytes.saturating_sub(end)) as usize];
        if !torn.is_empty() {
            self.file.read_at(&mut torn, u64::from(end))?;
        }
        if torn.iter().any(|&byte| byte != 0) {
            torn.fill(0);
            self.file.write_at(&torn, u64::from(end))?;
        }
        self.file.sync()
    }

    fn damaged(&self, offset: u32, what: &'static str) -> WalError {
        WalError::Damaged { file: self.path.clone(), offset: u64::from(offset), what }
    }
}

/// Where the frames of a segment end.
#[derive(Debug)]
struct End {
    offset: u32,
    /// Whole frames follow that do not count.
    is_torn: bool,
}

enum ReplayError {
    Io(io::Error),
    Wal(WalError),
}

impl ReplayError {
    fn named(self, dir: &Path) -> WalError {
        match self {
            Self::Io(source) => WalError::Io { dir: dir.to_owned(), source },
            Self::Wal(error) => error,
        }
    }
}

/// The groups while they are replayed. Entries that were brought forward come out of order, and those whose first copy is gone
/// leave a gap until then, so they are kept in a map.
#[derive(Debug, Default)]
struct Rebuild {
    groups: BTreeMap<u64, (Group, BTreeMap<u64, Slot>)>,
}

impl Rebuild {
    fn replay(&mut self, stored: &Stored<'_>, place: Place) -> Result<(), &'static str> {
        match stored.kind {
            Kind::FlushedTo { .. } => return Ok(()),
            Kind::Forgotten => {
                self.groups.remove(&stored.group);
                return Ok(());
            }
            _ => {}
        }
        let (group, entries) = self.groups.entry(stored.group).or_default();
        let value = || Value { bytes: layout::owned(stored.bytes), place };
        match stored.kind {
            Kind::FlushedTo { .. } | Kind::Forgotten => {}
            Kind::Vote => group.vote = Some(value()),
            Kind::Meta { key } => {
                group.meta.insert(key, value());
            }
            Kind::Entry { index: u64::MAX, .. } | Kind::Purged { index: u64::MAX } => {
                return Err("a record has an index that none has");
            }
            Kind::Entry { index, origin: Origin::New } => {
                if entries.last_key_value().is_some_and(|last| *last.0 >= index) {
                    return Err("an entry does not follow on the one before it");
                }
                entries.insert(index, Slot::new(place, stored.bytes));
            }
            Kind::Entry { index, origin: Origin::Carried } => {
                entries.insert(index, Slot::new(place, stored.bytes));
            }
            Kind::TruncateFrom { index } => {
                entries.split_off(&index);
            }
            Kind::Purged { index } => {
                if group.purged.as_ref().is_none_or(|purged| purged.0 <= index) {
                    *entries = entries.split_off(&(index + 1));
                    group.purged = Some((index, value()));
                }
            }
        }
        Ok(())
    }

    /// The index, with the last entry of each group in memory.
    fn finish(self, cache_bytes_max: usize, opened: &[Opened]) -> Result<Index, WalError> {
        let segment = |sequence| opened.iter().find(|opened| opened.sequence == sequence);
        let mut index = Index::new(cache_bytes_max);
        for (id, (mut group, entries)) in self.groups {
            let mut next = group.purged.as_ref().map(|purged| purged.0 + 1);
            group.first = entries.first_key_value().map_or(0, |first| *first.0);
            for (&entry, slot) in &entries {
                if let (Place::At { segment: at, offset }, true) =
                    (slot.place, next.is_some_and(|next| next != entry))
                {
                    let at = segment(at).expect("the entry was read from it");
                    return Err(at.damaged(offset, "the entry before this one is missing"));
                }
                next = Some(entry + 1);
            }
            index.insert(id, group, entries.into_values());
            if let Some(Slot { place: Place::At { segment: at, offset }, length, crc }) =
                index.last_on_disk(id)
            {
                let at = segment(at).expect("the entry was read from it");
                let bytes = read_entry(&*at.file, offset, length, crc);
                let bytes = bytes.map_err(|_| at.damaged(offset, "an entry changes while it is read"))?;
                index.cache_last(id, bytes.into());
            }
        }
        Ok(index)
    }
}

/// The bytes of an entry, which have to be those of its CRC32.
pub(crate) fn read_entry(file: &dyn File, offset: u32, length: u32, crc: u32) -> io::Result<Vec<u8>> {
    let mut bytes = vec![0; length as usize];
    file.read_at(&mut bytes, u64::from(offset))?;
    if crc32fast::hash(&bytes) == crc { Ok(bytes) } else { Err(not_what_was_written()) }
}

pub(crate) fn not_what_was_written() -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, "an entry of the log is not what was written")
}
