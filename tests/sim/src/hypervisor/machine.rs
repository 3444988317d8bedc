//! Runs the kernel, the regions and the programs in a loop.

use std::cell::{Cell, RefCell, RefMut};
use std::ops::Range;
use std::rc::Rc;

use cloister_caps::abi::{NO_DEADLINE, SYSTEM_CALL_INVOKE, SYSTEM_CALL_WAIT};
use cloister_caps::tables::{Access, MAX_SERVICES, Tables};
use cloister_caps::{Gfn, InvokeError, Operation, PAGE_SIZE, RegionId, ServiceId, Slot, Status};
use cloister_interfaces::{Memory, Notifications, Service};
use cloister_kernel_core::boot::{MapEntry, Module, StartInfo};
use cloister_kernel_core::claims::{ClaimError, GuestMemory, KernelLocation, SpecialPages};
use cloister_kernel_core::clearing::{RestartStep, for_each_restart_step};
use cloister_kernel_core::placement::{BootRegions, PlacementError, page_table_reserve, place_regions};
use cloister_kernel_core::{FaultAction, Kernel, Outcome, Platform};

use super::events::XENSTORE_PORT;
use super::grants::GrantError;
use super::regions::{Constants, Regions};
use super::xen::Xen;
use crate::memory::SharedMemory;

/// The guest-physical addresses of the kernel. Before them lies the data of the image.
const KERNEL: Range<u64> = 0x20_0000..0x40_0000;
/// The guest-physical address of the boot module.
const MODULE: u64 = 1 << 31;
/// Where the toolstack puts the XenStore ring (`libxl`).
const XENSTORE_FRAME: u64 = 0xF_EFFC;
/// The times of a system call, and of a call of a service beside its system calls, in ns: the least
/// time, and the most that is added.
const CALL_TIME: (u64, u64) = (200, 400);
const RUN_TIME: (u64, u64) = (2_000, 20_000);

/// The parts and settings of a machine.
pub struct Setup {
    /// The capability tables.
    pub tables: Vec<u8>,
    /// The bytes of the data regions, by name.
    pub data: Vec<(String, Vec<u8>)>,
    /// The size of the guest's memory, in bytes.
    pub memory: u64,
    /// The guest's command line.
    pub command_line: String,
    /// The boot module. Empty if there is none.
    pub module: Vec<u8>,
    /// The seed of random bits and of all durations.
    pub seed: u64,
}

/// The end of a domain.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum End {
    /// It powered off.
    PowerOff,
    /// It requested a reboot.
    Reboot,
    /// A service faulted, and its restart rule stops the image.
    Crash,
}

/// The result of [`Machine::step`].
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Step {
    /// It ran this service.
    Ran(ServiceId),
    /// No service was ready, and time passed.
    Idle,
    /// The domain has ended.
    Ended(End),
}

struct Program {
    make: fn() -> Box<dyn Service>,
    running: Option<Box<dyn Service>>,
}

thread_local! {
    /// The machine that this thread simulates, and the service that runs on it.
    static RUNNING: RefCell<Option<(Rc<Machine>, ServiceId)>> = const { RefCell::new(None) };
}

/// Divides the memory of a guest of `memory` bytes up: what is above the kernel, without the boot
/// module.
fn memory_of(tables: &Tables<'_>, memory: u64, module: u64) -> Result<GuestMemory, ClaimError> {
    let map = [MapEntry { address: KERNEL.start, length: memory - KERNEL.start, ram: true }];
    let info = StartInfo {
        module: (module > 0).then_some(Module { address: MODULE, length: module }),
        ..StartInfo::default()
    };
    // The kernel includes the tables.
    let location = KernelLocation { kernel: (KERNEL.start, KERNEL.end - KERNEL.start), tables: (0, 0) };
    let pages = SpecialPages { xenstore: Some(Gfn(XENSTORE_FRAME)), console: None };
    GuestMemory::divide(&info, &map, tables, &location, &pages)
}

/// A simulated machine.
pub struct Machine {
    kernel: RefCell<Kernel<'static>>,
    xen: RefCell<Xen>,
    regions: Regions,
    programs: RefCell<Vec<Option<Program>>>,
    end: Cell<Option<End>>,
}

