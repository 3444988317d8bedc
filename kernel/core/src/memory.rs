//! Keeps the ranges of free guest-physical memory, and takes pages from them.

use arrayvec::ArrayVec;
use cloister_caps::{Gfn, PAGE_SIZE};

use crate::boot::{BootError, MapEntry};

/// The largest number of free ranges that are kept. A split that would make more loses its smaller
/// part.
const MAX_RANGES: usize = 64;

/// Holds adjacent frames: `start .. end`.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct FrameRange {
    /// Number of the first frame.
    pub start: u64,
    /// Number of the last frame, plus 1.
    pub end: u64,
}

impl FrameRange {
    /// Returns the frames that lie wholly within the `length` bytes from `address`.
    #[must_use]
    pub fn within(address: u64, length: u64) -> FrameRange {
        let page = PAGE_SIZE as u64;
        let start = address.div_ceil(page);
        let end = address.saturating_add(length) / page;
        FrameRange { start, end: end.max(start) }
    }

    /// Returns the frames with at least one of the `length` bytes from `address`.
    #[must_use]
    pub fn touching(address: u64, length: u64) -> FrameRange {
        let page = PAGE_SIZE as u64;
        let start = address / page;
        let end = if length == 0 { start } else { address.saturating_add(length).div_ceil(page) };
        FrameRange { start, end: end.max(start) }
    }

    /// Returns the number of frames.
    #[must_use]
    pub fn count(&self) -> u64 {
        self.end - self.start
    }

    /// Returns `true` if both have a frame in common.
    #[must_use]
    pub fn overlaps(self, other: FrameRange) -> bool {
        self.start.max(other.start) < self.end.min(other.end)
    }
}

/// Owns adjacent frames that were free.
///
/// # Holding one proves
/// A [`FreeMemory`] has given these frames to the holder, and gives them to nobody else. Only
/// [`FreeMemory::take`] and [`FreeMemory::take_aligned`] make one, and there is no copy.
#[derive(PartialEq, Eq, Debug)]
pub struct OwnedFrames(FrameRange);

impl OwnedFrames {
    /// Returns the first frame.
    #[must_use]
    pub fn first(&self) -> Gfn {
        Gfn(self.0.start)
    }

    /// Returns the frames.
    #[must_use]
    pub fn range(&self) -> FrameRange {
        self.0
    }
}

/// Holds the free frames of the guest, as sorted ranges that neither overlap nor touch.
///
/// There is no copy of it: two would give the same frames out.
///
/// # Holding one proves
/// It gives out no frame twice. [`GuestMemory::divide`](crate::claims::GuestMemory::divide) makes
/// one of the RAM that nothing else uses; the boot calls it once, with Xen's map. One made by
/// [`FreeMemory::new`] has what its maker adds.
#[derive(Debug, Default)]
pub struct FreeMemory {
    ranges: ArrayVec<FrameRange, MAX_RANGES>,
}

impl FreeMemory {
    /// Creates a set without frames.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    /// Creates the set of all RAM of a memory map.
    ///
    /// Entries may come in any order, and may overlap. A page is RAM if an entry of RAM has all of
    /// it, and no other entry has a byte of it.
    ///
    /// # Errors
    /// There is no such page.
    pub fn of_map(map: &[MapEntry]) -> Result<FreeMemory, BootError> {
        let mut ram = FreeMemory::new();
        for entry in map.iter().filter(|entry| entry.ram) {
            ram.add(FrameRange::within(entry.address, entry.length));
        }
        for entry in map.iter().filter(|entry| !entry.ram) {
            ram.remove(FrameRange::touching(entry.address, entry.length));
        }
        if ram.ranges.is_empty() { Err(BootError::NoMemory) } else { Ok(ram) }
    }

    /// Adds RAM. Ranges may come in any order, and may overlap.
    pub fn add(&mut self, frames: FrameRange) {
        self.remove(frames);
        // Insertion keeps the order. The library's sort would be a tenth of the kernel.
        let index = self.ranges.partition_point(|range| range.start < frames.start);
        if frames.count() == 0 || self.ranges.try_insert(index, frames).is_err() {
            return;
        }
        let mut merged: ArrayVec<FrameRange, MAX_RANGES> = ArrayVec::new();
        for range in &self.ranges {
            match merged.last_mut() {
                Some(last) if last.end == range.start => last.end = range.end,
                _ => merged.push(*range),
            }
        }
        self.ranges = merged;
    }

