//! Which pages of a rule are granted.

/// The most pages of one rule.
pub const PAGES: u16 = 1024;
const WORDS: usize = PAGES as usize / 64;

/// A set of page indices below [`PAGES`].
#[derive(Clone)]
pub struct Pages {
    words: [u64; WORDS],
}

impl Pages {
    /// The empty set.
    pub const fn new() -> Self {
        Pages { words: [0; WORDS] }
    }

    /// Whether the page is in the set.
    pub fn has(&self, page: u16) -> bool {
        self.words.get(usize::from(page / 64)).is_some_and(|word| word >> (page % 64) & 1 == 1)
    }

    /// Puts the page in or takes it out. An index out of range is in no set.
    pub fn set(&mut self, page: u16, member: bool) {
        if let Some(word) = self.words.get_mut(usize::from(page / 64)) {
            let bit = 1 << (page % 64);
            if member { *word |= bit } else { *word &= !bit }
        }
    }

    /// How many pages are in the set.
    pub fn count(&self) -> u16 {
        // At most `PAGES`.
        self.words.iter().map(|word| word.count_ones()).sum::<u32>() as u16
    }

    /// The first page of the set from `from` on.
    pub fn next(&self, from: u16) -> Option<u16> {
        (from..PAGES).find(|page| self.has(*page))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use std::collections::BTreeSet;

    proptest! {
        #[test]
        fn it_is_a_set(changes in prop::collection::vec((any::<u16>(), any::<bool>()), 0..200), from: u16) {
            let (mut pages, mut model) = (Pages::new(), BTreeSet::new());
            for (page, member) in changes {
                let page = page % (PAGES + 8);
                pages.set(page, member);
                if member && page < PAGES { model.insert(page); } else { model.remove(&page); }
                prop_assert_eq!(pages.has(page), model.contains(&page));
            }
            prop_assert_eq!(usize::from(pages.count()), model.len());
            prop_assert_eq!(pages.next(from), model.range(from..).next().copied());
        }
    }
}
