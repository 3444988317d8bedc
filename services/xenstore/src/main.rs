#![no_std]
#![no_main]
#![forbid(unsafe_code)]
//! The XenStore service of the image.

cloister_runtime::service!(cloister_xenstore);
