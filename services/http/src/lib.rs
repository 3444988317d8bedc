//! http: an HTTP/1.1 server of static files (GET and HEAD, persistent connections, pipelining,
//! ranges) over tcpip's byte streams.
//!
//! It serves the archive in the guest's boot module, or a built-in page. It sees byte streams, but
//! nothing of the network below. While few connections are free, it ends idle and slow ones, but none
//! of an address that holds few ([`tally`]). Its memory is a table of connections, one buffer for parsing, and
//! an index of the archive.
#![cfg_attr(not(test), no_std)]
#![forbid(unsafe_code)]

extern crate alloc;

pub mod archive;
pub mod cache;
mod capabilities;
mod conditional;
pub mod connection;
pub mod date;
pub mod head;
pub mod mime;
pub mod page;
pub mod path;
pub mod range;
pub mod request;
pub mod response;
mod server;
pub mod site;
pub mod tally;
pub mod target;

use cloister_interfaces::{Memory, Service, System};

pub use capabilities::Caps;

/// Creates the service.
pub fn service<S: System + 'static, M: Memory + 'static>(caps: Caps<S, M>) -> impl Service {
    server::Http::new(caps, false)
}

/// The service that benchmarks measure: it also receives whatever is sent to `/sink`. No program of
/// an image that ships links it: only those of `tests/guests`.
pub mod with_sink {
    use super::{Caps, Memory, Service, System, server};

    /// Creates the service.
    pub fn service<S: System + 'static, M: Memory + 'static>(caps: Caps<S, M>) -> impl Service {
        server::Http::new(caps, true)
    }
}
