//! The capability spaces: what the kernel keeps of each slot.

use cloister_caps::tables::{Capability, MAX_SLOTS, Tables};
use cloister_caps::{Clamped, Kind, Operation, Rights};

/// Holds what the kernel keeps of one slot: all that an invocation needs to know of it.
#[derive(Clone, Copy)]
pub(super) struct CapEntry {
    /// The rights of the capability, without those that its kind has no operation for. An empty
    /// slot has none.
    pub(super) rights: Rights,
    /// The rights that were exercised since boot.
    pub(super) used: Rights,
    /// Index of the object in the section of its kind.
    pub(super) object: u16,
    /// For a queue end, the service at the other end and the notification bit that `notify` sets
    /// there. Otherwise the service is `u8::MAX`.
    pub(super) notify_target: (u8, u8),
}

impl CapEntry {
    pub(super) const EMPTY: CapEntry =
        CapEntry { rights: Rights::empty(), used: Rights::empty(), object: 0, notify_target: (u8::MAX, 0) };

    pub(super) fn new(tables: &Tables<'_>, capability: &Capability) -> CapEntry {
        let notify_target = match (capability.kind, tables.queues().get(capability.object as usize)) {
            (Kind::Sender, Some(queue)) => (queue.receiver, queue.receiver_bit),
            (Kind::Receiver, Some(queue)) => (queue.sender, queue.sender_bit),
            _ => CapEntry::EMPTY.notify_target,
        };
        // No section has more than `u16::MAX` objects: `Tables::parse` checks their number.
        let object = u16::try_from(capability.object).unwrap_or(u16::MAX);
        CapEntry {
            rights: capability.rights & Operation::rights_of(capability.kind),
            object,
            notify_target,
            ..CapEntry::EMPTY
        }
    }
}

/// Holds the capability entries of one service. The last is empty: every number from `MAX_SLOTS` on
/// names it.
pub(super) type Slots = Clamped<CapEntry, { MAX_SLOTS + 1 }>;
