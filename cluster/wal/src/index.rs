//! What the log has, in memory: the values, and where each entry is.

use std::{
    collections::{BTreeMap, VecDeque},
    ops::Range,
};

use bytes::Bytes;

use crate::{layout::RECORD_HEADER, options::GroupState, record::Record};

/// Where a record is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Place {
    /// Not written yet. The ticket is of this record alone.
    Waiting(u64),
    /// The bytes are at `offset` of the segment.
    At { segment: u64, offset: u32 },
}

/// An entry.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Slot {
    pub(crate) place: Place,
    pub(crate) length: u32,
    /// CRC32 of the bytes, for reads from the disk.
    pub(crate) crc: u32,
}

impl Slot {
    pub(crate) fn new(place: Place, bytes: &[u8]) -> Self {
        let length = u32::try_from(bytes.len()).expect("submissions are far smaller than 4 GiB");
        Self { place, length, crc: crc32fast::hash(bytes) }
    }
}

/// A value of a group.
#[derive(Debug, Clone)]
pub(crate) struct Value {
    pub(crate) bytes: Bytes,
    pub(crate) place: Place,
}

/// One Raft group. The entries are `first..first + slots.len()`.
#[derive(Debug, Default)]
pub(crate) struct Group {
    pub(crate) vote: Option<Value>,
    pub(crate) purged: Option<(u64, Value)>,
    pub(crate) meta: BTreeMap<u8, Value>,
    pub(crate) first: u64,
    pub(crate) slots: VecDeque<Slot>,
    /// Bytes of the newest entries, as many as there are here. What is not written yet is among them, and so is the last entry.
    cache: VecDeque<Bytes>,
    cache_bytes: usize,
    entry_bytes: u64,
}

/// An entry as a reader finds it.
#[derive(Debug, Clone)]
pub(crate) enum Found {
    Cached(Bytes),
    OnDisk(Slot),
}

/// All groups.
#[derive(Debug, Default)]
pub(crate) struct Index {
    groups: BTreeMap<u64, Group>,
    live: Live,
    cache_bytes: usize,
    cache_bytes_max: usize,
}

/// Bytes of the records that are needed, by segment.
#[derive(Debug, Default)]
struct Live(BTreeMap<u64, u64>);

impl Live {
    fn add(&mut self, place: Place, length: usize) {
        if let Place::At { segment, .. } = place {
            *self.0.entry(segment).or_default() += record_bytes(length);
        }
    }

    fn remove(&mut self, place: Place, length: usize) {
        if let Place::At { segment, .. } = place {
            let bytes = self.0.get_mut(&segment).expect("what is removed was added");
            *bytes -= record_bytes(length);
        }
    }
}

fn record_bytes(length: usize) -> u64 {
    u64::from(RECORD_HEADER) + length as u64
}

impl Group {
    pub(crate) fn end(&self) -> u64 {
        self.first + self.slots.len() as u64
    }

    fn values(&self) -> impl Iterator<Item = &Value> {
        self.vote.iter().chain(self.purged.iter().map(|purged| &purged.1)).chain(self.meta.values())
    }

    fn slot_mut(&mut self, index: u64) -> Option<&mut Slot> {
        self.slots.get_mut(usize::try_from(index.checked_sub(self.first)?).ok()?)
    }

    fn cached(&self, position: usize) -> Option<&Bytes> {
        self.cache.get(position.checked_sub(self.slots.len() - self.cache.len())?)
    }

    fn push(&mut self, live: &mut Live, slot: Slot) {
        live.add(slot.place, slot.length as usize);
        self.entry_bytes += u64::from(slot.length);
        self.slots.push_back(slot);
    }

    /// Removes the entries from `index` on.
    fn truncate(&mut self, live: &mut Live, index: u64) {
        while index < self.end() {
            let slot = self.slots.pop_back().expect("the end lies beyond the first");
            live.remove(slot.place, slot.length as usize);
            self.entry_bytes -= u64::from(slot.length);
            self.cache_bytes -= self.cache.pop_back().map_or(0, |bytes| bytes.len());
        }
    }

