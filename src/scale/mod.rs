#![doc = include_str!("README.md")]

#[cfg(test)]
mod claims;
#[cfg(test)]
#[expect(dead_code, reason = "the tests of memory, in other crates, use the rest")]
mod constants;
#[cfg(test)]
mod entries;
#[cfg(test)]
mod fan_out;
#[cfg(test)]
mod fleet;
#[cfg(test)]
mod model;
#[cfg(test)]
mod page;
