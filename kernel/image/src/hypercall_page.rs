//! Enters Xen: by the instructions of the hypercall page.
//!
//! Xen reads memory through the guest's page tables when a hypercall points to it, and also to find
//! the length of the instruction where the processor does not tell it (SVM without NRIPS). Each
//! read takes Xen some 4,600 instructions, most of them for the four levels of tables. Therefore
//! the instructions, and port numbers for hypercalls to point to, are copied to a page at
//! [`KERNEL_HYPERCALL_PAGE`] that is reached through two levels. The frames in the rest of its
//! large page do not exist.

use core::arch::asm;
use core::sync::atomic::{AtomicU8, Ordering};

use cloister_caps::EvtchnPort;
use cloister_caps::abi::KERNEL_HYPERCALL_PAGE;

use crate::count::{self, Count, count};
use crate::processor::{self, Features};

/// Offset of the port numbers in `hypercall_page` of `entry.s`.
const PORTS: usize = 16;
/// Ports whose numbers are on the page: those from 0 on.
const PORT_COUNT: u32 = 32;
/// Length of the page's content in bytes.
const LENGTH: usize = PORTS + 4 * PORT_COUNT as usize;

unsafe extern "C" {
    static hypercall_page: [u8; LENGTH];
}

/// The way into Xen: the instruction, and the copy of the page that has it. `entry.s` branches by
/// these numbers.
#[derive(Clone, Copy)]
#[repr(u8)]
enum Way {
    /// None is chosen.
    None = 0,
    Vmmcall = 1,
    Vmcall = 2,
    /// The copy at [`KERNEL_HYPERCALL_PAGE`].
    RelocatedVmmcall = 3,
    RelocatedVmcall = 4,
}

/// A [`Way`].
///
/// It is a number among a few and not an address, so that a branch by it has few targets, even in
/// the processor's predictions.
#[unsafe(no_mangle)]
static WAY: AtomicU8 = AtomicU8::new(Way::None as u8);

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
    let way = if features.vmcall() { Way::Vmcall } else { Way::Vmmcall };
    WAY.store(way as u8, Ordering::Relaxed);
    Some(Xen(()))
}

/// Returns the proof if the hypercall instruction is chosen. It is for code that may run before.
pub fn chosen() -> Option<Xen> {
    (WAY.load(Ordering::Relaxed) != Way::None as u8).then_some(Xen(()))
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
/// are ever in force.
pub unsafe fn use_relocated_copy() {
    let vmcall = WAY.load(Ordering::Relaxed) == Way::Vmcall as u8;
    let way = if vmcall { Way::RelocatedVmcall } else { Way::RelocatedVmmcall };
    WAY.store(way as u8, Ordering::Relaxed);
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
    // and the argument registers. What is called is the instruction and `ret`, after direct branches.
    unsafe {
        asm!("call make_hypercall", inlateout("rax") number => result, inlateout("rdi") first => _,
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
    unsafe { asm!("call sleep_until_event") }
}

/// Returns the address of a constant `u32` with the number of `port`, if the page has one.
pub fn port_number(port: EvtchnPort) -> Option<u64> {
    let relocated = WAY.load(Ordering::Relaxed) >= Way::RelocatedVmmcall as u8;
    let page = if relocated { KERNEL_HYPERCALL_PAGE } else { &raw const hypercall_page as u64 };
    (port.0 < PORT_COUNT).then(|| page + PORTS as u64 + u64::from(port.0) * 4)
}
