//! The HTTP service's program.
#![no_std]
#![no_main]
#![forbid(unsafe_code)]

cloister_runtime::service!(cloister_http);
