//! The environment of a service under attack: a recorded kernel, memory that lies, virtual time,
//! and a limit for the work of one call.

use std::cell::Cell;
use std::rc::Rc;

use cloister_caps::{InvokeError, Operation, Slot};
use cloister_interfaces::{Client, Instant, Interface, Notifications, Server, Service, System};
use cloister_sim::{ChannelMemory, Recorder, Script, SharedMemory, Tampered};

use crate::script::Trace;

/// The limits of one call of a service.
#[derive(Clone, Copy, Debug)]
pub struct Work {
    /// The largest number of invocations of the kernel.
    pub invocations: u64,
    /// The largest number of reads of memory that a peer writes.
    pub reads: u64,
}

/// A kernel that records its invocations.
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

/// The environment of a service.
pub struct Host {
    /// The kernel.
    pub system: Watch,
    /// Its answers.
    pub recorder: Recorder,
    /// The writes of the peers to shared memory just before it is read.
    pub script: Script,
    now: Cell<u64>,
    most: Work,
}

impl Host {
    /// Creates a host on which no call may do more than `most`.
    pub fn new(trace: &Trace, most: Work) -> Self {
        let recorder = Recorder::new();
        let now = 1 << 30;
        recorder.set_now(now);
        let system = Watch { recorder: recorder.clone(), trace: trace.clone(), invocations: Rc::default() };
        Host { system, recorder, script: Script::new(), now: Cell::new(now), most }
    }

    /// Makes any operation fail the test, except these and those of the clock, the console and the
    /// random source.
    pub fn only(&self, allowed: &'static [Operation]) {
        self.recorder.answer(move |slot, operation, _| {
            assert!(allowed.contains(&operation), "{operation:?} on {slot}, which it does not hold");
            Ok([0; 2])
        });
    }

    /// Returns the service's view of memory that a peer writes.
    pub fn theirs(&self, memory: SharedMemory) -> Seen {
        Tampered::new(memory, &self.script)
    }

    /// Returns the service's end of an interface that it serves to a hostile client. Notification
    /// `bit` is for the service.
    pub fn server<I: Interface>(&self, channel: &ChannelMemory, bit: u8) -> Server<I, Watch, Seen> {
        channel.server(&self.system, bit, Tampered::own, |memory| self.theirs(memory))
    }

    /// Returns the service's end of an interface that it uses from a hostile server.
    pub fn client<I: Interface>(&self, channel: &ChannelMemory, bit: u8) -> Client<I, Watch, Seen> {
        channel.client(&self.system, bit, Tampered::own, |memory| self.theirs(memory))
    }

    /// Returns the service's end of an interface with an honest client.
    pub fn honest_server<I: Interface>(&self, channel: &ChannelMemory, bit: u8) -> Server<I, Watch, Seen> {
        channel.server(&self.system, bit, Tampered::own, Tampered::own)
    }

    /// Returns the service's end of an interface with an honest server.
    pub fn honest_client<I: Interface>(&self, channel: &ChannelMemory, bit: u8) -> Client<I, Watch, Seen> {
        channel.client(&self.system, bit, Tampered::own, Tampered::own)
    }

    /// Returns the time in ns.
    pub fn now(&self) -> u64 {
        self.now.get()
    }

    /// Advances the clock.
    pub fn pass(&self, nanoseconds: u64) {
        self.now.set(self.now.get().saturating_add(nanoseconds));
        self.recorder.set_now(self.now.get());
    }

    /// Calls the service once.
    ///
    /// # Panics
    /// It does more than the limit.
    pub fn call(&self, service: &mut dyn Service) {
        let before = (self.system.invocations.get(), self.script.reads());
        service.notified(Notifications::ALL);
        let done = (self.system.invocations.get() - before.0, self.script.reads() - before.1);
        assert!(done.0 <= self.most.invocations, "{} invocations in one call", done.0);
        assert!(done.1 <= self.most.reads, "{} reads of shared memory in one call", done.1);
        // Drops records that no test reads.
        let _ = self.recorder.take_calls();
    }

    /// Returns `true` if the service's deadline has passed.
    pub fn is_due(&self, service: &dyn Service) -> bool {
        service.deadline().is_some_and(|deadline| deadline <= Instant(self.now()))
    }

    /// Calls the service until it has nothing more to do, and `between` after every call. `between`
    /// returns `true` if it did anything.
    ///
    /// # Panics
    /// This takes more than `calls` calls.
    pub fn settle(&self, service: &mut dyn Service, calls: usize, mut between: impl FnMut() -> bool) {
        for _ in 0..calls {
            self.call(service);
            if !between() && !self.is_due(service) {
                return;
            }
        }
        panic!("the service does not settle in {calls} calls");
    }
}

/// A duration from a microsecond to some minutes.
#[derive(arbitrary::Arbitrary, Clone, Copy, Debug)]
pub struct Pause(u8);

impl Pause {
    /// Returns the duration in ns.
    pub fn nanoseconds(self) -> u64 {
        1_000 << (self.0 % 28)
    }
}
