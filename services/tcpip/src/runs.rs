//! Which pages of the tx-pool are free, and runs of them for frames of many pages.
//!
//! Short frames take the lowest free page, long ones the highest run: so short frames do not cut up what long ones need. A
//! part of either end is kept for its kind alone, so that neither starves the other.

/// The most pages of the pool that are used.
pub const MAX_PAGES: usize = 128;
/// Below so many pages there is too little to keep a long run free for long frames.
const WORTH_DIVIDING: u32 = 64;
/// Pages of the longest run.
const LONGEST: u32 = 16;

/// The free pages of a pool.
pub struct Runs {
    /// Bit `n` is set while page `n` is free.
    free: u128,
    /// Pages of which short frames may take any.
    short: u128,
    /// Pages of which long frames may take any.
    long: u128,
    longest: u32,
}

/// The lowest `count` bits.
const fn lowest(count: u32) -> u128 {
    if count >= 128 { u128::MAX } else { (1 << count) - 1 }
}

impl Runs {
    /// The pages of a pool of `pages`, all of them free.
    pub fn new(pages: usize) -> Self {
        let pages = pages.min(MAX_PAGES) as u32;
        let all = lowest(pages);
        let divided = pages >= WORTH_DIVIDING;
        let longest = if divided { LONGEST } else { (pages / 2).min(LONGEST) };
        let kept = if divided { longest } else { 0 };
        Runs { free: all, short: lowest(pages - kept), long: all & !lowest(pages / 8), longest }
    }

    /// Pages of the longest run that can ever be taken; 0 if there are next to none.
    pub fn longest(&self) -> usize {
        self.longest as usize
    }

    /// The first pages of the free runs of `count` that may be taken.
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

    /// How many pages can be taken one by one.
    pub fn count(&self) -> usize {
        (self.free & self.short).count_ones() as usize
    }

    /// Whether [`Self::take`] would find `count` pages.
    pub fn has(&self, count: usize) -> bool {
        (1..=MAX_PAGES).contains(&count) && self.starts(count as u32) != 0
    }

    /// Takes `count` pages that follow each other; answers the first.
    pub fn take(&mut self, count: usize) -> Option<u16> {
        if count == 1 {
            let free = self.free & self.short;
            // The lowest bit.
            self.free ^= free & free.wrapping_neg();
            return (free != 0).then_some(free.trailing_zeros() as u16);
        }
        let count = u32::try_from(count).ok().filter(|count| (1..=MAX_PAGES as u32).contains(count))?;
        let starts = self.starts(count);
        if starts == 0 {
            return None;
        }
        let first = 127 - starts.leading_zeros();
        self.free &= !(lowest(count) << first);
        Some(first as u16)
    }

    /// Gives back `count` pages from `first`, which were taken.
    pub fn put(&mut self, first: u16, count: usize) {
        let pages = if count == 1 { 1 } else { lowest(count as u32) };
        self.free |= pages << (u32::from(first) & 127);
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn neither_kind_of_frame_starves_the_other() {
        let mut runs = Runs::new(128);
        assert_eq!(core::iter::from_fn(|| runs.take(16)).count(), 7);
        assert_eq!(core::iter::from_fn(|| runs.take(1)).count(), 16);
        let mut runs = Runs::new(128);
        assert_eq!(core::iter::from_fn(|| runs.take(1)).count(), 112);
        assert_eq!(runs.take(16), Some(112));
        assert_eq!(runs.take(2), None);
    }

    #[test]
    fn the_smallest_pools_send_short_frames() {
        for pages in 0..4 {
            let mut runs = Runs::new(pages);
            assert!(runs.longest() <= pages);
            assert_eq!(core::iter::from_fn(|| runs.take(1)).count(), pages);
        }
        assert!(!Runs::new(8).has(0) && !Runs::new(8).has(129));
    }

    proptest! {
        /// Runs that are out never overlap, nor leave the pool; when all are back, all can be had again.
        #[test]
        fn runs_are_disjoint(pages in 0usize..200, acts in prop::collection::vec((1usize..20, any::<bool>()), 0..200)) {
            let mut runs = Runs::new(pages);
            let mut out: Vec<(u16, usize)> = Vec::new();
            for (count, give) in acts {
                if give && !out.is_empty() {
                    let (first, count) = out.swap_remove(count % out.len());
                    runs.put(first, count);
                } else if let Some(first) = runs.take(count) {
                    let range = usize::from(first)..usize::from(first) + count;
                    prop_assert!(range.end <= pages.min(MAX_PAGES));
                    for (other, length) in &out {
                        prop_assert!(usize::from(*other) >= range.end || usize::from(*other) + length <= range.start);
                    }
                    out.push((first, count));
                }
            }
            for (first, count) in out {
                runs.put(first, count);
            }
            prop_assert_eq!(runs.free, Runs::new(pages).free);
            prop_assert!(runs.longest() < 2 || runs.has(runs.longest()));
        }
    }
}
