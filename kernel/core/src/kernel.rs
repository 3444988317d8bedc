//! The kernel's state and its answers to the two system calls.

use core::ops::RangeInclusive;

use cloister_caps::abi::{SYSTEM_CALL_INVOKE, SYSTEM_CALL_WAIT, info, region};
use cloister_caps::tables::{
    Access, AfterLimit, Capability, GrantRule, MAX_GRANT_REFS, MAX_PORT_RULES, MAX_SERVICES, MAX_SLOTS, Mapping,
    PortKind, PortRule, RegionKind, Tables,
};
use cloister_caps::{Clamped, DomId, EvtchnPort, Gfn, GrantRef, Kind, Operation, Rights, Status};

use crate::Platform;
use crate::place::Places;
use crate::refusal::Refusal;
use crate::schedule::{Next, Scheduler, State};
use crate::usage::{Use, uses};

/// The answer to a system call.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Answer {
    /// How it ended.
    pub status: Status,
    /// Two words, zero unless the operation answers something.
    pub words: [u64; 2],
}

/// What follows from a system call.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Outcome {
    /// The caller goes on, with this answer.
    Answer(Answer),
    /// The caller sleeps; its answer comes from [`Kernel::awake`] when it runs again.
    Wait,
    /// The domain powers off.
    PowerOff,
    /// The domain reboots.
    Reboot,
}

/// What follows from a service's fault.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Verdict {
    /// It starts again from its pristine image. This is its n-th restart.
    Restart(u16),
    /// It stays stopped.
    StopService,
    /// The image stops with a crash code.
    StopImage,
}

/// An event channel that a rule stands for.
#[derive(Clone, Copy, Debug, Default)]
struct Channel {
    port: Option<EvtchnPort>,
    /// The service that its events go to, and the notification bit.
    service: u8,
    bit: u8,
}

/// What is in a slot, as every invocation looks at it.
#[derive(Clone, Copy)]
struct Held {
    /// None but those that the object's kind has; none at all of an empty slot.
    rights: Rights,
    /// Those that were exercised.
    used: Rights,
    object: u16,
    /// Whom the end of a queue wakes, and the notification bit.
    bell: (u8, u8),
}

impl Held {
    const NOTHING: Held = Held { rights: Rights::empty(), used: Rights::empty(), object: 0, bell: (u8::MAX, 0) };

    fn new(tables: &Tables<'_>, capability: &Capability) -> Held {
        let bell = match (capability.kind, tables.queues().get(capability.object as usize)) {
            (Kind::Sender, Some(queue)) => (queue.receiver, queue.receiver_bit),
            (Kind::Receiver, Some(queue)) => (queue.sender, queue.sender_bit),
            _ => Held::NOTHING.bell,
        };
        // A section has fewer objects: `Tables::parse` has counted them.
        let object = u16::try_from(capability.object).unwrap_or(u16::MAX);
        Held { rights: capability.rights & Operation::rights_of(capability.kind), object, bell, ..Held::NOTHING }
    }
}

static_assertions::const_assert!(MAX_PORT_RULES <= 32 && MAX_SERVICES <= 32);

/// What a service holds, and behind it the empty slot that every larger number names.
type Slots = Clamped<Held, { MAX_SLOTS + 1 }>;
/// A bit for each grant reference, and behind them a word without references that every larger number names.
type References = Clamped<u64, { GRANT_WORDS + 1 }>;
const GRANT_WORDS: usize = MAX_GRANT_REFS as usize / 64;

/// The kernel.
pub struct Kernel<'t> {
    tables: Tables<'t>,
    places: Places,
    cspace: [Slots; MAX_SERVICES],
    pending: [u64; MAX_SERVICES],
    restarts: [u16; MAX_SERVICES],
    channels: [Channel; MAX_PORT_RULES],
    /// The channels of each service that were delivered to it, and are masked until it waits without holding them: a bit for each.
    delivered: [u32; MAX_SERVICES],
    /// Of each service that may read the clock, the slot of the capability.
    clocks: [Option<u16>; MAX_SERVICES],
    granted: References,
    /// Of the pages that are shared, those that are the peer's.
    mapped: References,
    /// Who decides which service runs.
    pub scheduler: Scheduler,
    /// Of all services.
    refusals: u64,
    /// Of each: what one is refused is nothing that another may learn.
    refusals_of: [u64; MAX_SERVICES],
    started: u64,
    memory: u64,
}