    /// Removes the entries up to `index`.
    fn purge(&mut self, live: &mut Live, index: u64) {
        while self.first <= index && !self.slots.is_empty() {
            if self.cache.len() == self.slots.len() {
                self.cache_bytes -= self.cache.pop_front().map_or(0, |bytes| bytes.len());
            }
            let slot = self.slots.pop_front().expect("there is one");
            live.remove(slot.place, slot.length as usize);
            self.entry_bytes -= u64::from(slot.length);
            self.first += 1;
        }
    }

    /// Whether the oldest cached entry can be read from the disk, and is not the last.
    fn is_evictable(&self) -> bool {
        let oldest = self.slots.get(self.slots.len() - self.cache.len());
        self.cache.len() > 1 && oldest.is_some_and(|slot| matches!(slot.place, Place::At { .. }))
    }

    /// Forgets the bytes of the oldest cached entry, unless they are needed.
    fn evict(&mut self) -> Option<usize> {
        if !self.is_evictable() {
            return None;
        }
        let bytes = self.cache.pop_front()?.len();
        self.cache_bytes -= bytes;
        Some(bytes)
    }
}

impl Index {
    pub(crate) fn new(cache_bytes_max: usize) -> Self {
        Self { cache_bytes_max, ..Self::default() }
    }

    /// Adds a group as it was recovered; nothing of it waits.
    pub(crate) fn insert(&mut self, id: u64, mut group: Group, slots: impl IntoIterator<Item = Slot>) {
        for value in group.values() {
            self.live.add(value.place, value.bytes.len());
        }
        for slot in slots {
            group.push(&mut self.live, slot);
        }
        self.groups.insert(id, group);
    }

