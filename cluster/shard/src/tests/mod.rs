//! Whole shards.

mod backup;
mod borrowing;
mod flushing;
mod groups;
mod harness;
mod layout;
mod lifetime;
mod model;
mod post;
mod publishing;
mod random;
mod retaining;
mod saving;
mod snapshots;
