//! Which node serves which client, and the wills of clients whose node dies. Pure.
//!
//! [`Registry`] is the state machine of one node.

mod clients;
mod context;
mod keeper;
mod message;
mod office;
mod own_will;
mod registrar;
mod registry;
mod types;
mod wire;

pub use registry::Registry;
pub use types::{
    KeptWill, Limits, MessageError, Output, Refusal, RequestId, Source, Stats, Tenure, View, WillId,
};
