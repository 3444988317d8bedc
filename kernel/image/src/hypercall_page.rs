//! Puts the instructions that enter Xen into a hypercall page of our own.
//!
//! Xen reads memory through the guest's page tables when a hypercall points to it, and also to find
//! the length of the instruction where the processor does not tell it (SVM without NRIPS). Each
//! read takes Xen some 4,600 instructions, most of them for the four levels of tables. Therefore
//! the instructions, and port numbers for hypercalls to point to, are copied to a page at
//! [`KERNEL_HYPERCALL_PAGE`] that is reached through two levels. The frames in the rest of its
//! large page do not exist.

use core::sync::atomic::{AtomicU64, Ordering};

use cloister_caps::abi::KERNEL_HYPERCALL_PAGE;
use cloister_caps::{EvtchnPort, Gfn};
use cloister_kernel_core::memory::FreeMemory;
use cloister_kernel_core::placement::PAGES_PER_LARGE;

use crate::hypercall::{self, Space};
use crate::paging::{self, IdentityMap, PagingError, Root};

/// The frame of the page: the first of the last GiB of the 64 that every 64-bit processor can
/// address.
///
/// Memory above 4 GiB is never used, so nothing else is here even in a guest of that size.
const FRAME: Gfn = Gfn(63 << 18);

/// Offsets in `hypercall_page` of `entry.s`.
mod offset {
    pub const VMMCALL: u64 = 0;
    pub const VMCALL: u64 = 4;
    pub const IDLE: u64 = 8;
    pub const PORTS: u64 = 16;
}
/// Ports whose numbers are on the page: those from 0 on.
const PORT_COUNT: u32 = 32;
/// Length of the page's content in bytes.
const LENGTH: usize = offset::PORTS as usize + 4 * PORT_COUNT as usize;

unsafe extern "C" {
    static hypercall_page: [u8; LENGTH];
}

/// The address of the hypercall instruction in use.
pub static HYPERCALL: AtomicU64 = AtomicU64::new(0);
/// The address of the code in use that sleeps until an event.
#[unsafe(no_mangle)]
pub static IDLE: AtomicU64 = AtomicU64::new(0);
/// The address of the port numbers in use.
static PORT_NUMBERS: AtomicU64 = AtomicU64::new(0);

/// Chooses the hypercall instruction: `vmcall` on processors of Intel, Centaur and Zhaoxin, else
/// `vmmcall`.
///
/// It must be called before the first hypercall.
pub fn choose_instruction(intel: bool) {
    let instruction = if intel { offset::VMCALL } else { offset::VMMCALL };
    let at = &raw const hypercall_page as u64;
    HYPERCALL.store(at + instruction, Ordering::Relaxed);
    IDLE.store(at + offset::IDLE, Ordering::Relaxed);
    PORT_NUMBERS.store(at + offset::PORTS, Ordering::Relaxed);
}

/// Moves the code to the hypercall page and maps it. If Xen refuses, the copy in the kernel's text
/// stays in use, which is slower.
///
/// # Errors
/// No frame is free.
pub fn relocate(root: &mut Root, identity: &mut IdentityMap, free: &mut FreeMemory) -> Result<(), PagingError> {
    // The frame leaves a hole, for which Xen splits a large entry of its own page tables. That
    // should not be an entry that leads to our page tables, so take the frame from another 2 MiB.
    let mut from = free.take_aligned(1, PAGES_PER_LARGE).or_else(|| free.take(1)).ok_or(PagingError::NoMemory)?;
    // SAFETY: constant bytes of the kernel's text.
    paging::write(&mut from, unsafe { &hypercall_page });
    // SAFETY: the frame is ours alone, and nothing else is at `FRAME`.
    if unsafe { hypercall::add_to_physmap(Space::GuestFrame, from.first().0, FRAME) }.is_err() {
        return Ok(());
    }
    root.map_hypercall_page(identity, free, FRAME)?;
    let by = KERNEL_HYPERCALL_PAGE.wrapping_sub(&raw const hypercall_page as u64);
    for place in [&HYPERCALL, &IDLE, &PORT_NUMBERS] {
        place.store(place.load(Ordering::Relaxed).wrapping_add(by), Ordering::Relaxed);
    }
    Ok(())
}

/// Returns the address of a constant `u32` with the number of `port`, if the page has one.
pub fn port_number(port: EvtchnPort) -> Option<u64> {
    (port.0 < PORT_COUNT).then(|| PORT_NUMBERS.load(Ordering::Relaxed) + u64::from(port.0) * 4)
}
