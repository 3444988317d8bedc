//! Which party can pass data to which other, and what that makes the other do.
//!
//! A [`Node`] is a party under an influence: wholly, or by one input that it treats as its interface
//! says. A [`Step`] leads from one to the next, by a rule. A step that costs 1 takes a service over.

use std::collections::HashMap;

use cloister_caps::tables::Access;

use super::catalogue::{Direction, Effects, Grants, Input, carries_bytes, effects};
use super::paths::{Tree, in_directory};
use super::{Index, Rule, Subject};
use crate::model::{PathRight, Policy, Source};

/// The largest number of rules that are kept for the same step.
const MAX_ALIKE: usize = 4;

/// A party, and what an attacker has of it.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub(crate) enum Node {
    /// The server of a queue gets requests that the attacker causes.
    Asked(usize),
    /// The client of a queue gets answers that the attacker causes.
    Told(usize),
    /// A service gets data by memory that others write, or by events from outside the image.
    Fed(usize),
    /// It does what the attacker wants.
    All(Subject),
}

impl Node {
    /// Returns the party.
    pub(crate) fn party(self, index: &Index) -> Option<Subject> {
        let service = |service: usize| Some(Subject::Service(service));
        match self {
            Node::All(subject) => Some(subject),
            Node::Asked(queue) => service(index.queues.get(queue)?.to),
            Node::Told(queue) => service(index.queues.get(queue)?.from),
            Node::Fed(fed) => service(fed),
        }
    }
}

/// A way from one node to the next.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub(crate) struct Step {
    /// The next node.
    pub to: Node,
    /// The number of services that it takes over: 0 or 1.
    pub cost: u32,
    /// The rule that allows it.
    pub rule: Rule,
}

/// Every step of a policy.
pub(crate) struct Flow<'a> {
    policy: &'a Policy,
    index: &'a Index,
    /// For each service that is a client of `store`, the queue.
    store_queues: HashMap<usize, usize>,
    /// For each path rule that allows to write, the rules of other clients that read there.
    relays: HashMap<(usize, usize), Vec<(usize, usize)>>,
    /// The services that map the XenStore ring, with the ring and the position in its map.
    ring: Vec<(usize, (usize, usize))>,
}

/// The queue ends, memory and paths by which a party passes data on.
struct Outlet<'e> {
    /// The interfaces of its requests; `None`: every one.
    asks: Option<&'e [&'static str]>,
    /// The interfaces of its answers; `None`: every one.
    tells: Option<&'e [&'static str]>,
    /// What the messages carry.
    bytes: Bytes,
}

/// What messages carry.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Bytes {
    /// Anything: they need not be well-formed.
    Forged,
    /// Bytes of the attacker's choice where the interface has such.
    Chosen,
    /// What the sender makes itself.
    Own,
}

