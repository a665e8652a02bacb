//! Disks that lose what was not flushed, that are full, or that fail: a library which is loaded before all others.
//!
//! A library instead of a file system of its own, for it needs no rights, tells what each process has flushed, and can be
//! changed for one node at any moment.

use std::{
    collections::BTreeMap,
    fs::{self, File},
    io,
    os::unix::fs::{FileExt, MetadataExt},
    path::{Path, PathBuf},
    process::{Command, Stdio},
    time::{Duration, Instant},
};

use super::{Breaker, Fault, HEALED_WITHIN};
use crate::{fleet::Cluster, harness::random::Random, history::Check};

/// The disks of all nodes.
#[derive(Debug)]
pub(crate) struct Disk {
    directory: PathBuf,
}

/// What a disk does.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum State {
    Good = 0,
    NoLongerFiles = 1,
    NoWrites = 2,
    NoFlushes = 3,
    /// Who asks hears that there is little space.
    NearlyFull = 4,
}

impl Disk {
    /// Gives these nodes, which do not run yet, disks that can break; `None` where no C compiler is.
    ///
    /// # Errors
    /// The files of the cluster cannot be written.
    pub(crate) fn of(cluster: &mut Cluster, nodes: usize) -> io::Result<Option<Self>> {
        let Some(disk) = Self::new(&cluster.directory().join("disks"))? else { return Ok(None) };
        for number in 0..nodes {
            let root = cluster.node(number).data_dir();
            for (variable, value) in disk.environment(number, &root)? {
                cluster.node_mut(number).set_environment(variable, &value);
            }
        }
        Ok(Some(disk))
    }

    /// Disks whose notes are in this directory.
    fn new(directory: &Path) -> io::Result<Option<Self>> {
        fs::create_dir_all(directory)?;
        let disk = Self { directory: directory.to_owned() };
        let source = directory.join("disk.c");
        fs::write(&source, include_str!("disk.c"))?;
        let mut compiler = Command::new("cc");
        compiler.args(["-shared", "-fPIC", "-O1", "-o"]).arg(disk.library()).arg(&source);
        let Ok(compiled) = compiler.args(["-ldl", "-pthread"]).stdin(Stdio::null()).output() else {
            return Ok(None);
        };
        if !compiled.status.success() {
            return Err(io::Error::other(String::from_utf8_lossy(&compiled.stderr).into_owned()));
        }
        Ok(Some(disk))
    }

    /// What the process of a node needs that keeps its data below `root`.
    fn environment(&self, number: usize, root: &Path) -> io::Result<[(&'static str, String); 4]> {
        fs::create_dir_all(self.notes(number))?;
        fs::write(self.control(number), 0i64.to_ne_bytes())?;
        let text = |path: &Path| path.display().to_string();
        Ok([
            ("LD_PRELOAD", text(&self.library())),
            ("FAULTY_DISK_ROOT", text(root)),
            ("FAULTY_DISK_NOTES", text(&self.notes(number))),
            ("FAULTY_DISK_CONTROL", text(&self.control(number))),
        ])
    }

    fn library(&self) -> PathBuf {
        self.directory.join("disk.so")
    }

    fn notes(&self, number: usize) -> PathBuf {
        self.directory.join(format!("notes-{number}"))
    }

    fn control(&self, number: usize) -> PathBuf {
        self.directory.join(format!("control-{number}"))
    }

    fn set(&self, number: usize, state: State) {
        let control = File::options().write(true).open(self.control(number)).expect("the file is ours");
        control.write_all_at(&(state as i64).to_ne_bytes(), 0).expect("the file is ours");
    }

    pub(crate) fn mend(&self, number: usize) {
        self.set(number, State::Good);
    }

    /// Takes back what a killed node has not flushed: of each file all, or what was written last; how many writes.
    fn lose(&self, number: usize, data: &Path, random: &mut Random) -> io::Result<usize> {
        let notes = self.notes(number);
        let mut paths = BTreeMap::new();
        find_inodes(data, 0, &mut paths)?;
        let mut taken: Vec<(u64, Vec<Note>)> = Vec::new();
        for entry in fs::read_dir(&notes)? {
            let path = entry?.path();
            let inode = path.file_name().and_then(|name| name.to_str()?.parse::<u64>().ok());
            let Some(inode) = inode else { continue };
            let mut unflushed = unflushed(&fs::read(&path)?);
            // The system may have written some of it on its own; the rest it would have written in some order.
            let kept = if random.once_in(2) { 0 } else { random.below(unflushed.len() + 1) };
            unflushed.drain(..kept);
            taken.push((inode, unflushed));
        }
        // What is in the files first, as long as they are where they were found.
        let is_of_a_directory = |notes: &[Note]| notes.iter().any(|note| note.kind != WRITTEN);
        taken.sort_by_key(|(_, unflushed)| is_of_a_directory(unflushed));
        for (inode, unflushed) in &taken {
            for note in unflushed.iter().rev() {
                take_back(note, paths.get(inode).map(PathBuf::as_path), &notes)?;
            }
        }
        let lost = taken.iter().map(|(_, unflushed)| unflushed.len()).sum();
        for entry in fs::read_dir(&notes)? {
            fs::remove_file(entry?.path())?;
        }
        Ok(lost)
    }
}

impl Breaker {
    /// Kills a node or all, with what they had not flushed.
    pub(super) fn lose_unsynced(&mut self, random: &mut Random) {
        let numbers = if random.once_in(2) { self.founders().collect() } else { vec![self.one(random)] };
        let what = format!("kill -9 of {} with loss of what was not flushed", self.names(&numbers));
        let span = self.books.fault_begins(Fault::LoseUnsynced.name(), what);
        self.kill_at_once(&numbers);
        for number in &numbers {
            self.lose_notes(*number, random);
        }
        let dead = self.up_to(random, 4_000);
        self.wait(Duration::from_millis(dead));
        numbers.iter().for_each(|number| self.cluster.node(*number).start());
        self.settle(random);
        self.books.fault_ends(span);
    }

