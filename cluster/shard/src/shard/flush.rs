//! Writing what has changed.

use std::collections::BTreeMap;

use bytes::Bytes;
use flotilla_store::{Change, StoreError};
use prost::Message as _;

use super::Shard;
use crate::{
    DecodeError, FlushError, ReadError,
    ids::MessageId,
    inbox::{Chunk, ReadBody, ReadEntry},
    layout::{Reader, put_varint},
    rows::{Header, Row, Space},
};

/// What one flush writes.
struct Batch {
    space: Space,
    changes: Vec<Change>,
    written: u64,
    deleted: u64,
}

impl Batch {
    fn put(&mut self, row: Row, value: Bytes) {
        self.written += 1;
        self.changes.push(Change { key: self.space.key(row), value: Some(value) });
    }

    fn delete(&mut self, row: Row) {
        self.deleted += 1;
        self.changes.push(Change { key: self.space.key(row), value: None });
    }
}

impl Shard {
    /// Writes everything that has changed, with the position, as one atomic batch. It is durable after the next sync of the
    /// store. Nothing has changed: nothing is written.
    ///
    /// # Errors
    /// The store refuses. If its disk is full, nothing has changed and the next flush may succeed; after any other error the
    /// shard has failed.
    pub fn flush(&mut self) -> Result<(), FlushError> {
        if let Some(failure) = &self.failure {
            return Err(FlushError::Failed(failure.clone()));
        }
        let is_clean = self.state.dirty_bytes() == 0 && self.state.dirty.trash.is_empty();
        if is_clean && self.flushed == (self.applied, self.position.clone()) {
            return Ok(());
        }
        let flushed = self.write_changes();
        if let Err(error) = &flushed
            && !matches!(error, FlushError::Store(StoreError::Full { .. }))
        {
            self.failure = Some(error.to_string());
        }
        flushed
    }

    fn write_changes(&mut self) -> Result<(), FlushError> {
        let mut batch = Batch { space: self.space, changes: Vec::new(), written: 0, deleted: 0 };
        let mut references = BTreeMap::new();
        self.collect_sessions(&mut batch, &mut references);
        self.collect_messages(&mut batch, &references);
        self.collect_gone(&mut batch).map_err(|error| match error {
            ReadError::Store(error) => FlushError::Store(error),
            ReadError::Corrupt(error) => FlushError::Row(error),
        })?;
        self.collect_others(&mut batch);
        let header = Change::set(Space::header_key(self.space.shard), self.header().encode());
        let Batch { mut changes, written, deleted, .. } = batch;
        changes.push(header);
        self.store.write(changes)?;
        self.set_stored();
        self.state.stats.flushes += 1;
        self.state.stats.rows_written += written;
        self.state.stats.rows_deleted += deleted;
        Ok(())
    }

    pub(super) fn header(&self) -> Header {
        Header {
            generation: self.space.generation,
            position: self.position.clone(),
            applied: self.applied,
            stamp: self.state.stamp.as_millis(),
            next_session: self.state.next.session,
            next_message: self.state.next.message,
            next_will: self.state.next.will,
            next_chunk: self.state.next.chunk,
            next_retained: self.state.next.retained,
            last_letter: self.state.letters.last,
            format: self.state.format(),
        }
    }

    /// Sessions and their inboxes. Counts which messages are referred to by the rows that are written.
    fn collect_sessions(&mut self, batch: &mut Batch, references: &mut BTreeMap<MessageId, u64>) {
        for id in &self.state.dirty.sessions {
            let Some(slot) = self.state.sessions.of_id(*id) else { continue };
            let session = self.state.sessions.at_mut(slot);
            let known_end = session.inbox.as_ref().map_or(0, |inbox| inbox.end());
            // Where the inbox ends is known from its last chunk, while there is one.
            if session.is_dirty || known_end != session.next_seq {
                batch.put(Row::Session(*id), session.to_row().encode_to_vec().into());
            }
            if session.is_group
                && let Some(group) = self.state.groups.of(*id).filter(|group| group.is_dirty)
            {
                batch.put(Row::Group(*id), group.row().encode_to_vec().into());
            }
            let Some(inbox) = &mut session.inbox else { continue };
            for chunk in inbox.chunks_mut() {
                let messages = chunk.messages_row(|message| *references.entry(message).or_default() += 1);
                if messages.is_some() || chunk.is_dirty {
                    batch.put(Row::ChunkState(chunk.id), chunk.state_row(*id));
                }
                if let Some(messages) = messages {
                    batch.put(Row::Chunk(chunk.id), messages);
                }
            }
        }
    }

