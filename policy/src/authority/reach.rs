//! What a subject can reach: by itself, by making others act, and by taking services over.

use std::cmp::Reverse;
use std::collections::{BTreeMap, BTreeSet, BinaryHeap, HashMap, HashSet};
use std::sync::Arc;

use super::ability::{Ability, abilities};
use super::flow::{Flow, Node, Step};
use super::{Index, Object, Op, Right, RightPath, Rule, Subject};
use crate::model::Policy;

/// The largest number of paths of one right that are listed.
pub(crate) const MAX_PATHS: usize = 16;

/// The authority of a policy: what is done at each node, and the steps between them.
pub(crate) struct Authority {
    parties: HashMap<Node, Subject>,
    subjects: Vec<Subject>,
    abilities: HashMap<Node, Vec<Ability>>,
    steps: HashMap<Node, Vec<Step>>,
}

/// The distance of a node: services taken over, then steps.
type Distance = (u32, usize);

/// What one subject reaches.
pub(crate) struct Reach {
    start: Node,
    /// The nodes, the nearest first.
    pub order: Vec<(Node, Distance)>,
    /// For each node, every step that leads to it on a shortest way, with the node that it is from.
    before: HashMap<Node, Vec<(Node, Step)>>,
    /// The number of steps that the search looked at.
    pub work: usize,
}

/// A way to a right.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(crate) struct Way {
    /// The services that are taken over, in order.
    pub takeovers: Vec<usize>,
    /// The rules over which data is passed, then those that give the right.
    pub rules: Vec<Rule>,
    /// The object, the operation and the amount.
    pub object: Object,
    pub op: Op,
    pub amount: u64,
}

impl Way {
    /// Returns the way of a subject to what it can do itself.
    pub(crate) fn of(ability: &Ability) -> Way {
        Path::default().to(ability)
    }
}

impl Authority {
    pub(crate) fn new(policy: &Policy, index: &Index) -> Authority {
        let flow = Flow::new(policy, index);
        let services = (0..index.services.len()).map(Subject::Service);
        let domains = (0..index.domains.len()).map(Subject::Domain);
        let subjects: Vec<Subject> =
            services.chain(domains).chain([Subject::XenStoreDaemon, Subject::Toolstack]).collect();
        let queues = (0..index.queues.len()).flat_map(|queue| [Node::Asked(queue), Node::Told(queue)]);
        let fed = (0..index.services.len()).map(Node::Fed);
        let nodes: Vec<Node> = subjects.iter().map(|subject| Node::All(*subject)).chain(queues).chain(fed).collect();
        let abilities = abilities(policy, index, &flow, &nodes);
        let steps = nodes.iter().map(|node| (*node, flow.first_steps(*node))).collect();
        let parties = nodes.iter().filter_map(|node| Some((*node, node.party(index)?))).collect();
        Authority { parties, subjects, abilities, steps }
    }

    /// Returns every subject.
    pub(crate) fn subjects(&self) -> &[Subject] {
        &self.subjects
    }

    /// Returns what a subject reaches with up to `takeovers` services taken over, without the help
    /// of `unless`.
    ///
    /// Each node is visited once, so that the work is at most the number of steps of the policy,
    /// whatever the number of takeovers.
    pub(crate) fn reach(&self, subject: Subject, takeovers: u32, unless: &[Subject]) -> Reach {
        let start = Node::All(subject);
        let mut reach = Reach { start, order: Vec::new(), before: HashMap::new(), work: 0 };
        let mut nearest: HashMap<Node, Distance> = HashMap::from([(start, (0, 0))]);
        let mut open = BinaryHeap::from([Reverse(((0, 0), start))]);
        let mut done = HashSet::new();
        while let Some(Reverse((distance, node))) = open.pop() {
            if !done.insert(node) {
                continue;
            }
            reach.order.push((node, distance));
            for step in self.steps.get(&node).map_or(&[][..], |steps| steps) {
                reach.work += 1;
                let next = (distance.0 + step.cost, distance.1 + 1);
                let party = self.parties.get(&step.to);
                if next.0 > takeovers || party.is_some_and(|party| unless.contains(party)) {
                    continue;
                }
                let best = nearest.entry(step.to).or_insert((u32::MAX, usize::MAX));
                let before = reach.before.entry(step.to).or_default();
                if next < *best {
                    *best = next;
                    before.clear();
                    open.push(Reverse((next, step.to)));
                }
                if next == *best && step.to != start {
                    before.push((node, *step));
                }
            }
        }
        reach
    }

    /// Returns what is done at a node, for the subject that started at `start`: the processor time,
    /// stack and memory of another service stay its own.
    pub(crate) fn abilities(&self, node: Node, start: Node) -> impl Iterator<Item = &Ability> {
        let all = self.abilities.get(&node).map_or(&[][..], |abilities| abilities);
        all.iter().filter(move |ability| node == start || passes_on(ability.op, ability.object))
    }

    /// Returns the number of steps of the policy.
    #[cfg(test)]
    pub(crate) fn step_count(&self) -> usize {
        self.steps.values().map(Vec::len).sum()
    }

    /// Returns what a subject can do itself.
    pub(crate) fn own(&self, subject: Subject) -> impl Iterator<Item = &Ability> {
        self.abilities.get(&Node::All(subject)).map_or(&[][..], |abilities| abilities).iter()
    }

    /// Returns the rights of a subject with up to `takeovers` services taken over: each operation
    /// on each object once, with the fewest takeovers, then the largest amount, then the fewest
    /// rules.
    pub(crate) fn rights(&self, subject: Subject, takeovers: u32) -> Vec<Way> {
        let reach = self.reach(subject, takeovers, &[]);
        self.best(&reach).into_values().map(|(_, node, ability)| reach.way(node).to(ability)).collect()
    }

