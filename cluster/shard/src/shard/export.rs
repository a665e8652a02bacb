//! All sessions, groups and retained messages of a shard, as a backup has them. A group is a session without subscriptions; what
//! it has lent is of the group, and not of the session that has borrowed it.
//!
//! First the sessions with their subscriptions, then what is retained, then the messages of the sessions. These are read in windows of the order in which they were written,
//! and sorted there, so that a message that many sessions have comes once for all of them that are in the window.

use std::collections::{BTreeMap, BTreeSet, VecDeque};

use bytes::Bytes;
use flotilla_store::{Item, StoreError, View};
use prost::Message as _;

use super::Shard;
use crate::{
    DecodeError, FlushError, ReadError, Saved, SessionId, StoredMessage,
    ids::MessageId,
    inbox::{Chunk, ReadBody, ReadEntry},
    layout::Reader,
    rows::{PREFIX, Row, SessionRow, Space, WillRow},
    saved::{SavedInbox, SavedMessages, SavedPlace, SavedRetained, SavedSession, SavedSubscriptions, What},
    wire::Subscription as WireSubscription,
};

/// The sessions and the retained messages of a shard as they were at one moment, in pieces. They are read as they go, on any thread.
#[derive(Debug)]
pub struct Export {
    view: Box<dyn View>,
    space: Space,
    stamp: u64,
    sessions: Rows,
    retained: Rows,
    /// Chunks of inboxes.
    chunks: Rows,
    /// What sessions have borrowed from groups, which have it still.
    borrowed: BTreeSet<(SessionId, u64)>,
    /// The places of the next messages of these sessions, which no place that is saved may tell.
    ends: BTreeMap<SessionId, u64>,
    /// What has been read of them, sorted.
    window: Window,
    ready: VecDeque<Saved>,
}

/// Rows with one tag, read page by page.
#[derive(Debug)]
struct Rows {
    from: Vec<u8>,
    to: Vec<u8>,
    page: VecDeque<Item>,
}

/// Something at a place of an inbox.
#[derive(Debug)]
struct Place {
    /// Places with the same message come together, in the order of their inboxes.
    order: u64,
    inbox: u32,
    seq: u64,
    body: Body,
    qos: u32,
    retain: bool,
    subscription_ids: Vec<u32>,
}

#[derive(Debug)]
enum Body {
    Released,
    Inline(Bytes),
    Reference(MessageId),
}

/// What is read together and sorted.
#[derive(Debug, Default)]
struct Window {
    inboxes: Vec<SavedInbox>,
    /// Of each session: its inbox, and the order of its last place.
    known: BTreeMap<SessionId, (u32, u64)>,
    places: VecDeque<Place>,
    bytes: usize,
}

/// A piece that is being put together.
#[derive(Default)]
struct Piece {
    saved: SavedMessages,
    /// Where the inboxes of the window are in it, and messages that several places have.
    inboxes: BTreeMap<u32, u32>,
    messages: BTreeMap<MessageId, u32>,
    bytes: usize,
}

impl Shard {
    /// All sessions and retained messages, with everything that has been applied, as of this call. It flushes first. Sessions that are being restored are
    /// not among them, nor are wills that are about to be published.
    ///
    /// # Errors
    /// As [`Shard::flush`]; or the store gives no view, which changes nothing.
    pub fn export(&mut self) -> Result<Export, FlushError> {
        self.flush()?;
        let ends = self.state.borrowed.keys().filter_map(|(id, _)| {
            let slot = self.state.sessions.of_id(*id)?;
            Some((*id, self.state.sessions.at(slot).next_seq))
        });
        let rows = |tag| {
            let (from, to) = self.space.range_of(tag);
            Rows { from, to, page: VecDeque::new() }
        };
        Ok(Export {
            view: self.store.view()?,
            space: self.space,
            stamp: self.stamp(),
            sessions: rows(Row::SESSION),
            retained: rows(Row::RETAINED),
            chunks: rows(Row::CHUNK_STATE),
            borrowed: self.state.borrowed.keys().copied().collect(),
            ends: ends.collect(),
            window: Window::default(),
            ready: VecDeque::new(),
        })
    }
}

impl Iterator for Export {
    type Item = Result<Saved, ReadError>;

    fn next(&mut self) -> Option<Self::Item> {
        while self.ready.is_empty() {
            match self.fill() {
                Ok(true) => {}
                Ok(false) => return None,
                Err(error) => return Some(Err(error)),
            }
        }
        self.ready.pop_front().map(Ok)
    }
}

impl Export {
    /// When it was taken, on the clock of the shard, in milliseconds since the epoch.
    #[must_use]
    pub const fn stamp(&self) -> u64 {
        self.stamp
    }

