//! The kernel's loop: charges each entry to the service that caused it, and chooses the service
//! that runs next. docs/scheduling.md says what follows from that.

use cloister_caps::ServiceId;

use crate::schedule::Next;

/// Does what the loop decides: the machine, with the scheduler and the accounting.
pub trait Processor {
    /// Chooses the service that runs at `now`.
    fn next(&mut self, now: u64) -> Next;
    /// Sets the timer for the next choice, unless it fires early enough.
    fn arm(&mut self, next: &Next, now: u64);
    /// Sleeps from `now` until an interrupt, and notes that the processor was idle. Returns the
    /// time after that, or `None` if no interrupt will ever come.
    fn sleep(&mut self, now: u64) -> Option<u64>;
    /// Delivers the pending events. Returns the cause, with the owner of each noted.
    fn take_events(&mut self) -> Cause;
    /// Charges the time until `now`, when `service` entered the kernel because of `payer`.
    fn charge_entry(&mut self, service: ServiceId, payer: ServiceId, now: u64);
    /// Charges the time since the entry in full to a service that was restarted. Returns the time.
    fn charge_restart(&mut self, service: ServiceId) -> u64;
    /// Makes `service` the one that runs, and charges the kernel's work since the entry.
    fn switch_to(&mut self, service: ServiceId, now: u64);
}

/// Says why the running service entered the kernel.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Entry {
    /// It made a system call.
    SystemCall,
    /// It caused an exception. Its restart rule has been applied.
    Fault,
    /// An event came.
    Interrupt,
}

/// Finds the service that pays for an interrupt.
#[derive(Clone, Copy, Debug, Default)]
pub struct Cause(Option<ServiceId>);

impl Cause {
    /// Notes an event, in the order in which events are delivered. `owner` is the service that it
    /// is for, or `None` if it is for the kernel.
    #[inline]
    pub fn note(&mut self, owner: Option<ServiceId>) {
        self.0 = self.0.or(owner);
    }
}

/// Delivers the events that came with an entry at `now`, and charges the entry. Returns the time
/// from which the loop goes on.
///
/// One interrupt brings all pending events. The service of the first pays for it, since it would
/// have come for that event alone. Events that are delivered with a system call or a fault have
/// interrupted nothing.
#[inline]
pub fn enter(processor: &mut impl Processor, service: ServiceId, entry: Entry, now: u64) -> u64 {
    let Cause(first) = processor.take_events();
    let payer = first.filter(|_| entry == Entry::Interrupt).unwrap_or(service);
    processor.charge_entry(service, payer, now);
    if entry == Entry::Fault { processor.charge_restart(service) } else { now }
}

/// Makes the service run that is chosen at `now`, and returns it. Sleeps while no service is ready.
/// Returns `None` if none will ever be.
#[inline]
pub fn resume(processor: &mut impl Processor, mut now: u64) -> Option<ServiceId> {
    loop {
        let next = processor.next(now);
        processor.arm(&next, now);
        if let Some(service) = next.service {
            processor.switch_to(service, now);
            return Some(service);
        }
        now = processor.sleep(now)?;
        // No service pays for an interrupt of the idle processor.
        processor.take_events();
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::schedule::Alarm;
    use crate::test_tables::id;

    /// A processor of which all is written down. Its events are for these services.
    #[derive(Default)]
    struct Recorder {
        ready: Vec<Option<ServiceId>>,
        events: Vec<Option<ServiceId>>,
        log: Vec<String>,
    }

    impl Processor for Recorder {
        fn next(&mut self, now: u64) -> Next {
            self.log.push(format!("next at {now}"));
            Next { service: self.ready.remove(0), budget: Alarm::NEVER, deadline: Alarm::NEVER }
        }
        fn arm(&mut self, _: &Next, now: u64) {
            self.log.push(format!("arm at {now}"));
        }
        fn sleep(&mut self, now: u64) -> Option<u64> {
            self.log.push(format!("sleep at {now}"));
            (!self.ready.is_empty()).then_some(9)
        }
        fn take_events(&mut self) -> Cause {
            self.log.push("events".into());
            let mut cause = Cause::default();
            self.events.drain(..).for_each(|owner| cause.note(owner));
            cause
        }
        fn charge_entry(&mut self, service: ServiceId, payer: ServiceId, now: u64) {
            self.log.push(format!("{service} entered at {now}, {payer} pays"));
        }
        fn charge_restart(&mut self, service: ServiceId) -> u64 {
            self.log.push(format!("{service} restarted"));
            8
        }
        fn switch_to(&mut self, service: ServiceId, now: u64) {
            self.log.push(format!("{service} runs at {now}"));
        }
    }

    fn entered(entry: Entry, events: &[Option<ServiceId>]) -> (u64, Vec<String>) {
        let mut processor = Recorder { events: events.to_vec(), ..Recorder::default() };
        (enter(&mut processor, id(3), entry, 5), processor.log)
    }

    #[test]
    fn the_first_service_with_an_event_pays_for_an_interrupt() {
        let pays = |payer: &str| vec!["events".to_string(), format!("service 3 entered at 5, service {payer} pays")];
        assert_eq!(entered(Entry::Interrupt, &[None, Some(id(1)), Some(id(2))]), (5, pays("1")));
        assert_eq!(entered(Entry::Interrupt, &[None]), (5, pays("3")));
        assert_eq!(entered(Entry::Interrupt, &[]), (5, pays("3")));
    }

    #[test]
    fn a_service_pays_for_its_own_calls_and_faults() {
        let events = [Some(id(1))];
        let (now, log) = entered(Entry::SystemCall, &events);
        assert_eq!((now, &log[1][..], log.len()), (5, "service 3 entered at 5, service 3 pays", 2));
        let (now, log) = entered(Entry::Fault, &events);
        assert_eq!(
            (now, &log[1..]),
            (8, &["service 3 entered at 5, service 3 pays", "service 3 restarted"].map(String::from)[..])
        );
    }

    #[test]
    fn while_no_service_is_ready_the_processor_sleeps() {
        let mut processor = Recorder { ready: vec![None, Some(id(2))], ..Recorder::default() };
        assert_eq!(resume(&mut processor, 5), Some(id(2)));
        let expected =
            ["next at 5", "arm at 5", "sleep at 5", "events", "next at 9", "arm at 9", "service 2 runs at 9"];
        assert_eq!(processor.log, expected);
        let mut processor = Recorder { ready: vec![None], ..Recorder::default() };
        assert_eq!(resume(&mut processor, 5), None, "nothing will wake it");
    }
}
