//! Reading an inbox.

use bytes::Bytes;

use super::Shard;
use crate::{
    DecodeError, IN_FLIGHT_SPAN, Queued, QueuedMessage, ReadError, Seq, SessionId, StoredMessage,
    ids::{ChunkId, MessageId},
    inbox::{Chunk, ReadBody, ReadEntry},
    layout::Reader,
    rows::Row,
};

impl Shard {
    /// What is to be delivered to a client from a place on, in order: at most `count_max`, and as many as have `bytes_max`
    /// bytes together but at least one. What must not be delivered yet, because identifiers would repeat, is not among it;
    /// nor is anything of a session that is not there.
    ///
    /// Reads what is not in memory: a row for up to 64 messages, and one for each that several sessions have.
    ///
    /// # Errors
    /// The store cannot be read, or a row does not decode.
    pub fn deliverable(
        &self,
        session: SessionId,
        from: Seq,
        count_max: usize,
        bytes_max: usize,
    ) -> Result<Vec<Queued>, ReadError> {
        let mut page = Page { queued: Vec::new(), count_max, bytes_left: bytes_max };
        let Some(slot) = self.state.sessions.of_id(session) else { return Ok(page.queued) };
        let session = self.state.sessions.at(slot);
        let Some(inbox) = &session.inbox else { return Ok(page.queued) };
        let until = session.head().saturating_add(IN_FLIGHT_SPAN);
        for chunk in inbox.chunks_from(from.0) {
            if chunk.first >= until || !self.read_chunk(chunk, from.0..until, &mut page)? {
                break;
            }
        }
        Ok(page.queued)
    }

    /// Adds what a chunk has; returns whether there is room for more.
    fn read_chunk(
        &self,
        chunk: &Chunk,
        places: std::ops::Range<u64>,
        page: &mut Page,
    ) -> Result<bool, ReadError> {
        let mut stored = None;
        for (seq, slot) in chunk.live_from(places.start).take_while(|(seq, _)| *seq < places.end) {
            let seq_name = Seq(seq);
            if page.queued.len() >= page.count_max {
                return Ok(false);
            }
            if slot.is_released() {
                page.queued.push(Queued::Release { seq: seq_name });
                continue;
            }
            let size = usize::try_from(slot.size()).unwrap_or(usize::MAX);
            if size > page.bytes_left && !page.queued.is_empty() {
                return Ok(false);
            }
            page.bytes_left = page.bytes_left.saturating_sub(size);
            let message = match chunk.fresh_entry(seq) {
                Some(entry) => self.queued(seq_name, &entry?, None)?,
                None => {
                    if stored.is_none() {
                        stored = Some(StoredRow::new(self.row(Row::Chunk(chunk.id))?, chunk.first));
                    }
                    let row = stored.as_mut().expect("it has just been read");
                    let (entry, bytes) = row.entry(seq)?;
                    self.queued(seq_name, &entry, Some(bytes))?
                }
            };
            page.queued.push(Queued::Publish(message));
        }
        Ok(page.queued.len() < page.count_max && page.bytes_left > 0)
    }

    /// `row`: what the entry lies in, if that may be kept alive.
    fn queued(
        &self,
        seq: Seq,
        entry: &ReadEntry<'_>,
        row: Option<&Bytes>,
    ) -> Result<QueuedMessage, ReadError> {
        let message = StoredMessage::read(self.body(entry.body, row)?)?;
        Ok(QueuedMessage {
            seq,
            qos: entry.qos,
            retain: entry.retain,
            subscription_ids: entry.subscription_ids(),
            expires_at: message.expires_at(),
            message,
        })
    }

    /// `row`: what the body lies in, if that may be kept alive.
    fn body(&self, body: ReadBody<'_>, row: Option<&Bytes>) -> Result<Bytes, ReadError> {
        Ok(match body {
            ReadBody::Absent => return Err(DecodeError::Row("the body of a message is missing").into()),
            ReadBody::Inline(body) => match row {
                // A small part must not keep all of it alive.
                Some(row) if body.len() >= row.len() / SHARE_RATIO_MAX => row.slice_ref(body),
                _ => Bytes::copy_from_slice(body),
            },
            ReadBody::Reference(id) => self.message(id)?,
        })
    }

    /// The message at a place where there is one. `last`: the row that was read last.
    pub(super) fn message_at(
        &self,
        chunk: &Chunk,
        seq: u64,
        last: &mut Option<(ChunkId, StoredRow)>,
    ) -> Result<StoredMessage, ReadError> {
        if let Some(entry) = chunk.fresh_entry(seq) {
            return Ok(StoredMessage::read(self.body(entry?.body, None)?)?);
        }
        // A row is read from its front.
        let has_it = |(id, row): &(ChunkId, StoredRow)| *id == chunk.id && row.next <= seq;
        let (_, row) = match last.take().filter(has_it) {
            Some(known) => last.insert(known),
            None => last.insert((chunk.id, StoredRow::new(self.row(Row::Chunk(chunk.id))?, chunk.first))),
        };
        let (entry, bytes) = row.entry(seq)?;
        Ok(StoredMessage::read(self.body(entry.body, Some(bytes))?)?)
    }

    fn message(&self, id: MessageId) -> Result<Bytes, ReadError> {
        match self.state.messages.get(&id) {
            Some(message) => Ok(message.bytes.clone()),
            None => self.row(Row::Message(id)),
        }
    }

    pub(super) fn row(&self, row: Row) -> Result<Bytes, ReadError> {
        let value = self.store.value(&self.space.key(row))?;
        Ok(value.ok_or(DecodeError::Row("a row is missing"))?)
    }
}

/// What has been collected, and how much more may be.
struct Page {
    queued: Vec<Queued>,
    count_max: usize,
    bytes_left: usize,
}

/// A row of messages that is read from its front.
pub(super) struct StoredRow {
    bytes: Bytes,
    /// How many of its bytes are left.
    left: usize,
    /// The place of the next entry.
    next: u64,
}

impl StoredRow {
    fn new(bytes: Bytes, first: u64) -> Self {
        Self { left: bytes.len(), bytes, next: first }
    }

    /// The entry at a place that has not been passed, and what it lies in.
    fn entry(&mut self, seq: u64) -> Result<(ReadEntry<'_>, &Bytes), DecodeError> {
        let mut reader = Reader::new(&self.bytes[self.bytes.len() - self.left..]);
        loop {
            let entry = ReadEntry::read(&mut reader)?;
            self.left = reader.len();
            self.next += 1;
            if self.next > seq {
                return Ok((entry, &self.bytes));
            }
        }
    }
}

/// What a shared message keeps alive is at most so many times its own length.
const SHARE_RATIO_MAX: usize = 8;

#[cfg(test)]
impl Shard {
    /// The row with the first messages of an inbox, as the store gives it.
    pub(crate) fn first_row(&self, session: SessionId) -> Bytes {
        let session = self.state.sessions.at(self.state.sessions.of_id(session).expect("there is one"));
        let inbox = session.inbox.as_ref().expect("there are messages");
        let chunk = inbox.chunks_from(0).next().expect("there are messages");
        self.row(Row::Chunk(chunk.id)).expect("it has been written")
    }
}
