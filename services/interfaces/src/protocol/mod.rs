//! The message interfaces, one file each.
//!
//! Each file opens with its row of the table of threats (`SECURITY.md`): who is hostile, what it
//! can do, what it must not be able to do, and the fuzz targets that attack the interface. A test
//! compares the rows (`tests/scenarios/tests/docs.rs`).

pub mod control;
pub mod grants;
pub mod net;
pub mod socket;
pub mod store;
