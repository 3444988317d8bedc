//! Sets of the pages of a grant rule.

use core::ops::Range;

use cloister_interfaces::PageRun;

/// The largest number of pages of one rule.
pub const MAX_PAGES: u16 = 1024;
const WORDS: usize = MAX_PAGES as usize / 64;

/// Returns the bits of `pages` in each word of a set.
fn masks(pages: Range<u16>) -> impl Iterator<Item = u64> {
    // The lowest bits of a word, up to a page.
    let below = |page: u16, word: usize| match usize::from(page).saturating_sub(word * 64) {
        bits @ 0..64 => (1 << bits) - 1,
        _ => u64::MAX,
    };
    (0..WORDS).map(move |word| below(pages.end, word) & !below(pages.start, word))
}

/// Returns the pages of a run that can be in a set.
fn range(pages: PageRun) -> Range<u16> {
    pages.first()..pages.last().saturating_add(1)
}

/// A set of page indices below [`MAX_PAGES`].
#[derive(Clone, Debug)]
pub struct PageSet {
    words: [u64; WORDS],
}

impl PageSet {
    /// Creates an empty set.
    pub const fn new() -> Self {
        PageSet { words: [0; WORDS] }
    }

    /// Adds the page, or removes it if not `member`. An index out of range is never in a set.
    pub fn set(&mut self, page: u16, member: bool) {
        if let Some(word) = self.words.get_mut(usize::from(page / 64)) {
            let bit = 1 << (page % 64);
            if member { *word |= bit } else { *word &= !bit }
        }
    }

    /// Adds all of `pages`, or removes them if not `member`.
    pub fn set_all(&mut self, pages: PageRun, member: bool) {
        for (word, bits) in self.words.iter_mut().zip(masks(range(pages))) {
            if member { *word |= bits } else { *word &= !bits }
        }
    }

    /// Returns `true` if one of `pages` is in the set.
    pub fn contains_any(&self, pages: PageRun) -> bool {
        self.words.iter().zip(masks(range(pages))).any(|(word, bits)| word & bits != 0)
    }

    /// Returns the number of pages in the set.
    pub fn count(&self) -> u16 {
        // At most `MAX_PAGES`.
        self.words.iter().map(|word| word.count_ones()).sum::<u32>() as u16
    }

    /// Returns the first page of the set that is not before `from`.
    pub fn first_from(&self, from: u16) -> Option<u16> {
        let words = (0..).step_by(64).zip(self.words.iter().zip(masks(from..MAX_PAGES)));
        words.map(|(first, (word, bits))| (first, word & bits)).find_map(|(first, left)| {
            // Below 64, because not all bits are zero.
            (left != 0).then(|| first + left.trailing_zeros() as u16)
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use std::collections::BTreeSet;

    fn has(pages: &PageSet, page: u16) -> bool {
        pages.words.get(usize::from(page / 64)).is_some_and(|word| word >> (page % 64) & 1 == 1)
    }

    proptest! {
        #[test]
        fn a_range_is_each_of_its_pages(
            members in prop::collection::vec(0..MAX_PAGES, 0..20),
            (first, count) in (0..MAX_PAGES + 70, 1..MAX_PAGES + 70),
            member: bool,
        ) {
            let run = PageRun::new(first, count).expect("a run");
            let mut one = PageSet::new();
            members.into_iter().for_each(|page| one.set(page, true));
            prop_assert_eq!(one.contains_any(run), run.iter().any(|page| has(&one, page)));
            let mut all = one.clone();
            all.set_all(run, member);
            run.iter().for_each(|page| one.set(page, member));
            prop_assert_eq!(all.words, one.words);
        }

        #[test]
        fn it_is_a_set(changes in prop::collection::vec((any::<u16>(), any::<bool>()), 0..200), from: u16) {
            let (mut pages, mut model) = (PageSet::new(), BTreeSet::new());
            for (page, member) in changes {
                let page = page % (MAX_PAGES + 8);
                pages.set(page, member);
                if member && page < MAX_PAGES { model.insert(page); } else { model.remove(&page); }
                prop_assert_eq!(has(&pages, page), model.contains(&page));
            }
            prop_assert_eq!(usize::from(pages.count()), model.len());
            prop_assert_eq!(pages.first_from(from), model.range(from..).next().copied());
        }
    }
}
