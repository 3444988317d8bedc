//! The prober's program.
#![no_std]
#![no_main]
#![forbid(unsafe_code)]

use cloister_prober::bindings as cloister_interfaces;

cloister_runtime::service!(cloister_prober);
