//! Under which number a node has the group of a shard.

use std::fmt;

use flotilla_state::{ReplicaId, ShardId};

use crate::group::GroupId;

/// How many bits of the number of a group tell the shard. Those above tell the replica, which is never 0: the meta group is none.
const SHARD_BITS: u32 = 16;

impl GroupId {
    /// The group of a shard, as the node has it that holds this replica.
    #[must_use]
    pub const fn of_replica(shard: ShardId, replica: ReplicaId) -> Self {
        Self(replica.0 << SHARD_BITS | shard.0 as u64)
    }

    /// The shard and the replica that a number stands for; `None` for the meta group.
    #[must_use]
    pub fn replica(self) -> Option<(ShardId, ReplicaId)> {
        let Self(number) = self;
        let replica = number >> SHARD_BITS;
        let shard = u16::try_from(number & u64::from(u16::MAX)).ok()?;
        (replica != 0).then_some((ShardId(shard), ReplicaId(replica)))
    }
}

impl fmt::Display for GroupId {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.replica() {
            Some((shard, replica)) => write!(formatter, "shard {} (replica {})", shard.0, replica.0),
            None => write!(formatter, "{}", self.0),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_number_tells_the_shard_and_the_replica() {
        for (shard, replica) in [(0, 1), (1, 1), (u16::MAX, 1), (7, (1 << 48) - 1)] {
            let (shard, replica) = (ShardId(shard), ReplicaId(replica));
            assert_eq!(GroupId::of_replica(shard, replica).replica(), Some((shard, replica)));
        }
        assert_eq!(GroupId(0).replica(), None);
        assert_eq!(GroupId::of_replica(ShardId(3), ReplicaId(17)).to_string(), "shard 3 (replica 17)");
    }
}
