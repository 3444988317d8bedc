//! The decisions of the kernel, apart from the machine: which service holds which capability, what
//! an invocation may do, which service runs next, where each region lies, and what the boot data
//! means.
//!
//! The ring-0 crate (`kernel/image`) acts on these decisions. The simulator (`tests/sim`) runs the
//! same code on the host. Nothing here is `unsafe`, allocates, or panics on any input.
#![cfg_attr(not(test), no_std)]
#![forbid(unsafe_code)]

pub mod accounting;
pub mod boot;
pub mod clock;
pub mod console;
pub mod entropy;
pub mod kernel;
pub mod memory;
pub mod placement;
pub mod refusal;
pub mod schedule;
pub mod usage;

pub use accounting::{Accounting, Costs};
pub use kernel::{Answer, Kernel, Outcome, Verdict};

/// The machine under the kernel: Xen in the image, the simulated hypervisor on the host.
pub trait Platform {
    /// Returns the monotonic time in ns.
    fn now(&mut self) -> u64;
    /// Returns UTC in ns since 1970, if the machine knows it.
    fn wall(&mut self) -> Option<u64>;
    /// Returns 128 random bits, or `None` if the machine has no source of them.
    fn random(&mut self) -> Option<[u64; 2]>;
    /// Writes text of a service, given by name and index, to the console.
    fn service_text(&mut self, service: &str, index: u8, text: &[u8]);
    /// Writes a line of the kernel's own to the console.
    fn log(&mut self, line: core::fmt::Arguments<'_>);
    /// Allocates an event channel that `peer` may bind (`EVTCHNOP_alloc_unbound`).
    ///
    /// The port is masked until [`Platform::unmask`], and again after each event that was
    /// delivered.
    fn open_port(&mut self, peer: cloister_caps::DomId) -> Option<cloister_caps::EvtchnPort>;
    /// Sends an event (`EVTCHNOP_send`).
    fn send(&mut self, port: cloister_caps::EvtchnPort);
    /// Closes an event channel (`EVTCHNOP_close`).
    fn close_port(&mut self, port: cloister_caps::EvtchnPort);
    /// Unmasks an event channel. An event that came while it was masked is delivered now.
    fn unmask(&mut self, port: cloister_caps::EvtchnPort);
    /// Writes the grant entry `reference`, which lets `peer` read `frame`, and write it if
    /// `writable`.
    fn grant(
        &mut self,
        reference: cloister_caps::GrantRef,
        frame: cloister_caps::Gfn,
        peer: cloister_caps::DomId,
        writable: bool,
    );
    /// Ends a grant unless the peer is using it. Returns `true` if it ended.
    fn end_grant(&mut self, reference: cloister_caps::GrantRef) -> bool;

    /// Fills a frame with zeros.
    fn clear(&mut self, frame: cloister_caps::Gfn);

    // Only a back end needs the rest. The kernel that ships does not implement it
    // (docs/decisions/0006-separate-kernel-for-back-ends.md).

    /// Binds the event channel that `_peer` has allocated as its port `_peer_port`
    /// (`EVTCHNOP_bind_interdomain`).
    fn bind_port(
        &mut self,
        _peer: cloister_caps::DomId,
        _peer_port: cloister_caps::EvtchnPort,
    ) -> Option<cloister_caps::EvtchnPort> {
        None
    }
    /// Maps the page that `_peer` grants under `_peer_ref` in place of `_frame`
    /// (`GNTTABOP_map_grant_ref`). Returns `true` if it is mapped.
    ///
    /// `_own_ref` is the reference under which `_frame` would be granted. It names the mapping.
    fn map_grant(
        &mut self,
        _own_ref: cloister_caps::GrantRef,
        _frame: cloister_caps::Gfn,
        _peer: cloister_caps::DomId,
        _peer_ref: cloister_caps::GrantRef,
        _writable: bool,
    ) -> bool {
        false
    }
    /// Unmaps the peer's page that is mapped at `_frame` (`GNTTABOP_unmap_grant_ref`).
    fn unmap_grant(&mut self, _own_ref: cloister_caps::GrantRef, _frame: cloister_caps::Gfn) {}
}

#[cfg(test)]
mod tests {
    use cloister_caps::{DomId, EvtchnPort, Gfn, GrantRef};

    use super::Platform;

    /// A machine with what every machine must implement, and nothing else.
    struct Minimal;

    impl Platform for Minimal {
        fn now(&mut self) -> u64 {
            0
        }
        fn wall(&mut self) -> Option<u64> {
            None
        }
        fn random(&mut self) -> Option<[u64; 2]> {
            None
        }
        fn service_text(&mut self, _: &str, _: u8, _: &[u8]) {}
        fn log(&mut self, _: core::fmt::Arguments<'_>) {}
        fn open_port(&mut self, _: DomId) -> Option<EvtchnPort> {
            None
        }
        fn send(&mut self, _: EvtchnPort) {}
        fn close_port(&mut self, _: EvtchnPort) {}
        fn unmask(&mut self, _: EvtchnPort) {}
        fn grant(&mut self, _: GrantRef, _: Gfn, _: DomId, _: bool) {}
        fn end_grant(&mut self, _: GrantRef) -> bool {
            true
        }
        fn clear(&mut self, _: Gfn) {}
    }

    #[test]
    fn a_machine_without_back_end_support_binds_and_maps_nothing() {
        assert_eq!(Minimal.bind_port(DomId(3), EvtchnPort(7)), None);
        assert!(!Minimal.map_grant(GrantRef(8), Gfn(1), DomId(3), GrantRef(9), true));
    }
}