const DONE: Answer = Answer { status: Status::Done, words: [0; 2] };

fn answer(first: u64, second: u64) -> Answer {
    Answer { status: Status::Done, words: [first, second] }
}

impl<'t> Kernel<'t> {
    /// A kernel that enforces `tables`, with regions at `places`, started at `now` in a guest of `memory` bytes.
    #[must_use]
    pub fn new(tables: Tables<'t>, places: Places, now: u64, memory: u64) -> Self {
        let mut cspace = [Slots::new([Held::NOTHING; _]); MAX_SERVICES];
        let mut clocks = [None; MAX_SERVICES];
        for capability in tables.capabilities().iter() {
            if let Some(slots) = cspace.get_mut(usize::from(capability.service))
                && usize::from(capability.slot) < MAX_SLOTS
            {
                *slots.get_mut(capability.slot.into()) = Held::new(&tables, &capability);
            }
            let told = capability.kind == Kind::Clock && capability.rights.contains(Rights::NOW);
            if told && let Some(clock) = clocks.get_mut(usize::from(capability.service)) {
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
            places,
            cspace,
            pending: [0; MAX_SERVICES],
            restarts: [0; MAX_SERVICES],
            channels,
            delivered: [0; MAX_SERVICES],
            clocks,
            granted: References::new([0; _]),
            mapped: References::new([0; _]),
            refusals: 0,
            refusals_of: [0; MAX_SERVICES],
            started: now,
            memory,
        }
    }

    /// The tables that this kernel enforces.
    #[must_use]
    pub fn tables(&self) -> Tables<'t> {
        self.tables
    }

    /// Where the regions are.
    #[must_use]
    pub fn places(&self) -> &Places {
        &self.places
    }

    /// How many invocations were refused.
    #[must_use]
    pub fn refusals(&self) -> u64 {
        self.refusals
    }

