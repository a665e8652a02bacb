//! A whole state as bytes, in chunks.
//!
//! The chunks are, in this order: the header with the cluster, nodes, placements, sets of nodes, exact routes in the order
//! of their fingerprints (each with the number of its set), wildcard routes and groups in the order of their texts, settings
//! in the order of their keys, the shards with the nodes that shall hold them, their routes as those of the nodes, and the end with the number and the checksum of all chunks before it. Equal states have equal
//! bytes.

use std::{collections::BTreeMap, sync::Arc};

use bytes::Bytes;
use prost::Message;
use xxhash_rust::xxh3::xxh3_64_with_seed;

use crate::{
    Cluster, ClusterState, DecodeError, LogIndex, Node, NodeId, Placement, Settings, Shard, Shards,
    routes::{RoutesBuilder, RoutesCopy},
    settings::wire::Setting,
    wire::{self, Versioned},
};

/// No chunk is longer.
pub const CHUNK_BYTES_MAX: usize = 256 * 1024;

/// Bytes that are not a whole snapshot.
#[derive(Debug, thiserror::Error)]
pub enum SnapshotError {
    /// A chunk is not what it should be.
    #[error("chunk {number} of the snapshot: {error}")]
    Chunk {
        /// Its number, from 0.
        number: u64,
        /// What is wrong with it.
        error: DecodeError,
    },
    /// The snapshot is cut off.
    #[error("the snapshot ends after {chunks} chunks, without its end")]
    Truncated {
        /// How many chunks there are.
        chunks: u64,
    },
    /// A chunk is missing, twice there, or changed.
    #[error("the snapshot has other chunks than its end says")]
    Checksum,
    /// There is something behind the end.
    #[error("the snapshot goes on behind its end")]
    BehindEnd,
}

impl ClusterState {
    /// A consistent copy of the state, as chunks of at most [`CHUNK_BYTES_MAX`] bytes.
    ///
    /// The copy is made now, the bytes are made chunk by chunk. It copies the nodes and placements, and shares the routes: a
    /// thousand references for the exact routes, however many there are, and one for each wildcard filter, each group and
    /// each distinct set of nodes. As long as the snapshot has not got there, the first change of each of the thousand parts of
    /// the table copies that part: a command with thousands of changes may copy all of it, 16 bytes a route. Likewise the
    /// first change of a setting copies the references to all settings.
    pub fn snapshot(&self) -> Snapshot {
        let header = wire::Header { applied: self.applied.0, cluster: self.cluster.as_ref().map(Into::into) };
        let nodes: Vec<wire::Node> = self.nodes.values().map(Into::into).collect();
        let placements: Vec<wire::Placement> = self.placements.iter().map(Into::into).collect();
        let nodes = nodes.into_iter().map(Item::Node);
        let placements = placements.into_iter().map(Item::Placement);
        let items = nodes.chain(placements).chain(route_items(self.routes.copy()).map(Item::Route));
        let items = items.chain(setting_items(self.settings.clone())).chain(shard_items(&self.shards));
        Snapshot {
            header: Some(header),
            items: Box::new(items),
            next: None,
            chunks: 0,
            checksum: 0,
            ended: false,
        }
    }

    /// Puts a state together from the chunks of a snapshot.
    ///
    /// # Errors
    /// They are not the chunks of a whole snapshot, or of a version that this program does not know.
    pub fn restore(chunks: impl IntoIterator<Item = Bytes>) -> Result<Self, SnapshotError> {
        let mut reader = SnapshotReader::new();
        for chunk in chunks {
            reader.push(&chunk)?;
        }
        reader.finish()
    }
}

/// The chunks of a snapshot.
pub struct Snapshot {
    /// Until the first chunk is made.
    header: Option<wire::Header>,
    items: Box<dyn Iterator<Item = Item> + Send>,
    /// What did not fit into the last chunk.
    next: Option<Item>,
    chunks: u64,
    checksum: u64,
    ended: bool,
}

