//! The flows that a policy allows between its services, from its tables alone.

use cloister_caps::tables::{Access, MAX_SERVICES, Object, PortPeer, Tables};
use cloister_caps::{DomainSetId, ServiceId};

/// A set of services, a bit each.
type Set = u16;
const _: () = assert!(MAX_SERVICES <= Set::BITS as usize);

fn bit(service: ServiceId) -> Set {
    1 << service.index()
}

/// Says what the services that learn from the source do with it.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Relays {
    /// Nothing: they make no call. Then no other service learns anything.
    Silent,
    /// Anything: what they do follows from what they learn. Then those that learn from them know
    /// it, too.
    Acting,
}

/// Where information may go from one service.
pub struct Flows {
    all: Vec<ServiceId>,
    /// The source, and the services that learn of it.
    reached: Set,
}

impl Flows {
    /// Returns the flows from `source`.
    pub fn from(tables: &Tables<'_>, source: ServiceId, relays: Relays) -> Flows {
        let all: Vec<ServiceId> = tables.services().ids().collect();
        let mut reached = bit(source) | direct(tables, source);
        let mut more = relays == Relays::Acting;
        while more {
            let from = all.iter().filter(|service| reached & bit(**service) != 0);
            let next = from.fold(reached, |set, service| set | direct(tables, *service));
            more = next != reached;
            reached = next;
        }
        Flows { all, reached }
    }

    /// Returns `true` if the service is the source, or learns of it.
    pub fn reaches(&self, service: ServiceId) -> bool {
        self.reached & bit(service) != 0
    }

    /// Returns the services that must learn nothing of the source.
    pub fn observers(&self) -> impl Iterator<Item = ServiceId> {
        self.all.iter().copied().filter(|service| !self.reaches(*service))
    }
}

/// Returns the services that learn from `source` at once.
///
/// The memory of a queue is written from both ends, and both ends are notified. A service that may
/// end the domain ends all of them. Peers outside of the image are not part of this: what they pass
/// on, the kernel cannot know.
fn direct(tables: &Tables<'_>, source: ServiceId) -> Set {
    let mut set = 0;
    for queue in tables.queues().iter() {
        let ends = bit(queue.sender) | bit(queue.receiver);
        if ends & bit(source) != 0 {
            set |= ends;
        }
    }
    let mappers = |region| {
        let mapped = tables.mappings().iter().filter(move |mapping| mapping.region == region);
        mapped.fold(0, |set, mapping| set | bit(mapping.service))
    };
    for mapping in tables.mappings().iter() {
        if mapping.service == source && mapping.access == Access::ReadWrite {
            set |= mappers(mapping.region);
        }
    }
    for capability in tables.capabilities().iter().filter(|capability| capability.service == source) {
        set |= match capability.object {
            // A page is cleared when its grant ends.
            Object::Grant(rule) => {
                let rule = tables.grant(rule);
                mappers(rule.region) | users(tables, rule.peers)
            }
            Object::Domain(domains) => users(tables, domains),
            Object::Port(rule) => match tables.port(rule).peer {
                PortPeer::Domains(domains) => users(tables, domains),
                PortPeer::XenStore => 0,
            },
            Object::Power => tables.services().ids().fold(0, |set, service| set | bit(service)),
            // The queues and mappings were counted above.
            Object::Sender(_) | Object::Receiver(_) | Object::Region(_) => 0,
            // They read, or what they write leaves the image.
            Object::Console | Object::Clock | Object::Entropy | Object::Info => 0,
        };
    }
    set
}

/// Returns the services that pin a domain of a set, or share something with the domain that is pinned
/// there: what one may do there depends on what the others have done. A set without a pin connects
/// nobody.
fn users(tables: &Tables<'_>, domains: DomainSetId) -> Set {
    if !tables.domain_set(domains).pinned {
        return 0;
    }
    let uses = |object| match object {
        Object::Domain(pinned) => pinned == domains,
        Object::Port(rule) => tables.port(rule).peer == PortPeer::Domains(domains),
        Object::Grant(rule) => tables.grant(rule).peers == domains,
        _ => false,
    };
    let users = tables.capabilities().iter().filter(|capability| uses(capability.object));
    users.fold(0, |set, capability| set | bit(capability.service))
}
