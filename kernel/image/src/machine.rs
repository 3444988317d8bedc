//! Implements the platform of `kernel/core` on Xen.

use cloister_caps::tables::PerService;
use cloister_caps::{DomId, EvtchnPort, GrantRef, ServiceId};
use cloister_kernel_core::Platform;
use cloister_kernel_core::console::LineBuffer;
use cloister_kernel_core::entropy::Generator;
use cloister_kernel_core::placement::RegionFrame;

#[cfg(feature = "back-end")]
use crate::back_end;
use crate::count::{Count, count};
use crate::grants::GrantTable;
use crate::{console, hypercall, paging, processor, shared_info};

/// Does what the kernel has decided: hypercalls, grant entries, console output, random numbers.
pub struct Machine {
    grants: GrantTable,
    random: Option<Generator>,
    console_lines: PerService<LineBuffer>,
    refusal_log: LineBuffer,
}

impl Machine {
    /// Creates the machine with a grant table that is mapped.
    ///
    /// `rdrand` must be `true` only if the processor has RDRAND.
    pub fn new(grants: GrantTable, rdrand: bool) -> Machine {
        let word = || processor::random().filter(|value| *value != 0 && *value != u64::MAX);
        let seed = if rdrand { (|| Some([word()?, word()?, word()?, word()?]))() } else { None };
        Machine {
            grants,
            // If all words are equal, the source has failed.
            random: seed.filter(|seed| seed.iter().any(|value| *value != seed[0])).map(Generator::new),
            console_lines: PerService::new([LineBuffer::new(); _]),
            refusal_log: LineBuffer::new(),
        }
    }

    /// Returns `true` if there is a random source.
    pub fn has_random(&self) -> bool {
        self.random.is_some()
    }
}

impl Platform for Machine {
    fn now(&mut self) -> u64 {
        shared_info::now()
    }

    fn wall(&mut self) -> Option<u64> {
        shared_info::wall()
    }

    fn random(&mut self) -> Option<[u64; 2]> {
        let generator = self.random.as_mut()?;
        if let Some(fresh) = processor::random() {
            generator.reseed(fresh);
        }
        Some(generator.draw())
    }

    fn service_text(&mut self, name: &str, service: ServiceId, text: &[u8]) {
        let now = shared_info::now();
        let line = &mut self.console_lines[service];
        for byte in text {
            if let Some((text, dropped)) = line.push(*byte, now) {
                if dropped > 0 {
                    console::line(format_args!("{name}: [{dropped} lines dropped]"));
                }
                console::line(format_args!("{name}: {text}"));
            }
        }
    }

    fn log(&mut self, line: core::fmt::Arguments<'_>) {
        if let Some((_, dropped)) = self.refusal_log.push(b'\n', shared_info::now()) {
            if dropped > 0 {
                console::line(format_args!("[{dropped} refusals not shown]"));
            }
            console::line(line);
        }
    }

    fn open_port(&mut self, peer: DomId) -> Option<EvtchnPort> {
        hypercall::alloc_unbound(peer).ok()
    }

    fn send(&mut self, port: EvtchnPort) {
        // Xen refuses if the peer is gone. Then nothing waits for the event.
        let _ = hypercall::send(port);
    }

    fn close_port(&mut self, port: EvtchnPort) {
        let _ = hypercall::close(port);
    }

    fn unmask(&mut self, port: EvtchnPort) {
        shared_info::unmask(port);
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
        back_end::bind_interdomain(peer, peer_port)
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
        back_end::map(own_ref, frame, peer, peer_ref, writable)
    }

    #[cfg(feature = "back-end")]
    fn unmap_grant(&mut self, own_ref: GrantRef, frame: RegionFrame) {
        back_end::unmap(own_ref, frame);
    }
}
