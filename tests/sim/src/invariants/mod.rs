//! What must hold, whatever fails. Each says what it has found as an error, with which the run ends.

mod connections;
mod delivery;
mod forwarding;
mod founding;
mod leaders;
mod progress;
mod replicas;
mod routes;
mod shards;
mod state;

pub use connections::Connections;
pub use delivery::Delivery;
pub use forwarding::Forwarding;
pub use founding::Founding;
pub use leaders::Leaders;
pub use progress::lacks;
pub use replicas::Replicas;
pub use routes::check_routes;
pub use shards::shards_lack;
pub use state::States;

/// What is wrong.
pub type Violation = String;
