//! What the black-box tests stand on: a broker process, a client made of bytes, and packets to compare.
//!
//! The codec here is written against the specification only and shares nothing with the broker's, so that a mistake
//! in one of them shows. Nothing waits by sleeping: every wait is for a condition, under a [`DEADLINE`].

mod broker;
pub(crate) mod client;
mod connect;
mod garbage;
mod packet;
pub(crate) mod parse;
pub(crate) mod place;
mod property;
mod publish;
pub(crate) mod random;
mod wire;

pub(crate) use broker::Broker;
pub(crate) use client::{Client, Event};
pub(crate) use connect::{Connect, Will};
pub(crate) use garbage::garbage;
pub(crate) use packet::{ConnAck, Packet, Version};
pub(crate) use place::place;
pub(crate) use property::{Properties, Property, Value, id as property_id};
pub(crate) use publish::Publish;
pub(crate) use wire::{Body, ack, disconnect, packet, pingreq, subscribe, unsubscribe};

use std::{
    sync::atomic::{AtomicU32, Ordering},
    time::Duration,
};

/// How long anything that must happen may take. Long, because the machine may be busy; nothing waits this long when
/// the broker is right.
pub(crate) const DEADLINE: Duration = Duration::from_secs(10);

/// A name that no other test uses, for client identifiers and topics on a broker that tests share.
pub(crate) fn unique(name: &str) -> String {
    static NEXT: AtomicU32 = AtomicU32::new(0);
    format!("{name}-{}-{}", std::process::id(), NEXT.fetch_add(1, Ordering::Relaxed))
}
