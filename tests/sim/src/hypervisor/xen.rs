//! Xen's services to one domain, in virtual time: the platform under the simulated kernel.

use std::hash::{DefaultHasher, Hash, Hasher};

use cloister_caps::{DomId, EvtchnPort, Gfn, GrantRef, ServiceId};
use cloister_kernel_core::Platform;
use cloister_kernel_core::placement::RegionFrame;

use super::events::EventChannels;
use super::grants::GrantTable;

/// The UTC time at the start of virtual time, in ns.
const EPOCH: u64 = 1_750_000_000 * 1_000_000_000;

/// Xen, as the domain sees it.
pub struct Xen {
    now: u64,
    random: u64,
    jitter: u64,
    /// The domain's event channels.
    pub events: EventChannels,
    /// The domain's grant table.
    pub grants: GrantTable,
    /// `true` if the machine has a random source.
    pub has_random: bool,
    /// Frames that the machine, which has the memory, must fill with zeros.
    pub cleared: Vec<Gfn>,
    lines: Vec<String>,
    unfinished: Vec<String>,
    trace: DefaultHasher,
    traced: u64,
}

impl Xen {
    /// Creates the state of a new domain. Random bits and all durations follow from `seed`.
    #[must_use]
    pub fn new(seed: u64) -> Self {
        Xen {
            now: 1_000_000_000,
            random: seed,
            jitter: !seed,
            events: EventChannels::new(),
            grants: GrantTable::new(),
            has_random: true,
            cleared: Vec::new(),
            lines: Vec::new(),
            unfinished: Vec::new(),
            trace: DefaultHasher::new(),
            traced: 0,
        }
    }

    /// Lets time pass.
    pub fn advance(&mut self, nanoseconds: u64) {
        self.now = self.now.saturating_add(nanoseconds);
    }

    /// Returns a number below `bound` that the seed determines.
    pub fn jitter(&mut self, bound: u64) -> u64 {
        splitmix(&mut self.jitter) % bound.max(1)
    }

    /// Adds an event to the trace.
    pub fn record(&mut self, happened: impl Hash) {
        (self.now, happened).hash(&mut self.trace);
        self.traced += 1;
    }

    /// Returns the hash over all events and their times, and the number of events.
    #[must_use]
    pub fn trace(&self) -> (u64, u64) {
        (self.trace.finish(), self.traced)
    }

    /// Returns the console output so far. Each line begins with the name of the service that wrote
    /// it, the kernel's own with none.
    #[must_use]
    pub fn console(&self) -> String {
        self.lines.join("\n")
    }
}

/// Returns the next number of SplitMix64 (Steele, Lea and Flood).
fn splitmix(state: &mut u64) -> u64 {
    *state = state.wrapping_add(0x9E37_79B9_7F4A_7C15);
    let mut mixed = *state;
    mixed = (mixed ^ (mixed >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
    mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
    mixed ^ (mixed >> 31)
}

impl Platform for Xen {
    fn now(&mut self) -> u64 {
        self.now
    }

    fn wall(&mut self) -> Option<u64> {
        Some(EPOCH + self.now)
    }

    fn random(&mut self) -> Option<[u64; 2]> {
        self.has_random.then(|| [splitmix(&mut self.random), splitmix(&mut self.random)])
    }

    fn service_text(&mut self, name: &str, service: ServiceId, text: &[u8]) -> bool {
        let index = service.index();
        if self.unfinished.len() <= index {
            self.unfinished.resize(index + 1, String::new());
        }
        for byte in text {
            match byte {
                b'\n' => {
                    let line = std::mem::take(&mut self.unfinished[index]);
                    self.lines.push(format!("{name}: {line}"));
                }
                other => self.unfinished[index].push(char::from(*other)),
            }
        }
        true
    }

    fn discard_text(&mut self, service: ServiceId) {
        if let Some(text) = self.unfinished.get_mut(service.index()) {
            text.clear();
        }
    }

    fn log(&mut self, line: core::fmt::Arguments<'_>) {
        self.lines.push(line.to_string());
    }

    fn open_port(&mut self, peer: DomId) -> Option<EvtchnPort> {
        self.events.alloc_unbound(peer.0)
    }

    fn send(&mut self, port: EvtchnPort) {
        self.events.send(port);
    }

    fn close_port(&mut self, port: EvtchnPort) {
        self.events.close(port);
    }

    fn unmask(&mut self, port: EvtchnPort) {
        self.events.unmask(port);
    }

    fn grant(&mut self, reference: GrantRef, frame: RegionFrame, peer: DomId, writable: bool) {
        self.grants.permit(reference, frame.gfn(), peer, writable);
    }

    fn end_grant(&mut self, reference: GrantRef) -> bool {
        self.grants.end(reference)
    }

    fn clear(&mut self, frame: RegionFrame) {
        self.cleared.push(frame.gfn());
    }
}
