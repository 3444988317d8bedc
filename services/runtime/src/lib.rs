//! The layer between a service's logic and the machine: system calls, mapped memory, heap and
//! entry.
//!
//! Only this crate and `kernel/image` contain `unsafe`. The crates of the services forbid it: they
//! call the kernel only through [`Kernel`], and access shared memory only through [`SharedRegion`].
#![cfg_attr(not(test), no_std)]

#[cfg(not(miri))]
extern crate alloc;

mod call;
#[cfg(feature = "fused")]
mod fused;
#[cfg(any(feature = "image", test))]
mod heap;
mod memory;
#[cfg(feature = "probe")]
pub mod probe;
#[cfg(feature = "image")]
mod program;

pub use call::{Kernel, wait};
#[cfg(feature = "fused")]
pub use fused::take_notifications;
pub use memory::{OwnedRegion, SharedRegion, constant_bytes};
#[cfg(feature = "image")]
pub use program::run;

/// Makes a program from a service's library crate.
///
/// The environment variable `CLOISTER_CAPABILITIES` names, at build time, the file with the
/// service's capabilities that the policy compiler wrote.
#[macro_export]
macro_rules! service {
    ($service:ident) => {
        include!(env!("CLOISTER_CAPABILITIES"));

        /// The service: called by the runtime's entry.
        #[unsafe(no_mangle)]
        extern "Rust" fn cloister_main() -> ! {
            $crate::run(HEAP, |kernel| $service::service(capabilities(kernel)))
        }
    };
}

/// Makes the program that contains all services.
#[cfg(feature = "fused")]
#[macro_export]
macro_rules! fused {
    ($program:ident) => {
        include!(env!("CLOISTER_CAPABILITIES"));

        /// The service: called by the runtime's entry.
        #[unsafe(no_mangle)]
        extern "Rust" fn cloister_main() -> ! {
            $crate::run(HEAP, |kernel| {
                $program::service($program::Inside {
                    system: kernel,
                    caps: move || capabilities(kernel),
                    part: $crate::SharedRegion::part,
                    take_notifications: $crate::take_notifications,
                })
            })
        }
    };
}

#[cfg(test)]
mod tests;
