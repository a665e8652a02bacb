//! Networks that are broken, in every shape.

use std::time::Duration;

use super::{Breaker, Fault};
use crate::harness::random::Random;

impl Breaker {
    /// Breaks the network for so long.
    pub(super) fn partition(&mut self, fault: Fault, time: Duration, random: &mut Random) {
        let number = self.one(random);
        let others: Vec<usize> = self.founders().filter(|other| *other != number).collect();
        let (what, cuts) = match random.below(7) {
            0 | 1 => (format!("node-{number} is isolated"), both(&[number], &others)),
            2 => (format!("node-{number} is not heard by the others"), one_way(&[number], &others)),
            3 => (format!("node-{number} does not hear the others"), one_way(&others, &[number])),
            4 => self.halves(random),
            5 => self.bridge(random),
            _ if self.nodes > 3 && random.once_in(2) => self.ring(),
            _ => self.alone(),
        };
        let span = self.books.fault_begins(fault.name(), format!("{what} for {time:?}"));
        // A link may also come and go.
        let flaps = if time > Duration::from_secs(4) && random.once_in(4) { 4 } else { 1 };
        for turn in 0..flaps {
            cuts.iter().for_each(|(from, to)| self.cluster.cut_one_way(*from, *to));
            self.wait(time / flaps);
            self.cluster.heal();
            if turn + 1 < flaps {
                self.wait(Duration::from_millis(500));
            }
        }
        self.books.fault_ends(span);
        self.settle(random);
    }

    /// Some packets between all nodes are lost.
    pub(super) fn lossy(&mut self, random: &mut Random) {
        let percent = random.pick(&[2u8, 5, 20]);
        let time = Duration::from_millis(1_000 + self.up_to(random, 6_000));
        let what = format!("{percent} in 100 packets between nodes are lost for {time:?}");
        let span = self.books.fault_begins(Fault::Lossy.name(), what);
        for a in self.founders() {
            self.founders().filter(|b| *b > a).for_each(|b| self.cluster.lose(percent, a, b));
        }
        self.wait(time);
        self.cluster.heal();
        self.books.fault_ends(span);
        self.settle(random);
    }

    /// A minority and a majority.
    fn halves(&self, random: &mut Random) -> (String, Vec<Cut>) {
        let minority = self.some(self.nodes / 2, random);
        let majority: Vec<usize> = self.founders().filter(|number| !minority.contains(number)).collect();
        let what = format!("{} and {} are apart", self.names(&minority), self.names(&majority));
        (what, both(&minority, &majority))
    }

    /// One node sees both sides, which do not see each other.
    fn bridge(&self, random: &mut Random) -> (String, Vec<Cut>) {
        let bridge = random.below(self.nodes);
        let others: Vec<usize> = self.founders().filter(|number| *number != bridge).collect();
        let (left, right) = others.split_at(others.len() / 2);
        let what = format!("{} and {} are apart but for node-{bridge}", self.names(left), self.names(right));
        (what, both(left, right))
    }

    /// Each node sees its two neighbours on either side, so that each sees another majority.
    fn ring(&self) -> (String, Vec<Cut>) {
        let nodes = self.nodes;
        let apart = |a: usize, b: usize| (a + 2) % nodes == b || (b + 2) % nodes == a;
        let pairs = self.founders().flat_map(|a| self.founders().map(move |b| (a, b)));
        let cuts = pairs.filter(|(a, b)| apart(*a, *b)).collect();
        ("each node sees its neighbours in a ring only".to_owned(), cuts)
    }

    /// Nobody sees anybody.
    fn alone(&self) -> (String, Vec<Cut>) {
        let pairs = self.founders().flat_map(|a| self.founders().map(move |b| (a, b)));
        ("nobody sees anybody".to_owned(), pairs.filter(|(a, b)| a != b).collect())
    }
}

/// What does not get from one node to another.
type Cut = (usize, usize);

fn one_way(from: &[usize], to: &[usize]) -> Vec<Cut> {
    from.iter().flat_map(|from| to.iter().map(|to| (*from, *to))).collect()
}

fn both(side: &[usize], other: &[usize]) -> Vec<Cut> {
    [one_way(side, other), one_way(other, side)].concat()
}
