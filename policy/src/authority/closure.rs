//! Computes every right of every subject, forward from the rules.

use cloister_caps::tables::{Access, AfterLimit};
use cloister_caps::weakness::Weakness;

use super::operation::effects;
use super::{Index, Object, Op, Right, Rule, Subject};
use crate::model::{Policy, Service, Source};

/// Returns the closure in the order of subjects, objects and operations: each right once, with its
/// largest amount.
pub(crate) fn closure(policy: &Policy, index: &Index) -> Vec<Right> {
    let mut closure = Closure { policy, index, rights: Vec::new() };
    for service in 0..policy.services.items.len() {
        closure.own(service);
        closure.mapped(service);
        closure.channels(service);
        closure.delegated(service);
    }
    closure.pins();
    closure.outside();
    let mut rights = closure.rights;
    rights.sort_by(|a, b| {
        let key = |right: &Right| (right.subject, right.object, right.op);
        key(a).cmp(&key(b)).then(b.amount.cmp(&a.amount)).then(a.path.len().cmp(&b.path.len()))
    });
    rights.dedup_by(|later, first| (later.subject, later.object, later.op) == (first.subject, first.object, first.op));
    rights
}

struct Closure<'a> {
    policy: &'a Policy,
    index: &'a Index,
    rights: Vec<Right>,
}

impl Closure<'_> {
    fn push(&mut self, subject: Subject, object: Object, op: Op, amount: u64, path: &[Rule]) {
        self.rights.push(Right { subject, object, op, amount, path: path.to_vec() });
    }

    fn own(&mut self, position: usize) {
        let Some(service) = self.policy.services.items.get(position) else { return };
        let (subject, rule) = (Subject::Service(position), [Rule::Service(position)]);
        for (op, amount) in own_amounts(&service.body) {
            self.push(subject, Object::Itself, op, amount, &rule);
        }
        self.push(subject, Object::Program(position), Op::Execute, 1, &rule);
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
            for subject in [Subject::Service(by), Subject::Toolstack] {
                self.push(subject, Object::Domain(domain), Op::Pin, 1, &[Rule::Pin(domain)]);
            }
        }
    }

    /// Adds what a service causes by asking: see [`effects`].
    fn delegated(&mut self, position: usize) {
        let index = self.index;
        let asks = index.services.get(position).map_or(&[][..], |around| &around.client_queues);
        for queue in asks {
            self.by_asking(position, position, &[Rule::Queue(*queue)]);
        }
    }

    /// Adds what `subject` causes when `client` asks by the last queue of `way`.
    fn by_asking(&mut self, subject: usize, client: usize, way: &[Rule]) {
        let (policy, index) = (self.policy, self.index);
        let Some(Rule::Queue(queue)) = way.last().copied() else { return };
        let (Some(item), Some(ends)) = (policy.queues.items.get(queue), index.queues.get(queue)) else { return };
        let (Some(server), Some(asker)) = (index.services.get(ends.to), index.services.get(client)) else { return };
        let effects = effects(&item.body.interface.value);
        let end = |rule: Rule| way.iter().copied().chain([rule]).collect::<Vec<_>>();
        let who = Subject::Service(subject);
        if effects.grants {
            for grant in asker
                .grants_on_behalf
                .iter()
                .filter(|grant| index.grants.get(**grant).is_some_and(|g| g.holder == ends.to))
            {
                let amount = self.granted_pages(*grant);
                self.push(who, Object::Grant(*grant), Op::Issue, amount, &end(Rule::Grant(*grant)));
                self.push(who, Object::Grant(*grant), Op::End, amount, &end(Rule::Grant(*grant)));
                self.choice_by_grant(who, *grant, &end(Rule::Grant(*grant)));
            }
        }
        if let (true, Some(entry)) = (effects.store, asker.xenstore_entry) {
            let paths = policy.xenstore.items.get(entry).map_or(&[][..], |item| &item.body);
            for (path, right) in paths.iter().enumerate() {
                for (op, has) in [(Op::Read, right.read), (Op::Write, right.write), (Op::Watch, right.watch)] {
                    if has {
                        self.push(who, Object::Path(entry, path), op, 1, &end(Rule::Path(entry, path)));
                    }
                }
            }
        }
        for port in &server.ports {
            let Some(channel) = index.ports.get(*port) else { continue };
            let caused = if channel.peer.is_some() { effects.events } else { effects.store };
            let rights = policy.ports.items.get(*port).map(|item| item.body.rights.value);
            if caused && rights.is_some_and(|rights| rights.contains(cloister_caps::Rights::SEND)) {
                self.push(who, Object::Port(*port), Op::Send, 1, &end(Rule::Port(*port)));
            }
        }
        for next in &server.client_queues {
            let interface = policy.queues.items.get(*next).map(|item| item.body.interface.value.as_str());
            if interface.is_some_and(|interface| effects.onward.contains(&interface)) {
                self.by_asking(subject, ends.to, &end(Rule::Queue(*next)));
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
