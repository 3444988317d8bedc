//! Ends the domain after an error that the kernel cannot survive.

use core::fmt;
use core::panic::PanicInfo;
use core::sync::atomic::{AtomicBool, Ordering};

use crate::hypercall::{self, Shutdown};
use crate::{console, processor};

/// `true` once the machine is known to be a Xen guest, so that hypercalls are possible.
pub static ON_XEN: AtomicBool = AtomicBool::new(false);
static DYING: AtomicBool = AtomicBool::new(false);

/// Prints the reason on the console and on the debug port, and ends the domain with a crash code.
pub fn fatal(why: fmt::Arguments<'_>) -> ! {
    if !DYING.swap(true, Ordering::SeqCst) {
        console::line(format_args!("cloister: fatal: {why}"));
        if console::has_ring() {
            console::debug_line(format_args!("cloister: fatal: {why}"));
        }
        if ON_XEN.load(Ordering::SeqCst) {
            console::drain();
        }
    }
    if ON_XEN.load(Ordering::SeqCst) {
        hypercall::shutdown(Shutdown::Crash);
    }
    processor::stop_machine()
}

#[panic_handler]
fn panic(info: &PanicInfo<'_>) -> ! {
    fatal(format_args!("{info}"))
}
