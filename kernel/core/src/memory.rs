//! Decides which guest-physical memory is free, keeps its ranges, and takes pages from them.

use arrayvec::ArrayVec;
use cloister_caps::tables::Tables;
use cloister_caps::{Gfn, PAGE_SIZE};

use crate::boot::{BootError, MapEntry, StartInfo};

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
/// It gives out no frame twice. [`free_memory`] makes one of the RAM that nothing else uses; the
/// boot calls it once, with Xen's map. One made by [`FreeMemory::new`] has what its maker adds.
#[derive(Debug, Default)]
pub struct FreeMemory {
    ranges: ArrayVec<FrameRange, MAX_RANGES>,
    /// The memory that no region of the toolstack's may have: the kernel and its tables.
    kernel: [FrameRange; 2],
    /// Nor these: all frames that the set had when [`free_memory`] made it.
    given_out: ArrayVec<FrameRange, MAX_RANGES>,
}

impl FreeMemory {
    /// Creates a set without frames.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
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
            let start = range.start.checked_next_multiple_of(align)?;
            (pages > 0 && start.checked_add(pages)? <= range.end).then_some(start)
        };
        let ranges = self.ranges.iter().enumerate();
        let fitting = ranges.filter_map(|(index, range)| Some((range.count(), index, start_in(range)?)));
        let (_, index, start) = fitting.min_by_key(|(count, ..)| *count)?;
        let frames = FrameRange { start, end: start + pages };
        self.remove_from_range(index, frames);
        Some(OwnedFrames(frames))
    }

    /// Returns `true` if one of the frames belongs to the kernel, its tables, or the RAM that this
    /// set gives out or has given out.
    #[must_use]
    pub fn is_ours(&self, frames: FrameRange) -> bool {
        let mut ours = self.kernel.iter().chain(&self.given_out);
        ours.any(|range| range.start < frames.end && frames.start < range.end)
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

/// Frame numbers at which the memory map usually has a hole, in order of preference.
const HOLES: [u64; 3] = [0xF_0000, 0xF_D000, 0xE_0000];

/// Returns the first of `pages` adjacent frames that no entry of the memory map touches, RAM or
/// not, if there is such a hole where one is looked for. Xen's own pages go there.
#[must_use]
pub fn find_hole(map: &[MapEntry], pages: u64) -> Option<Gfn> {
    let is_hole = |hole: &u64| {
        let wanted = FrameRange { start: *hole, end: hole + pages };
        map.iter().all(|entry| {
            let taken = FrameRange::touching(entry.address, entry.length);
            taken.end <= wanted.start || wanted.end <= taken.start
        })
    };
    HOLES.into_iter().find(is_hole).map(Gfn)
}

/// Locates the kernel and its tables in guest-physical memory: address and length in bytes.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct KernelLocation {
    /// The kernel.
    pub kernel: (u64, u64),
    /// The capability tables.
    pub tables: (u64, u64),
}

