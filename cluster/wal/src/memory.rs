//! A file system in memory that loses, tears and refuses what a real one may.

use std::{
    collections::BTreeMap,
    io,
    ops::Range,
    path::{Path, PathBuf},
    sync::Arc,
};

use parking_lot::Mutex;

use crate::files::{DirectoryLock, File, Files};

/// Files in memory, as one run of a process sees them. Clones are the same run; [`MemoryFiles::crash`] ends it.
///
/// Nothing survives a crash but what a successful [`File::sync`] or [`Files::sync_dir`] made durable, and the parts of
/// writes that the test lets through.
#[derive(Debug, Clone, Default)]
pub struct MemoryFiles {
    disk: Arc<Mutex<Disk>>,
    /// Operations of an earlier run than the disk's fail.
    run: u64,
}

#[derive(Debug, Default)]
struct Disk {
    run: u64,
    inodes: Vec<Inode>,
    names: BTreeMap<PathBuf, usize>,
    /// The names as the last `sync_dir` left them.
    durable_names: BTreeMap<PathBuf, usize>,
    /// Changes of names since, oldest first.
    name_changes: Vec<NameChange>,
    locked: bool,
    operations: u64,
    syncs: u64,
    faults: Faults,
}

#[derive(Debug, Clone)]
enum NameChange {
    Create(PathBuf, usize),
    Rename(PathBuf, PathBuf),
    Remove(PathBuf),
}

impl NameChange {
    fn dir(&self) -> Option<&Path> {
        match self {
            Self::Create(path, _) | Self::Rename(path, _) | Self::Remove(path) => path.parent(),
        }
    }

    fn apply(self, names: &mut BTreeMap<PathBuf, usize>) {
        match self {
            Self::Create(path, inode) => {
                names.insert(path, inode);
            }
            Self::Rename(from, to) => {
                if let Some(inode) = names.remove(&from) {
                    names.insert(to, inode);
                }
            }
            Self::Remove(path) => {
                names.remove(&path);
            }
        }
    }
}

#[derive(Debug, Default)]
struct Inode {
    bytes: Vec<u8>,
    synced: Vec<u8>,
    /// Writes since the last sync, oldest first.
    unsynced: Vec<(usize, Vec<u8>)>,
}

#[derive(Debug, Default)]
struct Faults {
    stop_at_operation: Option<u64>,
    fail_sync: Option<u64>,
    capacity: Option<usize>,
}

impl MemoryFiles {
    /// An empty disk.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    /// From the `n`-th write, sync or change of a name from now on, all of them fail, the `n`-th (counted from 0) included.
    /// A write that fails so may still survive a crash, whole or in part.
    pub fn stop_at_operation(&self, n: u64) {
        let disk = &mut *self.disk.lock();
        disk.faults.stop_at_operation = Some(disk.operations + n);
    }

    /// The `n`-th sync of a file from now on, counted from 0, fails; those after it succeed again.
    pub fn fail_sync(&self, n: u64) {
        let disk = &mut *self.disk.lock();
        disk.faults.fail_sync = Some(disk.syncs + n);
    }

    /// Files may have so many bytes together. A write beyond fails, after the part of it for which there is space; and there is no new
    /// file on a disk without space. See [`MemoryFiles::lift_capacity`].
    pub fn set_capacity(&self, bytes: usize) {
        self.disk.lock().faults.capacity = Some(bytes);
    }

    /// There is space again.
    pub fn lift_capacity(&self) {
        self.disk.lock().faults.capacity = None;
    }

    /// Bytes of all files that have a name.
    #[must_use]
    pub fn bytes(&self) -> usize {
        self.disk.lock().bytes_in_use()
    }

    /// Syncs of files so far.
    #[must_use]
    pub fn syncs(&self) -> u64 {
        self.disk.lock().syncs
    }

    /// Writes, syncs and changes of names so far.
    #[must_use]
    pub fn operations(&self) -> u64 {
        self.disk.lock().operations
    }

    /// The power fails. What was not synced is lost, except the part of each write that `survives` names, which is given the
    /// length of the write. This run ends: all its operations fail from now on. The value returned is the next run, without
    /// faults.
    #[must_use]
    pub fn crash(&self, survives: impl FnMut(usize) -> Range<usize>) -> Self {
        self.crash_keeping(survives, || false)
    }

