//! Where the bytes of a region can end up.
//!
//! A service that maps the region may pass them on by everything that carries bytes: memory that it
//! shares, paths of XenStore, messages of the interfaces that carry bytes. By other messages, whose
//! numbers a program makes itself, only a service passes them on that was taken over, or whose
//! program is not in the catalogue. Every service's lines, and the kernel's about it, are on the
//! console, which the toolstack reads, or lets a domain read. Timing is not counted.

use std::cmp::Reverse;
use std::collections::{BinaryHeap, HashMap, HashSet};

use super::catalogue::{Direction, carries_bytes};
use super::flow::{Flow, Node, Step, interface};
use super::{Index, Rule, Subject};
use crate::model::{Policy, Source};

/// A holder of the bytes, and `true` if it does more than its interfaces say.
type Holder = (Subject, bool);

/// A way of bytes out of a region.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Leak {
    /// The services that are taken over, in order.
    pub takeovers: Vec<usize>,
    /// The rules over which the bytes go.
    pub rules: Vec<Rule>,
}

/// Returns the way with the fewest takeovers by which the bytes of a region reach one of `to`
/// without the help of `unless`.
pub(crate) fn leak(policy: &Policy, index: &Index, region: usize, to: &[Subject], unless: &[Subject]) -> Option<Leak> {
    let flow = Flow::new(policy, index);
    let mut nearest: HashMap<Holder, (u32, usize)> = HashMap::new();
    let mut before: HashMap<Holder, (Option<Holder>, Option<Rule>)> = HashMap::new();
    let mut open = BinaryHeap::new();
    for (subject, rule) in holders(policy, index, region).into_iter().filter(|(subject, _)| !unless.contains(subject)) {
        let start = (subject, false);
        if nearest.insert(start, (0, 1)).is_none() {
            before.insert(start, (None, Some(rule)));
            open.push(Reverse(((0, 1), start)));
        }
    }
    let mut done = HashSet::new();
    while let Some(Reverse((distance, holder))) = open.pop() {
        if !done.insert(holder) {
            continue;
        }
        if to.contains(&holder.0) {
            return Some(traced(&before, holder));
        }
        for (next, cost, rule) in onward(policy, index, &flow, holder) {
            let far = (distance.0 + cost, distance.1 + 1);
            if unless.contains(&next.0) || nearest.get(&next).is_some_and(|near| *near <= far) {
                continue;
            }
            nearest.insert(next, far);
            before.insert(next, (Some(holder), rule));
            open.push(Reverse((far, next)));
        }
    }
    None
}

/// Returns the subjects that can read a region, each with the rule.
fn holders(policy: &Policy, index: &Index, region: usize) -> Vec<(Subject, Rule)> {
    let maps = index.maps.get(region).map_or(&[][..], |map| map).iter().enumerate();
    let mut found: Vec<(Subject, Rule)> =
        maps.map(|(entry, (service, _))| (Subject::Service(*service), Rule::Map(region, entry))).collect();
    if let Some(grant) = index.granted.get(&region)
        && let Some(parties) = index.grants.get(*grant)
    {
        let aliases = index.aliases.get(parties.peer).map_or(&[][..], |aliases| aliases);
        found.extend(aliases.iter().map(|domain| (Subject::Domain(*domain), Rule::Grant(*grant))));
    }
    let outside = match policy.regions.items.get(region).map(|item| item.body.source.value) {
        Some(Source::Module | Source::CommandLine) => Some(Subject::Toolstack),
        Some(Source::XenStoreRing) => Some(Subject::XenStoreDaemon),
        _ => None,
    };
    found.extend(outside.map(|subject| (subject, Rule::Region(region))));
    found
}

/// Returns who gets the bytes next, the takeovers that this takes, and the rule.
fn onward(
    policy: &Policy,
    index: &Index,
    flow: &Flow<'_>,
    (subject, free): Holder,
) -> Vec<(Holder, u32, Option<Rule>)> {
    let mut found = Vec::new();
    match subject {
        // The toolstack reads every path. The daemon passes on no more than the writer's own steps
        // contain.
        Subject::XenStoreDaemon => return vec![((Subject::Toolstack, false), 0, None)],
        // It chooses the domain in which the console is read.
        Subject::Toolstack => {
            let reader = |domain| ((Subject::Domain(domain), false), 0, Some(Rule::ConsoleReader(domain)));
            return (0..index.domains.len()).map(reader).collect();
        }
        Subject::Service(service) => found.push(((Subject::Toolstack, false), 0, Some(Rule::Log(service)))),
        Subject::Domain(_) => {}
    }
    let known = matches!(subject, Subject::Service(service) if flow.is_known(service));
    if known && !free {
        found.push(((subject, true), 1, None));
    }
    for step in flow.steps(Node::All(subject)) {
        if (free || !known || carries(policy, index, subject, &step))
            && let Some(next) = step.to.party(index)
        {
            found.push(((next, false), 0, Some(step.rule)));
        }
    }
    if let Subject::Service(service) = subject {
        // To the daemon, by what the service or its server asks of it.
        let rings = index.ring_of(policy, service).map(|(region, entry)| Rule::Map(region, entry));
        found.extend(rings.map(|rule| ((Subject::XenStoreDaemon, false), 0, Some(rule))));
    }
    found
}

/// Returns `true` if a program that follows its interfaces may pass bytes by this step.
fn carries(policy: &Policy, index: &Index, from: Subject, step: &Step) -> bool {
    let writes = |service: usize, grant: usize| {
        let region = index.grants.get(grant).and_then(|parties| index.maps.get(parties.region));
        region.is_some_and(|map| map.iter().any(|(mapper, how)| *mapper == service && how.writes()))
    };
    match (step.rule, from) {
        (Rule::Queue(queue), _) => carries_bytes(interface(policy, queue), Direction::Request),
        (Rule::Answer(queue), _) => carries_bytes(interface(policy, queue), Direction::Answer),
        // An event is no byte; nor is it that pages are granted.
        (Rule::Port(_), _) => false,
        (Rule::Grant(grant), Subject::Service(service)) => writes(service, grant),
        _ => true,
    }
}

fn traced(before: &HashMap<Holder, (Option<Holder>, Option<Rule>)>, end: Holder) -> Leak {
    let mut leak = Leak { takeovers: Vec::new(), rules: Vec::new() };
    let mut at = Some(end);
    while let Some(holder) = at {
        let Some((from, rule)) = before.get(&holder) else { break };
        leak.rules.extend(rule);
        if let ((Subject::Service(service), true), None) = (holder, rule) {
            leak.takeovers.push(service);
        }
        at = *from;
    }
    leak.rules.reverse();
    leak.takeovers.reverse();
    leak
}
