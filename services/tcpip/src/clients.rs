//! The applications.

/// The largest number of applications.
pub const CLIENTS: usize = 4;
