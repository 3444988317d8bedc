//! Every decision of the kernel, without the machine: who holds what, what an invocation may do, who runs
//! next, where memory goes, what the boot data says.
//!
//! The ring-0 crate (`kernel/image`) carries these decisions out; the simulator (`tests/sim`) runs the same
//! code on the host. Nothing here is `unsafe`, allocates or panics on input.
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

/// What the kernel asks of the machine under it: Xen in the image, the simulated hypervisor on the host.
pub trait Platform {
    /// The monotonic time in ns.
    fn now(&mut self) -> u64;
    /// UTC in ns since 1970, if the machine knows it.
    fn wall(&mut self) -> Option<u64>;
    /// 128 random bits; `None` if the machine has no source.
    fn random(&mut self) -> Option<[u64; 2]>;
    /// Text that a service writes to the console.
    fn service_text(&mut self, service: &str, index: u8, text: &[u8]);
    /// A line of the kernel's own on the console.
    fn log(&mut self, line: core::fmt::Arguments<'_>);
    /// Allocates an event channel that `peer` may bind (`EVTCHNOP_alloc_unbound`); delivered events are masked
    /// until [`Platform::unmask`].
    fn open_port(&mut self, peer: cloister_caps::DomId) -> Option<cloister_caps::EvtchnPort>;
    /// Sends an event (`EVTCHNOP_send`).
    fn send(&mut self, port: cloister_caps::EvtchnPort);
    /// Closes an event channel (`EVTCHNOP_close`).
    fn close_port(&mut self, port: cloister_caps::EvtchnPort);
    /// Lets events through again; one that came meanwhile is delivered.
    fn unmask(&mut self, port: cloister_caps::EvtchnPort);
    /// Writes a grant entry that lets `peer` use `frame`.
    fn grant(
        &mut self,
        reference: cloister_caps::GrantRef,
        frame: cloister_caps::Gfn,
        peer: cloister_caps::DomId,
        writable: bool,
    );
    /// Ends a grant if the peer does not use it at this moment; whether it did.
    fn end_grant(&mut self, reference: cloister_caps::GrantRef) -> bool;

    /// Fills a frame with zeros.
    fn clear(&mut self, frame: cloister_caps::Gfn);

    // What only a back end needs. The machine of the kernel that ships has none of it
    // (docs/decisions/0006-separate-kernel-for-back-ends.md).

    /// Binds the event channel that `_peer` has allocated as its port `_peer_port` (`EVTCHNOP_bind_interdomain`).
    fn bind_port(
        &mut self,
        _peer: cloister_caps::DomId,
        _peer_port: cloister_caps::EvtchnPort,
    ) -> Option<cloister_caps::EvtchnPort> {
        None
    }
    /// Puts the page that `_peer` grants under `_peer_ref` in the place of `_frame` (`GNTTABOP_map_grant_ref`); whether it is
    /// there. `_own_ref` is the reference under which `_frame` would be granted, which names the mapping.
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
    /// Takes the peer's page out again (`GNTTABOP_unmap_grant_ref`).
    fn unmap_grant(&mut self, _own_ref: cloister_caps::GrantRef, _frame: cloister_caps::Gfn) {}
}

#[cfg(test)]
mod tests {
    use cloister_caps::{DomId, EvtchnPort, Gfn, GrantRef};

    use super::Platform;

    /// What every machine has to have, and nothing else.
    struct Least;

    impl Platform for Least {
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
    fn a_machine_that_is_no_back_ends_binds_and_maps_nothing() {
        assert_eq!(Least.bind_port(DomId(3), EvtchnPort(7)), None);
        assert!(!Least.map_grant(GrantRef(8), Gfn(1), DomId(3), GrantRef(9), true));
    }
}
