//! The bytes of commands, replies and snapshots: protobuf, each message of the top level with the version of the format.
//!
//! Field numbers are never given to something else. What a new program adds and an old one must not skip takes a new
//! version.

use crate::{
    Command as StateCommand, DecodeError, Fingerprint, Incarnation, Invalid, LogIndex, Member as StateMember,
    NewStatus, NodeId, Reply as StateReply, Role as StateRole, RouteChange as StateRouteChange, ShardEpoch,
    Status as StateStatus, routes, settings::wire::Setting,
};

/// The version of all formats.
pub(crate) const VERSION: u32 = 1;

/// A message of the top level: field 1 is the version.
pub(crate) trait Versioned: prost::Message + Default {
    /// Reads a message and checks its version.
    fn decode_versioned(bytes: &[u8]) -> Result<Self, DecodeError> {
        // The version first: the fields of another version may mean anything.
        let OnlyVersion { version } = prost::Message::decode(bytes)?;
        if version != VERSION {
            return Err(DecodeError::UnknownVersion(version));
        }
        Ok(prost::Message::decode(bytes)?)
    }
}

impl Versioned for Command {}
impl Versioned for Reply {}
impl Versioned for SnapshotChunk {}

#[derive(Clone, PartialEq, prost::Message)]
struct OnlyVersion {
    #[prost(uint32, tag = "1")]
    version: u32,
}

#[derive(Clone, PartialEq, prost::Message)]
pub(crate) struct Member {
    #[prost(fixed64, tag = "1")]
    pub(crate) node: u64,
    #[prost(uint64, tag = "2")]
    pub(crate) incarnation: u64,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, prost::Enumeration)]
#[repr(i32)]
pub(crate) enum Role {
    Unspecified = 0,
    Core = 1,
    Edge = 2,
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

#[derive(Clone, PartialEq, prost::Message)]
pub(crate) struct Command {
    #[prost(uint32, tag = "1")]
    pub(crate) version: u32,
    #[prost(oneof = "CommandKind", tags = "2, 3, 4, 5, 6, 7, 8, 9")]
    pub(crate) kind: Option<CommandKind>,
}

#[derive(Clone, PartialEq, prost::Oneof)]
pub(crate) enum CommandKind {
    #[prost(message, tag = "2")]
    Create(Cluster),
    #[prost(message, tag = "3")]
    Join(Join),
    #[prost(message, tag = "4")]
    SetStatus(SetStatus),
    #[prost(message, tag = "5")]
    NodeDown(Member),
    #[prost(message, tag = "6")]
    Leave(Member),
    #[prost(fixed64, tag = "7")]
    Remove(u64),
    #[prost(message, tag = "8")]
    Routes(RouteChanges),
    #[prost(message, tag = "9")]
    SetSetting(Setting),
}

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

#[derive(Clone, PartialEq, prost::Message)]
pub(crate) struct SetStatus {
    #[prost(message, optional, tag = "1")]
    pub(crate) member: Option<Member>,
    #[prost(enumeration = "Status", tag = "2")]
    pub(crate) status: i32,
}

#[derive(Clone, PartialEq, prost::Message)]
pub(crate) struct RouteChanges {
    #[prost(message, optional, tag = "1")]
    pub(crate) member: Option<Member>,
    #[prost(message, repeated, tag = "2")]
    pub(crate) changes: Vec<RouteChange>,
}

#[derive(Clone, PartialEq, prost::Message)]
pub(crate) struct RouteChange {
    #[prost(oneof = "RouteChangeKind", tags = "1, 2, 3, 4, 5")]
    pub(crate) kind: Option<RouteChangeKind>,
}

#[derive(Clone, PartialEq, prost::Oneof)]
pub(crate) enum RouteChangeKind {
    #[prost(fixed64, tag = "1")]
    AddExact(u64),
    #[prost(fixed64, tag = "2")]
    RemoveExact(u64),
    #[prost(string, tag = "3")]
    AddWildcard(String),
    #[prost(string, tag = "4")]
    RemoveWildcard(String),
    #[prost(message, tag = "5")]
    SetGroup(SetGroup),
}

#[derive(Clone, PartialEq, prost::Message)]
pub(crate) struct SetGroup {
    #[prost(string, tag = "1")]
    pub(crate) filter: String,
    #[prost(uint32, tag = "2")]
    pub(crate) online: u32,
    #[prost(uint32, tag = "3")]
    pub(crate) away: u32,
}

#[derive(Clone, PartialEq, prost::Message)]
pub(crate) struct Reply {
    #[prost(uint32, tag = "1")]
    pub(crate) version: u32,
    #[prost(enumeration = "ReplyKind", tag = "2")]
    pub(crate) kind: i32,
    /// With `Joined`.
    #[prost(message, optional, tag = "3")]
    pub(crate) member: Option<Member>,
    /// With `Invalid`.
    #[prost(enumeration = "InvalidKind", tag = "4")]
    pub(crate) invalid: i32,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, prost::Enumeration)]
