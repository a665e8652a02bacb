//! Commands.

use super::{
    Member, VERSION,
    cluster::{Cluster, Join, Role, Status, role},
    fingerprint, required,
};
use crate::{
    Command as StateCommand, DecodeError, NewStatus, NodeId, ReplicaId, RouteChange as StateRouteChange,
    ShardChange, ShardId, settings::wire::Setting,
};

#[derive(Clone, PartialEq, prost::Message)]
pub(crate) struct Command {
    #[prost(uint32, tag = "1")]
    pub(crate) version: u32,
    #[prost(oneof = "CommandKind", tags = "2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13")]
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
    #[prost(message, tag = "10")]
    FoundShards(Nothing),
    #[prost(message, tag = "11")]
    Shard(Shard),
    #[prost(message, tag = "12")]
    Evacuate(Member),
    #[prost(message, tag = "13")]
    Recover(Recover),
}

#[derive(Clone, PartialEq, prost::Message)]
pub(crate) struct Nothing {}

#[derive(Clone, PartialEq, prost::Message)]
pub(crate) struct Recover {
    /// 16 bytes.
    #[prost(bytes = "vec", tag = "1")]
    pub(crate) cluster_id: Vec<u8>,
    #[prost(fixed64, tag = "2")]
    pub(crate) survivor: u64,
    #[prost(uint32, repeated, tag = "3")]
    pub(crate) shards: Vec<u32>,
}

impl Recover {
    fn into_command(self) -> Result<StateCommand, DecodeError> {
        let cluster_id = self.cluster_id.try_into().map_err(|_| DecodeError::Field("cluster_id"))?;
        let shards = self.shards.into_iter().map(|shard| u16::try_from(shard).map(ShardId));
        Ok(StateCommand::Recover {
            cluster_id: u128::from_be_bytes(cluster_id),
            survivor: NodeId(self.survivor),
            shards: shards.collect::<Result<_, _>>().map_err(|_| DecodeError::Field("shards"))?,
        })
    }
}

#[derive(Clone, PartialEq, prost::Message)]
pub(crate) struct Shard {
    #[prost(uint32, tag = "1")]
    pub(crate) shard: u32,
    #[prost(uint64, tag = "2")]
    pub(crate) term: u64,
    #[prost(oneof = "ShardChangeKind", tags = "3, 4")]
    pub(crate) change: Option<ShardChangeKind>,
    #[prost(uint64, tag = "5")]
    pub(crate) number: u64,
}

/// A replica of a shard.
#[derive(Clone, PartialEq, prost::Message)]
pub(crate) struct Replica {
    #[prost(fixed64, tag = "1")]
    pub(crate) node: u64,
    #[prost(uint64, tag = "2")]
    pub(crate) id: u64,
}

impl Replica {
    pub(crate) fn of(node: NodeId, id: ReplicaId) -> Self {
        Self { node: node.0, id: id.0 }
    }

    pub(crate) fn parts(self) -> (NodeId, ReplicaId) {
        (NodeId(self.node), ReplicaId(self.id))
    }
}

#[derive(Clone, PartialEq, prost::Message)]
pub(crate) struct Replicas {
    #[prost(message, repeated, tag = "1")]
    pub(crate) replicas: Vec<Replica>,
}

#[derive(Clone, PartialEq, prost::Oneof)]
pub(crate) enum ShardChangeKind {
    #[prost(message, tag = "3")]
    Members(Replicas),
    /// Its `member` is not set.
    #[prost(message, tag = "4")]
    Routes(RouteChanges),
}

impl Shard {
    fn of(shard: ShardId, term: u64, change: &ShardChange) -> Self {
        let (number, change) = match change {
            ShardChange::Members { number, members } => {
                let replicas = members.iter().map(|(node, id)| Replica::of(*node, *id)).collect();
                (*number, ShardChangeKind::Members(Replicas { replicas }))
            }
            ShardChange::Routes { number, changes } => {
                let changes = changes.iter().map(RouteChange::from).collect();
                (*number, ShardChangeKind::Routes(RouteChanges { member: None, changes }))
            }
        };
        Self { shard: shard.0.into(), term, change: Some(change), number }
    }

    fn into_command(self) -> Result<StateCommand, DecodeError> {
        let change = match self.change.ok_or(DecodeError::Field("change"))? {
            ShardChangeKind::Members(Replicas { replicas }) => ShardChange::Members {
                number: self.number,
                members: replicas.into_iter().map(Replica::parts).collect(),
            },
            ShardChangeKind::Routes(RouteChanges { changes, .. }) => ShardChange::Routes {
                number: self.number,
                changes: changes.into_iter().map(TryInto::try_into).collect::<Result<_, DecodeError>>()?,
            },
        };
        let shard = u16::try_from(self.shard).map_err(|_| DecodeError::Field("shard"))?;
        Ok(StateCommand::Shard { shard: ShardId(shard), term: self.term, change })
    }
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
            StateCommand::FoundShards => CommandKind::FoundShards(Nothing {}),
            StateCommand::Shard { shard, term, change } => {
                CommandKind::Shard(Shard::of(*shard, *term, change))
            }
            StateCommand::Evacuate { member } => CommandKind::Evacuate((*member).into()),
            StateCommand::Recover { cluster_id, survivor, shards } => CommandKind::Recover(Recover {
                cluster_id: cluster_id.to_be_bytes().to_vec(),
                survivor: survivor.0,
                shards: shards.iter().map(|shard| shard.0.into()).collect(),
            }),
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
            CommandKind::FoundShards(Nothing {}) => Self::FoundShards,
            CommandKind::Shard(shard) => shard.into_command()?,
            CommandKind::Evacuate(member) => Self::Evacuate { member: member.into() },
            CommandKind::Recover(recover) => recover.into_command()?,
        })
    }
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
    pub(crate) kept: u32,
}

impl From<&StateRouteChange> for RouteChange {
    fn from(change: &StateRouteChange) -> Self {
        let kind = match change {
            StateRouteChange::AddExact(fingerprint) => RouteChangeKind::AddExact(fingerprint.get()),
            StateRouteChange::RemoveExact(fingerprint) => RouteChangeKind::RemoveExact(fingerprint.get()),
            StateRouteChange::AddWildcard(filter) => RouteChangeKind::AddWildcard(filter.to_string()),
            StateRouteChange::RemoveWildcard(filter) => RouteChangeKind::RemoveWildcard(filter.to_string()),
            StateRouteChange::SetGroup { filter, online, kept } => RouteChangeKind::SetGroup(SetGroup {
                filter: filter.to_string(),
                online: *online,
                kept: *kept,
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
            RouteChangeKind::SetGroup(SetGroup { filter, online, kept }) => {
                Self::SetGroup { filter: filter.into(), online, kept }
            }
        })
    }
}
