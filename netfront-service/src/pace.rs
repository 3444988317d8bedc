//! How often the back end's events are let in.
//!
//! An event says that there is something on a ring. One that says nothing costs the image as much, and a back end can send
//! as many as it likes (XSA-391). When too many say nothing, the channels are held shut, where events cost nothing, and the
//! rings are looked at by the clock; from time to time events are tried again.

use core::time::Duration;

use cloister_interfaces::Instant;

/// What an event that says nothing adds to the score; one that says something takes 1 off. An honest back end that answers while
/// the rings are being looked at sends some for nothing, too: never half of them for long.
const EMPTY_EVENT_COST: u16 = 2;
/// The score at which events are no longer let in.
const SCORE_LIMIT: u16 = 64;
/// The score with which they are tried again.
const RETRY_SCORE: u16 = SCORE_LIMIT - 8;
/// The time from a look at the rings to the next: the least, while there is something on them, and the most.
const MIN_INTERVAL: Duration = Duration::from_millis(1);
const MAX_INTERVAL: Duration = Duration::from_millis(8);
/// How long events are not let in.
const POLLING_TIME: Duration = Duration::from_millis(100);

/// How events are taken.
#[derive(Default)]
pub struct Pace {
    score: u16,
    polling: Option<Polling>,
    /// Something was on the rings since the last look by the clock.
    found: bool,
}

/// The rings are looked at by the clock.
struct Polling {
    next: Instant,
    interval: Duration,
    until: Instant,
}

impl Pace {
    /// The rings were looked at, because of an event or not, and something was on them or not. `now` is told where it is known.
    /// Answers whether events are no longer let in from now on.
    pub fn record_pass(
        &mut self,
        event: bool,
        found: bool,
        now: Option<Instant>,
        clock: impl FnOnce() -> Instant,
    ) -> bool {
        self.found |= found;
        match (&mut self.polling, now) {
            (None, _) if event => {
                self.score =
                    if found { self.score.saturating_sub(1) } else { self.score.saturating_add(EMPTY_EVENT_COST) };
                if self.score < SCORE_LIMIT {
                    return false;
                }
                let now = now.unwrap_or_else(clock);
                self.polling =
                    Some(Polling { next: now + MIN_INTERVAL, interval: MIN_INTERVAL, until: now + POLLING_TIME });
                self.found = false;
                true
            }
            (Some(polling), Some(now)) if now >= polling.next => {
                if now >= polling.until {
                    self.polling = None;
                    self.score = RETRY_SCORE;
                    return false;
                }
                polling.interval = if core::mem::take(&mut self.found) {
                    MIN_INTERVAL
                } else {
                    (polling.interval * 2).min(MAX_INTERVAL)
                };
                polling.next = now + polling.interval;
                false
            }
            _ => false,
        }
    }

    /// Whether events are held back.
    pub fn holds_events(&self) -> bool {
        self.polling.is_some()
    }

    /// When the rings are to be looked at next.
    pub fn deadline(&self) -> Option<Instant> {
        self.polling.as_ref().map(|polling| polling.next)
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn at(micros: u64) -> Instant {
        Instant(micros * 1_000)
    }

    /// What passes between two looks at the clock, in µs: Miri, for which each is a thousand times dearer, looks at each event.
    const STEP: usize = if cfg!(miri) { 10 } else { 1 };

    /// Events every 10 µs in the given second, with a frame at every `useful`-th; answers how often the service ran.
    fn second(pace: &mut Pace, second: u64, useful: u64) -> u64 {
        let (mut runs, mut frames) = (0, 0);
        for micros in (0..1_000_000).step_by(STEP) {
            let now = at(second * 1_000_000 + micros);
            let comes = micros % 10 == 0;
            frames += u64::from(comes && (micros / 10) % useful == useful - 1);
            let (event, due) = (comes && !pace.holds_events(), pace.deadline().is_some_and(|next| now >= next));
            if event || due {
                runs += 1;
                pace.record_pass(event, core::mem::take(&mut frames) > 0, Some(now), || now);
            }
        }
        runs
    }

    #[test]
    fn a_storm_costs_a_few_looks_and_is_tried_again() {
        let mut pace = Pace::default();
        let runs = second(&mut pace, 1, u64::MAX);
        assert!((100..400).contains(&runs), "{runs} of 100,000");
    }

    #[test]
    fn a_storm_beside_traffic_is_looked_at_every_millisecond() {
        let mut pace = Pace::default();
        let runs = second(&mut pace, 1, 3);
        assert!((900..3_000).contains(&runs), "{runs} of 100,000");
    }

    #[test]
    fn events_that_say_something_are_all_let_in() {
        let mut pace = Pace::default();
        assert_eq!(second(&mut pace, 1, 1), 100_000);
        // Half of them for nothing is more than an honest back end sends: one in four is not.
        for now in 0..if cfg!(miri) { 4_000 } else { 100_000 } {
            assert!(!pace.record_pass(true, now % 4 != 0, None, || unreachable!()));
        }
    }

    #[test]
    fn a_look_between_puts_the_next_one_off_for_nobody() {
        let mut pace = Pace::default();
        while !pace.record_pass(true, false, Some(at(0)), || unreachable!()) {}
        let next = pace.deadline();
        pace.record_pass(false, true, Some(at(500)), || unreachable!());
        pace.record_pass(true, true, Some(at(999)), || unreachable!());
        assert_eq!((next, pace.deadline()), (Some(at(1_000)), next));
    }

    #[test]
    fn after_a_storm_events_are_let_in_again() {
        let mut pace = Pace::default();
        second(&mut pace, 1, u64::MAX);
        second(&mut pace, 2, 1);
        assert!(!pace.holds_events() && pace.score == 0);
    }

    proptest! {
        /// Whatever comes, the rings are looked at again within `MAX_INTERVAL`, and events are let in again within `POLLING_TIME` of it.
        #[test]
        fn nothing_is_held_for_long(wakes in prop::collection::vec((any::<bool>(), any::<bool>(), any::<bool>(), 0_u64..5_000), 0..2_000)) {
            let (mut pace, mut micros, mut since) = (Pace::default(), 0, None);
            for (event, found, timed, later) in wakes {
                micros = pace.deadline().map_or(micros + later, |next| (micros + later).min(next.0 / 1_000));
                let now = at(micros);
                let due = pace.deadline().is_some_and(|next| now >= next);
                pace.record_pass(event, found, (timed || due).then_some(now), || now);
                since = pace.holds_events().then(|| since.unwrap_or(now));
                if let (Some(since), Some(next)) = (since, pace.deadline()) {
                    prop_assert!(next - now <= MAX_INTERVAL && now - since <= POLLING_TIME + MAX_INTERVAL);
                }
            }
        }
    }
}
