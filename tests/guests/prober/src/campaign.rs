//! Makes the attempts of one role one after the other, across the restarts that they cost.

use core::fmt;
use core::time::Duration;

use arrayvec::ArrayVec;
use cloister_caps::abi::{SYSTEM_CALL_INVOKE, SYSTEM_CALL_WAIT, region};
use cloister_caps::{Operation, PAGE_SIZE, Status};
use cloister_interfaces::capability::{Clock, Console};
use cloister_interfaces::queue::SLOTS;
use cloister_interfaces::{Instant, Memory, Notifications, Service, System};
use cloister_probe as probe;

use crate::attempt::{Attempt, Attempts, Extent, LAST_SLOT, Noise, STORMS, Side, arguments, operations};
use crate::outcome::{AttemptState, Outcome};
use crate::raw_queue::{Bytes, RawQueue};

/// `-EPERM`: Xen's answer to a hypercall from ring 3.
const NOT_PERMITTED: i64 = -1;
/// The lowest address of the upper half.
const UPPER_HALF: u64 = 0xFFFF_8000_0000_0000;
/// The last domain number that a peer can have (`DOMID_FIRST_RESERVED` - 1).
const LAST_DOMAIN: u64 = 0x7FEF;

/// The time between two attempts.
const PACE: Duration = Duration::from_millis(40);
/// The time after an attempt that is refused many times, so that the console keeps up with the
/// kernel's log of refusals.
const SLOW_PACE: Duration = Duration::from_millis(100);
/// The number of checks before a peer counts as one that has stopped: 2 s.
const CHECKS: u32 = 50;
/// The number of `wait`s whose deadline has passed.
const PASSED_DEADLINES: u32 = 20_000;
/// The duration of a storm of waits, and of each turn of the last attempt.
pub(crate) const STORM: Duration = Duration::from_millis(100);
/// The number of lines of a flood: more than the kernel lets through at once.
const LINES: u32 = 400;

/// The words that survive restarts, in the order in which they are stored.
#[derive(Clone, Copy)]
enum Count {
    /// The number of the next attempt.
    Next,
    /// 1 if the attempt before has no outcome yet, otherwise 0.
    Unfinished,
    Faulted,
    Refused,
    NoEffect,
    Consumed,
    /// Operations that were allowed.
    Allowed,
    Breaches,
    /// A bit for each slot that holds a region: low half, high half.
    RegionsLow,
    RegionsHigh,
}

/// The size of the words, in bytes.
const COUNTS: usize = 40;
/// An offset for them in a producer's page: the bytes between its indices and its first slot are
/// unused. The contents of a queue survive the restart of its ends.
pub(crate) const IN_QUEUE: usize = 16;
const _: () = assert!(IN_QUEUE + COUNTS <= SLOTS);

/// A message that a role must not send.
pub(crate) struct RawMessage {
    /// Its description, for the log.
    pub name: &'static str,
    /// The index of the role's queue that it is sent to.
    pub queue: usize,
    /// Its bytes.
    pub bytes: Bytes,
    /// The pause before it, in which the other services are checked from outside.
    pub pause: Duration,
}

/// An attempt of one role beside messages: its description, and a function that makes it and
/// returns the breach, if there is one.
pub(crate) type RoleAttempt<R> = (&'static str, fn(&mut R) -> Option<&'static str>);