impl<'a> Flow<'a> {
    pub(crate) fn new(policy: &'a Policy, index: &'a Index) -> Flow<'a> {
        let store = |links: &super::index::ServiceLinks| {
            let is_store = |queue: &&usize| interface(policy, **queue) == "store";
            links.client_queues.iter().find(is_store).copied()
        };
        let services = index.services.iter().enumerate();
        let store_queues = services.filter_map(|(service, links)| Some((service, store(links)?))).collect();
        let ring = index.ring_mappers(policy).collect();
        Flow { policy, index, store_queues, relays: relays(policy), ring }
    }

    /// Returns the effects at a node, if its party follows its interfaces.
    pub(crate) fn effects(&self, node: Node) -> Option<Effects> {
        self.input_at(node).map(effects)
    }

    fn input_at(&self, node: Node) -> Option<Input<'_>> {
        match node {
            Node::All(_) => None,
            Node::Asked(queue) => Some(Input::Asked(interface(self.policy, queue))),
            Node::Told(queue) => Some(Input::Told(interface(self.policy, queue))),
            Node::Fed(_) => Some(Input::Fed),
        }
    }

    /// Returns the steps from a node, in the order of the rules. Of those to the same node at the
    /// same cost, the first [`MAX_ALIKE`].
    pub(crate) fn first_steps(&self, node: Node) -> Vec<Step> {
        let mut alike: HashMap<(Node, u32), Vec<Rule>> = HashMap::new();
        let mut first = |step: &Step| {
            let rules = alike.entry((step.to, step.cost)).or_default();
            let new = rules.len() < MAX_ALIKE && !rules.contains(&step.rule);
            if new {
                rules.push(step.rule);
            }
            new
        };
        self.steps(node).into_iter().filter(|step| first(step)).collect()
    }

    /// Returns the steps from a node, in the order of the rules.
    pub(crate) fn steps(&self, node: Node) -> Vec<Step> {
        let mut steps = Vec::new();
        match node {
            Node::All(Subject::Service(service)) => {
                self.to_services(service, &Outlet { asks: None, tells: None, bytes: Bytes::Forged }, &mut steps);
                self.by_memory(service, &mut steps);
                self.to_outside(service, &mut steps);
                self.by_grants(service, |_| true, &mut steps);
            }
            Node::All(Subject::Domain(domain)) => self.domain_steps(domain, &mut steps),
            Node::All(outside) => self.control_domain_steps(outside, &mut steps),
            Node::Asked(_) | Node::Told(_) | Node::Fed(_) => self.program_steps(node, &mut steps),
        }
        steps
    }

    /// Adds the steps from a program that follows its interfaces.
    fn program_steps(&self, node: Node, steps: &mut Vec<Step>) {
        let (Some(effects), Some(Subject::Service(service))) = (self.effects(node), node.party(self.index)) else {
            return;
        };
        let chosen = self.input_at(node).is_some_and(Input::brings_bytes);
        let bytes = if chosen { Bytes::Chosen } else { Bytes::Own };
        let outlet = Outlet { asks: Some(effects.asks), tells: Some(effects.tells), bytes };
        self.to_services(service, &outlet, steps);
        if effects.outside {
            self.by_memory(service, steps);
            self.to_outside(service, steps);
        }
        let client = match node {
            Node::Asked(queue) => self.index.queues.get(queue).map(|ends| ends.from),
            _ => None,
        };
        self.by_grants(
            service,
            |of| match effects.grants {
                Grants::None => false,
                Grants::All => true,
                Grants::OfClient => client == Some(of),
            },
            steps,
        );
        if effects.ends {
            self.by_ends(service, steps);
        }
        // The client's paths, by the server that writes them for it.
        if let (true, Node::Asked(queue)) = (effects.paths, node)
            && let Some(ends) = self.index.queues.get(queue)
        {
            self.by_paths(ends.from, steps);
        }
    }

    /// Adds the steps to the peers of the grants that a service holds, on behalf of these clients:
    /// each sees whether pages are granted.
    fn by_grants(&self, service: usize, on_behalf: impl Fn(usize) -> bool, steps: &mut Vec<Step>) {
        for grant in self.index.services.get(service).map_or(&[][..], |links| &links.held_grants) {
            if let Some(parties) = self.index.grants.get(*grant).filter(|parties| on_behalf(parties.client)) {
                self.to_domain(parties.peer, Rule::Grant(*grant), steps);
            }
        }
    }

    /// Adds the steps of a driver that has the grants on its behalf ended: to their peers, and to
    /// the holder if it is not in the catalogue. A known one only ends them.
    fn by_ends(&self, service: usize, steps: &mut Vec<Step>) {
        let Some(links) = self.index.services.get(service) else { return };
        for grant in &links.grants_on_behalf {
            if let Some(parties) = self.index.grants.get(*grant) {
                self.to_domain(parties.peer, Rule::Grant(*grant), steps);
            }
        }
        for queue in links.client_queues.iter().filter(|queue| interface(self.policy, **queue) == "grants") {
            if self.index.queues.get(*queue).is_some_and(|ends| !self.is_known(ends.to)) {
                self.input(Node::Asked(*queue), false, Rule::Queue(*queue), steps);
            }
        }
    }

    /// Adds the steps to the service at the other end of each queue.
    fn to_services(&self, service: usize, outlet: &Outlet<'_>, steps: &mut Vec<Step>) {
        let Some(links) = self.index.services.get(service) else { return };
        let through =
            |list: Option<&[&str]>, queue: usize| list.is_none_or(|list| list.contains(&interface(self.policy, queue)));
        let bytes = |queue: usize, direction: Direction| match outlet.bytes {
            Bytes::Forged => true,
            Bytes::Chosen => carries_bytes(interface(self.policy, queue), direction),
            Bytes::Own => false,
        };
        for queue in links.client_queues.iter().copied().filter(|queue| through(outlet.asks, *queue)) {
            self.input(Node::Asked(queue), bytes(queue, Direction::Request), Rule::Queue(queue), steps);
        }
        for queue in links.server_queues.iter().copied().filter(|queue| through(outlet.tells, *queue)) {
            self.input(Node::Told(queue), bytes(queue, Direction::Answer), Rule::Answer(queue), steps);
        }
    }

    /// Adds the steps by an input. A program follows its interface. It may be taken over by `bytes`
    /// of the sender's choice; one that is not in the catalogue does what the sender wants anyway.
    fn input(&self, node: Node, bytes: bool, rule: Rule, steps: &mut Vec<Step>) {
        let Some(Subject::Service(service)) = node.party(self.index) else { return };
        let known = self.is_known(service);
        steps.push(Step { to: node, cost: 0, rule });
        if bytes || !known {
            steps.push(Step { to: Node::All(Subject::Service(service)), cost: u32::from(known), rule });
        }
    }

    pub(crate) fn is_known(&self, service: usize) -> bool {
        self.index.known.get(service).copied().unwrap_or(false)
    }

    /// Adds the steps by regions that a service writes and another maps.
    fn by_memory(&self, service: usize, steps: &mut Vec<Step>) {
        for (region, entry) in self.written(service) {
            let map = self.index.maps.get(region).map_or(&[][..], |map| map);
            for (reader, (other, _)) in map.iter().enumerate().filter(|(_, (other, _))| *other != service) {
                self.input(Node::Fed(*other), true, Rule::Shared(region, entry, reader), steps);
            }
        }
    }

    /// Returns the regions that a service writes, each with the position in its map.
    fn written(&self, service: usize) -> impl Iterator<Item = (usize, usize)> + '_ {
        let maps = self.index.services.get(service).map_or(&[][..], |links| &links.maps);
        maps.iter().copied().filter(|(region, entry)| {
            let map = self.index.maps.get(*region);
            map.and_then(|map| map.get(*entry)).is_some_and(|(_, how)| how.writes())
        })
    }

    /// Adds the steps to other domains: by memory that they may read, by channels, by paths.
    fn to_outside(&self, service: usize, steps: &mut Vec<Step>) {
        for (region, _) in self.written(service) {
            if let Some(grant) = self.index.granted.get(&region)
                && let Some(parties) = self.index.grants.get(*grant)
            {
                self.to_domain(parties.peer, Rule::Grant(*grant), steps);
            }
        }
        let ports = self.index.services.get(service).map_or(&[][..], |links| &links.ports);
        for port in ports {
            // The peer sees each operation: that there is a channel, its events, and its end.
            if let Some(peer) = self.index.ports.get(*port).and_then(|channel| channel.peer) {
                self.to_domain(peer, Rule::Port(*port), steps);
            }
        }
        self.by_paths(service, steps);
        if let Some((region, entry)) = self.index.ring_of(self.policy, service) {
            self.to_everyone_by_paths(Rule::Map(region, entry), steps);
        }
    }

    /// Adds the steps to an entry of `[domains]`, and to all that may be the same domain.
    fn to_domain(&self, peer: usize, rule: Rule, steps: &mut Vec<Step>) {
        for domain in self.index.aliases.get(peer).map_or(&[][..], |aliases| aliases) {
            steps.push(Step { to: Node::All(Subject::Domain(*domain)), cost: 0, rule });
        }
    }

    /// Adds the steps by paths that a client of `store` writes: to the services that read there,
    /// and to every domain, because the toolstack may let any of them read.
    fn by_paths(&self, client: usize, steps: &mut Vec<Step>) {
        let Some(entry) = self.index.services.get(client).and_then(|links| links.xenstore_entry) else { return };
        let paths = self.policy.xenstore.items.get(entry).map_or(&[][..], |item| &item.body);
        if let Some(ends) = self.store_queues.get(&client).and_then(|queue| self.index.queues.get(*queue)) {
            self.to_ring(ends.to, steps);
        }
        let mut published = false;
        for (path, right) in paths.iter().enumerate().filter(|(_, right)| right.write) {
            for read in self.relays.get(&(entry, path)).map_or(&[][..], |readers| readers) {
                self.to_reader(*read, Rule::Relay((entry, path), *read), steps);
            }
            // One rule is enough: the others lead to the same domains.
            if !published && !right.path.value.is_empty() {
                published = true;
                for domain in 0..self.index.domains.len() {
                    let rule = Rule::Published(domain, (entry, path));
                    steps.push(Step { to: Node::All(Subject::Domain(domain)), cost: 0, rule });
                }
            }
        }
    }

    /// Adds the steps to the client of a path rule that reads, and to the service that reads for
    /// it.
    fn to_reader(&self, (entry, _): (usize, usize), rule: Rule, steps: &mut Vec<Step>) {
        let Some(queue) = self.index.clients.get(entry).and_then(|client| self.store_queues.get(client)) else {
            return;
        };
        self.input(Node::Told(*queue), true, rule, steps);
        if let Some(ends) = self.index.queues.get(*queue) {
            let cost = u32::from(self.is_known(ends.to));
            steps.push(Step { to: Node::All(Subject::Service(ends.to)), cost, rule });
            self.to_ring(ends.to, steps);
        }
    }

    /// Adds the steps to those, other than the server itself, who see what a server of `store`
    /// writes to the XenStore ring, or reads there.
    fn to_ring(&self, server: usize, steps: &mut Vec<Step>) {
        for (service, (region, entry)) in self.ring.iter().filter(|(service, _)| *service != server) {
            self.input(Node::Fed(*service), true, Rule::Map(*region, *entry), steps);
        }
    }

    fn to_everyone_by_paths(&self, rule: Rule, steps: &mut Vec<Step>) {
        for (entry, item) in self.policy.xenstore.items.iter().enumerate() {
            if let Some(path) = item.body.iter().position(reads) {
                self.to_reader((entry, path), rule, steps);
            }
        }
        for domain in 0..self.index.domains.len() {
            steps.push(Step { to: Node::All(Subject::Domain(domain)), cost: 0, rule });
        }
    }

    /// Adds the steps from a domain: by memory that it may write, by channels, by its directory.
    fn domain_steps(&self, domain: usize, steps: &mut Vec<Step>) {
        let Some(links) = self.index.domains.get(domain) else { return };
        for grant in &links.grants {
            let writes =
                self.policy.grants.items.get(*grant).is_some_and(|item| item.body.access.value == Access::ReadWrite);
            if let Some(parties) = self.index.grants.get(*grant).filter(|_| writes) {
                self.to_mappers(parties.region, Rule::Grant(*grant), steps);
            }
        }
        for port in &links.ports {
            if let Some(channel) = self.index.ports.get(*port) {
                self.input(Node::Fed(channel.service), true, Rule::Port(*port), steps);
            }
        }
        let Some(ids) = self.policy.domains.items.get(domain).map(|item| (item.body.first, item.body.last)) else {
            return;
        };
        for (entry, item) in self.policy.xenstore.items.iter().enumerate() {
            let own = |right: &PathRight| reads(right) && in_directory(&right.path.value, ids);
            if let Some(path) = item.body.iter().position(own) {
                self.to_reader((entry, path), Rule::Directory(domain, (entry, path)), steps);
            }
        }
    }

    /// Adds the steps to the services that map a region which somebody outside writes.
    fn to_mappers(&self, region: usize, rule: Rule, steps: &mut Vec<Step>) {
        for (service, _) in self.index.maps.get(region).map_or(&[][..], |map| map) {
            self.input(Node::Fed(*service), true, rule, steps);
        }
    }

    /// Adds the steps from the XenStore daemon or the toolstack: by the memory that is theirs, and
    /// by every path.
    fn control_domain_steps(&self, subject: Subject, steps: &mut Vec<Step>) {
        let mut first = None;
        for (region, item) in self.policy.regions.items.iter().enumerate() {
            let theirs = match item.body.source.value {
                Source::Module | Source::CommandLine => subject == Subject::Toolstack,
                Source::XenStoreRing => {
                    first = Some(Rule::Region(region));
                    subject == Subject::XenStoreDaemon
                }
                Source::Fixed { .. } | Source::Share { .. } => false,
            };
            if theirs {
                self.to_mappers(region, Rule::Region(region), steps);
            }
        }
        for (port, channel) in self.index.ports.iter().enumerate() {
            if subject == Subject::XenStoreDaemon && channel.peer.is_none() {
                self.input(Node::Fed(channel.service), true, Rule::Port(port), steps);
            }
        }
        if let Some(rule) = first {
            self.to_everyone_by_paths(rule, steps);
        }
    }
}

/// Returns the interface of a queue.
pub(crate) fn interface(policy: &Policy, queue: usize) -> &str {
    policy.queues.items.get(queue).map_or("", |item| item.body.interface.value.as_str())
}

fn reads(right: &PathRight) -> bool {
    right.read || right.watch
}

/// Returns, for each path rule that allows to write, the rules of other clients that read there.
/// Of several of one client, the first.
fn relays(policy: &Policy) -> HashMap<(usize, usize), Vec<(usize, usize)>> {
    let mut readers = Tree::default();
    let mut writers = Vec::new();
    for (entry, item) in policy.xenstore.items.iter().enumerate() {
        for (position, right) in item.body.iter().enumerate() {
            if reads(right) {
                readers.insert(&right.path.value, (entry, position));
            }
            if right.write {
                writers.push(((entry, position), right.path.value.as_str()));
            }
        }
    }
    let found = |(rule, path): ((usize, usize), &str)| {
        let mut others = readers.overlapping(path);
        others.retain(|(entry, _)| *entry != rule.0);
        others.sort_unstable();
        others.dedup_by_key(|(entry, _)| *entry);
        (rule, others)
    };
    writers.into_iter().map(found).collect()
}
