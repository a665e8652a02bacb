//! Random runs against a model, through crashes.

use super::*;

/// One step of a random run.
#[derive(Debug, Clone)]
enum Step {
    Submit(Vec<Change>),
    /// What is submitted waits from here on, or no longer.
    Hold,
    Release,
    Read(u64, u8, u8, u8),
    Flush,
    /// The disk has so many bytes left, or as many as one likes.
    Capacity(Option<u16>),
    Reopen,
}

#[derive(Debug, Clone)]
enum Change {
    Vote(u64, u8),
    Meta(u64, u8, u8),
    Append(u64, u8),
    /// So many entries from the end, or none where so many are purged.
    Truncate(u64, u8),
    /// So far before, or beyond, the end.
    Purge(u64, i8),
    Forget(u64),
}

impl Change {
    fn record(&self, model: &Model, unique: u64) -> Record {
        let bytes = |length: u8| {
            let mut bytes = unique.to_le_bytes().to_vec();
            bytes.resize(usize::from(length), 7);
            Bytes::from(bytes)
        };
        match *self {
            Self::Vote(group, length) => Record::Vote { group, bytes: bytes(length) },
            Self::Meta(group, key, length) => Record::Meta { group, key, bytes: bytes(length) },
            Self::Append(group, length) => {
                Record::Entry { group, index: model.next_index(group), bytes: bytes(length) }
            }
            Self::Truncate(group, back) => {
                let state = model.0.get(&group).map(|group| group.0.clone()).unwrap_or_default();
                let least = state.purged.map(|purged| purged.0 + 1).or(state.first_index).unwrap_or(0);
                let index = model.next_index(group).saturating_sub(u64::from(back)).max(least);
                Record::TruncateFrom { group, index }
            }
            Self::Forget(group) => Record::Forgotten { group },
            Self::Purge(group, beyond) => {
                let first = model.0.get(&group).and_then(|group| group.0.first_index).unwrap_or(0);
                let index = model.next_index(group).saturating_add_signed(i64::from(beyond));
                Record::Purged { group, index: index.max(first), bytes: bytes(9) }
            }
        }
    }
}

fn changes() -> impl Strategy<Value = Change> {
    let group = 0..3_u64;
    prop_oneof![
        1 => (group.clone(), 0..30_u8).prop_map(|(group, length)| Change::Vote(group, length)),
        1 => (group.clone(), 0..3_u8, 0..30_u8).prop_map(|(group, key, length)| Change::Meta(group, key, length)),
        // Group 0 is nearly idle.
        16 => (group.clone(), 0..120_u8).prop_map(|(group, length)| Change::Append(group.max(u64::from(length > 10)), length)),
        1 => (group.clone(), 0..6_u8).prop_map(|(group, back)| Change::Truncate(group, back)),
        1 => group.prop_map(Change::Forget),
        4 => (1..3_u64, -20..3_i8).prop_map(|(group, beyond)| Change::Purge(group, beyond)),
    ]
}

fn steps() -> impl Strategy<Value = Vec<Step>> {
    let step = prop_oneof![
        12 => vec(changes(), 1..5).prop_map(Step::Submit),
        1 => Just(Step::Hold),
        2 => Just(Step::Release),
        2 => (0..3_u64, any::<u8>(), 0..20_u8, any::<u8>()).prop_map(|(group, from, count, bytes)| Step::Read(group, from, count, bytes)),
        1 => Just(Step::Flush),
        1 => prop::option::of(0..3000_u16).prop_map(Step::Capacity),
        1 => Just(Step::Reopen),
    ];
    vec(step, 1..80)
}

/// How a run ends: after how many operations the files stop, and what survives of a write that was not flushed.
#[derive(Debug, Clone)]
struct End {
    stop: u64,
    survives: Survives,
    /// Whether each change of a name that was not flushed survives; repeated.
    names: u8,
}

#[derive(Debug, Clone, Copy)]
enum Survives {
    Nothing,
    /// So many percent from the beginning.
    Beginning(usize),
    Rest(usize),
    /// The process was killed.
    Everything,
}