    /// Like [`MemoryFiles::crash`], but `name_survives` is asked of each change of a name that was not synced. A change of a
    /// file that has no name without an earlier one is lost with that.
    #[must_use]
    pub fn crash_keeping(
        &self,
        mut survives: impl FnMut(usize) -> Range<usize>,
        mut name_survives: impl FnMut() -> bool,
    ) -> Self {
        let disk = &mut *self.disk.lock();
        let mut names = disk.durable_names.clone();
        for change in std::mem::take(&mut disk.name_changes) {
            if name_survives() {
                change.apply(&mut names);
            }
        }
        disk.durable_names.clone_from(&names);
        disk.names = names;
        for inode in &mut disk.inodes {
            let mut bytes = inode.synced.clone();
            for (offset, written) in std::mem::take(&mut inode.unsynced) {
                let part = survives(written.len());
                if !part.is_empty() {
                    overwrite(&mut bytes, offset + part.start, &written[part]);
                }
            }
            inode.bytes.clone_from(&bytes);
            inode.synced = bytes;
        }
        disk.next_run();
        Self { disk: self.disk.clone(), run: disk.run }
    }

    /// The process is killed, and the machine lives on: nothing that was written is lost. This run ends.
    #[must_use]
    pub fn kill(&self) -> Self {
        let disk = &mut *self.disk.lock();
        disk.next_run();
        Self { disk: self.disk.clone(), run: disk.run }
    }

    /// The bytes of a file, as a reader would see them.
    #[must_use]
    pub fn contents(&self, path: &Path) -> Option<Vec<u8>> {
        let disk = self.disk.lock();
        disk.names.get(path).map(|&inode| disk.inodes[inode].bytes.clone())
    }

    /// Replaces the bytes of a file, durably: damage of the medium. Does nothing where there is no such file.
    pub fn damage(&self, path: &Path, bytes: &[u8]) {
        let disk = &mut *self.disk.lock();
        if let Some(&inode) = disk.names.get(path) {
            disk.inodes[inode] =
                Inode { bytes: bytes.to_vec(), synced: bytes.to_vec(), unsynced: Vec::new() };
        }
    }

    /// A copy of the disk as it is, without faults: to try several things from one point.
    #[must_use]
    pub fn copy(&self) -> Self {
        let disk = self.disk.lock();
        let inodes = disk.inodes.iter().map(|inode| Inode {
            bytes: inode.bytes.clone(),
            synced: inode.synced.clone(),
            unsynced: inode.unsynced.clone(),
        });
        let copy = Disk {
            inodes: inodes.collect(),
            names: disk.names.clone(),
            durable_names: disk.durable_names.clone(),
            name_changes: disk.name_changes.clone(),
            ..Disk::default()
        };
        Self { disk: Arc::new(Mutex::new(copy)), run: 0 }
    }

    /// Runs a read.
    fn read<T>(&self, read: impl FnOnce(&mut Disk) -> io::Result<T>) -> io::Result<T> {
        let disk = &mut *self.disk.lock();
        if disk.run != self.run {
            return Err(io::Error::other("this run of the process has ended"));
        }
        read(disk)
    }

    /// Runs an operation that changes something, unless a fault stops it.
    fn change<T>(&self, change: impl FnOnce(&mut Disk) -> io::Result<T>) -> io::Result<T> {
        self.read(|disk| {
            disk.operation()?;
            change(disk)
        })
    }
}

impl Disk {
    fn next_run(&mut self) {
        self.run += 1;
        self.locked = false;
        self.faults = Faults::default();
    }

    fn operation(&mut self) -> io::Result<()> {
        let number = self.operations;
        self.operations += 1;
        match self.faults.stop_at_operation {
            Some(stop) if number >= stop => Err(io::Error::other("injected: stopped")),
            _ => Ok(()),
        }
    }

    fn change_name(&mut self, change: NameChange) {
        self.name_changes.push(change.clone());
        change.apply(&mut self.names);
    }

    fn inode(&self, path: &Path) -> io::Result<usize> {
        self.names.get(path).copied().ok_or_else(|| io::ErrorKind::NotFound.into())
    }

    /// Bytes that files may still grow by; `None` without a limit.
    fn space(&self) -> Option<usize> {
        Some(self.faults.capacity?.saturating_sub(self.bytes_in_use()))
    }

    fn bytes_in_use(&self) -> usize {
        self.names.values().map(|&inode| self.inodes[inode].bytes.len()).sum()
    }
}

impl Files for MemoryFiles {
    fn create_dir(&self, _dir: &Path) -> io::Result<()> {
        self.read(|_| Ok(()))
    }

    fn list(&self, dir: &Path) -> io::Result<Vec<String>> {
        self.read(|disk| {
            let inside = disk.names.keys().filter(|path| path.parent() == Some(dir));
            Ok(inside.filter_map(|path| Some(path.file_name()?.to_str()?.to_owned())).collect())
        })
    }

