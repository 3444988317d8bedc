//! Who runs: fixed priorities, and a CPU budget for each service.
//!
//! Of the services that have something to do and budget left, the one of the highest priority runs. Time is counted
//! in windows of the service's period; past its budget a service waits for the next window, whatever its priority, and pays back what it used beyond it.

use cloister_caps::tables::{MAX_SERVICES, Tables};
use static_assertions::const_assert;

/// The most that a service owes: this many budgets, or this many ns if that is more. Only a stall of the machine makes a
/// larger debt, and the rest of it is forgiven. A service that runs on until the timer fires always owes less, so a small
/// budget gains nothing by the limit.
const MOST_OWED: (u64, u64) = (4, 1_000_000);

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
    /// How many services are more urgent: its bit among those that are ready.
    place: u8,
    budget: u64,
    period: u64,
    /// When the present window ends.
    end: u64,
    used: u64,
    /// What `used` is at most: the rest of a debt is forgiven.
    limit: u64,
    total: u64,
}

impl Entry {
    /// What no service is.
    const NONE: Entry =
        Entry { state: State::Stopped, place: 0, budget: 1, period: 1, end: 0, used: 0, limit: u64::MAX, total: 0 };
}

/// What to do next.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Next {
    /// The service to run; none is idleness.
    pub service: Option<u8>,
    /// When the budget of the service ends, or a more urgent one that is ready has budget again.
    pub budget: Alarm,
    /// When the time comes that a more urgent one waits for.
    pub deadline: Alarm,
}

/// A time to choose again.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Alarm {
    /// The time, in ns; `u64::MAX` is never.
    pub at: u64,
    /// The service that it is for; none is the one that runs.
    pub owner: Option<u8>,
}

impl Alarm {
    /// What never comes.
    pub const NEVER: Alarm = Alarm { at: u64::MAX, owner: None };

    /// Returns the earlier one, of equal ones this one.
    #[must_use]
    pub fn or_sooner(self, other: Alarm) -> Alarm {
        if other.at < self.at { other } else { self }
    }
}

/// The scheduler.
#[derive(Clone, Debug)]
pub struct Scheduler {
    entries: [Entry; MAX_SERVICES],
    /// Services by falling priority.
    order: [u8; MAX_SERVICES],
    /// The places of those that are ready, or wait for a time.
    active: u16,
}

const_assert!(MAX_SERVICES <= u16::BITS as usize);

impl Scheduler {
    /// A scheduler of the services in the tables, all ready.
    #[must_use]
    pub fn new(tables: &Tables<'_>) -> Scheduler {
        let in_ns = |us: u32| u64::from(us) * 1_000;
        let services = tables.services();
        Self::of(services.iter().map(|one| (one.priority, in_ns(one.budget_us), in_ns(one.period_us))))
    }

