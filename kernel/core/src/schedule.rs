//! Decides which service runs: by fixed priorities, and a CPU budget for each service.
//!
//! Of the services that are ready and have budget left, the one of the highest priority runs. Time
//! is counted in windows of the service's period. A service without budget waits for the next
//! window, whatever its priority. What it used beyond its budget it pays back there.

use core::fmt;

use arrayvec::ArrayVec;
use cloister_caps::ServiceId;
use cloister_caps::tables::{MAX_SERVICES, PerService, Tables};
use static_assertions::const_assert;

/// The largest debt of a service: this many budgets, or this many ns if that is more.
///
/// Only a stall of the machine makes a larger one, and what is beyond the limit is forgiven. A
/// service that runs until the timer fires always owes less, so a small budget gains nothing from
/// the limit.
const MAX_DEBT: (u64, u64) = (4, 1_000_000);

/// Says what a service is doing.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum State {
    /// It can run.
    Ready,
    /// It waits for a notification, or for the clock to reach this many ns. With `u64::MAX`, only a
    /// notification wakes it.
    Waiting(u64),
    /// It never runs again.
    Stopped,
}

/// Not by `Debug`, whose code for fields is longer than all that the kernel prints of them.
impl fmt::Display for State {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            State::Ready => f.write_str("Ready"),
            State::Waiting(u64::MAX) => f.write_str("Waiting"),
            State::Waiting(until) => write!(f, "Waiting({until})"),
            State::Stopped => f.write_str("Stopped"),
        }
    }
}

/// Holds what the scheduler knows of a service. Times are in ns.
#[derive(Clone, Copy, Debug)]
struct Entry {
    state: State,
    /// Number of services that come first: those of a higher priority, and earlier ones of the
    /// same. It is the service's bit in `Scheduler::active`.
    rank: u8,
    budget: u64,
    period: u64,
    /// The end of the present window.
    window_end: u64,
    /// Time used in the present window, debt from earlier ones included.
    used: u64,
    /// The limit of `used`: a larger debt is forgiven.
    max_used: u64,
    /// Time used since boot.
    total: u64,
}

impl Entry {
    /// The entry of a number that no service has.
    const UNUSED: Entry = Entry {
        state: State::Stopped,
        rank: 0,
        budget: 1,
        period: 1,
        window_end: 0,
        used: 0,
        max_used: u64::MAX,
        total: 0,
    };
}

/// Says which service runs next, and when to choose again.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Next {
    /// The service to run, or `None` if the processor is idle.
    pub service: Option<ServiceId>,
    /// The time at which the budget of the chosen service ends, or a service that is ready and
    /// comes before it has budget again.
    pub budget: Alarm,
    /// The first deadline of a waiting service that comes before the chosen one.
    pub deadline: Alarm,
}

/// Holds a time at which to choose again.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Alarm {
    /// The time in ns. `u64::MAX` is never.
    pub at: u64,
    /// The service that the alarm is for. `None` is the one that runs.
    pub owner: Option<ServiceId>,
}

impl Alarm {
    /// The alarm that never comes.
    pub const NEVER: Alarm = Alarm { at: u64::MAX, owner: None };

    /// Returns the earlier of two alarms, and `self` if both are at the same time.
    #[must_use]
    pub fn earlier(self, other: Alarm) -> Alarm {
        if other.at < self.at { other } else { self }
    }
}

/// Holds the state, budget and debt of every service.
#[derive(Clone, Debug)]
pub struct Scheduler {
    entries: PerService<Entry>,
    /// The services by falling priority.
    order: [Option<ServiceId>; MAX_SERVICES],
    /// A bit, by rank, for each service that is ready or has a deadline.
    active: u16,
}

const_assert!(MAX_SERVICES <= u16::BITS as usize);

impl Scheduler {
    /// Creates a scheduler of the services in the tables. All are ready.
    #[must_use]
    pub fn new(tables: &Tables<'_>) -> Scheduler {
        let in_ns = |us: u32| u64::from(us) * 1_000;
        let services = tables.services().with_ids();
        Self::with(services.map(|(id, one)| (id, one.priority, in_ns(one.budget_us), in_ns(one.period_us))))
    }

