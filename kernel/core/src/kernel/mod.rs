//! The kernel's state and its answers to the two system calls.

mod cspace;
mod grants;
mod info;
mod ports;
mod regions;

use cloister_caps::abi::{SYSTEM_CALL_INVOKE, SYSTEM_CALL_WAIT};
use cloister_caps::tables::{AfterLimit, Capability, MAX_PORT_RULES, MAX_SERVICES, MAX_SLOTS, Tables};
use cloister_caps::{DomId, Kind, Operation, Rights, Status};

use crate::Platform;
use crate::placement::Placements;
use crate::refusal::Refusal;
use crate::schedule::{Next, Scheduler, State};
use crate::usage::{Use, uses};

use cspace::{CapEntry, Slots};
use grants::References;
use ports::Channel;

/// Answers a system call.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Answer {
    /// How the system call ended.
    pub status: Status,
    /// Two words of result. Both are zero unless the operation returns something.
    pub words: [u64; 2],
}

/// Says what the machine does after a system call.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Outcome {
    /// Let the caller run on, with this answer.
    Answer(Answer),
    /// Let the caller sleep. When it runs again, [`Kernel::wait_answer`] gives its answer.
    Wait,
    /// Power the domain off.
    PowerOff,
    /// Reboot the domain.
    Reboot,
}

/// Says what the machine does after a service's fault.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Verdict {
    /// Restart the service from its pristine image. The number counts its restarts, this one
    /// included.
    Restart(u16),
    /// Never run the service again.
    StopService,
    /// Stop the image with a crash code.
    StopImage,
}

static_assertions::const_assert!(MAX_PORT_RULES <= 32 && MAX_SERVICES <= 32);

/// Holds the kernel's state: capability spaces, notifications, event channels, grants and the
/// scheduler.
///
/// Arrays of `MAX_SERVICES` are indexed by the number of the service.
pub struct Kernel<'t> {
    tables: Tables<'t>,
    placements: Placements,
    cspace: [Slots; MAX_SERVICES],
    /// The notification bits that are set and not yet answered by a `wait`.
    pending: [u64; MAX_SERVICES],
    restarts: [u16; MAX_SERVICES],
    /// By index of the port rule.
    channels: [Channel; MAX_PORT_RULES],
    /// The channels whose events were delivered to the service, a bit for each channel. They are
    /// masked until the service waits without holding them.
    delivered: [u32; MAX_SERVICES],
    /// The slot of the clock capability, if the service may read the clock.
    clock_slots: [Option<u16>; MAX_SERVICES],
    /// The grant references in use: pages that we grant, and pages of a peer that we map.
    granted: References,
    /// Those of `granted` that stand for a page of a peer that we map.
    mapped: References,
    /// Decides which service runs.
    pub scheduler: Scheduler,
    /// Refusals of all services.
    refusals: u64,
    /// Refusals of each service. A service must not learn how many others had.
    refusals_of: [u64; MAX_SERVICES],
    /// Monotonic time of the boot, in ns.
    boot_time: u64,
    /// Memory of the guest, in bytes.
    memory: u64,
}

const DONE: Answer = Answer { status: Status::Done, words: [0; 2] };

fn answer(first: u64, second: u64) -> Answer {
    Answer { status: Status::Done, words: [first, second] }
}

