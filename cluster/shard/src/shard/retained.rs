//! Looking retained messages up.

use flotilla_mqtt::Timestamp;

use super::Shard;
use crate::{ReadError, StoredMessage, rows::Row};

/// Some of the retained messages that match a filter.
#[derive(Debug, Clone, PartialEq, Default)]
pub struct RetainedPage {
    /// In the order of their topics.
    pub messages: Vec<StoredMessage>,
    /// The topic behind which the next page begins; `None`: there is nothing more.
    pub next: Option<String>,
}

impl Shard {
    /// Retained messages whose topics match `filter`, which has no share prefix, and come behind `after`; not those that have
    /// expired at `now`, in milliseconds since the epoch. They are at most `count_max`, and no more once they have `bytes_max`
    /// bytes. A page may be empty and not the last, for the topics that are looked at for it are bounded, too.
    ///
    /// # Errors
    /// The store cannot be read, or a row does not decode.
    pub fn retained(
        &self,
        filter: &str,
        after: Option<&str>,
        (count_max, bytes_max): (usize, usize),
        now: u64,
    ) -> Result<RetainedPage, ReadError> {
        let now = Timestamp::from_millis(now);
        let (mut found, mut bytes) = (Vec::new(), 0);
        let next = self.state.retained.topics().page(filter, after, STEPS_MAX, |_, kept| {
            if !kept.is_over(now) {
                found.push(kept.id);
                bytes += kept.size as usize;
            }
            found.len() < count_max && bytes < bytes_max
        });
        let messages = found.into_iter().map(|id| {
            let row = Row::RetainedMessage(id);
            let fresh = self.state.dirty.rows.get(&row).cloned().flatten();
            Ok(StoredMessage::read(fresh.map_or_else(|| self.row(row), Ok)?)?)
        });
        Ok(RetainedPage { messages: messages.collect::<Result<_, ReadError>>()?, next })
    }

    /// How many bytes the retained message of a topic has: its topic, properties and payload together.
    #[must_use]
    pub fn retained_size(&self, topic: &str) -> Option<usize> {
        self.state.retained.of(topic).map(|kept| kept.size as usize)
    }
}

/// Topics that are looked at for one page, whether they match or not.
const STEPS_MAX: usize = 4_096;
