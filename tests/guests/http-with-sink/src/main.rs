//! The program of http with a sink.
#![no_std]
#![no_main]
#![forbid(unsafe_code)]

cloister_runtime::service!(cloister_http_with_sink);
