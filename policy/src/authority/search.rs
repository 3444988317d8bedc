//! Answers one question: can this subject do that? Goes backward from the object to the subjects
//! that can cause it, and collects the rules.

use std::collections::{HashMap, HashSet};

use cloister_caps::Rights;
use cloister_caps::tables::{Access, AfterLimit};
use petgraph::algo::astar;
use petgraph::graph::{Graph, NodeIndex};

use super::closure::{own_amounts, pages};
use super::operation::{Effects, effects};
use super::{Index, Object, Op, Right, Rule, Subject};
use crate::model::{Policy, Source};

/// The rules from which it follows that a subject can do something.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(crate) struct Derivation {
    /// The amount.
    pub amount: u64,
    /// The rules, in the order in which they are used.
    pub rules: Vec<Rule>,
}

/// A chain of takeovers by which a subject would gain a right.
#[derive(Clone, Debug)]
pub(crate) struct Takeover {
    /// The services, in order, each with the rule over which it is attacked.
    pub services: Vec<(Rule, usize)>,
    /// The right of the last service.
    pub right: Right,
}

/// Answers questions about one policy.
#[derive(Clone, Copy)]
pub(crate) struct Search<'a> {
    pub policy: &'a Policy,
    pub index: &'a Index,
}

impl Search<'_> {
    /// Returns the shortest derivation of `subject` doing `op` to `object`, if there is one.
    pub(crate) fn derive(&self, subject: Subject, object: Object, op: Op) -> Option<Derivation> {
        if !op.applies_to(object) {
            return None;
        }
        match subject {
            Subject::Service(service) => {
                self.by_own_capability(service, object, op).or_else(|| self.by_request(service, object, op))
            }
            outside => self.by_outsider(outside, object, op),
        }
    }

    /// Returns the derivation from the service's own capabilities.
    fn by_own_capability(&self, service: usize, object: Object, op: Op) -> Option<Derivation> {
        let derived = |amount: u64, rules: &[Rule]| Some(Derivation { amount, rules: rules.to_vec() });
        let item = self.policy.services.items.get(service)?;
        match object {
            Object::Itself => {
                let (_, amount) = own_amounts(&item.body).into_iter().find(|(own, _)| *own == op)?;
                derived(amount, &[Rule::Service(service)])
            }
            Object::Image if item.body.after_limit == AfterLimit::StopImage => derived(1, &[Rule::Service(service)]),
            Object::Predictors if self.policy.image.strict => None,
            Object::Predictors => derived(1, &[Rule::Isolation]),
            Object::Program(program) if program == service => derived(1, &[Rule::Service(service)]),
            Object::Region(region) => self.by_mapping(service, region, op),
            Object::Port(port) if op == Op::Receive => {
                if self.index.ports.get(port)?.service == service {
                    derived(1, &[Rule::Port(port)])
                } else {
                    None
                }
            }
            Object::Port(port) => {
                let (_, operation) = op.invocation(object)?;
                let rights = self.policy.ports.items.get(port)?.body.rights.value;
                let owner = self.index.ports.get(port)?.service == service;
                if owner && rights.contains(operation.right()) { derived(1, &[Rule::Port(port)]) } else { None }
            }
            Object::Grant(grant) if self.index.grants.get(grant)?.holder == service => {
                derived(self.granted_pages(grant)?, &[Rule::Grant(grant)])
            }
            Object::Domain(domain) => derived(1, &[self.choice(service, domain)?]),
            Object::Queue(queue) => {
                let ends = self.index.queues.get(queue)?;
                let end = if op == Op::Request { ends.from } else { ends.to };
                let depth = u64::from(self.policy.queues.items.get(queue)?.body.depth);
                if end == service { derived(depth, &[Rule::Queue(queue)]) } else { None }
            }
            _ => {
                let (kind, operation) = op.invocation(object)?;
                let entry = item
                    .body
                    .held
                    .iter()
                    .position(|held| held.kind == kind && held.rights.contains(operation.right()))?;
                derived(1, &[Rule::HeldCapability(service, entry)])
            }
        }
    }

    /// Returns the rule by which a service itself chooses the peer: the pin, or else a port that it
    /// opens or a grant that it issues.
    fn choice(&self, service: usize, domain: usize) -> Option<Rule> {
        let links = self.index.domains.get(domain)?;
        if let Some(by) = links.pinned_by {
            return (by == service).then_some(Rule::Pin(domain));
        }
        let opens = |port: &&usize| {
            let rights = self.policy.ports.items.get(**port).map(|item| item.body.rights.value);
            let owner = self.index.ports.get(**port).is_some_and(|channel| channel.service == service);
            owner && rights.is_some_and(|rights| rights.contains(Rights::OPEN))
        };
        let issues = |grant: &&usize| self.index.grants.get(**grant).is_some_and(|grant| grant.holder == service);
        let port = links.ports.iter().find(opens).map(|port| Rule::Port(*port));
        port.or_else(|| links.grants.iter().find(issues).map(|grant| Rule::Grant(*grant)))
    }

    fn by_mapping(&self, service: usize, region: usize, op: Op) -> Option<Derivation> {
        let entry = self.index.maps.get(region)?.iter().position(|(mapper, _)| *mapper == service)?;
        let item = self.policy.regions.items.get(region)?;
        let writes = item.body.map.get(entry)?.how.value.writes();
        let map = Rule::Map(region, entry);
        let source = item.body.source.value;
        let amount = match (op, source) {
            (Op::Read, _) => return Some(Derivation { amount: pages(source), rules: vec![map] }),
            (Op::Write, _) => return writes.then(|| Derivation { amount: pages(source), rules: vec![map] }),
            (Op::Claim, Source::Fixed { pages }) => u64::from(pages),
            (Op::Claim, Source::Share { minimum, .. }) => u64::from(minimum),
            (Op::Weigh, Source::Share { weight, .. }) => u64::from(weight),
            (Op::FromModule, Source::Module) => 1,
            (Op::FromCommandLine, Source::CommandLine) => 1,
            (Op::FromXenStoreRing, Source::XenStoreRing) => 1,
            (Op::Keep, _) if writes && !self.index.cleared_on_restart(self.policy, region) => 1,
            _ => return None,
        };
        Some(Derivation { amount, rules: vec![map, Rule::Region(region)] })
    }

    fn granted_pages(&self, grant: usize) -> Option<u64> {
        Some(u64::from(self.policy.grants.items.get(grant)?.body.pages.value))
    }

    /// Returns the derivation from requests to other services.
    fn by_request(&self, service: usize, object: Object, op: Op) -> Option<Derivation> {
        match object {
            Object::Grant(grant) => {
                let granted = self.index.grants.get(grant)?;
                let queues = self.queues_to(granted.holder, service, &|effects| effects.grants)?;
                // The rule is that of the direct client only, whoever asks that client.
                let asker = queues.last().and_then(|queue| self.index.queues.get(*queue))?.from;
                if asker != granted.client {
                    return None;
                }
                Some(Derivation { amount: self.granted_pages(grant)?, rules: self.chain(&queues, Rule::Grant(grant)) })
            }
            Object::Domain(domain) => {
                let links = self.index.domains.get(domain).filter(|links| links.pinned_by.is_none())?;
                let issued = |grant: &usize| self.by_request(service, Object::Grant(*grant), Op::Issue);
                let shortest = links.grants.iter().filter_map(issued).min_by_key(|found| found.rules.len())?;
                Some(Derivation { amount: 1, ..shortest })
            }
            Object::Port(port) if op == Op::Send => {
                let channel = self.index.ports.get(port)?;
                let rights = self.policy.ports.items.get(port)?.body.rights.value;
                let to_domain = channel.peer.is_some();
                let caused = |effects: Effects| if to_domain { effects.events } else { effects.store };
                let queues = self.queues_to(channel.service, service, &caused)?;
                rights
                    .contains(Rights::SEND)
                    .then(|| Derivation { amount: 1, rules: self.chain(&queues, Rule::Port(port)) })
            }
            Object::Path(entry, path) => {
                let right = self.policy.xenstore.items.get(entry)?.body.get(path)?;
                let has = match op {
                    Op::Read => right.read,
                    Op::Write => right.write,
                    _ => right.watch,
                };
                let client = *self.index.clients.get(entry)?;
                let around = self.index.services.get(client)?;
                let queue = around.client_queues.iter().copied().find(|queue| self.effects(*queue).store)?;
                (has && client == service)
                    .then(|| Derivation { amount: 1, rules: self.chain(&[queue], Rule::Path(entry, path)) })
            }
            _ => None,
        }
    }

    fn chain(&self, queues: &[usize], last: Rule) -> Vec<Rule> {
        queues.iter().map(|queue| Rule::Queue(*queue)).chain([last]).collect()
    }

    fn effects(&self, queue: usize) -> Effects {
        self.policy.queues.items.get(queue).map_or_else(Effects::default, |item| effects(&item.body.interface.value))
    }

    /// Returns the chain of queues over which requests of `client` reach `server`.
    ///
    /// The interface of the last queue has the wanted effect. Each interface before it passes
    /// requests on over the next one. Requests form no cycle, so this ends.
    fn queues_to(&self, server: usize, client: usize, wanted: &dyn Fn(Effects) -> bool) -> Option<Vec<usize>> {
        let served = &self.index.services.get(server)?.server_queues;
        let wanted_here = || served.iter().copied().filter(|queue| wanted(self.effects(*queue)));
        if let Some(queue) =
            wanted_here().find(|queue| self.index.queues.get(*queue).is_some_and(|ends| ends.from == client))
        {
            return Some(vec![queue]);
        }
        wanted_here().find_map(|queue| {
            let asker = self.index.queues.get(queue)?.from;
            let interface = self.policy.queues.items.get(queue)?.body.interface.value.as_str();
            let mut queues = self.queues_to(asker, client, &|effects| effects.onward.contains(&interface))?;
            queues.push(queue);
            Some(queues)
        })
    }

    fn by_outsider(&self, subject: Subject, object: Object, op: Op) -> Option<Derivation> {
        let one = |rule| Some(Derivation { amount: 1, rules: vec![rule] });
        match object {
            Object::Weakness(weakness) => {
                let allowed = subject == Subject::Toolstack && !self.policy.image.refused.contains(weakness);
                allowed.then(|| Derivation { amount: 1, rules: vec![Rule::NotRefused(weakness)] })
            }
            Object::Domain(domain) if subject == Subject::Toolstack => {
                self.index.domains.get(domain)?.pinned_by?;
                one(Rule::Pin(domain))
            }
            Object::Region(region) if matches!(op, Op::Read | Op::Write) => match subject {
                Subject::Domain(domain) => {
                    let grant = *self.index.granted.get(&region)?;
                    let item = self.policy.grants.items.get(grant)?;
                    let allowed = op == Op::Read || item.body.access.value == Access::ReadWrite;
                    let peer = self.index.grants.get(grant)?.peer == domain;
                    (peer && allowed).then(|| Derivation {
                        amount: u64::from(item.body.pages.value),
                        rules: vec![Rule::Grant(grant)],
                    })
                }
                _ => match self.policy.regions.items.get(region)?.body.source.value {
                    Source::Module | Source::CommandLine if subject == Subject::Toolstack => one(Rule::Region(region)),
                    Source::XenStoreRing if subject == Subject::XenStoreDaemon => one(Rule::Region(region)),
                    _ => None,
                },
            },
            Object::Port(port) if op == Op::Send => {
                let channel = self.index.ports.get(port)?;
                let rights = self.policy.ports.items.get(port)?.body.rights.value;
                match (channel.peer, subject) {
                    (Some(peer), Subject::Domain(domain)) if peer == domain && rights.contains(Rights::OPEN) => {
                        one(Rule::Port(port))
                    }
                    (None, Subject::XenStoreDaemon) => one(Rule::Port(port)),
                    _ => None,
                }
            }
            _ => None,
        }
    }
}

