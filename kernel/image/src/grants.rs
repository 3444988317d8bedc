//! Writes the entries of the grant table, version 1. No other file does.

use core::mem::offset_of;
use core::sync::atomic::{AtomicU16, AtomicU32, Ordering, fence};

use cloister_caps::xen::grant::{ENTRIES_PER_FRAME, Entry, PERMIT_ACCESS, READING, READONLY, WRITING};
use cloister_caps::{DomId, Gfn, GrantRef, PAGE_SIZE};
use cloister_kernel_core::grant_frames::MAX_FRAMES;
use cloister_kernel_core::placement::RegionFrame;

use crate::hypercall::{self, HypercallError, Space};
use crate::hypercall_page::Xen;
use crate::paging;

/// Xen sets these flags while the peer uses the page.
const IN_USE: u16 = READING | WRITING;

/// Returns the address of an entry, or that of the entry `last` if the reference is larger.
///
/// A service chose the page, and so the reference. The minimum bounds the address even where the
/// processor mispredicts a check before it.
#[inline(never)] // `cargo xtask test` looks at its machine code, which must have no branch.
fn entry_address(reference: u32, last: u32) -> usize {
    // Checks for overflow would be branches. A `u32` times the size of an entry has none.
    (paging::GRANT_TABLE as usize).wrapping_add((reference.min(last) as usize).wrapping_mul(size_of::<Entry>()))
}

/// Gives access to the grant table.
///
/// # Holding one proves
/// The frames of its first `entries` entries are mapped at `GRANT_TABLE`.
pub struct GrantTable {
    entries: u32,
}

impl GrantTable {
    /// Has Xen put the table's first frames at `first`, and maps them: at most [`MAX_FRAMES`].
    ///
    /// # Errors
    /// Xen refuses to put a frame there.
    ///
    /// # Safety
    /// Nothing else is at `first` and the frames that follow, as many as are mapped.
    pub unsafe fn map(xen: Xen, first: Gfn, frames: u32) -> Result<GrantTable, HypercallError> {
        let frames = frames.min(MAX_FRAMES);
        // The last frame first, so that Xen grows the table once.
        for index in (0..u64::from(frames)).rev() {
            let frame = Gfn(first.0 + index);
            // SAFETY: by the caller's promise, it is Xen's page alone. There are addresses for
            // `MAX_FRAMES`.
            unsafe {
                hypercall::add_to_physmap(xen, Space::GrantTable, index, frame)?;
                paging::map_fixed(paging::GRANT_TABLE + index * PAGE_SIZE as u64, frame);
            }
        }
        Ok(GrantTable { entries: frames * ENTRIES_PER_FRAME })
    }

    /// Returns the flags, the domain and the frame of an entry.
    fn entry(&self, reference: GrantRef) -> Option<(&'static AtomicU16, &'static AtomicU16, &'static AtomicU32)> {
        if reference.0 >= self.entries {
            return None;
        }
        let address = entry_address(reference.0, self.entries - 1);
        // SAFETY: the entry lies in a frame that was mapped at boot; its fields are aligned, and
        // Xen changes them atomically.
        unsafe {
            Some((
                AtomicU16::from_ptr((address + offset_of!(Entry, flags)) as *mut u16),
                AtomicU16::from_ptr((address + offset_of!(Entry, domid)) as *mut u16),
                AtomicU32::from_ptr((address + offset_of!(Entry, frame)) as *mut u32),
            ))
        }
    }

    /// Lets `peer` use `frame`. Writes the flags last, because they make the entry valid.
    pub fn permit(&mut self, reference: GrantRef, frame: RegionFrame, peer: DomId, writable: bool) {
        let Some((flags, domain, frame_number)) = self.entry(reference) else { return };
        domain.store(peer.0, Ordering::Relaxed);
        frame_number.store(frame.gfn().0 as u32, Ordering::Relaxed);
        flags.store(PERMIT_ACCESS | if writable { 0 } else { READONLY }, Ordering::Release);
    }

    /// Revokes the permission unless the peer is using the page. Returns `true` if it is revoked.
    ///
    /// A plain store would race with Xen setting a use flag (XSA-396).
    pub fn revoke(&mut self, reference: GrantRef) -> bool {
        let Some((flags, domain, frame_number)) = self.entry(reference) else { return false };
        let mut seen = flags.load(Ordering::SeqCst);
        loop {
            if seen & IN_USE != 0 {
                return false;
            }
            match flags.compare_exchange_weak(seen, 0, Ordering::SeqCst, Ordering::SeqCst) {
                Ok(_) => break,
                Err(now) => seen = now,
            }
        }
        fence(Ordering::SeqCst);
        domain.store(0, Ordering::Relaxed);
        frame_number.store(0, Ordering::Relaxed);
        true
    }
}
