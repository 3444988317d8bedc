//! Computes the SHA-256 of the capability tables while the processor has nothing else to do.
//!
//! At boot it would take a third of the time to the first frame. Then nobody reads the log yet.

use core::fmt;

use cloister_caps::tables::Tables;

use crate::sha256::{BLOCK, Sha256};

/// The time after the boot at which the work begins, in ns.
pub const DELAY: u64 = 1_000_000_000;
/// The bytes of one step. An event waits for no more than these.
const STEP: usize = 4 * BLOCK;

/// Says what a step did.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Step {
    /// Nothing: it is not yet time, or the hash is known.
    Nothing,
    /// A part of the work.
    Part,
    /// The rest of the work. This is the hash.
    Last([u8; 32]),
}

/// Holds the hash of the tables as far as it is computed.
pub struct TablesHash<'t> {
    /// The bytes that follow.
    rest: &'t [u8],
    /// The number of all bytes.
    length: u64,
    hash: Sha256,
    /// The time at which to go on, in ns. `u64::MAX` if the hash is known.
    due: u64,
}

impl<'t> TablesHash<'t> {
    /// Creates the hash of the bytes of `tables`, to be computed some time after `now`.
    #[must_use]
    pub fn new(tables: &Tables<'t>, now: u64) -> TablesHash<'t> {
        let rest = tables.bytes();
        TablesHash { rest, length: rest.len() as u64, hash: Sha256::default(), due: now.saturating_add(DELAY) }
    }

    /// Returns the time at which to make the next step, if nothing else is to be done then.
    /// `u64::MAX` is never.
    #[must_use]
    pub fn due(&self) -> u64 {
        self.due
    }

    /// Makes a step of an idle processor at `now`.
    #[inline(never)] // On no path that matters.
    pub fn step(&mut self, now: u64) -> Step {
        if now < self.due || self.due == u64::MAX {
            return Step::Nothing;
        }
        if let Some((part, rest)) = self.rest.split_at_checked(STEP) {
            self.hash.add(part);
            self.rest = rest;
            return Step::Part;
        }
        self.due = u64::MAX;
        Step::Last(core::mem::take(&mut self.hash).finish(self.rest, self.length))
    }
}

/// Formats a hash in hexadecimal.
#[derive(Clone, Copy, Debug)]
pub struct Hex(pub [u8; 32]);

impl fmt::Display for Hex {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.iter().try_for_each(|byte| write!(f, "{byte:02x}"))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::test_tables::{REGION, SERVICE, tables};
    use sha2::Digest;

    /// The hash of another implementation, of tables that are shorter and longer than a step, and
    /// of several.
    #[test]
    fn the_steps_make_the_hash_of_the_tables() {
        for regions in [0, 1, 4, 5, 6, 7, 40] {
            let tables = tables(&[SERVICE], &[], &vec![REGION; regions], &[]);
            let mut hash = TablesHash::new(&tables, 5);
            let mut steps = 0;
            let found = loop {
                steps += 1;
                match hash.step(DELAY + 5) {
                    Step::Part => {}
                    Step::Last(found) => break found,
                    Step::Nothing => panic!("it is time"),
                }
            };
            assert_eq!(found[..], sha2::Sha256::digest(tables.bytes())[..]);
            assert_eq!(steps, tables.bytes().len() / STEP + 1, "{} bytes", tables.bytes().len());
            assert_eq!((hash.step(u64::MAX), hash.due()), (Step::Nothing, u64::MAX), "it is known");
        }
    }

    #[test]
    fn a_hash_is_written_with_two_digits_a_byte() {
        let hash = core::array::from_fn(|index| index as u8 * 8);
        let text = "0008101820283038404850586068707880889098a0a8b0b8c0c8d0d8e0e8f0f8";
        assert_eq!(Hex(hash).to_string(), text);
    }

    #[test]
    fn the_work_begins_some_time_after_the_boot() {
        let mut hash = TablesHash::new(&tables(&[SERVICE], &[], &[REGION; 40], &[]), 5);
        assert_eq!((hash.due(), hash.step(DELAY + 4)), (DELAY + 5, Step::Nothing));
        assert_eq!((hash.step(DELAY + 5), hash.due()), (Step::Part, DELAY + 5));
    }
}
