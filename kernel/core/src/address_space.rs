//! Decides what each service maps: which frames, at which address, and for which access.

use arrayvec::ArrayVec;
use cloister_caps::tables::segment_flag::{EXECUTABLE, WRITABLE};
use cloister_caps::tables::{Access, MAX_SERVICES, Segment, Tables};
use cloister_caps::{Gfn, PAGE_SIZE, ServiceId};

use crate::memory::{FrameRange, FreeMemory, OwnedFrames};
use crate::placement::Placements;

/// The largest number of writable segments of all services together.
const MAX_SEGMENTS: usize = 4 * MAX_SERVICES;

/// Says how a service may use its pages. None are writable and executable.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum PageAccess {
    /// Read.
    Read,
    /// Read and execute.
    Execute,
    /// Read and write.
    Write,
}

/// Names adjacent pages of a service, and the frames behind them.
///
/// # Holding one proves
/// The capability tables give the service these pages, with this access. Their address is in the
/// half of the address space that is for services. Their frames are those of a region, of a segment
/// in the image, or of a segment's copy, so the kernel keeps nothing of its own in them.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct ServicePages {
    service: ServiceId,
    address: u64,
    frames: FrameRange,
    access: PageAccess,
}

impl ServicePages {
    /// Returns the service.
    #[must_use]
    pub fn service(&self) -> ServiceId {
        self.service
    }

    /// Returns the virtual address of the first page.
    #[must_use]
    pub fn address(&self) -> u64 {
        self.address
    }

    /// Returns the frames.
    #[must_use]
    pub fn frames(&self) -> FrameRange {
        self.frames
    }

    /// Returns how the service may use the pages.
    #[must_use]
    pub fn access(&self) -> PageAccess {
        self.access
    }
}

/// Returns the pages of the segments that services use where they lie in the image: text and
/// constants.
pub fn image_pages<'t>(tables: &Tables<'t>) -> impl Iterator<Item = ServicePages> + use<'t> {
    tables.segments().iter().filter(|segment| segment.flags & WRITABLE == 0).map(|segment| ServicePages {
        service: segment.service,
        address: segment.address,
        frames: FrameRange::touching(segment.image_address, segment.file_size),
        access: if segment.flags & EXECUTABLE != 0 { PageAccess::Execute } else { PageAccess::Read },
    })
}

/// Returns the pages of the regions that services map.
pub fn region_pages<'t>(tables: &Tables<'t>, placements: &Placements) -> impl Iterator<Item = ServicePages> {
    tables.mappings().iter().map(|mapping| ServicePages {
        service: mapping.service,
        address: mapping.address,
        frames: placements[mapping.region].frames(),
        access: if mapping.access == Access::ReadWrite { PageAccess::Write } else { PageAccess::Read },
    })
}

/// Holds the frames of the copy that a service has of a writable segment.
///
/// The image keeps the original for a restart.
///
/// # Holding one proves
/// The segment's bytes lie in the image, in frames that were never free, and the frames of the copy
/// are the holder's alone.
#[derive(Debug)]
pub struct SegmentCopy {
    segment: Segment,
    frames: OwnedFrames,
}

/// Holds the copies of all writable segments.
pub type SegmentCopies = ArrayVec<SegmentCopy, MAX_SEGMENTS>;

/// Says what a frame of a copy is filled with: `length` bytes from the start of a frame of the
/// image, and zeros.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct FrameContent {
    /// The frame of the copy.
    pub to: Gfn,
    /// The frame of the image.
    pub from: Gfn,
    /// The bytes that are copied, at most a page.
    pub length: usize,
}

/// Takes frames for the copies of all writable segments. Returns `None` if there are too few, or
/// too many segments.
pub fn allocate_copies(tables: &Tables<'_>, free: &mut FreeMemory) -> Option<SegmentCopies> {
    let mut copies = SegmentCopies::new();
    for segment in tables.segments().iter().filter(|segment| segment.flags & WRITABLE != 0) {
        let frames = free.take(segment.memory_size.div_ceil(PAGE_SIZE as u64).max(1))?;
        copies.try_push(SegmentCopy { segment, frames }).ok()?;
    }
    Some(copies)
}

impl SegmentCopy {
    /// Returns the pages at which the service uses the copy.
    #[must_use]
    pub fn pages(&self) -> ServicePages {
        let Segment { service, address, .. } = self.segment;
        ServicePages { service, address, frames: self.frames.range(), access: PageAccess::Write }
    }