#[repr(i32)]
pub(crate) enum ReplyKind {
    Unspecified = 0,
    Done = 1,
    Joined = 2,
    NameTaken = 3,
    OtherName = 4,
    Stale = 5,
    UnknownNode = 6,
    TooManyNodes = 7,
    NotCreated = 8,
    AlreadyCreated = 9,
    Invalid = 10,
    UnknownSetting = 11,
    TooManySettings = 12,
    SettingsFull = 13,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, prost::Enumeration)]
#[repr(i32)]
pub(crate) enum InvalidKind {
    Unspecified = 0,
    Shards = 1,
    Replicas = 2,
    Name = 3,
    Address = 4,
    ClientAddresses = 5,
    Version = 6,
    Changes = 7,
    Wildcard = 8,
    Group = 9,
    SettingKey = 10,
    SettingValue = 11,
}

#[derive(Clone, PartialEq, prost::Message)]
pub(crate) struct SnapshotChunk {
    #[prost(uint32, tag = "1")]
    pub(crate) version: u32,
    /// In the first chunk.
    #[prost(message, optional, tag = "2")]
    pub(crate) header: Option<Header>,
    #[prost(message, repeated, tag = "3")]
    pub(crate) nodes: Vec<Node>,
    #[prost(message, repeated, tag = "4")]
    pub(crate) placements: Vec<Placement>,
    #[prost(message, repeated, tag = "5")]
    pub(crate) sets: Vec<NodeSet>,
    #[prost(fixed64, repeated, tag = "6")]
    pub(crate) fingerprints: Vec<u64>,
    /// The set of each fingerprint, as its number among all sets.
    #[prost(uint32, repeated, tag = "7")]
    pub(crate) fingerprint_sets: Vec<u32>,
    #[prost(message, repeated, tag = "8")]
    pub(crate) wildcards: Vec<WildcardRoute>,
    #[prost(message, repeated, tag = "9")]
    pub(crate) groups: Vec<GroupRoute>,
    /// In the last chunk, which has nothing else.
    #[prost(message, optional, tag = "10")]
    pub(crate) end: Option<SnapshotEnd>,
    #[prost(message, repeated, tag = "11")]
    pub(crate) settings: Vec<Setting>,
}