    /// No space on one node or on all, for a while: nothing must break, and it must serve again without a restart.
    pub(super) fn disk_full(&mut self, random: &mut Random) {
        let numbers = if random.once_in(3) { self.founders().collect() } else { vec![self.one(random)] };
        let what = format!("no space on {}", self.names(&numbers));
        let span = self.books.fault_begins(Fault::DiskFull.name(), what.clone());
        // A disk fills up. One that is full from one write to the next, which no quota tells either, is a failing one: the store cannot
        // take back what it has begun.
        self.set_disks(&numbers, State::NearlyFull);
        self.wait(FILLS_UP);
        self.set_disks(&numbers, State::NoLongerFiles);
        let time = Duration::from_millis(1_000 + self.up_to(random, 7_000));
        self.wait(time);
        self.set_disks(&numbers, State::Good);
        self.expect_recovery(&numbers, &what, true);
        self.books.fault_ends(span);
    }

    /// Flushes fail on one node, or writes into files that have their space already: it may not go on as if they had not, and the
    /// others must.
    pub(super) fn disk_error(&mut self, random: &mut Random) {
        let number = self.one(random);
        let state = random.pick(&[State::NoFlushes, State::NoWrites]);
        let what = format!("the disk of node-{number} fails ({state:?})");
        let span = self.books.fault_begins(Fault::DiskError.name(), what.clone());
        self.set_disks(&[number], state);
        let time = Duration::from_millis(2_000 + self.up_to(random, 6_000));
        self.wait(time);
        // What it has not flushed is gone, as the system may have dropped it.
        self.cluster.node(number).kill();
        self.set_disks(&[number], State::Good);
        self.lose_notes(number, random);
        self.cluster.node(number).start();
        self.expect_recovery(&[number], &what, false);
        self.books.fault_ends(span);
    }

    /// Takes back what a node that was killed had not flushed.
    fn lose_notes(&self, number: usize, random: &mut Random) {
        let Some(disk) = &self.disk else { return };
        let data = self.cluster.node(number).data_dir();
        match disk.lose(number, &data, random) {
            Ok(lost) => self.books.tally().writes_lost += lost,
            Err(error) => panic!("the disk of node-{number} cannot be changed: {error}"),
        }
    }

    fn set_disks(&self, numbers: &[usize], state: State) {
        if let Some(disk) = &self.disk {
            numbers.iter().for_each(|number| disk.set(*number, state));
        }
    }

    /// Nodes whose disk is good again serve; those that do not are restarted, and reported.
    fn expect_recovery(&mut self, numbers: &[usize], what: &str, reports: bool) {
        let all: Vec<usize> = self.founders().collect();
        let deadline = Instant::now() + RECOVERED_WITHIN;
        while Instant::now() < deadline {
            if numbers.iter().any(|number| !self.cluster.node(*number).is_running()) {
                break;
            }
            if self.cluster.is_formed_of(&all) {
                return;
            }
            std::thread::sleep(Duration::from_millis(200));
        }
        let told: Vec<String> = numbers.iter().map(|number| self.tell(*number)).collect();
        let ends: Vec<String> = numbers
            .iter()
            .filter_map(|number| {
                Some(format!("node-{number} ended with {}", self.cluster.node(*number).ended()?))
            })
            .collect();
        if reports {
            let text = format!(
                "{what}: the cluster does not serve without a restart afterwards: {}; {}",
                told.join("; "),
                ends.join("; ")
            );
            self.books.report_now(Check::Healing, text);
        }
        for number in numbers {
            self.cluster.node(*number).restart();
        }
        if !self.await_formed(HEALED_WITHIN) {
            let text = format!("{what}: the cluster does not serve with a restart either");
            self.books.report_now(Check::Healing, text);
        }
    }
}

/// What a process has noted of one inode.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Note {
    kind: u64,
    sequence: u64,
    offset: u64,
    size_before: u64,
    bytes: Vec<u8>,
}