impl Machine {
    /// Creates a machine in the state before the first service runs.
    ///
    /// # Errors
    /// The regions do not fit into the memory.
    ///
    /// # Panics
    /// The tables are invalid.
    pub fn new(setup: Setup) -> Result<Rc<Machine>, PlacementError> {
        // The kernel of the image has its tables without end, too.
        let tables = Tables::parse(setup.tables.leak()).expect("tables that the policy compiler made");
        let mut xen = Xen::new(setup.seed);
        let module = setup.module.len() as u64;
        let divided = memory_of(&tables, setup.memory, module).expect("a guest has memory");
        let mut free = divided.free;
        let boot_regions = BootRegions {
            module: divided.module,
            command_line: free.take(1).map(|frames| (frames, setup.command_line.len() as u64)),
            xenstore: divided.xenstore,
        };
        let reserve = page_table_reserve(&tables, free.free_frames());
        let placements = place_regions(&tables, &mut free, &boot_regions, reserve)?;
        let constants =
            Constants { data: &setup.data, module: &setup.module, command_line: setup.command_line.as_bytes() };
        let regions = Regions::new(&tables, &placements, &constants);
        let mut kernel = Kernel::new(tables, placements, xen.now(), setup.memory);
        kernel.set_xenstore_port(XENSTORE_PORT);
        xen.unmask(XENSTORE_PORT);
        Ok(Rc::new(Machine {
            kernel: RefCell::new(kernel),
            xen: RefCell::new(xen),
            regions,
            programs: RefCell::new((0..MAX_SERVICES).map(|_| None).collect()),
            end: Cell::new(None),
        }))
    }

    /// Installs the program of `service`. It is created when the service first runs.
    ///
    /// # Panics
    /// There is no such service.
    pub fn install(&self, service: &str, make: fn() -> Box<dyn Service>) {
        let index = self.service(service).index();
        self.programs.borrow_mut()[index] = Some(Program { make, running: None });
    }

    /// Returns the id of the service of this name.
    ///
    /// # Panics
    /// There is no such service.
    #[must_use]
    pub fn service(&self, name: &str) -> ServiceId {
        let tables = self.kernel.borrow().tables();
        let id = tables.services().ids().find(|id| tables.service_name(*id) == name);
        id.unwrap_or_else(|| panic!("there is no service {name}"))
    }

