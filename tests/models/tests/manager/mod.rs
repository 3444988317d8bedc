//! The grant manager and the kernel that ship, over a grant table whose rules can be broken.

use std::cell::{Cell, RefCell};
use std::collections::{BTreeMap, BTreeSet};
use std::fmt::Debug;
use std::panic::{AssertUnwindSafe, catch_unwind, resume_unwind};
use std::rc::Rc;

use cloister_caps::tables::{Object, Tables};
use cloister_caps::{DomId, EvtchnPort, Gfn, GrantRef, InvokeError, Operation, ServiceId, Slot};
use cloister_interfaces::capability::{Clock, Console, Grant};
use cloister_interfaces::grants::{Grants, Reply, Request};
use cloister_interfaces::queue::{HEAD, SLOTS, TAIL};
use cloister_interfaces::rules::{ClientGrantRule, ClientIndex, RuleIndex, encode_rules};
use cloister_interfaces::{Client, Memory, Notifications, PageRun, Service, System};
use cloister_kernel_core::claims::{Claims, Owner};
use cloister_kernel_core::memory::{FrameRange, FreeMemory};
use cloister_kernel_core::placement::{BootRegions, RegionFrame, place_regions};
use cloister_kernel_core::{Kernel, Outcome, Platform};
use cloister_models::untimed;
use cloister_sim::{ChannelMemory, QueueMemory, SharedMemory};

/// Pages of the rule.
const PAGES: u16 = 2;
const PEER: DomId = DomId(0);
/// Messages that each queue holds.
const DEPTH: u32 = 2;
/// The bytes of a message of the interface, of either direction.
const SIZE: usize = 16;

const POLICY: &str = "format = 2\nimage = { name = \"grants\" }\n[domains.d]\nids = \"0\"\n\
    [services.driver]\nprogram = \"p\"\npriority = 5\nstack = \"4K\"\n\
    cpu = { budget_us = 1000, period_us = 10000 }\nrestart = { limit = 9, then = \"stop-image\" }\n\
    [services.manager]\nprogram = \"p\"\npriority = 6\nstack = \"4K\"\n\
    cpu = { budget_us = 1000, period_us = 10000 }\nrestart = { limit = 9, then = \"stop-image\" }\n\
    [regions.pages]\npages = 2\nmap = { driver = \"read-write\" }\n\
    [grants.pages-grants]\nregion = \"pages\"\npeer = \"d\"\naccess = \"read-write\"\npages = 2\nlifetime = \"session\"\n\
    held-by = \"manager\"\non-behalf-of = \"driver\"\n\
    [queues.grants]\nfrom = \"driver\"\nto = \"manager\"\ninterface = \"grants\"\ndepth = 2\n";

/// A rule of the world that does not hold, to see a property fail.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Fault {
    /// A grant ends although the peer maps the page.
    EndsMappedGrants,
    /// The manager's calls to end grants succeed and do nothing.
    LosesEnds,
    /// The peer never unmaps a page.
    PeerKeepsPages,
}

/// How often what may happen.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub struct Budget {
    pub requests: u8,
    pub crashes: u8,
    pub maps: u8,
}

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Action {
    /// The driver requests pages: the first, and their number.
    Issue(u16, u16),
    End,
    /// The driver reads a reply. One that has crashed does not.
    Read,
    /// The manager runs, up to its next `wait`.
    Run,
    /// Time passes to the manager's deadline, and it runs.
    Tick,
    /// The manager crashes and restarts: right after its n-th call for a grant of this pass, or
    /// between two passes.
    Crash(u8),
    Map(u16),
    Unmap(u16),
}

impl Action {
    pub const ALL: [Action; 14] = [
        Action::Issue(0, 1),
        Action::Issue(1, 1),
        Action::Issue(0, 2),
        Action::End,
        Action::Read,
        Action::Run,
        Action::Tick,
        Action::Crash(0),
        Action::Crash(1),
        Action::Crash(2),
        Action::Map(0),
        Action::Map(1),
        Action::Unmap(0),
        Action::Unmap(1),
    ];
}

impl Budget {
    pub fn allows(&self, action: &Action) -> bool {
        match action {
            Action::Issue(..) | Action::End => self.requests > 0,
            Action::Crash(_) => self.crashes > 0,
            Action::Map(_) => self.maps > 0,
            Action::Read | Action::Run | Action::Tick | Action::Unmap(_) => true,
        }
    }

