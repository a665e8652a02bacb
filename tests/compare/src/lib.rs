//! What measuring on this machine needs, whatever is measured: what the machine and its processes do ([`machine`]), what other work
//! disturbs ([`disturbance`]), where loads connect from ([`source`]), and how numbers are written ([`figure`]).
//!
//! The comparison itself is the program of this crate; `tests/overload` uses these parts, too.

pub mod disturbance;
pub mod figure;
pub mod machine;
pub mod source;
