//! The kernel's state and its answers to the two system calls.

mod answer;
mod cspace;
mod domains;
mod grants;
mod info;
mod objects;
mod ports;
mod regions;
mod revoke;
mod time;

use cloister_caps::abi::{CONSOLE_CHUNK, NO_DEADLINE, SYSTEM_CALL_INVOKE, SYSTEM_CALL_WAIT};
use cloister_caps::tables::{
    AfterLimit, Capability, Object, PerDomainSet, PerPortRule, PerRegion, PerService, PortRuleSet, Tables,
};
use cloister_caps::weakness::Exposures;
use cloister_caps::{DomId, Operation, Rights, ServiceId, Status};

use crate::accounting::{Accounting, Costs};
use crate::placement::Placements;
use crate::platform::Platform;
use crate::refusal::{Refusal, capability_in};
use crate::schedule::{Scheduler, State};
use crate::usage::{UsedRights, used_rights};

pub use answer::Answer;
use answer::{DONE, answer};
use cspace::{CapEntry, CapObject, NotifyTarget, Slots};
use objects::{Channel, References};

/// Says what the machine does after a system call.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Outcome {
    /// Let the caller run on, with this answer.
    Answer(Answer),
    /// Let the caller sleep. Before it runs again, [`Kernel::take_answer`] gives its answer.
    Wait,
    /// Power the domain off.
    PowerOff,
    /// Reboot the domain.
    Reboot,
}

/// Says what the machine does after a service's fault.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum FaultAction {
    /// Restart the service from its pristine image. The number counts its restarts, this one
    /// included.
    Restart(u16),
    /// Never run the service again. What it held is revoked.
    StopService,
    /// Stop the image with a crash code.
    StopImage,
}

/// Holds the kernel's state: capability spaces, notifications, event channels, grants, and the
/// sharing of the processor.
pub struct Kernel<'t> {
    tables: Tables<'t>,
    placements: Placements,
    /// The number of services that map each region.
    mappers: PerRegion<u8>,
    cspace: PerService<Slots>,
    /// The notification bits that are set and not yet answered by a `wait`.
    pending: PerService<u64>,
    /// `true` for each service that sleeps in `wait` and has not had its answer.
    pending_answer: PerService<bool>,
    restarts: PerService<u16>,
    /// The open event channels.
    channels: PerPortRule<Option<Channel>>,
    /// The channels whose events were delivered to the service. They are masked until the service
    /// waits without holding them.
    delivered: PerService<PortRuleSet>,
    /// The slot of the clock capability, if the service may read the clock.
    clock_slots: PerService<Option<u16>>,
    /// The grant references in use: pages that we grant, and pages of a peer that we map.
    granted: References,
    /// Those of `granted` that stand for a page of a peer that we map.
    mapped: References,
    /// The time in ns from which to try again to end the grants of stopped services.
    retry_at: u64,
    /// The pinned domain of each set of other domains.
    pins: PerDomainSet<Option<DomId>>,
    /// Decides which service runs.
    scheduler: Scheduler,
    /// Charges the processor's time to services.
    accounting: Accounting,
    /// Refusals of all services.
    refusals: u64,
    /// Refusals of each service. A service must not learn how many others had.
    refusals_of: PerService<u64>,
    /// Monotonic time of the boot, in ns.
    boot_time: u64,
    /// Memory of the guest, in bytes.
    memory: u64,
    /// What the kernel knows and does about speculation.
    exposures: Exposures,
}

impl<'t> Kernel<'t> {
    /// Creates a kernel that enforces `tables`.
    ///
    /// The regions are at `placements`. `now` is the monotonic time in ns, `memory` the guest's
    /// memory in bytes.
    #[must_use]
    pub fn new(tables: Tables<'t>, placements: Placements, now: u64, memory: u64) -> Self {
        let mut cspace = PerService::new([Slots::new([CapEntry::EMPTY; _]); _]);
        let mut clock_slots = PerService::new([None; _]);
        for capability in tables.capabilities().iter() {
            let Capability { service, slot, rights, object, .. } = capability;
            *cspace[service].get_mut(slot.into()) = CapEntry::new(&tables, &capability);
            if object == Object::Clock && rights.contains(Rights::NOW) {
                clock_slots[service] = Some(slot);
            }
        }
        // `Tables` have at most one mapping of a region for each service.
        let mut mappers = PerRegion::new([0; _]);
        for mapping in tables.mappings().iter() {
            mappers[mapping.region] += 1;
        }
        Kernel {
            scheduler: Scheduler::new(&tables),
            accounting: Accounting::new(Costs::new(0), now),
            tables,
            placements,
            mappers,
            cspace,
            pending: PerService::new([0; _]),
            pending_answer: PerService::new([false; _]),
            restarts: PerService::new([0; _]),
            channels: PerPortRule::new([None; _]),
            delivered: PerService::new([PortRuleSet::EMPTY; _]),
            clock_slots,
            granted: References::new([0; _]),
            mapped: References::new([0; _]),
            retry_at: NO_DEADLINE,
            pins: PerDomainSet::new([None; _]),
            refusals: 0,
            refusals_of: PerService::new([0; _]),
            boot_time: now,
            memory,
            exposures: Exposures::UNKNOWN,
        }
    }

