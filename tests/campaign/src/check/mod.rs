//! What was recorded, held against the contract. Pure: a history in, violations out.
//!
//! The contract (C1 to C8 of the campaign): what PUBACK or PUBREC acknowledged is for every session that was subscribed, once
//! at QoS 2, in order; retained topics are registers; Session Present is true; a will comes once. An outcome that nobody
//! knows excuses exactly what it may have changed, and nothing else.

pub(crate) mod delivery;
pub(crate) mod group;
pub(crate) mod register;
pub(crate) mod session;
pub(crate) mod will;

#[cfg(test)]
mod reference;
