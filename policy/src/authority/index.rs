//! The policy by positions instead of names, with references in both directions.

use std::collections::HashMap;

use super::catalogue::program;
use super::vocabulary::Rule;
use crate::diagnostic::Span;
use crate::model::{Domain, MapAccess, MapEntry, Peer, Policy, Source};

/// Everything that refers to one service.
#[derive(Default)]
pub(crate) struct ServiceLinks {
    /// The regions that it maps, with the position in the region's map.
    pub maps: Vec<(usize, usize)>,
    /// The queues of which it is the client.
    pub client_queues: Vec<usize>,
    /// The queues that it serves.
    pub server_queues: Vec<usize>,
    /// Its event channels.
    pub ports: Vec<usize>,
    /// The grants that it holds.
    pub held_grants: Vec<usize>,
    /// The grants on its behalf.
    pub grants_on_behalf: Vec<usize>,
    /// Its entry of `[xenstore]`.
    pub xenstore_entry: Option<usize>,
}

/// Everything that refers to one other domain.
#[derive(Default)]
pub(crate) struct DomainLinks {
    /// The grants to it.
    pub grants: Vec<usize>,
    /// The event channels to it.
    pub ports: Vec<usize>,
    /// The service that pins it.
    pub pinned_by: Option<usize>,
}

/// The ends of a queue.
#[derive(Clone, Copy)]
pub(crate) struct QueueEnds {
    pub from: usize,
    pub to: usize,
}

/// The entries that a grant rule names.
#[derive(Clone, Copy)]
pub(crate) struct GrantParties {
    pub region: usize,
    pub peer: usize,
    pub holder: usize,
    pub client: usize,
}

/// A port's service, and its domain unless the peer is the XenStore daemon.
#[derive(Clone, Copy)]
pub(crate) struct Channel {
    pub service: usize,
    pub peer: Option<usize>,
}

/// The index of a checked policy, in which every name is defined.
pub(crate) struct Index {
    pub services: Vec<ServiceLinks>,
    pub domains: Vec<DomainLinks>,
    pub queues: Vec<QueueEnds>,
    pub ports: Vec<Channel>,
    pub grants: Vec<GrantParties>,
    /// For each region, the services that map it, and how.
    pub maps: Vec<Vec<(usize, MapAccess)>>,
    /// The grant of each region: at most one.
    pub granted: HashMap<usize, usize>,
    /// The client of each entry of `[xenstore]`.
    pub clients: Vec<usize>,
    /// The interface of each queue.
    pub interfaces: Vec<String>,
    /// For each service, `true` if the catalogue describes its program, with these queue ends.
    pub known: Vec<bool>,
    /// For each domain, the entries of `[domains]` that have an id in common with it, itself too.
    pub aliases: Vec<Vec<usize>>,
}

impl Index {
    /// Returns the index of a policy. Returns `None` if it names an entry that is not defined. A
    /// checked policy names none.
    pub(crate) fn new(policy: &Policy) -> Option<Index> {
        let mut index = Index {
            services: policy.services.items.iter().map(|_| ServiceLinks::default()).collect(),
            domains: policy.domains.items.iter().map(|_| DomainLinks::default()).collect(),
            queues: Vec::new(),
            ports: Vec::new(),
            grants: Vec::new(),
            maps: Vec::new(),
            granted: HashMap::new(),
            clients: Vec::new(),
            interfaces: policy.queues.items.iter().map(|queue| queue.body.interface.value.clone()).collect(),
            known: Vec::new(),
            aliases: Vec::new(),
        };
        for (item, links) in policy.domains.items.iter().zip(&mut index.domains) {
            if let Some(pin) = &item.body.pin {
                links.pinned_by = Some(policy.services.index(&pin.by.value)?);
            }
        }
        for (position, region) in policy.regions.items.iter().enumerate() {
            let mapper = |entry: &MapEntry| Some((policy.services.index(&entry.service.value)?, entry.how.value));
            let map: Vec<_> = region.body.map.iter().map(mapper).collect::<Option<_>>()?;
            for (entry, (mapper, _)) in map.iter().enumerate() {
                index.update(*mapper, |links| links.maps.push((position, entry)));
            }
            index.maps.push(map);
        }
        for (position, queue) in policy.queues.items.iter().enumerate() {
            let ends = QueueEnds {
                from: policy.services.index(&queue.body.from.value)?,
                to: policy.services.index(&queue.body.to.value)?,
            };
            index.update(ends.from, |links| links.client_queues.push(position));
            index.update(ends.to, |links| links.server_queues.push(position));
            index.queues.push(ends);
        }
        for (position, port) in policy.ports.items.iter().enumerate() {
            let peer = match &port.body.peer {
                Peer::Domain(peer) => Some(policy.domains.index(&peer.value)?),
                Peer::XenStore(_) => None,
            };
            let channel = Channel { service: policy.services.index(&port.body.service.value)?, peer };
            index.update(channel.service, |links| links.ports.push(position));
            if let Some(outside) = peer.and_then(|peer| index.domains.get_mut(peer)) {
                outside.ports.push(position);
            }
            index.ports.push(channel);
        }
        index.add_grants(policy)?;
        for (position, entry) in policy.xenstore.items.iter().enumerate() {
            let client = policy.services.index(&entry.name.value)?;
            index.update(client, |links| links.xenstore_entry = Some(position));
            index.clients.push(client);
        }
        index.known = (0..policy.services.items.len()).map(|service| index.is_known(policy, service)).collect();
        index.aliases = aliases(policy);
        Some(index)
    }

