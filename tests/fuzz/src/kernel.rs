//! Attacks the kernel's two system calls with any arguments from any service: under the policies of
//! this repository, and under changed tables that the kernel accepts.

use std::collections::BTreeMap;

use arbitrary::Arbitrary;
use cloister_caps::tables::{Object, PortPeer, Tables};
use cloister_caps::{DomainSetId, EvtchnPort, Operation, PAGE_SIZE, ServiceId, Status};
use cloister_kernel_core::claims::{Claims, Owner};
use cloister_kernel_core::memory::{FrameRange, FreeMemory};
use cloister_kernel_core::placement::{BootRegions, Placements, place_regions};
use cloister_kernel_core::schedule::State;
use cloister_kernel_core::{FaultAction, Kernel, Outcome};
use cloister_sim::hypervisor::events::XENSTORE_PORT;
use cloister_sim::platform::CheckingPlatform;

use crate::script::{Bytes, Claim, Trace, Word, World};

/// The size of the guest's memory, in pages.
const MEMORY: u64 = (64 << 20) / PAGE_SIZE as u64;

const POLICIES: [&str; 5] = [
    include_str!("../../../policy/default.toml"),
    include_str!("../../guests/prober.toml"),
    include_str!("../../guests/selftest.toml"),
    include_str!("../../guests/back-end.toml"),
    // With `STOPS` in place of its restart rules.
    include_str!("../../../policy/default.toml"),
];
/// The index of the policy under which services are stopped, and the rule that says so.
const STOPPING: usize = 4;
const STOPS: &str = "restart = { limit = 1, then = \"stop-service\" }";

/// Returns the tables of a policy of this repository, or of the one that ships with four domains, of
/// which one is pinned.
fn tables(policy: u8) -> &'static [u8] {
    thread_local! {
        static ALL: Vec<&'static [u8]> = POLICIES
            .iter()
            .enumerate()
            .map(|(index, text)| {
                let rule = "restart = { limit = 0, then = \"stop-image\" }";
                if index == STOPPING { text.replace(rule, STOPS) } else { (*text).to_owned() }
            })
            .chain([POLICIES[0].replace("ids = \"0\"", "ids = \"0-3\"")])
            .map(|text| {
                let policy = cloister_policy::parse("the policy", &text).unwrap_or_else(|report| panic!("{report}"));
                &*policy.tables().expect("tables").leak()
            })
            .collect();
    }
    ALL.with(|all| all[usize::from(policy) % all.len()])
}

/// A step of a service, of a peer, or a fault.
#[derive(Arbitrary, Debug)]
pub enum Act {
    /// Any system call with any arguments.
    Call(u8, u64, [u64; 6]),
    /// An operation on a slot, with arguments that may be valid.
    Invoke(u8, u8, u8, [Word; 3]),
    /// An operation of the kind of the slot's capability.
    Likely(u8, u8, u8, [Word; 3]),
    Wait(u8, u32),
    TakeAnswer(u8),
    Event(u8),
    Fault(u8),
    Use(u8),
    Release,
    Run(u32),
    Failing(bool),
}

/// A kernel, and the platform under it.
struct Bench<'t> {
    kernel: Kernel<'t>,
    machine: CheckingPlatform<'t>,
    /// Each capability with each operation of its kind: service, slot, operation.
    likely: Vec<(ServiceId, u64, u64)>,
    /// The last domain of each set that the kernel has pinned.
    pins: BTreeMap<usize, u16>,
}

