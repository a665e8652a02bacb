//! What must hold, whatever fails. Each says what it has found as an error, with which the run ends.

mod connections;
mod forwarding;
mod founding;
mod leaders;
mod progress;
mod retained;
mod routes;
mod state;

pub use connections::Connections;
pub use forwarding::Forwarding;
pub use founding::Founding;
pub use leaders::Leaders;
pub use progress::lacks;
pub use retained::check_retained;
pub use routes::check_routes;
pub use state::States;

/// What is wrong.
pub type Violation = String;