    /// Returns what is left after an action that it allows.
    pub fn after(self, action: &Action) -> Budget {
        match action {
            Action::Issue(..) | Action::End => Budget { requests: self.requests - 1, ..self },
            Action::Crash(_) => Budget { crashes: self.crashes - 1, ..self },
            Action::Map(_) => Budget { maps: self.maps - 1, ..self },
            Action::Read | Action::Run | Action::Tick | Action::Unmap(_) => self,
        }
    }
}

/// The grant table, and what the peer has mapped.
#[derive(Default)]
struct Table {
    granted: BTreeMap<u32, Gfn>,
    mapped: BTreeSet<u32>,
    /// The page that each reference has ever named.
    named: BTreeMap<u32, Gfn>,
    broken: Option<&'static str>,
    fault: Option<Fault>,
}

impl Table {
    fn forbid(&mut self, happened: bool, what: &'static str) {
        if happened {
            self.broken.get_or_insert(what);
        }
    }
}

impl Platform for Table {
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
    fn grant(&mut self, GrantRef(reference): GrantRef, frame: RegionFrame, peer: DomId, _: bool) {
        self.forbid(peer != PEER, "a page was granted to another peer");
        self.forbid(self.mapped.contains(&reference), "a page was granted that the peer still maps");
        let named = *self.named.entry(reference).or_insert(frame.gfn());
        self.forbid(named != frame.gfn(), "a reference names another page");
        let twice = self.granted.insert(reference, frame.gfn()).is_some();
        self.forbid(twice, "a page was granted twice");
    }
    fn end_grant(&mut self, GrantRef(reference): GrantRef) -> bool {
        if self.mapped.contains(&reference) && self.fault != Some(Fault::EndsMappedGrants) {
            return false;
        }
        self.granted.remove(&reference).is_some()
    }
    fn clear(&mut self, frame: RegionFrame) {
        let used = self.mapped.iter().any(|reference| self.named.get(reference) == Some(&frame.gfn()));
        self.forbid(used, "a page was cleared that the peer still maps");
    }
}

/// The kernel, as the manager calls it.
struct Machine {
    kernel: Kernel<'static>,
    table: Table,
    manager: ServiceId,
    time: u64,
    /// Calls for grants until the manager crashes.
    crash: Option<u8>,
}

#[derive(Clone)]
struct Hypercalls(Rc<RefCell<Machine>>);

/// What a crash unwinds with.
struct Crash;

impl System for Hypercalls {
    fn invoke(&self, slot: Slot, operation: Operation, arguments: [u64; 4]) -> Result<[u64; 2], InvokeError> {
        let mut machine = self.0.borrow_mut();
        let Machine { kernel, table, manager, time, crash } = &mut *machine;
        match operation {
            Operation::ClockNow => return Ok([*time, 0]),
            Operation::GrantEnd if table.fault == Some(Fault::LosesEnds) => return Ok([0; 2]),
            Operation::GrantIssue | Operation::GrantEnd => {}
            _ => return Ok([0; 2]),
        }
        let [a, b, c, d] = arguments;
        let words = [slot.0.into(), operation as u64, a, b, c, d];
        let Outcome::Answer(answer) = kernel.system_call(table, *manager, 1, &words) else { return Ok([0; 2]) };
        *crash = crash.map(|left| left.saturating_sub(1));
        if *crash == Some(0) {
            drop(machine);
            resume_unwind(Box::new(Crash));
        }
        answer.status.into_result().map(|()| answer.words)
    }
}

/// The manager's view of pages of a queue, which counts the messages that are read.
#[derive(Clone)]
struct Counted {
    memory: SharedMemory,
    read: Rc<Cell<u32>>,
}

impl Memory for Counted {
    type Exclusive = SharedMemory;
    fn len(&self) -> usize {
        self.memory.len()
    }
    fn load(&self, offset: usize) -> u32 {
        self.memory.load(offset)
    }
    fn store(&self, offset: usize, value: u32) {
        self.memory.store(offset, value);
    }
    fn read(&self, offset: usize, into: &mut [u8]) {
        self.read.set(self.read.get() + u32::from(offset >= SLOTS));
        self.memory.read(offset, into);
    }
    fn write(&self, offset: usize, from: &[u8]) {
        self.memory.write(offset, from);
    }
}

trait Manager: Service + Debug {}
impl<T: Service + Debug> Manager for T {}

