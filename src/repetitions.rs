//! Which messages of QoS 2 this node has routed already.
//!
//! A publisher that has got no PUBREC sends its message again, perhaps on another connection. Shards know what they have stored;
//! who gets a message without one (at QoS 0, or in a session that ends with its connection) must not get it twice either
//! [MQTT-4.3.3-1]. What is known here ends with the process: a publisher that goes on at another node after that may be heard
//! twice.

use std::{collections::HashMap, mem};

use flotilla_lane::Origin;
use flotilla_shard::Admitted;
use flotilla_state::ShardId;
use parking_lot::Mutex;

/// By shard and session of the publisher: who has published of late, and who did before.
#[derive(Debug, Default)]
pub(crate) struct Repetitions(Mutex<(Publishers, Publishers)>);

type Publishers = HashMap<(ShardId, u64), Admitted>;

impl Repetitions {
    /// Whether the message comes for the first time.
    pub(crate) fn admit(&self, origin: Origin) -> bool {
        let key = (origin.shard, origin.session);
        let mut publishers = self.0.lock();
        let (late, before) = &mut *publishers;
        if !late.contains_key(&key) {
            if late.len() >= PUBLISHERS_MAX {
                *before = mem::take(late);
            }
            let known = before.remove(&key).unwrap_or_default();
            late.insert(key, known);
        }
        late.get_mut(&key).is_none_or(|known| known.admit(origin.number, origin.floor))
    }
}

/// Publishers that are remembered for certain. Twice as many, with a few numbers each, take some MiB.
const PUBLISHERS_MAX: usize = 32_768;

#[cfg(test)]
mod tests {
    use super::*;

    fn origin(session: u64, number: u64) -> Origin {
        Origin { shard: ShardId(3), session, number, floor: 1 }
    }

    #[test]
    fn a_message_is_routed_once_and_nobody_is_remembered_for_ever() {
        let repetitions = Repetitions::default();
        assert!(repetitions.admit(origin(0, 1)));
        assert!(!repetitions.admit(origin(0, 1)));
        for session in 1..PUBLISHERS_MAX as u64 {
            assert!(repetitions.admit(origin(session, 1)));
        }
        assert!(repetitions.admit(origin(PUBLISHERS_MAX as u64, 1)), "the others are those of before now");
        assert!(!repetitions.admit(origin(0, 1)), "and are known");
        for session in 1..=PUBLISHERS_MAX as u64 * 3 {
            repetitions.admit(origin(session, 2));
        }
        assert!(repetitions.admit(origin(0, 1)));
        let publishers = repetitions.0.lock();
        assert!(publishers.0.len() <= PUBLISHERS_MAX && publishers.1.len() <= PUBLISHERS_MAX);
    }
}
