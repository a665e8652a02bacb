//! What a lane is opened through.

use crate::peers::{Class, Peers};
use bytes::Bytes;
use flotilla_lane::LaneId;
use flotilla_state::NodeId;
use tonic::{
    Status,
    body::Body,
    codegen::{Body as HttpBody, Service, StdError, http},
};
use tower::{ServiceExt, util::BoxCloneSyncService};

/// Where connections come from.
pub trait Channels: Send + Sync + 'static {
    /// A channel to the node; `None` while its address is not known. It is asked each time that the lane has to be opened.
    ///
    /// The channel connects when it is used, gives up after a while, has TCP_NODELAY and HTTP/2 keep-alives, shows who we
    /// are, and sets no deadline for a whole request: a lane stays open. Lanes may share a connection.
    fn channel(&self, node: NodeId, lane: LaneId) -> Option<LaneChannel>;
}

/// A gRPC channel of any type.
pub type LaneChannel = BoxCloneSyncService<http::Request<Body>, http::Response<Body>, Status>;

/// Makes a [`LaneChannel`] of a channel, bare or with interceptors around it.
pub fn lane_channel<S, B>(channel: S) -> LaneChannel
where
    S: Service<http::Request<Body>, Response = http::Response<B>> + Clone + Send + Sync + 'static,
    S::Error: Into<StdError>,
    S::Future: Send + 'static,
    B: HttpBody<Data = Bytes> + Send + 'static,
    B::Error: Into<StdError>,
{
    let channel = channel.map_response(|response: http::Response<B>| response.map(Body::new));
    BoxCloneSyncService::new(channel.map_err(|error| Status::from_error(error.into())))
}

impl Channels for Peers {
    /// All lanes to a node share a connection: flow control keeps them apart.
    fn channel(&self, node: NodeId, _: LaneId) -> Option<LaneChannel> {
        Peers::channel(self, node, Class::Lanes).map(lane_channel)
    }
}
