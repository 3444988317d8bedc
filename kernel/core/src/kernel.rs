//! The kernel's state and its answers to the two system calls.

use core::ops::RangeInclusive;

use cloister_caps::abi::{SYSTEM_CALL_INVOKE, SYSTEM_CALL_WAIT, info, region};
use cloister_caps::tables::{
    Access, AfterLimit, Capability, GrantRule, MAX_GRANT_REFS, MAX_PORT_RULES, MAX_SERVICES, MAX_SLOTS, Mapping,
    PortKind, PortRule, RegionKind, Tables,
};
use cloister_caps::{Clamped, DomId, EvtchnPort, Gfn, GrantRef, Kind, Operation, Rights, Status};

use crate::Platform;
use crate::placement::Placements;
use crate::refusal::Refusal;
use crate::schedule::{Next, Scheduler, State};
use crate::usage::{Use, uses};

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

/// Holds the state of the event channel of one port rule.
#[derive(Clone, Copy, Debug, Default)]
struct Channel {
    /// Xen's port while the channel is open.
    port: Option<EvtchnPort>,
    /// The service that receives the channel's events.
    service: u8,
    /// The notification bit that an event sets.
    bit: u8,
}

/// Holds what the kernel keeps of one slot: all that an invocation needs to know of it.
#[derive(Clone, Copy)]
struct CapEntry {
    /// The rights of the capability, without those that its kind has no operation for. An empty
    /// slot has none.
    rights: Rights,
    /// The rights that were exercised since boot.
    used: Rights,
    /// Index of the object in the section of its kind.
    object: u16,
    /// For a queue end, the service at the other end and the notification bit that `notify` sets
    /// there. Otherwise the service is `u8::MAX`.
    notify_target: (u8, u8),
}

impl CapEntry {
    const EMPTY: CapEntry =
        CapEntry { rights: Rights::empty(), used: Rights::empty(), object: 0, notify_target: (u8::MAX, 0) };

    fn new(tables: &Tables<'_>, capability: &Capability) -> CapEntry {
        let notify_target = match (capability.kind, tables.queues().get(capability.object as usize)) {
            (Kind::Sender, Some(queue)) => (queue.receiver, queue.receiver_bit),
            (Kind::Receiver, Some(queue)) => (queue.sender, queue.sender_bit),
            _ => CapEntry::EMPTY.notify_target,
        };
        // No section has more than `u16::MAX` objects: `Tables::parse` checks their number.
        let object = u16::try_from(capability.object).unwrap_or(u16::MAX);
        CapEntry {
            rights: capability.rights & Operation::rights_of(capability.kind),
            object,
            notify_target,
            ..CapEntry::EMPTY
        }
    }
}

static_assertions::const_assert!(MAX_PORT_RULES <= 32 && MAX_SERVICES <= 32);

