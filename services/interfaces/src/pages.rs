//! Numbers of pages, and offsets in them, as messages carry them.

use core::num::NonZeroU16;

use cloister_caps::PAGE_SIZE;

use crate::message::{Defect, Reader, Writer};

/// An offset in a page.
///
/// # Holding one proves
/// It is less than the size of a page.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug, Default)]
pub struct PageOffset(u16);

impl PageOffset {
    /// The start of a page.
    pub const ZERO: Self = PageOffset(0);

    /// Returns the offset. Returns `None` if it is not less than a page.
    #[inline]
    #[must_use]
    pub const fn new(offset: u16) -> Option<Self> {
        if (offset as usize) < PAGE_SIZE { Some(PageOffset(offset)) } else { None }
    }

    /// Returns the number of bytes before it in the page.
    #[inline]
    #[must_use]
    pub const fn get(self) -> u16 {
        self.0
    }
}

/// Adjacent pages of a region.
///
/// # Holding one proves
/// There is at least one page, and the number of each is a `u16`. It does not prove that the region
/// has the pages.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct PageRun {
    first: u16,
    count: NonZeroU16,
}

impl PageRun {
    /// Returns the run of `count` pages from page `first` on. Returns `None` if `count` is 0 or
    /// `first + count` passes 65,536.
    #[inline]
    #[must_use]
    pub const fn new(first: u16, count: u16) -> Option<Self> {
        match NonZeroU16::new(count) {
            Some(more) if first.checked_add(count - 1).is_some() => Some(PageRun { first, count: more }),
            _ => None,
        }
    }

    /// Returns the number of the first page.
    #[inline]
    #[must_use]
    pub const fn first(self) -> u16 {
        self.first
    }

    /// Returns the number of the last page.
    #[inline]
    #[must_use]
    pub const fn last(self) -> u16 {
        self.first + (self.count.get() - 1)
    }

    /// Returns the number of pages.
    #[inline]
    #[must_use]
    pub const fn count(self) -> u16 {
        self.count.get()
    }

    /// Returns an iterator over the numbers of the pages.
    #[inline]
    pub fn iter(self) -> impl Iterator<Item = u16> + Clone {
        self.first..=self.last()
    }

    #[inline]
    pub(crate) fn encode(self, writer: &mut Writer<'_>) {
        writer.u16(self.first);
        writer.u16(self.count.get());
    }

    #[inline]
    pub(crate) fn decode(reader: &mut Reader<'_>) -> Result<Self, Defect> {
        let both = |reader: &mut Reader<'_>| Ok((reader.u16()?, reader.u16()?));
        reader.checked(both, |(first, count)| PageRun::new(first, count))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_offset_is_in_its_page() {
        for offset in [0, 1, PAGE_SIZE as u16 - 1] {
            assert_eq!(PageOffset::new(offset).map(PageOffset::get), Some(offset));
        }
        for offset in [PAGE_SIZE as u16, u16::MAX] {
            assert_eq!(PageOffset::new(offset), None, "{offset}");
        }
    }

    #[test]
    fn a_run_has_a_page_and_ends_at_the_last_number() {
        for (first, count) in [(0, 0), (7, 0), (u16::MAX, 0), (u16::MAX, 2), (2, u16::MAX), (u16::MAX, u16::MAX)] {
            assert_eq!(PageRun::new(first, count), None, "{first} {count}");
        }
        for (first, count) in [(0, 1), (u16::MAX, 1), (0, u16::MAX), (1, u16::MAX), (300, 17)] {
            let run = PageRun::new(first, count).expect("a run");
            assert_eq!((run.first(), run.count()), (first, count));
            assert_eq!(u32::from(run.last()), u32::from(first) + u32::from(count) - 1);
            assert_eq!(run.iter().count(), usize::from(count));
        }
    }
}