impl<'t> Bench<'t> {
    /// Creates the kernel that enforces `tables`. Returns `None` if the regions do not fit.
    fn new(tables: Tables<'t>) -> Option<Bench<'t>> {
        let mut free = FreeMemory::new();
        free.add(FrameRange { start: 0x400, end: MEMORY });
        let before = free.free_frames();
        let mut claims = Claims::default();
        let module = claims.claim(Owner::Module, FrameRange { start: 0x8_0000, end: 0x8_0002 }).ok()?;
        let xenstore = claims.claim(Owner::XenStorePage, FrameRange { start: 0xF_EFFC, end: 0xF_EFFD }).ok()?;
        let boot_regions = BootRegions { module: Some((module, 5000)), command_line: None, xenstore: Some(xenstore) };
        let placements = place_regions(&tables, &mut free, &boot_regions, 16).ok()?;
        disjoint(&tables, &placements);
        assert!(free.free_frames() <= before);
        let mut kernel = Kernel::new(tables, placements, 1_000, MEMORY * PAGE_SIZE as u64);
        kernel.set_xenstore_port(XENSTORE_PORT);
        let mut likely = Vec::new();
        for capability in tables.capabilities().iter() {
            for operation in Operation::ALL.iter().filter(|operation| operation.applies_to(capability.kind())) {
                likely.push((capability.service, u64::from(capability.slot), *operation as u64));
            }
        }
        let mut machine = CheckingPlatform::new(tables, placements);
        machine.back_end = true;
        Some(Bench { kernel, machine, likely, pins: BTreeMap::new() })
    }

    fn act(&mut self, act: &Act) {
        match *act {
            Act::Call(service, number, arguments) => {
                let Some(service) = self.service(service) else { return };
                self.call(service, number % 4, arguments);
            }
            Act::Invoke(service, slot, number, [a, b, c]) => {
                let arguments = [slot.into(), u64::from(number % 17), a.0.into(), b.0.into(), c.0.into(), 0];
                let Some(service) = self.service(service) else { return };
                self.call(service, 1, arguments);
            }
            Act::Likely(high, low, peer, [a, b, c]) => {
                let pick = usize::from(u16::from_le_bytes([low, high]));
                let Some(&(service, slot, number)) = self.likely.get(pick % self.likely.len().max(1)) else { return };
                let (peer, further) = match peer {
                    0..64 => (u64::from(peer % 4), b.0.into()),
                    64..128 => (u64::from(peer % 4), 0),
                    128.. => (b.0.into(), 0),
                };
                if self.kernel.state(service) != State::Stopped {
                    self.call(service, 1, [slot, number, a.0.into(), peer, c.0.into(), further]);
                }
            }
            Act::Wait(service, deadline) => {
                let Some(service) = self.service(service) else { return };
                self.call(service, 0, [deadline.into(), 0, 0, 0, 0, 0]);
            }
            Act::TakeAnswer(service) => {
                let Some(service) = self.service(service) else { return };
                self.kernel.take_answer(service, self.machine.time);
            }
            Act::Event(port) => {
                let port = EvtchnPort(u32::from(port % 16));
                let known = self.kernel.event(port).is_some();
                assert!(!known || self.machine.open.contains(&port.0));
            }
            Act::Fault(service) => {
                let Some(service) = self.service(service) else { return };
                if self.kernel.fault(&mut self.machine, service) == FaultAction::StopService {
                    self.nothing_left(service);
                }
            }
            Act::Use(at) => {
                let used = self.machine.granted.keys().nth(usize::from(at)).copied();
                self.machine.in_use.extend(used);
            }
            Act::Release => self.machine.in_use.clear(),
            Act::Run(took) => {
                self.run(took.into());
                if self.kernel.has_revocations(self.machine.time) {
                    self.kernel.retry_revocations(&mut self.machine);
                }
            }
            Act::Failing(failing) => self.set_failing(failing),
        }
    }

    /// Makes the platform refuse ports and mappings, and lack random bits and the wall clock. With
    /// `failing` false, restores all of them.
    fn set_failing(&mut self, failing: bool) {
        self.machine.refuses_ports = failing;
        self.machine.back_end = !failing;
        self.machine.wall = (!failing).then_some(5_000);
        self.machine.random = (!failing).then_some([3, 4]);
    }

    /// Returns the service of this number, if the tables have one that is not stopped.
    fn service(&self, number: u8) -> Option<ServiceId> {
        let service = self.kernel.tables().services().id(usize::from(number % 17))?;
        (self.kernel.state(service) != State::Stopped).then_some(service)
    }

    /// Checks that a stopped service has no channel, and no grant but of pages that a peer uses.
    /// The platform checks that none is ended twice.
    fn nothing_left(&mut self, service: ServiceId) {
        for capability in self.kernel.tables().capabilities().iter().filter(|held| held.service == service) {
            match capability.object {
                Object::Port(rule) if self.kernel.tables().port(rule).service == service => {
                    let slot = u64::from(capability.slot);
                    let sent = self.machine.sent.len();
                    self.call(service, 1, [slot, Operation::PortSend as u64, 0, 0, 0, 0]);
                    assert_eq!(self.machine.sent.len(), sent, "{service} has a channel");
                }
                Object::Grant(rule) => {
                    let rule = self.kernel.tables().grant(rule);
                    let mut references = rule.first_ref..rule.first_ref + rule.count;
                    let left = |reference: u32| {
                        let granted = self.machine.granted.contains_key(&reference);
                        granted && !self.machine.in_use.contains(&reference)
                            || self.machine.mapped.contains_key(&reference)
                    };
                    assert!(!references.any(left), "{service} grants a page");
                }
                _ => {}
            }
        }
    }

    /// Runs the service that the scheduler chooses.
    fn run(&mut self, took: u64) {
        let now = self.machine.time;
        let next = self.kernel.next(now);
        assert!(next.time() > now, "the timer does not go on");
        self.machine.time = next.time().min(now + took + 1);
        if let Some(service) = next.service {
            assert!(service.index() < self.kernel.tables().services().len());
            self.kernel.charge(service, self.machine.time - now, self.machine.time);
        }
    }

    /// Performs a system call, and checks that it succeeds only if a capability of the caller
    /// allows it.
    fn call(&mut self, service: ServiceId, number: u64, arguments: [u64; 6]) {
        let before = (self.machine.log.len() as u64, self.kernel.refusals());
        let tables = self.kernel.tables();
        let outcome = self.kernel.system_call(&mut self.machine, service, number, &arguments);
        let logged = (self.machine.log.len() as u64 - before.0, self.kernel.refusals() - before.1);
        let status = match outcome {
            Outcome::Answer(answer) => {
                assert!(answer.status == Status::Done || answer.words == [0; 2], "a refusal has no words");
                answer.status
            }
            Outcome::Wait => {
                assert_eq!(number, 0);
                return;
            }
            Outcome::PowerOff | Outcome::Reboot => Status::Done,
        };
        let refused = !matches!(status, Status::Done | Status::InUse);
        assert_eq!(logged, (u64::from(refused), u64::from(refused)), "each refusal is logged once");
        let capability = tables
            .capabilities()
            .iter()
            .find(|capability| capability.service == service && u64::from(capability.slot) == arguments[0]);
        let allowed = capability.zip(Operation::from_number(arguments[1])).is_some_and(|(capability, operation)| {
            operation.applies_to(capability.kind()) && capability.rights.contains(operation.right())
        });
        assert!(refused || (number == 1 && allowed), "{service} gained {arguments:?}");
        let done = status == Status::Done && number == 1;
        match (Operation::from_number(arguments[1]), capability.map(|capability| capability.object)) {
            (Some(Operation::DomainPin), Some(Object::Domain(set))) if done => {
                self.pins.insert(set.index(), arguments[2] as u16);
                self.check_pins();
            }
            (Some(Operation::PortOpen | Operation::GrantIssue), _) if done => self.check_pins(),
            _ => {}
        }
    }

    /// Checks that the pages and ports of a pinned set are all shared with the pinned domain.
    fn check_pins(&self) {
        let tables = self.kernel.tables();
        let is_pinned =
            |set: DomainSetId, peer: u16| !tables.domain_set(set).pinned || self.pins.get(&set.index()) == Some(&peer);
        for rule in tables.grants().iter() {
            let references = rule.first_ref..rule.first_ref + rule.count;
            let granted = self.machine.granted.range(references.clone()).map(|(_, (_, peer, _))| *peer);
            let mapped = self.machine.mapped.range(references).map(|(_, (_, peer, ..))| *peer);
            assert!(
                granted.chain(mapped).all(|peer| is_pinned(rule.peers, peer)),
                "a page for a domain that is not pinned"
            );
        }
        // The platform does not know the rule of a port, so it may be any.
        let allows = |peer: u16| {
            tables.ports().iter().any(|rule| matches!(rule.peer, PortPeer::Domains(set) if is_pinned(set, peer)))
        };
        assert!(self.machine.peers.values().all(|peer| allows(*peer)), "a port for a domain that is not pinned");
    }

    /// Lets every party behave: ends every grant and closes every port.
    fn honest(&mut self) {
        self.set_failing(false);
        self.machine.in_use.clear();
        let tables = self.kernel.tables();
        for capability in tables.capabilities().iter() {
            let slot = u64::from(capability.slot);
            match capability.object {
                Object::Grant(rule) => {
                    let rule = tables.grant(rule);
                    for page in 0..rule.count.min(1024) {
                        let arguments = [slot, Operation::GrantEnd as u64, page.into(), 0, 0, 0];
                        self.call(capability.service, 1, arguments);
                    }
                }
                Object::Port(_) => {
                    let arguments = [slot, Operation::PortClose as u64, 0, 0, 0, 0];
                    self.call(capability.service, 1, arguments);
                }
                _ => {}
            }
        }
    }
}

/// Checks that no regions overlap and that all are inside memory.
fn disjoint(tables: &Tables<'_>, placements: &Placements) {
    use cloister_caps::tables::RegionKind::{Fixed, Share};
    let own = tables.regions().with_ids().filter(|(_, region)| matches!(region.kind, Fixed | Share));
    let mut ranges: Vec<(u64, u64)> = own
        .map(|(id, _)| placements[id])
        .map(|placement| (placement.frames().start, placement.frames().start + placement.pages()))
        .collect();
    ranges.sort_unstable();
    assert!(ranges.windows(2).all(|pair| pair[0].1 <= pair[1].0), "regions overlap");
    assert!(ranges.iter().all(|(start, end)| *start >= 0x400 && *end <= MEMORY && start < end), "outside of memory");
}

/// The number of the policy.
#[derive(Arbitrary, Debug)]
pub struct Setup {
    policy: u8,
}

/// The target: the kernel under a policy of this repository.
pub struct Calls(Bench<'static>);

impl World for Calls {
    type Setup = Setup;
    type Step = Act;

    fn new(setup: Setup, _: &Trace) -> Self {
        let tables = Tables::parse(tables(setup.policy)).expect("tables that the compiler made");
        Calls(Bench::new(tables).expect("a policy that fits"))
    }

    fn step(&mut self, act: Act) {
        self.0.act(&act);
    }

    fn honest(mut self) {
        self.0.honest();
        assert!(self.0.machine.granted.is_empty() && self.0.machine.mapped.is_empty(), "a grant cannot be ended");
        assert_eq!(self.0.machine.open.len(), 1, "a port cannot be closed");
    }
}

/// A change of the tables, or a step under them.
#[derive(Arbitrary, Debug)]
pub enum Patch {
    /// A byte, or a word of 16 or 32 bits, at an offset.
    Byte(u16, u8),
    Word(u16, Word),
    Claim(u16, Claim),
    Bytes(u16, Bytes),
    Cut(u16),
    Act(Act),
}

/// The target: the kernel under changed tables.
pub struct Changed {
    bytes: Vec<u8>,
    acts: Vec<Act>,
}

impl Changed {
    fn put(&mut self, at: u16, bytes: &[u8]) {
        let length = self.bytes.len().max(1);
        for (place, byte) in self.bytes.iter_mut().skip(usize::from(at) % length).zip(bytes) {
            *place = *byte;
        }
    }
}

impl World for Changed {
    type Setup = Setup;
    type Step = Patch;

    fn new(setup: Setup, _: &Trace) -> Self {
        Changed { bytes: tables(setup.policy).to_vec(), acts: Vec::new() }
    }

    fn step(&mut self, patch: Patch) {
        match patch {
            Patch::Byte(at, value) => self.put(at, &[value]),
            Patch::Word(at, Word(value)) => self.put(at, &value.to_le_bytes()),
            Patch::Claim(at, claim) => {
                let at = at & !3;
                let honest = self.bytes.get(usize::from(at)..usize::from(at) + 4);
                let honest = honest.and_then(|bytes| bytes.try_into().ok()).map_or(0, u32::from_le_bytes);
                self.put(at, &claim.of(honest).to_le_bytes());
            }
            Patch::Bytes(at, Bytes(bytes)) => self.put(at, &bytes),
            Patch::Cut(at) => self.bytes.truncate(usize::from(at)),
            Patch::Act(act) => self.acts.push(act),
        }
    }

    /// Parses the tables, which checks them once and as a whole. Accepted tables must never make
    /// the kernel fail.
    fn honest(self) {
        let tables = match Tables::parse(&self.bytes) {
            Ok(tables) => tables,
            Err(error) => {
                assert!(!error.to_string().is_empty());
                return;
            }
        };
        if let Some(mut bench) = Bench::new(tables) {
            self.acts.iter().for_each(|act| bench.act(act));
            bench.honest();
        }
    }
}
