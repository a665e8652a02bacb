//! Files that are torn, damaged or of another format.

use super::*;

/// A log with several segments, and what it has before and after its last submission.
fn several_segments() -> (MemoryFiles, Model, Model) {
    let files = MemoryFiles::new();
    let wal = open(&files, &options(256));
    for index in 0..13 {
        submit(&wal, vec![entry(1, index, format!("entry {index}")), vote(2, b"vote")]).unwrap();
    }
    let before = Model::of(&wal);
    submit(&wal, vec![entry(1, 13, "the last"), entry(3, 9, "another")]).unwrap();
    let after = Model::of(&wal);
    assert!(wal.status().segments > 3);
    drop(wal);
    (files, before, after)
}

fn segments(files: &MemoryFiles) -> Vec<PathBuf> {
    let names = files.list(&dir()).unwrap();
    names.iter().filter(|name| name.ends_with(".wal")).map(|name| dir().join(name)).collect()
}

/// Where the frames of a segment begin, and where the last ends.
fn frames(bytes: &[u8]) -> Vec<usize> {
    let starts = (32..bytes.len() - 4).step_by(8).filter(|&at| bytes[at..at + 4] == *b"FRM\n");
    let mut starts: Vec<usize> = starts.collect();
    let last = *starts.last().unwrap();
    let body = u32::from_le_bytes(bytes[last + 4..last + 8].try_into().unwrap()) as usize;
    starts.push((last + 16 + body).next_multiple_of(8));
    starts
}

#[test]
fn the_last_submission_is_dropped_when_it_is_cut_anywhere() {
    let (files, before, after) = several_segments();
    let path = segments(&files).pop().unwrap();
    let whole = files.contents(&path).unwrap();
    let starts = frames(&whole);
    let [.., start, end] = starts[..] else { panic!("there is a frame") };
    for rest in [0_u8, 0xA5] {
        for cut in start..=end {
            let copy = files.copy();
            let mut torn = whole.clone();
            torn[cut..].fill(rest);
            copy.damage(&path, &torn);
            let wal = open(&copy, &options(256));
            // The padding does not matter.
            let expected = if cut + 8 > end && torn[..cut] == whole[..cut] && Model::of(&wal) == after {
                &after
            } else {
                &before
            };
            assert_eq!(&Model::of(&wal), expected, "cut at {cut} of {start}..{end}");
            // It goes on from there.
            submit(&wal, vec![vote(2, b"next")]).unwrap();
            let now = Model::of(&wal);
            drop(wal);
            assert_eq!(Model::of(&open(&copy.crash(|_| 0..0), &options(256))), now);

            // Also when the file itself is cut.
            let copy = files.copy();
            copy.damage(&path, &whole[..cut]);
            let wal = open(&copy, &options(256));
            assert!(Model::of(&wal) == before || cut + 8 > end);
            submit(&wal, vec![vote(2, &[0; 100])]).unwrap();
            let now = Model::of(&wal);
            drop(wal);
            assert_eq!(Model::of(&open(&copy.crash(|_| 0..0), &options(256))), now);
        }
    }
}

#[test]
fn garbage_after_the_last_record_does_not_count() {
    let (files, _, after) = several_segments();
    let path = segments(&files).pop().unwrap();
    let whole = files.contents(&path).unwrap();
    let end = *frames(&whole).last().unwrap();
    // Among the garbage is a frame of another place.
    let mut garbage = whole.clone();
    garbage[end..].fill(0x33);
    let frame = whole[32..end].to_vec();
    let room = garbage.len() - end;
    garbage[end..].copy_from_slice(&frame.iter().copied().cycle().take(room).collect::<Vec<_>>());
    files.damage(&path, &garbage);
    assert_eq!(Model::of(&open(&files, &options(256))), after);
}

#[test]
fn damage_before_the_end_is_found_and_changes_nothing() {
    let (files, ..) = several_segments();
    let paths = segments(&files);
    for (number, path) in paths.iter().enumerate() {
        let whole = files.contents(path).unwrap();
        let starts = frames(&whole);
        let is_last = number + 1 == paths.len();
        // The last frame of the last segment may be a torn one.
        let end = if is_last { starts[starts.len() - 2] } else { starts[starts.len() - 1] };
        for at in 0..end {
            // Padding says nothing.
            let padding = starts.windows(2).any(|pair| {
                let body = u32::from_le_bytes(whole[pair[0] + 4..pair[0] + 8].try_into().unwrap()) as usize;
                (pair[0] + 16 + body..pair[1]).contains(&at)
            });
            if padding {
                continue;
            }
            for bit in [0, 3, 7] {
                let copy = files.copy();
                let mut flipped = whole.clone();
                flipped[at] ^= 1 << bit;
                copy.damage(path, &flipped);
                let result = Wal::open(&dir(), options(256), Arc::new(copy.clone()));
                let Err(WalError::Damaged { file, offset, .. }) = result else {
                    panic!("{path:?} {at} {bit}: {result:?}")
                };
                assert_eq!(&file, path);
                assert!(usize::try_from(offset).unwrap() <= at);
                assert_eq!(copy.contents(path).unwrap(), flipped);
            }
        }
        if !is_last {
            let copy = files.copy();
            copy.remove(path).unwrap();
            let result = Wal::open(&dir(), options(256), Arc::new(copy));
            // Nobody can see that the oldest are gone, unless something in the others needs them.
            assert!(number == 0 || matches!(result, Err(WalError::Damaged { .. })), "{result:?}");
        }
    }
}

#[test]
fn a_format_of_the_future_is_named() {
    let (files, ..) = several_segments();
    let path = segments(&files).pop().unwrap();
    let mut bytes = files.contents(&path).unwrap();
    bytes[8] = 9;
    let crc = crc32fast::hash(&bytes[..28]).to_le_bytes();
    bytes[28..32].copy_from_slice(&crc);
    files.damage(&path, &bytes);
    let result = Wal::open(&dir(), options(256), Arc::new(files));
    assert!(matches!(result, Err(WalError::UnknownVersion { version: 9, .. })));
}

#[test]
fn an_entry_that_changes_on_the_disk_is_not_given_out() {
    let files = MemoryFiles::new();
    let options = WalOptions { cache_bytes_max: 0, ..options(4096) };
    let wal = open(&files, &options);
    submit(&wal, vec![entry(1, 0, "first"), entry(1, 1, "second")]).unwrap();
    let path = segments(&files).pop().unwrap();
    let mut bytes = files.contents(&path).unwrap();
    let at = bytes.windows(5).position(|part| part == b"first").unwrap();
    bytes[at] = b'F';
    files.damage(&path, &bytes);
    assert_eq!(wal.entries(1, 0..1, 100).unwrap_err().kind(), io::ErrorKind::InvalidData);
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 200, failure_persistence: None, ..ProptestConfig::default() })]

    /// Whatever is in the files, opening them ends, without a panic.
    #[test]
    fn any_bytes_are_opened_or_refused(flips in vec((any::<prop::sample::Index>(), any::<u8>()), 1..20), which in any::<prop::sample::Index>()) {
        let (files, ..) = several_segments();
        let paths = segments(&files);
        let path = &paths[which.index(paths.len())];
        let mut bytes = files.contents(path).unwrap();
        for (at, byte) in flips {
            let at = at.index(bytes.len());
            bytes[at] = byte;
        }
        files.damage(path, &bytes);
        let _ = Wal::open(&dir(), options(256), Arc::new(files));
    }
}