    /// Whether `records` follow on what is there.
    pub(crate) fn check(&self, records: &[Record]) -> Result<(), &'static str> {
        let mut ends: BTreeMap<u64, End> = BTreeMap::new();
        for record in records {
            let end = ends.entry(record.group()).or_insert_with(|| End::of(self.groups.get(&record.group())));
            end.follow(record)?;
        }
        Ok(())
    }

    /// Takes a record that was checked; `ticket` stands for its place until it is written. False when it changes nothing, and
    /// must not be written.
    pub(crate) fn take(&mut self, record: &Record, ticket: u64) -> bool {
        if let Record::Forgotten { group } = record {
            self.forget(*group);
            return true;
        }
        let group = self.groups.entry(record.group()).or_default();
        let before = group.cache_bytes;
        let live = &mut self.live;
        let value = |bytes: &Bytes| Value { bytes: bytes.clone(), place: Place::Waiting(ticket) };
        let old = match record {
            Record::Vote { bytes, .. } => group.vote.replace(value(bytes)),
            Record::Meta { key, bytes, .. } => group.meta.insert(*key, value(bytes)),
            Record::Entry { index, bytes, .. } => {
                if group.slots.is_empty() {
                    group.first = *index;
                }
                group.push(live, Slot::new(Place::Waiting(ticket), bytes));
                group.cache.push_back(bytes.clone());
                group.cache_bytes += bytes.len();
                None
            }
            Record::TruncateFrom { index, .. } => {
                group.truncate(live, *index);
                None
            }
            Record::Purged { index, bytes, .. }
                if group.purged.as_ref().is_none_or(|purged| purged.0 < *index) =>
            {
                group.purge(live, *index);
                group.purged.replace((*index, value(bytes))).map(|purged| purged.1)
            }
            // In the log it would be one purge point too many: which of two with the same index counts?
            Record::Purged { .. } => return false,
            Record::Forgotten { .. } => None,
        };
        if let Some(old) = old {
            live.remove(old.place, old.bytes.len());
        }
        self.cache_bytes = self.cache_bytes + group.cache_bytes - before;
        self.evict();
        true
    }

    /// Takes away all that there is of a group.
    fn forget(&mut self, group: u64) {
        let Some(mut group) = self.groups.remove(&group) else { return };
        self.cache_bytes -= group.cache_bytes;
        group.truncate(&mut self.live, group.first);
        for value in group.values() {
            self.live.remove(value.place, value.bytes.len());
        }
    }

    /// The record is at `to` now, unless it is void already. `from` is where it was: its ticket, or its segment when it was
    /// brought forward.
    pub(crate) fn written(&mut self, record: &Record, from: From, to: Place) {
        let Some(group) = self.groups.get_mut(&record.group()) else { return };
        let (place, length) = match record {
            Record::TruncateFrom { .. } | Record::Forgotten { .. } => return,
            Record::Entry { index, .. } => match group.slot_mut(*index) {
                Some(slot) => (&mut slot.place, slot.length as usize),
                None => return,
            },
            Record::Vote { .. } | Record::Purged { .. } | Record::Meta { .. } => {
                let value = match record {
                    Record::Vote { .. } => group.vote.as_mut(),
                    Record::Purged { .. } => group.purged.as_mut().map(|purged| &mut purged.1),
                    Record::Meta { key, .. } => group.meta.get_mut(key),
                    _ => None,
                };
                match value {
                    Some(value) => (&mut value.place, value.bytes.len()),
                    None => return,
                }
            }
        };
        let same = match (from, *place) {
            (From::Ticket(ticket), Place::Waiting(waiting)) => ticket == waiting,
            (From::Segment(old), Place::At { segment, .. }) => old == segment,
            _ => false,
        };
        if same {
            self.live.remove(*place, length);
            *place = to;
            self.live.add(to, length);
        }
    }

    /// Makes room in the cache, from the group that has most of it.
    pub(crate) fn evict(&mut self) {
        if self.cache_bytes <= self.cache_bytes_max {
            return;
        }
        // A bit more than needed, so that not each entry looks at all groups.
        let enough = self.cache_bytes_max / 8 * 7;
        let evictable = self.groups.values_mut().filter(|group| group.is_evictable());
        let Some(largest) = evictable.max_by_key(|group| group.cache_bytes) else { return };
        while self.cache_bytes > enough {
            let Some(bytes) = largest.evict() else { return };
            self.cache_bytes -= bytes;
        }
    }

    /// The last entry of the group, where its bytes are not in memory.
    pub(crate) fn last_on_disk(&self, group: u64) -> Option<Slot> {
        let group = self.groups.get(&group)?;
        let slot = group.slots.back()?;
        group.cache.is_empty().then_some(*slot)
    }

    /// Puts the bytes of the last entry into the cache, which has none of the group.
    pub(crate) fn cache_last(&mut self, group: u64, bytes: Bytes) {
        if let Some(group) = self.groups.get_mut(&group) {
            debug_assert!(group.cache.is_empty() && !group.slots.is_empty());
            group.cache_bytes += bytes.len();
            self.cache_bytes += bytes.len();
            group.cache.push_back(bytes);
        }
    }

    pub(crate) fn group(&self, group: u64) -> GroupState {
        let Some(group) = self.groups.get(&group) else { return GroupState::default() };
        GroupState {
            vote: group.vote.as_ref().map(|value| value.bytes.clone()),
            purged: group.purged.as_ref().map(|(index, value)| (*index, value.bytes.clone())),
            first_index: (!group.slots.is_empty()).then_some(group.first),
            last: group.cache.back().map(|bytes| (group.end() - 1, bytes.clone())),
            meta: group.meta.iter().map(|(key, value)| (*key, value.bytes.clone())).collect(),
        }
    }

    /// The entries of `range` that exist, up to `bytes_max` bytes but at least one.
    pub(crate) fn entries(&self, group: u64, range: &Range<u64>, bytes_max: usize) -> Vec<(u64, Found)> {
        let mut found = Vec::new();
        let Some(group) = self.groups.get(&group) else { return found };
        let mut sum = 0_usize;
        for index in range.start.max(group.first)..range.end.min(group.end()) {
            let position = usize::try_from(index - group.first).expect("there are fewer entries");
            let slot = group.slots[position];
            let length = slot.length as usize;
            sum = sum.saturating_add(length);
            if !found.is_empty() && sum > bytes_max {
                break;
            }
            let bytes = group.cached(position).cloned();
            found.push((index, bytes.map_or(Found::OnDisk(slot), Found::Cached)));
        }
        found
    }

    pub(crate) fn entry_bytes(&self, group: u64) -> u64 {
        self.groups.get(&group).map_or(0, |group| group.entry_bytes)
    }

    pub(crate) fn groups(&self) -> impl Iterator<Item = u64> + '_ {
        self.groups.keys().copied()
    }

    pub(crate) fn cache_bytes(&self) -> usize {
        self.cache_bytes
    }

    /// Bytes of the records in `segment` that are needed.
    pub(crate) fn live_bytes(&self, segment: u64) -> u64 {
        self.live.0.get(&segment).copied().unwrap_or(0)
    }

    pub(crate) fn live_bytes_total(&self) -> u64 {
        self.live.0.values().sum()
    }

    /// The segment is gone; nothing in it was needed.
    pub(crate) fn forget_segment(&mut self, segment: u64) {
        let bytes = self.live.0.remove(&segment);
        debug_assert_eq!(bytes.unwrap_or(0), 0);
    }

    /// Records in `segment` that are needed: the values, and entries up to `bytes_max` bytes but at least one.
    pub(crate) fn live_records(
        &self,
        segment: u64,
        bytes_max: usize,
    ) -> (Vec<Record>, Vec<(u64, u64, Found)>) {
        let is_here = |place: Place| matches!(place, Place::At { segment: at, .. } if at == segment);
        let (mut values, mut entries) = (Vec::new(), Vec::new());
        let mut left = bytes_max;
        for (&id, group) in &self.groups {
            if let Some(value) = group.vote.as_ref().filter(|value| is_here(value.place)) {
                values.push(Record::Vote { group: id, bytes: value.bytes.clone() });
            }
            if let Some((index, value)) = group.purged.as_ref().filter(|purged| is_here(purged.1.place)) {
                values.push(Record::Purged { group: id, index: *index, bytes: value.bytes.clone() });
            }
            for (&key, value) in group.meta.iter().filter(|value| is_here(value.1.place)) {
                values.push(Record::Meta { group: id, key, bytes: value.bytes.clone() });
            }
            for (position, slot) in group.slots.iter().enumerate().filter(|slot| is_here(slot.1.place)) {
                if !entries.is_empty() && left < slot.length as usize {
                    return (values, entries);
                }
                left = left.saturating_sub(slot.length as usize);
                let bytes = group.cached(position).cloned();
                entries.push((
                    id,
                    group.first + position as u64,
                    bytes.map_or(Found::OnDisk(*slot), Found::Cached),
                ));
            }
        }
        (values, entries)
    }

    /// Whether the record, found in `segment` a moment ago, is still the one that counts.
    pub(crate) fn is_live_in(&self, record: &Record, segment: u64) -> bool {
        let Some(group) = self.groups.get(&record.group()) else { return false };
        let place = match record {
            Record::Vote { .. } => group.vote.as_ref().map(|value| value.place),
            Record::Purged { .. } => group.purged.as_ref().map(|purged| purged.1.place),
            Record::Meta { key, .. } => group.meta.get(key).map(|value| value.place),
            Record::Entry { index, .. } => {
                let position =
                    index.checked_sub(group.first).and_then(|position| usize::try_from(position).ok());
                position.and_then(|position| group.slots.get(position)).map(|slot| slot.place)
            }
            Record::TruncateFrom { .. } | Record::Forgotten { .. } => None,
        };
        matches!(place, Some(Place::At { segment: at, .. }) if at == segment)
    }

    /// Checks what has to hold between the parts; for tests.
    #[cfg(test)]
    pub(crate) fn check_invariants(&self) {
        let mut live = Live::default();
        let mut cache_bytes = 0;
        for group in self.groups.values() {
            assert!(group.cache.len() <= group.slots.len());
            assert_eq!(group.cache.is_empty(), group.slots.is_empty(), "the last entry is in memory");
            assert_eq!(group.cache_bytes, group.cache.iter().map(Bytes::len).sum::<usize>());
            assert_eq!(group.entry_bytes, group.slots.iter().map(|slot| u64::from(slot.length)).sum::<u64>());
            cache_bytes += group.cache_bytes;
            for (position, slot) in group.slots.iter().enumerate() {
                live.add(slot.place, slot.length as usize);
                match group.cached(position) {
                    Some(bytes) => assert_eq!(slot.crc, crc32fast::hash(bytes)),
                    None => assert!(matches!(slot.place, Place::At { .. })),
                }
            }
            group.values().for_each(|value| live.add(value.place, value.bytes.len()));
            if let (Some((purged, _)), false) = (&group.purged, group.slots.is_empty()) {
                assert_eq!(group.first, purged + 1);
            }
        }
        assert_eq!(cache_bytes, self.cache_bytes);
        let needed =
            |live: &Live| live.0.iter().filter(|part| *part.1 > 0).map(|(k, v)| (*k, *v)).collect::<Vec<_>>();
        assert_eq!(needed(&live), needed(&self.live));
    }
}