fn ends() -> impl Strategy<Value = End> {
    let survives = prop_oneof![
        Just(Survives::Nothing),
        (0..=100_usize).prop_map(Survives::Beginning),
        (0..=100_usize).prop_map(Survives::Rest),
        Just(Survives::Everything),
    ];
    (0..200_u64, survives, any::<u8>()).prop_map(|(stop, survives, names)| End { stop, survives, names })
}

impl End {
    fn next_run(&self, files: &MemoryFiles) -> MemoryFiles {
        let mut names = self.names;
        let names = || {
            names = names.rotate_left(1);
            names & 1 == 1
        };
        match self.survives {
            Survives::Nothing => files.crash_keeping(|_| 0..0, names),
            Survives::Beginning(percent) => files.crash_keeping(|length| 0..length * percent / 100, names),
            Survives::Rest(percent) => files.crash_keeping(|length| length * percent / 100..length, names),
            Survives::Everything => files.kill(),
        }
    }
}

/// A run of the process over the files, against the model.
struct Run {
    wal: Option<Wal>,
    held: Option<crate::writer::Writer>,
    files: MemoryFiles,
    options: WalOptions,
    /// What the log has after each submission, from the first that may be missing after a crash.
    history: Vec<Model>,
    /// Submissions of the history that were acknowledged.
    acknowledged: Arc<Mutex<usize>>,
    /// Those of them that have to survive a power cut.
    flushed: Arc<Mutex<usize>>,
    unique: u64,
}

impl Run {
    fn model(&self) -> &Model {
        self.history.last().unwrap()
    }

    fn wal(&self) -> &Wal {
        self.wal.as_ref().unwrap()
    }

    fn step(&mut self, step: &Step) {
        match step {
            Step::Submit(changes) => self.submit(changes),
            Step::Hold if self.held.is_none() => self.held = self.wal().hold(),
            Step::Hold => {}
            Step::Capacity(Some(bytes)) => self.files.set_capacity(self.files.bytes() + usize::from(*bytes)),
            Step::Capacity(None) => self.files.lift_capacity(),
            Step::Flush => {
                self.release();
                self.wal().flush();
                if self.wal().status().failed.is_none() {
                    assert_eq!(self.wal().status().unflushed_bytes, 0);
                    *self.flushed.lock() = *self.acknowledged.lock();
                }
            }
            Step::Release => self.release(),
            Step::Read(group, from, count, bytes_max) => {
                let from = u64::from(*from);
                let range = from..from + u64::from(*count);
                self.read(*group, range, usize::from(*bytes_max));
            }
            Step::Reopen => {
                self.release();
                self.files.lift_capacity();
                self.wal().flush();
                assert!(!self.wal().status().full);
                if self.wal().status().failed.is_none() {
                    self.wal = None;
                    let opened = Wal::open(&dir(), self.options.clone(), Arc::new(self.files.clone()));
                    // The files may stop in the middle of it.
                    self.wal = opened.ok();
                    if self.wal.is_some() {
                        *self.flushed.lock() = *self.acknowledged.lock();
                    }
                }
            }
        }
        if let Some(wal) = &self.wal {
            wal.check_invariants();
            if wal.status().failed.is_none() {
                assert_eq!(&Model::of(wal).normal(), &self.model().clone().normal());
            }
        }
    }

    fn submit(&mut self, changes: &[Change]) {
        let mut model = self.model().clone();
        let mut records = Vec::new();
        for change in changes {
            self.unique += 1;
            let record = change.record(&model, self.unique);
            model.apply(&record);
            records.push(record);
        }
        let failed = self.wal().status().failed.is_some();
        let is_flushed = self.options.sync == Sync::Always || records.iter().any(Record::is_flushed_always);
        let flushed = self.flushed.clone();
        let (number, acknowledged) = (self.history.len(), self.acknowledged.clone());
        self.wal().submit(records, move |result| match result {
            Ok(()) => {
                let before = std::mem::replace(&mut *acknowledged.lock(), number);
                assert_eq!(before + 1, number, "in order, without a gap");
                if is_flushed {
                    *flushed.lock() = number;
                }
            }
            Err(error) => assert_ne!(error.kind(), io::ErrorKind::InvalidInput, "{error}"),
        });
        if !failed {
            self.history.push(model);
        }
    }

