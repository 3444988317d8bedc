//! http: an HTTP/1.1 server of static files (GET and HEAD, kept connections, pipelining, ranges) over tcpip's
//! streams.
//!
//! It serves the archive that the guest is given as its module, or a built-in page. It sees byte streams and nothing of
//! the network beneath; its memory is a table of connections, one buffer to parse in, and an index of the archive.
#![cfg_attr(not(test), no_std)]
#![forbid(unsafe_code)]

extern crate alloc;

pub mod archive;
pub mod cache;
mod capabilities;
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

use cloister_interfaces::{Memory, Service, System};

pub use capabilities::Caps;

/// The service.
pub fn service<S: System + 'static, M: Memory + 'static>(caps: Caps<S, M>) -> impl Service {
    server::Http::new(caps, false)
}

/// The service that benchmarks measure: it also takes whatever is sent to `/sink`, to the end. It ships nowhere.
pub mod with_sink {
    use super::{Caps, Memory, Service, System, server};

    /// The service.
    pub fn service<S: System + 'static, M: Memory + 'static>(caps: Caps<S, M>) -> impl Service {
        server::Http::new(caps, true)
    }
}
