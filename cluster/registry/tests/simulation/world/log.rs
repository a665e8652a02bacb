//! The log: members come and go, and shards get other nodes.

use super::*;

impl World {
    fn commit(&mut self, mut view: View) {
        view.index = LogIndex(self.log.last().expect("it began").index.0 + 1);
        let live: BTreeSet<NodeId> = view.members.iter().map(|member| member.node).collect();
        let before = &self.log.last().expect("it began").placements;
        for (placement, before) in view.placements.iter_mut().zip(before) {
            placement.nodes.retain(|node| live.contains(node));
            let mut spare = live.iter().filter(|node| !placement.nodes.contains(node)).copied();
            let missing = REPLICAS.saturating_sub(placement.nodes.len());
            let spare: Vec<NodeId> = spare.by_ref().take(missing).collect();
            // A node that has just joined is not up yet.
            if placement.nodes.is_empty() || before.nodes.len() > placement.nodes.len() {
                placement.nodes.extend(spare);
            }
            let registrar = placement.nodes.first();
            let is_new_life =
                |member: &Member| Some(&member.node) == registrar && member.incarnation.0 == view.index.0;
            let is_same = registrar == before.nodes.first() && !view.members.iter().any(is_new_life);
            placement.epoch = if is_same { before.epoch } else { ShardEpoch(view.index.0) };
        }
        self.note(|| format!("LOG {view:?}"));
        self.log.push(view);
        let index = self.log.len() - 1;
        for node in 0..self.nodes.len() {
            let delay = if self.random.percent(20) { self.random.below(300) } else { self.random.below(30) };
            self.at(delay, Event::Apply { node, index });
        }
    }

    fn view(&self) -> View {
        self.log.last().expect("it began").clone()
    }

    pub(super) fn join(&mut self, node: usize) {
        let life = self.nodes[node].life;
        self.commit_change(&Change::Join { node, life });
    }

    pub(super) fn commit_change(&mut self, change: &Change) {
        let mut view = self.view();
        match *change {
            Change::Down { member } => {
                if !view.members.contains(&member) {
                    return;
                }
                view.members.retain(|other| *other != member);
                self.commit(view);
            }
            Change::Join { node, life } => {
                let id = self.nodes[node].id;
                if self.nodes[node].life != life || !self.nodes[node].is_running {
                    return;
                }
                view.members.retain(|member| member.node != id);
                let member = Member { node: id, incarnation: Incarnation(view.index.0 + 1) };
                view.members.push(member);
                view.members.sort();
                self.commit(view);
                let delay = self.random.below(100);
                self.at(delay, Event::Admit { node, life, member });
            }
        }
    }

    /// Gives every shard other nodes.
    pub(crate) fn replace_placements(&mut self) {
        let mut view = self.view();
        for placement in &mut view.placements {
            let mut nodes: Vec<NodeId> = view.members.iter().map(|member| member.node).collect();
            for index in (1..nodes.len()).rev() {
                nodes.swap(index, self.random.index(index + 1));
            }
            nodes.truncate(REPLICAS);
            placement.nodes = nodes;
        }
        self.commit(view);
    }
}