pub struct World {
    machine: Rc<RefCell<Machine>>,
    memory: ChannelMemory,
    driver: Client<Grants, Hypercalls, SharedMemory>,
    manager: Box<dyn Manager>,
    /// Index of the next request that this run of the manager takes.
    taken: Rc<Cell<u32>>,
    /// Index of the next reply that the driver reads.
    replied: u32,
    first_ref: u32,
    slot: Slot,
    crashed: bool,
}

fn tables() -> Tables<'static> {
    thread_local! {
        static TABLES: Tables<'static> = {
            let policy = cloister_policy::parse("grants", POLICY).unwrap_or_else(|report| panic!("{report}"));
            Tables::parse(policy.tables().expect("tables").leak()).expect("tables")
        };
    }
    TABLES.with(|tables| *tables)
}

fn rules() -> &'static [u8] {
    thread_local! {
        static RULES: &'static [u8] = {
            let (client, rule) = (ClientIndex(0), RuleIndex(0));
            let rule = ClientGrantRule { client, rule, count: PAGES, peer_first: PEER.0, peer_last: PEER.0 };
            encode_rules(&[rule]).expect("a rule").leak()
        };
    }
    RULES.with(|rules| *rules)
}

impl World {
    /// Returns the world after these actions.
    pub fn after(actions: &[Action], fault: Option<Fault>) -> World {
        let tables = tables();
        let mut free = FreeMemory::new();
        free.add(FrameRange { start: 0x400, end: 0x1000 });
        let ring = FrameRange { start: 0xF_EFFC, end: 0xF_EFFD };
        let xenstore = Claims::default().claim(Owner::XenStorePage, ring).expect("the only claim");
        let boot_regions = BootRegions { xenstore: Some(xenstore), ..BootRegions::default() };
        let placements = place_regions(&tables, &mut free, &boot_regions, 0).expect("room");
        let of_grants = |held: &cloister_caps::tables::Capability| matches!(held.object, Object::Grant(_));
        let held = tables.capabilities().iter().find(of_grants).expect("the rule");
        let Object::Grant(rule) = held.object else { unreachable!("it is one") };
        let machine = Rc::new(RefCell::new(Machine {
            kernel: Kernel::new(tables, placements, 0, 4 << 20),
            table: Table { fault, ..Table::default() },
            manager: held.service,
            time: 1_000_000_000,
            crash: None,
        }));
        let memory = ChannelMemory::new::<Grants>(DEPTH);
        let driver = memory.client(&Hypercalls(machine.clone()), 0, |memory| memory, |memory| memory);
        let (slot, taken) = (Slot(held.slot), Rc::new(Cell::new(0)));
        let manager = start(&machine, &memory, slot, &taken);
        let first_ref = tables.grant(rule).first_ref;
        let mut world = World { machine, memory, driver, manager, taken, replied: 0, first_ref, slot, crashed: false };
        actions.iter().for_each(|action| world.act(*action));
        world
    }

    fn act(&mut self, action: Action) {
        match action {
            Action::Issue(first, count) => {
                let pages = PageRun::new(first, count).expect("a run");
                // A full queue takes no more. Then nothing happens.
                let _ = self.driver.requests.send(&Request::Issue { rule: 0, pages, peer: PEER });
            }
            Action::End => _ = self.driver.requests.send(&Request::End { rule: 0 }),
            Action::Read => _ = self.read(),
            Action::Run => self.manager.notified(Notifications::ALL),
            Action::Tick => {
                let Some(deadline) = self.manager.deadline() else { return };
                let mut machine = self.machine.borrow_mut();
                machine.time = machine.time.max(deadline.0);
                drop(machine);
                self.manager.notified(Notifications::ALL);
            }
            Action::Crash(calls) => self.crash(calls),
            Action::Map(page) => {
                let reference = self.first_ref + u32::from(page);
                let table = &mut self.machine.borrow_mut().table;
                if table.granted.contains_key(&reference) {
                    table.mapped.insert(reference);
                }
            }
            Action::Unmap(page) => {
                let table = &mut self.machine.borrow_mut().table;
                if table.fault != Some(Fault::PeerKeepsPages) {
                    table.mapped.remove(&(self.first_ref + u32::from(page)));
                }
            }
        }
    }

    fn crash(&mut self, calls: u8) {
        if calls > 0 {
            self.machine.borrow_mut().crash = Some(calls);
            let manager = &mut self.manager;
            // It makes fewer calls in some passes. Then it crashes at the end of this one.
            let _ = catch_unwind(AssertUnwindSafe(|| manager.notified(Notifications::ALL)));
            self.machine.borrow_mut().crash = None;
        }
        self.crashed = true;
        self.manager = start(&self.machine, &self.memory, self.slot, &self.taken);
    }

