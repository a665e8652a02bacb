//! What runs when.

/// One place in the order: indexes of a round, a scenario and a broker.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Turn {
    pub(crate) round: u32,
    pub(crate) scenario: usize,
    pub(crate) broker: usize,
}

/// All turns. Brokers take turns within a scenario, so that what drifts in the machine drifts for all of them; every second
/// round goes backwards, so that none of them always runs after the same other one.
///
/// `brokers`: for each scenario, those that take part.
pub(crate) fn order(rounds: u32, brokers: &[Vec<usize>]) -> Vec<Turn> {
    let mut turns = Vec::new();
    for round in 0..rounds {
        for (scenario, brokers) in brokers.iter().enumerate() {
            let mut those: Vec<_> =
                brokers.iter().map(|broker| Turn { round, scenario, broker: *broker }).collect();
            if round % 2 == 1 {
                those.reverse();
            }
            turns.extend(those);
        }
    }
    turns
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn brokers_alternate_and_every_second_round_is_reversed() {
        let turns: Vec<_> = order(3, &[vec![0, 1, 2], vec![0, 2]])
            .into_iter()
            .map(|turn| (turn.round, turn.scenario, turn.broker))
            .collect();
        let expected = [
            (0, 0, 0),
            (0, 0, 1),
            (0, 0, 2),
            (0, 1, 0),
            (0, 1, 2),
            (1, 0, 2),
            (1, 0, 1),
            (1, 0, 0),
            (1, 1, 2),
            (1, 1, 0),
            (2, 0, 0),
            (2, 0, 1),
            (2, 0, 2),
            (2, 1, 0),
            (2, 1, 2),
        ];
        assert_eq!(turns, expected);
    }

    #[test]
    fn a_scenario_without_brokers_takes_no_turn() {
        assert_eq!(order(2, &[Vec::new()]), []);
    }
}
