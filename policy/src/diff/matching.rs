//! Matches services, regions and ports of two policies, even if names have changed.

use std::collections::hash_map::DefaultHasher;
use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::hash::{Hash, Hasher};

use crate::authority::Op;
use crate::authority::closure::own_amounts;
use crate::model::{Peer, Source};
use crate::sound::Sound;

/// The largest number of rounds of refinement: how far a difference spreads through the graph.
const ROUNDS: usize = 64;
/// The number of ties that are broken one at a time. After that, tied nodes are paired in the order
/// of the names.
const TIES: usize = 256;

/// A number for each service, region and port of a policy. Matched entries of two policies have the
/// same number.
#[derive(Clone)]
pub(super) struct Numbers {
    pub services: Vec<usize>,
    pub regions: Vec<usize>,
    pub ports: Vec<usize>,
}

/// The nodes of a policy in one list: services, regions, ports.
struct Nodes {
    names: Vec<(u8, String)>,
    local: Vec<u64>,
    edges: Vec<Vec<(u64, usize)>>,
    services: usize,
    regions: usize,
}

fn hash(value: impl Hash) -> u64 {
    let mut hasher = DefaultHasher::new();
    value.hash(&mut hasher);
    hasher.finish()
}

/// Returns for each priority the number of lower ones.
fn ranks(sound: &Sound) -> BTreeMap<u8, u64> {
    let priorities: BTreeSet<u8> = sound.policy.services.items.iter().map(|item| item.body.priority).collect();
    priorities.into_iter().zip(0..).collect()
}

/// Returns for each service its place in the order in which services go before each other: by
/// priority, then by name.
fn places(sound: &Sound) -> Vec<usize> {
    let items = &sound.policy.services.items;
    let mut order: Vec<usize> = (0..items.len()).collect();
    // The services are in the order of their names, which a stable sort keeps.
    order.sort_by_key(|service| items.get(*service).map(|item| std::cmp::Reverse(item.body.priority)));
    let mut places = vec![0; items.len()];
    for (place, service) in order.into_iter().enumerate() {
        if let Some(own) = places.get_mut(service) {
            *own = place;
        }
    }
    places
}

/// Returns the largest number that divides all weights.
fn weights_divisor(sound: &Sound) -> u32 {
    let weights = sound.policy.regions.items.iter().filter_map(|item| match item.body.source.value {
        Source::Share { weight, .. } => Some(weight),
        _ => None,
    });
    weights.fold(0, divisor).max(1)
}

/// Returns a source with its weight divided: only the fraction of all weights says something.
fn without_scale(source: Source, divisor: u32) -> Source {
    match source {
        Source::Share { weight, minimum, maximum } => Source::Share { weight: weight / divisor, minimum, maximum },
        source => source,
    }
}

fn divisor(one: u32, other: u32) -> u32 {
    if other == 0 { one } else { divisor(other, one % other) }
}

impl Nodes {
    fn new(sound: &Sound) -> Nodes {
        let (policy, index) = (&sound.policy, &sound.index);
        let (services, regions) = (policy.services.items.len(), policy.regions.items.len());
        let ids = |domain: usize| {
            let body = &policy.domains.items.get(domain)?.body;
            Some((body.first, body.last, body.pin.as_ref().map(|pin| pin.node.value.as_str())))
        };
        let mut nodes = Nodes { names: Vec::new(), local: Vec::new(), edges: Vec::new(), services, regions };
        let mut pins: BTreeMap<usize, Vec<_>> = BTreeMap::new();
        for (domain, links) in index.domains.iter().enumerate() {
            links.pinned_by.into_iter().for_each(|by| pins.entry(by).or_default().push(ids(domain)));
        }
        let ranks = ranks(sound);
        for (position, item) in policy.services.items.iter().enumerate() {
            let body = &item.body;
            let held: Vec<_> = body.held.iter().map(|held| (held.kind as u8, held.rights.bits())).collect();
            let entry = index.services.get(position).and_then(|around| around.xenstore_entry);
            let paths = entry.and_then(|entry| policy.xenstore.items.get(entry)).map(|item| {
                item.body
                    .iter()
                    .map(|right| (&right.path.value, right.read, right.write, right.watch))
                    .collect::<Vec<_>>()
            });
            // The number of a priority says nothing but the order.
            let own = own_amounts(body).map(|(op, amount)| match op {
                Op::Precede => ranks.get(&body.priority).copied().unwrap_or(0),
                _ => amount,
            });
            let after = body.after_limit as u8;
            nodes.push(
                0,
                &item.name.value,
                hash((0, &body.program.value, own, after, held, paths, pins.get(&position))),
            );
        }
        let divisor = weights_divisor(sound);
        for item in &policy.regions.items {
            let source = format!("{:?}", without_scale(item.body.source.value, divisor));
            nodes.push(1, &item.name.value, hash((1, source, item.body.keep.is_some())));
        }
        for (item, channel) in policy.ports.items.iter().zip(&index.ports) {
            let peer = matches!(item.body.peer, Peer::Domain(_)).then(|| channel.peer.and_then(ids));
            nodes.push(2, &item.name.value, hash((2, item.body.rights.value.bits(), peer)));
        }
        for (region, map) in index.maps.iter().enumerate() {
            for (service, how) in map {
                nodes.link(hash(("map", how.word())), *service, services + region);
            }
        }
        for (item, ends) in policy.queues.items.iter().zip(&index.queues) {
            nodes.link(hash(("queue", &item.body.interface.value, item.body.depth)), ends.from, ends.to);
        }
        for (port, channel) in index.ports.iter().enumerate() {
            nodes.link(hash("port"), channel.service, services + regions + port);
        }
        for (item, granted) in policy.grants.items.iter().zip(&index.grants) {
            let label = hash((item.body.access.value as u8, item.body.pages.value, ids(granted.peer)));
            nodes.link(hash(("holder", label)), granted.holder, services + granted.region);
            nodes.link(hash(("client", label)), granted.client, services + granted.region);
        }
        nodes
    }

