//! The sharing of the processor: what the machine's loop asks of the scheduler and the accounting.

use cloister_caps::ServiceId;

use super::Kernel;
use crate::accounting::{Accounting, Costs};
use crate::schedule::{Alarm, Next, State};

impl Kernel<'_> {
    /// Begins to charge the processor's time at `now`, on a machine where interrupts have these
    /// costs.
    pub fn start_accounting(&mut self, costs: Costs, now: u64) {
        self.accounting = Accounting::new(costs, now);
    }

    /// Chooses the service that runs at `now`. If there is none, the deadline is also the time to
    /// try again to end the grants of stopped services.
    #[inline]
    pub fn next(&mut self, now: u64) -> Next {
        let mut next = self.scheduler.next(now);
        if next.service.is_none() {
            next.deadline = next.deadline.earlier(Alarm { at: self.retry_at, owner: None });
        }
        next
    }

    /// Returns the time to set the timer to for the next choice, or `None` if it fires early enough
    /// already. See [`Accounting::arm`].
    #[inline]
    pub fn arm(&mut self, next: &Next, now: u64) -> Option<u64> {
        self.accounting.arm(next, now)
    }

    /// Notes that the timer fired. Returns the service that pays for it; `None` is the one that
    /// ran.
    #[inline]
    pub fn timer_fired(&mut self) -> Option<ServiceId> {
        self.accounting.timer_fired()
    }

    /// Charges the time until `now`, when `service` entered the kernel because of `payer`. See
    /// [`Accounting::charge_entry`].
    #[inline]
    pub fn charge_entry(&mut self, service: ServiceId, payer: ServiceId, now: u64) {
        self.accounting.charge_entry(&mut self.scheduler, service, payer, now);
    }

    /// Charges the time since the entry in full to a service that was restarted until `now`.
    pub fn charge_restart(&mut self, service: ServiceId, now: u64) {
        self.accounting.charge_restart(&mut self.scheduler, service, now);
    }

    /// Notes that the processor was idle until `now`.
    #[inline]
    pub fn note_idle(&mut self, now: u64) {
        self.accounting.note_idle(now);
    }

    /// Charges the kernel's work since the entry, as `service` is about to run. See
    /// [`Accounting::charge_kernel_work`].
    #[inline]
    pub fn charge_kernel_work(&mut self, service: ServiceId, clock: impl FnOnce() -> u64) {
        self.accounting.charge_kernel_work(&mut self.scheduler, service, clock);
    }

    /// Charges a service for `elapsed` ns that end at `now`.
    ///
    /// It is for a machine that knows how long each service ran, as the simulator does. Others use
    /// the methods above.
    pub fn charge(&mut self, service: ServiceId, elapsed: u64, now: u64) {
        self.scheduler.charge(service, elapsed, now);
    }

    /// Returns the CPU time that a service has used since boot, in ns.
    #[must_use]
    pub fn cpu_time(&self, service: ServiceId) -> u64 {
        self.scheduler.cpu_time(service)
    }

    /// Returns the state of a service.
    #[must_use]
    pub fn state(&self, service: ServiceId) -> State {
        self.scheduler.state(service)
    }
}
