//! The memory of the regions: what each holds, and how each service maps it.

use std::cell::OnceCell;

use cloister_caps::tables::{RegionKind, Tables};
use cloister_caps::{Gfn, PAGE_SIZE, RegionId};
use cloister_interfaces::Memory;
use cloister_kernel_core::placement::Placements;

use crate::memory::SharedMemory;

/// What a region is made of.
enum Content {
    /// Pages that somebody writes; made when they are first looked at.
    Shared(usize, OnceCell<SharedMemory>),
    /// Bytes that nobody writes.
    Constant(&'static [u8]),
}

struct Region {
    id: RegionId,
    name: String,
    first: u64,
    pages: u64,
    content: Content,
}

/// Every region.
pub struct Regions {
    regions: Vec<Region>,
}

/// The bytes of the regions that no service writes.
pub struct Constants<'a> {
    /// Data that the policy compiler made, by the region's name.
    pub data: &'a [(String, Vec<u8>)],
    /// The boot module.
    pub module: &'a [u8],
    /// The command line.
    pub command_line: &'a [u8],
}

impl Regions {
    /// The regions of `tables` at `placements`.
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
                // Programs hold them as `&'static`, as in the image; a test's process is short.
                Some(bytes) => Content::Constant(bytes.to_vec().leak()),
                None => Content::Shared(placement.length() as usize, OnceCell::new()),
            };
            Region { id, name, first: placement.frames().start, pages: placement.pages(), content }
        };
        Regions { regions: tables.regions().with_ids().map(region).collect() }
    }

    /// The pages of a region; `None` if its bytes are constant.
    pub fn shared(&self, region: RegionId) -> Option<SharedMemory> {
        match &self.regions.get(region.index())?.content {
            Content::Shared(length, memory) => Some(memory.get_or_init(|| SharedMemory::new(*length)).clone()),
            Content::Constant(_) => None,
        }
    }

    /// The bytes of a region; `None` if somebody may write them.
    pub fn constant(&self, region: RegionId) -> Option<&'static [u8]> {
        match self.regions.get(region.index())?.content {
            Content::Shared(..) => None,
            Content::Constant(bytes) => Some(bytes),
        }
    }

    /// The region of this name.
    pub fn id(&self, name: &str) -> Option<RegionId> {
        self.regions.iter().find(|region| region.name == name).map(|region| region.id)
    }

    /// The name of a region.
    pub fn name(&self, region: RegionId) -> &str {
        &self.regions[region.index()].name
    }

    /// The page at `frame`: its region's memory and where in it the page starts.
    pub fn page(&self, frame: Gfn) -> Option<(SharedMemory, usize)> {
        let holds = |region: &Region| (region.first..region.first + region.pages).contains(&frame.0);
        let region = self.regions.iter().find(|region| holds(region))?;
        let offset = (frame.0 - region.first) as usize * PAGE_SIZE;
        Some((self.shared(region.id)?, offset))
    }

    /// Fills regions with zeros.
    pub fn clear(&self, regions: impl Iterator<Item = RegionId>) {
        for memory in regions.filter_map(|region| self.shared(region)) {
            memory.write(0, &vec![0; memory.len()]);
        }
    }
}
