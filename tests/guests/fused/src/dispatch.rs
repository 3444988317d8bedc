//! Decides which service of the program runs next, as the kernel's scheduler does for separate
//! programs.

use alloc::boxed::Box;

use cloister_interfaces::capability::Clock;
use cloister_interfaces::{Instant, Notifications, Service, System};

use crate::{Inside, SERVICES};

/// The largest number of calls of services between two requests to the kernel for events.
const CALLS: usize = 32;

/// A service and what it waits for.
pub(crate) struct Member {
    service: Box<dyn Service>,
    /// The events of its ports.
    events: Notifications,
    pending: u64,
    deadline: Option<Instant>,
}

impl Member {
    /// Creates a member that checks everything once when it first runs.
    pub(crate) fn new(service: Box<dyn Service>, events: Notifications) -> Self {
        Member { service, events, pending: Notifications::ALL.0, deadline: None }
    }
}

/// All services, by falling priority.
pub(crate) struct Fused<S> {
    members: [Member; SERVICES],
    clock: Clock<Inside<S>>,
    inside: Inside<S>,
    /// `true` if there was more to do than [`CALLS`].
    left_over: bool,
}

impl<S: System + Copy> Fused<S> {
    pub(crate) fn new(members: [Member; SERVICES], clock: Clock<Inside<S>>, inside: Inside<S>) -> Self {
        Fused { members, clock, inside, left_over: false }
    }

    /// Runs the first service that has something to do. Returns `true` if there was one.
    fn run_one(&mut self, now: Instant) -> bool {
        for (index, member) in self.members.iter_mut().enumerate() {
            let pending = core::mem::take(&mut member.pending) | self.inside.take_notifications(index).0;
            if pending != 0 || member.deadline.is_some_and(|deadline| deadline <= now) {
                member.service.notified(Notifications(pending));
                member.deadline = member.service.deadline();
                return true;
            }
        }
        false
    }
}

impl<S: System + Copy> Service for Fused<S> {
    fn notified(&mut self, notifications: Notifications) {
        self.inside.begin_pass();
        for member in &mut self.members {
            member.pending |= notifications.0 & member.events.0;
        }
        let now = self.clock.now();
        self.left_over = (0..CALLS).all(|_| self.run_one(now));
    }

    fn deadline(&self) -> Option<Instant> {
        if self.left_over {
            return Some(Instant::START);
        }
        self.members.iter().filter_map(|member| member.deadline).min()
    }

    fn events_to_hold(&self) -> Notifications {
        self.members.iter().fold(Notifications::default(), |all, member| all | member.service.events_to_hold())
    }
}

#[cfg(test)]
mod tests {
    use std::cell::RefCell;
    use std::rc::Rc;

    use cloister_caps::{InvokeError, Operation, Slot};

    use super::*;
    use crate::notify_slot;

    /// A kernel whose clock always shows 100 ns.
    #[derive(Clone, Copy)]
    struct Stopped;

    impl System for Stopped {
        fn invoke(&self, _: Slot, _: Operation, _: [u64; 4]) -> Result<[u64; 2], InvokeError> {
            Ok([100, 0])
        }
    }

    /// The notifications of each run, with the number of the service.
    type Log = Rc<RefCell<Vec<(usize, u64)>>>;

    struct Recorder {
        number: usize,
        log: Log,
        inside: Inside<Stopped>,
        /// The services that it notifies when it next runs.
        notifies: Vec<usize>,
        deadline: Option<Instant>,
    }

    impl Service for Recorder {
        fn notified(&mut self, notifications: Notifications) {
            self.log.borrow_mut().push((self.number, notifications.0));
            for service in self.notifies.drain(..) {
                self.inside.invoke(notify_slot(service, 9), Operation::QueueNotify, [0; 4]).unwrap();
            }
        }
        fn deadline(&self) -> Option<Instant> {
            self.deadline
        }
        fn events_to_hold(&self) -> Notifications {
            Notifications(1 << self.number)
        }
    }

    /// Makes services, each with the event of its number, and changes each with `change`.
    fn fused(change: impl Fn(&mut Recorder)) -> (Fused<Stopped>, Log) {
        let (log, inside) = (Log::default(), Inside::new(Stopped));
        let member = |number| {
            let mut recorder = Recorder { number, log: log.clone(), inside, notifies: Vec::new(), deadline: None };
            change(&mut recorder);
            Member::new(Box::new(recorder), Notifications(1 << number))
        };
        (Fused::new(core::array::from_fn(member), Clock::new(inside, Slot(1)), inside), log)
    }

    #[test]
    fn all_run_at_the_start_and_a_notified_service_runs_before_those_below_it() {
        let (mut fused, log) = fused(|recorder| {
            if recorder.number == 3 {
                recorder.notifies = vec![5, 1];
            }
        });
        fused.notified(Notifications::ALL);
        let all = u64::MAX;
        assert_eq!(*log.borrow(), [(0, all), (1, all), (2, all), (3, all), (1, 1 << 9), (4, all), (5, all)]);
        assert_eq!((fused.deadline(), fused.events_to_hold()), (None, Notifications(0b11_1111)));
    }

    #[test]
    fn an_event_is_for_its_service_and_a_deadline_for_its_own() {
        let (mut fused, log) = fused(|recorder| recorder.deadline = (recorder.number == 4).then_some(Instant(101)));
        fused.notified(Notifications::ALL);
        log.borrow_mut().clear();
        fused.notified(Notifications(1 << 2));
        assert_eq!(*log.borrow(), [(2, 1 << 2)]);
        assert_eq!(fused.deadline(), Some(Instant(101)));
    }

    #[test]
    fn a_service_that_never_ends_does_not_keep_the_program_from_asking_the_kernel() {
        let (mut fused, log) = fused(|recorder| recorder.deadline = (recorder.number == 1).then_some(Instant(100)));
        fused.notified(Notifications::ALL);
        assert_eq!(log.borrow().len(), CALLS);
        assert_eq!(fused.deadline(), Some(Instant::START));
    }
}
