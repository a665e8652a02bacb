//! The membership service: what other nodes ask of this one.

use std::sync::Arc;

use flotilla_rpc::membership::{self as rpc, membership_server::Membership};
use flotilla_state::{Command, Incarnation, Member, NodeId};
use tokio::sync::oneshot;
use tonic::{Request, Response, Status};

use super::{founding, propose::ProposeError, shared::Shared, wire};
use crate::{
    clock,
    group::{COMMAND_BYTES_MAX, Role},
    peers::Caller,
};

/// Answers other nodes. Only the leader admits, renews and changes; the others name it.
#[derive(Clone)]
pub(crate) struct MembershipService {
    shared: Arc<Shared>,
}

impl MembershipService {
    pub(super) fn new(shared: Arc<Shared>) -> Self {
        Self { shared }
    }

    /// Asks the task that founds or finds a cluster.
    async fn tell(&self, input: founding::Input) -> Result<(), Status> {
        self.shared.founding.try_send(input).map_err(|_| Status::unavailable("too busy"))
    }
}

impl Shared {
    pub(super) fn not_leader(&self) -> rpc::NotLeader {
        let (leader, leader_address) = self.leader();
        rpc::NotLeader { leader, leader_address }
    }

    /// Answers a heartbeat. The answer is a promise: see [`Timing::margin`](super::lease::Timing::margin).
    pub(super) fn renew(&self, member: Member, address: &str) -> rpc::lease_reply::Outcome {
        use rpc::lease_reply::Outcome;
        if self.group.status().role != Role::Leader {
            return Outcome::NotLeader(self.not_leader());
        }
        if !self.is_certain_leader() {
            return Outcome::Uncertain(rpc::LeaseUncertain {});
        }
        let (is_live, is_newer) = {
            let state = self.state.read();
            (state.is_live(member), state.applied().0 < member.incarnation.0)
        };
        if is_newer {
            // This leader has not applied the admission yet.
            return Outcome::Uncertain(rpc::LeaseUncertain {});
        }
        if !is_live {
            return Outcome::Ended(rpc::LeaseEnded {});
        }
        self.leases.lock().heard(member, clock::now());
        if member.node != self.local.node() {
            self.peers.told(member.node, address);
        }
        Outcome::Held(rpc::LeaseHeld {})
    }
}

/// What the request says of its sender must be what the metadata say.
fn check_caller<T>(request: &Request<T>, node: u64) -> Result<(), Status> {
    match request.extensions().get::<Caller>() {
        Some(caller) if caller.node == NodeId(node) => Ok(()),
        _ => Err(Status::invalid_argument("a request in the name of another node")),
    }
}

#[tonic::async_trait]
impl Membership for MembershipService {
    async fn hello(&self, request: Request<rpc::HelloRequest>) -> Result<Response<rpc::HelloReply>, Status> {
        let claimed = request.get_ref().node.as_ref().map_or(0, |node| node.id);
        check_caller(&request, claimed)?;
        let shared = &self.shared;
        let node = wire::NodeInfo::decode(request.into_inner().node)?;
        if node.id != shared.local.node() {
            shared.peers.told(node.id, &node.address);
        }
        let (leader, leader_address) = shared.leader();
        let created = shared.created();
        let cluster_id = created.or(shared.local.cluster_id());
        Ok(Response::new(rpc::HelloReply {
            node: Some(shared.node_info().encode()),
            cluster_name: shared.options.cluster_name.clone(),
            cluster_id: cluster_id.map(|id| id.to_bytes().to_vec().into()).unwrap_or_default(),
            created: created.is_some(),
            pristine: shared.group.is_pristine(),
            attempt: shared.attempt.read().as_ref().map(wire::encode_attempt),
            leader,
            leader_address,
        }))
    }

