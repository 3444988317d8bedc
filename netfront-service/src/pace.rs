//! Takes the back end's events, or polls the rings instead during an event storm.
//!
//! An event announces work on a ring. An event without work costs the image as much, and a back end
//! can send any number of them (XSA-391). When too many come without work, the channels are held
//! masked, so that further events cost nothing, and the rings are polled by the clock. After
//! [`POLLING_TIME`] events are tried again.

use core::time::Duration;

use cloister_interfaces::Instant;

/// The amount that an event without work adds to the score. An event with work subtracts 1. An
/// honest back end that answers while the rings are read also sends events without work, but never
/// half of them for long.
const EMPTY_EVENT_COST: u16 = 2;
/// The score at which polling begins.
const SCORE_LIMIT: u16 = 64;
/// The score after polling, with which events are tried again.
const RETRY_SCORE: u16 = SCORE_LIMIT - 8;
/// The shortest time between two polls: the one while there is work on the rings.
const MIN_INTERVAL: Duration = Duration::from_millis(1);
/// The longest time between two polls.
const MAX_INTERVAL: Duration = Duration::from_millis(8);
/// The time for which the rings are polled before events are tried again.
const POLLING_TIME: Duration = Duration::from_millis(100);

/// Decides between events and polling.
#[derive(Default)]
pub struct Pace {
    score: u16,
    polling: Option<Polling>,
    /// There was work on the rings since the last poll.
    found_work: bool,
}

/// The state of polling.
struct Polling {
    next: Instant,
    interval: Duration,
    until: Instant,
}

impl Pace {
    /// Records that the service looked at the rings: whether an event woke it, and whether it found
    /// work. `now` is the time if the caller knows it, else `clock` is read if the time is needed.
    /// Returns `true` if polling begins.
    pub fn record_pass(
        &mut self,
        event: bool,
        found: bool,
        now: Option<Instant>,
        clock: impl FnOnce() -> Instant,
    ) -> bool {
        self.found_work |= found;
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
                self.found_work = false;
                true
            }
            (Some(polling), Some(now)) if now >= polling.next => {
                if now >= polling.until {
                    self.polling = None;
                    self.score = RETRY_SCORE;
                    return false;
                }
                polling.interval = if core::mem::take(&mut self.found_work) {
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

    /// Returns `true` if events are held back, because the rings are polled.
    pub fn holds_events(&self) -> bool {
        self.polling.is_some()
    }

    /// Returns the time of the next poll, if the rings are polled.
    pub fn deadline(&self) -> Option<Instant> {
        self.polling.as_ref().map(|polling| polling.next)
    }
}

#[cfg(test)]
mod tests;
