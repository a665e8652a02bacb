//! Topic names and topic filters.

/// A Topic Filter.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TopicFilter {}
