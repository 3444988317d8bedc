//! http as the benchmarks measure it: it also receives whatever is sent to `/sink`. No image that
//! ships contains it.
#![no_std]
#![forbid(unsafe_code)]

pub use cloister_http::Caps;
pub use cloister_http::with_sink::service;
