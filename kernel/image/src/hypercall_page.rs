//! Enters Xen: by the instructions of the hypercall page.
//!
//! Xen reads memory through the guest's page tables when a hypercall points to it, and also to find
//! the length of the instruction where the processor does not tell it (SVM without NRIPS). Each
//! read takes Xen some 4,600 instructions, most of them for the four levels of tables. Therefore
//! the instructions, and port numbers for hypercalls to point to, are copied to a page at
//! [`KERNEL_HYPERCALL_PAGE`] that is reached through two levels. The frames in the rest of its
//! large page do not exist.

use core::arch::asm;
use core::sync::atomic::{AtomicU64, Ordering};

use cloister_caps::EvtchnPort;
use cloister_caps::abi::KERNEL_HYPERCALL_PAGE;

use crate::count::{self, Count, count};
use crate::processor::{self, Features};

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

/// The address of the hypercall instruction in use, or 0 while none is chosen.
static HYPERCALL: AtomicU64 = AtomicU64::new(0);
/// The address of the code in use that sleeps until an event.
#[unsafe(no_mangle)]
static IDLE: AtomicU64 = AtomicU64::new(0);
/// The address of the port numbers in use.
static PORT_NUMBERS: AtomicU64 = AtomicU64::new(0);

/// Proves that hypercalls are possible.
///
/// # Holding one proves
/// The hypercall instruction is chosen.
#[derive(Clone, Copy)]
pub struct Xen(());

/// Chooses the hypercall instruction of this processor. Returns `None` if the machine is not a Xen
/// guest.
pub fn choose_instruction(features: &Features) -> Option<Xen> {
    if !features.xen() {
        return None;
    }
    let instruction = if features.vmcall() { offset::VMCALL } else { offset::VMMCALL };
    let at = &raw const hypercall_page as u64;
    HYPERCALL.store(at + instruction, Ordering::Relaxed);
    IDLE.store(at + offset::IDLE, Ordering::Relaxed);
    PORT_NUMBERS.store(at + offset::PORTS, Ordering::Relaxed);
    Some(Xen(()))
}

/// Returns the proof if the hypercall instruction is chosen. It is for code that may run before.
pub fn chosen() -> Option<Xen> {
    (HYPERCALL.load(Ordering::Relaxed) != 0).then_some(Xen(()))
}

/// Returns the content of the page.
pub fn content() -> &'static [u8] {
    // SAFETY: constant bytes of the kernel's text.
    unsafe { &hypercall_page }
}

/// Uses the copy at [`KERNEL_HYPERCALL_PAGE`] from now on, instead of the one in the kernel's text.
///
/// # Safety
/// What [`content`] returns is mapped there, for the kernel to execute, in all address spaces that
/// are ever in force. This is called once.
pub unsafe fn use_relocated_copy() {
    let by = KERNEL_HYPERCALL_PAGE.wrapping_sub(&raw const hypercall_page as u64);
    for place in [&HYPERCALL, &IDLE, &PORT_NUMBERS] {
        place.store(place.load(Ordering::Relaxed).wrapping_add(by), Ordering::Relaxed);
    }
}

/// Makes the hypercall `number` with three arguments, and returns Xen's result.
///
/// # Safety
/// The hypercall must not write other memory than what the arguments point to, nor after it
/// returns.
pub unsafe fn raw(_: Xen, number: u64, first: u64, second: u64, third: u64) -> i64 {
    count(Count::Hypercall);
    let start = processor::counter();
    let result;
    // SAFETY: by the caller's promise, and the instruction is chosen. The convention clobbers RAX
    // and the argument registers. What is called is the instruction and `ret`.
    unsafe {
        asm!("call [rip + {at}]", at = sym HYPERCALL, inlateout("rax") number => result, inlateout("rdi") first => _,
            inlateout("rsi") second => _, inlateout("rdx") third => _, lateout("r10") _, lateout("r8") _);
    }
    count::add_hypercall_ticks(processor::counter().wrapping_sub(start));
    result
}

/// Sleeps until an interrupt. Interrupts are off again afterwards.
///
/// The entry stub does not handle the interrupt: the caller looks for events.
pub fn sleep(_: Xen) {
    // SAFETY: the instruction is chosen, and so is the code. The code of `entry.s` keeps to the
    // calling convention, and only the upcall can come while it sleeps.
    unsafe { asm!("call [rip + {idle}]", idle = sym IDLE) }
}

/// Returns the address of a constant `u32` with the number of `port`, if the page has one.
pub fn port_number(port: EvtchnPort) -> Option<u64> {
    (port.0 < PORT_COUNT).then(|| PORT_NUMBERS.load(Ordering::Relaxed) + u64::from(port.0) * 4)
}
