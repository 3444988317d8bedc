//! The attempts of one place, made one after the other across the restarts that they cost.

use core::fmt;
use core::time::Duration;

use arrayvec::ArrayVec;
use cloister_caps::abi::{SYSTEM_CALL_INVOKE, SYSTEM_CALL_WAIT, region};
use cloister_caps::{Operation, PAGE_SIZE, Status};
use cloister_interfaces::capability::{Clock, Console};
use cloister_interfaces::queue::SLOTS;
use cloister_interfaces::{Instant, Memory, Notifications, Service, System};
use cloister_probe as probe;

use crate::attempt::{Attempt, Attempts, Extent, STORMS, Side, arguments, operations};
use crate::line::{Bytes, Line};

/// `-EPERM`: Xen's answer to a hypercall from ring 3.
const NOT_PERMITTED: i64 = -1;
/// The lowest address of the upper half.
const UPPER_HALF: u64 = 0xFFFF_8000_0000_0000;
/// The last domain number that a peer can have (`DOMID_FIRST_RESERVED` - 1).
const LAST_DOMAIN: u64 = 0x7FEF;

/// Time between two attempts.
const PACE: Duration = Duration::from_millis(40);
/// Time after one that is refused many times over, so that the console keeps up with the kernel's refusals.
const SLOW_PACE: Duration = Duration::from_millis(100);
/// How often a peer is looked at before it counts as one that does not listen: 2 s.
const LOOKS: u32 = 50;
/// Returns at once of a `wait` whose deadline has passed.
const HURRY: u32 = 20_000;
/// How long a storm of waits lasts, and each turn of the last attempt.
pub(crate) const STORM: Duration = Duration::from_millis(100);
/// Lines of a flood: more than the kernel lets through at once.
const LINES: u32 = 400;

/// The words that survive restarts, in the order of their places.
#[derive(Clone, Copy)]
enum Count {
    /// The number of the next attempt.
    Next,
    /// Whether the attempt before has no outcome yet.
    Owed,
    Faulted,
    Refused,
    Harmless,
    Heard,
    /// Operations that were allowed.
    Allowed,
    Breaches,
    /// A bit for each slot that holds a region: low half, high half.
    RegionsLow,
    RegionsHigh,
}

/// Bytes that the words take.
const COUNTS: usize = 40;
/// Where they can stand in a producer's page: between its indices and its first slot is room that nobody uses. What a queue
/// holds survives the restart of its ends.
pub(crate) const IN_QUEUE: usize = 16;
const _: () = assert!(IN_QUEUE + COUNTS <= SLOTS);

/// What came of an attempt.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Outcome {
    /// The service ended by it.
    Faulted,
    /// The kernel or a peer refused.
    Refused,
    /// It had no effect that anybody else could tell.
    Harmless,
    /// The peer took it in and goes on.
    Heard,
    /// It succeeded, and must not have.
    Breach(&'static str),
}

impl fmt::Display for Outcome {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Outcome::Faulted => write!(f, "faulted"),
            Outcome::Refused => write!(f, "refused"),
            Outcome::Harmless => write!(f, "no effect"),
            Outcome::Heard => write!(f, "taken in, no effect"),
            Outcome::Breach(what) => write!(f, "BREACH: {what}"),
        }
    }
}

/// How far an attempt is.
pub(crate) enum Made {
    /// It has its outcome.
    Over(Outcome),
    /// The peer is to take it in.
    Sent,
}

impl From<Option<&'static str>> for Made {
    fn from(breach: Option<&'static str>) -> Made {
        Made::Over(breach.map_or(Outcome::Refused, Outcome::Breach))
    }
}

/// A message that a place has no business to send.
pub(crate) struct Letter {
    /// What it says.
    pub name: &'static str,
    /// To which of the place's lines.
    pub line: usize,
    /// Its bytes.
    pub bytes: Bytes,
    /// Time that is left to others before it.
    pub pause: Duration,
}

/// What a place can try beside messages; answers what was breached.
pub(crate) type Deed<P> = (&'static str, fn(&mut P) -> Option<&'static str>);

/// A service's place in the image, as who has taken it over has it: what the policy gives it, and no more.
pub(crate) trait Place: Sized + 'static {
    type System: System + 'static;
    type Memory: Memory + 'static;
    /// The operations that the policy gives it on some object. Another that is carried out is a breach.
    const RIGHTS: &'static [Operation];
    fn console(&self) -> &Console<Self::System>;
    fn clock(&self) -> &Clock<Self::System>;
    /// Memory that survives restarts, and where in it there is room for [`COUNTS`] bytes.
    fn progress(&self) -> (&Self::Memory, usize);
    /// Its queues.
    fn lines(&self) -> ArrayVec<Line<'_, Self::Memory>, 4>;
    /// What else it tries, in order.
    fn deeds() -> &'static [Deed<Self>] {
        &[]
    }
    /// What it sends, by number.
    fn letter(&self, _number: usize) -> Option<Letter> {
        None
    }
    /// What a peer's message breaches, which came on `line` after the letter of this number, or after something else.
    fn heard(&self, _line: usize, _message: &[u8], _letter: Option<usize>) -> Result<(), Outcome> {
        Ok(())
    }
}