    fn read(&mut self) -> Option<Reply> {
        let reply = self.driver.replies.pop()?.expect("a well-formed reply");
        self.replied = self.replied.wrapping_add(1);
        if let Reply::Issued { reference, count, .. } = reply {
            let range = self.first_ref..=self.first_ref + u32::from(PAGES);
            let inside = range.contains(&reference.0) && range.contains(&(reference.0 + u32::from(count)));
            self.machine.borrow_mut().table.forbid(!inside, "the driver was told a reference of another rule");
        }
        Some(reply)
    }

    pub fn broken(&self) -> Option<&'static str> {
        self.machine.borrow().table.broken
    }

    /// Returns `true` if the manager holds exactly those pages for granted that are, or has crashed.
    pub fn manager_knows(&self) -> bool {
        let shown = format!("{:?}", self.manager);
        let (_, words) = shown.split_once("granted: PageSet { words: [").expect("a set");
        let known: u64 = words.split_once(',').expect("words").0.parse().expect("a number");
        let machine = self.machine.borrow();
        let granted = machine.table.granted.keys().fold(0, |set, reference| set | 1 << (reference - self.first_ref));
        self.crashed || known == granted
    }

    /// Returns all that decides what happens next.
    pub fn name(&self) -> String {
        let machine = self.machine.borrow();
        let manager = untimed(&format!("{:?}", self.manager), machine.time);
        let ChannelMemory { requests, replies } = &self.memory;
        let (taken, released) = (self.taken.get(), requests.consumer.load(TAIL));
        let asked = [messages(requests, released, taken), messages(requests, taken, requests.producer.load(HEAD))];
        let told = messages(replies, self.replied, replies.producer.load(HEAD));
        let Table { granted, mapped, .. } = &machine.table;
        format!("{manager} {asked:?} {told:?} {:?} {mapped:?} {}", granted.keys(), self.crashed)
    }

    /// Returns `true` if every page can be granted and ended once the peer has unmapped them and no
    /// party crashes any more.
    pub fn recovers(mut self) -> bool {
        (0..PAGES).for_each(|page| self.act(Action::Unmap(page)));
        self.quiesce();
        for _ in 0..4 {
            self.act(Action::Issue(0, PAGES));
            let issued = self.quiesce().iter().any(|reply| matches!(reply, Reply::Issued { count: PAGES, .. }));
            let granted = self.machine.borrow().table.granted.len();
            self.act(Action::End);
            let ended = self.quiesce().contains(&Reply::Ended { rule: 0, still_mapped: 0 });
            if issued {
                return granted == usize::from(PAGES) && ended && self.machine.borrow().table.granted.is_empty();
            }
        }
        false
    }

    /// Lets the manager run, time pass and the driver read until nothing happens. Returns the
    /// replies.
    fn quiesce(&mut self) -> Vec<Reply> {
        let mut replies = Vec::new();
        for _ in 0..8 {
            self.act(Action::Run);
            self.act(Action::Tick);
            while let Some(reply) = self.read() {
                replies.push(reply);
            }
        }
        replies
    }
}

/// Starts or restarts the manager, over the queues as they are.
fn start(
    machine: &Rc<RefCell<Machine>>,
    memory: &ChannelMemory,
    slot: Slot,
    taken: &Rc<Cell<u32>>,
) -> Box<dyn Manager> {
    let system = Hypercalls(machine.clone());
    taken.set(memory.requests.consumer.load(TAIL));
    let counted = |memory| Counted { memory, read: taken.clone() };
    let uncounted = |memory| Counted { memory, read: Rc::default() };
    Box::new(cloister_grant_manager::service(cloister_grant_manager::Caps {
        console: Console::new(system.clone(), Slot(60)),
        clock: Clock::new(system.clone(), Slot(61)),
        grant_rules: [Grant::new(system.clone(), slot)].into_iter().collect(),
        grants_clients: [memory.server(&system, 1, uncounted, counted)].into_iter().collect(),
        rules: rules(),
    }))
}

/// Returns the bytes of the messages with these indices.
fn messages(queue: &QueueMemory, from: u32, to: u32) -> Vec<Vec<u8>> {
    let slot = |index: u32| (index & (DEPTH - 1)) as usize;
    let indices = (0..to.wrapping_sub(from)).map(|number| from.wrapping_add(number));
    indices.map(|index| queue.producer.bytes(SLOTS + slot(index) * SIZE, 8)).collect()
}
