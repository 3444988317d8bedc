//! Implements the platform of `kernel/core` on Xen.

use cloister_caps::{DomId, EvtchnPort, GrantRef, ServiceId};
use cloister_kernel_core::Platform;
use cloister_kernel_core::entropy::Generator;
use cloister_kernel_core::event_channels;
use cloister_kernel_core::placement::RegionFrame;
use cloister_kernel_core::refusal::Refusal;

#[cfg(feature = "back-end")]
use crate::back_end;
use crate::count::{Count, count};
use crate::fatal::fatal;
use crate::grants::GrantTable;
use crate::hypercall::HypercallError;
use crate::hypercall_page::Xen;
use crate::processor::RdRand;
use crate::shared_info::SharedInfo;
use crate::{console, hypercall, paging};

/// Does what the kernel has decided: hypercalls, grant entries, console output, random numbers.
pub struct Machine {
    xen: Xen,
    shared_info: SharedInfo,
    grants: GrantTable,
    rdrand: Option<RdRand>,
    random: Option<Generator>,
    /// The event channels that the policy's rules need.
    ports_needed: u32,
}

impl Machine {
    /// Creates the machine. The policy's rules need `ports_needed` event channels.
    pub fn new(
        xen: Xen,
        shared_info: SharedInfo,
        grants: GrantTable,
        rdrand: Option<RdRand>,
        ports_needed: u32,
    ) -> Machine {
        Machine {
            xen,
            shared_info,
            grants,
            rdrand,
            random: rdrand.and_then(|rdrand| Generator::seeded(|| rdrand.word())),
            ports_needed,
        }
    }

    /// Returns the port that Xen made. Ends the domain if it may have no more of them.
    fn made(&self, port: Result<EvtchnPort, HypercallError>) -> Option<EvtchnPort> {
        if let Err(error) = &port
            && let Err(too_few) = event_channels::check(error.code, self.ports_needed)
        {
            fatal(format_args!("{too_few}"));
        }
        port.ok()
    }

    /// Returns `true` if there is a random source.
    pub fn has_random(&self) -> bool {
        self.random.is_some()
    }
}

impl Platform for Machine {
    fn now(&mut self) -> u64 {
        self.shared_info.now()
    }

    fn wall(&mut self) -> Option<u64> {
        self.shared_info.wall()
    }

    fn random(&mut self) -> Option<[u64; 2]> {
        let generator = self.random.as_mut()?;
        if let Some(fresh) = self.rdrand.and_then(RdRand::word) {
            generator.reseed(fresh);
        }
        Some(generator.draw())
    }

    fn service_text(&mut self, _: &str, service: ServiceId, text: &[u8]) -> bool {
        console::service_text(service, text, self.shared_info.now())
    }

    fn discard_text(&mut self, service: ServiceId) {
        console::discard_text(service);
    }

    fn log(&mut self, line: core::fmt::Arguments<'_>) {
        console::line(line);
    }

    fn log_refusal(&mut self, refusal: &Refusal<'_>) {
        console::refusal(refusal, self.shared_info.now());
    }

    fn open_port(&mut self, peer: DomId) -> Option<EvtchnPort> {
        self.made(hypercall::alloc_unbound(self.xen, peer))
    }

    fn send(&mut self, port: EvtchnPort) {
        // Xen refuses if the peer is gone. Then nothing waits for the event.
        let _ = hypercall::send(self.xen, port);
    }

    fn close_port(&mut self, port: EvtchnPort) {
        let _ = hypercall::close(self.xen, port);
    }

    fn unmask(&mut self, port: EvtchnPort) {
        self.shared_info.unmask(port);
    }

    fn grant(&mut self, reference: GrantRef, frame: RegionFrame, peer: DomId, writable: bool) {
        count(Count::Grant);
        self.grants.permit(reference, frame, peer, writable);
    }

    fn end_grant(&mut self, reference: GrantRef) -> bool {
        count(Count::Grant);
        self.grants.revoke(reference)
    }

    fn clear(&mut self, frame: RegionFrame) {
        paging::clear_frame(frame);
    }

    #[cfg(feature = "back-end")]
    fn bind_port(&mut self, peer: DomId, peer_port: EvtchnPort) -> Option<EvtchnPort> {
        self.made(back_end::bind_interdomain(self.xen, peer, peer_port))
    }

    #[cfg(feature = "back-end")]
    fn map_grant(
        &mut self,
        own_ref: GrantRef,
        frame: RegionFrame,
        peer: DomId,
        peer_ref: GrantRef,
        writable: bool,
    ) -> bool {
        back_end::map(self.xen, own_ref, frame, peer, peer_ref, writable)
    }

    #[cfg(feature = "back-end")]
    fn unmap_grant(&mut self, own_ref: GrantRef, frame: RegionFrame) {
        back_end::unmap(self.xen, own_ref, frame);
    }
}