    /// Creates a scheduler of services with these priorities, budgets and periods.
    pub(crate) fn with(services: impl Iterator<Item = (ServiceId, u8, u64, u64)>) -> Scheduler {
        let entries = PerService::new([Entry::UNUSED; _]);
        let mut scheduler = Scheduler { entries, order: [None; _], active: 0 };
        let mut order: ArrayVec<(u8, ServiceId), MAX_SERVICES> = ArrayVec::new();
        for (service, priority, budget, period) in services {
            let max_used = budget.saturating_add(budget.saturating_mul(MAX_DEBT.0).max(MAX_DEBT.1));
            scheduler.entries[service] = Entry { state: State::Ready, budget, period, max_used, ..Entry::UNUSED };
            // Behind those of the same priority.
            let rank = order.partition_point(|(other, _)| *other >= priority);
            order.insert(rank, (priority, service));
        }
        for (rank, (_, service)) in order.into_iter().enumerate() {
            scheduler.entries[service].rank = rank as u8;
            scheduler.order[rank] = Some(service);
            scheduler.active |= 1 << rank;
        }
        scheduler
    }

    /// Returns the state of a service.
    #[must_use]
    pub fn state(&self, service: ServiceId) -> State {
        self.entries[service].state
    }

    /// Sets the state of a service. A stopped one stays stopped.
    pub fn set_state(&mut self, service: ServiceId, state: State) {
        let entry = &mut self.entries[service];
        if entry.state == State::Stopped {
            return;
        }
        entry.state = state;
        let bit = 1 << (entry.rank & 15);
        let active = !matches!(state, State::Stopped | State::Waiting(u64::MAX));
        self.active = if active { self.active | bit } else { self.active & !bit };
    }

    /// Makes a service ready if it waits.
    pub fn wake(&mut self, service: ServiceId) {
        if matches!(self.state(service), State::Waiting(_)) {
            self.set_state(service, State::Ready);
        }
    }

    /// Charges a service for `elapsed` ns that end at `now`. A debt beyond the limit is forgiven.
    #[inline]
    pub fn charge(&mut self, service: ServiceId, elapsed: u64, now: u64) {
        let entry = &mut self.entries[service];
        entry.charge(elapsed, now, entry.max_used);
    }

    /// Charges a service for `elapsed` ns of the kernel's work that end at `now`, without a limit
    /// on the debt.
    pub fn charge_work(&mut self, service: ServiceId, elapsed: u64, now: u64) {
        self.entries[service].charge(elapsed, now, u64::MAX);
    }

    /// Returns the CPU time that a service has used since boot, in ns.
    #[must_use]
    pub fn cpu_time(&self, service: ServiceId) -> u64 {
        self.entries[service].total
    }

    /// Chooses the service that runs at `now`, and the time to choose again.
    ///
    /// The deadlines of services after the chosen one do not count, since they would not change the
    /// choice. Their interrupts would take time from a service that may have none to spare.
    pub fn next(&mut self, now: u64) -> Next {
        let mut next = Next { service: None, budget: Alarm::NEVER, deadline: Alarm::NEVER };
        let mut active = self.active;
        while active != 0 {
            let chosen = self.order[active.trailing_zeros() as usize & 15];
            active &= active - 1;
            let Some(service) = chosen else { continue };
            let entry = &mut self.entries[service];
            if let State::Waiting(deadline) = entry.state {
                if deadline > now {
                    next.deadline = next.deadline.earlier(Alarm { at: deadline, owner: Some(service) });
                    continue;
                }
                entry.state = State::Ready;
            }
            entry.renew_window(now);
            if let left @ 1.. = entry.budget.saturating_sub(entry.used) {
                next.service = Some(service);
                next.choose_again_at(now + left, None);
                break;
            }
            next.choose_again_at(entry.next_budget_at(), Some(service));
        }
        next
    }
}