    fn read(&self, group: u64, range: Range<u64>, bytes_max: usize) {
        if self.wal().status().failed.is_some() {
            return;
        }
        let mut expected: Vec<(u64, Bytes)> = Vec::new();
        for (index, bytes) in self.model().0.get(&group).iter().flat_map(|group| group.1.range(range.clone()))
        {
            let sum: usize = expected.iter().map(|entry| entry.1.len()).sum();
            if !expected.is_empty() && sum + bytes.len() > bytes_max {
                break;
            }
            expected.push((*index, bytes.clone()));
        }
        assert_eq!(self.wal().entries(group, range, bytes_max).unwrap(), expected);
    }

    fn release(&mut self) {
        if let Some(held) = self.held.take() {
            self.wal().release(held);
        }
    }

    fn crash(&mut self, end: &End) {
        self.held = None;
        self.wal = None;
        self.files = end.next_run(&self.files);
        let wal = open(&self.files, &self.options);
        wal.check_invariants();
        let found = Model::of(&wal).normal();
        // A process that is killed loses nothing that it was told.
        let killed = matches!(end.survives, Survives::Everything);
        let kept = *if killed { self.acknowledged.lock() } else { self.flushed.lock() };
        let possible = &self.history[kept..];
        let kept = possible.iter().find(|model| (*model).clone().normal() == found);
        assert!(kept.is_some(), "{found:?}\nis none of\n{possible:?}");
        self.history = vec![found];
        (*self.acknowledged.lock(), *self.flushed.lock()) = (0, 0);
        self.wal = Some(wal);
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 200, failure_persistence: None, ..ProptestConfig::default() })]

    /// Whatever is done, and wherever the power fails: what was acknowledged is there, in order; each submission is there whole or
    /// not at all; what was truncated or purged does not come back.
    #[test]
    fn a_log_survives_crashes(
        runs in vec((steps(), ends()), 1..4),
        segment_bytes in 256..1500_u32,
        spares_max in 0..3_usize,
        reserve_segments in 0..2_usize,
        cache_bytes_max in 0..600_usize,
        sync in prop_oneof![Just(Sync::Always), Just(Sync::Interval(Duration::from_secs(1)))],
    ) {
        let flushing = Flushing::InSubmit;
        let sizes = WalOptions { segment_bytes, spares_max, reserve_segments, cache_bytes_max, ..WalOptions::default() };
        let options = WalOptions { sync, flushing, ..sizes };
        let files = MemoryFiles::new();
        let mut run = Run {
            wal: Some(open(&files, &options)),
            held: None,
            files,
            options,
            history: vec![Model::default()],
            acknowledged: Arc::default(),
            flushed: Arc::default(),
            unique: 0,
        };
        for (steps, end) in runs {
            run.files.stop_at_operation(end.stop);
            for step in &steps {
                run.step(step);
                if run.wal.is_none() {
                    break;
                }
            }
            run.crash(&end);
        }
    }

    /// Without crashes the log stays small, however the groups behave.
    #[test]
    fn a_log_is_not_much_larger_than_what_is_needed(steps in vec(changes(), 1..400), segment_bytes in 256..1500_u32) {
        let wal = open(&MemoryFiles::new(), &options(segment_bytes));
        let mut model = Model::default();
        for (unique, change) in steps.into_iter().enumerate() {
            let record = change.record(&model, unique as u64);
            model.apply(&record);
            submit(&wal, vec![record]).unwrap();
            let status = wal.status();
            let spares = status.spares as u64 * u64::from(segment_bytes);
            let bound = 3 * status.live_bytes + 5 * u64::from(segment_bytes.next_multiple_of(8));
            prop_assert!(status.bytes - spares <= bound, "{status:?}");
        }
        wal.check_invariants();
    }
}