impl<'t> Kernel<'t> {
    /// Creates a kernel that enforces `tables`.
    ///
    /// The regions are at `placements`. `now` is the monotonic time in ns, `memory` the guest's
    /// memory in bytes.
    #[must_use]
    pub fn new(tables: Tables<'t>, placements: Placements, now: u64, memory: u64) -> Self {
        let mut cspace = [Slots::new([CapEntry::EMPTY; _]); MAX_SERVICES];
        let mut clock_slots = [None; MAX_SERVICES];
        for capability in tables.capabilities().iter() {
            if let Some(slots) = cspace.get_mut(usize::from(capability.service))
                && usize::from(capability.slot) < MAX_SLOTS
            {
                *slots.get_mut(capability.slot.into()) = CapEntry::new(&tables, &capability);
            }
            let reads_clock = capability.kind == Kind::Clock && capability.rights.contains(Rights::NOW);
            if reads_clock && let Some(clock) = clock_slots.get_mut(usize::from(capability.service)) {
                *clock = Some(capability.slot);
            }
        }
        let mut channels = [Channel::default(); MAX_PORT_RULES];
        for (channel, rule) in channels.iter_mut().zip(tables.ports().iter()) {
            *channel = Channel { port: None, service: rule.service, bit: rule.bit };
        }
        Kernel {
            scheduler: Scheduler::new(&tables),
            tables,
            placements,
            cspace,
            pending: [0; MAX_SERVICES],
            restarts: [0; MAX_SERVICES],
            channels,
            delivered: [0; MAX_SERVICES],
            clock_slots,
            granted: References::new([0; _]),
            mapped: References::new([0; _]),
            refusals: 0,
            refusals_of: [0; MAX_SERVICES],
            boot_time: now,
            memory,
        }
    }

