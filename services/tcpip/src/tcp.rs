//! The TCP half: connections, built around smoltcp's sockets.

pub(crate) mod app_stream;
pub(crate) mod buffers;
pub(crate) mod closing;
pub(crate) mod congestion;
pub(crate) mod connection;
pub(crate) mod connections;
pub(crate) mod half_open;
pub(crate) mod isn;
pub(crate) mod limits;
pub(crate) mod opening;
pub(crate) mod receive;
pub mod recovery;
pub(crate) mod sources;
pub(crate) mod time_wait;
pub(crate) mod transmit;
