//! The kernel's page tables use NX: they are loaded once it is on.
#![allow(dead_code, unexpected_cfgs)]

include!("image.in");

use cloister_kernel_core::memory::FreeMemory;

fn attempt(identity: &mut paging::IdentityMap, free: &mut FreeMemory) {
    let _ = paging::build_kernel(identity, free, (0x20_0000, 0x1000), processor::NoExecute(()));
}

fn main() {}
