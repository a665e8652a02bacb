//! What only a leader, or whoever takes a replica away, wants of a shard.

use flotilla_state::{Member, ShardId};
use flotilla_store::{Change, Store, StoreError};

use super::{Shard, load::delete};
use crate::{Seq, SessionId, rows::Space};

/// Why a shard takes nothing more.
pub(super) const GIVEN_UP: &str = "its replica was taken away";

impl Shard {
    /// How many messages of a session before this place are not done, and how many bytes their topics, properties and payloads
    /// have. It looks at each of them.
    #[must_use]
    pub fn outstanding(&self, session: SessionId, before: Seq) -> (u64, u64) {
        let Some(slot) = self.state.sessions.of_id(session) else { return (0, 0) };
        let Some(inbox) = &self.state.sessions.at(slot).inbox else { return (0, 0) };
        let places = inbox.chunks_from(0).take_while(|chunk| chunk.first < before.0);
        let sizes = places.flat_map(|chunk| chunk.live_from(0)).take_while(|(seq, _)| *seq < before.0);
        sizes.fold((0, 0), |(count, bytes), (_, slot)| (count + 1, bytes + slot.size()))
    }

    /// The members that clients of the shard's sessions are connected to, as often as there are such clients.
    pub fn owners(&self) -> impl Iterator<Item = Member> {
        self.state.sessions.iter().filter_map(|(_, session)| Some(session.owner()?.member))
    }

    /// Nothing more goes to the store, for what it has of the shard is about to be deleted.
    pub fn give_up(&mut self) {
        self.is_given_up = true;
        self.failure = Some(GIVEN_UP.to_owned());
    }

    /// Deletes all that a store has of a shard, which nobody has open, or has given up.
    ///
    /// # Errors
    /// The store refuses; some of it may be gone.
    pub fn erase(id: ShardId, store: &dyn Store) -> Result<(), StoreError> {
        let (from, to) = Space::all(id);
        delete(store, &from, &to)?;
        store.write(vec![Change::remove(Space::header_key(id))])
    }
}
