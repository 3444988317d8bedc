//! The numbers of the services, by falling priority.

pub const GRANT_MANAGER: usize = 0;
pub const XENSTORE: usize = 1;
pub const NETFRONT: usize = 2;
pub const TCPIP: usize = 3;
pub const CONTROL: usize = 4;
pub const HTTP: usize = 5;

/// The number of services.
pub const SERVICES: usize = 6;
