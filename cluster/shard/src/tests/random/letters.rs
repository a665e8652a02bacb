//! Letters of shards that the test plays, and groups.

use flotilla_mqtt::{QoS, session::QueueFull};
use flotilla_state::ShardId;

use super::World;
use crate::{
    GroupInfo, GroupMember, GroupStrategy, Letter, LoanFate, Op, QueueLimits, SessionId, Shard,
    tests::model::ModelMessage,
};

impl World {
    /// A letter of a shard that the test plays.
    pub(super) fn letter(&mut self, kind: u8, of: Option<SessionId>, [a, b, c, d, e, f]: [u8; 6]) -> Op {
        const GROUPS: [&str; 4] = ["$share/g/t/+", "$queue/#", "$share/far/t/1", "$share/far/u"];
        let far = usize::from(b) % 2;
        let (group, session) = (GROUPS[usize::from(c) % 4].into(), SessionId(u64::from(d % 3) + 1));
        let loans =
            self.model.groups.values().flat_map(|group| &group.session.queue).filter_map(|it| it.lent);
        let loans: Vec<_> = loans.collect();
        let strategies = [
            GroupStrategy::RoundRobin,
            GroupStrategy::HashTopic,
            GroupStrategy::Sticky,
            GroupStrategy::LeastInflight,
        ];
        let (mut from, letter) = match kind {
            27 | 28 => {
                let member = GroupMember {
                    group,
                    session,
                    window: u16::from(e % 5),
                    queue: QueueLimits {
                        messages_max: [0, 1, 3, 200][usize::from(f) % 4],
                        bytes_max: [40, 400, 1 << 30][usize::from(f) % 3],
                        full: if e % 2 == 0 { QueueFull::DropOldest } else { QueueFull::DropNewest },
                    },
                    strategy: strategies[usize::from(f / 4) % 4],
                    is_online: a % 4 > 0,
                };
                (far, Letter::Member(member))
            }
            29 => (far, Letter::Leave { group, session }),
            30 | 31 if !loans.is_empty() => {
                let (loan, (shard, _)) = loans[usize::from(e) % loans.len()];
                let fate = if f % 3 == 0 { LoanFate::Back } else { LoanFate::Done };
                (usize::from(shard.0 % 2), Letter::Return { loan, fate })
            }
            _ => {
                let message = ModelMessage {
                    topic: "t/1".to_owned(),
                    publisher: None,
                    properties: Vec::new(),
                    payload: vec![d; usize::from(e) % 60],
                    qos: [QoS::AtLeastOnce, QoS::ExactlyOnce][usize::from(c / 4) % 2],
                    retain: d % 2 == 0,
                    expires_at: (f % 4 == 0).then_some(self.stamp + u64::from(f)),
                };
                (
                    far,
                    Letter::Lend {
                        session: of.unwrap_or(session),
                        group: GROUPS[0].into(),
                        message: message.stored(),
                    },
                )
            }
        };
        // Now and then it is another shard that says so, or it has been said before.
        from ^= usize::from(f % 32 == 31);
        self.letters[from] += 1;
        let number = if f % 16 == 15 { self.letters[from] - 1 } else { self.letters[from] };
        let after = if f % 8 == 3 { number - 1 } else { u64::from(f % 64 == 4) * (number + 1) };
        Op::Letters { from: ShardId(u16::try_from(from).unwrap()), after, letters: vec![(number, letter)] }
    }

    /// All letters have come.
    pub(super) fn posted(&self) -> Op {
        let letters = self.replicas[0].1.letters(0, usize::MAX, usize::MAX).expect("valid rows");
        Op::Posted { letters: letters.into_iter().map(|outbound| outbound.number).collect() }
    }

    pub(super) fn check_groups(&self, shard: &Shard) {
        let groups = shard.groups(None, usize::MAX);
        assert_eq!(groups.len(), self.model.groups.len());
        for (info, (text, group)) in groups.iter().zip(&self.model.groups) {
            let online = group.members.values().filter(|(_, is_online)| *is_online).count();
            let queue = &group.session.queue;
            let expected = GroupInfo {
                group: text.as_str().into(),
                online,
                away: group.members.len() - online,
                messages: queue.len() as u64,
                bytes: group.session.bytes(),
                loans: queue.iter().filter(|entry| entry.lent.is_some()).count(),
            };
            assert_eq!(*info, expected);
        }
        let inboxes = self.model.sessions.values().flat_map(|session| &session.queue);
        let borrowed = inboxes.filter(|entry| entry.borrowed.is_some()).count();
        assert_eq!(shard.stats().borrowed, borrowed as u64);
    }
}