/// Where a record was before it was written.
#[derive(Debug, Clone, Copy)]
pub(crate) enum From {
    Ticket(u64),
    Segment(u64),
}

/// Purge point and entries of a group, to check records before any is taken.
#[derive(Debug, Clone, Copy)]
struct End {
    purged: Option<u64>,
    entries: Option<(u64, u64)>,
}

impl End {
    fn of(group: Option<&Group>) -> Self {
        Self {
            purged: group.and_then(|group| Some(group.purged.as_ref()?.0)),
            entries: group
                .filter(|group| !group.slots.is_empty())
                .map(|group| (group.first, group.end() - 1)),
        }
    }

    fn follow(&mut self, record: &Record) -> Result<(), &'static str> {
        match *record {
            Record::Vote { .. } | Record::Meta { .. } => {}
            Record::Forgotten { .. } => *self = Self { purged: None, entries: None },
            Record::Entry { index, .. } => {
                let before = self.entries.map(|entries| entries.1).or(self.purged);
                if index == u64::MAX || before.is_some_and(|before| before + 1 != index) {
                    return Err("an entry does not follow on the one before it");
                }
                self.entries = Some((self.entries.map_or(index, |entries| entries.0), index));
            }
            Record::TruncateFrom { index, .. } => {
                if self.purged.is_some_and(|purged| index <= purged) {
                    return Err("a truncation reaches what is purged");
                }
                self.entries = self.entries.and_then(|(first, last)| {
                    if index <= first { None } else { Some((first, last.min(index - 1))) }
                });
            }
            Record::Purged { index, .. } => {
                if index == u64::MAX {
                    return Err("the purge point leaves no index");
                }
                if self.purged.is_none_or(|purged| purged < index) {
                    if self.entries.is_some_and(|entries| index + 1 < entries.0) {
                        return Err("the purge point leaves a gap before the first entry");
                    }
                    self.purged = Some(index);
                    self.entries = self.entries.and_then(|(first, last)| {
                        if last <= index { None } else { Some((first.max(index + 1), last)) }
                    });
                }
            }
        }
        Ok(())
    }
}