/// Holds the capability entries of one service. The last is empty: every number from `MAX_SLOTS` on
/// names it.
type Slots = Clamped<CapEntry, { MAX_SLOTS + 1 }>;
/// Holds a bit for each grant reference. The last word has none: every larger number of a word
/// names it.
type References = Clamped<u64, { GRANT_WORDS + 1 }>;
const GRANT_WORDS: usize = MAX_GRANT_REFS as usize / 64;

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

    /// Stores the port of the XenStore event channel, which the toolstack has made.
    pub fn set_xenstore_port(&mut self, port: EvtchnPort) {
        for (index, rule) in self.tables.ports().iter().enumerate() {
            if rule.kind == PortKind::XenStore {
                self.channels[index].port = Some(port);
            }
        }
    }

    /// Sets a notification bit of a service and wakes the service.
    fn notify(&mut self, service: u8, bit: u8) {
        if let Some(pending) = self.pending.get_mut(usize::from(service)) {
            *pending |= 1 << (bit & 63);
            self.scheduler.wake(service);
        }
    }

    /// Delivers an event on `port`, which the caller has masked. Returns the service that receives
    /// it.
    ///
    /// An event on a port of no rule is dropped, and the port stays masked.
    pub fn event(&mut self, port: EvtchnPort) -> Option<u8> {
        let index = self.channels.iter().position(|channel| channel.port == Some(port))?;
        let Channel { service, bit, .. } = self.channels[index];
        if let Some(delivered) = self.delivered.get_mut(usize::from(service)) {
            *delivered |= 1 << index;
        }
        self.notify(service, bit);
        Some(service)
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

    /// Opens, signals or closes the event channel of a port rule.
    ///
    /// `peer_port` 0 allocates a channel for `peer`; any other binds the one that `peer` has
    /// allocated.
    fn invoke_port(
        &mut self,
        platform: &mut impl Platform,
        index: usize,
        rule: &PortRule,
        operation: Operation,
        [peer, peer_port, ..]: [u64; 4],
    ) -> Result<Answer, Status> {
        let channel = self.channels.get_mut(index).ok_or(Status::WrongOperation)?;
        match (operation, channel.port) {
            (Operation::PortOpen, None) if rule.kind == PortKind::Peer => {
                let peer = allowed_peer(peer, rule.peer_first, rule.peer_last)?;
                let port = match u32::try_from(peer_port).map_err(|_| Status::Unavailable)? {
                    0 => platform.open_port(peer),
                    peer_port => platform.bind_port(peer, EvtchnPort(peer_port)),
                };
                let port = port.ok_or(Status::Unavailable)?;
                channel.port = Some(port);
                platform.unmask(port);
                Ok(answer(u64::from(port.0), 0))
            }
            (Operation::PortSend, Some(port)) => {
                platform.send(port);
                Ok(DONE)
            }
            (Operation::PortClose, Some(port)) if rule.kind == PortKind::Peer => {
                channel.port = None;
                if let Some(delivered) = self.delivered.get_mut(usize::from(rule.service)) {
                    *delivered &= !(1 << index);
                }
                platform.close_port(port);
                Ok(DONE)
            }
            _ => Err(Status::WrongState),
        }
    }

    /// Returns the words of `granted` and `mapped` with a reference's bit, and the bit.
    fn grant_state(&mut self, reference: u32) -> (&mut u64, &mut u64, u64) {
        let word = u64::from(reference) / 64;
        (self.granted.get_mut(word), self.mapped.get_mut(word), 1 << (reference % 64))
    }

    /// Grants pages of a rule to `peer`: `page` and the `further` ones after it.
    ///
    /// If `peer_ref` is not 0, it instead maps the page that `peer` grants under this reference in
    /// the place of `page`; `further` must then be 0.
    fn issue_grant(
        &mut self,
        platform: &mut impl Platform,
        rule: &GrantRule,
        [page, peer, peer_ref, further]: [u64; 4],
    ) -> Result<Answer, Status> {
        let allowed =
            |page: u64| u32::try_from(page).ok().filter(|page| *page < rule.count).ok_or(Status::NotPermitted);
        // If the last page of the range is one of the rule, so is every page before it.
        let last = allowed(page.saturating_add(further))?;
        let page = allowed(page)?;
        let peer = allowed_peer(peer, rule.peer_first, rule.peer_last)?;
        let placement = self.placements.get(usize::from(rule.region)).copied().unwrap_or_default();
        if u64::from(last) >= placement.pages || peer_ref != 0 && further != 0 {
            return Err(Status::BadArgument);
        }
        let first = rule.first_ref + page;
        let references = first..=rule.first_ref + last;
        // Check all before granting the first, so that a refusal changes nothing.
        for (word, bits) in bits_of(&references) {
            if self.granted.get(word) & bits != 0 {
                return Err(Status::WrongState);
            }
        }
        let frame = placement.frame.0 + u64::from(page);
        if peer_ref != 0 {
            return self.map_grant(platform, rule, GrantRef(first), Gfn(frame), peer, peer_ref);
        }
        bits_of(&references).for_each(|(word, bits)| *self.granted.get_mut(word) |= bits);
        for (reference, frame) in references.zip(frame..) {
            platform.grant(GrantRef(reference), Gfn(frame), peer, rule.access == Access::ReadWrite);
        }
        Ok(answer(u64::from(first), 0))
    }

    /// Maps the page that `peer` grants under `peer_ref` at `frame`, in place of the page of ours
    /// there.
    fn map_grant(
        &mut self,
        platform: &mut impl Platform,
        rule: &GrantRule,
        reference: GrantRef,
        frame: Gfn,
        peer: DomId,
        peer_ref: u64,
    ) -> Result<Answer, Status> {
        let writable = rule.access == Access::ReadWrite;
        // A write to a page that is mapped for reading would fault, so no service may have this
        // region writable.
        let writes = |mapping: Mapping| mapping.region == rule.region && mapping.access == Access::ReadWrite;
        if !writable && self.tables.mappings().iter().any(writes) {
            return Err(Status::NotPermitted);
        }
        let peer_ref = u32::try_from(peer_ref).map(GrantRef).map_err(|_| Status::Unavailable)?;
        let (granted, mapped, bit) = self.grant_state(reference.0);
        if !platform.map_grant(reference, frame, peer, peer_ref, writable) {
            return Err(Status::Unavailable);
        }
        *granted |= bit;
        *mapped |= bit;
        Ok(DONE)
    }

    /// Ends the grant of a page, or unmaps the peer's page that is mapped there.
    fn end_grant(&mut self, platform: &mut impl Platform, rule: &GrantRule, page: u64) -> Result<Answer, Status> {
        let page = u32::try_from(page).ok().filter(|page| *page < rule.count).ok_or(Status::NotPermitted)?;
        let reference = rule.first_ref + page;
        let placement = self.placements.get(usize::from(rule.region)).copied().unwrap_or_default();
        let (granted, mapped, bit) = self.grant_state(reference);
        if *granted & bit == 0 {
            return Err(Status::WrongState);
        }
        let frame = Gfn(placement.frame.0 + u64::from(page));
        if *mapped & bit != 0 {
            platform.unmap_grant(GrantRef(reference), frame);
        } else if !platform.end_grant(GrantRef(reference)) {
            return Err(Status::InUse);
        } else if rule.access == Access::ReadWrite {
            // The next peer must not see what this one wrote. A page that the peer could only read
            // is left to its owner to clear.
            platform.clear(frame);
        }
        *granted &= !bit;
        *mapped &= !bit;
        Ok(DONE)
    }

    /// Returns one item of facts that `info` names.
    fn read_info(&self, service: u8, item: u64) -> Result<Answer, Status> {
        let hash = self.tables.policy_hash();
        let word = |index: usize| {
            hash.get(index * 8..index * 8 + 8).and_then(|bytes| bytes.try_into().ok()).map_or(0, u64::from_be_bytes)
        };
        // A minimum, because the compiler may turn this match into a jump table; see `Clamped`.
        match item.min(info::HISTORY + 1) {
            info::POLICY_HASH_LOW => Ok(answer(word(0), word(1))),
            info::POLICY_HASH_HIGH => Ok(answer(word(2), word(3))),
            info::BOOT => Ok(answer(self.boot_time, self.memory)),
            info::HISTORY => {
                let restarts = self.restarts.get(usize::from(service)).copied().unwrap_or(0);
                let refusals = self.refusals_of.get(usize::from(service)).copied().unwrap_or(0);
                Ok(answer(u64::from(restarts), refusals))
            }
            _ => Err(Status::BadArgument),
        }
    }

    /// Returns the address of a mapped region, and its length with the flags of [`region`].
    fn find_region(&self, mapping: usize) -> Result<Answer, Status> {
        let mapping = self.tables.mappings().get(mapping).ok_or(Status::WrongOperation)?;
        let record = self.tables.regions().get(usize::from(mapping.region)).ok_or(Status::WrongOperation)?;
        let placement = self.placements.get(usize::from(mapping.region)).ok_or(Status::WrongOperation)?;
        let flags = match record.kind {
            RegionKind::Module | RegionKind::CommandLine | RegionKind::ImageData => region::CONSTANT,
            RegionKind::Fixed | RegionKind::Share if self.is_exclusive(&mapping) => {
                let restarted = self.restarts.get(usize::from(mapping.service)).is_none_or(|restarts| *restarts > 0);
                region::EXCLUSIVE | if restarted { 0 } else { region::FRESH }
            }
            _ => 0,
        };
        Ok(answer(mapping.address, placement.length | flags))
    }

    /// Returns `true` if a mapping has the flag [`region::EXCLUSIVE`].
    fn is_exclusive(&self, mapping: &Mapping) -> bool {
        let shared = |other: &Mapping| other.region == mapping.region && other.service != mapping.service;
        let grants = self.tables.grants();
        let mut granted = grants.iter().filter(|rule| rule.region == mapping.region).peekable();
        // Few regions are granted, so this check comes before the search for other mappings.
        mapping.access == Access::ReadWrite
            && granted.peek().is_some()
            && granted.all(|rule| rule.access == Access::Read)
            && !self.tables.mappings().iter().any(|other| shared(&other))
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

/// Returns the indices of the words with bits of `references`, each with those bits.
fn bits_of(references: &RangeInclusive<u32>) -> impl Iterator<Item = (u64, u64)> + use<> {
    let (first, last) = (*references.start(), *references.end());
    (first / 64..=last / 64).map(move |word| {
        let (low, high) = (first.saturating_sub(word * 64), (last - word * 64).min(63));
        (u64::from(word), u64::MAX << low & u64::MAX >> (63 - high))
    })
}

/// Returns `peer` if it is a real domain from `first` to `last`.
fn allowed_peer(peer: u64, first: u16, last: u16) -> Result<DomId, Status> {
    let peer = u16::try_from(peer).map_err(|_| Status::NotPermitted)?;
    if DomId(peer).is_real() && (first..=last).contains(&peer) { Ok(DomId(peer)) } else { Err(Status::NotPermitted) }
}