    /// Removes frames that are in use. Some or all of them may not be in the set.
    #[inline(never)] // The boot calls it from many places.
    pub fn remove(&mut self, frames: FrameRange) {
        let mut index = 0;
        while frames.count() > 0 && index < self.ranges.len() {
            index += self.remove_from_range(index, frames);
        }
    }

    /// Removes frames from the range at `index`. Returns the number of ranges that it leaves: 0, 1
    /// or 2.
    fn remove_from_range(&mut self, index: usize, frames: FrameRange) -> usize {
        let full = self.ranges.is_full();
        let Some(range) = self.ranges.get_mut(index) else { return 0 };
        let before = FrameRange { start: range.start, end: range.end.min(frames.start) };
        let after = FrameRange { start: range.start.max(frames.end), end: range.end };
        match (before.start < before.end, after.start < after.end) {
            (false, false) => {
                self.ranges.remove(index);
                return 0;
            }
            (true, false) => *range = before,
            (false, true) => *range = after,
            // There is no room for a second range, so the smaller part is lost. That wastes memory,
            // but gives none out twice.
            (true, true) if full => *range = if after.count() > before.count() { after } else { before },
            (true, true) => {
                *range = before;
                self.ranges.insert(index + 1, after);
                return 2;
            }
        }
        1
    }

    /// Takes `pages` adjacent frames.
    ///
    /// They come from the smallest range that has as many, so that large ranges stay whole.
    pub fn take(&mut self, pages: u64) -> Option<OwnedFrames> {
        self.take_aligned(pages, 1)
    }

    /// Takes `pages` adjacent frames, of which the first is a multiple of `align`.
    pub fn take_aligned(&mut self, pages: u64, align: u64) -> Option<OwnedFrames> {
        let start_in = |range: &FrameRange| {
            let start = if align == 1 { range.start } else { range.start.checked_next_multiple_of(align)? };
            (start.checked_add(pages)? <= range.end).then_some(start)
        };
        // The smallest, and of equals the first. Page tables are taken frame by frame, so this is a
        // part of the boot: a range is examined further only if it is smaller than the best so far.
        let (mut best, mut smallest) = (None, u64::MAX);
        for (index, range) in self.ranges.iter().enumerate() {
            let count = range.count();
            if count < smallest
                && let Some(start) = start_in(range)
            {
                (best, smallest) = (Some((index, start)), count);
            }
        }
        let (index, start) = best.filter(|_| pages > 0)?;
        let frames = FrameRange { start, end: start + pages };
        self.remove_from_range(index, frames);
        Some(OwnedFrames(frames))
    }

    /// Returns the number of free frames.
    #[must_use]
    pub fn free_frames(&self) -> u64 {
        self.ranges.iter().map(FrameRange::count).sum()
    }

