#![no_std]
#![no_main]
#![forbid(unsafe_code)]
//! The control service of the image.

cloister_runtime::service!(cloister_control);
