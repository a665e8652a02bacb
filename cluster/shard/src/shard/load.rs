//! Opening what the store has.

use std::sync::Arc;

use bytes::Bytes;
use flotilla_mqtt::{Message, Timestamp};
use flotilla_state::ShardId;
use flotilla_store::{Change, Store, StoreError};
use prost::Message as _;

use super::{Options, Shard};
use crate::{
    DecodeError, OpenError, SessionId,
    groups::Group,
    inbox::{Chunk, GoneChunk, Inbox},
    index::Subscriber,
    letters::{Letters, Unposted},
    rows::{
        BorrowedRow, FiringRow, FormerRow, GroupRow, Header, HeardRow, LetterRow, LoanRow, MemberRow, PREFIX,
        PublisherRow, RestoringRow, Row, SessionRow, SourceRow, Space, WillRow,
    },
    sessions::{ArmedWill, Former, Kept, Session},
    state::{Borrowing, NextIds, State},
    wire::{Subscription as SubscriptionRow, decode_message, will_from},
};

pub(super) fn open(id: ShardId, store: Arc<dyn Store>, options: Options) -> Result<Shard, OpenError> {
    let header = match store.value(&Space::header_key(id))? {
        Some(row) => Header::decode(&row)?,
        None => Header {
            generation: 1,
            next_session: 1,
            next_message: 1,
            next_will: 1,
            next_chunk: 1,
            next_retained: 1,
            ..Header::default()
        },
    };
    let space = Space { shard: id, generation: header.generation };
    delete_others(&*store, space)?;
    let state = load(&*store, space, &header)?;
    let Header { position, applied, .. } = header;
    let flushed = (applied, position.clone());
    Ok(Shard { store, options, space, state, applied, position, flushed, failure: None, is_given_up: false })
}

/// Deletes the rows of all other generations: a restore was interrupted before or after it switched.
pub(super) fn delete_others(store: &dyn Store, space: Space) -> Result<(), StoreError> {
    let ((first, end), (from, to)) = (Space::all(space.shard), space.range());
    delete(store, &first, &from)?;
    delete(store, &to, &end)
}

/// Deletes all rows from one key to before another.
pub(super) fn delete(store: &dyn Store, from: &[u8], to: &[u8]) -> Result<(), StoreError> {
    let mut from = from.to_vec();
    loop {
        let page = store.scan(&from, to, PAGE_BYTES)?;
        let Some((last, _)) = page.last() else { return Ok(()) };
        // Behind what is deleted: it would have to be stepped over.
        from = behind(last);
        store.write(page.into_iter().map(|(key, _)| Change::remove(key)).collect())?;
    }
}

/// The state that the rows of a generation add up to.
pub(super) fn load(store: &dyn Store, space: Space, header: &Header) -> Result<State, OpenError> {
    let mut state = State {
        stamp: Timestamp::from_millis(header.stamp),
        next: NextIds {
            session: header.next_session.max(1),
            message: header.next_message.max(1),
            will: header.next_will.max(1),
            chunk: header.next_chunk.max(1),
            retained: header.next_retained.max(1),
        },
        letters: Letters::from_last(header.last_letter),
        ..State::default()
    };
    // Subscriptions of sessions that are not complete match nothing.
    for tag in [
        Row::SESSION,
        Row::RESTORING,
        Row::FORMER,
        Row::SUBSCRIPTION,
        Row::WILL,
        Row::CHUNK_STATE,
        Row::PUBLISHER,
        Row::SOURCE,
        Row::FIRING,
        Row::RETAINED,
        Row::GROUP,
        Row::MEMBER,
        Row::LOAN,
        Row::LETTER,
        Row::BORROWED,
        Row::HEARD,
    ] {
        let (mut from, to) = space.range_of(tag);
        loop {
            let page = store.scan(&from, &to, PAGE_BYTES)?;
            let Some((last, _)) = page.last() else { break };
            from = behind(last);
            for (key, value) in page {
                take_row(&mut state, Row::read(key.get(PREFIX..).unwrap_or_default())?, &value)?;
            }
        }
    }
    finish(&mut state);
    Ok(state)
}

