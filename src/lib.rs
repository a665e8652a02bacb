//! Flotilla: a clustered MQTT broker.
//!
//! [`Broker::start`] is the entry. A broker is a number of workers, each a thread with a single-threaded runtime, which
//! own connections and sessions (`worker`); what they share is the `node`: subscriptions (`router`), where each client's
//! session lives (`registry`), retained messages (`retained`) and counters (`metrics`). What MQTT says is in the crate
//! `flotilla_mqtt`, which does no I/O; this crate is the shell around it.
//!
//! Other nodes attach at `cluster::Cluster` (claims of client identifiers, routes, forwarding, wills) and at
//! `retained::Retained`. For a node alone both are in memory.

pub mod admin;
mod auth;
mod broker;
pub mod client;
mod clock;
mod cluster;
pub mod config;
mod listener;
mod metrics;
mod node;
mod registry;
mod retained;
mod router;
mod sys;
pub mod telemetry;
mod worker;

pub use broker::{Broker, BrokerHandle, StartError};
pub use cluster::ClusterError;
