//! The memory of the regions: the content of each, and how each service maps it.

use std::cell::OnceCell;

use cloister_caps::tables::{RegionKind, Tables};
use cloister_caps::{Gfn, PAGE_SIZE, RegionId};
use cloister_interfaces::Memory;
use cloister_kernel_core::placement::Placements;

use crate::memory::SharedMemory;

/// The content of a region.
enum Content {
    /// Pages that are written. Created at their first use.
    Shared(usize, OnceCell<SharedMemory>),
    /// Bytes that are never written.
    Constant(&'static [u8]),
}

struct Region {
    id: RegionId,
    name: String,
    first: u64,
    pages: u64,
    content: Content,
}

/// The regions of an image.
pub struct Regions {
    regions: Vec<Region>,
}

/// The bytes of the constant regions.
pub struct Constants<'a> {
    /// The data that the policy compiler made, by the region's name.
    pub data: &'a [(String, Vec<u8>)],
    /// The boot module.
    pub module: &'a [u8],
    /// The command line.
    pub command_line: &'a [u8],
}

impl Regions {
    /// Creates the regions of `tables` at `placements`.
    pub fn new(tables: &Tables<'_>, placements: &Placements, constants: &Constants<'_>) -> Self {
        let region = |(id, record): (RegionId, cloister_caps::tables::Region)| {
            let placement = &placements[id];
            let name = tables.name(record.name).to_string();
            let constant = match record.kind {
                RegionKind::Module => Some(constants.module),
                RegionKind::CommandLine => Some(constants.command_line),
                RegionKind::ImageData => Some(
                    constants
                        .data
                        .iter()
                        .find(|(region, _)| *region == name)
                        .map(|(_, bytes)| bytes.as_slice())
                        .expect("the compiler makes the bytes of every data region"),
                ),
                RegionKind::Fixed | RegionKind::Share | RegionKind::XenStoreRing => None,
            };
            let content = match constant {
                // Programs hold them as `&'static`, as in the image. A test's process is short.
                Some(bytes) => Content::Constant(bytes.to_vec().leak()),
                None => Content::Shared(placement.length() as usize, OnceCell::new()),
            };
            Region { id, name, first: placement.frames().start, pages: placement.pages(), content }
        };
        Regions { regions: tables.regions().with_ids().map(region).collect() }
    }

    /// Returns the memory of a region, or `None` if its bytes are constant.
    pub fn shared(&self, region: RegionId) -> Option<SharedMemory> {
        match &self.regions.get(region.index())?.content {
            Content::Shared(length, memory) => Some(memory.get_or_init(|| SharedMemory::new(*length)).clone()),
            Content::Constant(_) => None,
        }
    }

    /// Returns the bytes of a constant region, or `None` for another.
    pub fn constant(&self, region: RegionId) -> Option<&'static [u8]> {
        match self.regions.get(region.index())?.content {
            Content::Shared(..) => None,
            Content::Constant(bytes) => Some(bytes),
        }
    }

    /// Returns the region of this name.
    pub fn id(&self, name: &str) -> Option<RegionId> {
        self.regions.iter().find(|region| region.name == name).map(|region| region.id)
    }

    /// Returns the name of a region.
    pub fn name(&self, region: RegionId) -> &str {
        &self.regions[region.index()].name
    }

    /// Returns the page at `frame`: its region's memory, and the page's offset there.
    pub fn page(&self, frame: Gfn) -> Option<(SharedMemory, usize)> {
        let holds = |region: &Region| (region.first..region.first + region.pages).contains(&frame.0);
        let region = self.regions.iter().find(|region| holds(region))?;
        let offset = (frame.0 - region.first) as usize * PAGE_SIZE;
        Some((self.shared(region.id)?, offset))
    }

    /// Fills a region with zeros, unless it is constant.
    pub fn clear(&self, region: RegionId) {
        if let Some(memory) = self.shared(region) {
            memory.write(0, &vec![0; memory.len()]);
        }
    }
}
