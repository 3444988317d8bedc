//! The life of a program: its entry, its heap, its loop, and its end by panic.

use core::panic::PanicInfo;
use core::sync::atomic::{AtomicBool, AtomicU16, Ordering};

use cloister_caps::{Operation, Slot};
use cloister_interfaces::capability::Console;
use cloister_interfaces::{Notifications, Service, System};

use crate::call::{Kernel, wait};
use crate::heap::Allocator;

/// Slots plus one; none is zero, so that the program has no page of initial data.
static HEAP_SLOT: AtomicU16 = AtomicU16::new(0);
static CONSOLE_SLOT: AtomicU16 = AtomicU16::new(0);
static STARTED: AtomicBool = AtomicBool::new(false);

/// Remembers where the console is, for the panic message.
pub(crate) fn remember_console(slot: Slot) {
    CONSOLE_SLOT.store(slot.0 + 1, Ordering::Relaxed);
}

/// Whether `slot` is the heap, which only the allocator may touch.
pub(crate) fn is_heap(slot: Slot) -> bool {
    HEAP_SLOT.load(Ordering::Relaxed) == slot.0 + 1
}

#[global_allocator]
static ALLOCATOR: Allocator = Allocator::empty();

/// Runs a service for ever. `heap` is the slot of the region for its allocator; `make` is given the kernel, which nobody
/// else gets.
///
/// # Panics
/// The service runs already: what it calls cannot get at the kernel this way.
pub fn run<T: Service>(heap: Option<Slot>, make: impl FnOnce(Kernel) -> T) -> ! {
    assert!(!STARTED.swap(true, Ordering::Relaxed), "the service runs already");
    let kernel = Kernel(());
    if let Some(slot) = heap
        && let Ok([base, size]) = kernel.invoke(slot, Operation::RegionFind, [0; 4])
    {
        HEAP_SLOT.store(slot.0 + 1, Ordering::Relaxed);
        // SAFETY: the kernel maps these bytes writable for this service alone, and no `SharedRegion` is made of them.
        unsafe { ALLOCATOR.init(base as *mut u8, size as usize) }
    }
    let mut service = make(kernel);
    let mut notifications = Notifications::ALL;
    loop {
        service.notified(notifications);
        notifications = wait(service.deadline(), service.events_to_hold());
    }
}

unsafe extern "Rust" {
    /// What `service!` defines in the program.
    safe fn cloister_main() -> !;
}

/// Where the kernel starts the service, on the top of an empty stack.
#[unsafe(no_mangle)]
#[unsafe(naked)]
extern "C" fn _start() -> ! {
    core::arch::naked_asm!("xor ebp, ebp", "call {main}", "ud2", main = sym enter)
}

extern "C" fn enter() -> ! {
    cloister_main()
}

/// Says why, and faults: the kernel restarts the service or stops the image, as the policy says.
#[panic_handler]
fn panic(info: &PanicInfo<'_>) -> ! {
    if let Some(slot) = CONSOLE_SLOT.load(Ordering::Relaxed).checked_sub(1) {
        Console::new(Kernel(()), Slot(slot)).line(format_args!("{info}"));
    }
    // SAFETY: the instruction does nothing but fault.
    unsafe { core::arch::asm!("ud2", options(noreturn, nomem, nostack)) }
}
