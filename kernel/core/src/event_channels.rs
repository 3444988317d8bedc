//! Decides what it means that Xen has no event channel left for the domain.

use cloister_caps::tables::{PortPeer, Tables};
use core::fmt;

/// `-ENOSPC`: the domain has as many event channels as it may have (`errno.h`).
const NO_SPACE: i64 = -28;
/// The event channels that every guest uses: those of XenStore and the console, which the toolstack
/// makes, and that of the timer.
const ALWAYS: u32 = 3;

/// Says that the domain may have fewer event channels than the policy's rules need.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct TooFewPorts {
    /// The event channels that the guest needs.
    pub needed: u32,
}

impl fmt::Display for TooFewPorts {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let TooFewPorts { needed } = self;
        write!(
            f,
            "Xen has no event channel left for this guest; the policy needs {needed}; set max_event_channels = {needed} or more in the guest's configuration"
        )
    }
}

/// Returns the number of event channels that a guest with these tables needs.
#[must_use]
pub fn needed(tables: &Tables<'_>) -> u32 {
    let peers = tables.ports().iter().filter(|rule| rule.peer != PortPeer::XenStore);
    peers.fold(ALWAYS, |needed, _| needed.saturating_add(1))
}

/// Checks the result with which Xen refused to make an event channel.
///
/// # Errors
/// The domain may have no more than it has. A rule has at most one, so the policy needs more than
/// that: the image cannot work as the policy says.
pub fn check(code: i64, needed: u32) -> Result<(), TooFewPorts> {
    if code == NO_SPACE { Err(TooFewPorts { needed }) } else { Ok(()) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_error_says_what_to_set() {
        assert_eq!((check(-1, 5), check(0, 5), check(28, 5)), (Ok(()), Ok(()), Ok(())));
        let error = check(-28, 5).unwrap_err();
        assert!(error.to_string().contains("max_event_channels = 5 or more"), "{error}");
    }
}