fn take_row(state: &mut State, row: Row, value: &Bytes) -> Result<(), DecodeError> {
    match row {
        Row::Session(id) => {
            let session = Session::from_row(id, &SessionRow::decode(value.clone())?)?;
            if id.0 >= state.next.session {
                return Err(DecodeError::Row("a session has a name that was not given out"));
            }
            state.stats.attached += u64::from(session.owner.is_some());
            if session.is_group {
                state.groups.insert(id);
            }
            state.sessions.insert(session).ok_or(DecodeError::Row("a client has two sessions"))?;
        }
        Row::Subscription(session, number) => subscription(state, session, number, value)?,
        Row::Will(session) => {
            let WillRow { will, due } = WillRow::decode(value.clone())?;
            let will = will_from(&will.ok_or(DecodeError::Field("will"))?)?;
            let armed = ArmedWill { will, due: due.map(|due| Timestamp::from_millis(due).into()) };
            of_row(state, session)?.will = Some(Box::new(armed));
        }
        Row::ChunkState(id) => {
            let (session, kept) = Chunk::read(id, value)?;
            chunk(state, session, kept);
        }
        Row::Publisher(shard, session) => {
            state.publishers.restore(shard, session, PublisherRow::decode(value.clone())?)?;
        }
        Row::Source(node) => state.sources.restore(node, &SourceRow::decode(value.clone())?),
        Row::Firing(will) => {
            let row = FiringRow::decode(value.clone())?;
            let mut message = decode_message(&row.message)?;
            if let Some(expires_at) = row.expires_at.map(Timestamp::from_millis) {
                message = Arc::new(Message { expires_at: Some(expires_at), ..Message::clone(&message) });
            }
            state.firing.insert(will, message);
        }
        Row::Former(session) => {
            of_row(state, session)?;
            state.former.insert(session, Former::from_row(&FormerRow::decode(value.clone())?)?);
        }
        Row::Restoring(session) => {
            of_row(state, session)?;
            state.restoring.insert(session, RestoringRow::decode(value.clone())?);
        }
        Row::Retained(id) if id.0 >= state.next.retained => {
            return Err(DecodeError::Row("a retained message has a name that was not given out"));
        }
        Row::Retained(id) => state.retained.restore(id, value)?,
        Row::Group(id) => group(state, id)?.restore(&GroupRow::decode(value.clone())?),
        Row::Member(id, member) => {
            group(state, id)?;
            state.groups.set_member(id, member, MemberRow::decode(value.clone())?);
        }
        Row::Loan(number) => loan(state, number, &LoanRow::decode(value.clone())?)?,
        Row::Letter(number) => {
            check_letter(state, number)?;
            state.letters.insert(number, LetterRow::decode(value.clone())?.read()?);
        }
        Row::Borrowed(id, seq) => borrowed(state, id, seq, &BorrowedRow::decode(value.clone())?)?,
        Row::Heard(shard) => {
            state.heard.insert(shard, HeardRow::decode(value.clone())?.number);
        }
        Row::Chunk(_) | Row::Message(_) | Row::References(_) | Row::RetainedMessage(_) => {}
    }
    Ok(())
}

fn of_row(state: &mut State, session: SessionId) -> Result<&mut Session, DecodeError> {
    let slot = state.sessions.of_id(session).ok_or(DecodeError::Row("a row is of no session"))?;
    Ok(state.sessions.at_mut(slot))
}