    /// Returns the rights of a subject without takeovers: see [`rights`](Self::rights).
    pub(crate) fn closure(&self, subject: Subject) -> Vec<Right> {
        let reach = self.reach(subject, 0, &[]);
        let mut ways: HashMap<Node, Arc<[Rule]>> = HashMap::new();
        let right = |(_, node, ability): (Rank, Node, &Ability)| {
            let way = ways.entry(node).or_insert_with(|| reach.way(node).rules.into());
            let path = RightPath { way: way.clone(), given: ability.rules.as_slice().into() };
            let Ability { object, op, amount, .. } = *ability;
            Right { subject, object, op, amount, path }
        };
        self.best(&reach).into_values().map(right).collect()
    }

    /// Returns the best place of each operation on each object.
    fn best(&self, reach: &Reach) -> BTreeMap<(Object, Op), (Rank, Node, &Ability)> {
        let mut best: BTreeMap<(Object, Op), (Rank, Node, &Ability)> = BTreeMap::new();
        for (node, distance) in &reach.order {
            for ability in self.abilities(*node, reach.start) {
                let rank = rank(*distance, ability);
                let entry = best.entry((ability.object, ability.op)).or_insert((rank, *node, ability));
                if rank < entry.0 {
                    *entry = (rank, *node, ability);
                }
            }
        }
        best
    }

    /// Returns the best way to one of the targets, in the order of [`rights`](Self::rights), and all
    /// other ways that are as good, up to [`MAX_PATHS`].
    pub(crate) fn ways(&self, reach: &Reach, target: &dyn Fn((Object, Op)) -> bool) -> Vec<Way> {
        let mut best: Option<Rank> = None;
        let mut found: Vec<(Node, &Ability)> = Vec::new();
        for (node, distance) in &reach.order {
            for ability in self.abilities(*node, reach.start) {
                let rank = rank(*distance, ability);
                if !target((ability.object, ability.op)) || best.is_some_and(|best| best < rank) {
                    continue;
                }
                if best != Some(rank) {
                    found.clear();
                    best = Some(rank);
                }
                found.push((*node, ability));
            }
        }
        let mut ways = Vec::new();
        for (node, ability) in found {
            let paths = reach.all_ways(node, MAX_PATHS.saturating_sub(ways.len()));
            ways.extend(paths.into_iter().map(|path| path.to(ability)));
        }
        ways
    }

    /// Returns the least number of takeovers with which a subject does each operation, up to
    /// `takeovers`.
    pub(crate) fn least(&self, subject: Subject, takeovers: u32) -> HashMap<(Object, Op), u32> {
        let reach = self.reach(subject, takeovers, &[]);
        let mut least = HashMap::new();
        for (node, (cost, _)) in &reach.order {
            for ability in self.abilities(*node, reach.start) {
                least.entry((ability.object, ability.op)).or_insert(*cost);
            }
        }
        least
    }
}

/// The order of ways: takeovers, the amount, the rules.
type Rank = (u32, Reverse<u64>, usize);

fn rank((takeovers, steps): Distance, ability: &Ability) -> Rank {
    (takeovers, Reverse(ability.amount), steps + ability.rules.len())
}

/// Returns `true` if an operation is one that a service does for whoever controls it.
pub(crate) fn passes_on(op: Op, object: Object) -> bool {
    let own_memory =
        matches!(op, Op::Claim | Op::Weigh | Op::Keep | Op::FromModule | Op::FromCommandLine | Op::FromXenStoreRing);
    !own_memory && !matches!(object, Object::Itself | Object::Predictors | Object::Weakness(_))
}

/// The rules of a way to a node, and the services taken over on it.
#[derive(Clone, Default)]
struct Path {
    takeovers: Vec<usize>,
    rules: Vec<Rule>,
}

impl Path {
    /// Returns the way that ends with an ability.
    fn to(mut self, ability: &Ability) -> Way {
        self.rules.extend_from_slice(&ability.rules);
        let Ability { object, op, amount, .. } = *ability;
        Way { takeovers: self.takeovers, rules: self.rules, object, op, amount }
    }

    fn of(steps: &[Step]) -> Path {
        let mut path = Path::default();
        for step in steps {
            path.rules.push(step.rule);
            if let (1, Node::All(Subject::Service(service))) = (step.cost, step.to) {
                path.takeovers.push(service);
            }
        }
        path
    }
}

impl Reach {
    /// Returns the first shortest way to a node.
    fn way(&self, node: Node) -> Path {
        let (mut steps, mut at) = (Vec::new(), node);
        while at != self.start
            && let Some((from, step)) = self.before.get(&at).and_then(|before| before.first())
        {
            steps.push(*step);
            at = *from;
        }
        steps.reverse();
        Path::of(&steps)
    }

    /// Returns up to `most` shortest ways to a node.
    fn all_ways(&self, node: Node, most: usize) -> Vec<Path> {
        let mut ways = Vec::new();
        let mut seen = BTreeSet::new();
        let mut open: Vec<(Node, Vec<Step>)> = vec![(node, Vec::new())];
        while let Some((at, behind)) = open.pop() {
            if ways.len() >= most {
                break;
            }
            if at == self.start {
                let steps: Vec<Step> = behind.iter().rev().copied().collect();
                if seen.insert(steps.clone()) {
                    ways.push(Path::of(&steps));
                }
                continue;
            }
            for (from, step) in self.before.get(&at).map_or(&[][..], |before| before).iter().rev() {
                let mut longer = behind.clone();
                longer.push(*step);
                open.push((*from, longer));
            }
        }
        ways
    }
}