    fn push(&mut self, kind: u8, name: &str, local: u64) {
        self.names.push((kind, name.to_owned()));
        self.local.push(local);
        self.edges.push(Vec::new());
    }

    fn link(&mut self, label: u64, from: usize, to: usize) {
        for (one, other, direction) in [(from, to, 0), (to, from, 1)] {
            if let Some(edges) = self.edges.get_mut(one) {
                edges.push((hash((label, direction)), other));
            }
        }
    }

    /// Returns the colours before the first round, with the place of each service in the order.
    fn ordered(&self, sound: &Sound) -> Vec<u64> {
        let mut colours = self.local.clone();
        for (colour, place) in colours.iter_mut().zip(places(sound)) {
            *colour = hash((*colour, place));
        }
        colours
    }

    /// Runs one round: each node's colour takes in those of its neighbours.
    fn refine(&self, colours: &[u64]) -> Vec<u64> {
        let colour = |node: usize| colours.get(node).copied().unwrap_or(0);
        let refined = self.edges.iter().enumerate().map(|(node, edges)| {
            let mut around: Vec<(u64, u64)> = edges.iter().map(|(label, other)| (*label, colour(*other))).collect();
            around.sort_unstable();
            hash((colour(node), around))
        });
        refined.collect()
    }

    /// Refines until no more nodes differ.
    fn settle(&self, mut colours: Vec<u64>) -> Vec<u64> {
        let count = |colours: &[u64]| {
            let mut sorted = colours.to_vec();
            sorted.sort_unstable();
            sorted.dedup();
            sorted.len()
        };
        let mut before = count(&colours);
        for _ in 0..ROUNDS {
            colours = self.refine(&colours);
            let now = count(&colours);
            if now == before {
                break;
            }
            before = now;
        }
        colours
    }

    fn numbers(&self, ids: &[usize]) -> Numbers {
        let part = |from: usize, to: usize| ids.get(from..to).unwrap_or_default().to_vec();
        let ports = self.services + self.regions;
        Numbers { services: part(0, self.services), regions: part(self.services, ports), ports: part(ports, ids.len()) }
    }
}