// It is written by another thread than the one that applies commands.
const _: () = {
    const fn is_send<T: Send>() {}
    const fn is_shared<T: Send + Sync>() {}
    is_send::<Snapshot>();
    is_shared::<ClusterState>();
};

/// What chunks are filled with.
enum Item {
    Node(wire::Node),
    Placement(wire::Placement),
    Route(RouteItem),
    Setting(Setting),
    Shard(wire::Shard),
    Holder(NodeId),
    ShardRoute(RouteItem),
}

/// A part of a table of routes.
enum RouteItem {
    Set(wire::NodeSet),
    Exact { fingerprint: u64, set: u32 },
    Wildcard(wire::WildcardRoute),
    Group(wire::GroupRoute),
}

impl Iterator for Snapshot {
    type Item = Bytes;

    fn next(&mut self) -> Option<Bytes> {
        if self.ended {
            return None;
        }
        let mut chunk =
            wire::SnapshotChunk { version: wire::VERSION, header: self.header.take(), ..Default::default() };
        let mut bytes = CHUNK_OVERHEAD + chunk.encoded_len();
        let mut is_empty = chunk.header.is_none();
        while let Some(item) = self.next.take().or_else(|| self.items.next()) {
            bytes += item.bytes_max();
            if bytes > CHUNK_BYTES_MAX {
                assert!(!is_empty, "the bounds of the state let each item fit into a chunk");
                self.next = Some(item);
                break;
            }
            item.put_into(&mut chunk);
            is_empty = false;
        }
        if is_empty {
            chunk.end = Some(wire::SnapshotEnd { chunks: self.chunks, checksum: self.checksum });
            self.ended = true;
        }
        let chunk = Bytes::from(chunk.encode_to_vec());
        debug_assert!(chunk.len() <= CHUNK_BYTES_MAX);
        self.chunks += 1;
        self.checksum = xxh3_64_with_seed(&chunk, self.checksum);
        Some(chunk)
    }
}

/// Tags and lengths of the packed fields.
const CHUNK_OVERHEAD: usize = 64;
/// Tag and length of one item.
const ITEM_OVERHEAD: usize = 8;

impl Item {
    fn bytes_max(&self) -> usize {
        match self {
            Self::Node(node) => ITEM_OVERHEAD + node.encoded_len(),
            Self::Placement(placement) => ITEM_OVERHEAD + placement.encoded_len(),
            Self::Route(route) | Self::ShardRoute(route) => route.bytes_max(),
            Self::Setting(setting) => ITEM_OVERHEAD + setting.encoded_len(),
            Self::Shard(shard) => ITEM_OVERHEAD + shard.encoded_len(),
            Self::Holder(_) => size_of::<u64>(),
        }
    }

    fn put_into(self, chunk: &mut wire::SnapshotChunk) {
        match self {
            Self::Node(node) => chunk.nodes.push(node),
            Self::Placement(placement) => chunk.placements.push(placement),
            Self::Route(RouteItem::Set(set)) => chunk.sets.push(set),
            Self::Route(RouteItem::Exact { fingerprint, set }) => {
                chunk.fingerprints.push(fingerprint);
                chunk.fingerprint_sets.push(set);
            }
            Self::Route(RouteItem::Wildcard(route)) => chunk.wildcards.push(route),
            Self::Route(RouteItem::Group(route)) => chunk.groups.push(route),
            Self::Setting(setting) => {
                chunk.version = chunk.version.max(wire::VERSION_WITH_SETTINGS);
                chunk.settings.push(setting);
            }
            Self::Shard(_) | Self::Holder(_) | Self::ShardRoute(_) => self.put_shards_into(chunk),
        }
    }