    /// A scheduler of services with these priorities, budgets and periods.
    pub(crate) fn of(services: impl Iterator<Item = (u8, u64, u64)>) -> Scheduler {
        let (entries, order) = ([Entry::NONE; MAX_SERVICES], [0; MAX_SERVICES]);
        let mut scheduler = Scheduler { entries, order, active: 0 };
        let mut priorities = [0; MAX_SERVICES];
        for (index, (priority, budget, period)) in services.enumerate().take(MAX_SERVICES) {
            priorities[index] = priority;
            let limit = budget.saturating_add(budget.saturating_mul(MOST_OWED.0).max(MOST_OWED.1));
            scheduler.entries[index] = Entry { state: State::Ready, budget, period, limit, ..Entry::NONE };
            scheduler.active |= 1 << index;
            // Behind those that are as urgent.
            let before = |other: &u8| priorities[usize::from(*other)] >= priority;
            let place = scheduler.order[..index].partition_point(before);
            scheduler.order[index] = index as u8;
            scheduler.order[place..=index].rotate_right(1);
        }
        for (place, index) in scheduler.order.into_iter().enumerate().take(scheduler.active.count_ones() as usize) {
            scheduler.entries[usize::from(index)].place = place as u8;
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
        let Some(entry) = self.entries.get_mut(usize::from(service)) else { return };
        if entry.state == State::Stopped {
            return;
        }
        entry.state = state;
        let bit = 1 << (entry.place & 15);
        let active = !matches!(state, State::Stopped | State::Waiting(u64::MAX));
        self.active = if active { self.active | bit } else { self.active & !bit };
    }

    /// Something came for a service: if it waits, it is ready.
    pub fn wake(&mut self, service: u8) {
        if matches!(self.state(service), State::Waiting(_)) {
            self.set_state(service, State::Ready);
        }
    }

    /// Charges a service for `elapsed` ns that end at `now`. What it then owes beyond a limit is forgiven.
    #[inline]
    pub fn charge(&mut self, service: u8, elapsed: u64, now: u64) {
        if let Some(entry) = self.entries.get_mut(usize::from(service)) {
            entry.charge(elapsed, now, entry.limit);
        }
    }

    /// Charges a service for `elapsed` ns of the kernel's work that end at `now`. It owes all of it.
    pub fn charge_work(&mut self, service: u8, elapsed: u64, now: u64) {
        if let Some(entry) = self.entries.get_mut(usize::from(service)) {
            entry.charge(elapsed, now, u64::MAX);
        }
    }

    /// CPU time that a service has used in all, in ns.
    #[must_use]
    pub fn total(&self, service: u8) -> u64 {
        self.entries.get(usize::from(service)).map_or(0, |entry| entry.total)
    }

    /// Chooses who runs at `now`, and when to choose again.
    ///
    /// The time that a less urgent service waits for changes nothing while the chosen one runs, so it is no time to choose again:
    /// its interrupt would take time of a service that may have none to spare.
    pub fn next(&mut self, now: u64) -> Next {
        let mut next = Next { service: None, budget: Alarm::NEVER, deadline: Alarm::NEVER };
        let mut active = self.active;
        while active != 0 {
            let index = self.order[active.trailing_zeros() as usize & 15];
            active &= active - 1;
            let entry = &mut self.entries[usize::from(index & 15)];
            if let State::Waiting(deadline) = entry.state {
                if deadline > now {
                    next.deadline = next.deadline.or_sooner(Alarm { at: deadline, owner: Some(index) });
                    continue;
                }
                entry.state = State::Ready;
            }
            entry.renew(now);
            if let left @ 1.. = entry.budget.saturating_sub(entry.used) {
                next.service = Some(index);
                next.look_at(now + left, None);
                break;
            }
            next.look_at(entry.has_budget_at(), Some(index));
        }
        next
    }
}

impl Next {
    /// Returns when to choose again at the latest, in ns; `u64::MAX` is never.
    #[must_use]
    pub fn time(&self) -> u64 {
        self.budget.at.min(self.deadline.at)
    }

    /// Makes sure that the choice is looked at again at `time`, for `owner`.
    fn look_at(&mut self, time: u64, owner: Option<u8>) {
        self.budget = self.budget.or_sooner(Alarm { at: time, owner });
    }
}

impl Entry {
    /// Charges for `elapsed` ns that end at `now`, up to `most` in the window of each.
    #[inline]
    fn charge(&mut self, elapsed: u64, now: u64, most: u64) {
        if now < self.end {
            self.take(elapsed, most);
        } else {
            self.charge_across(elapsed, now, most);
        }
        self.total = self.total.saturating_add(elapsed);
    }

    /// Charges for `elapsed` ns of which some lie before the window that begins: they are no use of it.
    #[cold]
    fn charge_across(&mut self, elapsed: u64, now: u64, most: u64) {
        let before = elapsed.saturating_sub(now % self.period);
        self.take(before, most);
        self.renew(now);
        self.take(elapsed - before, most);
    }

    /// Takes `elapsed` ns from the budget of the present window. What was owed before stays owed, whatever `most` is.
    fn take(&mut self, elapsed: u64, most: u64) {
        let used = self.used.saturating_add(elapsed);
        self.used = if used <= most { used } else { most.max(self.used) };
    }

    /// Returns when the window begins in which it has budget again, now that it has none. No sooner look is of use.
    fn has_budget_at(&self) -> u64 {
        // Mostly the next one is it, and nothing is divided.
        let more = if self.used / 2 < self.budget { 0 } else { self.used / self.budget - 1 };
        self.end.saturating_add(self.period.saturating_mul(more))
    }

    /// Begins a new window if `now` lies in one. What was used beyond the budget, because a timer came late, is owed:
    /// so the share holds over time whatever the machine's timers do.
    #[inline]
    fn renew(&mut self, now: u64) {
        if now >= self.end {
            self.begin(now);
        }
    }