/// The notes that no flush has made void, oldest first. The last one may be cut off: then its write was not done.
fn unflushed(bytes: &[u8]) -> Vec<Note> {
    let mut notes = Vec::new();
    let mut rest = bytes;
    while let Some((head, tail)) = rest.split_at_checked(HEAD) {
        let word = |index: usize| {
            let bytes: [u8; 8] = head[8 * index..8 * index + 8].try_into().expect("eight bytes were taken");
            u64::from_ne_bytes(bytes)
        };
        let length = usize::try_from(word(4)).expect("a note fits");
        let Some((data, tail)) = tail.split_at_checked(length) else { break };
        rest = tail;
        let note = Note {
            kind: word(0),
            sequence: word(1),
            offset: word(2),
            size_before: word(3),
            bytes: data.to_vec(),
        };
        if note.kind == FLUSHED {
            notes.retain(|earlier: &Note| earlier.sequence > note.offset);
        } else {
            notes.push(note);
        }
    }
    notes
}

/// Takes one note back. Those behind it have been.
fn take_back(note: &Note, file: Option<&Path>, notes: &Path) -> io::Result<()> {
    let text = String::from_utf8_lossy(&note.bytes).into_owned();
    match note.kind {
        WRITTEN => {
            // A file that was removed since is gone either way.
            let Some(file) = file.filter(|file| file.exists()) else { return Ok(()) };
            let file = File::options().write(true).open(file)?;
            file.write_all_at(&note.bytes, note.offset)?;
            file.set_len(note.size_before)
        }
        CREATED => {
            let path = Path::new(&text);
            let is_it = fs::metadata(path).is_ok_and(|metadata| metadata.ino() == note.offset);
            let is_flushed = notes.join(format!("flushed-{}", note.offset)).exists();
            if is_it && !is_flushed { fs::remove_file(path) } else { Ok(()) }
        }
        RENAMED => {
            let Some((from, to)) = text.split_once('\0') else { return Ok(()) };
            if Path::new(to).exists() {
                fs::rename(to, from)?;
            }
            let grave = notes.join(format!("grave-{}", note.sequence));
            if grave.exists() { fs::hard_link(grave, to) } else { Ok(()) }
        }
        _ => Ok(()),
    }
}

fn find_inodes(directory: &Path, depth: usize, paths: &mut BTreeMap<u64, PathBuf>) -> io::Result<()> {
    if depth > DEPTH_MAX || !directory.exists() {
        return Ok(());
    }
    for entry in fs::read_dir(directory)? {
        let entry = entry?;
        if entry.file_type()?.is_dir() {
            find_inodes(&entry.path(), depth + 1, paths)?;
        } else {
            paths.insert(entry.metadata()?.ino(), entry.path());
        }
    }
    Ok(())
}

/// As in `disk.c`.
const HEAD: usize = 40;
const WRITTEN: u64 = 1;
const CREATED: u64 = 2;
const RENAMED: u64 = 3;
const FLUSHED: u64 = 4;

const DEPTH_MAX: usize = 8;

/// How long a disk is nearly full before it is full.
const FILLS_UP: Duration = Duration::from_secs(1);

const RECOVERED_WITHIN: Duration = Duration::from_secs(30);

#[cfg(test)]
mod tests {
    use super::*;

    fn note(kind: u64, sequence: u64, offset: u64, bytes: &[u8]) -> Vec<u8> {
        let length = u64::try_from(bytes.len()).expect("it is small");
        let head = [kind, sequence, offset, 100, length];
        let head = head.iter().flat_map(|word| word.to_ne_bytes());
        head.chain(bytes.iter().copied()).collect()
    }

    #[test]
    fn a_flush_makes_void_what_was_written_before_it_began() {
        let bytes = [note(WRITTEN, 1, 0, b"one"), note(WRITTEN, 2, 3, b"two"), note(FLUSHED, 0, 1, b"")];
        let left = unflushed(&bytes.concat());
        assert_eq!(left.iter().map(|note| note.sequence).collect::<Vec<_>>(), [2]);
    }

