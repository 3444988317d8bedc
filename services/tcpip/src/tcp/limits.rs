//! Limits that both the connections and their buffers follow.

use smoltcp::iface::SocketStorage;

use super::connection::Connection;
use super::{half_open, sources, time_wait};

/// The largest number of ports that one application listens to.
pub const MAX_PORTS: usize = 8;
/// There is room for one connection in TIME-WAIT without a socket for this many connections.
pub const CONNECTIONS_PER_TIME_WAIT: usize = 2;
/// The number of bytes of a connection's entries in the tables of `Connections`, but for its source:
/// lists 6, timers 18, the least used 16, queues 4, the table that finds it 20, and what the allocator rounds up.
const TABLES: usize = 68;
/// The number of bytes of the heap that a connection takes besides its buffers: the socket in its
/// set, and an entry in each table.
pub const OVERHEAD: usize = size_of::<SocketStorage<'static>>()
    + size_of::<Connection>()
    + TABLES
    + sources::BYTES
    + half_open::BYTES
    + time_wait::BYTES / CONNECTIONS_PER_TIME_WAIT;
const _: () = assert!(OVERHEAD <= 1152, "an idle connection is cheap");