/// A compromised service: it has the capabilities that the policy gives it, and no others.
pub(crate) trait Role: Sized + 'static {
    type System: System + 'static;
    type Memory: Memory + 'static;
    /// The operations that the policy gives it on some object. Any other that succeeds is a breach.
    const RIGHTS: &'static [Operation];
    fn console(&self) -> &Console<Self::System>;
    fn clock(&self) -> &Clock<Self::System>;
    /// Returns memory that survives restarts, and the offset of [`COUNTS`] unused bytes in it.
    fn saved_words(&self) -> (&Self::Memory, usize);
    /// Returns its queues.
    fn queues(&self) -> ArrayVec<RawQueue<'_, Self::Memory>, 4>;
    /// Returns the attempts that only this role can make, in order.
    fn attempts() -> &'static [RoleAttempt<Self>] {
        &[]
    }
    /// Returns the message of this number.
    fn message(&self, _number: usize) -> Option<RawMessage> {
        None
    }
    /// Checks a reply of a peer on queue `_queue` after the message of number `_message`, or after
    /// another attempt.
    ///
    /// # Errors
    /// The reply is a refusal or shows a breach.
    fn check_reply(&self, _queue: usize, _reply: &[u8], _message: Option<usize>) -> Result<(), Outcome> {
        Ok(())
    }
}

/// The part of `impl Role for Caps<S, M>` that is the same in every role.
macro_rules! console_and_clock {
    () => {
        type System = S;
        type Memory = M;

        fn console(&self) -> &cloister_interfaces::capability::Console<S> {
            &self.console
        }

        fn clock(&self) -> &cloister_interfaces::capability::Clock<S> {
            &self.clock
        }
    };
}
pub(crate) use console_and_clock;

/// Writes to a region of constant bytes, if the guest has it. Returns the breach.
pub(crate) fn write_constant(bytes: &'static [u8], breach: &'static str) -> Option<&'static str> {
    if bytes.is_empty() {
        return None;
    }
    probe::write(bytes.as_ptr() as u64, 0);
    Some(breach)
}

/// A service that only makes attempts.
pub(crate) struct Campaign<R> {
    role: R,
    due: Instant,
    /// The attempt that a peer has to consume: its number, the attempt, and the checks that are
    /// left.
    sent: Option<(u32, Attempt, u32)>,
    /// The attempt whose pause has begun.
    paused: Option<u32>,
}

impl<R: Role> Campaign<R> {
    pub(crate) fn new(role: R) -> Self {
        Campaign { role, due: Instant::START, sent: None, paused: None }
    }

    fn get(&self, count: Count) -> u32 {
        let (memory, at) = self.role.saved_words();
        memory.load(at + count as usize * 4)
    }

    fn set(&self, count: Count, value: u32) {
        let (memory, at) = self.role.saved_words();
        memory.store(at + count as usize * 4, value);
    }

    fn add(&self, count: Count) {
        self.set(count, self.get(count).wrapping_add(1));
    }

    fn log(&self, text: fmt::Arguments<'_>) {
        self.role.console().line(text);
    }

    fn regions(&self) -> u64 {
        u64::from(self.get(Count::RegionsLow)) | u64::from(self.get(Count::RegionsHigh)) << 32
    }

    fn attempt(&self, number: u32) -> Option<Attempt> {
        let extent = Extent {
            regions: self.regions(),
            queues: self.role.queues().len(),
            role_attempts: R::attempts().len(),
            messages: (0..).take_while(|number| self.role.message(*number).is_some()).count(),
        };
        Attempts::of_this_program(extent).all().nth(number as usize)
    }

    /// Logs an attempt before it is made.
    fn announce(&self, number: u32, attempt: Attempt) {
        let queues = self.role.queues();
        let queue_name = |index: usize| queues.get(index).map_or("?", |queue| queue.name);
        match attempt {
            Attempt::Queue(queue, attack) => {
                self.log(format_args!("attempt {number}: {}: {attack}", queue_name(queue)));
            }
            Attempt::OfRole(index) => {
                let name = R::attempts().get(index).map_or("?", |(name, _)| name);
                self.log(format_args!("attempt {number}: {name}"));
            }
            Attempt::Message(index) => {
                if let Some(message) = self.role.message(index) {
                    self.log(format_args!("attempt {number}: {}: {}", queue_name(message.queue), message.name));
                }
            }
            other => self.log(format_args!("attempt {number}: {other}")),
        }
    }

