//! The state of the objects that capabilities name.

use cloister_caps::tables::MAX_GRANT_REFS;
use cloister_caps::{Clamped, EvtchnPort};

use super::cspace::NotifyTarget;

/// Holds a bit for each grant reference. The last word has none: every larger number of a word
/// names it.
pub(super) type References = Clamped<u64, { GRANT_WORDS + 1 }>;
const GRANT_WORDS: usize = MAX_GRANT_REFS as usize / 64;

/// An open event channel.
///
/// # Holding one proves
/// Xen has opened the port for a rule of the policy, and it was not closed since.
#[derive(Clone, Copy, Debug)]
pub(super) struct Channel {
    /// Xen's port.
    pub(super) port: EvtchnPort,
    /// The service and bit that an event notifies.
    pub(super) target: NotifyTarget,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_reference_has_a_bit_and_a_larger_number_none() {
        let mut references = References::new([0; _]);
        // The last reference of all, in the last of 64 words.
        *references.get_mut(4095 / 64) |= 1 << 63;
        assert!([62, 64, u64::MAX].iter().all(|word| *references.get(*word) == 0));
        assert_eq!(size_of_val(&references), 65 * 8);
    }
}
