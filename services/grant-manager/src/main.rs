#![no_std]
#![no_main]
#![forbid(unsafe_code)]
//! The grant manager of the image.

cloister_runtime::service!(cloister_grant_manager);
