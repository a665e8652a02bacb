//! Who may connect.

use flotilla_mqtt::{
    ReasonCode,
    session::{AuthStep, Authenticator},
};

/// Lets everybody in, or nobody: what there is until authentication lands.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Anonymous {
    /// `auth.anonymous`.
    pub(crate) allowed: bool,
}

impl Authenticator for Anonymous {
    fn check_password(&mut self, _: &str, _: Option<&str>, _: Option<&[u8]>) -> Result<(), ReasonCode> {
        if self.allowed { Ok(()) } else { Err(ReasonCode::NotAuthorized) }
    }

    fn step(&mut self, _: &str, _: Option<&[u8]>) -> Result<AuthStep, ReasonCode> {
        Err(ReasonCode::BadAuthenticationMethod)
    }
}
