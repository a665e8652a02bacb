//! Topic names, topic filters, and the two indexes over them (sections 4.7 and 4.8).
//!
//! * [`check_name`], [`TopicFilter::parse`]: what the specification allows, with the reason code of what it does not;
//! * [`matches()`]: the matching rules themselves, plain; the indexes are tested against it;
//! * [`FilterTree`]: from a topic name to the filters that match it: the subscription index;
//! * [`TopicMap`]: from a filter to the topic names that match it, in order and in pages: the retained store.
//!
//! Text is compared as it came: nothing here normalises, folds or strips anything [MQTT-4.7.3-4].

#[cfg(test)]
mod arbitrary;
mod error;
mod filter;
mod level_order;
mod levels;
mod name;
mod ordered;
mod scan;
mod tree;

pub use error::{TopicError, TopicFault};
pub use filter::{TopicFilter, matches};
pub use name::{check_name, is_publishable};
pub use ordered::TopicMap;
pub use tree::FilterTree;

/// The longest Topic Name or Topic Filter in bytes: a UTF-8 string of the protocol has a length of 16 bits [MQTT-4.7.3-3].
const TEXT_BYTES_MAX: usize = 65_535;
