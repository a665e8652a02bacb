//! All of the state in words: a simulation compares the replicas of a shard by it.

use super::Shard;
use crate::{Queued, ReadError, Seq, state::NextIds};

impl Shard {
    /// What equal logs make equal, in a fixed order. Where things lie in memory and in the store is not among it, for flushes differ
    /// from replica to replica; nor is the position, which batches may cut at different places.
    ///
    /// # Errors
    /// The store cannot be read, or a row does not decode.
    pub fn describe(&self) -> Result<Vec<String>, ReadError> {
        let state = &self.state;
        let next = NextIds { chunk: 0, ..state.next };
        let mut lines = vec![format!("applied {} at {:?}, next {next:?}", self.applied, state.stamp)];
        for (_, session) in state.sessions.iter() {
            lines.push(format!("{:?} {:?}", session.id, session.to_row()));
            lines.extend(session.will.iter().map(|will| format!("will {:?} at {:?}", will.will, will.due)));
            lines.extend(session.subscriptions.iter().map(|kept| format!("{kept:?}")));
            let queued = self.deliverable(session.id, Seq(0), usize::MAX, usize::MAX)?;
            lines.extend(queued.iter().map(in_words));
        }
        lines.extend(state.sources.describe());
        lines.extend(state.publishers.describe());
        lines.extend(state.firing.iter().map(|(will, message)| format!("{will:?} {message:?}")));
        lines.extend(state.retained.topics().iter().map(|(topic, kept)| format!("{topic} {kept:?}")));
        lines.extend(state.restoring.iter().map(|(session, row)| format!("restoring {session:?} {row:?}")));
        lines.extend(state.former.iter().map(|(session, former)| format!("before {session:?} {former:?}")));
        lines.extend(state.groups.describe());
        lines.extend(state.borrowed.iter().map(|(place, borrowing)| format!("{place:?} {borrowing:?}")));
        lines.extend(state.letters.describe());
        lines.extend(state.heard.iter().map(|(shard, letter)| format!("heard {letter} of {shard:?}")));
        Ok(lines)
    }
}

fn in_words(queued: &Queued) -> String {
    match queued {
        Queued::Publish(message) => format!("{queued:?} {:?}", message.message.bytes()),
        Queued::Release { .. } => format!("{queued:?}"),
    }
}