    fn report(&self, number: u32, outcome: Outcome) {
        self.set(Count::Unfinished, 0);
        self.add(match outcome {
            Outcome::Faulted => Count::Faulted,
            Outcome::Refused => Count::Refused,
            Outcome::NoEffect => Count::NoEffect,
            Outcome::Consumed => Count::Consumed,
            Outcome::Breach(_) => Count::Breaches,
        });
        self.log(format_args!("attempt {number}: {outcome}"));
    }

    /// Begins the pause before a message that has one. Returns `true` if it did.
    fn begin_pause(&mut self, number: u32, attempt: Attempt) -> bool {
        let Attempt::Message(index) = attempt else { return false };
        let pause = self.role.message(index).map(|message| message.pause);
        let Some(pause) = pause.filter(|pause| !pause.is_zero()) else { return false };
        if self.paused == Some(number) {
            return false;
        }
        self.paused = Some(number);
        self.log(format_args!("a pause of {} s", pause.as_secs()));
        self.due = self.role.clock().now() + pause;
        true
    }

    fn make_next(&mut self) {
        let number = self.get(Count::Next);
        let Some(attempt) = self.attempt(number) else { return };
        if self.begin_pause(number, attempt) {
            return;
        }
        self.set(Count::Next, number.wrapping_add(1));
        self.set(Count::Unfinished, 1);
        self.announce(number, attempt);
        match self.make(attempt) {
            AttemptState::Ended(outcome) => self.report(number, outcome),
            AttemptState::AwaitingPeer => self.sent = Some((number, attempt, CHECKS)),
        }
        let pace = if matches!(attempt, Attempt::Slot(_) | Attempt::Arguments(_)) { SLOW_PACE } else { PACE };
        self.due = self.role.clock().now() + pace;
    }

    /// Reads the peers' replies to an attempt, and reports its outcome if they have consumed it.
    fn check_peers(&mut self, number: u32, attempt: Attempt, checks: u32) {
        let message = if let Attempt::Message(index) = attempt { Some(index) } else { None };
        let mut outcome = Outcome::Consumed;
        let mut consumed = true;
        for (index, queue) in self.role.queues().iter().enumerate() {
            consumed &= queue.is_consumed();
            queue.take_replies(|reply| {
                if let Err(other) = self.role.check_reply(index, reply, message)
                    && !matches!(outcome, Outcome::Breach(_))
                {
                    outcome = other;
                }
            });
        }
        self.due = self.role.clock().now() + PACE;
        self.sent = None;
        match (outcome, consumed, checks.checked_sub(1)) {
            (Outcome::Consumed, false, Some(checks)) => self.sent = Some((number, attempt, checks)),
            (Outcome::Consumed, false, None) => self.report(number, Outcome::Breach("a peer does not listen any more")),
            (outcome, ..) => self.report(number, outcome),
        }
    }

    fn report_end(&self, attempts: u32) {
        let get = |count| self.get(count);
        self.log(format_args!(
            "done: {attempts} attempts, {} faulted, {} refused, {} taken in, {} without effect; {} operations allowed, {} breaches",
            get(Count::Faulted),
            get(Count::Refused),
            get(Count::Consumed),
            get(Count::NoEffect),
            get(Count::Allowed),
            get(Count::Breaches)
        ));
    }

