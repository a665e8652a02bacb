//! What only a leader, or whoever takes a replica away, wants of a shard.

use flotilla_state::Member;

use super::{Shard, load::delete};
use crate::{FlushError, Seq, SessionId, rows::Space};

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

    /// Deletes all that the store has of the shard, which is of no use afterwards.
    ///
    /// # Errors
    /// The store refuses; some of it may be gone.
    pub fn erase(&mut self) -> Result<(), FlushError> {
        self.failure = Some("its replica was taken away".to_owned());
        let (from, to) = Space::all(self.space.shard);
        delete(&*self.store, &from, &to)?;
        self.store.write(vec![flotilla_store::Change::remove(Space::header_key(self.space.shard))])?;
        Ok(())
    }
}
