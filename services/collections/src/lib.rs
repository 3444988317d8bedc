//! Collections for services with many numbered things, such as connections.
//!
//! Finding, adding and removing take constant or logarithmic time. All memory is reserved when a
//! collection is created.
//!
//! - [`counts`]: how much each of many holders has, and which has the most.
//! - [`lazy`]: vectors whose elements are made when they are first used.
//! - [`lists`]: linked lists of numbers.
//! - [`timers`]: a deadline for each number.
#![cfg_attr(not(test), no_std)]
#![forbid(unsafe_code)]

extern crate alloc;

pub mod counts;
pub mod lazy;
pub mod lists;
pub mod timers;

pub use counts::Counts;
pub use lazy::LazyVec;
pub use lists::Lists;
pub use timers::Timers;
