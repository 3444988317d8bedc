//! How much there may be of what connections take.

use smoltcp::iface::SocketStorage;

use super::connection::Connection;
use super::time_wait;

/// The most applications.
pub const CLIENTS: usize = 4;
/// The most ports that an application listens to.
pub const MAX_PORTS: usize = 8;
/// One connection for so many may be in TIME-WAIT without a socket.
pub const CONNECTIONS_PER_TIME_WAIT: usize = 2;
/// Bytes of the heap that a connection takes beside its buffers: the socket in its set, and an entry in each table.
pub const OVERHEAD: usize =
    size_of::<SocketStorage<'static>>() + size_of::<Connection>() + 64 + time_wait::BYTES / CONNECTIONS_PER_TIME_WAIT;
const _: () = assert!(OVERHEAD <= 1024, "an idle connection is cheap");
