//! A flipped bit in a file of a node that is down: it must be refused in words, repaired from the others, or do no harm.

use std::{
    fs,
    os::unix::fs::FileExt,
    path::{Path, PathBuf},
    time::{Duration, Instant},
};

use super::{Breaker, COPIED_AFTER, Fault, HEALED_WITHIN};
use crate::{harness::random::Random, history::Check};

impl Breaker {
    pub(super) fn flip(&mut self, random: &mut Random) {
        // As for a lost disk: the others must have everything.
        if !self.await_formed(HEALED_WITHIN) {
            return;
        }
        self.wait(COPIED_AFTER);
        let number = self.one(random);
        self.cluster.node(number).kill();
        let Some((file, place)) = flip_in(&self.cluster.node(number).data_dir(), random) else {
            // It keeps nothing yet.
            self.cluster.node(number).start();
            return;
        };
        let name = file.file_name().unwrap_or_default().to_string_lossy().into_owned();
        let what = format!("a bit of node-{number} is flipped, in byte {place} of {name}");
        let span = self.books.fault_begins(Fault::Flip.name(), what.clone());
        let said_before = self.cluster.node(number).log().len();
        self.cluster.node(number).start();
        let deadline = Instant::now() + HEALED_WITHIN;
        let all: Vec<usize> = self.founders().collect();
        let ended = loop {
            if let Some(status) = self.cluster.node(number).ended() {
                break Some(status);
            }
            if self.cluster.is_formed_of(&all) {
                // Repaired, or in a byte that holds nothing: what it serves from now on, the others check.
                self.books.tally().fault("flip that did no harm");
                self.books.fault_ends(span);
                return;
            }
            if Instant::now() > deadline {
                break None;
            }
            std::thread::sleep(Duration::from_millis(200));
        };
        let log = self.cluster.node(number).log();
        let said = log.get(said_before..).unwrap_or_default();
        let last: Vec<&str> = said.lines().rev().take(3).collect();
        match ended {
            None => {
                let text = format!("{what}: it neither serves nor ends: {}", self.tell(number));
                self.books.report_now(Check::Damage, text);
            }
            Some(status) if status.success() => {
                self.books.report_now(Check::Damage, format!("{what}: it ends with {status}: {last:?}"));
            }
            Some(_) if !said.contains("error") => {
                self.books.report_now(Check::Damage, format!("{what}: it ends without a word: {last:?}"));
            }
            Some(_) => self.books.tally().fault("flip that was refused"),
        }
        self.replace(number);
        self.books.fault_ends(span);
    }
}

/// Flips a bit somewhere in the files below a directory: which file, and where. Every file is as likely as another, for
/// a log is much longer than what tells where it begins.
fn flip_in(directory: &Path, random: &mut Random) -> Option<(PathBuf, u64)> {
    let mut files = Vec::new();
    collect(directory, 0, &mut files);
    files.sort();
    for _ in 0..TRIES {
        if files.is_empty() {
            return None;
        }
        let file = &files[random.below(files.len())];
        let bytes = fs::read(file).ok()?;
        // Space that was set aside holds nothing yet.
        let used = bytes.iter().rposition(|byte| *byte != 0).map_or(0, |last| last + 1);
        if used == 0 {
            continue;
        }
        let place = random.below(used);
        let flipped = bytes[place] ^ (1 << random.below(8));
        let offset = u64::try_from(place).expect("a file fits");
        fs::File::options().write(true).open(file).ok()?.write_all_at(&[flipped], offset).ok()?;
        return Some((file.clone(), offset));
    }
    None
}

fn collect(directory: &Path, depth: usize, files: &mut Vec<PathBuf>) {
    let Ok(entries) = fs::read_dir(directory) else { return };
    for entry in entries.flatten() {
        let path = entry.path();
        if path.is_dir() && depth < DEPTH_MAX {
            collect(&path, depth + 1, files);
        } else if path.is_file() {
            files.push(path);
        }
    }
}

const TRIES: usize = 20;
const DEPTH_MAX: usize = 8;