    fn make(&mut self, attempt: Attempt) -> AttemptState {
        let breach = |what| AttemptState::Ended(Outcome::Breach(what));
        match attempt {
            Attempt::Instruction(_, instruction) => {
                instruction();
                breach("the instruction was executed")
            }
            Attempt::Hypercall(_, call) => (call() != NOT_PERMITTED).then_some("Xen took a hypercall").into(),
            Attempt::Read(_, address) => {
                let _ = probe::read(address);
                breach("the address was read")
            }
            Attempt::Write(_, address) => {
                probe::write(address, 0);
                breach("the address was written")
            }
            Attempt::Execute(_, address) => {
                probe::execute(address);
                breach("the address was executed")
            }
            Attempt::SystemCall(number) => system_call(number).into(),
            Attempt::Slot(slot) => self.slot(slot).into(),
            Attempt::Arguments(slot) => match arguments_on(slot) {
                Some(what) => breach(what),
                None => AttemptState::Ended(Outcome::NoEffect),
            },
            Attempt::Registers => left_in_registers().into(),
            Attempt::Region(slot, side) => beyond(slot, side),
            Attempt::PassedDeadlines => {
                for _ in 0..PASSED_DEADLINES {
                    let _ = probe::system_call(SYSTEM_CALL_WAIT, [0; 6]);
                }
                AttemptState::Ended(Outcome::NoEffect)
            }
            Attempt::Storm(ahead) => {
                storm(self.role.clock().now(), Duration::from_micros(ahead));
                AttemptState::Ended(Outcome::NoEffect)
            }
            Attempt::Flood => {
                (0..LINES).for_each(|line| self.log(format_args!("flood {line}")));
                AttemptState::AwaitingPeer
            }
            Attempt::Silence(noise) => {
                self.silence(noise);
                breach("the instruction was executed")
            }
            Attempt::Queue(queue, attack) => match self.role.queues().get(queue) {
                Some(queue) => queue.attack(attack),
                None => AttemptState::Ended(Outcome::NoEffect),
            },
            Attempt::OfRole(index) => R::attempts().get(index).and_then(|(_, make)| make(&mut self.role)).into(),
            Attempt::Message(index) => {
                if let Some(message) = self.role.message(index)
                    && let Some(queue) = self.role.queues().get(message.queue)
                {
                    queue.send(&message.bytes);
                }
                AttemptState::AwaitingPeer
            }
            Attempt::Spin => self.spin_until_shutdown(),
        }
    }

    /// Fills the console's backlog, makes a call that is refused, fills it again, and faults.
    fn silence(&self, noise: Noise) {
        let invoke = |slot, operation: Operation| {
            let _ = probe::system_call(SYSTEM_CALL_INVOKE, [slot, u64::from(operation as u32), 0, 0, 0, 0]);
        };
        let flood = || (0..LINES).for_each(|line| self.log(format_args!("noise {line} {:.<100}", "")));
        flood();
        noise.calls().for_each(|(slot, operation)| invoke(slot, operation));
        invoke(LAST_SLOT, noise.deed());
        flood();
        probe::ud2();
    }

    /// Reports the end of the campaign. Then spins and storms in turns until the image ends.
    fn spin_until_shutdown(&self) -> ! {
        self.report_end(self.get(Count::Next));
        loop {
            for ahead in STORMS {
                spin(self.role.clock());
                storm(self.role.clock().now(), Duration::from_micros(ahead));
            }
        }
    }

    /// Invokes every operation on a slot. Counts and logs those that succeed. Returns the breach if
    /// the policy does not give one of them.
    fn slot(&self, slot: u64) -> Option<&'static str> {
        let mut breach = None;
        for operation in operations() {
            let (status, words) = probe::system_call(SYSTEM_CALL_INVOKE, [slot, *operation, 0, 0, 0, 0]);
            if status == Status::Done as u64 {
                self.add(Count::Allowed);
                self.log(format_args!("allowed: slot {slot} operation {operation}"));
                if !R::RIGHTS.iter().any(|right| u64::from(*right as u32) == *operation) {
                    breach = Some("the operation is none of the policy's");
                }
                if *operation == u64::from(Operation::RegionFind as u32) {
                    let (half, bit) =
                        if slot < 32 { (Count::RegionsLow, slot) } else { (Count::RegionsHigh, slot - 32) };
                    self.set(half, self.get(half) | 1 << (bit & 31));
                }
            } else if words != [0; 2] {
                breach = Some("a refusal answered something");
            }
        }
        breach
    }
}

/// Spins for the duration [`STORM`] without waiting.
pub(crate) fn spin(clock: &Clock<impl System>) {
    let end = clock.now() + STORM;
    while clock.now() < end {
        (0..1_000).for_each(|_| core::hint::spin_loop());
    }
}