#[derive(Clone, PartialEq, prost::Message)]
pub(crate) struct Header {
    #[prost(uint64, tag = "1")]
    pub(crate) applied: u64,
    #[prost(message, optional, tag = "2")]
    pub(crate) cluster: Option<Cluster>,
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

#[derive(Clone, PartialEq, prost::Message)]
pub(crate) struct Placement {
    #[prost(uint64, tag = "1")]
    pub(crate) epoch: u64,
    #[prost(fixed64, repeated, tag = "2")]
    pub(crate) nodes: Vec<u64>,
}

#[derive(Clone, PartialEq, prost::Message)]
pub(crate) struct NodeSet {
    #[prost(fixed64, repeated, tag = "1")]
    pub(crate) nodes: Vec<u64>,
}

#[derive(Clone, PartialEq, prost::Message)]
pub(crate) struct WildcardRoute {
    #[prost(string, tag = "1")]
    pub(crate) filter: String,
    #[prost(fixed64, repeated, tag = "2")]
    pub(crate) nodes: Vec<u64>,
}

#[derive(Clone, PartialEq, prost::Message)]
pub(crate) struct GroupRoute {
    #[prost(string, tag = "1")]
    pub(crate) filter: String,
    #[prost(message, repeated, tag = "2")]
    pub(crate) members: Vec<GroupMembers>,
}

#[derive(Clone, PartialEq, prost::Message)]
pub(crate) struct GroupMembers {
    #[prost(fixed64, tag = "1")]
    pub(crate) node: u64,
    #[prost(uint32, tag = "2")]
    pub(crate) online: u32,
    #[prost(uint32, tag = "3")]
    pub(crate) away: u32,
}

#[derive(Clone, PartialEq, prost::Message)]
pub(crate) struct SnapshotEnd {
    /// How many chunks there are before this one.
    #[prost(uint64, tag = "1")]
    pub(crate) chunks: u64,
    /// Of these: the hash of each chunk is seeded with that of the one before.
    #[prost(fixed64, tag = "2")]
    pub(crate) checksum: u64,
}

impl From<&StateCommand> for Command {
    fn from(command: &StateCommand) -> Self {
        let kind = match command {
            StateCommand::Create { cluster_id, name, shards, replicas, hash_seed } => {
                CommandKind::Create(Cluster {
                    id: cluster_id.to_be_bytes().to_vec(),
                    name: name.to_string(),
                    shards: u32::from(*shards),
                    replicas: u32::from(*replicas),
                    hash_seed: *hash_seed,
                })
            }
            StateCommand::Join { id, name, role, address, client_addresses, version } => {
                CommandKind::Join(Join {
                    id: id.0,
                    name: name.to_string(),
                    role: Role::from(*role).into(),
                    address: address.to_string(),
                    client_addresses: client_addresses.iter().map(ToString::to_string).collect(),
                    program_version: version.to_string(),
                })
            }
            StateCommand::SetStatus { member, status } => CommandKind::SetStatus(SetStatus {
                member: Some((*member).into()),
                status: match status {
                    NewStatus::Up => Status::Up,
                    NewStatus::Draining => Status::Draining,
                }
                .into(),
            }),
            StateCommand::NodeDown { member } => CommandKind::NodeDown((*member).into()),
            StateCommand::Leave { member } => CommandKind::Leave((*member).into()),
            StateCommand::Remove { node } => CommandKind::Remove(node.0),
            StateCommand::Routes { member, changes } => CommandKind::Routes(RouteChanges {
                member: Some((*member).into()),
                changes: changes.iter().map(RouteChange::from).collect(),
            }),
            StateCommand::SetSetting { key, value } => {
                CommandKind::SetSetting(Setting { key: key.to_string(), value: value.clone() })
            }
        };
        Self { version: VERSION, kind: Some(kind) }
    }
}

impl TryFrom<Command> for StateCommand {
    type Error = DecodeError;

    fn try_from(command: Command) -> Result<Self, DecodeError> {
        Ok(match command.kind.ok_or(DecodeError::Field("command"))? {
            CommandKind::Create(cluster) => {
                let crate::Cluster { id, name, shards, replicas, hash_seed } = cluster.try_into()?;
                Self::Create { cluster_id: id, name, shards, replicas, hash_seed }
            }
            CommandKind::Join(join) => Self::Join {
                id: NodeId(join.id),
                role: role(join.role)?,
                name: join.name.into(),
                address: join.address.into(),
                client_addresses: join.client_addresses.into_iter().map(Into::into).collect(),
                version: join.program_version.into(),
            },
            CommandKind::SetStatus(SetStatus { member, status }) => Self::SetStatus {
                member: required(member)?,
                status: match Status::try_from(status) {
                    Ok(Status::Up) => NewStatus::Up,
                    Ok(Status::Draining) => NewStatus::Draining,
                    _ => return Err(DecodeError::Field("status")),
                },
            },
            CommandKind::NodeDown(member) => Self::NodeDown { member: member.into() },
            CommandKind::Leave(member) => Self::Leave { member: member.into() },
            CommandKind::Remove(node) => Self::Remove { node: NodeId(node) },
            CommandKind::Routes(RouteChanges { member, changes }) => Self::Routes {
                member: required(member)?,
                changes: changes.into_iter().map(TryInto::try_into).collect::<Result<_, _>>()?,
            },
            CommandKind::SetSetting(Setting { key, value }) => Self::SetSetting { key: key.into(), value },
        })
    }
}

impl From<&StateRouteChange> for RouteChange {
    fn from(change: &StateRouteChange) -> Self {
        let kind = match change {
            StateRouteChange::AddExact(fingerprint) => RouteChangeKind::AddExact(fingerprint.get()),
            StateRouteChange::RemoveExact(fingerprint) => RouteChangeKind::RemoveExact(fingerprint.get()),
            StateRouteChange::AddWildcard(filter) => RouteChangeKind::AddWildcard(filter.to_string()),
            StateRouteChange::RemoveWildcard(filter) => RouteChangeKind::RemoveWildcard(filter.to_string()),
            StateRouteChange::SetGroup { filter, online, away } => RouteChangeKind::SetGroup(SetGroup {
                filter: filter.to_string(),
                online: *online,
                away: *away,
            }),
        };
        Self { kind: Some(kind) }
    }
}

impl TryFrom<RouteChange> for StateRouteChange {
    type Error = DecodeError;