fn subscription(state: &mut State, id: SessionId, number: u32, value: &Bytes) -> Result<(), DecodeError> {
    let row = SubscriptionRow::decode(value.clone())?;
    let subscription: flotilla_mqtt::session::Subscription = row.try_into()?;
    let slot = state.sessions.of_id(id).ok_or(DecodeError::Row("a row is of no session"))?;
    let kept = Kept::new(&subscription, number);
    if let Some(filter) = kept.matched_filter().filter(|_| !state.restoring.contains_key(&id)) {
        let queue_qos0 = state.sessions.at(slot).limits.queue_qos0;
        let subscriber = Subscriber::new(id, slot, subscription.options, subscription.id, queue_qos0);
        state.index.insert(filter, subscriber);
    }
    if state.sessions.at_mut(slot).subscriptions.insert(kept).is_some() {
        return Err(DecodeError::Row("a session has two subscriptions with one filter"));
    }
    state.stats.subscriptions += 1;
    Ok(())
}

fn group(state: &mut State, id: SessionId) -> Result<&mut Group, DecodeError> {
    state.groups.of_mut(id).ok_or(DecodeError::Row("a row is of no group"))
}

fn check_letter(state: &State, number: u64) -> Result<(), DecodeError> {
    let is_known = number <= state.letters.last;
    if is_known { Ok(()) } else { Err(DecodeError::Row("a letter has a number that was not given out")) }
}

fn loan(state: &mut State, number: u64, row: &LoanRow) -> Result<(), DecodeError> {
    check_letter(state, number)?;
    let loan = row.read()?;
    group(state, loan.group)?;
    let inbox = of_row(state, loan.group)?.inbox.as_ref();
    if !inbox.is_some_and(|inbox| inbox.has_message(loan.seq)) {
        return Err(DecodeError::Row("a message that is lent is missing"));
    }
    state.groups.lend(number, loan);
    if !loan.is_posted {
        state.letters.insert(number, Unposted::Lend);
    }
    Ok(())
}

fn borrowed(state: &mut State, id: SessionId, seq: u64, row: &BorrowedRow) -> Result<(), DecodeError> {
    let inbox = of_row(state, id)?.inbox.as_ref();
    if !inbox.is_some_and(|inbox| inbox.has_message(seq)) {
        return Err(DecodeError::Row("a message that was borrowed is missing"));
    }
    state.borrowed.insert((id, seq), Borrowing::read(row)?);
    Ok(())
}

fn chunk(state: &mut State, id: SessionId, chunk: Chunk) {
    match state.sessions.of_id(id) {
        Some(slot) if chunk.live > 0 => {
            let session = state.sessions.at_mut(slot);
            session.next_seq = session.next_seq.max(chunk.end());
            let window = session.window();
            session.inbox.get_or_insert_with(|| Box::new(Inbox::new(window))).restore(chunk);
        }
        // It waits for its references to be given back; so does all that a session had when it ended.
        _ => {
            let gone = GoneChunk { id: chunk.id, has_references: chunk.has_references };
            state.dirty.trash.push_back(gone);
        }
    }
}

/// What follows from all rows together.
fn finish(state: &mut State) {
    state.retained.set_stored(state.next.retained);
    let slots: Vec<_> = state.sessions.iter().map(|(slot, _)| slot).collect();
    for slot in slots {
        let session = state.sessions.at_mut(slot);
        session.kept_until = session.kept_until.min(session.next_seq);
        session.set_inbox_window();
        if let Some(inbox) = &session.inbox {
            state.stats.queued_messages += inbox.live();
            state.stats.queued_bytes += inbox.bytes();
        }
        session.maybe_sent_until = session.maybe_sent_until.min(session.next_seq);
        session.deadline = session.next_deadline();
        state.deadlines.extend(session.deadline.map(|deadline| (deadline.into(), session.id)));
        if session.is_group {
            state.load_group(slot);
        }
    }
}

/// The first key behind this one.
fn behind(key: &[u8]) -> Vec<u8> {
    [key, &[0]].concat()
}

/// How much is read or deleted at once.
pub(super) const PAGE_BYTES: usize = 1 << 20;
