//! How many connections end, and how many each address holds.

use cloister_collections::Counts;
use cloister_interfaces::socket::SourceId;

/// What a connection counts as.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Standing {
    /// Nothing: its index is free.
    Free,
    /// One that its peer's address holds.
    Held(SourceId),
    /// One whose index will soon be free.
    Ending,
}

/// The numbers of connections.
#[derive(Default)]
pub struct Tally {
    counts: Counts,
    ending: usize,
}

impl Tally {
    /// Creates the numbers for at most `count` connections. Returns `None` if the heap has no room
    /// for them.
    #[inline(never)] // Called once.
    pub fn new(count: usize) -> Option<Self> {
        Some(Tally { counts: Counts::new(count)?, ending: 0 })
    }

    /// Counts a connection that was `before` and is `after`.
    #[inline]
    pub fn update(&mut self, before: Standing, after: Standing) {
        if before != after {
            self.change(before, after);
        }
    }

    #[inline(never)] // Rarely called.
    fn change(&mut self, before: Standing, after: Standing) {
        match before {
            Standing::Free => {}
            Standing::Held(SourceId(source)) => self.counts.shrink(source),
            Standing::Ending => self.ending = self.ending.saturating_sub(1),
        }
        match after {
            Standing::Free => {}
            Standing::Held(SourceId(source)) => self.counts.grow(source),
            Standing::Ending => self.ending += 1,
        }
    }

    /// Returns the number of connections whose indices will soon be free.
    pub fn ending(&self) -> usize {
        self.ending
    }

    /// Returns `true` if a connection is not ended for others: another address holds more than
    /// twice as many as its own.
    pub fn is_spared(&self, standing: Standing) -> bool {
        match standing {
            Standing::Held(SourceId(source)) => self.counts.of(source) < self.counts.largest().div_ceil(2),
            Standing::Free | Standing::Ending => true,
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const COUNT: usize = 12;

    fn standing() -> impl Strategy<Value = Standing> {
        let held = (0..COUNT as u16 + 1).prop_map(|source| Standing::Held(SourceId(source)));
        prop_oneof![Just(Standing::Free), Just(Standing::Ending), held, Just(Standing::Held(SourceId(3)))]
    }

    proptest! {
        /// Compares with a list of all connections.
        #[test]
        fn numbers_match_a_list(acts in prop::collection::vec((0..COUNT, standing()), 0..200)) {
            let mut tally = Tally::new(COUNT).expect("memory");
            let mut all = [Standing::Free; COUNT];
            for (index, after) in acts {
                tally.update(core::mem::replace(&mut all[index], after), after);
                prop_assert_eq!(tally.ending(), all.iter().filter(|one| **one == Standing::Ending).count());
                let held = |source| all.iter().filter(|one| **one == Standing::Held(SourceId(source))).count();
                let most = (0..COUNT as u16).map(held).max().unwrap_or(0);
                for source in 0..COUNT as u16 {
                    prop_assert_eq!(tally.is_spared(Standing::Held(SourceId(source))), 2 * held(source) < most);
                }
            }
        }
    }
}