    /// Sets what services read about speculation.
    pub fn set_exposures(&mut self, exposures: Exposures) {
        self.exposures = exposures;
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
    pub fn used_rights(&self) -> impl Iterator<Item = UsedRights<'t>> {
        let used = |capability: &Capability| self.cspace[capability.service].get(capability.slot.into()).used;
        used_rights(self.tables, used)
    }

    /// Sets a notification bit of a service and wakes the service.
    fn notify(&mut self, NotifyTarget { service, bit }: NotifyTarget) {
        self.pending[service] |= 1 << (bit & 63);
        self.scheduler.wake(service);
    }

    /// Executes the system call with the number `call` of `service`.
    ///
    /// `arguments` are in the order of the registers RDI, RSI, RDX, R10, R8, R9.
    pub fn system_call(
        &mut self,
        platform: &mut impl Platform,
        service: ServiceId,
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
    fn wait(&mut self, platform: &mut impl Platform, service: ServiceId, deadline: u64, hold: u64) -> Outcome {
        let delivered = core::mem::replace(&mut self.delivered[service], PortRuleSet::EMPTY);
        let mut held = PortRuleSet::EMPTY;
        for rule in delivered {
            let Some(channel) = self.channels[rule] else { continue };
            if hold >> (channel.target.bit & 63) & 1 == 1 {
                held.insert(rule);
            } else {
                platform.unmask(channel.port);
            }
        }
        self.delivered[service] = held;
        if self.pending[service] == 0 {
            self.scheduler.set_state(service, State::Waiting(deadline));
        }
        self.pending_answer[service] = true;
        Outcome::Wait
    }

    /// Returns the pending answer of a service, if it sleeps in `wait`, and clears its
    /// notifications. The service is about to run with it.
    ///
    /// The words are the notification bits, and the time `now` if the service may read the clock,
    /// else 0.
    #[inline]
    pub fn take_answer(&mut self, service: ServiceId, now: u64) -> Option<Answer> {
        if !core::mem::take(&mut self.pending_answer[service]) {
            return None;
        }
        let bits = core::mem::take(&mut self.pending[service]);
        let time = match self.clock_slots[service] {
            Some(slot) => {
                self.cspace[service].get_mut(slot.into()).used |= Rights::NOW;
                now
            }
            None => 0,
        };
        Some(answer(bits, time))
    }

    /// Executes `invoke`. `arguments` begin with the slot and the number of the operation.
    fn invoke(&mut self, platform: &mut impl Platform, service: ServiceId, arguments: &[u64; 6]) -> Outcome {
        let [slot, number, ..] = *arguments;
        let entry = self.cspace[service].get_mut(slot);
        if number == Operation::QueueNotify as u64
            && entry.rights.contains(Rights::NOTIFY)
            && let CapObject::QueueEnd(target) = entry.object
        {
            // A shortcut for the one operation on the path of every packet. It has no arguments to
            // check.
            entry.used |= Rights::NOTIFY;
            self.notify(target);
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
        service: ServiceId,
        entry: CapEntry,
        arguments: &[u64; 6],
    ) -> Outcome {
        let [slot, number, rest @ ..] = *arguments;
        let operation = Operation::from_number(number).filter(|operation| entry.rights.contains(operation.right()));
        let Some(operation) = operation else {
            return self.refuse_invocation(platform, service, arguments, None);
        };
        let result = self.dispatch(platform, service, entry.object, operation, rest);
        if matches!(result, Ok(_) | Err(Status::InUse)) {
            self.cspace[service].get_mut(slot).used |= operation.right();
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
        service: ServiceId,
        arguments: &[u64; 6],
        status: Option<Status>,
    ) -> Outcome {
        let [slot, number, ..] = *arguments;
        let capability = capability_in(&self.tables, service, slot);
        let status = status.unwrap_or_else(|| match (&capability, Operation::from_number(number)) {
            (None, _) => Status::NoCapability,
            (Some(capability), Some(operation)) if operation.applies_to(capability.kind()) => Status::MissingRight,
            _ => Status::WrongOperation,
        });
        self.refuse(platform, service, SYSTEM_CALL_INVOKE, arguments, capability, status)
    }

    /// Counts and logs a refused system call, and returns its answer.
    fn refuse(
        &mut self,
        platform: &mut impl Platform,
        service: ServiceId,
        call: u64,
        &[slot, operation, ref arguments @ ..]: &[u64; 6],
        capability: Option<Capability>,
        status: Status,
    ) -> Outcome {
        let (tables, arguments) = (self.tables, *arguments);
        self.refusals += 1;
        self.refusals_of[service] += 1;
        let refusal = Refusal { tables, service, call, slot, operation, arguments, capability, status: Some(status) };
        platform.log_refusal(&refusal);
        Outcome::Answer(Answer { status, words: [0; 2] })
    }

    /// Executes an operation that the capability has the right to: the one match from operation and
    /// object to the handler. The handler checks the arguments.
    fn dispatch(
        &mut self,
        platform: &mut impl Platform,
        service: ServiceId,
        object: CapObject,
        operation: Operation,
        arguments: [u64; 4],
    ) -> Result<Outcome, Status> {
        let answer = match (operation, object) {
            (Operation::PowerOff, CapObject::Power) => return Ok(Outcome::PowerOff),
            (Operation::PowerReboot, CapObject::Power) => return Ok(Outcome::Reboot),
            (Operation::ConsoleWrite, CapObject::Console) => self.write_text(platform, service, arguments),
            (Operation::ClockNow, CapObject::Clock) => answer(platform.now(), 0),
            (Operation::ClockWall, CapObject::Clock) => answer(platform.wall().ok_or(Status::Unavailable)?, 0),
            (Operation::EntropyDraw, CapObject::Entropy) => {
                let [first, second] = platform.random().ok_or(Status::Unavailable)?;
                answer(first, second)
            }
            (Operation::QueueNotify, CapObject::QueueEnd(target)) => {
                self.notify(target);
                DONE
            }
            (Operation::PortOpen, CapObject::Port(rule)) => self.open_port(platform, rule, arguments)?,
            (Operation::PortSend, CapObject::Port(rule)) => self.send_event(platform, rule)?,
            (Operation::PortClose, CapObject::Port(rule)) => self.close_port(platform, rule)?,
            (Operation::GrantIssue, CapObject::Grant(rule)) => self.issue_grant(platform, rule, arguments)?,
            (Operation::GrantEnd, CapObject::Grant(rule)) => self.end_grant(platform, rule, arguments[0])?,
            (Operation::InfoRead, CapObject::Info) => self.read_info(service, arguments[0])?,
            (Operation::RegionFind, CapObject::Region(mapping)) => self.find_region(mapping),
            (Operation::DomainPin, CapObject::Domain(set)) => self.pin_domain(set, arguments[0])?,
            // The object's kind has no such operation, whatever the rights say.
            _ => return Err(Status::WrongOperation),
        };
        Ok(Outcome::Answer(answer))
    }

    /// Writes the text in the bytes of `words`, up to the first NUL, to the console.
    fn write_text(&self, platform: &mut impl Platform, service: ServiceId, words: [u64; 4]) -> Answer {
        let mut text = [0; CONSOLE_CHUNK];
        for (bytes, word) in text.chunks_exact_mut(8).zip(words) {
            bytes.copy_from_slice(&word.to_le_bytes());
        }
        let length = text.iter().position(|byte| *byte == 0).unwrap_or(text.len());
        let printed = platform.service_text(self.tables.service_name(service), service, &text[..length]);
        answer(u64::from(!printed), 0)
    }

    /// Applies the restart rule of a service that faulted.
    pub fn fault(&mut self, platform: &mut impl Platform, service: ServiceId) -> FaultAction {
        platform.discard_text(service);
        let record = self.tables.service(service);
        if self.restarts[service] < record.restart_limit {
            self.restarts[service] += 1;
            self.end_run(platform, service);
            self.scheduler.set_state(service, State::Ready);
            return FaultAction::Restart(self.restarts[service]);
        }
        match record.after_limit {
            AfterLimit::StopImage => FaultAction::StopImage,
            AfterLimit::StopService => {
                self.stop(platform, service);
                FaultAction::StopService
            }
        }
    }
}
