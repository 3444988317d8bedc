//! What is done at each node: by the party itself, and by a program that follows its interfaces.

use std::collections::HashMap;

use cloister_caps::tables::{Access, AfterLimit};
use cloister_caps::weakness::Weakness;

use super::catalogue::{Effects, Grants, Ports};
use super::flow::{Flow, Node};
use super::{Index, Object, Op, Rule, Subject};
use crate::model::{Policy, Service, Source};

/// The operations on a path.
const ANY: &[Op] = &[Op::Read, Op::Write, Op::Watch];

/// An operation that is done at a node, with the rules that allow it.
#[derive(Clone, Debug)]
pub(crate) struct Ability {
    pub object: Object,
    pub op: Op,
    pub amount: u64,
    pub rules: Vec<Rule>,
}

/// Returns what is done at each node.
pub(crate) fn abilities(
    policy: &Policy,
    index: &Index,
    flow: &Flow<'_>,
    nodes: &[Node],
) -> HashMap<Node, Vec<Ability>> {
    let mut direct = Direct { policy, index, abilities: HashMap::new() };
    for service in 0..policy.services.items.len() {
        direct.own(service);
        direct.mapped(service);
        direct.channels(service);
        direct.paths(service);
    }
    direct.pins();
    direct.outside();
    let mut found: HashMap<Node, Vec<Ability>> =
        direct.abilities.into_iter().map(|(subject, abilities)| (Node::All(subject), abilities)).collect();
    for node in nodes {
        if let (Some(effects), Some(Subject::Service(service))) = (flow.effects(*node), node.party(index)) {
            let own = found.get(&Node::All(Subject::Service(service))).map_or(&[][..], |own| own);
            let mut done = driven(own, effects, index, *node);
            done.extend(client_paths(policy, index, effects, *node));
            done.extend(ended(policy, index, effects, service));
            found.insert(*node, done);
        }
    }
    found
}

/// Returns those of a program's own abilities that an input makes it use.
fn driven(own: &[Ability], effects: Effects, index: &Index, node: Node) -> Vec<Ability> {
    let client = match node {
        Node::Asked(queue) => index.queues.get(queue).map(|ends| ends.from),
        _ => None,
    };
    let granted = |grant: usize| match effects.grants {
        Grants::None => false,
        Grants::All => true,
        Grants::OfClient => index.grants.get(grant).is_some_and(|parties| Some(parties.client) == client),
    };
    let done = |ability: &&Ability| match ability.object {
        Object::Console => true,
        Object::Power => effects.power,
        Object::Port(port) => {
            let to_domain = index.ports.get(port).is_some_and(|channel| channel.peer.is_some());
            match (to_domain, ability.op) {
                (true, Op::Send | Op::Close) => effects.ports != Ports::None,
                (true, Op::Open) => effects.ports == Ports::All,
                (false, Op::Send) => effects.daemon,
                _ => false,
            }
        }
        Object::Grant(grant) => granted(grant),
        // Whoever makes it open a channel or issue a grant names the peer.
        Object::Domain(_) => match ability.rules.last() {
            Some(Rule::Pin(_)) => effects.pins,
            Some(Rule::Grant(grant)) => granted(*grant),
            _ => effects.ports == Ports::All,
        },
        Object::Queue(queue) => {
            let interface = index.interfaces.get(queue).map_or("", String::as_str);
            let list = if ability.op == Op::Request { effects.asks } else { effects.tells };
            list.contains(&interface) || (effects.ends && ability.op == Op::Request && interface == "grants")
        }
        _ => false,
    };
    own.iter().filter(done).cloned().collect()
}

