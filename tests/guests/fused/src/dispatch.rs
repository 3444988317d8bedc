//! Who runs next, in the program: what the kernel's scheduler does for programs of their own.

use alloc::boxed::Box;

use cloister_interfaces::capability::Clock;
use cloister_interfaces::{Instant, Notifications, Service, System};

use crate::SERVICES;

/// Calls of services until the kernel is asked for events again.
const CALLS: usize = 32;

/// A service and what it waits for.
pub(crate) struct Part {
    service: Box<dyn Service>,
    /// The events that are for it.
    events: Notifications,
    pending: u64,
    deadline: Option<Instant>,
}

impl Part {
    /// A service that begins by looking at everything once.
    pub(crate) fn new(service: Box<dyn Service>, events: Notifications) -> Self {
        Part { service, events, pending: Notifications::ALL.0, deadline: None }
    }
}

/// All services, the first of them first.
pub(crate) struct Fused<S> {
    parts: [Part; SERVICES],
    clock: Clock<S>,
    take_notifications: fn(usize) -> Notifications,
    /// There was more to do than [`CALLS`].
    left_over: bool,
}

impl<S: System> Fused<S> {
    pub(crate) fn new(
        parts: [Part; SERVICES],
        clock: Clock<S>,
        take_notifications: fn(usize) -> Notifications,
    ) -> Self {
        Fused { parts, clock, take_notifications, left_over: false }
    }

    /// Runs the first service that has something to do; whether there was one.
    fn run_one(&mut self, now: Instant) -> bool {
        for (index, part) in self.parts.iter_mut().enumerate() {
            let pending = core::mem::take(&mut part.pending) | (self.take_notifications)(index).0;
            if pending != 0 || part.deadline.is_some_and(|deadline| deadline <= now) {
                part.service.notified(Notifications(pending));
                part.deadline = part.service.deadline();
                return true;
            }
        }
        false
    }
}

impl<S: System> Service for Fused<S> {
    fn notified(&mut self, notifications: Notifications) {
        for part in &mut self.parts {
            part.pending |= notifications.0 & part.events.0;
        }
        let now = self.clock.now();
        self.left_over = (0..CALLS).all(|_| self.run_one(now));
    }

    fn deadline(&self) -> Option<Instant> {
        if self.left_over {
            return Some(Instant::START);
        }
        self.parts.iter().filter_map(|part| part.deadline).min()
    }

    fn events_to_hold(&self) -> Notifications {
        self.parts.iter().fold(Notifications::default(), |all, part| all | part.service.events_to_hold())
    }
}

#[cfg(test)]
mod tests {
    use std::cell::{Cell, RefCell};
    use std::rc::Rc;

    use cloister_caps::{InvokeError, Operation, Slot};

    use super::*;

    thread_local! {
        static BELLS: [Cell<u64>; SERVICES] = const { [const { Cell::new(0) }; SERVICES] };
    }

    fn ring(service: usize) {
        BELLS.with(|bells| bells[service].set(1 << 9));
    }

    fn take_notifications(service: usize) -> Notifications {
        Notifications(BELLS.with(|bells| bells[service].take()))
    }

    /// A clock that stands at 100 ns.
    #[derive(Clone)]
    struct Still;

    impl System for Still {
        fn invoke(&self, _: Slot, _: Operation, _: [u64; 4]) -> Result<[u64; 2], InvokeError> {
            Ok([100, 0])
        }
    }

    /// Which service was told what.
    type Log = Rc<RefCell<Vec<(usize, u64)>>>;

    struct Told {
        number: usize,
        log: Log,
        /// Whose bells it rings, the next time that it runs.
        rings: Vec<usize>,
        deadline: Option<Instant>,
    }

    impl Service for Told {
        fn notified(&mut self, notifications: Notifications) {
            self.log.borrow_mut().push((self.number, notifications.0));
            self.rings.drain(..).for_each(ring);
        }
        fn deadline(&self) -> Option<Instant> {
            self.deadline
        }
        fn events_to_hold(&self) -> Notifications {
            Notifications(1 << self.number)
        }
    }

    /// Services, of which each has the event of its number, after their first run.
    fn fused(change: impl Fn(&mut Told)) -> (Fused<Still>, Log) {
        let log = Log::default();
        let part = |number| {
            let mut told = Told { number, log: log.clone(), rings: Vec::new(), deadline: None };
            change(&mut told);
            Part::new(Box::new(told), Notifications(1 << number))
        };
        let parts = core::array::from_fn(part);
        (Fused::new(parts, Clock::new(Still, Slot(1)), take_notifications), log)
    }

    #[test]
    fn all_run_at_the_start_and_a_bell_is_heard_before_what_comes_after_it() {
        let (mut fused, log) = fused(|told| {
            if told.number == 3 {
                told.rings = vec![5, 1];
            }
        });
        fused.notified(Notifications::ALL);
        let all = u64::MAX;
        assert_eq!(*log.borrow(), [(0, all), (1, all), (2, all), (3, all), (1, 1 << 9), (4, all), (5, all)]);
        assert_eq!((fused.deadline(), fused.events_to_hold()), (None, Notifications(0b11_1111)));
    }

    #[test]
    fn an_event_is_for_its_service_and_a_deadline_for_its_own() {
        let (mut fused, log) = fused(|told| told.deadline = (told.number == 4).then_some(Instant(101)));
        fused.notified(Notifications::ALL);
        log.borrow_mut().clear();
        fused.notified(Notifications(1 << 2));
        assert_eq!(*log.borrow(), [(2, 1 << 2)]);
        assert_eq!(fused.deadline(), Some(Instant(101)));
    }

    #[test]
    fn who_never_ends_leaves_the_kernel_to_be_asked() {
        let (mut fused, log) = fused(|told| told.deadline = (told.number == 1).then_some(Instant(100)));
        fused.notified(Notifications::ALL);
        assert_eq!(log.borrow().len(), CALLS);
        assert_eq!(fused.deadline(), Some(Instant::START));
    }
}