    /// What each capability was used for so far.
    pub fn uses(&self) -> impl Iterator<Item = Use<'t>> {
        let used = |capability: &Capability| {
            let slots = self.cspace.get(usize::from(capability.service))?;
            Some(slots.get(capability.slot.into()).used)
        };
        uses(self.tables, used)
    }

    /// The XenStore channel that the toolstack made.
    pub fn set_xenstore_port(&mut self, port: EvtchnPort) {
        for (index, rule) in self.tables.ports().iter().enumerate() {
            if rule.kind == PortKind::XenStore {
                self.channels[index].port = Some(port);
            }
        }
    }

    /// Sets notification `bit` of a service and wakes it.
    fn notify(&mut self, service: u8, bit: u8) {
        if let Some(pending) = self.pending.get_mut(usize::from(service)) {
            *pending |= 1 << (bit & 63);
            self.scheduler.wake(service);
        }
    }

    /// Takes an event on `port`, which is masked now. Returns the service that it belongs to.
    pub fn event(&mut self, port: EvtchnPort) -> Option<u8> {
        let index = self.channels.iter().position(|channel| channel.port == Some(port))?;
        let Channel { service, bit, .. } = self.channels[index];
        if let Some(delivered) = self.delivered.get_mut(usize::from(service)) {
            *delivered |= 1 << index;
        }
        self.notify(service, bit);
        Some(service)
    }

    /// A system call of `service`: its number, and its arguments in the order of the registers.
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

    #[inline(never)] // As `carry_out`.
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

    /// The answer of the `wait` from which a service runs on: its notifications, which are then forgotten, and the
    /// time if the service may read the clock.
    pub fn awake(&mut self, service: u8, now: u64) -> Answer {
        let bits = self.pending.get_mut(usize::from(service)).map_or(0, core::mem::take);
        let clock = self.clocks.get(usize::from(service)).copied().flatten();
        match clock.and_then(|slot| self.held(service, u64::from(slot))) {
            Some(held) => {
                held.used |= Rights::NOW;
                answer(bits, now)
            }
            None => answer(bits, 0),
        }
    }

    fn held(&mut self, service: u8, slot: u64) -> Option<&mut Held> {
        self.cspace.get_mut(usize::from(service)).map(|slots| slots.get_mut(slot))
    }

    fn invoke(&mut self, platform: &mut impl Platform, service: u8, arguments: &[u64; 6]) -> Outcome {
        let [slot, number, ..] = *arguments;
        let Some(held) = self.held(service, slot) else {
            return self.refuse_invocation(platform, service, arguments, None);
        };
        if number == Operation::QueueNotify as u64 && held.rights.contains(Rights::NOTIFY) {
            // On the path of every packet, and nothing of it is left to check.
            held.used |= Rights::NOTIFY;
            let (service, bit) = held.bell;
            self.notify(service, bit);
            return Outcome::Answer(DONE);
        }
        let held = *held;
        self.carry_out(platform, service, held, arguments)
    }

    /// Any other invocation of what is held.
    #[inline(never)] // It would only slow down what is done more often.
    fn carry_out(&mut self, platform: &mut impl Platform, service: u8, held: Held, arguments: &[u64; 6]) -> Outcome {
        let [slot, number, rest @ ..] = *arguments;
        let operation = Operation::from_number(number).filter(|operation| held.rights.contains(operation.right()));
        let Some(operation) = operation else {
            return self.refuse_invocation(platform, service, arguments, None);
        };
        let result = match operation {
            Operation::PowerOff => Ok(Outcome::PowerOff),
            Operation::PowerReboot => Ok(Outcome::Reboot),
            _ => self.perform(platform, service, usize::from(held.object), operation, rest).map(Outcome::Answer),
        };
        if matches!(result, Ok(_) | Err(Status::InUse))
            && let Some(held) = self.held(service, slot)
        {
            held.used |= operation.right();
        }
        match result {
            Ok(outcome) => outcome,
            // An expected answer, not an attempt at something the policy forbids.
            Err(Status::InUse) => Outcome::Answer(Answer { status: Status::InUse, words: [0; 2] }),
            Err(status) => self.refuse_invocation(platform, service, arguments, Some(status)),
        }
    }

    /// Refuses an invocation: for `status`, or because the capability does not allow it.
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
            (Some(held), Some(operation)) if operation.applies_to(held.kind) => Status::MissingRight,
            _ => Status::WrongOperation,
        });
        self.refuse(platform, service, SYSTEM_CALL_INVOKE, arguments, capability, status)
    }

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

    /// Carries an operation out that the capability allows; what is left to check is the arguments.
    fn perform(
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
                self.port(platform, object, &rule, operation, arguments)
            }
            Operation::GrantIssue | Operation::GrantEnd => {
                let rule = self.tables.grants().get(object).ok_or(Status::WrongOperation)?;
                if operation == Operation::GrantIssue {
                    self.issue(platform, &rule, arguments)
                } else {
                    self.end(platform, &rule, arguments[0])
                }
            }
            Operation::InfoRead => self.info(service, arguments[0]),
            Operation::RegionFind => self.find(object),
            // They need nothing but the capability.
            Operation::QueueNotify | Operation::PowerOff | Operation::PowerReboot => Ok(DONE),
        }
    }

    fn port(
        &mut self,
        platform: &mut impl Platform,
        index: usize,
        rule: &PortRule,
        operation: Operation,
        [peer, theirs, ..]: [u64; 4],
    ) -> Result<Answer, Status> {
        let channel = self.channels.get_mut(index).ok_or(Status::WrongOperation)?;
        match (operation, channel.port) {
            (Operation::PortOpen, None) if rule.kind == PortKind::Peer => {
                let peer = allowed_peer(peer, rule.peer_first, rule.peer_last)?;
                let port = match u32::try_from(theirs).map_err(|_| Status::Unavailable)? {
                    0 => platform.open_port(peer),
                    theirs => platform.bind_port(peer, EvtchnPort(theirs)),
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

    /// The words of `granted` and `mapped` that a reference has a bit in, and the bit.
    fn grant_state(&mut self, reference: u32) -> (&mut u64, &mut u64, u64) {
        let word = u64::from(reference) / 64;
        (self.granted.get_mut(word), self.mapped.get_mut(word), 1 << (reference % 64))
    }

    fn issue(
        &mut self,
        platform: &mut impl Platform,
        rule: &GrantRule,
        [page, peer, theirs, further]: [u64; 4],
    ) -> Result<Answer, Status> {
        let allowed =
            |page: u64| u32::try_from(page).ok().filter(|page| *page < rule.count).ok_or(Status::NotPermitted);
        // No page of the range is past the last one.
        let last = allowed(page.saturating_add(further))?;
        let page = allowed(page)?;
        let peer = allowed_peer(peer, rule.peer_first, rule.peer_last)?;
        let place = self.places.get(usize::from(rule.region)).copied().unwrap_or_default();
        if u64::from(last) >= place.pages || theirs != 0 && further != 0 {
            return Err(Status::BadArgument);
        }
        let first = rule.first_ref + page;
        let references = first..=rule.first_ref + last;
        // All are looked at before the first is granted, so that a refusal leaves nothing behind.
        for (word, bits) in bits_of(&references) {
            if self.granted.get(word) & bits != 0 {
                return Err(Status::WrongState);
            }
        }
        let frame = place.frame.0 + u64::from(page);
        if theirs != 0 {
            return self.map(platform, rule, GrantRef(first), Gfn(frame), peer, theirs);
        }
        bits_of(&references).for_each(|(word, bits)| *self.granted.get_mut(word) |= bits);
        for (reference, frame) in references.zip(frame..) {
            platform.grant(GrantRef(reference), Gfn(frame), peer, rule.access == Access::ReadWrite);
        }
        Ok(answer(u64::from(first), 0))
    }

    /// Puts the page that `peer` grants under `theirs` in the place of ours.
    fn map(
        &mut self,
        platform: &mut impl Platform,
        rule: &GrantRule,
        reference: GrantRef,
        frame: Gfn,
        peer: DomId,
        theirs: u64,
    ) -> Result<Answer, Status> {
        let writable = rule.access == Access::ReadWrite;
        // A page that is only to be read must not be one that a service takes for its own, or writes: that would fault.
        let writes = |mapping: Mapping| mapping.region == rule.region && mapping.access == Access::ReadWrite;
        if !writable && self.tables.mappings().iter().any(writes) {
            return Err(Status::NotPermitted);
        }
        let theirs = u32::try_from(theirs).map(GrantRef).map_err(|_| Status::Unavailable)?;
        let (granted, mapped, bit) = self.grant_state(reference.0);
        if !platform.map_grant(reference, frame, peer, theirs, writable) {
            return Err(Status::Unavailable);
        }
        *granted |= bit;
        *mapped |= bit;
        Ok(DONE)
    }

    fn end(&mut self, platform: &mut impl Platform, rule: &GrantRule, page: u64) -> Result<Answer, Status> {
        let page = u32::try_from(page).ok().filter(|page| *page < rule.count).ok_or(Status::NotPermitted)?;
        let reference = rule.first_ref + page;
        let place = self.places.get(usize::from(rule.region)).copied().unwrap_or_default();
        let (granted, mapped, bit) = self.grant_state(reference);
        if *granted & bit == 0 {
            return Err(Status::WrongState);
        }
        let frame = Gfn(place.frame.0 + u64::from(page));
        if *mapped & bit != 0 {
            platform.unmap_grant(GrantRef(reference), frame);
        } else if !platform.end_grant(GrantRef(reference)) {
            return Err(Status::InUse);
        } else if rule.access == Access::ReadWrite {
            // What one peer wrote, the next must not see. A page that the peer only read is its owner's to empty.
            platform.clear(frame);
        }
        *granted &= !bit;
        *mapped &= !bit;
        Ok(DONE)
    }

    fn info(&self, service: u8, item: u64) -> Result<Answer, Status> {
        let hash = self.tables.policy_hash();
        let word = |index: usize| {
            hash.get(index * 8..index * 8 + 8).and_then(|bytes| bytes.try_into().ok()).map_or(0, u64::from_be_bytes)
        };
        // The compiler may make a table of jumps of this; see `Clamped`.
        match item.min(info::HISTORY + 1) {
            info::POLICY_HASH_LOW => Ok(answer(word(0), word(1))),
            info::POLICY_HASH_HIGH => Ok(answer(word(2), word(3))),
            info::BOOT => Ok(answer(self.started, self.memory)),
            info::HISTORY => {
                let restarts = self.restarts.get(usize::from(service)).copied().unwrap_or(0);
                let refusals = self.refusals_of.get(usize::from(service)).copied().unwrap_or(0);
                Ok(answer(u64::from(restarts), refusals))
            }
            _ => Err(Status::BadArgument),
        }
    }

    fn find(&self, mapping: usize) -> Result<Answer, Status> {
        let mapping = self.tables.mappings().get(mapping).ok_or(Status::WrongOperation)?;
        let record = self.tables.regions().get(usize::from(mapping.region)).ok_or(Status::WrongOperation)?;
        let place = self.places.get(usize::from(mapping.region)).ok_or(Status::WrongOperation)?;
        let flags = match record.kind {
            RegionKind::Module | RegionKind::CommandLine | RegionKind::ImageData => region::CONSTANT,
            RegionKind::Fixed | RegionKind::Share if self.owns(&mapping) => {
                let former = self.restarts.get(usize::from(mapping.service)).is_none_or(|restarts| *restarts > 0);
                region::EXCLUSIVE | if former { 0 } else { region::FRESH }
            }
            _ => 0,
        };
        Ok(answer(mapping.address, place.length | flags))
    }

    /// Returns `true` if the mapping is of [`region::EXCLUSIVE`].
    fn owns(&self, mapping: &Mapping) -> bool {
        let shared = |other: &Mapping| other.region == mapping.region && other.service != mapping.service;
        let grants = self.tables.grants();
        let mut granted = grants.iter().filter(|rule| rule.region == mapping.region).peekable();
        // Few regions are granted: most are answered by that.
        mapping.access == Access::ReadWrite
            && granted.peek().is_some()
            && granted.all(|rule| rule.access == Access::Read)
            && !self.tables.mappings().iter().any(|other| shared(&other))
    }

    /// A service faulted: what becomes of it by its restart rule.
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

    /// Chooses who runs at `now`.
    pub fn next(&mut self, now: u64) -> Next {
        self.scheduler.next(now)
    }
}

/// The words that references have bits in, and those bits.
fn bits_of(references: &RangeInclusive<u32>) -> impl Iterator<Item = (u64, u64)> + use<> {
    let (first, last) = (*references.start(), *references.end());
    (first / 64..=last / 64).map(move |word| {
        let (low, high) = (first.saturating_sub(word * 64), (last - word * 64).min(63));
        (u64::from(word), u64::MAX << low & u64::MAX >> (63 - high))
    })
}

fn allowed_peer(peer: u64, first: u16, last: u16) -> Result<DomId, Status> {
    let peer = u16::try_from(peer).map_err(|_| Status::NotPermitted)?;
    if DomId(peer).is_real() && (first..=last).contains(&peer) { Ok(DomId(peer)) } else { Err(Status::NotPermitted) }
}