    fn put_shards_into(self, chunk: &mut wire::SnapshotChunk) {
        chunk.version = wire::VERSION_WITH_SHARDS;
        match self {
            Self::Shard(shard) => chunk.shards.push(shard),
            Self::Holder(node) => chunk.holders.push(node.0),
            Self::ShardRoute(route) => {
                let routes = chunk.shard_routes.get_or_insert_default();
                match route {
                    RouteItem::Set(set) => routes.sets.push(set),
                    RouteItem::Exact { fingerprint, set } => {
                        routes.fingerprints.push(fingerprint);
                        routes.fingerprint_sets.push(set);
                    }
                    RouteItem::Wildcard(route) => routes.wildcards.push(route),
                    RouteItem::Group(_) => unreachable!("shards have no groups"),
                }
            }
            _ => unreachable!("it has nothing to do with shards"),
        }
    }
}

impl RouteItem {
    fn bytes_max(&self) -> usize {
        match self {
            Self::Set(set) => ITEM_OVERHEAD + set.encoded_len(),
            Self::Exact { set, .. } => size_of::<u64>() + prost::length_delimiter_len(*set as usize),
            Self::Wildcard(route) => ITEM_OVERHEAD + route.encoded_len(),
            Self::Group(route) => ITEM_OVERHEAD + route.encoded_len(),
        }
    }
}

fn route_items(copy: RoutesCopy) -> impl Iterator<Item = RouteItem> + Send {
    let RoutesCopy { exact, wildcard, groups } = copy;
    let (sets, routes) = exact.into_numbered();
    let sets = sets.into_iter().map(|nodes| RouteItem::Set((&*nodes).into()));
    let exact = routes.map(|(fingerprint, set)| RouteItem::Exact { fingerprint, set });
    // The sorting waits until its turn has come, so that whoever applies commands does not pay for it.
    let wildcard = std::iter::once_with(move || sorted(wildcard, |route| &route.filter));
    let groups = std::iter::once_with(move || sorted(groups, |group| &group.filter));
    let wildcard = wildcard.flatten().map(|route| RouteItem::Wildcard((&*route).into()));
    let groups = groups.flatten().map(|group| RouteItem::Group((&*group).into()));
    sets.chain(exact).chain(wildcard).chain(groups)
}

fn setting_items(settings: Settings) -> impl Iterator<Item = Item> + Send {
    settings
        .into_entries()
        .map(|(key, value)| Item::Setting(Setting { key: key.to_string(), value: Some(value) }))
}

/// Nothing for shards that nobody has: programs that know none shall read that.
fn shard_items(shards: &Shards) -> impl Iterator<Item = Item> + Send + use<> {
    let is_empty = shards.is_empty();
    let all: Vec<wire::Shard> =
        if is_empty { Vec::new() } else { shards.shards.iter().map(Into::into).collect() };
    let holders: Vec<NodeId> = shards.holders.clone();
    let routes = (!is_empty).then(|| route_items(shards.routes.copy()).map(Item::ShardRoute));
    let shards = all.into_iter().map(Item::Shard);
    shards.chain(holders.into_iter().map(Item::Holder)).chain(routes.into_iter().flatten())
}

fn sorted<T>(mut routes: Vec<Arc<T>>, filter: fn(&T) -> &str) -> Vec<Arc<T>> {
    routes.sort_unstable_by(|left, right| filter(left).cmp(filter(right)));
    routes
}

/// Puts a state together from chunks that come one by one.
#[derive(Debug, Default)]
pub struct SnapshotReader {
    header: Option<(LogIndex, Option<Cluster>)>,
    nodes: BTreeMap<NodeId, Node>,
    placements: Vec<Placement>,
    routes: RoutesBuilder,
    settings: Settings,
    shards: Vec<Shard>,
    holders: Vec<NodeId>,
    shard_routes: RoutesBuilder,
    chunks: u64,
    checksum: u64,
    ended: bool,
}

impl SnapshotReader {
    /// A reader that has read nothing.
    pub fn new() -> Self {
        Self::default()
    }

