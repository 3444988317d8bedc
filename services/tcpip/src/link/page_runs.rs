//! The free pages of the tx-pool, and runs of adjacent ones for long frames.
//!
//! Short frames take the lowest free page and long frames the highest free run, so that short
//! frames do not split what long ones need. A part of the pool at either end is kept for one kind,
//! so that neither kind starves the other.

use cloister_interfaces::net::TxPage;

/// The largest number of pages of the pool that are used.
pub const MAX_PAGES: usize = 128;
/// The smallest number of pages of which some are kept for long frames.
const MIN_DIVIDED: u32 = 64;
/// The number of pages of the longest run.
const MAX_RUN: u32 = 16;

/// The free pages of a pool.
pub struct PageRuns {
    /// Bit `n` is set while page `n` is free.
    free: u128,
    /// The pages that short frames may take.
    short: u128,
    /// The pages that long frames may take.
    long: u128,
    longest: u32,
}

/// Returns a mask of the lowest `count` bits.
const fn lowest(count: u32) -> u128 {
    if count >= 128 { u128::MAX } else { (1 << count) - 1 }
}

impl PageRuns {
    /// Creates the set of all pages of a pool of `pages` pages.
    pub fn new(pages: usize) -> Self {
        let pages = pages.min(MAX_PAGES) as u32;
        let all = lowest(pages);
        let divided = pages >= MIN_DIVIDED;
        let longest = if divided { MAX_RUN } else { (pages / 2).min(MAX_RUN) };
        let kept = if divided { longest } else { 0 };
        PageRuns { free: all, short: lowest(pages - kept), long: all & !lowest(pages / 8), longest }
    }

    /// Returns the number of pages of the longest run that can ever be taken. 0 if the pool has
    /// next to none.
    pub fn longest(&self) -> usize {
        self.longest as usize
    }

    /// Returns the first pages of the free runs of `count` pages that may be taken.
    fn starts(&self, count: u32) -> u128 {
        let mut starts = self.free & if count <= 1 { self.short } else { self.long };
        let mut have = 1;
        while have < count {
            let step = have.min(count - have);
            starts &= starts >> step;
            have += step;
        }
        starts
    }

    /// Returns how many single pages can be taken.
    pub fn count(&self) -> usize {
        (self.free & self.short).count_ones() as usize
    }

    /// Returns `true` if [`Self::take`] would find `count` adjacent pages.
    pub fn has(&self, count: usize) -> bool {
        (1..=MAX_PAGES).contains(&count) && self.starts(count as u32) != 0
    }

    /// Takes `count` adjacent pages. Returns the first.
    pub fn take(&mut self, count: usize) -> Option<TxPage> {
        if count == 1 {
            let free = self.free & self.short;
            // Clears the lowest set bit.
            self.free ^= free & free.wrapping_neg();
            return (free != 0).then_some(TxPage(free.trailing_zeros() as u16));
        }
        let count = u32::try_from(count).ok().filter(|count| (1..=MAX_PAGES as u32).contains(count))?;
        let starts = self.starts(count);
        if starts == 0 {
            return None;
        }
        let first = 127 - starts.leading_zeros();
        self.free &= !(lowest(count) << first);
        Some(TxPage(first as u16))
    }

    /// Gives back `count` pages from `first` on, which were taken.
    pub fn give_back(&mut self, first: TxPage, count: usize) {
        let pages = if count == 1 { 1 } else { lowest(count as u32) };
        self.free |= pages << (u32::from(first.0) & 127);
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn neither_kind_of_frame_starves_the_other() {
        let mut runs = PageRuns::new(128);
        assert_eq!(core::iter::from_fn(|| runs.take(16)).count(), 7);
        assert_eq!(core::iter::from_fn(|| runs.take(1)).count(), 16);
        let mut runs = PageRuns::new(128);
        assert_eq!(core::iter::from_fn(|| runs.take(1)).count(), 112);
        assert_eq!(runs.take(16), Some(TxPage(112)));
        assert_eq!(runs.take(2), None);
    }

    #[test]
    fn the_smallest_pools_send_short_frames() {
        for pages in 0..4 {
            let mut runs = PageRuns::new(pages);
            assert!(runs.longest() <= pages);
            assert_eq!(core::iter::from_fn(|| runs.take(1)).count(), pages);
        }
        assert!(!PageRuns::new(8).has(0) && !PageRuns::new(8).has(129));
    }

    proptest! {
        /// Runs that were taken never overlap and are inside the pool. Once all are given back, all
        /// pages are free again.
        #[test]
        fn runs_are_disjoint(pages in 0usize..200, acts in prop::collection::vec((1usize..20, any::<bool>()), 0..200)) {
            let mut runs = PageRuns::new(pages);
            let mut out: Vec<(TxPage, usize)> = Vec::new();
            for (count, give) in acts {
                if give && !out.is_empty() {
                    let (first, count) = out.swap_remove(count % out.len());
                    runs.give_back(first, count);
                } else if let Some(first) = runs.take(count) {
                    let range = usize::from(first.0)..usize::from(first.0) + count;
                    prop_assert!(range.end <= pages.min(MAX_PAGES));
                    for (other, length) in &out {
                        prop_assert!(usize::from(other.0) >= range.end || usize::from(other.0) + length <= range.start);
                    }
                    out.push((first, count));
                }
            }
            for (first, count) in out {
                runs.give_back(first, count);
            }
            prop_assert_eq!(runs.free, PageRuns::new(pages).free);
            prop_assert!(runs.longest() < 2 || runs.has(runs.longest()));
        }
    }
}