    /// Messages that several entries refer to.
    fn collect_messages(&self, batch: &mut Batch, references: &BTreeMap<MessageId, u64>) {
        for (id, count) in references {
            let Some(message) = self.state.messages.get(id) else { continue };
            batch.put(Row::Message(*id), message.bytes.clone());
            batch.put(Row::References(*id), number_row(*count));
        }
    }

    /// Chunks that nobody needs any more: those that wait since the last flush, then the new ones.
    fn collect_gone(&self, batch: &mut Batch) -> Result<(), ReadError> {
        let mut reads_left = self.options.references_read_max;
        let mut given_back: BTreeMap<MessageId, u64> = BTreeMap::new();
        let trash = self.state.dirty.trash.iter().take(reads_left).map(|gone| (gone, true));
        let new = self.state.dirty.gone.iter().map(|gone| (gone, false));
        for (chunk, is_marked) in trash.chain(new) {
            if chunk.has_references && reads_left == 0 {
                // It waits; who loads the shard must not take it for one that is needed.
                debug_assert!(!is_marked);
                batch.put(Row::ChunkState(chunk.id), Chunk::gone_row());
                continue;
            }
            if chunk.has_references {
                reads_left -= 1;
                let row = self.row(Row::Chunk(chunk.id))?;
                for_each_reference(&row, |message| *given_back.entry(message).or_default() += 1)?;
            }
            batch.delete(Row::ChunkState(chunk.id));
            batch.delete(Row::Chunk(chunk.id));
        }
        self.give_back(batch, given_back)
    }

    /// So many references to each of these messages are gone.
    fn give_back(&self, batch: &mut Batch, given_back: BTreeMap<MessageId, u64>) -> Result<(), ReadError> {
        for (message, count) in given_back {
            let row = self.row(Row::References(message))?;
            let before = Reader::new(&row).varint()?;
            match before.checked_sub(count).ok_or(DecodeError::Row("a message has too few references"))? {
                0 => {
                    batch.delete(Row::Message(message));
                    batch.delete(Row::References(message));
                }
                after => batch.put(Row::References(message), number_row(after)),
            }
        }
        Ok(())
    }

    fn collect_others(&self, batch: &mut Batch) {
        for (row, value) in &self.state.dirty.rows {
            match value {
                Some(value) => batch.put(*row, value.clone()),
                None => batch.delete(*row),
            }
        }
        for ((shard, session), row) in self.state.publishers.dirty() {
            match row {
                Some(row) => batch.put(Row::Publisher(shard, session), row.encode_to_vec().into()),
                None => batch.delete(Row::Publisher(shard, session)),
            }
        }
        for (node, row) in self.state.sources.dirty() {
            batch.put(Row::Source(node), row.encode_to_vec().into());
        }
    }

    /// The store has everything.
    fn set_stored(&mut self) {
        for id in std::mem::take(&mut self.state.dirty.sessions) {
            let Some(slot) = self.state.sessions.of_id(id) else { continue };
            let session = self.state.sessions.at_mut(slot);
            (session.is_listed, session.is_dirty, session.is_stored) = (false, false, true);
            if let Some(inbox) = &mut session.inbox {
                inbox.chunks_mut().for_each(Chunk::set_stored);
            }
            if session.is_group
                && let Some(group) = self.state.groups.of_mut(id)
            {
                group.is_dirty = false;
            }
        }
        self.state.messages.clear();
        self.state.publishers.set_stored();
        self.state.sources.set_stored();
        self.state.letters.set_stored();
        let dirty = &mut self.state.dirty;
        dirty.rows.clear();
        self.state.retained.set_stored(self.state.next.retained);
        (dirty.message_bytes, dirty.row_bytes) = (0, 0);
        dirty.sweep(self.options.references_read_max);
        self.flushed = (self.applied, self.position.clone());
    }
}

/// Tells which messages the entries of a row refer to.
fn for_each_reference(row: &[u8], mut visit: impl FnMut(MessageId)) -> Result<(), DecodeError> {
    let mut reader = Reader::new(row);
    while !reader.is_empty() {
        if let ReadBody::Reference(message) = ReadEntry::read(&mut reader)?.body {
            visit(message);
        }
    }
    Ok(())
}

fn number_row(number: u64) -> Bytes {
    let mut row = Vec::new();
    put_varint(number, &mut row);
    row.into()
}
