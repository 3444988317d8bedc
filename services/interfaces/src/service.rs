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
///
/// `docs/writing-a-service.md` builds one up, with its policy.
///
/// ```
/// use std::time::Duration;
///
/// use cloister_caps::Slot;
/// use cloister_interfaces::capability::{Clock, Console};
/// use cloister_interfaces::{Instant, Notifications, Service, System};
/// use cloister_sim::Recorder;
///
/// /// Writes a line each minute.
/// struct Minutes<S> {
///     console: Console<S>,
///     clock: Clock<S>,
///     next: Instant,
/// }
///
/// impl<S: System> Service for Minutes<S> {
///     fn notified(&mut self, _: Notifications) {
///         let now = self.clock.now();
///         if now >= self.next {
///             self.console.line(format_args!("a minute has passed"));
///             self.next = now + Duration::from_secs(60);
///         }
///     }
///     fn deadline(&self) -> Option<Instant> {
///         Some(self.next)
///     }
/// }
///
/// let system = Recorder::new();
/// let console = Console::new(system.clone(), Slot(0));
/// let clock = Clock::new(system.clone(), Slot(1));
/// let mut minutes = Minutes { console, clock, next: Instant::START };
/// minutes.notified(Notifications::ALL);
/// assert_eq!(system.console(), "a minute has passed\n");
/// ```
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
