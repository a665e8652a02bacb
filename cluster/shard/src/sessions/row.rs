//! A session and its row.

use std::sync::Arc;

use flotilla_mqtt::Timestamp;
use flotilla_state::{ConnectionEpoch, ShardEpoch};

use super::{Limits, Received, Session};
use crate::{
    DecodeError, SessionId,
    rows::SessionRow,
    wire::{
        Overlap, group_strategy, group_strategy_number, queue_full, queue_full_number, received_ids,
        session_client, stored_numbers,
    },
};

impl Session {
    pub(crate) fn to_row(&self) -> SessionRow {
        let received = self.received.as_ref().map_or(&[][..], |received| received.list());
        SessionRow {
            client: self.client.as_str().to_owned(),
            epoch_shard: self.epoch.shard.0,
            epoch_sequence: self.epoch.sequence,
            turn: self.turn,
            owner: self.owner.as_deref().map(|owner| (*owner).into()),
            present: self.present,
            expiry: Some(self.expiry.into()),
            ends_at: self.ends_at.map(|at| Timestamp::from(at).as_millis()),
            window: self.limits.window.into(),
            awaiting_rel_max: self.limits.awaiting_rel_max.into(),
            messages_max: self.limits.messages_max,
            bytes_max: self.limits.bytes_max,
            full: queue_full_number(self.limits.full),
            overlap: Overlap::from(self.limits.overlap).into(),
            next_seq: self.next_seq,
            maybe_sent_until: self.maybe_sent_until,
            next_number: self.next_number,
            received_ids: received.iter().map(|taken| taken.id.value().into()).collect(),
            received_numbers: received.iter().map(|taken| taken.number).collect(),
            next_subscription: self.next_subscription,
            received_stored: stored_numbers(received),
            kept_until: self.kept_until,
            is_window_closed: !self.has_window,
            queue_qos0: self.limits.queue_qos0,
            group_strategy: group_strategy_number(self.limits.group_strategy),
        }
    }

    pub(crate) fn from_row(id: SessionId, row: &SessionRow) -> Result<Self, DecodeError> {
        let short = |number: u32, field| u16::try_from(number).map_err(|_| DecodeError::Field(field));
        let limits = Limits {
            bytes_max: row.bytes_max,
            messages_max: row.messages_max,
            window: short(row.window, "window")?,
            awaiting_rel_max: short(row.awaiting_rel_max, "awaiting_rel_max")?,
            full: queue_full(row.full)?,
            overlap: Overlap::read(row.overlap)?,
            queue_qos0: row.queue_qos0,
            group_strategy: group_strategy(row.group_strategy)?,
        };
        let received = received_ids(&row.received_ids, &row.received_numbers, &row.received_stored)?;
        let received = Received::from_list(received).ok_or(DecodeError::Field("received"))?;
        Ok(Self {
            epoch: ConnectionEpoch { shard: ShardEpoch(row.epoch_shard), sequence: row.epoch_sequence },
            turn: row.turn,
            owner: row.owner.map(|owner| Arc::new(owner.into())),
            expiry: row.expiry.ok_or(DecodeError::Field("expiry"))?.into(),
            ends_at: row.ends_at.map(|at| Timestamp::from_millis(at).into()),
            received: (received.len() > 0).then(|| Box::new(received)),
            next_seq: row.next_seq,
            maybe_sent_until: row.maybe_sent_until,
            kept_until: row.kept_until,
            has_window: !row.is_window_closed,
            next_number: row.next_number,
            next_subscription: row.next_subscription,
            present: row.present,
            is_stored: true,
            ..Self::new(id, session_client(&row.client)?, limits)
        })
    }
}