    /// What a shell does on such a disk before its power fails; `None` where no C compiler is. In `$0` it has its directory.
    fn power_cut(name: &str, state: State, script: &str) -> Option<(PathBuf, bool)> {
        let base = std::env::temp_dir().join(format!("flotilla-campaign-disk-{}-{name}", std::process::id()));
        let _ = fs::remove_dir_all(&base);
        fs::create_dir_all(base.join("data")).expect("there is room");
        let base = fs::canonicalize(base).expect("it was just made");
        let data = base.join("data");
        let Some(disk) = Disk::new(&base.join("disks")).expect("it compiles") else {
            eprintln!("SKIPPED: {name} needs a C compiler");
            return None;
        };
        let environment = disk.environment(0, &data).expect("there is room");
        disk.set(0, state);
        let mut shell = Command::new("sh");
        shell.args(["-c", script]).arg(&data).envs(environment).stderr(Stdio::null());
        let done = shell.status().expect("there is a shell").success();
        // A seed that lets nothing be written by itself.
        let mut random =
            (0..).map(Random::new).find(|random| random.clone().once_in(2)).expect("there is one");
        disk.lose(0, &data, &mut random).expect("the files are ours");
        Some((data, done))
    }

    fn read(data: &Path, name: &str) -> Option<String> {
        fs::read_to_string(data.join(name)).ok()
    }

    #[test]
    fn what_was_flushed_survives_and_nothing_else() {
        // F37: dd flushes with conv=fsync, a redirection does not. Each program's notes replace those of the one before, so
        // that what is to be lost comes in one.
        let script = "dd if=/dev/zero of=\"$0\"/kept bs=4 count=1 conv=fsync; \
            exec dd if=/dev/zero of=\"$0\"/kept bs=2 count=8 oflag=append conv=notrunc";
        let Some((data, done)) = power_cut("flush", State::Good, script) else { return };
        assert!(done);
        assert_eq!(read(&data, "kept").map(|text| text.len()), Some(4), "what was appended is gone");
        let script = "exec dd if=/dev/zero of=\"$0\"/new bs=4 count=1";
        let Some((data, _)) = power_cut("new", State::Good, script) else { return };
        assert_eq!(read(&data, "new"), None, "a file that nobody flushed has no name");
        let script = "printf old > \"$0\"/file; exec dd if=/dev/zero of=\"$0\"/file bs=4 count=1";
        let Some((data, _)) = power_cut("over", State::Good, script) else { return };
        assert_eq!(read(&data, "file").as_deref(), Some("old"), "what was written over is back");
    }

    #[test]
    fn a_renaming_needs_the_flush_of_its_directory() {
        // F50.
        let prepare = "printf old > \"$0\"/file; printf new > \"$0\"/temporary; ";
        let script = format!("{prepare} exec mv \"$0\"/temporary \"$0\"/file");
        let Some((data, done)) = power_cut("rename", State::Good, &script) else { return };
        if !done || read(&data, "temporary").is_none() {
            // This mv does not rename through the C library's rename.
            eprintln!("SKIPPED: this mv cannot be watched");
            return;
        }
        assert_eq!(read(&data, "file").as_deref(), Some("old"));
        assert_eq!(read(&data, "temporary").as_deref(), Some("new"));
    }

    #[test]
    fn a_full_disk_refuses_and_a_broken_one_does_not_flush() {
        // F44 and F45.
        let longer = "printf old > \"$0\"/file";
        assert!(power_cut("full", State::NoLongerFiles, longer).is_none_or(|(_, done)| !done));
        assert!(power_cut("fuller", State::NoWrites, longer).is_none_or(|(_, done)| !done));
        // Before that it says how little is left.
        for (state, least, most) in [(State::NearlyFull, 1, 200 << 10), (State::NoLongerFiles, 0, 0)] {
            let asks = format!(
                "left=$(df --output=avail \"$0\" | tail -n 1) && [ $left -ge {least} ] && [ $left -le {most} ]"
            );
            assert!(power_cut("asked", state, &asks).is_none_or(|(_, done)| done), "{state:?}");
        }
        assert!(power_cut("nearly", State::NearlyFull, longer).is_none_or(|(_, done)| done));
        let flush = "exec dd if=/dev/zero of=\"$0\"/file bs=4 count=1 conv=fsync";
        assert!(power_cut("broken", State::NoFlushes, flush).is_none_or(|(_, done)| !done));
        assert!(power_cut("good", State::Good, flush).is_none_or(|(_, done)| done));
    }

    #[test]
    fn a_note_that_is_cut_off_is_none() {
        let bytes = [note(WRITTEN, 1, 0, b"one"), note(WRITTEN, 2, 3, b"two")].concat();
        assert_eq!(unflushed(&bytes[..bytes.len() - 1]).len(), 1);
        assert_eq!(unflushed(&bytes[..HEAD - 1]), []);
    }
}