    /// Reads the next chunk.
    ///
    /// # Errors
    /// It is not the next chunk of a snapshot, or of a version that this program does not know. The reader is of no use then.
    pub fn push(&mut self, chunk: &[u8]) -> Result<(), SnapshotError> {
        if self.ended {
            return Err(SnapshotError::BehindEnd);
        }
        let number = self.chunks;
        let decoded = wire::SnapshotChunk::decode_versioned(chunk);
        let decoded = decoded.map_err(|error| SnapshotError::Chunk { number, error })?;
        if let Some(end) = &decoded.end {
            if (end.chunks, end.checksum) != (self.chunks, self.checksum) {
                return Err(SnapshotError::Checksum);
            }
            self.ended = true;
        }
        self.read(decoded).map_err(|error| SnapshotError::Chunk { number, error })?;
        self.chunks += 1;
        self.checksum = xxh3_64_with_seed(chunk, self.checksum);
        Ok(())
    }

    /// The state, when all chunks have been read.
    ///
    /// # Errors
    /// The last chunk is missing, or what the chunks hold does not fit together.
    pub fn finish(self) -> Result<ClusterState, SnapshotError> {
        let number = self.chunks;
        if !self.ended {
            return Err(SnapshotError::Truncated { chunks: number });
        }
        self.build().map_err(|error| SnapshotError::Chunk { number, error })
    }

    fn read(&mut self, chunk: wire::SnapshotChunk) -> Result<(), DecodeError> {
        if (self.chunks == 0) != chunk.header.is_some() {
            return Err(DecodeError::Field("header"));
        }
        if let Some(header) = chunk.header {
            let cluster = header.cluster.map(TryInto::try_into).transpose()?;
            self.header = Some((LogIndex(header.applied), cluster));
        }
        for node in chunk.nodes {
            let node = Node::try_from(node)?;
            if self.nodes.insert(node.id, node).is_some() {
                return Err(DecodeError::Field("node"));
            }
        }
        self.placements.extend(chunk.placements.into_iter().map(Placement::from));
        let routes = wire::ShardRoutes {
            sets: chunk.sets,
            fingerprints: chunk.fingerprints,
            fingerprint_sets: chunk.fingerprint_sets,
            wildcards: chunk.wildcards,
        };
        read_routes(routes, &mut self.routes)?;
        for group in chunk.groups {
            self.routes.push_group(group.into())?;
        }
        self.shards.extend(chunk.shards.into_iter().map(Shard::from));
        self.holders.extend(wire::nodes(chunk.holders));
        read_routes(chunk.shard_routes.unwrap_or_default(), &mut self.shard_routes)?;
        for Setting { key, value } in chunk.settings {
            self.settings.push(&key, value.ok_or(DecodeError::Field("setting"))?)?;
        }
        Ok(())
    }

    fn build(self) -> Result<ClusterState, DecodeError> {
        let (applied, cluster) = self.header.ok_or(DecodeError::Field("header"))?;
        let hash_seed = cluster.as_ref().map_or(0, |cluster| cluster.hash_seed);
        let routes = self.routes.finish(hash_seed);
        let mut shards = Shards::new(cluster.as_ref().map_or(0, |cluster| cluster.shards), hash_seed);
        if !self.shards.is_empty() {
            shards.shards = self.shards;
        }
        shards.holders = self.holders;
        shards.routes = self.shard_routes.finish(hash_seed);
        ClusterState::from_parts(applied, cluster, self.nodes, self.placements, routes, shards, self.settings)
    }
}

