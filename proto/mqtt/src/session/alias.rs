//! Topic aliases towards the client.

use std::{collections::BTreeMap, num::NonZeroU16};

use crate::codec::TopicForm;

/// Aliases that the client has been told on this connection [MQTT-3.3.2-7]: the first topics that were sent have one.
#[derive(Debug)]
pub(super) struct OutgoingAliases {
    by_topic: BTreeMap<Box<str>, NonZeroU16>,
    /// The client's Topic Alias Maximum [MQTT-3.3.2-11], or ours if it is lower.
    maximum: NonZeroU16,
}

impl OutgoingAliases {
    pub(super) fn new(maximum: NonZeroU16) -> Self {
        Self { by_topic: BTreeMap::new(), maximum }
    }

    /// How to write this topic.
    pub(super) fn form(&self, topic: &str) -> TopicForm {
        if let Some(&alias) = self.by_topic.get(topic) {
            return TopicForm::Alias(alias);
        }
        let next = u16::try_from(self.by_topic.len() + 1).ok().and_then(NonZeroU16::new);
        match next.filter(|next| *next <= self.maximum) {
            Some(alias) => TopicForm::Introduce(alias),
            None => TopicForm::Full,
        }
    }

    /// The topic was sent in this form: only now does the client know its alias.
    pub(super) fn sent(&mut self, topic: &str, form: TopicForm) {
        if let TopicForm::Introduce(alias) = form {
            self.by_topic.insert(topic.into(), alias);
        }
    }
}
