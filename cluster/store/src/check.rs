//! What is checked before fjall opens its files.
//!
//! fjall 3.1 checks the blocks of its tables and each batch of its journals, and leaves gaps between: it drops the rest of a
//! journal, also of one in the middle, where a tag does not fit, refuses to open where a power cut tore the value of the last
//! batch, believes a sequence number no checksum covers, does not compare a manifest with the checksum kept beside it, and
//! allocates what a damaged file asks for. So manifests, the ends of tables, and journals are read here first, and what a power
//! cut may leave is cut off here.

use std::{
    fs::{self, File},
    io::{self, BufRead, BufReader, Read, Seek, SeekFrom},
    path::Path,
};

use xxhash_rust::xxh3::{Xxh3, xxh3_128};

use crate::StoreError;

/// fjall's own number of the keyspace of the rows: the first that was made.
const ROWS_ID: u64 = 1;

/// The row that counts batches; it is in each.
pub(crate) const SEQUENCE_KEY: &[u8] = b"s";

/// Checks the files in `dir`, and cuts the torn end of the last journal. The batches up to `synced` must be whole. Returns the
/// last batch in the journals, if there is one.
pub(crate) fn check(dir: &Path, synced: u64) -> Result<Option<u64>, StoreError> {
    // Without it, fjall would begin anew among the old files.
    let version = dir.join("version");
    if read(&version)? != FORMAT {
        return Err(damaged(&version, "it names another format"));
    }
    for tree in [0, ROWS_ID] {
        check_manifest(&dir.join("keyspaces").join(tree.to_string()))?;
    }
    check_journals(dir, synced)
}

/// The manifest lists the tables. fjall deletes tables it does not list, so a damaged one must not get that far.
fn check_manifest(tree: &Path) -> Result<(), StoreError> {
    let current_path = tree.join("current");
    let current = read(&current_path)?;
    // The number of the manifest, its checksum, and the kind of that.
    let Ok([id @ .., 0]) = <[u8; 25]>::try_from(current) else {
        return Err(damaged(&current_path, "it is not what it should be"));
    };
    let (id, checksum) = id.split_at(8);
    let id = u64::from_le_bytes(id.try_into().expect("it was split at eight"));
    let manifest_path = tree.join(format!("v{id}"));
    let manifest = read(&manifest_path)?;
    if xxh3_128(&manifest).to_le_bytes() != checksum {
        return Err(damaged(&manifest_path, "its checksum does not fit"));
    }
    let tables = tables(&manifest).ok_or_else(|| damaged(&manifest_path, "it has no tables"))?;
    tables.into_iter().try_for_each(|table| check_table(&tree.join("tables").join(table.to_string())))
}

/// A table and a manifest end with a list of their parts, and a trailer that says where it begins and has its checksum.
/// fjall makes room for as many parts as the list says before it checks that, and the process dies where there is none.
fn check_table(path: &Path) -> Result<(), StoreError> {
    let mut file = match File::open(path) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Err(damaged(path, "it is missing")),
        file => file?,
    };
    let bytes = file.metadata()?.len();
    let mut end = Vec::new();
    file.seek(SeekFrom::Start(bytes.saturating_sub(PARTS_BYTES_MAX)))?;
    file.read_to_end(&mut end)?;
    parts(&end, bytes).map(|_| ()).ok_or_else(|| damaged(path, "the list of its parts does not fit"))
}

/// The list of parts at the end of a file of so many bytes.
fn parts(mut end: &[u8], bytes: u64) -> Option<&[u8]> {
    let trailer = end.split_off(end.len().checked_sub(TRAILER_BYTES)?..)?;
    let (checksum, places) = trailer.strip_prefix(b"SFA!\x01\x00")?.split_at(16);
    let start = u64::from_le_bytes(*places.first_chunk()?);
    let length = usize::try_from(bytes.checked_sub(TRAILER_BYTES as u64)?.checked_sub(start)?).ok()?;
    let parts = &end[end.len().checked_sub(length)?..];
    (xxh3_128(parts).to_le_bytes() == checksum).then_some(parts)?.strip_prefix(b"TOC!")
}

