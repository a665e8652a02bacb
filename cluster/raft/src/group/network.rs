//! The peers as openraft sees them: messages become bytes, and go through the [`Transport`].

use std::future::Future;
use std::io;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use futures_util::StreamExt;
use futures_util::future::{self, Either};
use futures_util::stream::{self, BoxStream};
use openraft::alias::ErrorSourceOf;
use openraft::error::{ErrorSource, NetworkError, RPCError, ReplicationClosed, StreamingError};
use openraft::network::{RPCOption, RaftNetworkFactory, RaftNetworkV2};
use openraft::raft::{
    AppendEntriesRequest, AppendEntriesResponse, SnapshotResponse, TransferLeaderRequest,
    TransferLeaderResponse, VoteRequest, VoteResponse,
};
use openraft::{EmptyNode, StorageError};

use super::SNAPSHOT_CHUNK_BYTES_MAX;
use super::error::{DecodeError, Unreachable};
use super::machine::Failure;
use super::ports::{GroupId, Transport};
use super::snapshot::{LiveSnapshot, SnapshotData, SnapshotFile};
use super::types::{Seat, Snapshot, Types, Vote, blocking};
use super::wire::{self, SnapshotHead};

/// Makes the [`Peer`] of each other member.
pub(super) struct Peers {
    pub(super) transport: Arc<dyn Transport>,
    /// The deadline of a message with entries. They may take longer than a heartbeat may, for they are written to the disk.
    pub(super) append_ttl: Duration,
    pub(super) failure: Failure,
}

impl RaftNetworkFactory<Types> for Peers {
    type Network = Peer;

    async fn new_client(&mut self, to: Seat, _: &EmptyNode) -> Peer {
        Peer {
            to: to.node,
            transport: Arc::clone(&self.transport),
            group: GroupId(to.group),
            append_ttl: self.append_ttl,
            failure: self.failure.clone(),
        }
    }
}

/// Another member of the group.
pub(super) struct Peer {
    to: u64,
    transport: Arc<dyn Transport>,
    /// The group as that node has it.
    group: GroupId,
    append_ttl: Duration,
    failure: Failure,
}

impl RaftNetworkV2<Types> for Peer {
    type SnapshotData = SnapshotData;

    async fn append_entries(
        &mut self,
        request: AppendEntriesRequest<Types>,
        option: RPCOption,
    ) -> Result<AppendEntriesResponse<Types>, RPCError<Types>> {
        let ttl = if request.entries.is_empty() { option.soft_ttl() } else { self.append_ttl };
        let bytes = wire::encode_append_request(request);
        let reply = self.transport.append(self.to, self.group, bytes, ttl);
        answer(reply, ttl, wire::decode_append_reply).await
    }

    async fn vote(
        &mut self,
        request: VoteRequest<Types>,
        option: RPCOption,
    ) -> Result<VoteResponse<Types>, RPCError<Types>> {
        let ttl = option.soft_ttl();
        let reply = self.transport.vote(self.to, self.group, wire::encode_vote_request(&request), ttl);
        answer(reply, ttl, wire::decode_vote_reply).await
    }

    async fn pre_vote(
        &mut self,
        request: VoteRequest<Types>,
        option: RPCOption,
    ) -> Result<VoteResponse<Types>, RPCError<Types>> {
        let ttl = option.soft_ttl();
        let reply = self.transport.pre_vote(self.to, self.group, wire::encode_vote_request(&request), ttl);
        answer(reply, ttl, wire::decode_vote_reply).await
    }

