//! All services of the image as one program.
#![no_std]
#![no_main]
#![forbid(unsafe_code)]

cloister_runtime::fused!(cloister_fused);
