//! What was there before the last connection of a session.

use flotilla_mqtt::{Timestamp, session::SessionExpiry};

use super::Moment;
use crate::{
    DecodeError, Will,
    rows::FormerRow,
    wire::{will_from, will_to},
};

/// What the last Open of a session has changed, as long as its connection may come to nothing.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct Former {
    pub(crate) expiry: SessionExpiry,
    pub(crate) ends_at: Option<Moment>,
    /// The will that is not published because the client is back, and when it would be.
    pub(crate) will: Option<(Will, Moment)>,
}

impl Former {
    pub(crate) fn to_row(&self) -> FormerRow {
        FormerRow {
            expiry: Some(self.expiry.into()),
            ends_at: self.ends_at.map(Moment::as_millis),
            will: self.will.as_ref().map(|(will, _)| will_to(will)),
            due: self.will.as_ref().map(|(_, due)| due.as_millis()),
        }
    }

    pub(crate) fn from_row(row: &FormerRow) -> Result<Self, DecodeError> {
        let moment = |millis| Moment::from(Timestamp::from_millis(millis));
        let will = match (&row.will, row.due) {
            (Some(will), Some(due)) => Some((will_from(will)?, moment(due))),
            (None, None) => None,
            _ => return Err(DecodeError::Field("due")),
        };
        let expiry = row.expiry.ok_or(DecodeError::Field("expiry"))?.into();
        Ok(Self { expiry, ends_at: row.ends_at.map(moment), will })
    }
}
