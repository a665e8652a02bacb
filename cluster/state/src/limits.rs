//! The bounds of the state. What is beyond them is refused by `apply`, on every node alike.

/// How many shards a cluster may have.
pub const SHARDS_MAX: u16 = 1024;
/// How many nodes may hold one shard.
pub const REPLICAS_MAX: u8 = 7;
/// How many nodes a cluster may know, with those that are down.
pub const NODES_MAX: usize = 4096;
/// How many bytes the name of a node or of a cluster may have; it has one at least.
pub const NAME_BYTES_MAX: usize = 255;
/// How many bytes an address may have; it has one at least.
pub const ADDRESS_BYTES_MAX: usize = 512;
/// How many client addresses a node may have.
pub const CLIENT_ADDRESSES_MAX: usize = 32;
/// How many bytes the version of a node's program may have.
pub const VERSION_BYTES_MAX: usize = 128;
/// How many changes one [`Command::Routes`](crate::Command::Routes) may carry.
pub const CHANGES_MAX: usize = 4096;
/// How many members the group of a shard may have: while replicas move there are more than shall remain.
pub const SHARD_MEMBERS_MAX: usize = 2 * REPLICAS_MAX as usize;
/// How many bytes a topic filter may have, with its share prefix.
pub const FILTER_BYTES_MAX: usize = 65_535;
/// How many settings there may be.
pub const SETTINGS_MAX: usize = 65_536;
/// How many bytes all settings together may have, keys and values.
pub const SETTINGS_BYTES_MAX: usize = 16 * 1024 * 1024;
/// How many bytes the key of a setting may have; it has one at least.
pub const SETTING_KEY_BYTES_MAX: usize = 4096;
/// How many bytes the value of a setting may have.
pub const SETTING_VALUE_BYTES_MAX: usize = 64 * 1024;
/// How many bytes the reason of a ban may have, and the name of who has banned.
pub const BAN_TEXT_BYTES_MAX: usize = 1024;
