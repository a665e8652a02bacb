//! Taking over a snapshot.

use std::io;

use bytes::Bytes;
use flotilla_store::{Change, Item, StoreError};

use super::{
    Shard,
    lead::GIVEN_UP,
    load::{PAGE_BYTES, delete, load},
    snapshot::SnapshotReader,
};
use crate::{
    DecodeError, OpenError, RestoreError,
    rows::{GENERATION_MAX, Header, Row, Space},
};

impl Shard {
    /// Replaces everything by a snapshot that reaches up to `position`. It is durable after the next sync of the store. Until
    /// the last chunk is there and everything has been checked, the shard is as it was.
    ///
    /// # Errors
    /// The chunks cannot be read or are not a snapshot, or the store refuses. Where it is full, the snapshot can be taken over
    /// again once there is space. If it refused the last write for another reason, the shard has failed, for nobody knows
    /// which of the two it has.
    pub fn restore(
        &mut self,
        position: Bytes,
        chunks: &mut dyn Iterator<Item = io::Result<Bytes>>,
    ) -> Result<(), RestoreError> {
        if self.is_given_up {
            return Err(io::Error::other(GIVEN_UP).into());
        }
        let space = Space { generation: self.space.generation + 1, ..self.space };
        if space.generation > GENERATION_MAX {
            return Err(DecodeError::Row("there were as many snapshots as there may be").into());
        }
        let (from, to) = space.range();
        // What an earlier attempt has left.
        delete(&*self.store, &from, &to)?;
        let taken = self.take_rows(space, chunks).and_then(|header| {
            let header = Header { generation: space.generation, position, ..header };
            let state = load(&*self.store, space, &header).map_err(|error| match error {
                OpenError::Store(error) => RestoreError::Store(error),
                OpenError::Corrupt(error) => RestoreError::Corrupt(error),
            })?;
            Ok((header, state))
        });
        let (header, mut state) = match taken {
            Ok(taken) => taken,
            Err(error) => {
                // Best effort: the next attempt and the next opening do it, too.
                let _ = delete(&*self.store, &from, &to);
                return Err(error);
            }
        };
        let switch = Change::set(Space::header_key(space.shard), header.encode());
        if let Err(error) = self.store.write(vec![switch]) {
            if !matches!(error, StoreError::Full { .. }) {
                self.failure = Some(error.to_string());
            }
            return Err(error.into());
        }
        let old = std::mem::replace(&mut self.space, space);
        state.is_watched = self.state.is_watched;
        self.state = state;
        self.applied = header.applied;
        self.position = header.position;
        self.flushed = (self.applied, self.position.clone());
        self.failure = None;
        let (from, to) = old.range();
        Ok(delete(&*self.store, &from, &to)?)
    }

    /// Writes the rows of a snapshot into a generation that is not in force.
    fn take_rows(
        &self,
        space: Space,
        chunks: &mut dyn Iterator<Item = io::Result<Bytes>>,
    ) -> Result<Header, RestoreError> {
        let prefix = space.prefix();
        let mut reader = SnapshotReader::default();
        let mut page: Vec<Item> = Vec::new();
        let mut page_bytes = 0;
        for chunk in chunks {
            reader.feed(&chunk?, |(key, value)| {
                page_bytes += key.len() + value.len();
                page.push((key, value));
            })?;
            if page_bytes >= PAGE_BYTES {
                self.write_rows(prefix, std::mem::take(&mut page))?;
                page_bytes = 0;
            }
        }
        self.write_rows(prefix, page)?;
        Ok(reader.finish()?)
    }

    fn write_rows(&self, prefix: [u8; crate::rows::PREFIX], rows: Vec<Item>) -> Result<(), RestoreError> {
        let mut changes = Vec::with_capacity(rows.len());
        for (key, value) in rows {
            Row::read(&key)?;
            changes.push(Change { key: [&prefix[..], &key].concat().into(), value: Some(value) });
        }
        Ok(self.store.write(changes)?)
    }
}
