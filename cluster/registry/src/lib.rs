//! Which node serves which client. Pure.