impl Next {
    /// Returns the latest time to choose again, in ns. `u64::MAX` is never.
    #[must_use]
    pub fn time(&self) -> u64 {
        self.budget.at.min(self.deadline.at)
    }

    /// Sets the budget alarm to `time`, for `owner`, unless it comes sooner.
    fn choose_again_at(&mut self, time: u64, owner: Option<ServiceId>) {
        self.budget = self.budget.earlier(Alarm { at: time, owner });
    }
}

impl Entry {
    /// Charges for `elapsed` ns that end at `now`. In each window, at most `limit` ns count as
    /// used.
    #[inline]
    fn charge(&mut self, elapsed: u64, now: u64, limit: u64) {
        if now < self.window_end {
            self.add_used(elapsed, limit);
        } else {
            self.charge_across(elapsed, now, limit);
        }
        self.total = self.total.saturating_add(elapsed);
    }

    /// Charges for `elapsed` ns of which some lie before the present window, and count in the
    /// earlier one.
    #[cold]
    fn charge_across(&mut self, elapsed: u64, now: u64, limit: u64) {
        let before = elapsed.saturating_sub(now % self.period);
        self.add_used(before, limit);
        self.renew_window(now);
        self.add_used(elapsed - before, limit);
    }

    /// Adds `elapsed` ns to what is used of the present window, up to `limit`. An earlier debt
    /// stays even if it is more than `limit`.
    fn add_used(&mut self, elapsed: u64, limit: u64) {
        let used = self.used.saturating_add(elapsed);
        self.used = if used <= limit { used } else { limit.max(self.used) };
    }

    /// Returns the start of the first window with budget, for a service that has none now.
    fn next_budget_at(&self) -> u64 {
        // Mostly that is the next window, and the division is saved.
        let more = if self.used / 2 < self.budget { 0 } else { self.used / self.budget - 1 };
        self.window_end.saturating_add(self.period.saturating_mul(more))
    }

    /// Begins a new window if the present one has ended.
    ///
    /// What was used beyond the budget, because a timer came late, remains as debt. So a service
    /// keeps to its share over time, however late the machine's timers are.
    #[inline]
    fn renew_window(&mut self, now: u64) {
        if now >= self.window_end {
            self.begin_window(now);
        }
    }

