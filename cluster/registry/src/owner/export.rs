//! A session on its way to another node.

use bytes::Bytes;
use flotilla_mqtt::session::ClientId;
use flotilla_state::{ConnectionEpoch, Member};

use crate::{context::Context, message::Message};

/// A demand for a session.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Wanted {
    pub(crate) by: Member,
    pub(crate) epoch: ConnectionEpoch,
    pub(crate) discard: bool,
}

/// See the module. It is named by the claim under which the session goes.
#[derive(Debug)]
pub(super) struct Export {
    pub(super) epoch: ConnectionEpoch,
    pub(super) to: Member,
    pub(super) stage: ExportStage,
}

#[derive(Debug)]
pub(super) enum ExportStage {
    /// The shell has been asked for it.
    Asked {
        /// The new owner has given up or ended.
        cancelled: bool,
        /// Who wants it instead.
        next: Option<Wanted>,
    },
    /// It was sent, and is kept here until it is taken.
    Sent,
}

impl Export {
    pub(super) fn new(wanted: Wanted) -> Self {
        let stage = ExportStage::Asked { cancelled: false, next: None };
        Self { epoch: wanted.epoch, to: wanted.by, stage }
    }

    pub(super) fn is_sent(&self) -> bool {
        matches!(self.stage, ExportStage::Sent)
    }

    /// Who would have it instead, under this claim, does not want it any more.
    pub(super) fn forget_wanted(&mut self, epoch: ConnectionEpoch) {
        if let ExportStage::Asked { cancelled, next } = &mut self.stage
            && next.is_some_and(|next| next.epoch == epoch)
        {
            *next = None;
            *cancelled = true;
        }
    }

    /// Members have ended. Returns whether the session that was sent comes back.
    pub(super) fn handle_ended(&mut self, ended: &[Member]) -> bool {
        let is_void = ended.contains(&self.to);
        match &mut self.stage {
            ExportStage::Asked { cancelled, next } => {
                if next.is_some_and(|next| ended.contains(&next.by)) {
                    *next = None;
                    *cancelled = true;
                }
                if is_void {
                    *cancelled = true;
                }
                false
            }
            ExportStage::Sent => is_void,
        }
    }
}

/// A session goes in parts, so that nothing else waits long behind a large one.
const PART_BYTES_MAX: usize = 256 << 10;

pub(super) fn send_session(
    context: &mut Context<'_>,
    client: &ClientId,
    epoch: ConnectionEpoch,
    to: Member,
    mut session: Bytes,
) {
    loop {
        let part = session.split_to(session.len().min(PART_BYTES_MAX));
        let more = !session.is_empty();
        context.send(to, Message::Handed { client: client.clone(), epoch, part: Some(part), more });
        if !more {
            return;
        }
    }
}