/// The subjects that can pass data to a service, and so attack it.
pub(crate) struct Influence {
    graph: Graph<Subject, Rule>,
    nodes: HashMap<Subject, NodeIndex>,
}

impl Influence {
    pub(crate) fn new(policy: &Policy, index: &Index) -> Influence {
        let mut influence = Influence { graph: Graph::new(), nodes: HashMap::new() };
        let services = (0..index.services.len()).map(Subject::Service);
        let domains = (0..index.domains.len()).map(Subject::Domain);
        for subject in services.chain(domains).chain([Subject::XenStoreDaemon, Subject::Toolstack]) {
            let node = influence.graph.add_node(subject);
            influence.nodes.insert(subject, node);
        }
        for (position, ends) in index.queues.iter().enumerate() {
            let (from, to) = (Subject::Service(ends.from), Subject::Service(ends.to));
            influence.edge(from, to, Rule::Queue(position));
            influence.edge(to, from, Rule::Queue(position));
        }
        for (position, map) in index.maps.iter().enumerate() {
            let writers = map.iter().filter(|(_, how)| how.writes());
            for (writer, _) in writers {
                for (entry, (reader, _)) in map.iter().enumerate().filter(|(_, (reader, _))| reader != writer) {
                    influence.edge(Subject::Service(*writer), Subject::Service(*reader), Rule::Map(position, entry));
                }
            }
            let outside = match policy.regions.items.get(position).map(|item| item.body.source.value) {
                Some(Source::Module | Source::CommandLine) => Some((Subject::Toolstack, Rule::Region(position))),
                Some(Source::XenStoreRing) => Some((Subject::XenStoreDaemon, Rule::Region(position))),
                _ => index.granted.get(&position).and_then(|grant| {
                    let writes = policy.grants.items.get(*grant)?.body.access.value == Access::ReadWrite;
                    let peer = Subject::Domain(index.grants.get(*grant)?.peer);
                    writes.then_some((peer, Rule::Grant(*grant)))
                }),
            };
            for ((from, rule), (reader, _)) in
                outside.iter().flat_map(|from| map.iter().map(move |entry| (*from, entry)))
            {
                influence.edge(from, Subject::Service(*reader), rule);
            }
        }
        for (position, channel) in index.ports.iter().enumerate() {
            let from = channel.peer.map_or(Subject::XenStoreDaemon, Subject::Domain);
            influence.edge(from, Subject::Service(channel.service), Rule::Port(position));
        }
        influence
    }