/// The numbers of the tables in a manifest.
fn tables(manifest: &[u8]) -> Option<Vec<u64>> {
    let mut parts = parts(manifest, manifest.len() as u64)?;
    let count = u32::from_le_bytes(take(&mut parts)?);
    let mut list = None;
    for _ in 0..count {
        let start = usize::try_from(u64::from_le_bytes(take(&mut parts)?)).ok()?;
        let length = usize::try_from(u64::from_le_bytes(take(&mut parts)?)).ok()?;
        let name_bytes = u16::from_le_bytes(take(&mut parts)?);
        let name = parts.split_off(..usize::from(name_bytes))?;
        if name == b"tables" {
            list = manifest.get(start..start.checked_add(length)?);
        }
    }
    let mut list = list?;
    let mut tables = Vec::new();
    let [levels] = take(&mut list)?;
    for _ in 0..levels {
        let [runs] = take(&mut list)?;
        for _ in 0..runs {
            for _ in 0..u32::from_le_bytes(take(&mut list)?) {
                tables.push(u64::from_le_bytes(take(&mut list)?));
                // The kind of its checksum, that, and an offset of its numbers.
                take::<{ 1 + 16 + 8 }>(&mut list)?;
            }
        }
    }
    Some(tables)
}

fn take<const N: usize>(bytes: &mut &[u8]) -> Option<[u8; N]> {
    let (taken, rest) = bytes.split_first_chunk()?;
    *bytes = rest;
    Some(*taken)
}

/// The trailer, and the most that is read at the end of a table: its list has some hundred bytes.
const TRAILER_BYTES: usize = 4 + 1 + 1 + 16 + 8 + 8;
const PARTS_BYTES_MAX: u64 = 16 << 10;

fn check_journals(dir: &Path, synced: u64) -> Result<Option<u64>, StoreError> {
    let mut journals = Vec::new();
    for entry in fs::read_dir(dir)? {
        let path = entry?.path();
        if path.extension().is_some_and(|extension| extension == "jnl") {
            let number = path.file_stem().and_then(|stem| stem.to_str()?.parse::<u64>().ok());
            journals.push((number.ok_or_else(|| damaged(&path, "it has no number"))?, path));
        }
    }
    journals.sort_unstable();
    let mut at = Position::default();
    let last = journals.len().saturating_sub(1);
    for (position, (_, path)) in journals.iter().enumerate() {
        let (end, clean) = check_journal(path, &mut at)?;
        if clean {
            continue;
        }
        // fjall flushes a journal before it begins the next: only the last can be torn, and only behind what was synced. Where
        // it has no whole batch, the tables may have all that was, and the caller sees whether they do.
        if position < last {
            return Err(damaged(path, &format!("the batch at byte {end} is not whole")));
        }
        if at.sequence.is_some_and(|last| last < synced) {
            return Err(damaged(path, &format!("the batch at byte {end} is not whole, and was synced")));
        }
        tracing::warn!(journal = %path.display(), at = end, "dropping the torn end of a journal");
        let file = File::options().write(true).open(path)?;
        file.set_len(end)?;
        file.sync_all()?;
    }
    match at.sequence {
        Some(sequence) if sequence < synced => Err(damaged(
            dir,
            &format!("{synced} batches were synced, and the last in the journals is {sequence}"),
        )),
        sequence => Ok(sequence),
    }
}

/// The last batch that was read.
#[derive(Debug, Default)]
struct Position {
    sequence: Option<u64>,
    /// fjall's own number, which orders the versions of a row.
    seqno: Option<u64>,
}

/// fjall counts batches and changes of its manifest, so numbers lie near each other.
const SEQNO_GAP_MAX: u64 = 1 << 32;

/// Reads the batches of a journal: where the whole ones end, and whether nothing but room follows.
fn check_journal(path: &Path, at: &mut Position) -> Result<(u64, bool), StoreError> {
    let file = File::open(path)?;
    let bytes = file.metadata()?.len();
    let mut journal =
        Journal { reader: BufReader::with_capacity(256 << 10, file), left: bytes, item: Vec::new() };
    let mut end = 0;
    while let Some((sequence, seqno)) = journal.batch()? {
        if let Some(last) = at.sequence.filter(|last| last.checked_add(1) != Some(sequence)) {
            // Its checksum fits, so it was written; what was before it is missing.
            return Err(damaged(path, &format!("batch {sequence} follows batch {last}")));
        }
        // No checksum covers fjall's number, so that one may be torn.
        if at.seqno.is_some_and(|last| seqno <= last || seqno - last > SEQNO_GAP_MAX) {
            break;
        }
        *at = Position { sequence: Some(sequence), seqno: Some(seqno) };
        end = bytes - journal.left;
    }
    Ok((end, rest_is_zero(path, end)?))
}

