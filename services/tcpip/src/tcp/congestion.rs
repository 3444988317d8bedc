//! How many bytes of a connection may be on their way once the path has lost some.

/// What does not bind: until something is lost a connection sends what the peer's window and its own buffer hold.
const UNLIMITED: u32 = u32::MAX;
/// Beyond this the limit binds nobody: no socket's buffer is as large.
pub const MAX_LIMIT: u32 = 512 * 1024;
/// Segments that may always be on their way, but for a path that has fallen silent (RFC 6928).
const INITIAL_SEGMENTS: u32 = 10;
/// And on that one.
const TIMEOUT_SEGMENTS: u32 = 2;

/// The limit: less when something was lost, more with each byte that arrives (RFC 5681; the factor is RFC 9438's).
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Congestion {
    limit: u32,
    /// Up to here it grows fast.
    threshold: u32,
}

impl Default for Congestion {
    fn default() -> Self {
        Congestion { limit: UNLIMITED, threshold: UNLIMITED }
    }
}

impl Congestion {
    /// Whether there is a limit.
    pub fn is_limited(&self) -> bool {
        self.limit != UNLIMITED
    }

    /// Whether more may be sent, with `out` bytes on their way.
    pub fn admits(&self, out: u32) -> bool {
        out < self.limit
    }

    /// Something was lost, with `flight` bytes not acknowledged.
    pub fn on_loss(&mut self, flight: u32, mss: u32) {
        self.threshold = (flight / 10 * 7).max(INITIAL_SEGMENTS * mss);
        self.limit = self.threshold;
    }

    /// Nothing was heard of `flight` bytes.
    pub fn on_timeout(&mut self, flight: u32, mss: u32) {
        self.on_loss(flight, mss);
        self.limit = TIMEOUT_SEGMENTS * mss;
    }

    /// `count` bytes arrived.
    pub fn on_acked(&mut self, count: u32, mss: u32) {
        if !self.is_limited() {
            return;
        }
        let fast = count.min(self.threshold.saturating_sub(self.limit));
        // A segment in a round trip, in which as many bytes arrive as the limit allows.
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
    fn nothing_binds_until_something_is_lost() {
        let mut congestion = Congestion::default();
        congestion.on_acked(1 << 20, MSS);
        assert!(!congestion.is_limited() && congestion.admits(1 << 30));
    }

    #[test]
    fn it_shrinks_by_three_tenths_and_grows_by_a_segment_in_a_round_trip() {
        let mut congestion = Congestion::default();
        congestion.on_loss(200_000, MSS);
        assert!(congestion.admits(139_999) && !congestion.admits(140_000));
        for _ in 0..14 {
            congestion.on_acked(10_000, MSS);
        }
        assert!(congestion.admits(141_300) && !congestion.admits(141_500), "{congestion:?}");
    }

    #[test]
    fn after_silence_it_grows_with_each_byte_up_to_the_threshold() {
        let mut congestion = Congestion::default();
        congestion.on_timeout(100_000, MSS);
        assert!(congestion.admits(2 * MSS - 1) && !congestion.admits(2 * MSS));
        congestion.on_acked(10_000, MSS);
        assert!(congestion.admits(2 * MSS + 9_999) && !congestion.admits(2 * MSS + 10_000));
        congestion.on_acked(1_000_000, MSS);
        assert!(congestion.admits(70_000), "{congestion:?}");
        // A few bytes on their way leave room for as many segments as a new connection has.
        congestion.on_loss(100, MSS);
        assert!(congestion.admits(10 * MSS - 1));
    }

    #[test]
    fn a_path_that_loses_nothing_for_long_is_free_again() {
        let mut congestion = Congestion::default();
        congestion.on_loss(250_000, MSS);
        assert!((0..10_000).any(|_| {
            congestion.on_acked(250_000, MSS);
            !congestion.is_limited()
        }));
    }
}
