//! What was published in one workload, and what its subscribers got.

use std::{
    collections::HashSet,
    sync::{
        Mutex,
        atomic::{AtomicUsize, Ordering},
    },
};

use crate::{
    history::{MessageId, Published, Stream, Subscription},
    world::lock,
};

/// The history of a stream, in the making.
#[derive(Debug, Default)]
pub(crate) struct Shelf {
    pub(crate) published: Mutex<Vec<Published>>,
    pub(crate) subscriptions: Mutex<Vec<Subscription>>,
    /// Publishers that are not done.
    pub(crate) publishing: AtomicUsize,
    /// What members of a group have taken, so that they know when all is.
    pub(crate) taken: Mutex<HashSet<MessageId>>,
}

impl Shelf {
    pub(crate) fn is_complete(&self) -> bool {
        self.publishing.load(Ordering::Relaxed) == 0
    }

    /// All of it, once everybody is done.
    pub(crate) fn stream(&self) -> Stream {
        Stream { published: lock(&self.published).clone(), subscriptions: lock(&self.subscriptions).clone() }
    }
}
