//! A client identifier has one live connection at most, among the nodes that may act as members.

use std::collections::BTreeMap;

use flotilla_mqtt::session::ClientId;

use super::Violation;

/// The connections that were seen in one step.
#[derive(Default)]
pub struct Connections<'a>(BTreeMap<ClientId, &'a str>);

impl<'a> Connections<'a> {
    /// A node that is a member has these connections.
    pub fn check(
        &mut self,
        name: &'a str,
        connected: impl IntoIterator<Item = ClientId>,
    ) -> Result<(), Violation> {
        for client in connected {
            if let Some(other) = self.0.insert(client.clone(), name) {
                return Err(format!("{client} is connected to {other} and to {name}"));
            }
        }
        Ok(())
    }
}
