#![no_std]
#![no_main]
#![forbid(unsafe_code)]
//! The network front end of the image.

cloister_runtime::service!(cloister_netfront);