    fn edge(&mut self, from: Subject, to: Subject, rule: Rule) {
        if let (Some(from), Some(to)) = (self.nodes.get(&from), self.nodes.get(&to)) {
            self.graph.add_edge(*from, *to, rule);
        }
    }

    /// Returns the shortest chain of takeovers from `subject` to a service with a right in
    /// `reached`.
    ///
    /// Of equally short chains, the first.
    pub(crate) fn takeover(&self, subject: Subject, reached: &HashMap<Subject, &Right>) -> Option<Takeover> {
        let right = |node: NodeIndex| self.graph.node_weight(node).and_then(|subject| reached.get(subject));
        let start = *self.nodes.get(&subject)?;
        let (_, path) = astar(&self.graph, start, |node| node != start && right(node).is_some(), |_| 1, |_| 0)?;
        let right = Right::clone(right(*path.last()?)?);
        let mut services = Vec::new();
        for pair in path.windows(2) {
            let [from, to] = pair else { continue };
            let rule = *self.graph.edge_weight(self.graph.find_edge(*from, *to)?)?;
            if let Some(Subject::Service(service)) = self.graph.node_weight(*to) {
                services.push((rule, *service));
            }
        }
        Some(Takeover { services, right })
    }
}

/// Returns the first right of each subject to one of `targets`.
pub(crate) fn reached<'a>(rights: &'a [Right], targets: &HashSet<(Object, Op)>) -> HashMap<Subject, &'a Right> {
    let mut reached = HashMap::new();
    for right in rights.iter().filter(|right| targets.contains(&(right.object, right.op))) {
        reached.entry(right.subject).or_insert(right);
    }
    reached
}
