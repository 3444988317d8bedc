//! Implements the platform under the kernel for tests: it records what the kernel asks for, and
//! panics on what the policy does not allow.

use std::collections::{BTreeMap, BTreeSet};

use cloister_caps::tables::{Access, Tables};
use cloister_caps::{DomId, EvtchnPort, Gfn, GrantRef, Kind, Operation, PAGE_SIZE, ServiceId, Status};
use cloister_kernel_core::memory::{FrameRange, FreeMemory};
use cloister_kernel_core::placement::{BootRegions, Placements, RegionFrame, place_regions};
use cloister_kernel_core::{Answer, Kernel, Outcome, Platform};

/// The port of the XenStore channel, which the toolstack has made.
pub const XENSTORE: EvtchnPort = EvtchnPort(1);

/// Returns the text of the policy that ships, except that its back end may be in any domain, so
/// that peers differ.
pub fn shipped() -> String {
    let path = concat!(env!("CARGO_MANIFEST_DIR"), "/../../policy/default.toml");
    let text = std::fs::read_to_string(path).unwrap();
    assert!(text.contains("ids = \"0\""));
    text.replace("ids = \"0\"", "ids = \"0-32751\"")
}

/// Returns the shipped policy with `from` replaced by `to`, which must change it.
pub fn with(from: &str, to: &str) -> String {
    let changed = shipped().replace(from, to);
    assert_ne!(changed, shipped());
    changed
}

/// Returns the shipped policy, except that the back end is in a domain from 3 to 9.
pub fn narrow() -> String {
    with("ids = \"0-32751\"", "ids = \"3-9\"")
}

/// Returns the tables of a policy.
pub fn tables(text: &str) -> Tables<'static> {
    let policy = cloister_policy::parse("the policy", text).unwrap_or_else(|report| panic!("{report}"));
    Tables::parse(policy.tables().unwrap().leak()).unwrap()
}

/// Records what the kernel asks of the machine. The fields that a test sets say how the machine
/// answers.
pub struct Machine {
    tables: Tables<'static>,
    placements: Placements,
    pub time: u64,
    pub wall: Option<u64>,
    pub random: Option<[u64; 2]>,
    pub refuses_ports: bool,
    pub log: Vec<String>,
    pub text: Vec<(ServiceId, Vec<u8>)>,
    pub granted: BTreeMap<u32, (u64, u16, bool)>,
    pub in_use: BTreeSet<u32>,
    pub open: BTreeSet<u32>,
    pub unmasked: Vec<u32>,
    pub sent: Vec<u32>,
    /// Frames that were filled with zeros.
    pub cleared: Vec<u64>,
    /// `true` if the machine can map and bind, as under a back end's kernel.
    pub back_end: bool,
    /// The mapped pages of peers, by our references: the frame, the peer, its reference, and `true`
    /// if it is writable.
    pub mapped: BTreeMap<u32, (u64, u16, u32, bool)>,
    next_port: u32,
}

impl Platform for Machine {
    fn now(&mut self) -> u64 {
        self.time
    }
    fn wall(&mut self) -> Option<u64> {
        self.wall
    }
    fn random(&mut self) -> Option<[u64; 2]> {
        self.random
    }
    fn service_text(&mut self, name: &str, service: ServiceId, text: &[u8]) {
        assert_eq!(name, self.tables.service_name(service));
        self.text.push((service, text.to_vec()));
    }
    fn log(&mut self, line: core::fmt::Arguments<'_>) {
        self.log.push(line.to_string());
    }
    fn open_port(&mut self, peer: DomId) -> Option<EvtchnPort> {
        let allowed = |port: cloister_caps::tables::PortRule| (port.peer_first..=port.peer_last).contains(&peer.0);
        assert!(self.tables.ports().iter().any(allowed) && peer.is_real(), "no rule allows a port for {peer}");
        if self.refuses_ports {
            return None;
        }
        self.next_port += 1;
        self.open.insert(self.next_port);
        Some(EvtchnPort(self.next_port))
    }
    fn send(&mut self, port: EvtchnPort) {
        assert!(self.open.contains(&port.0), "an event on {port}, which is not open");
        self.sent.push(port.0);
    }
    fn close_port(&mut self, port: EvtchnPort) {
        assert_ne!(port, XENSTORE);
        assert!(self.open.remove(&port.0), "{port} is not open");
    }
    fn unmask(&mut self, port: EvtchnPort) {
        assert!(self.open.contains(&port.0), "{port} is not open");
        self.unmasked.push(port.0);
    }
    fn grant(&mut self, reference: GrantRef, frame: RegionFrame, peer: DomId, writable: bool) {
        let rule = self
            .tables
            .grants()
            .iter()
            .find(|rule| (rule.first_ref..rule.first_ref + rule.count).contains(&reference.0));
        let rule = rule.expect("a reference of some rule");
        let placement = self.placements[rule.region];
        assert_eq!(
            frame.gfn().0,
            placement.frames().start + u64::from(reference.0 - rule.first_ref),
            "the page of that number"
        );
        assert!(frame.gfn().0 < placement.frames().start + placement.pages(), "a page of the region");
        assert!((rule.peer_first..=rule.peer_last).contains(&peer.0) && peer.is_real(), "a peer of the rule");
        assert_eq!(writable, rule.access == Access::ReadWrite);
        let old = self.granted.insert(reference.0, (frame.gfn().0, peer.0, writable));
        assert_eq!(old, None, "{reference} was granted twice");
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
        // The same checks apply as to a grant of that page.
        self.grant(own, frame, peer, writable);
        self.granted.remove(&own.0);
        let old = self.mapped.insert(own.0, (frame.gfn().0, peer.0, theirs.0, writable));
        assert_eq!(old, None, "{own} was mapped twice");
        true
    }
    fn unmap_grant(&mut self, own: GrantRef, frame: RegionFrame) {
        assert_eq!(self.mapped.remove(&own.0).map(|(mapped, ..)| mapped), Some(frame.gfn().0));
    }
}

