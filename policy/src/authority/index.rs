//! The policy by positions instead of names: what refers to what, both ways.

use std::collections::HashMap;

use super::vocabulary::Rule;
use crate::diagnostic::Span;
use crate::model::{How, Peer, Policy, Source};

/// Everything that has to do with one service.
#[derive(Default)]
pub(crate) struct Around {
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

/// Everything that has to do with one other domain.
#[derive(Default)]
pub(crate) struct Outside {
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

/// What a grant rule names.
#[derive(Clone, Copy)]
pub(crate) struct Granted {
    pub region: usize,
    pub peer: usize,
    pub holder: usize,
    pub client: usize,
}

/// A port's service, and its domain unless that is the XenStore daemon's.
#[derive(Clone, Copy)]
pub(crate) struct Channel {
    pub service: usize,
    pub peer: Option<usize>,
}

/// The index. Every name of a policy that was checked is defined.
pub(crate) struct Index {
    pub services: Vec<Around>,
    pub domains: Vec<Outside>,
    pub queues: Vec<Ends>,
    pub ports: Vec<Channel>,
    pub grants: Vec<Granted>,
    /// Who maps each region, and how.
    pub maps: Vec<Vec<(usize, How)>>,
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
            services: policy.services.items.iter().map(|_| Around::default()).collect(),
            domains: policy.domains.items.iter().map(|_| Outside::default()).collect(),
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
                index.around(*mapper, |around| around.maps.push((position, entry)));
            }
            index.maps.push(map);
        }
        for (position, queue) in policy.queues.items.iter().enumerate() {
            let ends = Ends { from: service(&queue.body.from.value), to: service(&queue.body.to.value) };
            index.around(ends.from, |around| around.asks.push(position));
            index.around(ends.to, |around| around.serves.push(position));
            index.queues.push(ends);
        }
        for (position, port) in policy.ports.items.iter().enumerate() {
            let peer = match &port.body.peer {
                Peer::Domain(peer) => Some(domain(&peer.value)),
                Peer::XenStore(_) => None,
            };
            let channel = Channel { service: service(&port.body.service.value), peer };
            index.around(channel.service, |around| around.ports.push(position));
            if let Some(outside) = peer.and_then(|peer| index.domains.get_mut(peer)) {
                outside.ports.push(position);
            }
            index.ports.push(channel);
        }
        index.add_grants(policy);
        for (position, entry) in policy.xenstore.items.iter().enumerate() {
            let client = service(&entry.name.value);
            index.around(client, |around| around.paths = Some(position));
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
            self.around(granted.holder, |around| around.holds.push(position));
            self.around(granted.client, |around| around.grants.push(position));
            if let Some(outside) = self.domains.get_mut(granted.peer) {
                outside.grants.push(position);
            }
            self.granted.insert(granted.region, position);
            self.grants.push(granted);
        }
    }

    fn around(&mut self, service: usize, change: impl FnOnce(&mut Around)) {
        if let Some(around) = self.services.get_mut(service) {
            change(around);
        }
    }

    /// Whether a restart of the service that alone maps a region empties it.
    pub(crate) fn emptied(&self, policy: &Policy, region: usize) -> bool {
        let (Some(item), Some(map)) = (policy.regions.items.get(region), self.maps.get(region)) else { return false };
        let heap = map.iter().any(|(_, how)| *how == How::Heap);
        let ours = matches!(item.body.source.value, Source::Fixed { .. } | Source::Share { .. });
        let alone = map.len() == 1 && !self.granted.contains_key(&region) && item.body.keep.is_none();
        heap || (ours && alone)
    }
}

/// Where a rule stands.
pub(crate) fn span(policy: &Policy, rule: Rule) -> Option<&Span> {
    match rule {
        Rule::Service(service) => Some(&policy.services.items.get(service)?.name.span),
        Rule::Held(service, held) => Some(&policy.services.items.get(service)?.body.held.get(held)?.span),
        Rule::Map(region, entry) => Some(&policy.regions.items.get(region)?.body.map.get(entry)?.service.span),
        Rule::Region(region) => Some(&policy.regions.items.get(region)?.body.source.span),
        Rule::Queue(queue) => Some(&policy.queues.items.get(queue)?.name.span),
        Rule::Port(port) => Some(&policy.ports.items.get(port)?.name.span),
        Rule::Grant(grant) => Some(&policy.grants.items.get(grant)?.name.span),
        Rule::Path(client, path) => Some(&policy.xenstore.items.get(client)?.body.get(path)?.path.span),
    }
}