    fn try_from(change: RouteChange) -> Result<Self, DecodeError> {
        Ok(match change.kind.ok_or(DecodeError::Field("change"))? {
            RouteChangeKind::AddExact(number) => Self::AddExact(fingerprint(number)?),
            RouteChangeKind::RemoveExact(number) => Self::RemoveExact(fingerprint(number)?),
            RouteChangeKind::AddWildcard(filter) => Self::AddWildcard(filter.into()),
            RouteChangeKind::RemoveWildcard(filter) => Self::RemoveWildcard(filter.into()),
            RouteChangeKind::SetGroup(SetGroup { filter, online, away }) => {
                Self::SetGroup { filter: filter.into(), online, away }
            }
        })
    }
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

impl From<&StateReply> for Reply {
    fn from(reply: &StateReply) -> Self {
        let mut wire = Self { version: VERSION, ..Self::default() };
        let kind = match reply {
            StateReply::Done => ReplyKind::Done,
            StateReply::Joined(member) => {
                wire.member = Some((*member).into());
                ReplyKind::Joined
            }
            StateReply::NameTaken => ReplyKind::NameTaken,
            StateReply::OtherName => ReplyKind::OtherName,
            StateReply::Stale => ReplyKind::Stale,
            StateReply::UnknownNode => ReplyKind::UnknownNode,
            StateReply::TooManyNodes => ReplyKind::TooManyNodes,
            StateReply::NotCreated => ReplyKind::NotCreated,
            StateReply::AlreadyCreated => ReplyKind::AlreadyCreated,
            StateReply::UnknownSetting => ReplyKind::UnknownSetting,
            StateReply::TooManySettings => ReplyKind::TooManySettings,
            StateReply::SettingsFull => ReplyKind::SettingsFull,
            StateReply::Invalid(invalid) => {
                wire.set_invalid((*invalid).into());
                ReplyKind::Invalid
            }
        };
        wire.set_kind(kind);
        wire
    }
}

impl TryFrom<Reply> for StateReply {
    type Error = DecodeError;