    /// Returns the capability tables that this kernel enforces.
    #[must_use]
    pub fn tables(&self) -> Tables<'t> {
        self.tables
    }

    /// Returns the placement of each region.
    #[must_use]
    pub fn placements(&self) -> &Placements {
        &self.placements
    }

    /// Returns the number of refused system calls since boot.
    #[must_use]
    pub fn refusals(&self) -> u64 {
        self.refusals
    }

    /// Returns the rights of each capability that were exercised since boot.
    pub fn uses(&self) -> impl Iterator<Item = Use<'t>> {
        let used = |capability: &Capability| {
            let slots = self.cspace.get(usize::from(capability.service))?;
            Some(slots.get(capability.slot.into()).used)
        };
        uses(self.tables, used)
    }

    /// Sets a notification bit of a service and wakes the service.
    fn notify(&mut self, service: u8, bit: u8) {
        if let Some(pending) = self.pending.get_mut(usize::from(service)) {
            *pending |= 1 << (bit & 63);
            self.scheduler.wake(service);
        }
    }

    /// Executes the system call with the number `call` of `service`.
    ///
    /// `arguments` are in the order of the registers RDI, RSI, RDX, R10, R8, R9.
    pub fn system_call(
        &mut self,
        platform: &mut impl Platform,
        service: u8,
        call: u64,
        arguments: &[u64; 6],
    ) -> Outcome {
        match call {
            SYSTEM_CALL_INVOKE => self.invoke(platform, service, arguments),
            SYSTEM_CALL_WAIT => self.wait(platform, service, arguments[0], arguments[1]),
            other => self.refuse(platform, service, other, arguments, None, Status::BadSystemCall),
        }
    }

    /// Executes `wait`: unmasks the delivered channels that `hold` does not name by their
    /// notification bits, and lets the service sleep until `deadline` unless a notification is
    /// pending.
    #[inline(never)] // Rarer than `notify`, whose path it would slow down.
    fn wait(&mut self, platform: &mut impl Platform, service: u8, deadline: u64, hold: u64) -> Outcome {
        let (mut delivered, mut held) = (self.delivered.get_mut(usize::from(service)).map_or(0, core::mem::take), 0);
        while delivered != 0 {
            let index = delivered.trailing_zeros();
            delivered &= delivered - 1;
            let Some(Channel { port: Some(port), bit, .. }) = self.channels.get(index as usize) else { continue };
            if hold >> (bit & 63) & 1 == 1 {
                held |= 1 << index;
            } else {
                platform.unmask(*port);
            }
        }
        if let Some(delivered) = self.delivered.get_mut(usize::from(service)) {
            *delivered = held;
        }
        let pending = self.pending.get(usize::from(service)).is_some_and(|bits| *bits != 0);
        if !pending {
            self.scheduler.set_state(service, State::Waiting(deadline));
        }
        Outcome::Wait
    }

    /// Returns the answer to the `wait` in which a service slept, and clears its notifications.
    ///
    /// The words are the notification bits, and the time `now` if the service may read the clock,
    /// else 0.
    pub fn wait_answer(&mut self, service: u8, now: u64) -> Answer {
        let bits = self.pending.get_mut(usize::from(service)).map_or(0, core::mem::take);
        let clock = self.clock_slots.get(usize::from(service)).copied().flatten();
        match clock.and_then(|slot| self.entry(service, u64::from(slot))) {
            Some(entry) => {
                entry.used |= Rights::NOW;
                answer(bits, now)
            }
            None => answer(bits, 0),
        }
    }

    /// Returns the entry of a slot; it is an empty one if the service has no such slot.
    fn entry(&mut self, service: u8, slot: u64) -> Option<&mut CapEntry> {
        self.cspace.get_mut(usize::from(service)).map(|slots| slots.get_mut(slot))
    }

    /// Executes `invoke`. `arguments` begin with the slot and the number of the operation.
    fn invoke(&mut self, platform: &mut impl Platform, service: u8, arguments: &[u64; 6]) -> Outcome {
        let [slot, number, ..] = *arguments;
        let Some(entry) = self.entry(service, slot) else {
            return self.refuse_invocation(platform, service, arguments, None);
        };
        if number == Operation::QueueNotify as u64 && entry.rights.contains(Rights::NOTIFY) {
            // A shortcut for the one operation on the path of every packet. It has no arguments to
            // check.
            entry.used |= Rights::NOTIFY;
            let (service, bit) = entry.notify_target;
            self.notify(service, bit);
            return Outcome::Answer(DONE);
        }
        let entry = *entry;
        self.invoke_operation(platform, service, entry, arguments)
    }

    /// Executes an invocation of the capability in `entry`: checks the right and dispatches the
    /// operation.
    #[inline(never)] // Rarer than `notify`, whose path it would slow down.
    fn invoke_operation(
        &mut self,
        platform: &mut impl Platform,
        service: u8,
        entry: CapEntry,
        arguments: &[u64; 6],
    ) -> Outcome {
        let [slot, number, rest @ ..] = *arguments;
        let operation = Operation::from_number(number).filter(|operation| entry.rights.contains(operation.right()));
        let Some(operation) = operation else {
            return self.refuse_invocation(platform, service, arguments, None);
        };
        let result = match operation {
            Operation::PowerOff => Ok(Outcome::PowerOff),
            Operation::PowerReboot => Ok(Outcome::Reboot),
            _ => self.dispatch(platform, service, usize::from(entry.object), operation, rest).map(Outcome::Answer),
        };
        if matches!(result, Ok(_) | Err(Status::InUse))
            && let Some(entry) = self.entry(service, slot)
        {
            entry.used |= operation.right();
        }
        match result {
            Ok(outcome) => outcome,
            // Not a refusal: the caller did nothing that the policy forbids.
            Err(Status::InUse) => Outcome::Answer(Answer { status: Status::InUse, words: [0; 2] }),
            Err(status) => self.refuse_invocation(platform, service, arguments, Some(status)),
        }
    }

    /// Refuses an invocation with `status`, or with the status that says why the slot does not
    /// allow it.
    #[cold]
    fn refuse_invocation(
        &mut self,
        platform: &mut impl Platform,
        service: u8,
        arguments: &[u64; 6],
        status: Option<Status>,
    ) -> Outcome {
        let [slot, number, ..] = *arguments;
        let of = |capability: &Capability| capability.service == service && u64::from(capability.slot) == slot;
        let capability = self.tables.capabilities().iter().find(of);
        let status = status.unwrap_or_else(|| match (&capability, Operation::from_number(number)) {
            (None, _) => Status::NoCapability,
            (Some(capability), Some(operation)) if operation.applies_to(capability.kind) => Status::MissingRight,
            _ => Status::WrongOperation,
        });
        self.refuse(platform, service, SYSTEM_CALL_INVOKE, arguments, capability, status)
    }

    /// Counts and logs a refused system call, and returns its answer.
    fn refuse(
        &mut self,
        platform: &mut impl Platform,
        service: u8,
        call: u64,
        &[slot, operation, ref arguments @ ..]: &[u64; 6],
        capability: Option<Capability>,
        status: Status,
    ) -> Outcome {
        let (tables, arguments) = (self.tables, *arguments);
        self.refusals += 1;
        if let Some(refusals) = self.refusals_of.get_mut(usize::from(service)) {
            *refusals += 1;
        }
        platform
            .log(format_args!("{}", Refusal { tables, service, call, slot, operation, arguments, capability, status }));
        Outcome::Answer(Answer { status, words: [0; 2] })
    }

    /// Executes an operation that the capability allows. Its handler checks the arguments.
    fn dispatch(
        &mut self,
        platform: &mut impl Platform,
        service: u8,
        object: usize,
        operation: Operation,
        arguments: [u64; 4],
    ) -> Result<Answer, Status> {
        match operation {
            Operation::ConsoleWrite => {
                let mut text = [0; 32];
                for (bytes, word) in text.chunks_exact_mut(8).zip(arguments) {
                    bytes.copy_from_slice(&word.to_le_bytes());
                }
                let length = text.iter().position(|byte| *byte == 0).unwrap_or(text.len());
                platform.service_text(self.tables.service_name(service), service, &text[..length]);
                Ok(DONE)
            }
            Operation::ClockNow => Ok(answer(platform.now(), 0)),
            Operation::ClockWall => Ok(answer(platform.wall().ok_or(Status::Unavailable)?, 0)),
            Operation::EntropyDraw => {
                let [first, second] = platform.random().ok_or(Status::Unavailable)?;
                Ok(answer(first, second))
            }
            Operation::PortOpen | Operation::PortSend | Operation::PortClose => {
                let rule = self.tables.ports().get(object).ok_or(Status::WrongOperation)?;
                self.invoke_port(platform, object, &rule, operation, arguments)
            }
            Operation::GrantIssue | Operation::GrantEnd => {
                let rule = self.tables.grants().get(object).ok_or(Status::WrongOperation)?;
                if operation == Operation::GrantIssue {
                    self.issue_grant(platform, &rule, arguments)
                } else {
                    self.end_grant(platform, &rule, arguments[0])
                }
            }
            Operation::InfoRead => self.read_info(service, arguments[0]),
            Operation::RegionFind => self.find_region(object),
            // The caller has done the work of these: nothing is left but the answer.
            Operation::QueueNotify | Operation::PowerOff | Operation::PowerReboot => Ok(DONE),
        }
    }

    /// Applies the restart rule of a service that faulted.
    ///
    /// A restarted service finds all notification bits set, so that it looks at everything once.
    pub fn fault(&mut self, service: u8) -> Verdict {
        let Some(record) = self.tables.services().get(usize::from(service)) else {
            return Verdict::StopImage;
        };
        let Some(restarts) = self.restarts.get_mut(usize::from(service)) else {
            return Verdict::StopImage;
        };
        if *restarts < record.restart_limit {
            *restarts += 1;
            self.pending[usize::from(service)] = u64::MAX;
            self.scheduler.set_state(service, State::Ready);
            return Verdict::Restart(*restarts);
        }
        match record.after_limit {
            AfterLimit::StopImage => Verdict::StopImage,
            AfterLimit::StopService => {
                self.scheduler.set_state(service, State::Stopped);
                Verdict::StopService
            }
        }
    }

    /// Chooses the service that runs at `now`.
    pub fn next(&mut self, now: u64) -> Next {
        self.scheduler.next(now)
    }
}
/// Returns `peer` if it is a real domain from `first` to `last`.
fn allowed_peer(peer: u64, first: u16, last: u16) -> Result<DomId, Status> {
    let peer = u16::try_from(peer).map_err(|_| Status::NotPermitted)?;
    if DomId(peer).is_real() && (first..=last).contains(&peer) { Ok(DomId(peer)) } else { Err(Status::NotPermitted) }
}