    fn create(&self, path: &Path) -> io::Result<Arc<dyn File>> {
        self.change(|disk| {
            if disk.names.contains_key(path) {
                return Err(io::ErrorKind::AlreadyExists.into());
            }
            if disk.space().is_some_and(|space| space == 0) {
                return Err(io::ErrorKind::StorageFull.into());
            }
            let inode = disk.inodes.len();
            disk.inodes.push(Inode::default());
            disk.change_name(NameChange::Create(path.to_owned(), inode));
            Ok(Arc::new(MemoryFile { files: self.clone(), inode }) as Arc<dyn File>)
        })
    }

    fn open(&self, path: &Path) -> io::Result<Arc<dyn File>> {
        self.read(|disk| {
            let inode = disk.inode(path)?;
            Ok(Arc::new(MemoryFile { files: self.clone(), inode }) as Arc<dyn File>)
        })
    }

    fn rename(&self, from: &Path, to: &Path) -> io::Result<()> {
        self.change(|disk| {
            disk.inode(from)?;
            disk.change_name(NameChange::Rename(from.to_owned(), to.to_owned()));
            Ok(())
        })
    }

    fn remove(&self, path: &Path) -> io::Result<()> {
        self.change(|disk| {
            disk.inode(path)?;
            disk.change_name(NameChange::Remove(path.to_owned()));
            Ok(())
        })
    }

    fn sync_dir(&self, dir: &Path) -> io::Result<()> {
        self.change(|disk| {
            let (synced, others) = std::mem::take(&mut disk.name_changes)
                .into_iter()
                .partition(|change| change.dir() == Some(dir));
            disk.name_changes = others;
            let synced: Vec<NameChange> = synced;
            synced.into_iter().for_each(|change| change.apply(&mut disk.durable_names));
            Ok(())
        })
    }

    fn lock(&self, _path: &Path) -> io::Result<Option<DirectoryLock>> {
        self.read(|disk| {
            let free = !std::mem::replace(&mut disk.locked, true);
            Ok(free.then(|| DirectoryLock::new(MemoryLock(self.clone()))))
        })
    }
}

struct MemoryLock(MemoryFiles);

impl Drop for MemoryLock {
    fn drop(&mut self) {
        let disk = &mut *self.0.disk.lock();
        // The lock of a run that has ended went with it.
        if disk.run == self.0.run {
            disk.locked = false;
        }
    }
}

#[derive(Debug)]
struct MemoryFile {
    files: MemoryFiles,
    inode: usize,
}

impl File for MemoryFile {
    fn write_at(&self, bytes: &[u8], offset: u64) -> io::Result<()> {
        self.files.read(|disk| {
            let offset = index(offset)?;
            let stopped = disk.operation();
            let length = disk.inodes[self.inode].bytes.len();
            let end = disk.space().map_or(usize::MAX, |space| length + space);
            let fits = end.saturating_sub(offset).min(bytes.len());
            let stopped = if fits < bytes.len() { Err(io::ErrorKind::StorageFull.into()) } else { stopped };
            let bytes = &bytes[..fits];
            let inode = &mut disk.inodes[self.inode];
            overwrite(&mut inode.bytes, offset, bytes);
            inode.unsynced.push((offset, bytes.to_vec()));
            stopped
        })
    }

    fn read_at(&self, buffer: &mut [u8], offset: u64) -> io::Result<()> {
        self.files.read(|disk| {
            let offset = index(offset)?;
            let part = disk.inodes[self.inode].bytes.get(offset..offset + buffer.len());
            buffer.copy_from_slice(part.ok_or(io::ErrorKind::UnexpectedEof)?);
            Ok(())
        })
    }

    fn size(&self) -> io::Result<u64> {
        self.files.read(|disk| Ok(disk.inodes[self.inode].bytes.len() as u64))
    }

    fn sync(&self) -> io::Result<()> {
        self.files.change(|disk| {
            let number = disk.syncs;
            disk.syncs += 1;
            let inode = &mut disk.inodes[self.inode];
            if disk.faults.fail_sync == Some(number) {
                // As the kernel does it: the pages are clean now, and the next sync succeeds without writing them.
                inode.unsynced.clear();
                return Err(io::Error::other("injected: sync failed"));
            }
            // Only the writes since: a failed sync before this one has lost what it had.
            for (offset, bytes) in std::mem::take(&mut inode.unsynced) {
                overwrite(&mut inode.synced, offset, &bytes);
            }
            Ok(())
        })
    }
}

fn overwrite(file: &mut Vec<u8>, offset: usize, bytes: &[u8]) {
    let end = offset + bytes.len();
    if file.len() < end {
        file.resize(end, 0);
    }
    file[offset..end].copy_from_slice(bytes);
}

fn index(offset: u64) -> io::Result<usize> {
    usize::try_from(offset).map_err(|_| io::ErrorKind::InvalidInput.into())
}
