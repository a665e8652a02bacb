//! A cluster and its nodes.

use crate::{DecodeError, Incarnation, LogIndex, NodeId, Role as StateRole, Status as StateStatus};

#[derive(Clone, PartialEq, prost::Message)]
pub(crate) struct Cluster {
    /// Big-endian, 16 bytes.
    #[prost(bytes = "vec", tag = "1")]
    pub(crate) id: Vec<u8>,
    #[prost(string, tag = "2")]
    pub(crate) name: String,
    #[prost(uint32, tag = "3")]
    pub(crate) shards: u32,
    #[prost(uint32, tag = "4")]
    pub(crate) replicas: u32,
    #[prost(fixed64, tag = "5")]
    pub(crate) hash_seed: u64,
}

impl From<&crate::Cluster> for Cluster {
    fn from(cluster: &crate::Cluster) -> Self {
        Self {
            id: cluster.id.to_be_bytes().to_vec(),
            name: cluster.name.to_string(),
            shards: u32::from(cluster.shards),
            replicas: u32::from(cluster.replicas),
            hash_seed: cluster.hash_seed,
        }
    }
}

impl TryFrom<Cluster> for crate::Cluster {
    type Error = DecodeError;

    fn try_from(cluster: Cluster) -> Result<Self, DecodeError> {
        Ok(Self {
            id: u128::from_be_bytes(cluster.id.try_into().map_err(|_| DecodeError::Field("cluster id"))?),
            name: cluster.name.into(),
            shards: cluster.shards.try_into().map_err(|_| DecodeError::Field("shards"))?,
            replicas: cluster.replicas.try_into().map_err(|_| DecodeError::Field("replicas"))?,
            hash_seed: cluster.hash_seed,
        })
    }
}

#[derive(Clone, PartialEq, prost::Message)]
pub(crate) struct Join {
    #[prost(fixed64, tag = "1")]
    pub(crate) id: u64,
    #[prost(string, tag = "2")]
    pub(crate) name: String,
    #[prost(enumeration = "Role", tag = "3")]
    pub(crate) role: i32,
    #[prost(string, tag = "4")]
    pub(crate) address: String,
    #[prost(string, repeated, tag = "5")]
    pub(crate) client_addresses: Vec<String>,
    #[prost(string, tag = "6")]
    pub(crate) program_version: String,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, prost::Enumeration)]
#[repr(i32)]
pub(crate) enum Role {
    Unspecified = 0,
    Core = 1,
    Edge = 2,
}

impl From<StateRole> for Role {
    fn from(role: StateRole) -> Self {
        match role {
            StateRole::Core => Self::Core,
            StateRole::Edge => Self::Edge,
        }
    }
}

pub(super) fn role(number: i32) -> Result<StateRole, DecodeError> {
    match Role::try_from(number).unwrap_or(Role::Unspecified) {
        Role::Unspecified => Err(DecodeError::Field("role")),
        Role::Core => Ok(StateRole::Core),
        Role::Edge => Ok(StateRole::Edge),
    }
}

#[derive(Clone, PartialEq, prost::Message)]
pub(crate) struct Node {
    #[prost(message, optional, tag = "1")]
    pub(crate) join: Option<Join>,
    #[prost(enumeration = "Status", tag = "2")]
    pub(crate) status: i32,
    #[prost(uint64, tag = "3")]
    pub(crate) incarnation: u64,
    #[prost(uint64, tag = "4")]
    pub(crate) changed_at: u64,
}

impl From<&crate::Node> for Node {
    fn from(node: &crate::Node) -> Self {
        let join = Join {
            id: node.id.0,
            name: node.name.to_string(),
            role: Role::from(node.role).into(),
            address: node.address.to_string(),
            client_addresses: node.client_addresses.iter().map(ToString::to_string).collect(),
            program_version: node.version.to_string(),
        };
        Self {
            join: Some(join),
            status: Status::from(node.status).into(),
            incarnation: node.incarnation.0,
            changed_at: node.changed_at.0,
        }
    }
}

impl TryFrom<Node> for crate::Node {
    type Error = DecodeError;

    fn try_from(node: Node) -> Result<Self, DecodeError> {
        let join = node.join.ok_or(DecodeError::Field("node"))?;
        Ok(Self {
            id: NodeId(join.id),
            name: join.name.into(),
            role: role(join.role)?,
            status: match Status::try_from(node.status).unwrap_or(Status::Unspecified) {
                Status::Unspecified => return Err(DecodeError::Field("status")),
                Status::Joining => StateStatus::Joining,
                Status::Up => StateStatus::Up,
                Status::Draining => StateStatus::Draining,
                Status::Down => StateStatus::Down,
            },
            incarnation: Incarnation(node.incarnation),
            address: join.address.into(),
            client_addresses: join.client_addresses.into_iter().map(Into::into).collect(),
            version: join.program_version.into(),
            changed_at: LogIndex(node.changed_at),
        })
    }
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, prost::Enumeration)]
#[repr(i32)]
pub(crate) enum Status {
    Unspecified = 0,
    Joining = 1,
    Up = 2,
    Draining = 3,
    Down = 4,
}

impl From<StateStatus> for Status {
    fn from(status: StateStatus) -> Self {
        match status {
            StateStatus::Joining => Self::Joining,
            StateStatus::Up => Self::Up,
            StateStatus::Draining => Self::Draining,
            StateStatus::Down => Self::Down,
        }
    }
}