    /// Reads more; returns whether there was more.
    fn fill(&mut self) -> Result<bool, ReadError> {
        if let Some((key, value)) = self.sessions.next(&*self.view)? {
            let Row::Session(id) = row_of(&key)? else { return Err(WRONG_ROW.into()) };
            self.session(id, &value)?;
            return Ok(true);
        }
        let messages = self.retained()?;
        if !messages.is_empty() {
            self.push(What::Retained(SavedRetained { messages }));
            return Ok(true);
        }
        if self.window.places.is_empty() {
            self.window = self.window()?;
        }
        let piece = self.piece()?;
        let has_more = !piece.places.is_empty();
        if has_more {
            self.push(What::Messages(piece));
        }
        Ok(has_more)
    }

    fn session(&mut self, id: SessionId, row: &Bytes) -> Result<(), ReadError> {
        if self.value(Row::Restoring(id))?.is_some() {
            return Ok(());
        }
        let mut row = SessionRow::decode(row.clone()).map_err(DecodeError::from)?;
        if row.owner.take().is_some() {
            // Whatever is there may have been sent.
            row.maybe_sent_until = u64::MAX;
        }
        (row.epoch_shard, row.epoch_sequence, row.turn, row.present) = (0, 0, 0, false);
        if let Some(end) = self.ends.get(&id) {
            row.next_seq = row.next_seq.max(*end);
        }
        let client = row.client.clone();
        let will = self.value(Row::Will(id))?.map(WillRow::decode).transpose().map_err(DecodeError::from)?;
        self.push(What::Session(Box::new(SavedSession { row: Some(row), will })));
        let mut rows = Rows {
            from: self.space.key(Row::Subscription(id, 0)).to_vec(),
            to: self.space.key(Row::Subscription(SessionId(id.0 + 1), 0)).to_vec(),
            page: VecDeque::new(),
        };
        let mut subscriptions = Vec::new();
        let mut bytes = 0;
        while let Some((_, value)) = rows.next(&*self.view)? {
            bytes += value.len();
            subscriptions.push(WireSubscription::decode(value).map_err(DecodeError::from)?);
            if bytes >= PIECE_BYTES {
                let (client, subscriptions) = (client.clone(), std::mem::take(&mut subscriptions));
                self.push(What::Subscriptions(SavedSubscriptions { client, subscriptions }));
                bytes = 0;
            }
        }
        if !subscriptions.is_empty() {
            self.push(What::Subscriptions(SavedSubscriptions { client, subscriptions }));
        }
        Ok(())
    }

    /// The next retained messages.
    fn retained(&mut self) -> Result<Vec<Bytes>, ReadError> {
        let (mut messages, mut bytes) = (Vec::new(), 0);
        while bytes < PIECE_BYTES {
            let Some((key, _)) = self.retained.next(&*self.view)? else { break };
            let Row::Retained(id) = row_of(&key)? else { return Err(WRONG_ROW.into()) };
            let message = self.value(Row::RetainedMessage(id))?;
            let message = message.ok_or(DecodeError::Row("a retained message is missing"))?;
            let is_over = |at: u64| at <= self.stamp;
            if StoredMessage::read(message.clone())?.expires_at().is_some_and(is_over) {
                continue; // The next tick would delete it.
            }
            bytes += message.len();
            messages.push(message);
        }
        Ok(messages)
    }

    /// The next chunks, as many as are sorted together.
    fn window(&mut self) -> Result<Window, ReadError> {
        let mut window = Window::default();
        while window.bytes < WINDOW_BYTES && window.places.len() < WINDOW_PLACES {
            let Some((key, state)) = self.chunks.next(&*self.view)? else { break };
            let Row::ChunkState(id) = row_of(&key)? else { return Err(WRONG_ROW.into()) };
            let (session, chunk) = Chunk::read(id, &state)?;
            if chunk.live == 0 {
                continue;
            }
            let is_known = window.known.contains_key(&session);
            if !is_known && !self.has_inbox(session, &mut window)? {
                continue;
            }
            let entries = self.value(Row::Chunk(id))?.ok_or(DecodeError::Row("a row is missing"))?;
            window.take(session, &chunk, &entries, &self.borrowed)?;
        }
        window.places.make_contiguous().sort_by_key(|place| (place.order, place.inbox, place.seq));
        Ok(window)
    }

    /// Whether there is the session that an inbox is of, which the window knows from then on.
    fn has_inbox(&self, session: SessionId, window: &mut Window) -> Result<bool, ReadError> {
        let Some(row) = self.value(Row::Session(session))? else { return Ok(false) };
        if self.value(Row::Restoring(session))?.is_some() {
            return Ok(false);
        }
        let client = SessionRow::decode(row).map_err(DecodeError::from)?.client;
        let inbox = u32::try_from(window.inboxes.len()).unwrap_or(u32::MAX);
        window.inboxes.push(SavedInbox { client, end: 0 });
        window.known.insert(session, (inbox, 0));
        Ok(true)
    }

