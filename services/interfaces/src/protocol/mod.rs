//! The message interfaces, one file each.
//!
//! Each file opens with its row of the table of threats (`SECURITY.md`): who may be hostile, what
//! it can do, and what it must not be able to do.

pub mod control;
pub mod grants;
pub mod net;
pub mod socket;
pub mod store;
