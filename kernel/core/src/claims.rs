//! Keeps the owner of each frame that is in use when the image boots, so that none has two.
//!
//! Xen and the toolstack say where the boot module, the start info, the XenStore page and the
//! console page are. Nothing makes them tell the truth: two could be in one place, or one within
//! the kernel. Each frame range is therefore claimed by name, and a claim for what another has is
//! refused.

use arrayvec::ArrayVec;
use cloister_caps::tables::Tables;
use cloister_caps::{Gfn, PAGE_SIZE};
use core::fmt;

use crate::boot::{BootError, IDENTITY_MAP_END, MapEntry, StartInfo};
use crate::grant_frames;
use crate::memory::{FrameRange, FreeMemory};
pub use crate::owner::Owner;

/// The largest number of claims. Claims of one owner that follow each other count once, so an image
/// that was packed as usual makes three.
const MAX_CLAIMS: usize = 64;
/// The frames that memory below 4 GiB has.
const FRAMES: u64 = IDENTITY_MAP_END / PAGE_SIZE as u64;
/// The frame of the local APIC's registers (`APIC_DEFAULT_PHYS_BASE` of Xen's `apicdef.h`).
const LOCAL_APIC: u64 = 0xF_EE00;
/// Frame numbers at which the memory map usually has a hole, in order of preference.
const HOLES: [u64; 3] = [0xF_0000, 0xF_D000, 0xE_0000];
/// The frames of Xen's shared pages: the shared info, and after it the grant table.
pub const SHARED_PAGES: u64 = 1 + grant_frames::MAX_FRAMES as u64;

/// Names frames and their owner.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Claim {
    /// The owner.
    pub owner: Owner,
    /// The frames.
    pub frames: FrameRange,
}

impl fmt::Display for Claim {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} (frames {:#x} to {:#x})", self.owner, self.frames.start, self.frames.end.saturating_sub(1))
    }
}

/// Says why the guest's memory cannot be divided up.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum ClaimError {
    /// The second already has frames of the first.
    Overlap(Claim, Claim),
    /// The frames are not all below 4 GiB.
    TooHigh(Claim),
    /// There are more claims than the kernel keeps.
    TooMany(Claim),
    /// The memory map has no hole for Xen's shared pages.
    NoHole,
    /// The memory map cannot be used.
    Map(BootError),
}

impl fmt::Display for ClaimError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            ClaimError::Overlap(wanted, held) => {
                write!(f, "{wanted} overlaps {held}; the toolstack must put them apart")
            }
            ClaimError::TooHigh(claim) => write!(f, "{claim} is not below 4 GiB"),
            ClaimError::TooMany(claim) => write!(f, "no room to note {claim}: the image is in too many pieces"),
            ClaimError::NoHole => write!(f, "no hole in the memory map for Xen's shared pages"),
            ClaimError::Map(error) => error.fmt(f),
        }
    }
}

/// Holds frames that have one owner.
///
/// # Holding one proves
/// A [`Claims`] has noted them for one owner. It notes them for no other, and the free memory that
/// it leaves does not have them. There is no copy.
#[derive(PartialEq, Eq, Debug)]
pub struct ClaimedFrames(FrameRange);

impl ClaimedFrames {
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

/// Holds the owner of each frame that is not free.
#[derive(Debug, Default)]
pub struct Claims(ArrayVec<Claim, MAX_CLAIMS>);

impl Claims {
    /// Claims frames for an owner.
    ///
    /// # Errors
    /// Another has one of them, they are not below 4 GiB, or there is no room to note them.
    #[inline(never)] // The boot calls it from many places.
    pub fn claim(&mut self, owner: Owner, frames: FrameRange) -> Result<ClaimedFrames, ClaimError> {
        let claim = Claim { owner, frames };
        if frames.end > FRAMES {
            return Err(ClaimError::TooHigh(claim));
        }
        let overlaps = |held: &&Claim| held.frames.overlaps(frames) && !owner.shares_pages_with(held.owner);
        if let Some(held) = self.0.iter().find(overlaps) {
            return Err(ClaimError::Overlap(claim, *held));
        }
        match self.0.last_mut() {
            Some(last) if last.owner == owner && last.frames.end == frames.start => last.frames.end = frames.end,
            _ if frames.count() == 0 => {}
            _ => self.0.try_push(claim).map_err(|_| ClaimError::TooMany(claim))?,
        }
        Ok(ClaimedFrames(frames))
    }

