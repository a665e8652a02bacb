//! Flotilla: a clustered MQTT broker.

pub mod client;
pub mod config;
