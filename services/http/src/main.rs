//! The HTTP service's program.
#![no_std]
#![no_main]
#![forbid(unsafe_code)]

#[cfg(feature = "sink")]
use cloister_http::with_sink;

#[cfg(not(feature = "sink"))]
cloister_runtime::service!(cloister_http);
#[cfg(feature = "sink")]
cloister_runtime::service!(with_sink);
