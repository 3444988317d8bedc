//! Ends the domain after an error that the kernel cannot survive.

use core::fmt;
use core::panic::PanicInfo;
use core::sync::atomic::{AtomicBool, Ordering};

use crate::hypercall::{self, Shutdown};
use crate::{console, hypercall_page, processor};

static DYING: AtomicBool = AtomicBool::new(false);

/// Prints the reason on the console and on the debug port, and ends the domain with a crash code.
///
/// First it waits for the daemon to take the lines before, so that they and the reason have room.
/// With a daemon that takes nothing it goes on, after as many yields as [`console::drain`] makes,
/// twice.
pub fn fatal(why: fmt::Arguments<'_>) -> ! {
    if !DYING.swap(true, Ordering::SeqCst) {
        console::drain();
        console::counts();
        console::line(format_args!("cloister: fatal: {why}"));
        if console::has_ring() {
            console::debug_line(format_args!("cloister: fatal: {why}"));
        }
        console::drain();
    }
    if let Some(xen) = hypercall_page::chosen() {
        hypercall::shutdown(xen, Shutdown::Crash);
    }
    processor::stop_machine()
}

#[panic_handler]
fn panic(info: &PanicInfo<'_>) -> ! {
    fatal(format_args!("{info}"))
}
