//! The witness's program.
#![no_std]
#![no_main]
#![forbid(unsafe_code)]

use cloister_prober::witness as cloister_prober_witness;

cloister_runtime::service!(cloister_prober_witness);