    /// The next places of the window, and their messages.
    fn piece(&mut self) -> Result<SavedMessages, ReadError> {
        let mut piece = Piece::default();
        while piece.bytes < PIECE_BYTES
            && let Some(place) = self.window.places.pop_front()
        {
            let message = match &place.body {
                Body::Released => None,
                Body::Inline(bytes) => Some(piece.add(bytes.clone())),
                Body::Reference(id) => match piece.messages.get(id) {
                    Some(known) => Some(*known),
                    None => {
                        let message = self.value(Row::Message(*id))?;
                        let message = message.ok_or(DecodeError::Row("a message is missing"))?;
                        if piece.bytes + message.len() > PIECE_BYTES && !piece.saved.places.is_empty() {
                            self.window.places.push_front(place);
                            break;
                        }
                        let added = piece.add(message);
                        piece.messages.insert(*id, added);
                        Some(added)
                    }
                },
            };
            piece.put(&place, message, &self.window.inboxes);
        }
        Ok(piece.saved)
    }

    fn push(&mut self, what: What) {
        self.ready.push_back(Saved { stamp: self.stamp, what });
    }

    fn value(&self, row: Row) -> Result<Option<Bytes>, StoreError> {
        self.view.value(&self.space.key(row))
    }
}

impl Rows {
    fn next(&mut self, view: &dyn View) -> Result<Option<Item>, StoreError> {
        if self.page.is_empty() {
            self.page = view.scan(&self.from, &self.to, PAGE_BYTES)?.into();
            if let Some((last, _)) = self.page.back() {
                self.from = [last, &[0][..]].concat();
            }
        }
        Ok(self.page.pop_front())
    }
}

impl Window {
    fn take(
        &mut self,
        session: SessionId,
        chunk: &Chunk,
        entries: &Bytes,
        borrowed: &BTreeSet<(SessionId, u64)>,
    ) -> Result<(), DecodeError> {
        let (inbox, order) =
            self.known.get_mut(&session).ok_or(DecodeError::Row("a chunk is of no session"))?;
        self.bytes += entries.len();
        self.inboxes[*inbox as usize].end = chunk.end();
        let mut reader = Reader::new(entries);
        for seq in chunk.first..chunk.end() {
            let entry = ReadEntry::read(&mut reader)?;
            let Some(slot) = chunk.slot(seq).filter(|slot| !slot.is_done()) else { continue };
            if borrowed.contains(&(session, seq)) {
                continue;
            }
            let body = match entry.body {
                _ if slot.is_released() => Body::Released,
                ReadBody::Absent => return Err(DecodeError::Row("the body of a message is missing")),
                ReadBody::Inline(bytes) => Body::Inline(entries.slice_ref(bytes)),
                ReadBody::Reference(id) => {
                    // Later messages have higher numbers.
                    *order = (*order).max(id.0);
                    Body::Reference(id)
                }
            };
            self.places.push_back(Place {
                order: *order,
                inbox: *inbox,
                seq,
                body,
                qos: entry.qos as u32,
                retain: entry.retain,
                subscription_ids: entry.subscription_ids().as_slice().iter().map(|id| id.get()).collect(),
            });
        }
        Ok(())
    }
}

impl Piece {
    fn add(&mut self, message: Bytes) -> u32 {
        self.bytes += message.len();
        self.saved.messages.push(message);
        u32::try_from(self.saved.messages.len() - 1).unwrap_or(u32::MAX)
    }

    fn put(&mut self, place: &Place, message: Option<u32>, inboxes: &[SavedInbox]) {
        let Self { saved, bytes, .. } = self;
        let inbox = *self.inboxes.entry(place.inbox).or_insert_with(|| {
            let inbox = &inboxes[place.inbox as usize];
            *bytes += inbox.client.len();
            saved.inboxes.push(inbox.clone());
            u32::try_from(saved.inboxes.len() - 1).unwrap_or(u32::MAX)
        });
        let Place { seq, qos, retain, .. } = *place;
        let subscription_ids = place.subscription_ids.clone();
        *bytes += PLACE_BYTES + subscription_ids.len() * 4;
        saved.places.push(SavedPlace { inbox, seq, message, qos, retain, subscription_ids });
    }
}

fn row_of(key: &Bytes) -> Result<Row, DecodeError> {
    Row::read(key.get(PREFIX..).unwrap_or_default())
}

/// How much is read at once.
const PAGE_BYTES: usize = 64 << 10;
/// A piece with so many bytes takes no more.
const PIECE_BYTES: usize = 192 << 10;
/// About what a place takes.
const PLACE_BYTES: usize = 16;
/// A window with so many bytes of entries, or so many places, takes no more.
const WINDOW_BYTES: usize = 4 << 20;
const WINDOW_PLACES: usize = 64 << 10;
const WRONG_ROW: DecodeError = DecodeError::Row("a row is of another kind");
