//! Charges the time of the processor: its own code to each service, and what an entry into the
//! kernel costs to the service that caused it. docs/scheduling.md says what follows from that.

use cloister_caps::ServiceId;

use crate::schedule::{Alarm, Next, Scheduler};

/// The least and the most that an interrupt is taken to cost, in ns. A measurement beyond these
/// went wrong.
const INTERRUPT_LIMITS: (u64, u64) = (1_000, 100_000);
/// The least and the most that the grain is, in ns.
const GRAIN_LIMITS: (u64, u64) = (50_000, 500_000);
/// The longest time that the timer is set for, in ns. Xen takes more than 2^50 for a mistake and
/// fires much sooner (`do_set_timer_op` in xen/common/sched/core.c).
const MAX_TIMEOUT: u64 = 1 << 49;
/// The grain, as a multiple of the cost of an interrupt.
const GRAIN_IN_INTERRUPTS: u64 = 16;

/// Holds what interrupts cost on this machine, in ns.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Costs {
    /// Time that an interrupt takes from the interrupted service before the kernel reads the clock.
    pub interrupt: u64,
    /// The shortest time after which a timer may interrupt a running service for a deadline.
    pub grain: u64,
}

impl Costs {
    /// Derives the costs from the measured time between setting a timer that is due and taking its
    /// interrupt.
    #[must_use]
    pub fn new(measured: u64) -> Costs {
        let interrupt = measured.clamp(INTERRUPT_LIMITS.0, INTERRUPT_LIMITS.1);
        Costs { interrupt, grain: (interrupt * GRAIN_IN_INTERRUPTS).clamp(GRAIN_LIMITS.0, GRAIN_LIMITS.1) }
    }
}

/// Keeps account of the processor's time: up to when it is charged, which service pays for the
/// kernel's work, and when the timer fires.
#[derive(Clone, Debug)]
pub struct Accounting {
    costs: Costs,
    /// All time before this is charged, or was idle.
    charged_until: u64,
    /// The service that caused the present entry, or `None` if the processor was idle.
    payer: Option<ServiceId>,
    /// The time of the timer, and the service that pays for it. `None` is the one that runs then.
    timer: Alarm,
}

impl Accounting {
    /// Creates an account in which all time before `now` is settled.
    #[must_use]
    pub fn new(costs: Costs, now: u64) -> Accounting {
        Accounting { costs, charged_until: now, payer: None, timer: Alarm::NEVER }
    }

    /// Charges the time until `now`, when `service` entered the kernel because of `payer`.
    ///
    /// The two are the same for a system call, a fault, or an interrupt for `service` itself. Else
    /// an interrupt came for `payer`, which pays for what it has cost until `now`.
    #[inline]
    pub fn charge_entry(&mut self, scheduler: &mut Scheduler, service: ServiceId, payer: ServiceId, now: u64) {
        let elapsed = now.saturating_sub(self.charged_until);
        let interrupt = if payer == service { 0 } else { elapsed.min(self.costs.interrupt) };
        scheduler.charge(service, elapsed - interrupt, now);
        if interrupt > 0 {
            scheduler.charge(payer, interrupt, now);
        }
        (self.charged_until, self.payer) = (now, Some(payer));
    }

    /// Charges the time from the entry until `now` in full to the service that entered, which the
    /// kernel has restarted.
    pub fn charge_restart(&mut self, scheduler: &mut Scheduler, service: ServiceId, now: u64) {
        scheduler.charge_work(service, now.saturating_sub(self.charged_until), now);
        self.charged_until = now;
    }

    /// Notes that the processor was idle until `now`, which is charged to no service.
    pub fn note_idle(&mut self, now: u64) {
        (self.charged_until, self.payer) = (now, None);
    }

    /// Charges the kernel's work since the entry to the service that caused it, as `service` is
    /// about to run.
    ///
    /// If both are the same, its next entry charges this work too, and the clock is not read.
    pub fn charge_kernel_work(&mut self, scheduler: &mut Scheduler, service: ServiceId, clock: impl FnOnce() -> u64) {
        if let Some(payer) = self.payer.take().filter(|payer| *payer != service) {
            let now = clock();
            scheduler.charge(payer, now.saturating_sub(self.charged_until), now);
            self.charged_until = now;
        }
    }