    /// Claims what the image itself uses, and the local APIC.
    fn claim_image(&mut self, tables: &Tables<'_>, location: &KernelLocation) -> Result<(), ClaimError> {
        let bytes = |(start, length)| FrameRange::touching(start, length);
        self.claim(Owner::Kernel, bytes(location.kernel))?;
        self.claim(Owner::Tables, bytes(location.tables))?;
        for segment in tables.segments().iter() {
            self.claim(Owner::Programs, bytes((segment.image_address, segment.file_size)))?;
        }
        for region in tables.regions().iter() {
            self.claim(Owner::ImageData, bytes((region.image_address, region.image_length)))?;
        }
        self.claim(Owner::LocalApic, FrameRange { start: LOCAL_APIC, end: LOCAL_APIC + 1 })?;
        Ok(())
    }

    /// Claims the first hole of the memory map that has room for Xen's shared pages: no entry, RAM
    /// or not, and no claim touches it.
    fn claim_hole(&mut self, map: &[MapEntry]) -> Result<ClaimedFrames, ClaimError> {
        let mut holes = HOLES.iter().map(|start| FrameRange { start: *start, end: start + SHARED_PAGES });
        let hole = holes.find(|hole| {
            map.iter().all(|entry| !FrameRange::touching(entry.address, entry.length).overlaps(*hole))
                && self.0.iter().all(|held| !held.frames.overlaps(*hole))
        });
        self.claim(Owner::SharedPages, hole.ok_or(ClaimError::NoHole)?)
    }

    /// Removes what is claimed from free memory. No claim can follow.
    fn exclude_from(self, free: &mut FreeMemory) {
        self.0.iter().for_each(|claim| free.remove(claim.frames));
    }
}

/// Locates the kernel and its tables in guest-physical memory: address and length in bytes.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct KernelLocation {
    /// The kernel.
    pub kernel: (u64, u64),
    /// The capability tables.
    pub tables: (u64, u64),
}

/// Names the pages that Xen's parameters name.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct SpecialPages {
    /// The page of the XenStore ring (`HVM_PARAM_STORE_PFN`).
    pub xenstore: Option<Gfn>,
    /// The page of the console ring (`HVM_PARAM_CONSOLE_PFN`).
    pub console: Option<Gfn>,
}

/// Holds the guest's memory: what is free, and where the parts are that the image did not choose.
///
/// # Holding one proves
/// No two of the parts have a frame in common, nor has one with the image or the free memory.
#[derive(Debug)]
pub struct GuestMemory {
    /// RAM that nothing uses.
    pub free: FreeMemory,
    /// All RAM, in bytes.
    pub ram: u64,
    /// The boot module, if there is one, and its length in bytes.
    pub module: Option<(ClaimedFrames, u64)>,
    /// The page of the XenStore ring, if there is one.
    pub xenstore: Option<ClaimedFrames>,
    /// The page of the console ring, if there is one.
    pub console: Option<ClaimedFrames>,
    /// The frames for Xen's shared pages, which are no memory yet.
    pub shared_pages: ClaimedFrames,
}

impl GuestMemory {
    /// Divides the guest's memory up.
    ///
    /// # Errors
    /// Two parts overlap, one is not below 4 GiB, or the memory map has no RAM or no hole.
    pub fn divide(
        info: &StartInfo,
        map: &[MapEntry],
        tables: &Tables<'_>,
        location: &KernelLocation,
        pages: &SpecialPages,
    ) -> Result<GuestMemory, ClaimError> {
        let mut claims = Claims::default();
        claims.claim_image(tables, location)?;
        for data in &info.boot_data {
            claims.claim(data.owner, FrameRange::touching(data.address, data.length))?;
        }
        let module = match info.module {
            Some(module) => {
                let frames = FrameRange::touching(module.address, module.length);
                Some((claims.claim(Owner::Module, frames)?, module.length))
            }
            None => None,
        };
        let mut page = |owner, frame: Option<Gfn>| match frame {
            Some(Gfn(start)) => claims.claim(owner, FrameRange { start, end: start.saturating_add(1) }).map(Some),
            None => Ok(None),
        };
        let xenstore = page(Owner::XenStorePage, pages.xenstore)?;
        let console = page(Owner::ConsolePage, pages.console)?;
        let shared_pages = claims.claim_hole(map)?;
        let mut free = FreeMemory::of_map(map).map_err(ClaimError::Map)?;
        let ram = free.free_frames() * PAGE_SIZE as u64;
        // Nothing at the address that Rust takes for null.
        free.remove(FrameRange { start: 0, end: 1 });
        claims.exclude_from(&mut free);
        Ok(GuestMemory { free, ram, module, xenstore, console, shared_pages })
    }
}

#[cfg(test)]
mod tests;
