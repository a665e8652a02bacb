//! The gRPC services between nodes.
