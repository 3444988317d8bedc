//! The prober: a service that tries everything that it must not be able to do.
//!
//! It stands in an application's place under a policy of its own (`policy/prober.toml`). Each attempt is named on the
//! console before it is made. One that faults ends the service; the kernel says so and starts it again, and it goes on with
//! the next, whose number it keeps in a region that survives restarts. One that comes back unharmed is a `BREACH`.
#![cfg_attr(not(test), no_std)]
#![forbid(unsafe_code)]

mod attempt;

use core::sync::atomic::AtomicU32;
use core::time::Duration;

use cloister_caps::abi::SYSTEM_CALL_INVOKE;
use cloister_caps::abi::info::HISTORY;
use cloister_caps::{Operation, Status};
use cloister_interfaces::capability::{Clock, Console, Info};
use cloister_interfaces::{Client, Instant, Memory, Notifications, Service, System, socket};
use cloister_runtime::probe;

use crate::attempt::{Attempt, Attempts, arguments, operations};

const NOTIFY: u64 = Operation::QueueNotify as u64;
const WRITE: u64 = Operation::ConsoleWrite as u64;
const INFO: u64 = Operation::InfoRead as u64;
/// `-EPERM`: Xen's answer to a hypercall from ring 3.
const NOT_PERMITTED: i64 = -1;
/// The lowest address of the upper half.
const UPPER_HALF: u64 = 0xFFFF_8000_0000_0000;

/// Time between two attempts, so that the console keeps up with the kernel's refusals.
const PACE: Duration = Duration::from_millis(40);
/// Wake-ups of the storm.
const STORM: u32 = 20_000;
/// How long the spin lasts, and its rounds between two looks at the clock: long enough for a timer to be all that can
/// take the processor away.
const SPIN: Duration = Duration::from_secs(16);
const ROUNDS: u64 = 100_000_000;

/// Where the number of the next attempt is in the progress region.
const NEXT: usize = 0;
/// Where the number of operations that were allowed is.
const ALLOWED: usize = 4;
/// Where the number of breaches is.
const BREACHES: usize = 8;

/// Lies in writable data: its address is one that must not be executable.
static MARK: AtomicU32 = AtomicU32::new(0);

/// The prober's capabilities.
pub struct Caps<S, M> {
    /// Says what is tried.
    pub console: Console<S>,
    /// Paces the attempts.
    pub clock: Clock<S>,
    /// Tells how often the service was restarted.
    pub info: Info<S>,
    /// An application's queue, unused but for the storm of wake-ups.
    pub socket: Client<socket::Socket, S, M>,
    /// The stream region of an application, unused.
    pub stream_in: M,
    /// The stream region of an application, unused.
    pub stream_out: M,
    /// What survives restarts.
    pub prober_progress: M,
}

/// The prober over these capabilities.
pub fn service<S: System + 'static, M: Memory + 'static>(caps: Caps<S, M>) -> impl Service {
    Prober { caps, due: Some(Instant::START) }
}

struct Prober<S, M> {
    caps: Caps<S, M>,
    due: Option<Instant>,
}

impl<S: System, M: Memory> Service for Prober<S, M> {
    fn notified(&mut self, _: Notifications) {
        let now = self.caps.clock.now();
        if self.due.is_none_or(|due| now < due) {
            return;
        }
        let text = MARK.as_ptr() as u64;
        let attempts =
            Attempts::new(operations as fn() -> &'static [u64] as usize as u64, text, operations().as_ptr() as u64);
        let number = self.caps.prober_progress.load(NEXT);
        self.caps.prober_progress.store(NEXT, number.wrapping_add(1));
        match attempts.all().nth(number as usize) {
            Some(attempt) => {
                self.caps.console.line(format_args!("attempt {number}: {attempt}"));
                if let Some(what) = self.make(attempt) {
                    self.count(BREACHES, 1);
                    self.caps.console.line(format_args!("BREACH by attempt {number}: {what}"));
                }
                self.due = Some(self.caps.clock.now() + PACE);
            }
            None => {
                self.finish(number);
                self.due = None;
            }
        }
    }

    fn deadline(&self) -> Option<Instant> {
        self.due
    }
}

impl<S: System, M: Memory> Prober<S, M> {
    fn count(&self, counter: usize, by: u32) {
        let progress = &self.caps.prober_progress;
        progress.store(counter, progress.load(counter).wrapping_add(by));
    }

