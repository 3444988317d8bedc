//! Typed capabilities: the operations of each kind of object, as methods over a [`System`].
//!
//! A capability can be moved and borrowed, but not copied. Creating one takes a [`System`], which a
//! service's logic does not get: in the image, the runtime passes it only to the bindings. So the
//! compiler limits a service to what its `Caps` hold. This is the second barrier. The first is the
//! kernel, which looks up every slot.
//!
//! # Holding one proves
//! In the image: the policy gives the service this capability. What the kernel lets it do is a
//! question of its rights, which the kernel checks at each invocation.

use core::fmt::{self, Write};

use cloister_caps::abi::CONSOLE_CHUNK;
use cloister_caps::weakness::Exposures;
use cloister_caps::{DomId, EvtchnPort, GrantRef, InvokeError, Operation, Slot, Status};

use crate::service::Notifications;
use crate::system::{Instant, System};

macro_rules! capability {
    ($(#[$doc:meta])* $name:ident) => {
        $(#[$doc])*
        pub struct $name<S> {
            system: S,
            slot: Slot,
        }
        impl<S: System> $name<S> {
            /// Wraps the capability in `slot`.
            pub fn new(system: S, slot: Slot) -> Self {
                $name { system, slot }
            }
        }
    };
}

capability! {
    /// The guest console. The kernel prefixes each line with the service's name, and limits the
    /// rate of lines.
    Console
}
impl<S: System> Console<S> {
    /// Writes one line.
    pub fn line(&self, text: fmt::Arguments<'_>) {
        self.try_line(text);
    }

    /// Writes one line. Returns `false` if it may have been dropped, because this service has
    /// exceeded its rate or its room, or if the kernel refuses.
    pub fn try_line(&self, text: fmt::Arguments<'_>) -> bool {
        let mut chunks = Chunks { console: self, bytes: [0; CONSOLE_CHUNK], used: 0, printed: true };
        // Writing to `Chunks` never fails.
        let _ = chunks.write_fmt(text);
        let _ = chunks.write_str("\n");
        chunks.flush();
        chunks.printed
    }
}

struct Chunks<'a, S> {
    console: &'a Console<S>,
    bytes: [u8; CONSOLE_CHUNK],
    used: usize,
    /// No part of the line may have been dropped.
    printed: bool,
}

impl<S: System> Chunks<'_, S> {
    #[inline(never)] // It is in every program, for each line twice.
    fn flush(&mut self) {
        let mut words = [0; 4];
        for (word, bytes) in words.iter_mut().zip(self.bytes.chunks_exact(8)) {
            *word = u64::from_le_bytes(bytes.try_into().unwrap_or_default());
        }
        let answer = self.console.system.invoke(self.console.slot, Operation::ConsoleWrite, words);
        self.printed &= matches!(answer, Ok([0, _]));
        self.bytes = [0; CONSOLE_CHUNK];
        self.used = 0;
    }
}

impl<S: System> Write for Chunks<'_, S> {
    fn write_str(&mut self, text: &str) -> fmt::Result {
        for byte in text.bytes() {
            if self.used == CONSOLE_CHUNK {
                self.flush();
            }
            self.bytes[self.used] = byte;
            self.used += 1;
        }
        Ok(())
    }
}

capability! {
    /// The monotonic clock and the wall clock.
    Clock
}
impl<S: System> Clock<S> {
    /// Returns the monotonic time, or [`Instant::START`] if the kernel refuses.
    pub fn now(&self) -> Instant {
        Instant(self.system.invoke(self.slot, Operation::ClockNow, [0; 4]).map_or(0, |[now, _]| now))
    }
    /// Returns UTC in nanoseconds since 1970, or `None` if the kernel refuses.
    pub fn wall(&self) -> Option<u64> {
        self.system.invoke(self.slot, Operation::ClockWall, [0; 4]).ok().map(|[now, _]| now)
    }
}

capability! {
    /// The kernel's random number generator.
    Entropy
}
impl<S: System> Entropy<S> {
    /// Returns 128 random bits.
    ///
    /// # Errors
    /// The kernel refused, or the processor has no RDRAND.
    pub fn draw(&self) -> Result<[u64; 2], InvokeError> {
        self.system.invoke(self.slot, Operation::EntropyDraw, [0; 4])
    }
}

capability! {
    /// Powering off and rebooting the domain.
    Power
}
impl<S: System> Power<S> {
    /// Powers the domain off. Returns only if the kernel refuses.
    pub fn off(&self) {
        let _ = self.system.invoke(self.slot, Operation::PowerOff, [0; 4]);
    }
    /// Reboots the domain. Returns only if the kernel refuses.
    pub fn reboot(&self) {
        let _ = self.system.invoke(self.slot, Operation::PowerReboot, [0; 4]);
    }
}

capability! {
    /// Information about the image and this service's history.
    Info
}
impl<S: System> Info<S> {
    /// Returns the two words of an item of [`cloister_caps::abi::info`].
    ///
    /// # Errors
    /// There is no such item.
    pub fn read(&self, item: u64) -> Result<[u64; 2], InvokeError> {
        self.system.invoke(self.slot, Operation::InfoRead, [item, 0, 0, 0])
    }

    /// Returns what the processor's weaknesses to speculation are, and what the kernel does about
    /// them. Returns `None` if the kernel's words mean nothing to this program.
    pub fn exposures(&self) -> Option<Exposures> {
        Exposures::from_words(self.read(cloister_caps::abi::info::SPECULATION).ok()?)
    }