/// Returns the two policies' numbers, matched by name first.
///
/// Entries without a match by name are matched by structure, from the most exact likeness down.
pub(super) fn by_name(old: &Sound, new: &Sound) -> (Numbers, Numbers) {
    let (old, new) = (Nodes::new(old), Nodes::new(new));
    let mut pairs: Vec<Option<usize>> = vec![None; old.names.len()];
    let known: HashMap<&(u8, String), usize> = new.names.iter().enumerate().map(|(node, name)| (name, node)).collect();
    let mut matched = vec![false; new.names.len()];
    for (node, name) in old.names.iter().enumerate() {
        if let Some(other) = known.get(name) {
            set(&mut pairs, &mut matched, node, *other);
        }
    }
    // Colours after three rounds, two, one and none.
    let mut levels = vec![(old.local.clone(), new.local.clone())];
    for _ in 0..3 {
        let Some((one, other)) = levels.last() else { break };
        levels.push((old.refine(one), new.refine(other)));
    }
    // Last by neighbours alone, for a service with another program in the same role.
    let bare = |nodes: &Nodes| {
        let kinds: Vec<u64> = nodes.names.iter().map(|(kind, _)| hash(kind)).collect();
        nodes.refine(&nodes.refine(&kinds))
    };
    levels.insert(0, (bare(&old), bare(&new)));
    for (one, other) in levels.iter().rev() {
        let mut free: HashMap<u64, Vec<usize>> = HashMap::new();
        for (node, colour) in
            other.iter().enumerate().rev().filter(|(node, _)| !matched.get(*node).copied().unwrap_or(true))
        {
            free.entry(*colour).or_default().push(node);
        }
        for (node, colour) in one.iter().enumerate() {
            if pairs.get(node).copied().flatten().is_none()
                && let Some(found) = free.get_mut(colour).and_then(Vec::pop)
            {
                set(&mut pairs, &mut matched, node, found);
            }
        }
    }
    numbered(&old, &new, &pairs)
}

/// Returns the two policies' numbers by structure alone, if their graphs look the same.
pub(super) fn by_structure(old: &Sound, new: &Sound) -> Option<(Numbers, Numbers)> {
    let (mine, theirs) = (Nodes::new(old), Nodes::new(new));
    let (one, other) = (mine.ordered(old), theirs.ordered(new));
    let (old, new) = (mine, theirs);
    let (mut one, mut other) = (old.settle(one), new.settle(other));
    for tie in 0..=TIES {
        let (left, right) = (classes(&one, &old), classes(&other, &new));
        let same = left.len() == right.len()
            && left.iter().zip(&right).all(|((a, mine), (b, theirs))| a == b && mine.len() == theirs.len());
        if !same {
            return None;
        }
        let tied = left.iter().find(|(_, nodes)| nodes.len() > 1);
        let Some((colour, nodes)) = tied.filter(|_| tie < TIES) else {
            let mut pairs = vec![None; old.names.len()];
            let mut matched = vec![false; new.names.len()];
            for (mine, theirs) in left.values().zip(right.values()) {
                mine.iter().zip(theirs).for_each(|(node, found)| set(&mut pairs, &mut matched, *node, *found));
            }
            return Some(numbered(&old, &new, &pairs));
        };
        // One of the tied nodes is marked in both policies: one with a common name, if there is
        // one.
        let theirs = right.get(colour)?;
        let named = |node: &usize| theirs.iter().find(|found| new.names.get(**found) == old.names.get(*node));
        let (node, found) = nodes
            .iter()
            .find_map(|node| Some((*node, *named(node)?)))
            .or_else(|| Some((*nodes.first()?, *theirs.first()?)))?;
        let mark = hash(("tie", tie, *colour));
        *one.get_mut(node)? = mark;
        *other.get_mut(found)? = mark;
        (one, other) = (old.settle(one), new.settle(other));
    }
    None
}

/// Returns the nodes of each colour, in the order of their names.
fn classes(colours: &[u64], nodes: &Nodes) -> BTreeMap<u64, Vec<usize>> {
    let mut classes: BTreeMap<u64, Vec<usize>> = BTreeMap::new();
    for (node, colour) in colours.iter().enumerate() {
        classes.entry(*colour).or_default().push(node);
    }
    for class in classes.values_mut() {
        class.sort_by_key(|node| nodes.names.get(*node));
    }
    classes
}

fn set(pairs: &mut [Option<usize>], matched: &mut [bool], node: usize, found: usize) {
    if let (Some(pair), Some(matched)) = (pairs.get_mut(node), matched.get_mut(found)) {
        (*pair, *matched) = (Some(found), true);
    }
}

/// Returns numbers for both sides: a pair has the same number, and every other entry has its own.
fn numbered(old: &Nodes, new: &Nodes, pairs: &[Option<usize>]) -> (Numbers, Numbers) {
    let mine: Vec<usize> = (0..old.names.len()).collect();
    let mut theirs: Vec<usize> = (0..new.names.len()).map(|node| old.names.len() + node).collect();
    for (node, found) in pairs.iter().enumerate() {
        if let Some(number) = found.and_then(|found| theirs.get_mut(found)) {
            *number = node;
        }
    }
    (old.numbers(&mine), new.numbers(&theirs))
}
