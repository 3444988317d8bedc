//! The decisions of the kernel, apart from the machine: which service holds which capability, what
//! an invocation may do, which service runs next, where each region lies, and what the boot data
//! means.
//!
//! The ring-0 crate (`kernel/image`) acts on these decisions. The simulator (`tests/sim`) runs the
//! same code on the host. Nothing here is `unsafe`, allocates, or panics on any input.
#![cfg_attr(not(test), no_std)]
#![forbid(unsafe_code)]

pub mod accounting;
pub mod address_space;
pub mod boot;
pub mod claims;
pub mod clearing;
pub mod clock;
pub mod console;
pub mod entropy;
pub mod event_channels;
pub mod events;
pub mod grant_frames;
pub mod kernel;
pub mod memory;
mod owner;
pub mod page_entries;
pub mod placement;
mod platform;
pub mod refusal;
pub mod run_loop;
pub mod schedule;
mod sha256;
pub mod speculation;
pub mod tables_hash;
#[cfg(test)]
mod test_tables;
pub mod usage;

pub use accounting::{Accounting, Costs};
pub use kernel::{Answer, FaultAction, Kernel, Outcome};
pub use platform::Platform;
