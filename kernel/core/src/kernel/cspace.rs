//! The capability spaces: what the kernel keeps of each slot.

use cloister_caps::tables::{Capability, MAX_SLOTS, Object, Tables};
use cloister_caps::{Clamped, DomainSetId, GrantRuleId, MappingId, PortRuleId, Rights, ServiceId};

/// The service and bit that a notification goes to.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) struct NotifyTarget {
    pub(super) service: ServiceId,
    pub(super) bit: u8,
}

/// The object that a capability names, with what the kernel needs to act on it.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum CapObject {
    /// The slot is empty.
    Nothing,
    Console,
    Clock,
    Entropy,
    Power,
    Info,
    /// An end of a queue, with what `notify` notifies at the other end.
    QueueEnd(NotifyTarget),
    Port(PortRuleId),
    Grant(GrantRuleId),
    Region(MappingId),
    Domain(DomainSetId),
}

/// Holds what the kernel keeps of one slot: all that an invocation needs to know of it.
#[derive(Clone, Copy)]
pub(super) struct CapEntry {
    /// The rights of the capability. An empty slot has none.
    pub(super) rights: Rights,
    /// The rights that were exercised since boot.
    pub(super) used: Rights,
    pub(super) object: CapObject,
}

impl CapEntry {
    pub(super) const EMPTY: CapEntry =
        CapEntry { rights: Rights::empty(), used: Rights::empty(), object: CapObject::Nothing };

    pub(super) fn new(tables: &Tables<'_>, capability: &Capability) -> CapEntry {
        let object = match capability.object {
            Object::Console => CapObject::Console,
            Object::Clock => CapObject::Clock,
            Object::Entropy => CapObject::Entropy,
            Object::Power => CapObject::Power,
            Object::Info => CapObject::Info,
            Object::Sender(queue) => {
                let queue = tables.queue(queue);
                CapObject::QueueEnd(NotifyTarget { service: queue.receiver, bit: queue.receiver_bit })
            }
            Object::Receiver(queue) => {
                let queue = tables.queue(queue);
                CapObject::QueueEnd(NotifyTarget { service: queue.sender, bit: queue.sender_bit })
            }
            Object::Port(rule) => CapObject::Port(rule),
            Object::Grant(rule) => CapObject::Grant(rule),
            Object::Region(mapping) => CapObject::Region(mapping),
            Object::Domain(set) => CapObject::Domain(set),
        };
        CapEntry { rights: capability.rights, object, ..CapEntry::EMPTY }
    }
}

/// Holds the capability entries of one service. The last is empty: every number from `MAX_SLOTS` on
/// names it.
pub(super) type Slots = Clamped<CapEntry, { MAX_SLOTS + 1 }>;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_number_beyond_the_last_slot_names_an_empty_one() {
        let mut slots = Slots::new([CapEntry::EMPTY; _]);
        slots.get_mut(63).rights = Rights::all();
        assert!([64, 65, u64::MAX].iter().all(|slot| slots.get(*slot).rights.is_empty()));
    }
}