    /// Returns the SHA-256 of the policy that the kernel enforces.
    pub fn policy_hash(&self) -> [u8; 32] {
        use cloister_caps::abi::info::{POLICY_HASH_HIGH, POLICY_HASH_LOW};
        let mut hash = [0; 32];
        for (half, item) in [POLICY_HASH_LOW, POLICY_HASH_HIGH].into_iter().enumerate() {
            let words = self.read(item).unwrap_or_default();
            for (index, word) in words.into_iter().enumerate() {
                let at = half * 16 + index * 8;
                hash[at..at + 8].copy_from_slice(&word.to_be_bytes());
            }
        }
        hash
    }
}

/// An event channel. Events are delivered as a notification. The kernel masks the channel from the
/// delivery until the service's next `wait`, so an event storm causes at most one notification per
/// `wait`.
pub struct Port<S> {
    system: S,
    slot: Slot,
    bit: u8,
}

impl<S: System> Port<S> {
    /// Wraps the capability in `slot`, whose events arrive as notification `bit`.
    pub fn new(system: S, slot: Slot, bit: u8) -> Self {
        Port { system, slot, bit }
    }
    /// Returns `true` if one of the notifications is for this port.
    pub fn is_notified(&self, notifications: Notifications) -> bool {
        notifications.contains(self.bit)
    }
    /// Returns the notification that its events arrive as.
    pub fn notification(&self) -> Notifications {
        Notifications(1 << (self.bit & 63))
    }
    /// Allocates the channel for `peer` to bind, and returns the port number to send to the peer.
    ///
    /// # Errors
    /// The policy allows no such peer, the port is open already, or Xen refused.
    pub fn open(&self, peer: DomId) -> Result<EvtchnPort, InvokeError> {
        let [port, _] = self.system.invoke(self.slot, Operation::PortOpen, [u64::from(peer.0), 0, 0, 0])?;
        Ok(EvtchnPort(port as u32))
    }
    /// Binds the channel that `peer` allocated as its port `theirs`. Only a kernel built for a back
    /// end supports it.
    ///
    /// # Errors
    /// As for [`Port::open`].
    pub fn bind(&self, peer: DomId, theirs: EvtchnPort) -> Result<(), InvokeError> {
        let arguments = [u64::from(peer.0), u64::from(theirs.0), 0, 0];
        self.system.invoke(self.slot, Operation::PortOpen, arguments).map(|_| ())
    }
    /// Sends an event. It is dropped if the peer is gone.
    pub fn send(&self) {
        let _ = self.system.invoke(self.slot, Operation::PortSend, [0; 4]);
    }
    /// Closes the channel.
    ///
    /// # Errors
    /// The port is not open.
    pub fn close(&self) -> Result<(), InvokeError> {
        self.system.invoke(self.slot, Operation::PortClose, [0; 4]).map(|_| ())
    }
}

capability! {
    /// The pin of a set of other domains: it says which of them is the peer.
    DomainPin
}
impl<S: System> DomainPin<S> {
    /// Makes `domain` the peer of all ports and grants of the set.
    ///
    /// # Errors
    /// The domain is not in the set, or ([`Status::InUse`]) another one is pinned, and a port for it
    /// is open or a page is granted to it.
    pub fn pin(&self, domain: DomId) -> Result<(), InvokeError> {
        self.system.invoke(self.slot, Operation::DomainPin, [u64::from(domain.0), 0, 0, 0]).map(|_| ())
    }
}

capability! {
    /// A rule that allows granting pages of one region.
    Grant
}
impl<S: System> Grant<S> {
    /// Grants `peer` access to `count` pages of the rule's region from page `first` on: to all of
    /// them, or to none. Returns the grant reference of the first page; those of the others follow
    /// it. A page always has the same reference.
    ///
    /// # Errors
    /// `count` is 0, the rule does not allow one of the pages or the peer, or one of the pages is
    /// granted already.
    pub fn issue(&self, first: u32, count: u32, peer: DomId) -> Result<GrantRef, InvokeError> {
        let Some(further) = count.checked_sub(1) else {
            return Status::BadArgument.into_result().map(|()| GrantRef::default());
        };
        let arguments = [u64::from(first), u64::from(peer.0), 0, u64::from(further)];
        let [reference, _] = self.system.invoke(self.slot, Operation::GrantIssue, arguments)?;
        Ok(GrantRef(reference as u32))
    }
    /// Maps the page that `peer` granted under reference `theirs` in place of page `page`. Only a
    /// kernel built for a back end supports it.
    ///
    /// # Errors
    /// As for [`Grant::issue`] of one page, or the peer has not granted such a page.
    pub fn map(&self, page: u32, peer: DomId, theirs: GrantRef) -> Result<(), InvokeError> {
        let arguments = [u64::from(page), u64::from(peer.0), u64::from(theirs.0), 0];
        self.system.invoke(self.slot, Operation::GrantIssue, arguments).map(|_| ())
    }
    /// Ends the grant of a page, or unmaps the peer's page.
    ///
    /// # Errors
    /// [`Status::InUse`] while the peer still maps the page: the grant then remains.
    pub fn end(&self, page: u32) -> Result<(), InvokeError> {
        self.system.invoke(self.slot, Operation::GrantEnd, [u64::from(page), 0, 0, 0]).map(|_| ())
    }
}