    /// Returns the size of the largest free range, in frames.
    #[must_use]
    pub fn largest(&self) -> u64 {
        self.ranges.iter().map(FrameRange::count).max().unwrap_or(0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    /// Returns the first frame of those that were taken.
    fn first(frames: Option<OwnedFrames>) -> Option<u64> {
        frames.map(|frames| frames.first().0)
    }

    #[test]
    fn partial_pages_are_not_ram() {
        assert_eq!(FrameRange::within(1, 8192), FrameRange { start: 1, end: 2 });
        assert_eq!(FrameRange::touching(1, 8192), FrameRange { start: 0, end: 3 });
        assert_eq!(FrameRange::touching(1, 0).count(), 0);
        assert_eq!(FrameRange::within(u64::MAX - 1, u64::MAX).count(), 0);
    }

    #[test]
    fn aligned_frames_leave_what_is_before_them() {
        let mut free = FreeMemory::new();
        free.add(FrameRange { start: 5, end: 2000 });
        assert_eq!(first(free.take_aligned(600, 512)), Some(512));
        assert_eq!(free.take_aligned(1500, 512), None);
        assert_eq!(free.take(507), Some(OwnedFrames(FrameRange { start: 5, end: 512 })));
        assert_eq!((free.free_frames(), free.largest()), (888, 888));
        assert_eq!(free.take_aligned(1, u64::MAX), None);
    }

    #[test]
    fn ranges_merge_and_split() {
        let mut free = FreeMemory::new();
        free.add(FrameRange { start: 10, end: 20 });
        free.add(FrameRange { start: 0, end: 10 });
        free.add(FrameRange { start: 5, end: 15 });
        assert_eq!((free.free_frames(), free.largest()), (20, 20));
        free.remove(FrameRange { start: 7, end: 7 });
        assert_eq!(free.ranges.len(), 1, "nothing was taken out");
        free.remove(FrameRange { start: 8, end: 12 });
        assert_eq!((free.free_frames(), free.largest()), (16, 8));
        assert_eq!(free.take(9), None);
        assert_eq!(free.take(0), None);
        assert_eq!(first(free.take(8)), Some(0));
    }

    #[test]
    fn removing_the_end_of_a_range_or_all_of_it_leaves_no_empty_range() {
        let mut free = FreeMemory::new();
        free.add(FrameRange { start: 0, end: 10 });
        free.remove(FrameRange { start: 5, end: 10 });
        assert_eq!(free.ranges[..], [FrameRange { start: 0, end: 5 }]);
        free.remove(FrameRange { start: 0, end: 5 });
        assert!(free.ranges.is_empty());
    }

    #[test]
    fn a_split_beyond_the_limit_loses_its_smaller_part() {
        for (hole, left) in [(3, FrameRange { start: 4, end: 10 }), (7, FrameRange { start: 0, end: 7 })] {
            let mut free = FreeMemory::new();
            (0..MAX_RANGES as u64).for_each(|range| free.add(FrameRange { start: range * 20, end: range * 20 + 10 }));
            free.remove(FrameRange { start: hole, end: hole + 1 });
            assert_eq!((free.ranges.len(), free.ranges.first()), (MAX_RANGES, Some(&left)));
            free.remove(FrameRange { start: 0, end: 15 });
            free.remove(FrameRange { start: 23, end: 24 });
            assert_eq!((free.ranges.len(), free.free_frames()), (MAX_RANGES, 10 * (MAX_RANGES as u64 - 1) - 1));
        }
    }

    #[test]
    fn taking_from_the_edge_of_a_range_makes_no_new_range() {
        let mut free = FreeMemory::new();
        let taken = 3 * MAX_RANGES as u64;
        free.add(FrameRange { start: 0, end: taken + 5 });
        for frame in 0..taken {
            assert_eq!(first(free.take(1)), Some(frame));
        }
        assert_eq!((free.free_frames(), free.ranges.len()), (5, 1));
    }

    proptest! {
        #[test]
        fn no_frame_is_given_twice(
            ram in prop::collection::vec((0_u64..200, 0_u64..60), 0..12),
            holes in prop::collection::vec((0_u64..200, 0_u64..20), 0..12),
            wants in prop::collection::vec(1_u64..20, 0..40),
        ) {
            let mut free = FreeMemory::new();
            let mut owner = vec![false; 400];
            for (start, count) in &ram {
                free.add(FrameRange { start: *start, end: start + count });
                owner[*start as usize..(start + count) as usize].fill(true);
            }
            for (start, count) in &holes {
                free.remove(FrameRange { start: *start, end: start + count });
                owner[*start as usize..(start + count) as usize].fill(false);
            }
            prop_assert_eq!(free.free_frames(), owner.iter().filter(|free| **free).count() as u64);
            for want in wants {
                if let Some(frames) = free.take(want) {
                    prop_assert_eq!(frames.range().count(), want);
                    for frame in frames.range().start..frames.range().end {
                        prop_assert!(std::mem::replace(&mut owner[frame as usize], false));
                    }
                } else {
                    prop_assert!(free.largest() < want);
                }
            }
        }
    }
}
