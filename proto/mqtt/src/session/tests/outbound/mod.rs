//! Messages to the client.

mod flight;
mod packet;
mod queue;
mod shared;

use super::*;
use QoS::{AtLeastOnce, AtMostOnce, ExactlyOnce};

/// A rig whose client has a Receive Maximum.
fn with_window(version: ProtocolVersion, receive_maximum: u16) -> Rig {
    let max_inflight = NonZeroU16::new(receive_maximum).expect("not 0");
    Rig::with(Limits { max_inflight, ..limits() }, &connect(version))
}

fn queued() -> Delivered {
    Delivered::Queued { displaced: 0 }
}

fn expiring(topic: &str, at: Timestamp) -> Message {
    Message { expires_at: Some(at), ..message(topic, AtLeastOnce) }
}

const SECOND: Duration = Duration::from_secs(1);
