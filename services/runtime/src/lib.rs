//! The layer between a service's logic and the machine: system calls, mapped memory, heap and
//! entry.
//!
//! Of our crates in the image, only this one and `kernel/image` contain `unsafe`. The crates of the
//! services forbid it: they call the kernel only through [`Kernel`], and access shared memory only
//! through [`SharedRegion`].
#![cfg_attr(not(test), no_std)]

extern crate alloc;

#[cfg_attr(miri, path = "tests/bytes.rs")] // Miri cannot interpret assembly.
mod bytes;
mod call;
mod heap;
mod memory;
// The entry and the panic handler, which on the host are those of `std`.
#[cfg(target_os = "none")]
mod program;
mod syscall;

pub use call::{Kernel, wait};
pub use heap::Allocator;
pub use memory::{OwnedRegion, SharedRegion, constant_bytes};
#[cfg(target_os = "none")]
pub use program::run;

/// Makes a program from a service's library crate.
///
/// The environment variable `CLOISTER_CAPABILITIES` names, at build time, the file with the
/// service's capabilities that the policy compiler wrote.
#[macro_export]
macro_rules! service {
    ($service:ident) => {
        include!(env!("CLOISTER_CAPABILITIES"));
        $crate::program!(|kernel| $service::service(capabilities(kernel)));
    };
}

/// Makes a program from a function that makes its service. The program includes its bindings
/// itself.
#[macro_export]
macro_rules! program {
    ($make:expr) => {
        /// The service: called by the runtime's entry.
        #[unsafe(no_mangle)]
        extern "Rust" fn cloister_main() -> ! {
            $crate::run(HEAP, CONSOLE, $make)
        }
    };
}

#[cfg(test)]
mod tests;
