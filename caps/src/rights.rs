//! The kinds of objects that capabilities name, and the rights to them.

use bitflags::bitflags;

/// The kind of object that a capability names.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Hash)]
#[repr(u8)]
pub enum Kind {
    /// The guest console. The kernel prefixes each line with the service's name.
    Console = 1,
    /// The monotonic and the wall clock.
    Clock = 2,
    /// The kernel's random number generator.
    Entropy = 3,
    /// Powering off and rebooting the domain.
    Power = 4,
    /// The producing end of a one-way queue.
    Sender = 5,
    /// The consuming end of a one-way queue.
    Receiver = 6,
    /// An event channel to a peer domain.
    Port = 7,
    /// A rule that allows granting pages of one region to a peer domain.
    Grant = 8,
    /// Information about the image and the service's history: see
    /// [`info`](crate::abi::info).
    Info = 9,
    /// A region that the service maps.
    Region = 10,
    /// A set of other domains, one of which is pinned at a time as the peer.
    Domain = 11,
}

impl Kind {
    /// Every kind, in the order of the numbers.
    pub const ALL: [Kind; 11] = [
        Kind::Console,
        Kind::Clock,
        Kind::Entropy,
        Kind::Power,
        Kind::Sender,
        Kind::Receiver,
        Kind::Port,
        Kind::Grant,
        Kind::Info,
        Kind::Region,
        Kind::Domain,
    ];

    /// Returns the kind with this number, if there is one.
    #[must_use]
    pub fn from_number(number: u8) -> Option<Kind> {
        Kind::ALL.into_iter().find(|kind| *kind as u8 == number)
    }

    /// Returns the kind's name in the policy language and in the refusal log.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Kind::Console => "console",
            Kind::Clock => "clock",
            Kind::Entropy => "entropy",
            Kind::Power => "power",
            Kind::Sender => "queue sender",
            Kind::Receiver => "queue receiver",
            Kind::Port => "port",
            Kind::Grant => "grant",
            Kind::Info => "info",
            Kind::Region => "region",
            Kind::Domain => "domain",
        }
    }
}

bitflags! {
    /// The operations that a capability allows on its object: one bit for each operation.
    #[derive(Clone, Copy, PartialEq, Eq, Debug, Hash)]
    pub struct Rights: u32 {
        /// Console: write text.
        const WRITE = 1 << 0;
        /// Clock: read the monotonic clock.
        const NOW = 1 << 1;
        /// Clock: read the wall clock.
        const WALL = 1 << 2;
        /// Entropy: draw random bits.
        const DRAW = 1 << 3;
        /// Power: power the domain off.
        const OFF = 1 << 4;
        /// Power: reboot the domain.
        const REBOOT = 1 << 5;
        /// Sender or receiver: notify the service at the other end.
        const NOTIFY = 1 << 6;
        /// Port: open the event channel for a peer.
        const OPEN = 1 << 7;
        /// Port: send an event.
        const SEND = 1 << 8;
        /// Port: close the event channel.
        const CLOSE = 1 << 9;
        /// Grant: share pages with a peer.
        const ISSUE = 1 << 10;
        /// Grant: end the sharing of a page.
        const END = 1 << 11;
        /// Info: read an item.
        const READ = 1 << 12;
        /// Region: ask for its address and size.
        const FIND = 1 << 13;
        /// Domain set: pin one of its domains.
        const PIN = 1 << 14;
    }
}
