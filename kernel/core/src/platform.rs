//! The machine that the kernel runs on.

use cloister_caps::{DomId, EvtchnPort, GrantRef, ServiceId};

use crate::placement::RegionFrame;
use crate::refusal::Refusal;

/// The machine under the kernel: Xen in the image, the simulated hypervisor on the host.
pub trait Platform {
    /// Returns the monotonic time in ns.
    fn now(&mut self) -> u64;
    /// Returns UTC in ns since 1970, if the machine knows it.
    fn wall(&mut self) -> Option<u64>;
    /// Returns 128 random bits, or `None` if the machine has no source of them.
    fn random(&mut self) -> Option<[u64; 2]>;
    /// Writes text of a service, which has this name, to the console. Returns `false` if a line that
    /// it ends may have been dropped.
    fn service_text(&mut self, name: &str, service: ServiceId, text: &[u8]) -> bool;
    /// Discards the text that a service has written since its last whole line.
    fn discard_text(&mut self, service: ServiceId);
    /// Writes a line of the kernel's own to the console.
    fn log(&mut self, line: core::fmt::Arguments<'_>);
    /// Writes the line of a refusal to the console, within a rate.
    fn log_refusal(&mut self, refusal: &Refusal<'_>) {
        self.log(format_args!("{refusal}"));
    }
    /// Allocates an event channel that `peer` may bind (`EVTCHNOP_alloc_unbound`).
    ///
    /// The port is masked until [`Platform::unmask`], and again after each event that was
    /// delivered.
    fn open_port(&mut self, peer: DomId) -> Option<EvtchnPort>;
    /// Sends an event (`EVTCHNOP_send`).
    fn send(&mut self, port: EvtchnPort);
    /// Closes an event channel (`EVTCHNOP_close`).
    fn close_port(&mut self, port: EvtchnPort);
    /// Unmasks an event channel. An event that came while it was masked is delivered now.
    fn unmask(&mut self, port: EvtchnPort);
    /// Writes the grant entry `reference`, which lets `peer` read `frame`, and write it if
    /// `writable`.
    fn grant(&mut self, reference: GrantRef, frame: RegionFrame, peer: DomId, writable: bool);
    /// Ends a grant unless the peer is using it. Returns `true` if it ended.
    fn end_grant(&mut self, reference: GrantRef) -> bool;

    /// Fills a frame with zeros.
    fn clear(&mut self, frame: RegionFrame);

    // Only a back end needs the rest. The kernel that ships does not implement it
    // (docs/decisions/0006-separate-kernel-for-back-ends.md).

    /// Binds the event channel that `_peer` has allocated as its port `_peer_port`
    /// (`EVTCHNOP_bind_interdomain`).
    fn bind_port(&mut self, _peer: DomId, _peer_port: EvtchnPort) -> Option<EvtchnPort> {
        None
    }
    /// Maps the page that `_peer` grants under `_peer_ref` in place of `_frame`
    /// (`GNTTABOP_map_grant_ref`). Returns `true` if it is mapped.
    ///
    /// `_own_ref` is the reference under which `_frame` would be granted. It names the mapping.
    fn map_grant(
        &mut self,
        _own_ref: GrantRef,
        _frame: RegionFrame,
        _peer: DomId,
        _peer_ref: GrantRef,
        _writable: bool,
    ) -> bool {
        false
    }
    /// Unmaps the peer's page that is mapped at `_frame` (`GNTTABOP_unmap_grant_ref`).
    fn unmap_grant(&mut self, _own_ref: GrantRef, _frame: RegionFrame) {}
}
