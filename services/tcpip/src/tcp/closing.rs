//! The time that a connection that its application has closed may take to deliver the rest.

use core::time::Duration;

use cloister_interfaces::Instant;
use cloister_interfaces::socket::{BYTE_TIME, BYTE_TIME_PRESSED};

/// Normally a peer may take nothing for a minute.
const NORMAL: Allowance = Allowance { longest: Duration::from_secs(60), per_byte: BYTE_TIME };
/// Under pressure, while its place is needed: three seconds.
const PRESSURE: Allowance = Allowance { longest: SLOW_TIME, per_byte: BYTE_TIME_PRESSED };
/// The time after which a connection gives way to a new one of its own source, if nothing has
/// happened on it.
pub const SLOW_TIME: Duration = Duration::from_secs(3);

/// The time that a peer has left.
struct Allowance {
    /// The longest time ahead.
    longest: Duration,
    /// The time that each byte that the peer takes adds.
    per_byte: Duration,
}

impl Allowance {
    fn extend(&self, end: Instant, bytes: u64, now: Instant) -> Instant {
        // More bytes than fit extend the time to the longest in any case.
        let bytes = u32::try_from(bytes).unwrap_or(u32::MAX);
        (end + self.per_byte * bytes).min(now + self.longest)
    }
}

/// The deadlines of a closed connection. Each byte that its peer takes extends them, so that a peer
/// above the least rate is not cut off.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Closing {
    /// The number of bytes that the peer has not acknowledged.
    unacked: u64,
    /// The time at which the connection is ended.
    pub until: Instant,
    /// The time before which the connection is spared even if its place is needed.
    pub spared: Instant,
}

impl Closing {
    /// Starts the deadlines of a connection that is closed now.
    pub fn new(unacked: u64, now: Instant) -> Self {
        Closing { unacked, until: now + NORMAL.longest, spared: now + PRESSURE.longest }
    }

    /// Returns when the peer last took enough: [`SLOW_TIME`] before the connection is no longer
    /// spared.
    pub fn last_used(&self) -> Instant {
        Instant(self.spared.0.saturating_sub(SLOW_TIME.as_nanos() as u64))
    }

    /// Extends the deadlines by what the peer has acknowledged since the last call.
    pub fn update(&mut self, unacked: u64, now: Instant) {
        let taken = self.unacked.saturating_sub(unacked);
        if taken > 0 {
            self.unacked = unacked;
            self.until = NORMAL.extend(self.until, taken, now);
            self.spared = PRESSURE.extend(self.spared, taken, now);
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const SECOND: u64 = 1_000_000_000;

    /// Lets a peer take `rate` bytes a second, `step` at a time; returns the first second at which
    /// the connection is ended, and at which it is not spared.
    fn ends(rate: u64, step: u64, unacked: u64) -> (Option<u64>, Option<u64>) {
        let mut closing = Closing::new(unacked, Instant(0));
        let (mut ended, mut wanted) = (None, None);
        let mut gone = 0;
        while gone < unacked {
            gone += step;
            let now = Instant(gone * SECOND / rate);
            ended = ended.or((closing.until <= now).then_some(now.0 / SECOND));
            wanted = wanted.or((closing.spared <= now).then_some(now.0 / SECOND));
            closing.update(unacked.saturating_sub(gone), now);
            assert!(closing.until <= now + NORMAL.longest && closing.spared <= now + PRESSURE.longest);
        }
        (ended, wanted)
    }

    #[test]
    fn a_peer_above_the_least_rate_is_not_cut_off_however_much_is_left() {
        for unacked in [1000, 100_000, 600_000, 5_000_000] {
            for step in [1, 100, 1400, 16_384] {
                assert_eq!(ends(501, step, unacked).0, None, "{step} of {unacked}");
                assert_eq!(ends(16_001, step, unacked), (None, None), "{step} of {unacked}");
            }
        }
    }

    #[test]
    fn a_peer_below_the_least_rate_is_cut_off() {
        assert_eq!(ends(1, 100, 600_000).0, Some(100), "too little for a minute");
        assert!(ends(250, 100, 600_000).0.is_some_and(|second| (110..130).contains(&second)));
        assert!(ends(8000, 1400, 600_000).1.is_some_and(|second| (5..8).contains(&second)));
        assert!(ends(600, 600, 600_000).1.is_some_and(|second| second < 5));
    }

    proptest! {
        #[test]
        fn no_number_is_too_large(unacked: u64, now in 0u64..1 << 60, taken: u64) {
            let mut closing = Closing::new(unacked, Instant(now));
            closing.update(unacked.saturating_sub(taken), Instant(now + 1));
            prop_assert!(closing.until.0 >= now && closing.spared.0 >= now);
        }
    }
}
