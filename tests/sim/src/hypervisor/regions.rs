//! The memory of the regions: what each holds, and how each service maps it.

use std::cell::OnceCell;

use cloister_caps::tables::{Access, RegionKind, Tables};
use cloister_caps::{Gfn, PAGE_SIZE};
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
    name: String,
    first: u64,
    pages: u64,
    reset: bool,
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
    /// The regions of `tables` at `places`.
    pub fn new(tables: &Tables<'_>, placements: &Placements, constants: &Constants<'_>) -> Self {
        let region =
            |(record, placement): (cloister_caps::tables::Region, &cloister_kernel_core::placement::Placement)| {
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
                    None => Content::Shared(placement.length as usize, OnceCell::new()),
                };
                Region {
                    name,
                    first: placement.frame.0,
                    pages: placement.pages,
                    reset: record.clear_on_restart != 0,
                    content,
                }
            };
        Regions { regions: tables.regions().iter().zip(placements).map(region).collect() }
    }

    /// The pages of the region at `index`; `None` if its bytes are constant.
    pub fn shared(&self, index: usize) -> Option<SharedMemory> {
        match &self.regions.get(index)?.content {
            Content::Shared(length, memory) => Some(memory.get_or_init(|| SharedMemory::new(*length)).clone()),
            Content::Constant(_) => None,
        }
    }

    /// The bytes of the region at `index`; `None` if somebody may write them.
    pub fn constant(&self, index: usize) -> Option<&'static [u8]> {
        match self.regions.get(index)?.content {
            Content::Shared(..) => None,
            Content::Constant(bytes) => Some(bytes),
        }
    }

    /// The position of the region of this name.
    pub fn index(&self, name: &str) -> Option<usize> {
        self.regions.iter().position(|region| region.name == name)
    }

    /// The name of the region at `index`.
    pub fn name(&self, index: usize) -> &str {
        self.regions.get(index).map_or("?", |region| &region.name)
    }

    /// The page at `frame`: its region's memory and where in it the page starts.
    pub fn page(&self, frame: Gfn) -> Option<(SharedMemory, usize)> {
        let holds = |region: &Region| (region.first..region.first + region.pages).contains(&frame.0);
        let index = self.regions.iter().position(holds)?;
        let offset = (frame.0 - self.regions[index].first) as usize * PAGE_SIZE;
        Some((self.shared(index)?, offset))
    }

    /// Empties what a restart of `service` empties.
    pub fn reset(&self, tables: &Tables<'_>, service: u8) {
        let own = |mapping: &cloister_caps::tables::Mapping| {
            mapping.service == service && mapping.access == Access::ReadWrite
        };
        for mapping in tables.mappings().iter().filter(own) {
            let index = usize::from(mapping.region);
            if self.regions.get(index).is_some_and(|region| region.reset)
                && let Some(memory) = self.shared(index)
            {
                memory.write(0, &vec![0; memory.len()]);
            }
        }
    }
}
