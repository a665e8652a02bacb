//! Exactly one cluster is ever founded.

use parking_lot::Mutex;

use super::Violation;

/// The cluster that was founded.
#[derive(Default)]
pub struct Founding(Mutex<Option<u128>>);

impl Founding {
    /// A node has applied the beginning of a cluster, or a snapshot of one.
    pub fn check(&self, cluster: u128) -> Result<(), Violation> {
        let mut founded = self.0.lock();
        match *founded {
            Some(first) if first != cluster => {
                Err(format!("two clusters were founded: {first:x} and {cluster:x}"))
            }
            _ => {
                *founded = Some(cluster);
                Ok(())
            }
        }
    }
}