/// Returns the ends of the grants on behalf of a driver, which it asks for.
fn ended(policy: &Policy, index: &Index, effects: Effects, service: usize) -> Vec<Ability> {
    let Some(links) = index.services.get(service).filter(|_| effects.ends) else { return Vec::new() };
    let queue =
        links.client_queues.iter().find(|queue| index.interfaces.get(**queue).is_some_and(|name| name == "grants"));
    let ability = |grant: &usize| {
        let amount = policy.grants.items.get(*grant).map_or(0, |item| u64::from(item.body.pages.value));
        let rules = queue.map(|queue| Rule::Queue(*queue)).into_iter().chain([Rule::Grant(*grant)]).collect();
        Ability { object: Object::Grant(*grant), op: Op::End, amount, rules }
    };
    links.grants_on_behalf.iter().map(ability).collect()
}

/// Returns the operations on the paths of the client that asks.
fn client_paths(policy: &Policy, index: &Index, effects: Effects, node: Node) -> Vec<Ability> {
    let Node::Asked(queue) = node else { return Vec::new() };
    let ends = index.queues.get(queue).filter(|_| effects.paths);
    let links = ends.and_then(|ends| index.services.get(ends.from));
    links.and_then(|links| links.xenstore_entry).map_or(Vec::new(), |entry| path_rights(policy, entry))
}

/// Returns the operations that the path rules of a client give.
fn path_rights(policy: &Policy, entry: usize) -> Vec<Ability> {
    let paths = policy.xenstore.items.get(entry).map_or(&[][..], |item| &item.body);
    let rights = paths.iter().enumerate().flat_map(|(path, right)| {
        let ops = [(Op::Read, right.read), (Op::Write, right.write), (Op::Watch, right.watch)];
        ops.into_iter().filter(|(_, has)| *has).map(move |(op, _)| (path, op))
    });
    let ability = |(path, op)| {
        let (object, rules) = (Object::Path(entry, path), vec![Rule::Path(entry, path)]);
        Ability { object, op, amount: 1, rules }
    };
    rights.map(ability).collect()
}

/// What each subject can do itself.
struct Direct<'a> {
    policy: &'a Policy,
    index: &'a Index,
    abilities: HashMap<Subject, Vec<Ability>>,
}

