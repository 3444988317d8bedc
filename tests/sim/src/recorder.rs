//! A [`System`] for tests of one service: a closure answers, and every invocation is recorded.

use std::cell::{Cell, RefCell};
use std::rc::Rc;

use cloister_caps::{InvokeError, Operation, Slot};
use cloister_interfaces::System;

/// An invocation: slot, operation, arguments.
pub type Call = (Slot, Operation, [u64; 4]);
type Handler = dyn FnMut(Slot, Operation, [u64; 4]) -> Result<[u64; 2], InvokeError>;

/// What the console has taken.
#[derive(Default)]
struct Output {
    text: RefCell<String>,
    drops_lines: Cell<bool>,
}

/// A system whose answers a test chooses. Without a handler, the clock returns the time of
/// [`Recorder::set_now`], random draws return a counter, and all else returns zeros.
#[derive(Clone)]
pub struct Recorder {
    calls: Rc<RefCell<Vec<Call>>>,
    output: Rc<Output>,
    now: Rc<Cell<u64>>,
    reads: Rc<Cell<u64>>,
    draws: Rc<Cell<u64>>,
    handler: Rc<RefCell<Option<Box<Handler>>>>,
}

impl Default for Recorder {
    fn default() -> Self {
        Recorder {
            calls: Rc::default(),
            output: Rc::default(),
            now: Rc::new(Cell::new(1_000_000_000)),
            reads: Rc::default(),
            draws: Rc::default(),
            handler: Rc::default(),
        }
    }
}

impl Recorder {
    /// Creates a system with the default answers.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    /// Answers every invocation with `handler`, except those of console, clock and entropy.
    pub fn answer(&self, handler: impl FnMut(Slot, Operation, [u64; 4]) -> Result<[u64; 2], InvokeError> + 'static) {
        *self.handler.borrow_mut() = Some(Box::new(handler));
    }

    /// Sets the monotonic clock, in ns.
    pub fn set_now(&self, nanoseconds: u64) {
        self.now.set(nanoseconds);
    }

    /// Returns the number of times that a clock was read.
    #[must_use]
    pub fn clock_reads(&self) -> u64 {
        self.reads.get()
    }

    /// Returns the invocations so far, except those of console, clock and entropy, and forgets
    /// them.
    #[must_use]
    pub fn take_calls(&self) -> Vec<Call> {
        self.calls.take()
    }

    /// Makes the console drop all that is written from now on, and say so, or print it.
    pub fn drop_lines(&self, drop: bool) {
        self.output.drops_lines.set(drop);
    }

    /// Returns what was written to the console since the last call.
    #[must_use]
    pub fn take_console(&self) -> String {
        self.output.text.take()
    }

    /// Returns all that was written to the console.
    #[must_use]
    pub fn console(&self) -> String {
        self.output.text.borrow().clone()
    }
}

impl System for Recorder {
    fn invoke(&self, slot: Slot, operation: Operation, arguments: [u64; 4]) -> Result<[u64; 2], InvokeError> {
        match operation {
            Operation::ConsoleWrite if self.output.drops_lines.get() => Ok([1, 0]),
            Operation::ConsoleWrite => {
                let bytes: Vec<u8> =
                    arguments.iter().flat_map(|word| word.to_le_bytes()).take_while(|byte| *byte != 0).collect();
                self.output.text.borrow_mut().push_str(&String::from_utf8_lossy(&bytes));
                Ok([0; 2])
            }
            Operation::ClockNow | Operation::ClockWall => {
                self.reads.set(self.reads.get() + 1);
                Ok([self.now.get(), 0])
            }
            Operation::EntropyDraw => {
                self.draws.set(self.draws.get() + 1);
                Ok([self.draws.get(), self.draws.get().wrapping_mul(0x9E37_79B9_7F4A_7C15)])
            }
            other => {
                self.calls.borrow_mut().push((slot, other, arguments));
                match self.handler.borrow_mut().as_mut() {
                    Some(handler) => handler(slot, other, arguments),
                    None => Ok([0; 2]),
                }
            }
        }
    }
}
