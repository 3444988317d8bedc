//! What a capability is to, and what it lets its holder do.

use bitflags::bitflags;

/// The kind of object a capability names.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Hash)]
#[repr(u8)]
pub enum Kind {
    /// The guest console: lines of text, prefixed by the kernel with the service's name.
    Console = 1,
    /// The monotonic and the wall clock.
    Clock = 2,
    /// Random bits from the kernel's generator.
    Entropy = 3,
    /// The domain's life: power off, reboot.
    Power = 4,
    /// The producing end of a one-way queue.
    Sender = 5,
    /// The consuming end of a one-way queue.
    Receiver = 6,
    /// An event channel to a peer domain.
    Port = 7,
    /// A rule under which pages of one region may be granted to a peer domain.
    Grant = 8,
    /// Facts about the image: policy hash, version, counters.
    Info = 9,
    /// A region that the service maps.
    Region = 10,
}

impl Kind {
    /// Every kind, in the order of its number.
    pub const ALL: [Kind; 10] = [
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
    ];

    /// The kind with this number, if there is one.
    #[must_use]
    pub fn from_number(number: u8) -> Option<Kind> {
        Kind::ALL.into_iter().find(|kind| *kind as u8 == number)
    }

    /// The word that the policy language and the denial log use.
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
        }
    }
}

bitflags! {
    /// What the holder of a capability may do with its object. One bit an operation.
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
        /// Sender or receiver: wake the other end.
        const NOTIFY = 1 << 6;
        /// Port: allocate the event channel for a peer.
        const OPEN = 1 << 7;
        /// Port: send an event.
        const SEND = 1 << 8;
        /// Port: close the event channel.
        const CLOSE = 1 << 9;
        /// Grant: let the peer use a page.
        const ISSUE = 1 << 10;
        /// Grant: end the peer's use of a page.
        const END = 1 << 11;
        /// Info: read.
        const READ = 1 << 12;
        /// Region: ask where it is mapped and its size.
        const FIND = 1 << 13;
    }
}