    async fn grant(&self, request: Request<rpc::GrantRequest>) -> Result<Response<rpc::GrantReply>, Status> {
        let rpc::GrantRequest { attempt, to } = request.into_inner();
        if NodeId(to) != self.shared.local.node() {
            return Err(Status::failed_precondition("another node"));
        }
        let attempt = wire::decode_attempt(attempt.ok_or_else(|| Status::invalid_argument("no attempt"))?)?;
        let (answer, decided) = oneshot::channel();
        self.tell(founding::Input::Grant { attempt, answer }).await?;
        // No answer when the grant could not be kept.
        let answer = decided.await.map_err(|_| Status::unavailable("cannot keep a grant"))?;
        let bound_to = answer.bound_to.as_ref().map(wire::encode_attempt);
        Ok(Response::new(rpc::GrantReply { granted: answer.granted, bound_to }))
    }

    async fn release(
        &self,
        request: Request<rpc::ReleaseRequest>,
    ) -> Result<Response<rpc::ReleaseReply>, Status> {
        let cluster_id = wire::decode_cluster_id(&request.into_inner().cluster_id)?;
        self.tell(founding::Input::Release(cluster_id)).await?;
        Ok(Response::new(rpc::ReleaseReply {}))
    }

    async fn join(&self, request: Request<rpc::JoinRequest>) -> Result<Response<rpc::JoinReply>, Status> {
        let claimed = request.get_ref().node.as_ref().map_or(0, |node| node.id);
        check_caller(&request, claimed)?;
        let node = wire::NodeInfo::decode(request.into_inner().node)?;
        let outcome = Arc::clone(&self.shared).admit(node).await;
        Ok(Response::new(rpc::JoinReply { outcome: Some(outcome) }))
    }

    async fn lease(&self, request: Request<rpc::LeaseRequest>) -> Result<Response<rpc::LeaseReply>, Status> {
        check_caller(&request, request.get_ref().node)?;
        let rpc::LeaseRequest { node, incarnation, address } = request.into_inner();
        let member = Member { node: NodeId(node), incarnation: Incarnation(incarnation) };
        let outcome = Some(self.shared.renew(member, &address));
        Ok(Response::new(rpc::LeaseReply { outcome }))
    }

    async fn propose(
        &self,
        request: Request<rpc::ProposeRequest>,
    ) -> Result<Response<rpc::ProposeReply>, Status> {
        use rpc::propose_reply::Outcome;
        let command = request.into_inner().command;
        // What does not decode would stop every node that applies it.
        if let Err(error) = Command::decode(&command) {
            return Err(Status::invalid_argument(error.to_string()));
        }
        if command.len() > COMMAND_BYTES_MAX {
            return Err(Status::invalid_argument("a command that is too large"));
        }
        let outcome = match self.shared.propose_here(command).await {
            Ok((index, reply)) => Outcome::Applied(rpc::Applied { index, reply }),
            Err(ProposeError::NoLeader) => Outcome::NotLeader(self.shared.not_leader()),
            Err(ProposeError::Busy) => Outcome::Busy(rpc::Busy {}),
            // The others may have it from a leader that has stopped since, and go on with it.
            Err(ProposeError::Unknown(reason) | ProposeError::Stopped(reason)) => Outcome::Unknown(reason),
            Err(error) => Outcome::Refused(error.to_string()),
        };
        Ok(Response::new(rpc::ProposeReply { outcome: Some(outcome) }))
    }

    async fn leave(&self, request: Request<rpc::LeaveRequest>) -> Result<Response<rpc::ChangeReply>, Status> {
        check_caller(&request, request.get_ref().node)?;
        let rpc::LeaveRequest { node, incarnation } = request.into_inner();
        let member = Member { node: NodeId(node), incarnation: Incarnation(incarnation) };
        let outcome = Some(Arc::clone(&self.shared).dismiss(member.node, Command::Leave { member }).await);
        Ok(Response::new(rpc::ChangeReply { outcome }))
    }

    async fn remove(
        &self,
        request: Request<rpc::RemoveRequest>,
    ) -> Result<Response<rpc::ChangeReply>, Status> {
        let node = NodeId(request.into_inner().node);
        let outcome = Some(Arc::clone(&self.shared).dismiss(node, Command::Remove { node }).await);
        Ok(Response::new(rpc::ChangeReply { outcome }))
    }

    async fn status(
        &self,
        _request: Request<rpc::StatusRequest>,
    ) -> Result<Response<rpc::StatusReply>, Status> {
        Ok(Response::new(self.shared.status().encode()))
    }
}