    /// Returns the content of each frame of the copy at the start of its service.
    pub fn content(&self) -> impl Iterator<Item = FrameContent> + use<> {
        let (page_size, range) = (PAGE_SIZE as u64, self.frames.range());
        let (from, bytes) = (self.segment.image_address / page_size, self.segment.file_size);
        (0..range.count()).map(move |page| FrameContent {
            to: Gfn(range.start + page),
            from: Gfn(from + page),
            length: bytes.saturating_sub(page * page_size).min(page_size) as usize,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::placement::{BootRegions, place_regions};
    use crate::test_tables::{MAPPING, REGION, SERVICE, tables};
    use cloister_caps::tables::raw;

    const SEGMENT: raw::Segment = raw::Segment {
        service: 0,
        flags: 5,
        address: 0x1000,
        image_address: 0x30_0000,
        file_size: 0x1001,
        memory_size: 0x1001,
    };

    fn free(frames: u64) -> FreeMemory {
        let mut free = FreeMemory::new();
        free.add(FrameRange { start: 0x800, end: 0x800 + frames });
        free
    }

    #[test]
    fn text_can_be_executed_and_constants_only_be_read() {
        let constants =
            raw::Segment { flags: 1, image_address: 0x40_0000, file_size: 0x1000, memory_size: 0x1000, ..SEGMENT };
        let copied = raw::Segment { flags: 3, ..SEGMENT };
        let tables =
            tables(&[SERVICE, SERVICE], &[SEGMENT, copied, raw::Segment { service: 1, ..constants }], &[], &[]);
        let found: Vec<_> = image_pages(&tables)
            .map(|pages| (pages.service().index(), pages.address(), pages.frames(), pages.access()))
            .collect();
        let frames = |start, end| FrameRange { start, end };
        let text = (0, 0x1000, frames(0x300, 0x302), PageAccess::Execute);
        assert_eq!(found, [text, (1, 0x1000, frames(0x400, 0x401), PageAccess::Read)]);
    }

    #[test]
    fn a_region_is_writable_only_if_its_mapping_is() {
        let writable = raw::Mapping { access: Access::ReadWrite, address: 0x7000, ..MAPPING };
        let tables = tables(&[SERVICE, SERVICE], &[], &[REGION], &[raw::Mapping { service: 1, ..MAPPING }, writable]);
        let placements = place_regions(&tables, &mut free(1), &BootRegions::default(), 0).unwrap();
        let frames = FrameRange { start: 0x800, end: 0x801 };
        let found: Vec<_> = region_pages(&tables, &placements)
            .map(|pages| (pages.service().index(), pages.address(), pages.frames(), pages.access()))
            .collect();
        assert_eq!(found, [(1, 0x1000, frames, PageAccess::Read), (0, 0x7000, frames, PageAccess::Write)]);
    }

    #[test]
    fn a_copy_has_the_bytes_of_its_segment_and_then_zeros() {
        let data = raw::Segment { flags: 3, memory_size: 0x2001, ..SEGMENT };
        let zeros = raw::Segment { flags: 3, image_address: 0, file_size: 0, memory_size: 0, ..SEGMENT };
        let tables = tables(&[SERVICE], &[SEGMENT, data, zeros], &[], &[]);
        let copies = allocate_copies(&tables, &mut free(4)).unwrap();
        let pages: Vec<_> = copies.iter().map(SegmentCopy::pages).collect();
        assert!(pages.iter().all(|pages| pages.access() == PageAccess::Write && pages.address() == 0x1000));
        let frames = |start, end| FrameRange { start, end };
        assert_eq!(
            pages.iter().map(ServicePages::frames).collect::<Vec<_>>(),
            [frames(0x800, 0x803), frames(0x803, 0x804)]
        );
        let content = |to, from, length| FrameContent { to: Gfn(to), from: Gfn(from), length };
        assert_eq!(
            copies[0].content().collect::<Vec<_>>(),
            [content(0x800, 0x300, 0x1000), content(0x801, 0x301, 1), content(0x802, 0x302, 0)]
        );
        assert_eq!(copies[1].content().collect::<Vec<_>>(), [content(0x803, 0, 0)]);
        assert!(allocate_copies(&tables, &mut free(3)).is_none(), "one frame is missing");
    }
}
