//! A simulated machine: the kernel's own decisions (`cloister-kernel-core`) over a simulated Xen,
//! in virtual time and on one thread. The same seed gives the same run.
//!
//! A service's program is created and run as by the image's runtime, with [`crate::program`] in
//! place of `cloister-runtime`. Its invocations go through the kernel, and its memory is mapped as
//! the policy says.

pub mod events;
pub mod grants;
mod machine;
mod regions;
mod xen;

pub use events::EventChannels;
pub use grants::{GrantError, GrantTable};
pub use machine::{End, Machine, Setup, Step};
pub use xen::Xen;