/// Waits for `ahead` again and again for the duration [`STORM`]. Returns the number of waits.
pub(crate) fn storm(mut now: Instant, ahead: Duration) -> u64 {
    let end = now + STORM;
    let mut waits = 0;
    while now < end {
        probe::load_segments();
        let (_, [_, time]) = probe::system_call(SYSTEM_CALL_WAIT, [(now + ahead).0, 0, 0, 0, 0, 0]);
        now = Instant(time);
        waits += 1;
    }
    waits
}

impl<R: Role> Service for Campaign<R> {
    fn notified(&mut self, _: Notifications) {
        if self.role.clock().now() < self.due {
            return;
        }
        if let Some((number, attempt, checks)) = self.sent.take() {
            return self.check_peers(number, attempt, checks);
        }
        if self.get(Count::Unfinished) != 0 {
            // The attempt before began, and this program was restarted.
            self.report(self.get(Count::Next).wrapping_sub(1), Outcome::Faulted);
        }
        self.make_next();
    }

    fn deadline(&self) -> Option<Instant> {
        Some(self.due)
    }
}

/// Invokes the operations of a slot with arguments of every class, none of which names an object of
/// the slot. Returns the breach, if there is one.
fn arguments_on(slot: u64) -> Option<&'static str> {
    let number = |operation: Operation| u64::from(operation as u32);
    for operation in operations() {
        let (status, _) = probe::system_call(SYSTEM_CALL_INVOKE, [slot, *operation, 0, 0, 0, 0]);
        if status != Status::Done as u64 || *operation == number(Operation::ConsoleWrite) {
            continue;
        }
        for argument in arguments() {
            let (status, words) =
                probe::system_call(SYSTEM_CALL_INVOKE, [slot, *operation, *argument, *argument, *argument, *argument]);
            // An answer in the upper half would be an address of the kernel. Facts and random bits
            // are no addresses.
            let pointers =
                [Operation::InfoRead, Operation::EntropyDraw].iter().all(|other| number(*other) != *operation);
            if pointers && words[0] >= UPPER_HALF {
                return Some("an answer holds a kernel address");
            }
            let opened = status == Status::Done as u64 && *operation == number(Operation::PortOpen);
            if opened && *argument > LAST_DOMAIN {
                return Some("a channel was opened with no domain");
            }
        }
    }
    None
}

/// Makes a system call with this number. Returns the breach, if there is one.
fn system_call(number: u64) -> Option<&'static str> {
    let (status, words) = probe::system_call(number, [0, 1, 2, 3, 4, 5]);
    (status != Status::BadSystemCall as u64 || words != [0; 2]).then_some("the call was not refused")
}

/// Looks for what a system call or a restart left in the registers. Returns the breach, if there is
/// one.
fn left_in_registers() -> Option<&'static str> {
    let left = probe::registers_after_call(SYSTEM_CALL_INVOKE, 0, 0);
    if probe::segments() != [0; 4] {
        return Some("a restart left something in a segment register");
    }
    (left != [0; 6]).then_some("a system call left something in a register")
}

/// Reads past the ends of a region, or executes it.
fn beyond(slot: u64, side: Side) -> AttemptState {
    let find = Operation::RegionFind as u32;
    let (_, [base, length]) = probe::system_call(SYSTEM_CALL_INVOKE, [slot, u64::from(find), 0, 0, 0, 0]);
    let length = (length & region::SIZE).next_multiple_of(PAGE_SIZE as u64);
    if length == 0 {
        return AttemptState::Ended(Outcome::NoEffect);
    }
    match side {
        Side::Below => drop(probe::read(base.wrapping_sub(1))),
        Side::Above => drop(probe::read(base.wrapping_add(length))),
        Side::Inside => probe::execute(base),
    }
    AttemptState::Ended(Outcome::Breach("the address was reached"))
}
