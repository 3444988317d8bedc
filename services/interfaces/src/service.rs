//! The trait that every service implements.

use core::ops::BitOr;

use crate::system::Instant;

/// Notification bits, as `wait` returns them.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Notifications(pub u64);

impl Notifications {
    /// Every bit. A service gets it when it starts, so that it looks at everything once.
    pub const ALL: Notifications = Notifications(u64::MAX);

    /// Returns `true` if the notification with this bit number came.
    #[must_use]
    pub const fn contains(self, bit: u8) -> bool {
        self.0 >> bit & 1 == 1
    }
}

impl BitOr for Notifications {
    type Output = Notifications;
    fn bitor(self, other: Notifications) -> Notifications {
        Notifications(self.0 | other.0)
    }
}

/// A state machine that never blocks.
///
/// Its constructor takes a structure with one field for each of its capabilities. The policy
/// compiler emits the code that fills it in. A field for a capability that the policy does not
/// grant cannot be filled, so the program does not compile.
pub trait Service {
    /// Drains queues and handles events. Each call does a bounded amount of work. If work is left
    /// over, [`Self::deadline`] returns a time that has passed.
    fn notified(&mut self, notifications: Notifications);

    /// Returns the next time at which the service wants to run without a notification.
    fn deadline(&self) -> Option<Instant>;

    /// Returns the events whose channels stay masked during the next wait, because their peer sends
    /// too many. Only channels whose events were delivered are masked. Further events on a masked
    /// channel cost nothing.
    fn events_to_hold(&self) -> Notifications {
        Notifications::default()
    }
}
