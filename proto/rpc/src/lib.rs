//! The gRPC services between nodes.
//!
//! The `.proto` files are in `proto/`, the code that is generated from them is committed in `src/generated/`: a build needs
//! neither `protoc` nor a build script, and a test compares it with a fresh run. After a change of a `.proto` file, or with a
//! new one, run `UPDATE=1 cargo test -p flotilla-rpc`; then a new package needs its module here.
//!
//! Messages are kept compatible between neighbouring versions, for nodes of both share a cluster during a rolling upgrade:
//! a field number is never used twice, and a reader takes an absent field for its default.

/// The module of a package, with the code that is generated for its version 1.
macro_rules! package {
    ($(#[$doc:meta])* $name:ident) => {
        $(#[$doc])*
        #[allow(
            missing_docs,
            clippy::all,
            clippy::missing_errors_doc,
            clippy::needless_pass_by_value,
            reason = "nobody writes generated code"
        )]
        pub mod $name {
            include!(concat!("generated/flotilla.", stringify!($name), ".v1.rs"));
        }
    };
}

package! {
    /// Raft: votes, log entries and snapshots of every group of a node.
    raft
}

package! {
    /// Membership: how a node finds the others, becomes a member, remains one, and leaves.
    membership
}

package! {
    /// Admin: what the command line and the HTTP API ask of a node.
    admin
}

package! {
    /// Lanes: ordered streams of batches from one member to another.
    lanes
}