/// Returns the free memory: all RAM of `map` except the first page, the image, the boot data and
/// the boot module.
///
/// # Errors
/// The memory map describes no RAM.
pub fn free_memory(
    info: &StartInfo,
    map: &[MapEntry],
    tables: &Tables<'_>,
    location: &KernelLocation,
) -> Result<FreeMemory, BootError> {
    let mut free = FreeMemory::new();
    for entry in map.iter().filter(|entry| entry.ram) {
        free.add(FrameRange::within(entry.address, entry.length));
    }
    if free.free_frames() == 0 {
        return Err(BootError::NoMemory);
    }
    free.remove(FrameRange { start: 0, end: 1 });
    free.kernel = [location.kernel, location.tables].map(|(start, length)| FrameRange::touching(start, length));
    for frames in free.kernel {
        free.remove(frames);
    }
    for segment in tables.segments().iter() {
        free.remove(FrameRange::touching(segment.image_address, segment.file_size));
    }
    for region in tables.regions().iter() {
        free.remove(FrameRange::touching(region.image_address, region.image_length));
    }
    for entry in &info.boot_data {
        free.remove(FrameRange::touching(entry.address, entry.length));
    }
    if let Some(module) = info.module {
        free.remove(FrameRange::touching(module.address, module.length));
    }
    free.given_out.clone_from(&free.ranges);
    Ok(free)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::boot::Module;
    use crate::test_tables::{REGION, SERVICE, tables};
    use cloister_caps::tables::{RegionKind, raw};
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

    const MIB: u64 = 1 << 20;

    fn entry(address: u64, length: u64, ram: bool) -> MapEntry {
        MapEntry { address, length, ram }
    }

    #[test]
    fn the_hole_is_the_first_that_nothing_touches() {
        let at = |frame: u64| frame * PAGE_SIZE as u64;
        assert_eq!(find_hole(&[entry(0, 64 * MIB, true)], 9), Some(Gfn(0xF_0000)));
        // Not only RAM is in the way, and a byte is enough.
        for ram in [true, false] {
            for taken in [entry(at(0xF_0008), 1, ram), entry(at(0xF_0000) - 1, 2, ram)] {
                assert_eq!(find_hole(&[entry(0, MIB, true), taken], 9), Some(Gfn(0xF_D000)), "{taken:?}");
            }
        }
        for beside in [entry(at(0xF_0009), 1, false), entry(0, at(0xF_0000), true)] {
            assert_eq!(find_hole(&[beside], 9), Some(Gfn(0xF_0000)), "{beside:?}");
        }
        let taken = [entry(at(0xF_0000), 1, false), entry(at(0xF_D004), 1, false)];
        assert_eq!(find_hole(&taken, 9), Some(Gfn(0xE_0000)));
        assert_eq!(find_hole(&taken, 4), Some(Gfn(0xF_D000)), "so few fit before what is there");
        assert_eq!(find_hole(&[entry(0, 1 << 32, true)], 9), None);
    }

    #[test]
    fn memory_that_the_boot_still_needs_is_not_free() {
        let tables = tables(
            &[SERVICE],
            &[raw::Segment {
                service: 0,
                flags: 5,
                address: 0x1000,
                image_address: 0x30_0000,
                file_size: 0x1001,
                memory_size: 0x1001,
            }],
            &[raw::Region { kind: RegionKind::ImageData, image_address: 0x31_0000, image_length: 1, ..REGION }],
            &[],
        );
        let info = StartInfo {
            boot_data: [entry(0x9_0010, 56, true), entry(0x9_2FFF, 2, true)].into_iter().collect(),
            module: Some(Module { address: 0x40_0000, length: 0x2800 }),
            command_line: None,
            map: ArrayVec::new(),
            initial_domain: false,
        };
        let map = [entry(0, 0xA_0000, true), entry(0xA_0000, 0x6_0000, false), entry(MIB, 4 * MIB + 5, true)];
        let location = KernelLocation { kernel: (MIB, 0x1_8001), tables: (0x20_0000, 0x1000) };
        let mut free = free_memory(&info, &map, &tables, &location).unwrap();
        let frames = |start, end| FrameRange { start, end };
        let check = |free: &FreeMemory| {
            for (is_ours, range) in [
                (false, frames(0xA0, 0x100)),
                (true, frames(0xA0, 0x101)),
                (true, frames(0x118, 0x119)),
                // RAM that was free at first, before and after it was taken.
                (true, frames(0x119, 0x11A)),
                (true, frames(0x9F, 0xA0)),
                (true, frames(0x4FF, 0x600)),
                (true, frames(0x200, 0x201)),
                // The program's, the region's, and the module's.
                (false, frames(0x300, 0x302)),
                (false, frames(0x310, 0x311)),
                (false, frames(0x400, 0x403)),
                (false, frames(0x500, 0x600)),
            ] {
                assert_eq!(free.is_ours(range), is_ours, "{range:?}");
            }
        };
        check(&free);
        let mut is_free = vec![false; 0x600];
        while let Some(Gfn(frame)) = free.take(1).map(|frames| frames.first()) {
            is_free[frame as usize] = true;
        }
        let mut expected = vec![false; 0x600];
        expected[1..0xA0].fill(true);
        expected[0x100..0x500].fill(true);
        for used in [0x90..0x91, 0x92..0x94, 0x100..0x119, 0x200..0x201, 0x300..0x302, 0x310..0x311, 0x400..0x403] {
            expected[used].fill(false);
        }
        assert_eq!(is_free, expected);
        check(&free);
        let none = [entry(0, 4 * MIB, false), entry(MIB, 10, true)];
        assert_eq!(free_memory(&info, &none, &tables, &location).err(), Some(BootError::NoMemory));
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
