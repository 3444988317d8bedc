//! Storms of events, and honest back ends.

use proptest::prelude::*;

use super::*;

fn at(micros: u64) -> Instant {
    Instant(micros * 1_000)
}

/// The step of the simulated time, in µs. Under Miri, where a step costs a thousand times as
/// much, it is the time between two events.
const STEP: usize = if cfg!(miri) { 10 } else { 1 };

/// Sends events every 10 µs in the given second, with a frame at every `useful`-th. Returns the
/// number of times that the service ran.
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
fn a_storm_costs_a_few_polls_and_events_are_tried_again() {
    let mut pace = Pace::default();
    let runs = second(&mut pace, 1, u64::MAX);
    assert!((100..400).contains(&runs), "{runs} of 100,000");
}

#[test]
fn a_storm_beside_traffic_is_polled_every_millisecond() {
    let mut pace = Pace::default();
    let runs = second(&mut pace, 1, 3);
    assert!((900..3_000).contains(&runs), "{runs} of 100,000");
}

#[test]
fn events_with_work_are_all_taken() {
    let mut pace = Pace::default();
    assert_eq!(second(&mut pace, 1, 1), 100_000);
    // An honest back end sends fewer than half of its events without work: here one in four.
    for now in 0..if cfg!(miri) { 4_000 } else { 100_000 } {
        assert!(!pace.record_pass(true, now % 4 != 0, None, || unreachable!()));
    }
}

#[test]
fn a_pass_between_two_polls_does_not_delay_the_next() {
    let mut pace = Pace::default();
    while !pace.record_pass(true, false, Some(at(0)), || unreachable!()) {}
    let next = pace.deadline();
    pace.record_pass(false, true, Some(at(500)), || unreachable!());
    pace.record_pass(true, true, Some(at(999)), || unreachable!());
    assert_eq!((next, pace.deadline()), (Some(at(1_000)), next));
}

#[test]
fn after_a_storm_events_are_taken_again() {
    let mut pace = Pace::default();
    second(&mut pace, 1, u64::MAX);
    second(&mut pace, 2, 1);
    assert!(!pace.holds_events() && pace.score == 0);
}

proptest! {
    /// Whatever happens, the next poll is within `MAX_INTERVAL`, and events are tried again at
    /// the first poll after `POLLING_TIME`.
    #[test]
    fn events_are_not_held_for_long(wakes in prop::collection::vec((any::<bool>(), any::<bool>(), any::<bool>(), 0_u64..5_000), 0..2_000)) {
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