/// Holds a kernel and the machine under it.
pub struct Bench {
    pub kernel: Kernel<'static>,
    pub machine: Machine,
    pub tables: Tables<'static>,
    /// For each service, the pairs of a slot and the number of an operation that its kind has.
    pub operations: Vec<Vec<(u64, u64)>>,
}

/// Returns the operations of each service, without those that find regions, which are many and
/// change nothing.
fn operations(tables: &Tables<'_>) -> Vec<Vec<(u64, u64)>> {
    let mut found = vec![Vec::new(); tables.services().len()];
    for capability in tables.capabilities().iter().filter(|capability| capability.kind() != Kind::Region) {
        for operation in Operation::ALL.iter().filter(|operation| operation.applies_to(capability.kind())) {
            found[capability.service.index()].push((u64::from(capability.slot), *operation as u64));
        }
    }
    found
}

impl Bench {
    /// Returns the kernel of an image with this policy, after boot.
    pub fn new(text: &str) -> Bench {
        Bench::of(tables(text))
    }

    pub fn of(tables: Tables<'static>) -> Bench {
        let mut free = FreeMemory::new();
        free.add(FrameRange { start: 0x400, end: (32 << 20) / PAGE_SIZE as u64 });
        let boot_regions = BootRegions { module: None, command_line: None, xenstore: Some(Gfn(0xF_EFFC)) };
        let placements = place_regions(&tables, &mut free, &boot_regions, 0).unwrap();
        Bench::at(tables, placements)
    }

    pub fn at(tables: Tables<'static>, placements: Placements) -> Bench {
        let machine = Machine {
            tables,
            placements,
            time: 5_000,
            wall: Some(1_000_000),
            random: Some([3, 4]),
            refuses_ports: false,
            log: Vec::new(),
            text: Vec::new(),
            granted: BTreeMap::new(),
            in_use: BTreeSet::new(),
            open: BTreeSet::from([XENSTORE.0]),
            unmasked: Vec::new(),
            sent: Vec::new(),
            cleared: Vec::new(),
            back_end: false,
            mapped: BTreeMap::new(),
            next_port: 2,
        };
        let mut kernel = Kernel::new(tables, placements, 1_000, 32 << 20);
        kernel.set_xenstore_port(XENSTORE);
        Bench { kernel, machine, tables, operations: operations(&tables) }
    }

    pub fn service(&self, name: &str) -> ServiceId {
        self.tables.services().ids().find(|service| self.tables.service_name(*service) == name).unwrap()
    }

    /// Returns the slot in which `service` holds the capability of this name in the policy.
    pub fn slot(&self, service: &str, name: &str) -> u64 {
        let service = self.service(service);
        let capabilities = self.tables.capabilities();
        let mut found = capabilities
            .iter()
            .filter(|capability| capability.service == service && self.tables.name(capability.name) == name);
        u64::from(found.next().unwrap_or_else(|| panic!("no capability {name}")).slot)
    }

    pub fn call(&mut self, service: ServiceId, number: u64, arguments: [u64; 6]) -> Outcome {
        self.kernel.system_call(&mut self.machine, service, number, &arguments)
    }

    pub fn invoke(&mut self, service: &str, name: &str, operation: Operation, [a, b, c, d]: [u64; 4]) -> Answer {
        let (index, slot) = (self.service(service), self.slot(service, name));
        match self.call(index, 1, [slot, operation as u64, a, b, c, d]) {
            Outcome::Answer(answer) => answer,
            other => panic!("{other:?}"),
        }
    }

    pub fn status(&mut self, service: &str, name: &str, operation: Operation, arguments: [u64; 4]) -> Status {
        self.invoke(service, name, operation, arguments).status
    }

    /// Makes the system call `wait` without holding any events.
    pub fn wait(&mut self, service: &str, deadline: u64) {
        self.hold(service, deadline, 0);
    }

    /// Makes the system call `wait`, and keeps the events of these notification bits masked.
    pub fn hold(&mut self, service: &str, deadline: u64, held: u64) {
        let index = self.service(service);
        assert_eq!(self.call(index, 0, [deadline, held, 0, 0, 0, 0]), Outcome::Wait);
    }

    /// Returns the notification bits with which a service runs on. If it does not sleep in `wait`,
    /// it waits first, and holds all events.
    pub fn bits(&mut self, service: &str) -> u64 {
        let (index, now) = (self.service(service), self.machine.time);
        if let Some(answer) = self.kernel.take_answer(index, now) {
            return answer.words[0];
        }
        self.hold(service, u64::MAX, u64::MAX);
        self.kernel.take_answer(index, now).unwrap().words[0]
    }
}