    /// Returns the time to set the timer to, or `None` if it fires early enough already. A timer
    /// that fires too early costs one more choice.
    ///
    /// While a service runs, a deadline waits for the grain, because a service may set as many as
    /// it wants. The end and the renewal of a budget are met exactly, because a service has one of
    /// each in a period.
    pub fn arm(&mut self, next: &Next, now: u64) -> Option<u64> {
        let mut deadline = next.deadline;
        if next.service.is_some() {
            deadline.at = deadline.at.max(now.saturating_add(self.costs.grain));
        }
        let at = deadline.at.min(next.budget.at);
        if at >= self.timer.at && self.timer.at > now || at == u64::MAX {
            if self.timer.owner.is_none() && self.payer != next.service {
                // The timer is set for the end of a budget. That comes later now, because the payer
                // ran in between.
                self.timer.owner = self.payer;
            }
            return None;
        }
        self.timer = deadline.earlier(next.budget);
        self.timer.at = at.min(now.saturating_add(MAX_TIMEOUT));
        Some(self.timer.at)
    }

    /// Notes that the timer fired. Returns the service that pays for it; `None` is the one that
    /// ran.
    pub fn timer_fired(&mut self) -> Option<ServiceId> {
        core::mem::replace(&mut self.timer, Alarm::NEVER).owner
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::test_tables::id;

    const COSTS: Costs = Costs { interrupt: 30, grain: 500 };

    fn pair() -> (Accounting, Scheduler) {
        (
            Accounting::new(COSTS, 100),
            Scheduler::with([(id(0), 9, 1_000, 10_000), (id(1), 1, 9_000, 10_000)].into_iter()),
        )
    }

    fn totals(scheduler: &Scheduler) -> [u64; 2] {
        [scheduler.cpu_time(id(0)), scheduler.cpu_time(id(1))]
    }

    #[test]
    fn an_interrupt_is_paid_by_the_service_that_it_is_for() {
        let (mut accounting, mut scheduler) = pair();
        accounting.charge_entry(&mut scheduler, id(1), id(0), 300);
        assert_eq!(totals(&scheduler), [30, 170]);
        // The kernel's work is its own too, and charged at its next entry.
        accounting.charge_kernel_work(&mut scheduler, id(0), || panic!("it runs on itself"));
        accounting.charge_entry(&mut scheduler, id(0), id(0), 350);
        assert_eq!(totals(&scheduler), [80, 170]);
        // The service that now waits pays for the switch back.
        accounting.charge_kernel_work(&mut scheduler, id(1), || 370);
        assert_eq!(totals(&scheduler), [100, 170]);
        // The service ran for less than an interrupt costs.
        accounting.charge_entry(&mut scheduler, id(1), id(0), 380);
        assert_eq!(totals(&scheduler), [110, 170]);
    }

    #[test]
    fn no_time_is_charged_twice_or_lost() {
        let (mut accounting, mut scheduler) = pair();
        let mut now = 100;
        for (service, payer, next) in [(0, 0, 1), (1, 0, 1), (1, 1, 1), (1, 0, 0), (0, 1, 1)] {
            now += 70;
            accounting.charge_entry(&mut scheduler, id(service), id(payer), now);
            now += 11;
            accounting.charge_kernel_work(&mut scheduler, id(next), || now);
        }
        accounting.charge_entry(&mut scheduler, id(1), id(1), now);
        assert_eq!(totals(&scheduler).iter().sum::<u64>(), now - 100);
    }

    #[test]
    fn idle_time_is_charged_to_no_service() {
        let (mut accounting, mut scheduler) = pair();
        accounting.charge_entry(&mut scheduler, id(0), id(0), 110);
        accounting.note_idle(5_000);
        accounting.charge_kernel_work(&mut scheduler, id(1), || panic!("no service to pay"));
        accounting.charge_entry(&mut scheduler, id(1), id(1), 5_007);
        assert_eq!(totals(&scheduler), [10, 7]);
    }

    fn alarm(at: u64) -> Alarm {
        Alarm { at, owner: Some(id(0)) }
    }

    #[test]
    fn while_a_service_runs_a_deadline_is_no_sooner_than_the_grain() {
        let (mut accounting, _) = pair();
        let next = |service, at| Next { service, budget: Alarm::NEVER, deadline: alarm(at) };
        assert_eq!(accounting.arm(&next(Some(id(1)), 1_010), 1_000), Some(1_500));
        // Another choice does not put it off.
        assert_eq!(accounting.arm(&next(Some(id(1)), 1_010), 1_009), None);
        assert_eq!(accounting.timer_fired(), Some(id(0)));
        assert_eq!(accounting.timer_fired(), None, "it is not set");
        // While the processor is idle, there is no service to disturb.
        assert_eq!(accounting.arm(&next(None, 1_610), 1_600), Some(1_610));
        assert_eq!(accounting.arm(&next(Some(id(1)), u64::MAX), 1_600), None);
        assert_eq!(accounting.arm(&next(Some(id(1)), u64::MAX), 1_700), None, "there is no time to set it to");
        // One that should have fired is set again.
        assert_eq!(accounting.arm(&next(None, 1_700), 1_610), Some(1_700));
        assert_eq!(accounting.arm(&next(Some(id(1)), 9_999), 1_600), None, "it fires before that");
    }

    #[test]
    fn the_timer_is_never_set_further_than_xen_believes() {
        let (mut accounting, _) = pair();
        let next = Next { service: None, budget: Alarm::NEVER, deadline: alarm(1 << 60) };
        assert_eq!(accounting.arm(&next, 1_000), Some(1_000 + (1 << 49)));
    }

    #[test]
    fn a_budget_ends_and_begins_exactly() {
        let (mut accounting, _) = pair();
        let deadline = Alarm { at: 1_005, owner: Some(id(1)) };
        assert_eq!(accounting.arm(&Next { service: Some(id(1)), budget: alarm(1_010), deadline }, 1_000), Some(1_010));
        assert_eq!(accounting.timer_fired(), Some(id(0)));
        // The deadline comes first when its grain is over.
        assert_eq!(accounting.arm(&Next { service: Some(id(1)), budget: alarm(1_900), deadline }, 1_010), Some(1_510));
        assert_eq!(accounting.timer_fired(), Some(id(1)));
    }

    #[test]
    fn a_timer_that_comes_too_early_is_paid_by_the_service_that_ran_in_between() {
        let end = |at| Next { service: Some(id(1)), budget: Alarm { at, owner: None }, deadline: Alarm::NEVER };
        let (mut accounting, mut scheduler) = pair();
        accounting.arm(&end(2_000), 100);
        // The running service pays for its own timer.
        assert_eq!(accounting.timer_fired(), None);
        accounting.arm(&end(2_000), 100);
        accounting.charge_entry(&mut scheduler, id(1), id(0), 300);
        accounting.charge_kernel_work(&mut scheduler, id(0), || panic!("it goes on itself"));
        accounting.charge_entry(&mut scheduler, id(0), id(0), 350);
        assert_eq!(accounting.arm(&end(2_100), 350), None);
        accounting.charge_kernel_work(&mut scheduler, id(1), || 370);
        assert_eq!(accounting.timer_fired(), Some(id(0)));
    }

    #[test]
    fn a_restart_is_paid_by_the_service_that_faulted() {
        let (mut accounting, mut scheduler) = pair();
        accounting.charge_entry(&mut scheduler, id(0), id(0), 110);
        accounting.charge_restart(&mut scheduler, id(0), 7_000_110);
        accounting.charge_kernel_work(&mut scheduler, id(1), || 7_000_115);
        assert_eq!(totals(&scheduler), [7_000_015, 0]);
    }

    #[test]
    fn the_grain_follows_what_an_interrupt_costs_within_bounds() {
        assert_eq!(Costs::new(0), Costs { interrupt: 1_000, grain: 50_000 });
        assert_eq!(Costs::new(5_000), Costs { interrupt: 5_000, grain: 80_000 });
        assert_eq!(Costs::new(u64::MAX), Costs { interrupt: 100_000, grain: 500_000 });
    }
}