impl Direct<'_> {
    fn push(&mut self, subject: Subject, object: Object, op: Op, amount: u64, rules: &[Rule]) {
        let ability = Ability { object, op, amount, rules: rules.to_vec() };
        self.abilities.entry(subject).or_default().push(ability);
    }

    /// Adds these operations on every path for whoever has the XenStore ring, by this rule.
    fn any_path(&mut self, subject: Subject, ops: &[Op], rule: Rule) {
        let entries = self.policy.xenstore.items.iter().enumerate();
        let paths = entries.flat_map(|(entry, item)| (0..item.body.len()).map(move |path| Object::Path(entry, path)));
        for object in paths.chain([Object::AnyPath]) {
            for op in ops {
                self.push(subject, object, *op, 1, &[rule]);
            }
        }
    }

    /// Adds the paths of a service that has the XenStore ring itself: who only reads the ring sees
    /// every answer. Those of a client are done by its server.
    fn paths(&mut self, position: usize) {
        for (region, entry, writes) in self.index.rings(self.policy, position) {
            let ops = if writes { ANY } else { &[Op::Read, Op::Watch] };
            self.any_path(Subject::Service(position), ops, Rule::Map(region, entry));
        }
    }

    fn own(&mut self, position: usize) {
        let Some(service) = self.policy.services.items.get(position) else { return };
        let (subject, rule) = (Subject::Service(position), [Rule::Service(position)]);
        for (op, amount) in own_amounts(&service.body) {
            self.push(subject, Object::Itself, op, amount, &rule);
        }
        self.push(subject, Object::Program(position), Op::Execute, 1, &rule);
        self.push(subject, Object::Console, Op::Log, 1, &[Rule::Log(position)]);
        if service.body.after_limit == AfterLimit::StopImage {
            self.push(subject, Object::Image, Op::Stop, 1, &rule);
        }
        if !self.policy.image.strict {
            self.push(subject, Object::Predictors, Op::Share, 1, &[Rule::Isolation]);
        }
        let objects = [Object::Console, Object::Clock, Object::Entropy, Object::Power, Object::Info];
        for (entry, held) in service.body.held.iter().enumerate() {
            for object in objects {
                for op in Op::ALL.iter().copied() {
                    let Some((kind, operation)) = op.invocation(object) else { continue };
                    if kind == held.kind && held.rights.contains(operation.right()) {
                        self.push(subject, object, op, 1, &[Rule::HeldCapability(position, entry)]);
                    }
                }
            }
        }
    }

    fn mapped(&mut self, position: usize) {
        let subject = Subject::Service(position);
        for (region, entry) in self.index.services.get(position).map_or(&[][..], |around| &around.maps) {
            let Some(item) = self.policy.regions.items.get(*region) else { continue };
            let Some(how) = item.body.map.get(*entry).map(|entry| entry.how.value) else { continue };
            let (object, rule) = (Object::Region(*region), [Rule::Map(*region, *entry)]);
            let source = item.body.source.value;
            self.push(subject, object, Op::Read, pages(source), &rule);
            if how.writes() {
                self.push(subject, object, Op::Write, pages(source), &rule);
            }
            let with_region = [Rule::Map(*region, *entry), Rule::Region(*region)];
            match source {
                Source::Fixed { pages } => self.push(subject, object, Op::Claim, u64::from(pages), &with_region),
                Source::Share { weight, minimum, .. } => {
                    self.push(subject, object, Op::Claim, u64::from(minimum), &with_region);
                    self.push(subject, object, Op::Weigh, u64::from(weight), &with_region);
                }
                Source::Module => self.push(subject, object, Op::FromModule, 1, &with_region),
                Source::CommandLine => self.push(subject, object, Op::FromCommandLine, 1, &with_region),
                Source::XenStoreRing => self.push(subject, object, Op::FromXenStoreRing, 1, &with_region),
            }
            if how.writes() && !self.index.cleared_on_restart(self.policy, *region) {
                self.push(subject, object, Op::Keep, 1, &with_region);
            }
        }
    }

    fn channels(&mut self, position: usize) {
        let Some(around) = self.index.services.get(position) else { return };
        let subject = Subject::Service(position);
        for port in &around.ports {
            let rights = self.policy.ports.items.get(*port).map(|item| item.body.rights.value);
            self.push(subject, Object::Port(*port), Op::Receive, 1, &[Rule::Port(*port)]);
            for op in [Op::Open, Op::Send, Op::Close] {
                let needed = op.invocation(Object::Port(*port)).map(|(_, operation)| operation.right());
                if needed.zip(rights).is_some_and(|(needed, rights)| rights.contains(needed)) {
                    self.push(subject, Object::Port(*port), op, 1, &[Rule::Port(*port)]);
                    let peer = self.index.ports.get(*port).and_then(|channel| channel.peer);
                    if let (Op::Open, Some(peer)) = (op, peer) {
                        self.choice(subject, peer, &[Rule::Port(*port)]);
                    }
                }
            }
        }
        for grant in &around.held_grants {
            let amount = self.granted_pages(*grant);
            self.push(subject, Object::Grant(*grant), Op::Issue, amount, &[Rule::Grant(*grant)]);
            self.push(subject, Object::Grant(*grant), Op::End, amount, &[Rule::Grant(*grant)]);
            self.choice_by_grant(subject, *grant, &[Rule::Grant(*grant)]);
        }
        for (queues, op) in [(&around.client_queues, Op::Request), (&around.server_queues, Op::Reply)] {
            for queue in queues {
                let depth = self.policy.queues.items.get(*queue).map_or(0, |item| u64::from(item.body.depth));
                self.push(subject, Object::Queue(*queue), op, depth, &[Rule::Queue(*queue)]);
            }
        }
    }

    fn granted_pages(&self, grant: usize) -> u64 {
        self.policy.grants.items.get(grant).map_or(0, |item| u64::from(item.body.pages.value))
    }

    /// Adds the choice of the peer by a subject that shares something with it, unless it is pinned.
    fn choice(&mut self, subject: Subject, domain: usize, path: &[Rule]) {
        if self.index.domains.get(domain).is_some_and(|links| links.pinned_by.is_none()) {
            self.push(subject, Object::Domain(domain), Op::Pin, 1, path);
        }
    }

    fn choice_by_grant(&mut self, subject: Subject, grant: usize, path: &[Rule]) {
        if let Some(parties) = self.index.grants.get(grant) {
            self.choice(subject, parties.peer, path);
        }
    }

    /// Adds the choice of the peers that are pinned: by the service that pins, and by the
    /// toolstack, whose node it reads.
    fn pins(&mut self) {
        let index = self.index;
        for (domain, links) in index.domains.iter().enumerate() {
            let Some(by) = links.pinned_by else { continue };
            // The daemon says what the node holds.
            for subject in [Subject::Service(by), Subject::Toolstack, Subject::XenStoreDaemon] {
                self.push(subject, Object::Domain(domain), Op::Pin, 1, &[Rule::Pin(domain)]);
            }
        }
    }

    /// Adds the rights of the subjects outside the image.
    fn outside(&mut self) {
        let (policy, index) = (self.policy, self.index);
        for (position, granted) in index.grants.iter().enumerate() {
            let Some(grant) = policy.grants.items.get(position) else { continue };
            let (who, object) = (Subject::Domain(granted.peer), Object::Region(granted.region));
            let amount = u64::from(grant.body.pages.value);
            self.push(who, object, Op::Read, amount, &[Rule::Grant(position)]);
            if grant.body.access.value == Access::ReadWrite {
                self.push(who, object, Op::Write, amount, &[Rule::Grant(position)]);
            }
        }
        for (position, channel) in index.ports.iter().enumerate() {
            let who = channel.peer.map_or(Subject::XenStoreDaemon, Subject::Domain);
            let opened = policy.ports.items.get(position).is_some_and(|item| {
                channel.peer.is_none() || item.body.rights.value.contains(cloister_caps::Rights::OPEN)
            });
            if opened {
                self.push(who, Object::Port(position), Op::Send, 1, &[Rule::Port(position)]);
            }
        }
        for (position, region) in policy.regions.items.iter().enumerate() {
            let who = match region.body.source.value {
                Source::Module | Source::CommandLine => Subject::Toolstack,
                Source::XenStoreRing => Subject::XenStoreDaemon,
                Source::Fixed { .. } | Source::Share { .. } => continue,
            };
            for op in [Op::Read, Op::Write] {
                self.push(who, Object::Region(position), op, 1, &[Rule::Region(position)]);
            }
            if who == Subject::XenStoreDaemon {
                self.any_path(who, ANY, Rule::Region(position));
                self.any_path(Subject::Toolstack, ANY, Rule::Region(position));
            }
        }
        for weakness in Weakness::ALL.iter().copied().filter(|weakness| !policy.image.refused.contains(*weakness)) {
            let object = Object::Weakness(weakness);
            self.push(Subject::Toolstack, object, Op::StartWith, 1, &[Rule::NotRefused(weakness)]);
        }
    }
}

/// Returns the largest size of a region, in pages. A module has any size, which 1 stands for.
pub(crate) fn pages(source: Source) -> u64 {
    match source {
        Source::Fixed { pages } => u64::from(pages),
        Source::Share { maximum, .. } => u64::from(maximum),
        Source::Module | Source::CommandLine | Source::XenStoreRing => 1,
    }
}

/// Returns a service's amounts of processor time, stack and restarts.
pub(crate) fn own_amounts(service: &Service) -> [(Op, u64); 5] {
    let (budget, period) = (u64::from(service.budget_us.value), u64::from(service.period_us.value));
    [
        (Op::Run, (budget * 1_000_000).checked_div(period).unwrap_or(0)),
        (Op::Hold, budget),
        (Op::Precede, u64::from(service.priority)),
        (Op::Restart, u64::from(service.restart_limit)),
        (Op::Stack, u64::from(service.stack_pages.value)),
    ]
}
