//! The instructions that leave for Xen, in a page of their own.
//!
//! Where the processor does not say how long such an instruction is (SVM without NRIPS), Xen reads it through the guest's page
//! tables, and so it reads what a hypercall points to: some 4,600 instructions of Xen's for each, most of them for the four
//! levels. The few instructions of [`CODE`] and the numbers of ports therefore stand again in a page at [`KERNEL_HYPERCALL_PAGE`] that two
//! levels lead to. The large page that maps it reaches frames at which nothing else is.

use core::sync::atomic::{AtomicU64, Ordering};

use cloister_caps::abi::KERNEL_HYPERCALL_PAGE;
use cloister_caps::{EvtchnPort, Gfn};
use cloister_kernel_core::memory::FreeMemory;
use cloister_kernel_core::placement::PAGES_PER_LARGE;

use crate::hypercall::{self, Space};
use crate::paging::{self, PagingError, Root};

/// The frame of the page: the last GiB of the 64 that every 64-bit processor can address. Memory above 4 GiB is never used, so
/// that nothing is here even if the guest was given so much.
const FRAME: Gfn = Gfn(63 << 18);

/// Offsets in `hypercall_page` of `entry.s`.
mod offset {
    pub const VMMCALL: u64 = 0;
    pub const VMCALL: u64 = 4;
    pub const IDLE: u64 = 8;
    pub const PORTS: u64 = 16;
}
/// How many ports' numbers stand there.
const PORT_COUNT: u32 = 32;
/// Bytes of all that.
const LENGTH: usize = offset::PORTS as usize + 4 * PORT_COUNT as usize;

unsafe extern "C" {
    static hypercall_page: [u8; LENGTH];
}

/// Where the instruction for hypercalls is that is in use.
pub static HYPERCALL: AtomicU64 = AtomicU64::new(0);
/// Where `idle` of `entry.s` is that is in use.
#[unsafe(no_mangle)]
pub static IDLE: AtomicU64 = AtomicU64::new(0);
/// Where the numbers of ports are that are in use.
static PORT_NUMBERS: AtomicU64 = AtomicU64::new(0);

/// Chooses the instruction for hypercalls, by the processor's vendor: `vmcall` for Intel, Centaur and Zhaoxin, else `vmmcall`.
/// Before any of them.
pub fn choose_instruction(intel: bool) {
    let instruction = if intel { offset::VMCALL } else { offset::VMMCALL };
    let at = &raw const hypercall_page as u64;
    HYPERCALL.store(at + instruction, Ordering::Relaxed);
    IDLE.store(at + offset::IDLE, Ordering::Relaxed);
    PORT_NUMBERS.store(at + offset::PORTS, Ordering::Relaxed);
}

/// Goes over to the page of their own. What Xen refuses leaves everything as it was, and slower.
///
/// # Errors
/// No frame is free.
pub fn relocate(root: &mut Root, free: &mut FreeMemory) -> Result<(), PagingError> {
    // Where it comes from a hole stays, for which Xen divides a large entry of its own: not one of those that lead to page tables.
    let from = free.take_aligned(1, PAGES_PER_LARGE).or_else(|| free.take(1)).ok_or(PagingError::NoMemory)?;
    // SAFETY: constant bytes of the kernel's text.
    paging::write(from, unsafe { &*(&raw const hypercall_page) });
    if hypercall::add_to_physmap(Space::GuestFrame, from.0, FRAME).is_err() {
        return Ok(());
    }
    root.map_hypercall_page(free, FRAME)?;
    let by = KERNEL_HYPERCALL_PAGE.wrapping_sub(&raw const hypercall_page as u64);
    for place in [&HYPERCALL, &IDLE, &PORT_NUMBERS] {
        place.store(place.load(Ordering::Relaxed).wrapping_add(by), Ordering::Relaxed);
    }
    Ok(())
}

/// The address of a constant `u32` that is a port's number, if it is one of the first.
pub fn port_number(port: EvtchnPort) -> Option<u64> {
    (port.0 < PORT_COUNT).then(|| PORT_NUMBERS.load(Ordering::Relaxed) + u64::from(port.0) * 4)
}
