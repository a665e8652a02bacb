//! Between the messages of the membership service and our own types.

use flotilla_rpc::membership as rpc;
use flotilla_state::{NodeId, Role};
use prost::Message as _;
use tonic::Status;

use super::bootstrap::{Attempt, Founder};
use crate::peers::ClusterId;

/// What a node says of itself, checked.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct NodeInfo {
    pub(crate) id: NodeId,
    pub(crate) name: String,
    pub(crate) role: Role,
    pub(crate) address: String,
    pub(crate) client_addresses: Vec<String>,
    pub(crate) version: String,
}

impl NodeInfo {
    pub(crate) fn encode(&self) -> rpc::NodeInfo {
        let role = match self.role {
            Role::Core => rpc::Role::Core,
            Role::Edge => rpc::Role::Edge,
        };
        rpc::NodeInfo {
            id: self.id.0,
            name: self.name.clone(),
            role: role.into(),
            address: self.address.clone(),
            client_addresses: self.client_addresses.clone(),
            version: self.version.clone(),
        }
    }

    pub(crate) fn decode(node: Option<rpc::NodeInfo>) -> Result<Self, Status> {
        let node = node.ok_or_else(|| malformed("no node"))?;
        let role = match node.role() {
            rpc::Role::Core => Role::Core,
            rpc::Role::Edge => Role::Edge,
            rpc::Role::Unspecified => return Err(malformed("no role")),
        };
        if node.id == 0 || node.name.is_empty() || node.name.len() > 255 || node.address.is_empty() {
            return Err(malformed("no identifier, name or address"));
        }
        let rpc::NodeInfo { id, name, address, client_addresses, version, .. } = node;
        Ok(Self { id: NodeId(id), name, role, address, client_addresses, version })
    }
}

pub(crate) fn encode_attempt(attempt: &Attempt) -> rpc::Attempt {
    rpc::Attempt {
        cluster_id: attempt.cluster_id.to_bytes().to_vec().into(),
        initiator: Some(encode_founder(&attempt.initiator)),
        members: attempt.members.iter().map(encode_founder).collect(),
    }
}

pub(crate) fn decode_attempt(attempt: rpc::Attempt) -> Result<Attempt, Status> {
    let initiator = decode_founder(attempt.initiator.ok_or_else(|| malformed("no initiator"))?)?;
    let members = attempt.members.into_iter().map(decode_founder).collect::<Result<Vec<_>, _>>()?;
    let mut names: Vec<&String> = members.iter().map(|member| &member.name).collect();
    names.sort();
    names.dedup();
    let is_sound = (1..=super::voters::VOTERS_MAX).contains(&members.len())
        && names.len() == members.len()
        && members.contains(&initiator);
    if !is_sound {
        return Err(malformed("founding members that do not fit together"));
    }
    Ok(Attempt { cluster_id: decode_cluster_id(&attempt.cluster_id)?, initiator, members })
}

/// As it is kept on the disk.
pub(crate) fn attempt_to_bytes(attempt: &Attempt) -> Vec<u8> {
    encode_attempt(attempt).encode_to_vec()
}

/// Reads what [`attempt_to_bytes`] wrote.
pub(crate) fn attempt_from_bytes(bytes: &[u8]) -> Result<Attempt, String> {
    let attempt = rpc::Attempt::decode(bytes).map_err(|error| error.to_string())?;
    decode_attempt(attempt).map_err(|status| status.message().to_owned())
}

pub(crate) fn decode_cluster_id(bytes: &[u8]) -> Result<ClusterId, Status> {
    ClusterId::from_bytes(bytes).ok_or_else(|| malformed("a cluster id that is not 16 bytes"))
}

/// Absent while the node belongs to no cluster.
pub(crate) fn decode_optional_cluster_id(bytes: &[u8]) -> Result<Option<ClusterId>, Status> {
    if bytes.is_empty() { Ok(None) } else { decode_cluster_id(bytes).map(Some) }
}

fn encode_founder(founder: &Founder) -> rpc::FoundingMember {
    rpc::FoundingMember { id: founder.id.0, name: founder.name.clone() }
}

fn decode_founder(founder: rpc::FoundingMember) -> Result<Founder, Status> {
    if founder.id == 0 || founder.name.is_empty() || founder.name.len() > 255 {
        return Err(malformed("a founding member without identifier or name"));
    }
    Ok(Founder { name: founder.name, id: NodeId(founder.id) })
}

fn malformed(what: &str) -> Status {
    Status::invalid_argument(what)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn attempts_survive_their_encoding_and_are_checked() {
        let founder = |name: &str, id| Founder { name: name.into(), id: NodeId(id) };
        let members = vec![founder("a", 1), founder("b", 2)];
        let attempt = Attempt { cluster_id: ClusterId(5), initiator: members[0].clone(), members };
        assert_eq!(attempt_from_bytes(&attempt_to_bytes(&attempt)), Ok(attempt.clone()));
        let twice = Attempt { members: vec![founder("a", 1), founder("a", 2)], ..attempt.clone() };
        assert!(attempt_from_bytes(&attempt_to_bytes(&twice)).is_err());
        let stranger = Attempt { initiator: founder("c", 3), ..attempt };
        assert!(attempt_from_bytes(&attempt_to_bytes(&stranger)).is_err());
        assert!(attempt_from_bytes(b"\xff").is_err());
    }
}