/// A service that is nothing but attempts.
pub(crate) struct Siege<P> {
    place: P,
    due: Instant,
    /// The number of the attempt that a peer is to take in, the attempt, and how often it was looked for.
    sent: Option<(u32, Attempt, u32)>,
    /// The pause before this attempt is over.
    paused: Option<u32>,
}

impl<P: Place> Siege<P> {
    pub(crate) fn new(place: P) -> Self {
        Siege { place, due: Instant::START, sent: None, paused: None }
    }

    fn get(&self, count: Count) -> u32 {
        let (memory, at) = self.place.progress();
        memory.load(at + count as usize * 4)
    }

    fn set(&self, count: Count, value: u32) {
        let (memory, at) = self.place.progress();
        memory.store(at + count as usize * 4, value);
    }

    fn add(&self, count: Count) {
        self.set(count, self.get(count).wrapping_add(1));
    }

    fn say(&self, text: fmt::Arguments<'_>) {
        self.place.console().line(text);
    }

    fn regions(&self) -> u64 {
        u64::from(self.get(Count::RegionsLow)) | u64::from(self.get(Count::RegionsHigh)) << 32
    }

    fn attempt(&self, number: u32) -> Option<Attempt> {
        let extent = Extent {
            regions: self.regions(),
            lines: self.place.lines().len(),
            deeds: P::deeds().len(),
            letters: (0..).take_while(|number| self.place.letter(*number).is_some()).count(),
        };
        Attempts::of_this_program(extent).all().nth(number as usize)
    }

    /// Says what is tried, before it is.
    fn announce(&self, number: u32, attempt: Attempt) {
        let (lines, deed) = (self.place.lines(), |deed: usize| P::deeds().get(deed).map_or("?", |deed| deed.0));
        let line = |line: usize| lines.get(line).map_or("?", |line| line.name);
        match attempt {
            Attempt::Trick(on, trick) => self.say(format_args!("attempt {number}: {}: {trick}", line(on))),
            Attempt::Deed(deed_) => self.say(format_args!("attempt {number}: {}", deed(deed_))),
            Attempt::Letter(letter) => {
                if let Some(letter) = self.place.letter(letter) {
                    self.say(format_args!("attempt {number}: {}: {}", line(letter.line), letter.name));
                }
            }
            other => self.say(format_args!("attempt {number}: {other}")),
        }
    }

    fn report(&self, number: u32, outcome: Outcome) {
        self.set(Count::Owed, 0);
        self.add(match outcome {
            Outcome::Faulted => Count::Faulted,
            Outcome::Refused => Count::Refused,
            Outcome::Harmless => Count::Harmless,
            Outcome::Heard => Count::Heard,
            Outcome::Breach(_) => Count::Breaches,
        });
        self.say(format_args!("attempt {number}: {outcome}"));
    }

    /// Whether the letter is to wait, so that others can be looked at in peace.
    fn pauses(&mut self, number: u32, attempt: Attempt) -> bool {
        let Attempt::Letter(letter) = attempt else { return false };
        let Some(pause) = self.place.letter(letter).map(|letter| letter.pause).filter(|pause| !pause.is_zero()) else {
            return false;
        };
        if self.paused == Some(number) {
            return false;
        }
        self.paused = Some(number);
        self.say(format_args!("a pause of {} s", pause.as_secs()));
        self.due = self.place.clock().now() + pause;
        true
    }

    fn go_on(&mut self) {
        let number = self.get(Count::Next);
        let Some(attempt) = self.attempt(number) else { return };
        if self.pauses(number, attempt) {
            return;
        }
        self.set(Count::Next, number.wrapping_add(1));
        self.set(Count::Owed, 1);
        self.announce(number, attempt);
        match self.make(attempt) {
            Made::Over(outcome) => self.report(number, outcome),
            Made::Sent => self.sent = Some((number, attempt, LOOKS)),
        }
        let pace = if matches!(attempt, Attempt::Slot(_) | Attempt::Arguments(_)) { SLOW_PACE } else { PACE };
        self.due = self.place.clock().now() + pace;
    }

    /// Looks what the peers say to what was sent.
    fn look(&mut self, number: u32, attempt: Attempt, looks: u32) {
        let letter = if let Attempt::Letter(letter) = attempt { Some(letter) } else { None };
        let mut outcome = Outcome::Heard;
        let mut heard = true;
        for (index, line) in self.place.lines().iter().enumerate() {
            heard &= line.is_heard();
            line.hear(|message| {
                if let Err(other) = self.place.heard(index, message, letter)
                    && !matches!(outcome, Outcome::Breach(_))
                {
                    outcome = other;
                }
            });
        }
        self.due = self.place.clock().now() + PACE;
        self.sent = None;
        match (outcome, heard, looks.checked_sub(1)) {
            (Outcome::Heard, false, Some(looks)) => self.sent = Some((number, attempt, looks)),
            (Outcome::Heard, false, None) => self.report(number, Outcome::Breach("a peer does not listen any more")),
            (outcome, ..) => self.report(number, outcome),
        }
    }

