//! Decides how many frames of the grant table the kernel maps.

use cloister_caps::tables::{MAX_GRANT_REFS, Tables};
use cloister_caps::xen::grant::ENTRIES_PER_FRAME;
use core::fmt;

/// The largest number of frames of the grant table: those of `MAX_GRANT_REFS` entries.
pub const MAX_FRAMES: u32 = MAX_GRANT_REFS.div_ceil(ENTRIES_PER_FRAME);

/// Says that Xen offers fewer frames than the grant rules need.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct TooFewFrames {
    /// The frames that the grant rules need.
    pub needed: u32,
    /// The frames that Xen offers.
    pub offered: u32,
}

impl fmt::Display for TooFewFrames {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let TooFewFrames { needed, offered } = self;
        write!(
            f,
            "the policy needs {needed} grant frames, Xen offers {offered}; raise max_grant_frames in the guest's configuration"
        )
    }
}

/// Returns the number of frames with the entries of all grant rules: at most [`MAX_FRAMES`].
#[must_use]
pub fn needed(tables: &Tables<'_>) -> u32 {
    let entries = tables.grants().iter().map(|grant| grant.first_ref.saturating_add(grant.count)).max();
    entries.unwrap_or(0).div_ceil(ENTRIES_PER_FRAME)
}

/// Checks that Xen offers as many frames as are needed.
///
/// # Errors
/// Xen offers fewer.
pub fn check(needed: u32, offered: u32) -> Result<(), TooFewFrames> {
    if needed > offered { Err(TooFewFrames { needed, offered }) } else { Ok(()) }
}