    #[cold]
    fn begin(&mut self, now: u64) {
        let passed = (now - self.end) / self.period + 1;
        self.used = self.used.saturating_sub(self.budget.saturating_mul(passed));
        self.end = (now / self.period + 1).saturating_mul(self.period);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn scheduler(services: &[(u8, u64, u64)]) -> Scheduler {
        Scheduler::of(services.iter().copied())
    }

    fn choice(next: Next) -> (Option<u8>, u64) {
        (next.service, next.time())
    }

    #[test]
    fn the_highest_priority_that_is_ready_runs() {
        let mut scheduler = scheduler(&[(1, 50, 100), (9, 50, 100)]);
        assert_eq!(scheduler.next(0).service, Some(1));
        scheduler.set_state(1, State::Waiting(70));
        assert_eq!(choice(scheduler.next(0)), (Some(0), 50));
        assert_eq!(scheduler.next(70).service, Some(1));
        scheduler.set_state(1, State::Waiting(u64::MAX));
        scheduler.wake(1);
        assert_eq!(scheduler.next(71).service, Some(1));
    }

    #[test]
    fn a_spinning_service_is_held_to_its_budget() {
        let mut scheduler = scheduler(&[(1, 100, 100), (9, 30, 100)]);
        assert_eq!(choice(scheduler.next(0)), (Some(1), 30));
        scheduler.charge(1, 30, 30);
        assert_eq!(choice(scheduler.next(30)), (Some(0), 100));
        scheduler.charge(0, 70, 100);
        assert_eq!(scheduler.next(100).service, Some(1));
        assert_eq!(scheduler.total(1), 30);
    }

    #[test]
    fn what_a_late_timer_gave_is_paid_back() {
        let mut scheduler = scheduler(&[(9, 30, 100)]);
        assert_eq!(choice(scheduler.next(0)).1, 30);
        scheduler.charge(0, 75, 75);
        assert_eq!(choice(scheduler.next(75)), (None, 200));
        assert_eq!(choice(scheduler.next(100)), (None, 200));
        assert_eq!(choice(scheduler.next(200)), (Some(0), 215));
        assert_eq!(choice(scheduler.next(1000)), (Some(0), 1030));
    }

    #[test]
    fn a_stall_of_the_machine_does_not_starve_who_ran() {
        let mut scheduler = scheduler(&[(9, 30, 100)]);
        scheduler.next(0);
        scheduler.charge(0, u64::MAX / 2, 50);
        let paid = 100 * (MOST_OWED.1 / 30 + 1);
        assert_eq!(choice(scheduler.next(100)), (None, paid));
        assert_eq!(scheduler.next(paid).service, Some(0));
        // A large budget is owed some times over.
        let mut scheduler = self::scheduler(&[(9, 3_000_000, 10_000_000)]);
        scheduler.next(0);
        scheduler.charge(0, u64::MAX / 2, 50);
        assert_eq!(choice(scheduler.next(10_000_000)), (None, 10_000_000 * (MOST_OWED.0 + 1)));
    }

    #[test]
    fn what_a_small_budget_overshot_is_owed_in_full() {
        for (budget, used) in [(1, 500), (1, 999_999), (30, 999_999), (1_000, 60_000)] {
            let mut scheduler = scheduler(&[(9, budget, 1_000)]);
            scheduler.next(0);
            scheduler.charge(0, used, 0);
            assert_eq!(choice(scheduler.next(0)), (None, used / budget * 1_000), "{budget} {used}");
        }
    }

    #[test]
    fn the_work_of_a_restart_is_owed_in_full() {
        let mut scheduler = scheduler(&[(9, 3_000_000, 10_000_000)]);
        scheduler.next(0);
        scheduler.charge_work(0, 600_000_000, 600_000_000);
        assert_eq!(choice(scheduler.next(600_000_000)), (None, 2_000_000_000));
        // What comes after that forgives nothing of it.
        scheduler.charge(0, 10, 600_000_100);
        assert_eq!(choice(scheduler.next(600_000_100)), (None, 2_000_000_000));
        assert_eq!(choice(scheduler.next(2_000_000_000)), (Some(0), 2_003_000_000));
    }

    #[test]
    fn a_run_across_the_end_of_a_window_uses_of_each_what_was_in_it() {
        let mut scheduler = scheduler(&[(9, 80, 100)]);
        assert_eq!(choice(scheduler.next(30)), (Some(0), 110));
        scheduler.charge(0, 80, 110);
        assert_eq!(choice(scheduler.next(110)), (Some(0), 180));
        // What was beyond the budget of the first window is owed.
        scheduler.charge(0, 95, 205);
        assert_eq!(choice(scheduler.next(205)), (Some(0), 205 + 80 - 5 - 20));
    }

    #[test]
    fn the_stopped_stay_stopped() {
        let mut scheduler = scheduler(&[(1, 10, 10)]);
        scheduler.set_state(0, State::Stopped);
        scheduler.wake(0);
        scheduler.set_state(0, State::Ready);
        assert_eq!(choice(scheduler.next(5)), (None, u64::MAX));
        assert_eq!(scheduler.state(200), State::Stopped);
    }

    /// When the window begins in which it has budget, by going from one to the next.
    fn first_with_budget(mut entry: Entry) -> u64 {
        while entry.used >= entry.budget {
            entry.renew(entry.end);
        }
        entry.end - entry.period
    }

    /// What a look at every service, one after the other, says.
    fn plainly(mut scheduler: Scheduler, count: usize, now: u64) -> (Option<u8>, u64) {
        let (mut chosen, mut timer) = (None, u64::MAX);
        for index in scheduler.order.into_iter().take(count) {
            let entry = &mut scheduler.entries[usize::from(index)];
            entry.renew(now);
            let more =
                matches!(entry.state, State::Waiting(deadline) if deadline <= now) || entry.state == State::Ready;
            let left = entry.budget.saturating_sub(entry.used);
            match entry.state {
                State::Waiting(deadline) if deadline > now && chosen.is_none() => timer = timer.min(deadline),
                State::Waiting(deadline) if deadline > now => {}
                _ if more && chosen.is_none() && left > 0 => (chosen, timer) = (Some(index), timer.min(now + left)),
                _ if more && chosen.is_none() => timer = timer.min(first_with_budget(*entry)),
                _ => {}
            }
        }
        (chosen, timer)
    }

    /// Returns `true` if the alarm is for this service.
    fn is_for(alarm: Alarm, entry: &Entry, now: u64) -> bool {
        match entry.state {
            State::Waiting(deadline) => alarm.at == deadline,
            State::Ready if entry.used < entry.budget => alarm.at == now + entry.budget - entry.used,
            State::Ready => alarm.at == first_with_budget(*entry),
            State::Stopped => false,
        }
    }

    proptest! {
        /// What is kept from one choice to the next changes none.
        #[test]
        fn the_choice_is_that_of_a_plain_look(
            services in prop::collection::vec((1_u8..5, 1_u64..50), 1..6),
            steps in prop::collection::vec((0_u8..6, 0_u64..120, 0_u8..9, 0_u64..40), 0..200),
        ) {
            let services: Vec<_> = services.into_iter().map(|(priority, budget)| (priority, budget, 100)).collect();
            let (mut scheduler, mut now) = (scheduler(&services), 0);
            for (service, ahead, what, passes) in steps {
                match what {
                    0..3 => scheduler.set_state(service, State::Waiting(now + ahead)),
                    3 => scheduler.set_state(service, State::Waiting(u64::MAX)),
                    4 if ahead == 0 => scheduler.set_state(service, State::Stopped),
                    4..7 => scheduler.wake(service),
                    _ => scheduler.charge(service, ahead, now),
                }
                now += passes;
                let expected = plainly(scheduler.clone(), services.len(), now);
                let next = scheduler.next(now);
                prop_assert_eq!(choice(next), expected);
                for (alarm, owner) in [(next.budget, next.budget.owner.or(next.service)), (next.deadline, next.deadline.owner)] {
                    let owner = owner.map(|owner| &scheduler.entries[usize::from(owner)]);
                    prop_assert!(owner.map_or(alarm.at == u64::MAX, |owner| is_for(alarm, owner, now)), "{next:?}");
                }
            }
        }

        /// Every service that always wants to run gets no more than its budget and one timer's overshoot in each window,
        /// and time passes.
        #[test]
        fn budgets_hold(services in prop::collection::vec((1_u8..5, 1_u64..50), 1..6)) {
            let services: Vec<_> = services.into_iter().map(|(priority, budget)| (priority, budget, 100)).collect();
            let mut scheduler = scheduler(&services);
            let (mut now, mut used) = (0, vec![0; services.len()]);
            while now < 100 {
                let next = scheduler.next(now);
                let timer = next.time();
                prop_assert!(timer > now);
                let until = timer.min(100);
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