    /// Borrows Xen.
    pub fn xen(&self) -> RefMut<'_, Xen> {
        self.xen.borrow_mut()
    }

    /// Borrows the kernel.
    pub fn kernel(&self) -> RefMut<'_, Kernel<'static>> {
        self.kernel.borrow_mut()
    }

    /// Returns the time in ns.
    pub fn now(&self) -> u64 {
        self.xen.borrow_mut().now()
    }

    /// Returns how the domain ended, if it has.
    #[must_use]
    pub fn ended(&self) -> Option<End> {
        self.end.get()
    }

    /// Returns the memory of a region that is not constant.
    ///
    /// # Panics
    /// There is no such region.
    #[must_use]
    pub fn region(&self, name: &str) -> SharedMemory {
        let memory = self.regions.id(name).and_then(|region| self.regions.shared(region));
        memory.unwrap_or_else(|| panic!("there is no shared region {name}"))
    }

    /// Runs the service that the scheduler chooses. If none is ready, time passes, at most up
    /// to `until`.
    pub fn step(self: &Rc<Self>, until: u64) -> Step {
        if let Some(end) = self.end.get() {
            return Step::Ended(end);
        }
        let events = self.xen().events.take();
        for port in events {
            self.xen().record(("event", port));
            // A port without a service stays masked.
            self.kernel().event(port);
        }
        let now = self.now();
        let next = self.kernel().next(now);
        let Some(service) = next.service else {
            if self.kernel().has_revocations(now) {
                let mut xen = self.xen();
                self.kernel().retry_revocations(&mut *xen);
                self.clear_frames(&mut xen);
            }
            let later = next.time().min(until).max(now + 1);
            self.xen().advance(later - now);
            return Step::Idle;
        };
        self.run(service, now);
        match self.end.get() {
            Some(end) => Step::Ended(end),
            None => Step::Ran(service),
        }
    }

    fn run(self: &Rc<Self>, service: ServiceId, now: u64) {
        let index = service.index();
        let Some(mut program) = self.programs.borrow_mut()[index].take() else {
            panic!("{} has no program", self.kernel().tables().service_name(service));
        };
        // A service without a pending answer starts now.
        let bits = self.kernel().take_answer(service, now).map_or(Notifications::ALL.0, |answer| answer.words[0]);
        self.xen().record(("run", service, bits));
        let (deadline, held) = self.enter(service, || {
            let running = program.running.get_or_insert_with(program.make);
            running.notified(Notifications(bits));
            (running.deadline(), running.events_to_hold())
        });
        self.spend(RUN_TIME);
        if self.end.get().is_none() {
            let deadline = deadline.map_or(NO_DEADLINE, |deadline| deadline.0);
            self.call(service, SYSTEM_CALL_WAIT, [deadline, held.0, 0, 0, 0, 0]);
        }
        let later = self.now();
        self.kernel().charge(service, later - now, later);
        self.programs.borrow_mut()[index] = Some(program);
    }

    fn spend(&self, (least, more): (u64, u64)) {
        let mut xen = self.xen();
        let extra = xen.jitter(more);
        xen.advance(least + extra);
    }

    fn call(&self, service: ServiceId, number: u64, arguments: [u64; 6]) -> Outcome {
        self.spend(CALL_TIME);
        let mut xen = self.xen();
        let outcome = self.kernel().system_call(&mut *xen, service, number, &arguments);
        let answer = match outcome {
            Outcome::Answer(answer) => (answer.status as u64, answer.words),
            _ => (0, [0; 2]),
        };
        xen.record((service, number, arguments, answer));
        self.clear_frames(&mut xen);
        outcome
    }

    /// Fills with zeros what the kernel has asked to be.
    fn clear_frames(&self, xen: &mut Xen) {
        for (memory, offset) in xen.cleared.drain(..).filter_map(|frame| self.regions.page(frame)) {
            memory.write(offset, &[0; PAGE_SIZE]);
        }
    }

    /// Performs an invocation of `service`.
    ///
    /// # Errors
    /// The kernel refused it, or the domain has ended.
    pub fn invoke(
        &self,
        service: ServiceId,
        slot: Slot,
        operation: Operation,
        [a0, a1, a2, a3]: [u64; 4],
    ) -> Result<[u64; 2], InvokeError> {
        let nothing = || Status::Unavailable.into_result().map(|()| [0; 2]);
        if self.end.get().is_some() {
            // In the image, the service that ended the domain does not run on.
            return nothing();
        }
        match self.call(service, SYSTEM_CALL_INVOKE, [slot.0.into(), operation as u64, a0, a1, a2, a3]) {
            Outcome::Answer(answer) => answer.status.into_result().map(|()| answer.words),
            Outcome::PowerOff => {
                self.end.set(Some(End::PowerOff));
                nothing()
            }
            Outcome::Reboot => {
                self.end.set(Some(End::Reboot));
                nothing()
            }
            Outcome::Wait => nothing(),
        }
    }

    /// Returns the region that `service` has mapped at `address`, and `true` if it may write.
    pub(crate) fn mapped(&self, service: ServiceId, address: u64) -> Option<(RegionId, bool)> {
        let tables = self.kernel().tables();
        let found = tables.mappings().iter().find(|mapping| mapping.service == service && mapping.address == address);
        found.map(|mapping| (mapping.region, mapping.access == Access::ReadWrite))
    }

    pub(crate) fn regions(&self) -> &Regions {
        &self.regions
    }

    /// Runs `program` as `service`.
    fn enter<T>(self: &Rc<Self>, service: ServiceId, program: impl FnOnce() -> T) -> T {
        struct Leave;
        impl Drop for Leave {
            fn drop(&mut self) {
                RUNNING.set(None);
            }
        }
        RUNNING.set(Some((self.clone(), service)));
        let _leave = Leave;
        program()
    }

    /// Returns the machine that this thread simulates, and the service that runs on it.
    ///
    /// # Panics
    /// No service runs.
    pub(crate) fn running() -> (Rc<Machine>, ServiceId) {
        RUNNING.with_borrow(Clone::clone).expect("a program runs only as a service of a machine")
    }

    /// Makes `service` fault, as a panic of its program does.
    pub fn fault(&self, service: &str) -> FaultAction {
        let index = self.service(service);
        let mut xen = self.xen();
        let action = self.kernel().fault(&mut *xen, index);
        xen.record(("fault", index));
        self.clear_frames(&mut xen);
        drop(xen);
        match action {
            FaultAction::Restart(_) => {
                let tables = self.kernel().tables();
                for_each_restart_step(&tables, index, |step| match step {
                    RestartStep::Clear(region) => self.regions.clear(region),
                    RestartStep::Load => {
                        if let Some(program) = self.programs.borrow_mut()[index.index()].as_mut() {
                            program.running = None;
                        }
                    }
                });
            }
            FaultAction::StopService => {}
            FaultAction::StopImage => self.end.set(Some(End::Crash)),
        }
        action
    }

    /// Maps a granted page for `domain`. Returns the memory that contains it, and its offset there.
    /// The use counts until [`Self::unmap`].
    ///
    /// # Errors
    /// Xen refuses it.
    pub fn map(&self, domain: u16, reference: u32, write: bool) -> Result<(SharedMemory, usize), GrantError> {
        let frame = self.xen().grants.begin(domain, reference, write)?;
        self.regions.page(frame).ok_or(GrantError::BadReference)
    }

    /// Ends a mapping of `domain`.
    pub fn unmap(&self, domain: u16, reference: u32, write: bool) {
        self.xen().grants.finish(domain, reference, write);
    }

    /// Returns the page of `reference` for one copy by `domain`, from or to it: the page itself, or
    /// a copy if the grant is for reading only.
    #[must_use]
    pub fn page_of(&self, domain: u16, reference: u32) -> Option<(SharedMemory, usize)> {
        if let Ok(page) = self.map(domain, reference, true) {
            self.unmap(domain, reference, true);
            return Some(page);
        }
        let (memory, offset) = self.map(domain, reference, false).ok()?;
        self.unmap(domain, reference, false);
        let copy = SharedMemory::new(PAGE_SIZE);
        copy.write(0, &memory.bytes(offset, PAGE_SIZE));
        Some((copy, 0))
    }
}
