//! A copy of free memory would give each frame twice.
#![allow(dead_code, unexpected_cfgs)]

include!("image.in");

use cloister_kernel_core::memory::FreeMemory;

fn attempt(free: FreeMemory) -> (FreeMemory, FreeMemory) {
    (free.clone(), free)
}

fn main() {}
