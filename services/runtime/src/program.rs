//! The entry of a program, its main loop, and its panic handler.

use core::panic::PanicInfo;
use core::sync::atomic::{AtomicBool, AtomicU16, Ordering};

use cloister_caps::Slot;
use cloister_interfaces::capability::Console;
use cloister_interfaces::{Notifications, Service};

use crate::call::{Kernel, wait};
use crate::heap::Allocator;

/// The slot of the console plus one, or zero if the service has none. Zero as the initial value
/// spares the program a page of initialised data.
static CONSOLE_SLOT: AtomicU16 = AtomicU16::new(0);
/// `true` once [`run`] was called.
static STARTED: AtomicBool = AtomicBool::new(false);

#[global_allocator]
static ALLOCATOR: Allocator = Allocator::empty();

/// Runs a service forever.
///
/// `heap` is the slot of the region for its allocator, `console` that of the console for the panic
/// message. Without a heap, or if others may access its region, every allocation fails. `make`
/// creates the service; nothing else gets the [`Kernel`].
///
/// # Panics
/// The service is already running. So code that the service calls cannot obtain the kernel this
/// way.
pub fn run<T: Service>(heap: Option<Slot>, console: Option<Slot>, make: impl FnOnce(Kernel) -> T) -> ! {
    assert!(!STARTED.swap(true, Ordering::Relaxed), "the service runs already");
    let kernel = Kernel(());
    if let Some(slot) = console {
        CONSOLE_SLOT.store(slot.0 + 1, Ordering::Relaxed);
    }
    if let Some(slot) = heap {
        ALLOCATOR.use_region(kernel, slot);
    }
    let mut service = make(kernel);
    let mut notifications = Notifications::ALL;
    loop {
        service.notified(notifications);
        notifications = wait(service.deadline(), service.events_to_hold());
    }
}

unsafe extern "Rust" {
    /// The function that `service!` defines in the program.
    safe fn cloister_main() -> !;
}

/// The address at which the kernel starts the service, with an empty stack.
#[unsafe(no_mangle)]
#[unsafe(naked)]
extern "C" fn _start() -> ! {
    core::arch::naked_asm!("xor ebp, ebp", "call {main}", "ud2", main = sym enter)
}

extern "C" fn enter() -> ! {
    cloister_main()
}

/// Logs the panic message and faults. The kernel then restarts the service or stops the image, as
/// the policy says.
#[panic_handler]
fn panic(info: &PanicInfo<'_>) -> ! {
    if let Some(slot) = CONSOLE_SLOT.load(Ordering::Relaxed).checked_sub(1) {
        Console::new(Kernel(()), Slot(slot)).line(format_args!("{info}"));
    }
    // SAFETY: the only effect of the instruction is a fault.
    unsafe { core::arch::asm!("ud2", options(noreturn, nomem, nostack)) }
}