    fn finish(&self, attempts: u32) {
        let [restarts, refusals] = self.caps.info.read(HISTORY).unwrap_or_default();
        let progress = &self.caps.prober_progress;
        self.caps.console.line(format_args!(
            "done: {attempts} attempts, {restarts} restarts, {refusals} refusals, {} allowed, {} breaches",
            progress.load(ALLOWED),
            progress.load(BREACHES)
        ));
    }

    /// Makes an attempt; answers what was breached, if anything was.
    fn make(&mut self, attempt: Attempt) -> Option<&'static str> {
        match attempt {
            Attempt::Instruction(_, instruction) => {
                instruction();
                Some("the instruction was executed")
            }
            Attempt::Hypercall(_, call) => (call() != NOT_PERMITTED).then_some("Xen took a hypercall"),
            Attempt::Read(_, address) => {
                let _ = probe::read(address);
                Some("the address was read")
            }
            Attempt::Write(_, address) => {
                probe::write(address, 0);
                Some("the address was written")
            }
            Attempt::Execute(_, address) => {
                probe::execute(address);
                Some("the address was executed")
            }
            Attempt::Call(number) => {
                let (status, words) = probe::system_call(number, [0, 1, 2, 3, 4, 5]);
                (status != Status::BadSystemCall as u64 || words != [0; 2]).then_some("the call was not refused")
            }
            Attempt::Slot(slot) => self.slot(slot),
            Attempt::Arguments(slot) => self.arguments(slot),
            Attempt::Leftovers => {
                let left = probe::leftovers(SYSTEM_CALL_INVOKE, 0, 0);
                (left != [0; 6]).then_some("a system call left something in a register")
            }
            Attempt::NotifyStorm => {
                let slot = self.caps.socket.requests.slot();
                for _ in 0..STORM {
                    let _ = probe::system_call(SYSTEM_CALL_INVOKE, [u64::from(slot.0), NOTIFY, 0, 0, 0, 0]);
                }
                None
            }
            Attempt::Spin => {
                let until = self.caps.clock.now() + SPIN;
                while self.caps.clock.now() < until {
                    for round in 0..ROUNDS {
                        core::hint::black_box(round);
                    }
                }
                None
            }
        }
    }

    /// Every operation on a slot: what is allowed is counted and named, for the harness to hold against the policy.
    fn slot(&self, slot: u64) -> Option<&'static str> {
        for operation in operations() {
            let (status, words) = probe::system_call(SYSTEM_CALL_INVOKE, [slot, *operation, 0, 0, 0, 0]);
            if status == Status::Done as u64 {
                self.count(ALLOWED, 1);
                self.caps.console.line(format_args!("allowed: slot {slot} operation {operation}"));
            } else if words != [0; 2] {
                return Some("a refusal answered something");
            }
        }
        None
    }

    /// Operations on a slot with arguments of every class: none of them names an object that the slot has.
    fn arguments(&self, slot: u64) -> Option<&'static str> {
        for operation in operations() {
            let (status, _) = probe::system_call(SYSTEM_CALL_INVOKE, [slot, *operation, 0, 0, 0, 0]);
            if status != Status::Done as u64 || *operation == WRITE {
                continue;
            }
            for argument in arguments() {
                let (_, words) = probe::system_call(
                    SYSTEM_CALL_INVOKE,
                    [slot, *operation, *argument, *argument, *argument, *argument],
                );
                // An answer that points into the upper half would be the kernel's own.
                if *operation != INFO && words[0] >= UPPER_HALF {
                    return Some("an answer holds a kernel address");
                }
            }
        }
        None
    }
}
