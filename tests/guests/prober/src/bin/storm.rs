//! The storm's program.
#![no_std]
#![no_main]
#![forbid(unsafe_code)]

use cloister_prober::storm as cloister_prober_storm;

cloister_runtime::service!(cloister_prober_storm);