fn read_routes(read: wire::ShardRoutes, routes: &mut RoutesBuilder) -> Result<(), DecodeError> {
    for set in read.sets {
        routes.push_set(&Vec::from(set))?;
    }
    if read.fingerprints.len() != read.fingerprint_sets.len() {
        return Err(DecodeError::Field("fingerprint sets"));
    }
    for (fingerprint, set) in read.fingerprints.into_iter().zip(read.fingerprint_sets) {
        routes.push_exact(wire::fingerprint(fingerprint)?, set)?;
    }
    for route in read.wildcards {
        routes.push_wildcard(route.into())?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{
        Command, GroupMembers, GroupRoute, Member, Reply, Role, RouteChange, ShardChange, ShardId, limits,
        routes::WildcardRoute,
    };

    #[test]
    fn a_whole_snapshot_is_the_state() {
        let state = big_state();
        let chunks: Vec<Bytes> = state.snapshot().collect();
        assert!(chunks.len() > 3, "{}", chunks.len());
        assert!(chunks.iter().all(|chunk| chunk.len() <= CHUNK_BYTES_MAX));
        let restored = ClusterState::restore(chunks.iter().cloned()).unwrap();
        assert_eq!(restored.routes().len(), state.routes().len());
        assert!(restored.snapshot().eq(chunks));
    }

    #[test]
    fn a_snapshot_of_a_program_without_settings_is_read() {
        let restored = ClusterState::restore(OLD.map(Bytes::from_static)).unwrap();
        assert_eq!((restored.applied(), restored.nodes().count()), (LogIndex(4), 1));
        assert!(restored.settings().is_empty());
        // And as long as nothing is set, its bytes are the same.
        assert!(restored.snapshot().eq(OLD.map(Bytes::from_static)));
        // Settings are not for it: it must refuse them, for it would pass over them.
        let versions =
            small_state().snapshot().map(|chunk| wire::SnapshotChunk::decode(chunk).unwrap().version);
        assert_eq!(versions.collect::<Vec<_>>(), [3, 1]);
    }

    #[test]
    fn a_state_before_the_first_command_has_a_snapshot() {
        let restored = ClusterState::restore(ClusterState::new().snapshot()).unwrap();
        assert_eq!(restored.applied(), LogIndex(0));
        assert!(restored.cluster().is_none());
    }

    #[test]
    fn what_is_not_a_whole_snapshot_is_refused() {
        let chunks: Vec<Bytes> = big_state().snapshot().collect();
        let error = |numbers: &[usize]| {
            let picked = numbers.iter().map(|number| chunks[*number].clone());
            ClusterState::restore(picked).unwrap_err().to_string()
        };
        let all: Vec<usize> = (0..chunks.len()).collect();
        for end in 0..all.len() {
            assert_eq!(error(&all[..end]), format!("the snapshot ends after {end} chunks, without its end"));
        }
        let without = |left_out| all.iter().copied().filter(|number| *number != left_out).collect::<Vec<_>>();
        assert_eq!(error(&without(2)), "the snapshot has other chunks than its end says");
        assert!(error(&without(0)).starts_with("chunk 0 of the snapshot: the field `header`"));
        let (twice, swapped) = ([&[0, 1, 1], &all[2..]].concat(), [&[0, 2, 1], &all[3..]].concat());
        assert!(error(&twice).starts_with("chunk 2 of the snapshot: the field "), "{}", error(&twice));
        assert!(error(&swapped).starts_with("chunk "), "{}", error(&swapped));
        let longer = [&all[..], &[1]].concat();
        assert_eq!(error(&longer), "the snapshot goes on behind its end");
    }

    #[test]
    fn an_unknown_version_is_said_to_be_one() {
        let chunk = wire::SnapshotChunk { version: 4, ..Default::default() };
        let error = ClusterState::restore([chunk.encode_to_vec().into()]).unwrap_err();
        assert_eq!(
            error.to_string(),
            "chunk 0 of the snapshot: format version 4 is not known to this program"
        );
        let error = ClusterState::restore([Bytes::from_static(b"garbage")]).unwrap_err().to_string();
        assert!(error.starts_with("chunk 0 of the snapshot: malformed: "), "{error}");
    }

    #[test]
    fn what_does_not_fit_together_is_refused() {
        check_refused("placements", |chunk| {
            chunk.placements.pop();
        });
        check_refused("placements", |chunk| chunk.placements[0].nodes[0] += 1);
        check_refused("node", |chunk| chunk.nodes.push(chunk.nodes[0].clone()));
        check_refused("node", |chunk| chunk.nodes[0].changed_at = 1 << 40);
        check_refused("status", |chunk| chunk.nodes[0].status = 9);
        check_refused("nodes", |chunk| chunk.sets[0].nodes.clear());
        check_refused("routes", |chunk| chunk.sets[0].nodes[0] += 1);
        check_refused("fingerprint", |chunk| chunk.fingerprint_sets[0] = 9);
        check_refused("fingerprint", |chunk| chunk.fingerprints.reverse());
        check_refused("fingerprint sets", |chunk| chunk.fingerprints.truncate(1));
        check_refused("wildcard filter", |chunk| chunk.wildcards[0].filter = "a".into());
        check_refused("group filter", |chunk| chunk.groups.push(chunk.groups[0].clone()));
        check_refused("setting", |chunk| chunk.settings.push(chunk.settings[0].clone()));
        check_refused("setting", |chunk| chunk.settings[0].key.push('/'));
        check_refused("setting", |chunk| chunk.settings[0].value = None);
        check_refused("shards", |chunk| chunk.holders.push(chunk.holders[0]));
        check_refused("shards", |chunk| chunk.holders[0] += 1);
        check_refused("shards", |chunk| chunk.shards[0].members = vec![2, 1]);
        check_refused("shards", |chunk| chunk.shards[0].ids.clear());
        check_refused("shards", |chunk| chunk.shard_routes.as_mut().unwrap().sets[0].nodes[0] = 4);
        check_refused("placements", |chunk| {
            chunk.shards.pop();
        });
        check_refused("cluster", |chunk| {
            chunk.placements.clear();
            chunk.header.as_mut().unwrap().cluster = None;
        });
        check_refused("cluster id", |chunk| {
            chunk.header.as_mut().unwrap().cluster.as_mut().unwrap().id.clear();
        });
    }

    #[test]
    fn the_largest_items_fit_into_a_chunk() {
        let filter: Box<str> = "x".repeat(limits::FILTER_BYTES_MAX).into();
        let nodes = (0..limits::NODES_MAX as u64).map(|id| NodeId(u64::MAX - id));
        let check = |item: Item| assert!(item.bytes_max() < CHUNK_BYTES_MAX - 2 * CHUNK_OVERHEAD);
        check(Item::Route(RouteItem::Set(nodes.clone().collect::<Vec<_>>().as_slice().into())));
        let wildcard = WildcardRoute { filter: filter.clone(), nodes: nodes.clone().collect() };
        check(Item::Route(RouteItem::Wildcard((&wildcard).into())));
        let members = nodes.map(|node| GroupMembers { node, online: u32::MAX, kept: u32::MAX });
        check(Item::Route(RouteItem::Group((&GroupRoute { filter, members: members.collect() }).into())));
        let value = Some(vec![0; limits::SETTING_VALUE_BYTES_MAX].into());
        check(Item::Setting(Setting { key: "x".repeat(limits::SETTING_KEY_BYTES_MAX), value }));
    }

    /// Changes the first chunk of a small snapshot, and makes its end agree.
    fn check_refused(field: &'static str, change: impl FnOnce(&mut wire::SnapshotChunk)) {
        let chunks: Vec<Bytes> = small_state().snapshot().collect();
        assert_eq!(chunks.len(), 2);
        let mut first = wire::SnapshotChunk::decode(chunks[0].clone()).unwrap();
        change(&mut first);
        let first = Bytes::from(first.encode_to_vec());
        let checksum = xxh3_64_with_seed(&first, 0);
        let end = wire::SnapshotEnd { chunks: 1, checksum };
        let last = wire::SnapshotChunk { version: wire::VERSION, end: Some(end), ..Default::default() };
        let error = ClusterState::restore([first, last.encode_to_vec().into()]).unwrap_err();
        let SnapshotError::Chunk { error, .. } = error else { panic!("{error}") };
        assert_eq!(error, DecodeError::Field(field));
    }

    fn small_state() -> ClusterState {
        let (mut state, member) = one_node();
        let fingerprints = ["x", "y", "z"].map(|topic| state.routes().fingerprint(topic));
        let mut changes: Vec<_> = fingerprints.into_iter().map(RouteChange::AddExact).collect();
        changes.push(RouteChange::AddWildcard("a/#".into()));
        changes.push(RouteChange::SetGroup { filter: "$share/g/a".into(), online: 1, kept: 2 });
        assert_eq!(state.apply(LogIndex(4), Command::Routes { member, changes }).reply, Reply::Done);
        set(&mut state, 5, "a/b");
        set(&mut state, 6, "a/c");
        let change = ShardChange::Routes { number: 1, changes: vec![RouteChange::AddExact(fingerprints[0])] };
        state.apply(LogIndex(7), Command::Shard { shard: ShardId(2), term: 1, change });
        state
    }

    fn set(state: &mut ClusterState, index: u64, key: &str) {
        let command = Command::SetSetting { key: key.into(), value: Some(Bytes::from_static(b"value")) };
        assert_eq!(state.apply(LogIndex(index), command).reply, Reply::Done);
    }

    fn big_state() -> ClusterState {
        let (mut state, member) = one_node();
        for index in 4..30 {
            let fingerprint = |number| state.routes().fingerprint(&format!("{index}/{number}"));
            let mut changes: Vec<_> = (0..4_000).map(fingerprint).map(RouteChange::AddExact).collect();
            changes.push(RouteChange::AddWildcard(format!("{}/{index}/#", "x".repeat(60_000)).into()));
            state.apply(LogIndex(index), Command::Routes { member, changes });
        }
        for index in 30..40 {
            let value = Some(vec![7; limits::SETTING_VALUE_BYTES_MAX].into());
            state.apply(LogIndex(index), Command::SetSetting { key: index.to_string().into(), value });
        }
        state
    }

    fn one_node() -> (ClusterState, Member) {
        let mut state = ClusterState::new();
        let create =
            Command::Create { cluster_id: 1, name: "c".into(), shards: 4, replicas: 1, hash_seed: 3 };
        state.apply(LogIndex(1), create);
        let join = Command::Join {
            id: NodeId(1),
            name: "a".into(),
            role: Role::Core,
            address: "127.0.0.1:7000".into(),
            client_addresses: Vec::new(),
            version: String::new().into(),
        };
        let Reply::Joined(member) = state.apply(LogIndex(2), join).reply else { panic!("it may join") };
        state.apply(LogIndex(3), Command::SetStatus { member, status: crate::NewStatus::Up });
        (state, member)
    }

    /// [`small_state`] without settings, as a program that knew none has written it.
    const OLD: [&[u8]; 2] = [
        b"\x08\x01\x12&\x08\x04\x12\x22\x0A\x10\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\x01\x12\x01c\x18\x04 \x01)\
        \x03\0\0\0\0\0\0\0\x1A&\x0A\x1E\x09\x01\0\0\0\0\0\0\0\x12\x01a\x18\x01\x22\x0E127.0.0.1:7000\
        \x10\x02\x18\x02 \x03\x22\x0C\x08\x03\x12\x08\x01\0\0\0\0\0\0\0\x22\x0C\x08\x03\x12\x08\x01\0\0\
        \0\0\0\0\0\x22\x0C\x08\x03\x12\x08\x01\0\0\0\0\0\0\0\x22\x0C\x08\x03\x12\x08\x01\0\0\0\0\0\0\0*\
        \x0A\x0A\x08\x01\0\0\0\0\0\0\0\x32\x18\xE7}\x1B\xD9\xC6o\xE6]U\xE7\x83Q<3\xBAn\xCE\x88\x97\x04$L\
        \x8A\xBC:\x03\0\0\0B\x0F\x0A\x03a/#\x12\x08\x01\0\0\0\0\0\0\0J\x1B\x0A\x0A$share/g/a\x12\x0D\
        \x09\x01\0\0\0\0\0\0\0\x10\x01\x18\x02",
        b"\x08\x01R\x0B\x08\x01\x11\x9D\x19a\xCA\xB3\x0B\xEE!",
    ];
}
