//! Collections for services with many numbered things, such as connections.
//!
//! Finding, adding and removing take constant or logarithmic time. All memory is reserved when a
//! collection is created.
//!
//! - [`lists`]: linked lists of numbers.
//! - [`shares`]: how much each of many holders has, and which has the most.
//! - [`timers`]: a deadline for each number.
#![cfg_attr(not(test), no_std)]
#![forbid(unsafe_code)]

extern crate alloc;

pub mod lists;
pub mod shares;
pub mod timers;

pub use lists::Lists;
pub use shares::Shares;
pub use timers::Timers;