    /// Begins the window in which `now` lies, and pays debt from the budgets of those that passed.
    #[cold]
    fn begin_window(&mut self, now: u64) {
        let passed = (now - self.window_end) / self.period + 1;
        self.used = self.used.saturating_sub(self.budget.saturating_mul(passed));
        self.window_end = (now / self.period + 1).saturating_mul(self.period);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::test_tables::id;
    use proptest::prelude::*;

    fn scheduler(services: &[(u8, u64, u64)]) -> Scheduler {
        Scheduler::with(
            (0..).zip(services).map(|(index, (priority, budget, period))| (id(index), *priority, *budget, *period)),
        )
    }

    fn choice(next: Next) -> (Option<ServiceId>, u64) {
        (next.service, next.time())
    }

    #[test]
    fn a_report_says_what_a_service_does() {
        let texts = [State::Ready, State::Waiting(u64::MAX), State::Waiting(70), State::Stopped].map(|s| s.to_string());
        assert_eq!(texts, ["Ready", "Waiting", "Waiting(70)", "Stopped"]);
    }

    #[test]
    fn of_two_alarms_at_one_time_the_first_counts() {
        let alarm = |at, owner| Alarm { at, owner: Some(id(owner)) };
        assert_eq!(alarm(7, 0).earlier(alarm(7, 1)), alarm(7, 0));
        assert_eq!(alarm(7, 0).earlier(alarm(6, 1)), alarm(6, 1));
        assert_eq!(Alarm::NEVER.earlier(alarm(u64::MAX, 1)), Alarm::NEVER);
    }

    /// The window in which a debt of two budgets is paid still has none.
    #[test]
    fn the_next_budget_comes_after_all_debt() {
        for (used, at) in [(30, 100), (59, 100), (60, 200), (89, 200), (90, 300)] {
            let mut scheduler = scheduler(&[(1, 30, 100)]);
            scheduler.next(0);
            scheduler.charge_work(id(0), used, 50);
            assert_eq!(choice(scheduler.next(50)), (None, at), "{used}");
        }
    }

    #[test]
    fn the_highest_priority_that_is_ready_runs() {
        let mut scheduler = scheduler(&[(1, 50, 100), (9, 50, 100)]);
        assert_eq!(scheduler.next(0).service, Some(id(1)));
        scheduler.set_state(id(1), State::Waiting(70));
        assert_eq!(choice(scheduler.next(0)), (Some(id(0)), 50));
        assert_eq!(scheduler.next(70).service, Some(id(1)));
        scheduler.set_state(id(1), State::Waiting(u64::MAX));
        scheduler.wake(id(1));
        assert_eq!(scheduler.next(71).service, Some(id(1)));
    }

    #[test]
    fn a_spinning_service_is_held_to_its_budget() {
        let mut scheduler = scheduler(&[(1, 100, 100), (9, 30, 100)]);
        assert_eq!(choice(scheduler.next(0)), (Some(id(1)), 30));
        scheduler.charge(id(1), 30, 30);
        assert_eq!(choice(scheduler.next(30)), (Some(id(0)), 100));
        scheduler.charge(id(0), 70, 100);
        assert_eq!(scheduler.next(100).service, Some(id(1)));
        assert_eq!(scheduler.cpu_time(id(1)), 30);
    }

    #[test]
    fn the_overshoot_of_a_late_timer_is_paid_back() {
        let mut scheduler = scheduler(&[(9, 30, 100)]);
        assert_eq!(choice(scheduler.next(0)).1, 30);
        scheduler.charge(id(0), 75, 75);
        assert_eq!(choice(scheduler.next(75)), (None, 200));
        assert_eq!(choice(scheduler.next(100)), (None, 200));
        assert_eq!(choice(scheduler.next(200)), (Some(id(0)), 215));
        assert_eq!(choice(scheduler.next(1000)), (Some(id(0)), 1030));
    }

    #[test]
    fn a_stall_of_the_machine_does_not_starve_the_service_that_ran() {
        let mut scheduler = scheduler(&[(9, 30, 100)]);
        scheduler.next(0);
        scheduler.charge(id(0), u64::MAX / 2, 50);
        let paid = 100 * (MAX_DEBT.1 / 30 + 1);
        assert_eq!(choice(scheduler.next(100)), (None, paid));
        assert_eq!(scheduler.next(paid).service, Some(id(0)));
        // For a large budget the limit is a multiple of it.
        let mut scheduler = self::scheduler(&[(9, 3_000_000, 10_000_000)]);
        scheduler.next(0);
        scheduler.charge(id(0), u64::MAX / 2, 50);
        assert_eq!(choice(scheduler.next(10_000_000)), (None, 10_000_000 * (MAX_DEBT.0 + 1)));
    }

    #[test]
    fn the_overshoot_of_a_small_budget_is_owed_in_full() {
        for (budget, used) in [(1, 500), (1, 999_999), (30, 999_999), (1_000, 60_000)] {
            let mut scheduler = scheduler(&[(9, budget, 1_000)]);
            scheduler.next(0);
            scheduler.charge(id(0), used, 0);
            assert_eq!(choice(scheduler.next(0)), (None, used / budget * 1_000), "{budget} {used}");
        }
    }

    #[test]
    fn the_work_of_a_restart_is_owed_in_full() {
        let mut scheduler = scheduler(&[(9, 3_000_000, 10_000_000)]);
        scheduler.next(0);
        scheduler.charge_work(id(0), 600_000_000, 600_000_000);
        assert_eq!(choice(scheduler.next(600_000_000)), (None, 2_000_000_000));
        // Later charges forgive nothing of it.
        scheduler.charge(id(0), 10, 600_000_100);
        assert_eq!(choice(scheduler.next(600_000_100)), (None, 2_000_000_000));
        assert_eq!(choice(scheduler.next(2_000_000_000)), (Some(id(0)), 2_003_000_000));
    }

    #[test]
    fn a_run_across_the_end_of_a_window_counts_in_both() {
        let mut scheduler = scheduler(&[(9, 80, 100)]);
        assert_eq!(choice(scheduler.next(30)), (Some(id(0)), 110));
        scheduler.charge(id(0), 80, 110);
        assert_eq!(choice(scheduler.next(110)), (Some(id(0)), 180));
        // What was beyond the budget of the first window is owed.
        scheduler.charge(id(0), 95, 205);
        assert_eq!(choice(scheduler.next(205)), (Some(id(0)), 205 + 80 - 5 - 20));
    }

    #[test]
    fn a_stopped_service_stays_stopped() {
        let mut scheduler = scheduler(&[(1, 10, 10)]);
        scheduler.set_state(id(0), State::Stopped);
        scheduler.wake(id(0));
        scheduler.set_state(id(0), State::Ready);
        assert_eq!(choice(scheduler.next(5)), (None, u64::MAX));
        assert_eq!(scheduler.state(id(9)), State::Stopped);
    }

    /// Returns the start of the first window with budget, by going through the windows one by one.
    fn first_with_budget(mut entry: Entry) -> u64 {
        while entry.used >= entry.budget {
            entry.renew_window(entry.window_end);
        }
        entry.window_end - entry.period
    }

    /// Makes the choice by looking at every service in turn, as a model for the test.
    fn plain_choice(mut scheduler: Scheduler, count: usize, now: u64) -> (Option<ServiceId>, u64) {
        let (mut chosen, mut timer) = (None, u64::MAX);
        for index in scheduler.order.into_iter().take(count).flatten() {
            let entry = &mut scheduler.entries[index];
            entry.renew_window(now);
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

    /// Returns `true` if an alarm is for this service.
    fn is_for(alarm: Alarm, entry: &Entry, now: u64) -> bool {
        match entry.state {
            State::Waiting(deadline) => alarm.at == deadline,
            State::Ready if entry.used < entry.budget => alarm.at == now + entry.budget - entry.used,
            State::Ready => alarm.at == first_with_budget(*entry),
            State::Stopped => false,
        }
    }

    proptest! {
        /// State kept from one choice to the next does not change the result.
        #[test]
        fn the_choice_is_that_of_the_plain_model(
            services in prop::collection::vec((1_u8..5, 1_u64..50), 1..6),
            steps in prop::collection::vec((0_u8..6, 0_u64..120, 0_u8..9, 0_u64..40), 0..200),
        ) {
            let services: Vec<_> = services.into_iter().map(|(priority, budget)| (priority, budget, 100)).collect();
            let (mut scheduler, mut now) = (scheduler(&services), 0);
            for (service, ahead, what, passes) in steps {
                match what {
                    0..3 => scheduler.set_state(id(service), State::Waiting(now + ahead)),
                    3 => scheduler.set_state(id(service), State::Waiting(u64::MAX)),
                    4 if ahead == 0 => scheduler.set_state(id(service), State::Stopped),
                    4..7 => scheduler.wake(id(service)),
                    _ => scheduler.charge(id(service), ahead, now),
                }
                now += passes;
                let expected = plain_choice(scheduler.clone(), services.len(), now);
                let next = scheduler.next(now);
                prop_assert_eq!(choice(next), expected);
                for (alarm, owner) in [(next.budget, next.budget.owner.or(next.service)), (next.deadline, next.deadline.owner)] {
                    let owner = owner.map(|owner| &scheduler.entries[owner]);
                    prop_assert!(owner.map_or(alarm.at == u64::MAX, |owner| is_for(alarm, owner, now)), "{next:?}");
                }
            }
        }

        /// A service that is always ready gets no more than its budget in a window, and time
        /// passes.
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
                    used[service.index()] += until - now;
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
