//! The congestion window: how many bytes of a connection may be in flight once its path has lost
//! some.

/// No limit. Until something is lost, only the peer's window and our buffer limit what is in
/// flight.
const UNLIMITED: u32 = u32::MAX;
/// A limit above this has no effect and is dropped: no socket's buffer is as large.
pub const MAX_LIMIT: u32 = 512 * 1024;
/// The number of segments that may always be in flight (RFC 6928), except after a timeout.
const INITIAL_SEGMENTS: u32 = 10;
/// The number of segments in flight after a timeout.
const TIMEOUT_SEGMENTS: u32 = 2;

/// The congestion window. It shrinks at a loss, and grows with acknowledged bytes (RFC 5681, with
/// the factor of RFC 9438).
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Congestion {
    limit: u32,
    /// Up to here the window grows by each acknowledged byte (slow start).
    threshold: u32,
}

impl Default for Congestion {
    fn default() -> Self {
        Congestion { limit: UNLIMITED, threshold: UNLIMITED }
    }
}

impl Congestion {
    /// Returns `true` if there is a limit.
    pub fn is_limited(&self) -> bool {
        self.limit != UNLIMITED
    }

    /// Returns `true` if more may be sent with `out` bytes in flight.
    pub fn admits(&self, out: u32) -> bool {
        out < self.limit
    }

    /// Handles a loss, with `flight` bytes not acknowledged.
    pub fn on_loss(&mut self, flight: u32, mss: u32) {
        self.threshold = (flight / 10 * 7).max(INITIAL_SEGMENTS * mss);
        self.limit = self.threshold;
    }

    /// Handles a timeout, with `flight` bytes not acknowledged.
    pub fn on_timeout(&mut self, flight: u32, mss: u32) {
        self.on_loss(flight, mss);
        self.limit = TIMEOUT_SEGMENTS * mss;
    }

    /// Handles the acknowledgement of `count` bytes.
    pub fn on_acked(&mut self, count: u32, mss: u32) {
        if !self.is_limited() {
            return;
        }
        let fast = count.min(self.threshold.saturating_sub(self.limit));
        // One segment in a round trip, in which as many bytes are acknowledged as the limit allows.
        let slow = u64::from(mss) * u64::from(count - fast) / u64::from(self.limit.max(1));
        self.limit = self.limit.saturating_add(fast).saturating_add(u32::try_from(slow).unwrap_or(u32::MAX));
        if self.limit > MAX_LIMIT {
            *self = Congestion::default();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const MSS: u32 = 1460;

    #[test]
    fn there_is_no_limit_before_a_loss() {
        let mut congestion = Congestion::default();
        congestion.on_acked(1 << 20, MSS);
        assert!(!congestion.is_limited() && congestion.admits(1 << 30));
    }

    #[test]
    fn the_window_shrinks_by_three_tenths_and_grows_by_a_segment_in_a_round_trip() {
        let mut congestion = Congestion::default();
        congestion.on_loss(200_000, MSS);
        assert!(congestion.admits(139_999) && !congestion.admits(140_000));
        for _ in 0..14 {
            congestion.on_acked(10_000, MSS);
        }
        assert!(congestion.admits(141_300) && !congestion.admits(141_500), "{congestion:?}");
    }

    #[test]
    fn after_a_timeout_the_window_grows_with_each_byte_up_to_the_threshold() {
        let mut congestion = Congestion::default();
        congestion.on_timeout(100_000, MSS);
        assert!(congestion.admits(2 * MSS - 1) && !congestion.admits(2 * MSS));
        congestion.on_acked(10_000, MSS);
        assert!(congestion.admits(2 * MSS + 9_999) && !congestion.admits(2 * MSS + 10_000));
        congestion.on_acked(1_000_000, MSS);
        assert!(congestion.admits(70_000), "{congestion:?}");
        // With few bytes in flight, as many segments are allowed as for a new connection.
        congestion.on_loss(100, MSS);
        assert!(congestion.admits(10 * MSS - 1));
    }

    #[test]
    fn a_path_without_losses_for_long_has_no_limit_again() {
        let mut congestion = Congestion::default();
        congestion.on_loss(250_000, MSS);
        assert!((0..10_000).any(|_| {
            congestion.on_acked(250_000, MSS);
            !congestion.is_limited()
        }));
    }
}
