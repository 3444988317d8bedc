//! A simulated machine: the kernel's own decisions (`cloister-kernel-core`) over a simulated Xen, in virtual time and
//! on one thread. The same seed gives the same run.
//!
//! A service's program is made and run as the image's runtime does it, with [`crate::program`] in place of
//! `cloister-runtime`; its invocations go through the kernel, its memory is what the policy maps, and how.

pub mod events;
pub mod grants;
mod machine;
mod regions;
mod xen;

pub use events::EventChannels;
pub use grants::{GrantError, GrantTable};
pub use machine::{End, Machine, Setup, Step};
pub use xen::Xen;
