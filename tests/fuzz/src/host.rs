//! What a service under attack runs over: a kernel that is watched, memory that lies, virtual time, and a limit on what one
//! call may do.

use std::cell::Cell;
use std::rc::Rc;

use cloister_caps::{InvokeError, Operation, Slot};
use cloister_interfaces::{Client, Instant, Interface, Notifications, Server, Service, System};
use cloister_sim::{Recorder, Script, SharedMemory, Tampered, Wires};

use crate::script::Trace;

/// The most that one call of a service may do.
#[derive(Clone, Copy, Debug)]
pub struct Work {
    /// Invocations of the kernel.
    pub invocations: u64,
    /// Reads of memory that a peer writes.
    pub reads: u64,
}

/// A kernel that writes down what it is asked.
#[derive(Clone)]
pub struct Watch {
    recorder: Recorder,
    trace: Trace,
    invocations: Rc<Cell<u64>>,
}

impl System for Watch {
    fn invoke(&self, slot: Slot, operation: Operation, arguments: [u64; 4]) -> Result<[u64; 2], InvokeError> {
        self.invocations.set(self.invocations.get() + 1);
        let answer = self.recorder.invoke(slot, operation, arguments);
        if operation == Operation::ConsoleWrite {
            let bytes: Vec<u8> = arguments.iter().flat_map(|word| word.to_le_bytes()).collect();
            self.trace.record(("console", String::from_utf8_lossy(&bytes).trim_end_matches('\0')));
        } else if operation != Operation::ClockNow {
            self.trace.record((slot.0, operation, arguments, answer));
        }
        answer
    }
}

/// The memory that a service sees.
pub type Seen = Tampered;

/// All that a service runs over.
pub struct Host {
    /// The kernel.
    pub system: Watch,
    /// How it answers.
    pub recorder: Recorder,
    /// What the peers put into shared memory just before it is read.
    pub script: Script,
    now: Cell<u64>,
    most: Work,
}

impl Host {
    /// A host on which no call does more than `most`.
    pub fn new(trace: &Trace, most: Work) -> Self {
        let recorder = Recorder::new();
        let now = 1 << 30;
        recorder.set_now(now);
        let system = Watch { recorder: recorder.clone(), trace: trace.clone(), invocations: Rc::default() };
        Host { system, recorder, script: Script::new(), now: Cell::new(now), most }
    }

    /// The kernel carries out nothing but these operations, and knows the clock, the console and the random source.
    pub fn only(&self, allowed: &'static [Operation]) {
        self.recorder.answer(move |slot, operation, _| {
            assert!(allowed.contains(&operation), "{operation:?} on {slot}, which it does not hold");
            Ok([0; 2])
        });
    }

    /// The memory as the service sees it that some peer writes.
    pub fn theirs(&self, memory: SharedMemory) -> Seen {
        Tampered::new(memory, &self.script)
    }

    /// The service's end of an interface of which it is the server and somebody hostile the client; it is woken by `bit`.
    pub fn server<I: Interface>(&self, wires: &Wires, bit: u8) -> Server<I, Watch, Seen> {
        wires.server(&self.system, bit, Tampered::own, |memory| self.theirs(memory))
    }

    /// The service's end of an interface of which it is the client and somebody hostile the server.
    pub fn client<I: Interface>(&self, wires: &Wires, bit: u8) -> Client<I, Watch, Seen> {
        wires.client(&self.system, bit, Tampered::own, |memory| self.theirs(memory))
    }

    /// The service's end of an interface whose client is honest.
    pub fn honest_server<I: Interface>(&self, wires: &Wires, bit: u8) -> Server<I, Watch, Seen> {
        wires.server(&self.system, bit, Tampered::own, Tampered::own)
    }

    /// The service's end of an interface whose server is honest.
    pub fn honest_client<I: Interface>(&self, wires: &Wires, bit: u8) -> Client<I, Watch, Seen> {
        wires.client(&self.system, bit, Tampered::own, Tampered::own)
    }

    /// The time in ns.
    pub fn now(&self) -> u64 {
        self.now.get()
    }

    /// Lets time pass.
    pub fn pass(&self, nanoseconds: u64) {
        self.now.set(self.now.get().saturating_add(nanoseconds));
        self.recorder.set_now(self.now.get());
    }

    /// Calls the service once.
    ///
    /// # Panics
    /// It does more than it may.
    pub fn call(&self, service: &mut dyn Service) {
        let before = (self.system.invocations.get(), self.script.reads());
        service.notified(Notifications::ALL);
        let done = (self.system.invocations.get() - before.0, self.script.reads() - before.1);
        assert!(done.0 <= self.most.invocations, "{} invocations in one call", done.0);
        assert!(done.1 <= self.most.reads, "{} reads of shared memory in one call", done.1);
        // The recorder remembers what is of no use here.
        let _ = self.recorder.take_calls();
    }

    /// Whether the service wants to run at once.
    pub fn is_due(&self, service: &dyn Service) -> bool {
        service.deadline().is_some_and(|deadline| deadline <= Instant(self.now()))
    }

    /// Calls the service until it wants no more, letting `between` do its part after every call; it says whether it
    /// did anything.
    ///
    /// # Panics
    /// That takes more than `calls`.
    pub fn rest(&self, service: &mut dyn Service, calls: usize, mut between: impl FnMut() -> bool) {
        for _ in 0..calls {
            self.call(service);
            if !between() && !self.is_due(service) {
                return;
            }
        }
        panic!("it does not come to rest in {calls} calls");
    }
}

/// A time that passes: from a microsecond to some minutes.
#[derive(arbitrary::Arbitrary, Clone, Copy, Debug)]
pub struct Pause(u8);

impl Pause {
    /// The time in ns.
    pub fn nanoseconds(self) -> u64 {
        1_000 << (self.0 % 28)
    }
}
