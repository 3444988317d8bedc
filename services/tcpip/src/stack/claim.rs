//! Our claim to our address: when it is announced and defended (RFC 5227).

use core::time::Duration;

use cloister_interfaces::Instant;

/// The time between the two announcements of an address (RFC 5227, `ANNOUNCE_INTERVAL`; there are
/// `ANNOUNCE_NUM`, 2).
const ANNOUNCE_INTERVAL: Duration = Duration::from_secs(2);
/// The shortest time between two defences (RFC 5227, `DEFEND_INTERVAL`).
const DEFEND_INTERVAL: Duration = Duration::from_secs(10);

/// When the address is announced again, and when it may be defended again.
#[derive(Default)]
pub struct Claim {
    again: Option<Instant>,
    defended: Option<Instant>,
}

impl Claim {
    /// Begins a claim whose first announcement is sent now.
    pub fn begin(&mut self, now: Instant) {
        self.again = Some(now + ANNOUNCE_INTERVAL);
    }

    /// Returns when the second announcement is due.
    pub fn deadline(&self) -> Option<Instant> {
        self.again
    }

    /// Returns `true`, once, if the second announcement is due.
    pub fn take_due(&mut self, now: Instant) -> bool {
        let due = self.again.is_some_and(|at| at <= now);
        if due {
            self.again = None;
        }
        due
    }

    /// Returns `true` if the address is to be defended against a host that claims it, too. Without
    /// a limit, two hosts that both defend it would fill the link.
    pub fn may_defend(&mut self, now: Instant) -> bool {
        let may = self.defended.is_none_or(|at| now >= at + DEFEND_INTERVAL);
        if may {
            self.defended = Some(now);
        }
        may
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_address_is_announced_once_more_after_two_seconds() {
        let (mut claim, start) = (Claim::default(), Instant(7));
        assert_eq!((claim.deadline(), claim.take_due(start)), (None, false));
        claim.begin(start);
        let due = start + Duration::from_secs(2);
        assert_eq!(claim.deadline(), Some(due));
        assert!(!claim.take_due(Instant(due.0 - 1)) && claim.take_due(due) && !claim.take_due(due));
        assert_eq!(claim.deadline(), None);
    }

    #[test]
    fn an_address_is_defended_once_in_ten_seconds() {
        let mut claim = Claim::default();
        let defended = (0..100).filter(|second| claim.may_defend(Instant(second * 1_000_000_000 / 2))).count();
        assert_eq!(defended, 5, "in 50 seconds");
    }
}
