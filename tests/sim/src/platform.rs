//! Two platforms under the kernel, for tests of the kernel without a machine.

use std::collections::{BTreeMap, BTreeSet};

use cloister_caps::tables::{Access, GrantRule, PortPeer, PortRule, Tables};
use cloister_caps::{DomId, DomainSetId, EvtchnPort, GrantRef, ServiceId};
use cloister_kernel_core::Platform;
use cloister_kernel_core::placement::{Placements, RegionFrame};
use cloister_kernel_core::refusal::Refusal;

use crate::hypervisor::events::XENSTORE_PORT;

/// Implements what every platform must, does nothing, and leaves the rest to the trait.
pub struct NullPlatform;

impl Platform for NullPlatform {
    #[inline]
    fn now(&mut self) -> u64 {
        0
    }
    fn wall(&mut self) -> Option<u64> {
        None
    }
    fn random(&mut self) -> Option<[u64; 2]> {
        None
    }
    fn service_text(&mut self, _: &str, _: ServiceId, _: &[u8]) -> bool {
        true
    }
    fn discard_text(&mut self, _: ServiceId) {}
    fn log(&mut self, _: core::fmt::Arguments<'_>) {}
    fn open_port(&mut self, _: DomId) -> Option<EvtchnPort> {
        None
    }
    fn send(&mut self, _: EvtchnPort) {}
    fn close_port(&mut self, _: EvtchnPort) {}
    fn unmask(&mut self, _: EvtchnPort) {}
    fn grant(&mut self, _: GrantRef, _: RegionFrame, _: DomId, _: bool) {}
    fn end_grant(&mut self, _: GrantRef) -> bool {
        true
    }
    fn clear(&mut self, _: RegionFrame) {}
}

/// Records the kernel's requests to the platform, and panics on one that no rule of the tables
/// allows.
/// The fields that a test sets say how the platform answers.
pub struct CheckingPlatform<'t> {
    tables: Tables<'t>,
    placements: Placements,
    /// The time in ns.
    pub time: u64,
    /// UTC in ns, if the platform has it.
    pub wall: Option<u64>,
    /// Random bits, if the platform has them.
    pub random: Option<[u64; 2]>,
    /// `true` if no port can be opened.
    pub refuses_ports: bool,
    /// The lines of the kernel, those of refusals included.
    pub log: Vec<String>,
    /// The refusals.
    pub refusals: Vec<Refusal<'t>>,
    /// The text of the services.
    pub text: Vec<(ServiceId, Vec<u8>)>,
    /// The services whose unfinished text was discarded.
    pub discarded: Vec<ServiceId>,
    /// The granted pages, by their references: the frame, the peer, and `true` if it may write.
    pub granted: BTreeMap<u32, (u64, u16, bool)>,
    /// References of pages that the peer uses.
    pub in_use: BTreeSet<u32>,
    /// The open ports.
    pub open: BTreeSet<u32>,
    /// The peers of those that services opened.
    pub peers: BTreeMap<u32, u16>,
    /// The ports that were unmasked.
    pub unmasked: Vec<u32>,
    /// The ports on which events were sent.
    pub sent: Vec<u32>,
    /// The frames that were filled with zeros.
    pub cleared: Vec<u64>,
    /// `true` if the platform can map and bind, as under a back end's kernel.
    pub back_end: bool,
    /// The mapped pages of peers, by our references: the frame, the peer, its reference, and `true`
    /// if it is writable.
    pub mapped: BTreeMap<u32, (u64, u16, u32, bool)>,
    next_port: u32,
}

impl<'t> CheckingPlatform<'t> {
    /// Creates the platform after boot. The only open port is that of the XenStore channel, which
    /// the toolstack has made.
    #[must_use]
    pub fn new(tables: Tables<'t>, placements: Placements) -> Self {
        CheckingPlatform {
            tables,
            placements,
            time: 5_000,
            wall: Some(1_000_000),
            random: Some([3, 4]),
            refuses_ports: false,
            log: Vec::new(),
            refusals: Vec::new(),
            text: Vec::new(),
            discarded: Vec::new(),
            granted: BTreeMap::new(),
            in_use: BTreeSet::new(),
            open: BTreeSet::from([XENSTORE_PORT.0]),
            peers: BTreeMap::new(),
            unmasked: Vec::new(),
            sent: Vec::new(),
            cleared: Vec::new(),
            back_end: false,
            mapped: BTreeMap::new(),
            next_port: 2,
        }
    }

    /// Returns `true` if a set has the domain, and it is a real one.
    fn allows(&self, set: DomainSetId, peer: DomId) -> bool {
        let domains = self.tables.domain_set(set);
        (domains.first..=domains.last).contains(&peer.0) && peer.is_real()
    }

