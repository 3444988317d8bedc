//! What stands between a service's logic and the machine: the system calls, mapped memory, the heap, the entry.
//!
//! Together with `kernel/image` this is all the `unsafe` there is. A service's own crates forbid it; they reach the
//! kernel only through [`Kernel`] and shared memory only through [`SharedRegion`].
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

/// Makes a program of a service's library crate: its capabilities are the file that the policy compiler wrote and
/// that `CLOISTER_CAPABILITIES` names when the program is built.
#[macro_export]
macro_rules! service {
    ($service:ident) => {
        include!(env!("CLOISTER_CAPABILITIES"));

        /// Where the runtime's entry goes on.
        #[unsafe(no_mangle)]
        extern "Rust" fn cloister_main() -> ! {
            $crate::run(HEAP, |kernel| $service::service(capabilities(kernel)))
        }
    };
}

/// The same for the program that has all services in it.
#[cfg(feature = "fused")]
#[macro_export]
macro_rules! fused {
    ($program:ident) => {
        include!(env!("CLOISTER_CAPABILITIES"));

        /// Where the runtime's entry goes on.
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