    fn finish(&self, attempts: u32) {
        let get = |count| self.get(count);
        self.say(format_args!(
            "done: {attempts} attempts, {} faulted, {} refused, {} taken in, {} without effect; {} operations allowed, {} breaches",
            get(Count::Faulted),
            get(Count::Refused),
            get(Count::Heard),
            get(Count::Harmless),
            get(Count::Allowed),
            get(Count::Breaches)
        ));
    }

    fn make(&mut self, attempt: Attempt) -> Made {
        let breach = |what| Made::Over(Outcome::Breach(what));
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
            Attempt::Call(number) => {
                let (status, words) = probe::system_call(number, [0, 1, 2, 3, 4, 5]);
                (status != Status::BadSystemCall as u64 || words != [0; 2]).then_some("the call was not refused").into()
            }
            Attempt::Slot(slot) => self.slot(slot).into(),
            Attempt::Arguments(slot) => match arguments_on(slot) {
                Some(what) => breach(what),
                None => Made::Over(Outcome::Harmless),
            },
            Attempt::Leftovers => {
                let left = probe::registers_after_call(SYSTEM_CALL_INVOKE, 0, 0);
                if probe::segments() != [0; 4] {
                    return breach("a restart left something in a segment register");
                }
                (left != [0; 6]).then_some("a system call left something in a register").into()
            }
            Attempt::Region(slot, side) => beyond(slot, side),
            Attempt::Hurry => {
                for _ in 0..HURRY {
                    let _ = probe::system_call(SYSTEM_CALL_WAIT, [0; 6]);
                }
                Made::Over(Outcome::Harmless)
            }
            Attempt::Storm(ahead) => {
                storm(self.place.clock().now(), Duration::from_micros(ahead));
                Made::Over(Outcome::Harmless)
            }
            Attempt::Flood => {
                (0..LINES).for_each(|line| self.say(format_args!("flood {line}")));
                Made::Sent
            }
            Attempt::Trick(line, trick) => match self.place.lines().get(line) {
                Some(line) => line.play(trick),
                None => Made::Over(Outcome::Harmless),
            },
            Attempt::Deed(deed) => P::deeds().get(deed).and_then(|(_, deed)| deed(&mut self.place)).into(),
            Attempt::Letter(letter) => {
                if let Some(letter) = self.place.letter(letter)
                    && let Some(line) = self.place.lines().get(letter.line)
                {
                    line.send(&letter.bytes);
                }
                Made::Sent
            }
            Attempt::Spin => {
                self.finish(self.get(Count::Next));
                loop {
                    for ahead in STORMS {
                        spin(self.place.clock());
                        storm(self.place.clock().now(), Duration::from_micros(ahead));
                    }
                }
            }
        }
    }

    /// Every operation on a slot: what is allowed is counted and named, and must be one of the place's.
    fn slot(&self, slot: u64) -> Option<&'static str> {
        let mut breach = None;
        for operation in operations() {
            let (status, words) = probe::system_call(SYSTEM_CALL_INVOKE, [slot, *operation, 0, 0, 0, 0]);
            if status == Status::Done as u64 {
                self.add(Count::Allowed);
                self.say(format_args!("allowed: slot {slot} operation {operation}"));
                if !P::RIGHTS.iter().any(|right| u64::from(*right as u32) == *operation) {
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

/// Spins for [`STORM`], and never waits.
pub(crate) fn spin(clock: &Clock<impl System>) {
    let end = clock.now() + STORM;
    while clock.now() < end {
        (0..1_000).for_each(|_| core::hint::spin_loop());
    }
}

/// For [`STORM`], waits until `ahead` from now as soon as it runs. Returns how often.
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

impl<P: Place> Service for Siege<P> {
    fn notified(&mut self, _: Notifications) {
        if self.place.clock().now() < self.due {
            return;
        }
        if let Some((number, attempt, looks)) = self.sent.take() {
            return self.look(number, attempt, looks);
        }
        if self.get(Count::Owed) != 0 {
            // It began, and this program began anew.
            self.report(self.get(Count::Next).wrapping_sub(1), Outcome::Faulted);
        }
        self.go_on();
    }

    fn deadline(&self) -> Option<Instant> {
        Some(self.due)
    }
}

/// Operations on a slot with arguments of every class: none of them names an object that the slot has.
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
            // An answer that points into the upper half would be the kernel's own; facts and random bits are no pointers.
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

/// Past the ends of a region, or into it as code.
fn beyond(slot: u64, side: Side) -> Made {
    let find = Operation::RegionFind as u32;
    let (_, [base, length]) = probe::system_call(SYSTEM_CALL_INVOKE, [slot, u64::from(find), 0, 0, 0, 0]);
    let length = (length & region::SIZE).next_multiple_of(PAGE_SIZE as u64);
    if length == 0 {
        return Made::Over(Outcome::Harmless);
    }
    match side {
        Side::Below => drop(probe::read(base.wrapping_sub(1))),
        Side::Above => drop(probe::read(base.wrapping_add(length))),
        Side::Inside => probe::execute(base),
    }
    Made::Over(Outcome::Breach("the address was reached"))
}