    async fn full_snapshot(
        &mut self,
        vote: Vote,
        snapshot: Snapshot,
        cancel: impl Future<Output = ReplicationClosed> + Send + 'static,
        option: RPCOption,
    ) -> Result<SnapshotResponse<Types>, StreamingError<Types>> {
        let ttl = option.soft_ttl();
        let Snapshot { meta, snapshot } = snapshot;
        let signature = meta.signature();
        let (chunks, file) = match snapshot {
            SnapshotData::File(file) => {
                let head = SnapshotHead { vote, meta, file_bytes: file.bytes() };
                (send(&head, pieces_of(file.clone())), Some(file))
            }
            SnapshotData::Live(live) => {
                (send(&SnapshotHead { vote, meta, file_bytes: 0 }, pieces_of_live(live)), None)
            }
            SnapshotData::OnDisk => {
                let early = Unreachable("a snapshot was asked for before the group had started".to_owned());
                return Err(unreachable(&early).into());
            }
        };
        let reply = self.transport.snapshot(self.to, self.group, chunks, ttl);
        let reply = answer(reply, ttl, wire::decode_snapshot_reply);
        let result = match future::select(Box::pin(reply), Box::pin(cancel)).await {
            Either::Left((result, _)) => result,
            Either::Right((closed, _)) => return Err(StreamingError::Closed(closed)),
        };
        if result.is_err()
            && let Some(error) = self.unreadable(file).await
        {
            let error = ErrorSourceOf::<Types>::from_error(&error);
            return Err(StorageError::read_snapshot(Some(signature), error).into());
        }
        Ok(result?)
    }

    async fn transfer_leader(
        &mut self,
        request: TransferLeaderRequest<Types>,
        option: RPCOption,
    ) -> Result<TransferLeaderResponse<Types>, RPCError<Types>> {
        let ttl = option.soft_ttl();
        let bytes = wire::encode_transfer_request(&request);
        let reply = self.transport.transfer(self.to, self.group, bytes, ttl);
        answer(reply, ttl, wire::decode_transfer_reply).await
    }
}

impl Peer {
    /// Why a snapshot could not be read here, after it did not arrive. Every peer refuses a damaged file, and so would the next start
    /// here: then it must be said, and here. A state that cannot be read has said so already.
    async fn unreadable(&self, file: Option<SnapshotFile>) -> Option<io::Error> {
        match file {
            Some(file) => {
                let damage = blocking(move || file.chunks().finish()).await.err()?;
                Some(self.failure.note(&damage))
            }
            None => self.failure.reason().map(io::Error::other),
        }
    }
}

/// Waits for a reply, and no longer than `ttl`, whatever the transport does.
async fn answer<T>(
    reply: impl Future<Output = Result<Bytes, Unreachable>>,
    ttl: Duration,
    decode: impl FnOnce(Bytes) -> Result<T, DecodeError>,
) -> Result<T, RPCError<Types>> {
    let bytes = match tokio::time::timeout(ttl, reply).await {
        Ok(Ok(bytes)) => bytes,
        Ok(Err(error)) => return Err(unreachable(&error)),
        Err(_) => return Err(unreachable(&Unreachable(format!("no answer within {ttl:?}")))),
    };
    decode(bytes).map_err(|error| RPCError::Network(NetworkError::new(&error)))
}

fn unreachable(error: &Unreachable) -> RPCError<Types> {
    RPCError::Unreachable(openraft::error::Unreachable::new(error))
}

type Pieces = BoxStream<'static, io::Result<Bytes>>;

/// The head and the file of a snapshot. The receiver verifies the file.
fn send(head: &SnapshotHead, pieces: Pieces) -> Pieces {
    stream::once(future::ready(Ok(wire::encode_snapshot_head(head)))).chain(pieces).boxed()
}

fn pieces_of(file: SnapshotFile) -> Pieces {
    stream::try_unfold(0u64, move |offset| {
        let file = file.clone();
        async move {
            let piece = blocking(move || file.read_raw(offset, SNAPSHOT_CHUNK_BYTES_MAX)).await;
            let piece = piece.map_err(|error| io::Error::other(error.to_string()))?;
            let next = offset + piece.len() as u64;
            Ok((!piece.is_empty()).then_some((piece, next)))
        }
    })
    .boxed()
}

fn pieces_of_live(live: LiveSnapshot) -> Pieces {
    stream::try_unfold(live, |mut live| async move {
        let (piece, live) = blocking(move || (live.next(), live)).await;
        Ok(piece.transpose()?.map(|piece| (piece, live)))
    })
    .boxed()
}
