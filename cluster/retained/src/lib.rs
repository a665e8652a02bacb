//! Retained messages that are the same on every node. Pure.

mod store;

pub use store::{Full, Limits, Store};
