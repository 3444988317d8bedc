//! How long a connection that its application has closed may take to deliver what is left.

use core::time::Duration;

use cloister_interfaces::Instant;

/// How long its peer may take nothing of it; and the least rate, 500 bytes a second.
const PATIENT: Clock = Clock { most: Duration::from_secs(60), byte: Duration::from_millis(2) };
/// The same while its place is wanted: 16,000 bytes a second.
const PRESSED: Clock = Clock { most: Duration::from_secs(3), byte: Duration::from_nanos(62_500) };

/// How far ahead an end is at most, and how far a byte that the peer takes puts it off.
struct Clock {
    most: Duration,
    byte: Duration,
}

impl Clock {
    fn put_off(&self, end: Instant, bytes: u64, now: Instant) -> Instant {
        // What puts the end off the furthest needs no more bytes than fit the number.
        let bytes = u32::try_from(bytes).unwrap_or(u32::MAX);
        (end + self.byte * bytes).min(now + self.most)
    }
}

/// A connection that was closed. What its peer takes buys time, at a rate: a peer that is faster is
/// not cut off.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Closing {
    /// Bytes that the peer has not acknowledged.
    left: u64,
    /// When it is ended.
    pub until: Instant,
    /// Until when it is spared although its place is wanted.
    pub spared: Instant,
}

impl Closing {
    /// A connection that is closed now, with so many bytes left.
    pub fn new(left: u64, now: Instant) -> Self {
        Closing { left, until: now + PATIENT.most, spared: now + PRESSED.most }
    }

    /// Takes note of how many bytes are left now.
    pub fn note(&mut self, left: u64, now: Instant) {
        let taken = self.left.saturating_sub(left);
        if taken > 0 {
            self.left = left;
            self.until = PATIENT.put_off(self.until, taken, now);
            self.spared = PRESSED.put_off(self.spared, taken, now);
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
    fn ends(rate: u64, step: u64, left: u64) -> (Option<u64>, Option<u64>) {
        let mut closing = Closing::new(left, Instant(0));
        let (mut ended, mut wanted) = (None, None);
        let mut gone = 0;
        while gone < left {
            gone += step;
            let now = Instant(gone * SECOND / rate);
            ended = ended.or((closing.until <= now).then_some(now.0 / SECOND));
            wanted = wanted.or((closing.spared <= now).then_some(now.0 / SECOND));
            closing.note(left.saturating_sub(gone), now);
            assert!(closing.until <= now + PATIENT.most && closing.spared <= now + PRESSED.most);
        }
        (ended, wanted)
    }

    #[test]
    fn who_takes_more_than_the_least_rate_is_not_ended_however_much_is_left() {
        for left in [1000, 100_000, 600_000, 5_000_000] {
            for step in [1, 100, 1400, 16_384] {
                assert_eq!(ends(501, step, left).0, None, "{step} of {left}");
                assert_eq!(ends(16_001, step, left), (None, None), "{step} of {left}");
            }
        }
    }

    #[test]
    fn who_takes_less_is_ended() {
        assert_eq!(ends(1, 100, 600_000).0, Some(100), "too little for a minute");
        assert!(ends(250, 100, 600_000).0.is_some_and(|second| (110..130).contains(&second)));
        assert!(ends(8000, 1400, 600_000).1.is_some_and(|second| (5..8).contains(&second)));
        assert!(ends(600, 600, 600_000).1.is_some_and(|second| second < 5));
    }

    proptest! {
        #[test]
        fn no_number_is_too_large(left: u64, now in 0u64..1 << 60, taken: u64) {
            let mut closing = Closing::new(left, Instant(now));
            closing.note(left.saturating_sub(taken), Instant(now + 1));
            prop_assert!(closing.until.0 >= now && closing.spared.0 >= now);
        }
    }
}
