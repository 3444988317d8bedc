//! Who runs: fixed priorities, and a CPU budget for each service.
//!
//! Of the services that have something to do and budget left, the one of the highest priority runs. Time is counted
//! in windows of the service's period; past its budget a service waits for the next window, whatever its priority, and pays back what it used beyond it.

use cloister_caps::tables::{MAX_SERVICES, Tables};

/// The most that a service owes, in budgets. What is beyond it, the machine stood still, and the service did not run.
const MOST_OWED: u64 = 4;

/// What a service is doing.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum State {
    /// It has something to do.
    Ready,
    /// It waits for a notification, or for the clock to reach this many ns (`u64::MAX`: for a notification only).
    Waiting(u64),
    /// It was stopped for good.
    Stopped,
}

#[derive(Clone, Copy, Debug)]
struct Entry {
    state: State,
    priority: u8,
    budget: u64,
    period: u64,
    /// When the present window ends.
    end: u64,
    used: u64,
    total: u64,
}

impl Entry {
    /// What no service is.
    const NONE: Entry = Entry { state: State::Stopped, priority: 0, budget: 1, period: 1, end: 0, used: 0, total: 0 };
}

/// What to do next.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Next {
    /// The service to run; none is idleness.
    pub service: Option<u8>,
    /// When to look again at the latest, in ns; `u64::MAX` is never.
    pub timer: u64,
}

/// The scheduler.
#[derive(Clone, Debug)]
pub struct Scheduler {
    entries: [Entry; MAX_SERVICES],
    /// Services by falling priority.
    order: [u8; MAX_SERVICES],
    count: usize,
}

impl Scheduler {
    /// A scheduler of the services in the tables, all ready.
    #[must_use]
    pub fn new(tables: &Tables<'_>) -> Scheduler {
        let mut scheduler = Scheduler { entries: [Entry::NONE; MAX_SERVICES], order: [0; MAX_SERVICES], count: 0 };
        for (entry, service) in scheduler.entries.iter_mut().zip(tables.services().iter()) {
            entry.state = State::Ready;
            entry.priority = service.priority;
            entry.budget = u64::from(service.budget_us) * 1_000;
            entry.period = u64::from(service.period_us) * 1_000;
        }
        for (index, service) in tables.services().iter().enumerate().take(MAX_SERVICES) {
            // Behind those that are as urgent.
            let before = |other: &u8| scheduler.entries[usize::from(*other)].priority >= service.priority;
            let place = scheduler.order[..index].partition_point(before);
            scheduler.order[index] = index as u8;
            scheduler.order[place..=index].rotate_right(1);
            scheduler.count += 1;
        }
        scheduler
    }

    /// What a service is doing; one that does not exist is stopped.
    #[must_use]
    pub fn state(&self, service: u8) -> State {
        self.entries.get(usize::from(service)).map_or(State::Stopped, |entry| entry.state)
    }

    /// Changes what a service is doing. A stopped one stays stopped.
    pub fn set_state(&mut self, service: u8, state: State) {
        if let Some(entry) = self.entries.get_mut(usize::from(service))
            && entry.state != State::Stopped
        {
            entry.state = state;
        }
    }

    /// Something came for a service: if it waits, it is ready.
    pub fn wake(&mut self, service: u8) {
        if let Some(entry) = self.entries.get_mut(usize::from(service))
            && matches!(entry.state, State::Waiting(_))
        {
            entry.state = State::Ready;
        }
    }

    /// Charges a service for `elapsed` ns that end at `now`.
    pub fn charge(&mut self, service: u8, elapsed: u64, now: u64) {
        if let Some(entry) = self.entries.get_mut(usize::from(service)) {
            entry.renew(now);
            entry.used = entry.used.saturating_add(elapsed);
            entry.total = entry.total.saturating_add(elapsed);
        }
    }

    /// CPU time that a service has used in all, in ns.
    #[must_use]
    pub fn total(&self, service: u8) -> u64 {
        self.entries.get(usize::from(service)).map_or(0, |entry| entry.total)
    }

    /// Chooses who runs at `now`, and when to choose again.
    pub fn next(&mut self, now: u64) -> Next {
        let mut next = Next { service: None, timer: u64::MAX };
        for position in 0..self.count {
            let index = self.order[position];
            let entry = &mut self.entries[usize::from(index)];
            entry.renew(now);
            if matches!(entry.state, State::Waiting(deadline) if deadline <= now) {
                entry.state = State::Ready;
            }
            match entry.state {
                State::Waiting(deadline) => next.timer = next.timer.min(deadline),
                State::Stopped => {}
                State::Ready if entry.used >= entry.budget => next.timer = next.timer.min(entry.end),
                State::Ready if next.service.is_none() => {
                    next.service = Some(index);
                    next.timer = next.timer.min(now + (entry.budget - entry.used));
                }
                State::Ready => {}
            }
        }
        next
    }
}

