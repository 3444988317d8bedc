//! What every service is.

use core::ops::BitOr;

use crate::system::Instant;

/// Notification bits, as `wait` answers them.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Notifications(pub u64);

impl Notifications {
    /// What a service is given when it starts: look at everything once.
    pub const ALL: Notifications = Notifications(u64::MAX);

    /// Whether the notification with this bit number came.
    #[must_use]
    pub const fn has(self, bit: u8) -> bool {
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
/// Its constructor takes its capabilities: a structure with one field for each, which the policy
/// compiler fills in; a capability that the policy does not grant is a field that it cannot fill, and
/// does not compile.
pub trait Service {
    /// Drains queues and events; bounded work per call. Work left over shows as a passed [`Self::deadline`].
    fn notified(&mut self, notifications: Notifications);

    /// The next time at which it wants to run without being notified.
    fn deadline(&self) -> Option<Instant>;

    /// The events that it does not want to be told of while it waits: those of a peer that sends too many. The channels
    /// that it was told of already stay shut, which costs nothing whatever the peer sends.
    fn events_to_hold(&self) -> Notifications {
        Notifications::default()
    }
}