    /// Returns `true` if the catalogue describes the service's program, and the program has every
    /// queue end that the policy gives it.
    fn is_known(&self, policy: &Policy, service: usize) -> bool {
        let (Some(item), Some(links)) = (policy.services.items.get(service), self.services.get(service)) else {
            return false;
        };
        let Some(program) = program(&item.body.program.value) else { return false };
        let has = |queues: &[usize], ends: &[&str]| {
            queues.iter().all(|queue| {
                let queue = policy.queues.items.get(*queue);
                queue.is_some_and(|queue| ends.contains(&queue.body.interface.value.as_str()))
            })
        };
        has(&links.client_queues, program.asks) && has(&links.server_queues, program.serves)
    }

    fn add_grants(&mut self, policy: &Policy) -> Option<()> {
        for (position, grant) in policy.grants.items.iter().enumerate() {
            let granted = GrantParties {
                region: policy.regions.index(&grant.body.region.value)?,
                peer: policy.domains.index(&grant.body.peer.value)?,
                holder: policy.services.index(&grant.body.held_by.value)?,
                client: policy.services.index(&grant.body.on_behalf_of.value)?,
            };
            self.update(granted.holder, |links| links.held_grants.push(position));
            self.update(granted.client, |links| links.grants_on_behalf.push(position));
            if let Some(outside) = self.domains.get_mut(granted.peer) {
                outside.grants.push(position);
            }
            self.granted.insert(granted.region, position);
            self.grants.push(granted);
        }
        Some(())
    }

    fn update(&mut self, service: usize, change: impl FnOnce(&mut ServiceLinks)) {
        if let Some(links) = self.services.get_mut(service) {
            change(links);
        }
    }

    /// Returns the XenStore ring, and the position in its map, if the service may write it.
    pub(crate) fn ring_of(&self, policy: &Policy, service: usize) -> Option<(usize, usize)> {
        self.rings(policy, service).find(|(_, _, writes)| *writes).map(|(region, entry, _)| (region, entry))
    }

    /// Returns the XenStore ring if the service maps it, with the position in its map, and `true` if
    /// it may write it.
    pub(crate) fn rings(&self, policy: &Policy, service: usize) -> impl Iterator<Item = (usize, usize, bool)> {
        let maps = self.services.get(service).map_or(&[][..], |links| &links.maps);
        maps.iter().filter_map(|(region, entry)| {
            let source = policy.regions.items.get(*region)?.body.source.value;
            let (_, how) = self.maps.get(*region)?.get(*entry)?;
            (source == Source::XenStoreRing).then_some((*region, *entry, how.writes()))
        })
    }

    /// Returns the services that map the XenStore ring, each with the ring and the position in its
    /// map.
    pub(crate) fn ring_mappers(&self, policy: &Policy) -> impl Iterator<Item = (usize, (usize, usize))> {
        let regions = policy.regions.items.iter().zip(&self.maps).enumerate();
        let rings = regions.filter(|(_, (item, _))| item.body.source.value == Source::XenStoreRing);
        rings.flat_map(|(region, (_, map))| {
            map.iter().enumerate().map(move |(entry, (service, _))| (*service, (region, entry)))
        })
    }

    /// Returns `true` if a restart clears the region.
    pub(crate) fn cleared_on_restart(&self, policy: &Policy, region: usize) -> bool {
        let (Some(item), Some(map)) = (policy.regions.items.get(region), self.maps.get(region)) else { return false };
        let heap = map.iter().any(|(_, how)| *how == MapAccess::Heap);
        let clearable = matches!(item.body.source.value, Source::Fixed { .. } | Source::Share { .. });
        let alone = map.len() == 1 && !self.granted.contains_key(&region) && item.body.keep.is_none();
        heap || (clearable && alone)
    }
}

/// Returns, for each entry of `[domains]`, the entries with an id in common.
fn aliases(policy: &Policy) -> Vec<Vec<usize>> {
    let items = &policy.domains.items;
    let overlap = |one: &Domain, other: &Domain| one.first <= other.last && other.first <= one.last;
    let of = |one: &Domain| {
        items.iter().enumerate().filter(|(_, other)| overlap(one, &other.body)).map(|(position, _)| position).collect()
    };
    items.iter().map(|item| of(&item.body)).collect()
}

/// Returns the position of a rule in the file.
pub(crate) fn span(policy: &Policy, rule: Rule) -> Option<&Span> {
    match rule {
        Rule::Service(service) | Rule::Log(service) => Some(&policy.services.items.get(service)?.name.span),
        Rule::HeldCapability(service, held) => Some(&policy.services.items.get(service)?.body.held.get(held)?.span),
        Rule::Map(region, entry) => Some(&policy.regions.items.get(region)?.body.map.get(entry)?.service.span),
        Rule::Region(region) => Some(&policy.regions.items.get(region)?.body.source.span),
        Rule::Queue(queue) => Some(&policy.queues.items.get(queue)?.name.span),
        Rule::Port(port) => Some(&policy.ports.items.get(port)?.name.span),
        Rule::Grant(grant) => Some(&policy.grants.items.get(grant)?.name.span),
        Rule::Isolation | Rule::NotRefused(_) => Some(&policy.image.span),
        Rule::ConsoleReader(domain) => Some(&policy.domains.items.get(domain)?.name.span),
        Rule::Pin(domain) => Some(&policy.domains.items.get(domain)?.body.pin.as_ref()?.span),
        Rule::Path(client, path)
        | Rule::Relay(_, (client, path))
        | Rule::Published(_, (client, path))
        | Rule::Directory(_, (client, path)) => Some(&policy.xenstore.items.get(client)?.body.get(path)?.path.span),
        Rule::Answer(queue) => Some(&policy.queues.items.get(queue)?.name.span),
        Rule::Shared(region, _, reader) => Some(&policy.regions.items.get(region)?.body.map.get(reader)?.service.span),
    }
}