    /// Checks that a grant rule covers the page, for this peer and this access.
    fn check_page(&self, reference: GrantRef, frame: RegionFrame, peer: DomId, writable: bool) {
        let covers = |rule: &GrantRule| (rule.first_ref..rule.first_ref + rule.count).contains(&reference.0);
        let rule = self.tables.grants().iter().find(covers).expect("a reference of some rule");
        let placement = self.placements[rule.region];
        assert_eq!(
            frame.gfn().0,
            placement.frames().start + u64::from(reference.0 - rule.first_ref),
            "the page of that number"
        );
        assert!(frame.gfn().0 < placement.frames().start + placement.pages(), "a page of the region");
        assert!(self.allows(rule.peers, peer), "a peer of the rule");
        assert_eq!(writable, rule.access == Access::ReadWrite);
        assert!(!self.granted.contains_key(&reference.0), "{reference} was granted twice");
    }
}

impl Platform for CheckingPlatform<'_> {
    fn now(&mut self) -> u64 {
        self.time
    }
    fn wall(&mut self) -> Option<u64> {
        self.wall
    }
    fn random(&mut self) -> Option<[u64; 2]> {
        self.random
    }
    fn service_text(&mut self, name: &str, service: ServiceId, text: &[u8]) -> bool {
        assert_eq!(name, self.tables.service_name(service));
        assert!(text.len() <= 32, "a system call carries 32 bytes");
        self.text.push((service, text.to_vec()));
        true
    }
    fn discard_text(&mut self, service: ServiceId) {
        self.discarded.push(service);
    }
    fn log(&mut self, line: core::fmt::Arguments<'_>) {
        let line = line.to_string();
        assert!(line.len() < 1000, "{line}");
        self.log.push(line);
    }
    fn log_refusal(&mut self, refusal: &Refusal<'_>) {
        let Refusal { service, call, slot, operation, arguments, capability, status, .. } = *refusal;
        let tables = self.tables;
        self.refusals.push(Refusal { tables, service, call, slot, operation, arguments, capability, status });
        self.log(format_args!("{refusal}"));
    }
    fn open_port(&mut self, peer: DomId) -> Option<EvtchnPort> {
        let allowed = |port: PortRule| matches!(port.peer, PortPeer::Domains(set) if self.allows(set, peer));
        assert!(self.tables.ports().iter().any(allowed), "no rule allows a port for {peer}");
        if self.refuses_ports {
            return None;
        }
        self.next_port += 1;
        self.open.insert(self.next_port);
        self.peers.insert(self.next_port, peer.0);
        Some(EvtchnPort(self.next_port))
    }
    fn send(&mut self, port: EvtchnPort) {
        assert!(self.open.contains(&port.0), "an event on {port}, which is not open");
        self.sent.push(port.0);
    }
    fn close_port(&mut self, port: EvtchnPort) {
        assert_ne!(port, XENSTORE_PORT);
        assert!(self.open.remove(&port.0), "{port} is not open");
        self.peers.remove(&port.0);
    }
    fn unmask(&mut self, port: EvtchnPort) {
        assert!(self.open.contains(&port.0), "{port} is not open");
        self.unmasked.push(port.0);
    }
    fn grant(&mut self, reference: GrantRef, frame: RegionFrame, peer: DomId, writable: bool) {
        self.check_page(reference, frame, peer, writable);
        self.granted.insert(reference.0, (frame.gfn().0, peer.0, writable));
    }
    fn end_grant(&mut self, reference: GrantRef) -> bool {
        assert!(self.granted.contains_key(&reference.0), "{reference} is not granted");
        !self.in_use.contains(&reference.0) && self.granted.remove(&reference.0).is_some()
    }
    fn clear(&mut self, frame: RegionFrame) {
        let granted = self.granted.values().any(|(granted, ..)| *granted == frame.gfn().0);
        assert!(!granted, "the peer may still use {frame:?}");
        self.cleared.push(frame.gfn().0);
    }
    fn bind_port(&mut self, peer: DomId, theirs: EvtchnPort) -> Option<EvtchnPort> {
        assert_ne!(theirs.0, 0);
        if self.back_end { self.open_port(peer) } else { None }
    }
    fn map_grant(&mut self, own: GrantRef, frame: RegionFrame, peer: DomId, theirs: GrantRef, writable: bool) -> bool {
        if !self.back_end || self.in_use.contains(&theirs.0) {
            return false;
        }
        self.check_page(own, frame, peer, writable);
        let old = self.mapped.insert(own.0, (frame.gfn().0, peer.0, theirs.0, writable));
        assert_eq!(old, None, "{own} was mapped twice");
        true
    }
    fn unmap_grant(&mut self, own: GrantRef, frame: RegionFrame) {
        assert_eq!(self.mapped.remove(&own.0).map(|(mapped, ..)| mapped), Some(frame.gfn().0));
    }
}
