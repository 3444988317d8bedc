//! The kernel as the services of the program see it: notifications between them stay in the
//! program.

use alloc::boxed::Box;
use core::cell::Cell;

use cloister_caps::{InvokeError, Operation, Slot};
use cloister_interfaces::{Notifications, System};

use crate::SERVICES;

/// The kernel under the program. It handles notifications between services itself, and reads the
/// kernel's clock at most once for each pass.
#[derive(Clone, Copy)]
pub struct Inside<S> {
    kernel: S,
    state: &'static State,
}

#[derive(Default)]
struct State {
    /// The pending notifications of each service.
    pending: [Cell<u64>; SERVICES],
    /// The time of the pass, in ns. 0 until a service reads the clock.
    time: Cell<u64>,
}

/// Returns the slot by which a service of the program sets notification bit `bit` of `service`. The
/// kernel does not know it.
#[must_use]
pub fn notify_slot(service: usize, bit: u8) -> Slot {
    Slot((service as u16) << 6 | u16::from(bit & 63))
}

impl<S: System + Copy> Inside<S> {
    /// Wraps the kernel, with nothing pending.
    #[must_use]
    pub fn new(kernel: S) -> Self {
        Inside { kernel, state: Box::leak(Box::default()) }
    }

    /// Returns the kernel itself, which the bindings find regions with.
    #[must_use]
    pub fn kernel(self) -> S {
        self.kernel
    }

    /// Returns the pending notifications of a service, and clears them.
    pub(crate) fn take_notifications(self, service: usize) -> Notifications {
        Notifications(self.state.pending.get(service).map_or(0, Cell::take))
    }

    /// Forgets the time, so that the next reading comes from the kernel.
    pub(crate) fn begin_pass(self) {
        self.state.time.set(0);
    }
}

impl<S: System + Copy> System for Inside<S> {
    fn invoke(&self, slot: Slot, operation: Operation, arguments: [u64; 4]) -> Result<[u64; 2], InvokeError> {
        match operation {
            Operation::QueueNotify => {
                if let Some(pending) = self.state.pending.get(usize::from(slot.0 >> 6)) {
                    pending.set(pending.get() | 1 << (slot.0 & 63));
                }
                Ok([0; 2])
            }
            Operation::ClockNow => {
                if self.state.time.get() == 0 {
                    let [now, _] = self.kernel.invoke(slot, operation, arguments)?;
                    self.state.time.set(now);
                }
                Ok([self.state.time.get(), 0])
            }
            _ => self.kernel.invoke(slot, operation, arguments),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Counts the system calls. The time is their number.
    #[derive(Clone, Copy)]
    struct Counter(&'static Cell<u64>);

    impl System for Counter {
        fn invoke(&self, _: Slot, _: Operation, _: [u64; 4]) -> Result<[u64; 2], InvokeError> {
            self.0.set(self.0.get() + 1);
            Ok([self.0.get(), 0])
        }
    }

    #[test]
    fn notifications_and_the_time_of_a_pass_need_no_system_call() {
        let calls = &*Box::leak(Box::new(Cell::new(0)));
        let inside = Inside::new(Counter(calls));
        for (service, bit) in [(0, 9), (5, 63), (5, 8)] {
            inside.invoke(notify_slot(service, bit), Operation::QueueNotify, [0; 4]).unwrap();
        }
        let taken: Vec<u64> = (0..SERVICES).map(|service| inside.take_notifications(service).0).collect();
        assert_eq!(taken, [1 << 9, 0, 0, 0, 0, 1 << 63 | 1 << 8]);
        assert_eq!((inside.take_notifications(5).0, calls.get()), (0, 0));
        let now = || inside.invoke(Slot(1), Operation::ClockNow, [0; 4]).unwrap()[0];
        assert_eq!((now(), now()), (1, 1));
        inside.begin_pass();
        assert_eq!((now(), now()), (2, 2));
        inside.invoke(Slot(1), Operation::EntropyDraw, [0; 4]).unwrap();
        assert_eq!(calls.get(), 3);
    }
}
