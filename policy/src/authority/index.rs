//! The policy by positions instead of names, with references in both directions.

use std::collections::HashMap;

use super::vocabulary::Rule;
use crate::diagnostic::Span;
use crate::model::{MapAccess, Peer, Policy, Source};

/// Everything that refers to one service.
#[derive(Default)]
pub(crate) struct ServiceLinks {
    /// The regions that it maps, with the position in the region's map.
    pub maps: Vec<(usize, usize)>,
    /// The queues of which it is the client.
    pub asks: Vec<usize>,
    /// The queues that it serves.
    pub serves: Vec<usize>,
    /// Its event channels.
    pub ports: Vec<usize>,
    /// The grants that it holds.
    pub holds: Vec<usize>,
    /// The grants on its behalf.
    pub grants: Vec<usize>,
    /// Its entry of `[xenstore]`.
    pub paths: Option<usize>,
}

/// Everything that refers to one other domain.
#[derive(Default)]
pub(crate) struct DomainLinks {
    /// The grants to it.
    pub grants: Vec<usize>,
    /// The event channels to it.
    pub ports: Vec<usize>,
}

/// The ends of a queue.
#[derive(Clone, Copy)]
pub(crate) struct Ends {
    pub from: usize,
    pub to: usize,
}

/// The entries that a grant rule names.
#[derive(Clone, Copy)]
pub(crate) struct Granted {
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
    pub queues: Vec<Ends>,
    pub ports: Vec<Channel>,
    pub grants: Vec<Granted>,
    /// For each region, the services that map it, and how.
    pub maps: Vec<Vec<(usize, MapAccess)>>,
    /// The grant of each region: at most one.
    pub granted: HashMap<usize, usize>,
    /// The client of each entry of `[xenstore]`.
    pub clients: Vec<usize>,
}

impl Index {
    pub(crate) fn new(policy: &Policy) -> Index {
        let service = |name: &str| policy.services.index(name).unwrap_or(usize::MAX);
        let domain = |name: &str| policy.domains.index(name).unwrap_or(usize::MAX);
        let mut index = Index {
            services: policy.services.items.iter().map(|_| ServiceLinks::default()).collect(),
            domains: policy.domains.items.iter().map(|_| DomainLinks::default()).collect(),
            queues: Vec::new(),
            ports: Vec::new(),
            grants: Vec::new(),
            maps: Vec::new(),
            granted: HashMap::new(),
            clients: Vec::new(),
        };
        for (position, region) in policy.regions.items.iter().enumerate() {
            let map: Vec<_> =
                region.body.map.iter().map(|entry| (service(&entry.service.value), entry.how.value)).collect();
            for (entry, (mapper, _)) in map.iter().enumerate() {
                index.update(*mapper, |links| links.maps.push((position, entry)));
            }
            index.maps.push(map);
        }
        for (position, queue) in policy.queues.items.iter().enumerate() {
            let ends = Ends { from: service(&queue.body.from.value), to: service(&queue.body.to.value) };
            index.update(ends.from, |links| links.asks.push(position));
            index.update(ends.to, |links| links.serves.push(position));
            index.queues.push(ends);
        }
        for (position, port) in policy.ports.items.iter().enumerate() {
            let peer = match &port.body.peer {
                Peer::Domain(peer) => Some(domain(&peer.value)),
                Peer::XenStore(_) => None,
            };
            let channel = Channel { service: service(&port.body.service.value), peer };
            index.update(channel.service, |links| links.ports.push(position));
            if let Some(outside) = peer.and_then(|peer| index.domains.get_mut(peer)) {
                outside.ports.push(position);
            }
            index.ports.push(channel);
        }
        index.add_grants(policy);
        for (position, entry) in policy.xenstore.items.iter().enumerate() {
            let client = service(&entry.name.value);
            index.update(client, |links| links.paths = Some(position));
            index.clients.push(client);
        }
        index
    }

    fn add_grants(&mut self, policy: &Policy) {
        for (position, grant) in policy.grants.items.iter().enumerate() {
            let service = |name: &str| policy.services.index(name).unwrap_or(usize::MAX);
            let granted = Granted {
                region: policy.regions.index(&grant.body.region.value).unwrap_or(usize::MAX),
                peer: policy.domains.index(&grant.body.peer.value).unwrap_or(usize::MAX),
                holder: service(&grant.body.held_by.value),
                client: service(&grant.body.on_behalf_of.value),
            };
            self.update(granted.holder, |links| links.holds.push(position));
            self.update(granted.client, |links| links.grants.push(position));
            if let Some(outside) = self.domains.get_mut(granted.peer) {
                outside.grants.push(position);
            }
            self.granted.insert(granted.region, position);
            self.grants.push(granted);
        }
    }

    fn update(&mut self, service: usize, change: impl FnOnce(&mut ServiceLinks)) {
        if let Some(links) = self.services.get_mut(service) {
            change(links);
        }
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

/// Returns the position of a rule in the file.
pub(crate) fn span(policy: &Policy, rule: Rule) -> Option<&Span> {
    match rule {
        Rule::Service(service) => Some(&policy.services.items.get(service)?.name.span),
        Rule::HeldCapability(service, held) => Some(&policy.services.items.get(service)?.body.held.get(held)?.span),
        Rule::Map(region, entry) => Some(&policy.regions.items.get(region)?.body.map.get(entry)?.service.span),
        Rule::Region(region) => Some(&policy.regions.items.get(region)?.body.source.span),
        Rule::Queue(queue) => Some(&policy.queues.items.get(queue)?.name.span),
        Rule::Port(port) => Some(&policy.ports.items.get(port)?.name.span),
        Rule::Grant(grant) => Some(&policy.grants.items.get(grant)?.name.span),
        Rule::Path(client, path) => Some(&policy.xenstore.items.get(client)?.body.get(path)?.path.span),
    }
}