impl Entry {
    /// Begins a new window if `now` lies in one. What was used beyond the budget, because a timer came late, is owed:
    /// so the share holds over time whatever the machine's timers do.
    fn renew(&mut self, now: u64) {
        if now < self.end {
            return;
        }
        let passed = (now - self.end) / self.period + 1;
        self.used = self.used.saturating_sub(self.budget.saturating_mul(passed)).min(self.budget * MOST_OWED);
        self.end = (now / self.period + 1).saturating_mul(self.period);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn scheduler(services: &[(u8, u64, u64)]) -> Scheduler {
        let idle = Entry { end: 100, ..Entry::NONE };
        let mut scheduler =
            Scheduler { entries: [idle; MAX_SERVICES], order: [0; MAX_SERVICES], count: services.len() };
        for (index, (priority, budget, period)) in services.iter().enumerate() {
            scheduler.entries[index] =
                Entry { state: State::Ready, priority: *priority, budget: *budget, period: *period, ..idle };
            scheduler.order[index] = index as u8;
        }
        let entries = &scheduler.entries;
        scheduler.order[..services.len()].sort_by_key(|index| u8::MAX - entries[usize::from(*index)].priority);
        scheduler
    }

    #[test]
    fn the_highest_priority_that_is_ready_runs() {
        let mut scheduler = scheduler(&[(1, 50, 100), (9, 50, 100)]);
        assert_eq!(scheduler.next(0).service, Some(1));
        scheduler.set_state(1, State::Waiting(70));
        assert_eq!(scheduler.next(0), Next { service: Some(0), timer: 50 });
        assert_eq!(scheduler.next(70).service, Some(1));
        scheduler.set_state(1, State::Waiting(u64::MAX));
        scheduler.wake(1);
        assert_eq!(scheduler.next(71).service, Some(1));
    }

    #[test]
    fn a_spinning_service_is_held_to_its_budget() {
        let mut scheduler = scheduler(&[(1, 100, 100), (9, 30, 100)]);
        assert_eq!(scheduler.next(0), Next { service: Some(1), timer: 30 });
        scheduler.charge(1, 30, 30);
        assert_eq!(scheduler.next(30), Next { service: Some(0), timer: 100 });
        scheduler.charge(0, 70, 100);
        assert_eq!(scheduler.next(100).service, Some(1));
        assert_eq!(scheduler.total(1), 30);
    }

    #[test]
    fn what_a_late_timer_gave_is_paid_back() {
        let mut scheduler = scheduler(&[(9, 30, 100)]);
        assert_eq!(scheduler.next(0).timer, 30);
        scheduler.charge(0, 75, 75);
        assert_eq!(scheduler.next(75), Next { service: None, timer: 100 });
        assert_eq!(scheduler.next(100), Next { service: None, timer: 200 });
        assert_eq!(scheduler.next(200), Next { service: Some(0), timer: 215 });
        assert_eq!(scheduler.next(1000), Next { service: Some(0), timer: 1030 });
    }

    #[test]
    fn a_stall_of_the_machine_does_not_starve_who_ran() {
        let mut scheduler = scheduler(&[(9, 30, 100)]);
        scheduler.charge(0, 1_000_000, 50);
        assert_eq!(scheduler.next(100), Next { service: None, timer: 200 });
        assert_eq!(scheduler.next(100 + 100 * MOST_OWED).service, Some(0));
    }

    #[test]
    fn the_stopped_stay_stopped() {
        let mut scheduler = scheduler(&[(1, 10, 10)]);
        scheduler.set_state(0, State::Stopped);
        scheduler.wake(0);
        scheduler.set_state(0, State::Ready);
        assert_eq!(scheduler.next(5), Next { service: None, timer: u64::MAX });
        assert_eq!(scheduler.state(200), State::Stopped);
    }

    proptest! {
        /// Every service that always wants to run gets no more than its budget and one timer's overshoot in each window,
        /// and time passes.
        #[test]
        fn budgets_hold(services in prop::collection::vec((1_u8..5, 1_u64..50), 1..6)) {
            let services: Vec<_> = services.into_iter().map(|(priority, budget)| (priority, budget, 100)).collect();
            let mut scheduler = scheduler(&services);
            let (mut now, mut used) = (0, vec![0; services.len()]);
            while now < 100 {
                let next = scheduler.next(now);
                prop_assert!(next.timer > now);
                let until = next.timer.min(100);
                if let Some(service) = next.service {
                    used[usize::from(service)] += until - now;
                    scheduler.charge(service, until - now, until);
                }
                now = until;
            }
            for (used, (_, budget, _)) in used.iter().zip(&services) {
                prop_assert!(used <= budget);
            }
        }
    }
}
