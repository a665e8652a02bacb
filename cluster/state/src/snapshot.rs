//! A whole state as bytes, in chunks.
//!
//! The chunks are, in this order: the header with the cluster, nodes, placements, sets of nodes, exact routes in the order
//! of their fingerprints (each with the number of its set), wildcard routes and groups in the order of their texts, and the
//! end with the number and the checksum of all chunks before it. Equal states have equal bytes.

use std::{collections::BTreeMap, sync::Arc};

use bytes::Bytes;
use prost::Message;
use xxhash_rust::xxh3::xxh3_64_with_seed;

use crate::{
    Cluster, ClusterState, DecodeError, LogIndex, Node, NodeId, Placement,
    routes::{RoutesBuilder, RoutesCopy},
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
    /// The copy is made now, the bytes are made chunk by chunk. It copies the nodes and placements, and shares the routes: it
    /// costs a thousand references for the exact routes, however many there are, and one for each wildcard filter, each
    /// group and each distinct set of nodes. While the snapshot has not been written, a change of a route first copies the part
    /// of the table that it is in, a thousandth.
    pub fn snapshot(&self) -> Snapshot {
        let header = wire::Header { applied: self.applied.0, cluster: self.cluster.as_ref().map(Into::into) };
        let nodes: Vec<wire::Node> = self.nodes.values().map(Into::into).collect();
        let placements: Vec<wire::Placement> = self.placements.iter().map(Into::into).collect();
        let nodes = nodes.into_iter().map(Item::Node);
        let placements = placements.into_iter().map(Item::Placement);
        let items = nodes.chain(placements).chain(route_items(self.routes.copy()));
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

/// What chunks are filled with.
enum Item {
    Node(wire::Node),
    Placement(wire::Placement),
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
            Self::Set(set) => ITEM_OVERHEAD + set.encoded_len(),
            Self::Exact { set, .. } => size_of::<u64>() + prost::length_delimiter_len(*set as usize),
            Self::Wildcard(route) => ITEM_OVERHEAD + route.encoded_len(),
            Self::Group(route) => ITEM_OVERHEAD + route.encoded_len(),
        }
    }

    fn put_into(self, chunk: &mut wire::SnapshotChunk) {
        match self {
            Self::Node(node) => chunk.nodes.push(node),
            Self::Placement(placement) => chunk.placements.push(placement),
            Self::Set(set) => chunk.sets.push(set),
            Self::Exact { fingerprint, set } => {
                chunk.fingerprints.push(fingerprint);
                chunk.fingerprint_sets.push(set);
            }
            Self::Wildcard(route) => chunk.wildcards.push(route),
            Self::Group(route) => chunk.groups.push(route),
        }
    }
}

fn route_items(copy: RoutesCopy) -> impl Iterator<Item = Item> + Send {
    let RoutesCopy { exact, wildcard, groups } = copy;
    let (sets, routes) = exact.into_numbered();
    let sets = sets.into_iter().map(|nodes| Item::Set((&*nodes).into()));
    let exact = routes.map(|(fingerprint, set)| Item::Exact { fingerprint, set });
    // The sorting waits until its turn has come, so that whoever applies commands does not pay for it.
    let wildcard = std::iter::once_with(move || sorted(wildcard, |route| &route.filter));
    let groups = std::iter::once_with(move || sorted(groups, |group| &group.filter));
    let wildcard = wildcard.flatten().map(|route| Item::Wildcard((&*route).into()));
    let groups = groups.flatten().map(|group| Item::Group((&*group).into()));
    sets.chain(exact).chain(wildcard).chain(groups)
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
        for set in chunk.sets {
            self.routes.push_set(&Vec::from(set))?;
        }
        if chunk.fingerprints.len() != chunk.fingerprint_sets.len() {
            return Err(DecodeError::Field("fingerprint sets"));
        }
        for (fingerprint, set) in chunk.fingerprints.into_iter().zip(chunk.fingerprint_sets) {
            self.routes.push_exact(wire::fingerprint(fingerprint)?, set)?;
        }
        for route in chunk.wildcards {
            self.routes.push_wildcard(route.into())?;
        }
        for group in chunk.groups {
            self.routes.push_group(group.into())?;
        }
        Ok(())
    }

    fn build(self) -> Result<ClusterState, DecodeError> {
        let (applied, cluster) = self.header.ok_or(DecodeError::Field("header"))?;
        let routes = self.routes.finish(cluster.as_ref().map_or(0, |cluster| cluster.hash_seed));
        ClusterState::from_parts(applied, cluster, self.nodes, self.placements, routes)
    }
}