/// Reads a journal of fjall 3, which has batches of `Start`, items, and `End`.
struct Journal {
    reader: BufReader<File>,
    /// Bytes of the file that were not read.
    left: u64,
    /// The item that was read last: kept for its room.
    item: Vec<u8>,
}

impl Journal {
    /// The numbers of the next batch, ours and fjall's; `None` where there is none that is whole.
    fn batch(&mut self) -> io::Result<Option<(u64, u64)>> {
        let Some([TAG_START, rest @ ..]) = self.take::<13>()? else { return Ok(None) };
        let (items, seqno) = rest.split_at(4);
        let items = u32::from_le_bytes(items.try_into().expect("it was split at four"));
        let seqno = u64::from_le_bytes(seqno.try_into().expect("eight are left"));
        let mut hasher = Xxh3::new();
        let mut sequence = None;
        for _ in 0..items {
            let Some(row) = self.item(&mut hasher)? else { return Ok(None) };
            sequence = sequence.or(row);
        }
        let Some([TAG_END, end @ ..]) = self.take::<13>()? else { return Ok(None) };
        let (checksum, trailer) = end.split_at(8);
        let whole = checksum == hasher.digest().to_le_bytes() && trailer == FORMAT;
        Ok(sequence.filter(|_| whole).map(|sequence| (sequence, seqno)))
    }

    /// Reads one item: `Some(Some(_))` for the row that counts batches, `Some(None)` for another, `None` where it is not whole.
    fn item(&mut self, hasher: &mut Xxh3) -> io::Result<Option<Option<u64>>> {
        let Some(head) = self.take::<ITEM_HEAD_BYTES>()? else { return Ok(None) };
        let [TAG_ITEM, _, NOT_COMPRESSED, ids @ ..] = head else { return Ok(None) };
        let (keyspace, lengths) = ids.split_at(8);
        let key_bytes = u64::from(u16::from_le_bytes([lengths[0], lengths[1]]));
        let value_bytes = u64::from(u32::from_le_bytes([lengths[2], lengths[3], lengths[4], lengths[5]]));
        if keyspace != ROWS_ID.to_le_bytes() || lengths[2..6] != lengths[6..10] {
            return Ok(None);
        }
        let bytes = key_bytes + value_bytes;
        if bytes > self.left {
            return Ok(None);
        }
        self.item.clear();
        self.left -= self.reader.by_ref().take(bytes).read_to_end(&mut self.item)? as u64;
        if self.item.len() as u64 != bytes {
            return Ok(None);
        }
        hasher.update(&head);
        hasher.update(&self.item);
        let value = self.item.strip_prefix(SEQUENCE_KEY).filter(|_| key_bytes == SEQUENCE_KEY.len() as u64);
        Ok(Some(value.and_then(|value| Some(u64::from_le_bytes(value.try_into().ok()?)))))
    }

    fn take<const N: usize>(&mut self) -> io::Result<Option<[u8; N]>> {
        let mut bytes = [0; N];
        if self.left < N as u64 {
            return Ok(None);
        }
        self.reader.read_exact(&mut bytes)?;
        self.left -= N as u64;
        Ok(Some(bytes))
    }
}

const TAG_START: u8 = 1;
const TAG_ITEM: u8 = 2;
const TAG_END: u8 = 3;
const NOT_COMPRESSED: u8 = 0;

/// What fjall 3 writes behind each batch, and into a file of its own.
const FORMAT: &[u8] = b"FJL\x03";

/// Tag, type, compression, keyspace, and three lengths.
const ITEM_HEAD_BYTES: usize = 1 + 1 + 1 + 8 + 2 + 4 + 4;

/// Whether the file has only zeros from `start`: fjall makes journals of full size, and fills them.
fn rest_is_zero(path: &Path, start: u64) -> io::Result<bool> {
    let mut file = File::open(path)?;
    file.seek(SeekFrom::Start(start))?;
    let mut reader = BufReader::with_capacity(256 << 10, file);
    loop {
        let bytes = reader.fill_buf()?;
        if bytes.is_empty() {
            return Ok(true);
        }
        if bytes.iter().any(|&byte| byte != 0) {
            return Ok(false);
        }
        let length = bytes.len();
        reader.consume(length);
    }
}

/// The bytes of a file that has to be there.
fn read(path: &Path) -> Result<Vec<u8>, StoreError> {
    match fs::read(path) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => Err(damaged(path, "it is missing")),
        read => Ok(read?),
    }
}

fn damaged(path: &Path, what: &str) -> StoreError {
    StoreError::Damaged { what: format!("{}: {what}", path.display()) }
}