    fn try_from(reply: Reply) -> Result<Self, DecodeError> {
        Ok(match ReplyKind::try_from(reply.kind).unwrap_or(ReplyKind::Unspecified) {
            ReplyKind::Unspecified => return Err(DecodeError::Field("reply")),
            ReplyKind::Done => Self::Done,
            ReplyKind::Joined => Self::Joined(required(reply.member)?),
            ReplyKind::NameTaken => Self::NameTaken,
            ReplyKind::OtherName => Self::OtherName,
            ReplyKind::Stale => Self::Stale,
            ReplyKind::UnknownNode => Self::UnknownNode,
            ReplyKind::TooManyNodes => Self::TooManyNodes,
            ReplyKind::NotCreated => Self::NotCreated,
            ReplyKind::AlreadyCreated => Self::AlreadyCreated,
            ReplyKind::UnknownSetting => Self::UnknownSetting,
            ReplyKind::TooManySettings => Self::TooManySettings,
            ReplyKind::SettingsFull => Self::SettingsFull,
            ReplyKind::Invalid => Self::Invalid(invalid(reply.invalid)?),
        })
    }
}

impl From<Invalid> for InvalidKind {
    fn from(invalid: Invalid) -> Self {
        match invalid {
            Invalid::Shards => Self::Shards,
            Invalid::Replicas => Self::Replicas,
            Invalid::Name => Self::Name,
            Invalid::Address => Self::Address,
            Invalid::ClientAddresses => Self::ClientAddresses,
            Invalid::Version => Self::Version,
            Invalid::Changes => Self::Changes,
            Invalid::Wildcard => Self::Wildcard,
            Invalid::Group => Self::Group,
            Invalid::SettingKey => Self::SettingKey,
            Invalid::SettingValue => Self::SettingValue,
        }
    }
}

fn invalid(number: i32) -> Result<Invalid, DecodeError> {
    match InvalidKind::try_from(number).unwrap_or(InvalidKind::Unspecified) {
        InvalidKind::Unspecified => Err(DecodeError::Field("invalid")),
        InvalidKind::Shards => Ok(Invalid::Shards),
        InvalidKind::Replicas => Ok(Invalid::Replicas),
        InvalidKind::Name => Ok(Invalid::Name),
        InvalidKind::Address => Ok(Invalid::Address),
        InvalidKind::ClientAddresses => Ok(Invalid::ClientAddresses),
        InvalidKind::Version => Ok(Invalid::Version),
        InvalidKind::Changes => Ok(Invalid::Changes),
        InvalidKind::Wildcard => Ok(Invalid::Wildcard),
        InvalidKind::Group => Ok(Invalid::Group),
        InvalidKind::SettingKey => Ok(Invalid::SettingKey),
        InvalidKind::SettingValue => Ok(Invalid::SettingValue),
    }
}

impl From<StateMember> for Member {
    fn from(member: StateMember) -> Self {
        Self { node: member.node.0, incarnation: member.incarnation.0 }
    }
}

impl From<Member> for StateMember {
    fn from(member: Member) -> Self {
        Self { node: NodeId(member.node), incarnation: Incarnation(member.incarnation) }
    }
}

impl From<StateRole> for Role {
    fn from(role: StateRole) -> Self {
        match role {
            StateRole::Core => Self::Core,
            StateRole::Edge => Self::Edge,
        }
    }
}

fn role(number: i32) -> Result<StateRole, DecodeError> {
    match Role::try_from(number).unwrap_or(Role::Unspecified) {
        Role::Unspecified => Err(DecodeError::Field("role")),
        Role::Core => Ok(StateRole::Core),
        Role::Edge => Ok(StateRole::Edge),
    }
}

fn required(member: Option<Member>) -> Result<StateMember, DecodeError> {
    member.map(StateMember::from).ok_or(DecodeError::Field("member"))
}

pub(crate) fn fingerprint(number: u64) -> Result<Fingerprint, DecodeError> {
    Fingerprint::from_bits(number).ok_or(DecodeError::Field("fingerprint"))
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

impl From<&crate::Placement> for Placement {
    fn from(placement: &crate::Placement) -> Self {
        Self { epoch: placement.epoch.0, nodes: numbers(&placement.nodes) }
    }
}

impl From<Placement> for crate::Placement {
    fn from(placement: Placement) -> Self {
        Self { epoch: ShardEpoch(placement.epoch), nodes: nodes(placement.nodes) }
    }
}

impl From<&[NodeId]> for NodeSet {
    fn from(set: &[NodeId]) -> Self {
        Self { nodes: numbers(set) }
    }
}

impl From<NodeSet> for Vec<NodeId> {
    fn from(set: NodeSet) -> Self {
        nodes(set.nodes)
    }
}

impl From<&routes::WildcardRoute> for WildcardRoute {
    fn from(route: &routes::WildcardRoute) -> Self {
        Self { filter: route.filter.to_string(), nodes: numbers(&route.nodes) }
    }
}

impl From<WildcardRoute> for routes::WildcardRoute {
    fn from(route: WildcardRoute) -> Self {
        Self { filter: route.filter.into(), nodes: nodes(route.nodes) }
    }
}

impl From<&crate::GroupRoute> for GroupRoute {
    fn from(route: &crate::GroupRoute) -> Self {
        let members = route.members.iter().map(|members| {
            let crate::GroupMembers { node, online, away } = *members;
            GroupMembers { node: node.0, online, away }
        });
        Self { filter: route.filter.to_string(), members: members.collect() }
    }
}

impl From<GroupRoute> for crate::GroupRoute {
    fn from(route: GroupRoute) -> Self {
        let members = route.members.into_iter().map(|members| {
            let GroupMembers { node, online, away } = members;
            crate::GroupMembers { node: NodeId(node), online, away }
        });
        Self { filter: route.filter.into(), members: members.collect() }
    }
}

fn numbers(nodes: &[NodeId]) -> Vec<u64> {
    nodes.iter().map(|node| node.0).collect()
}

fn nodes(numbers: Vec<u64>) -> Vec<NodeId> {
    numbers.into_iter().map(NodeId).collect()
}
