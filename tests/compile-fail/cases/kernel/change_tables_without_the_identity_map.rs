//! Page tables are changed through the identity map, and not after it is dropped.
#![allow(dead_code, unexpected_cfgs)]

include!("image.in");

use cloister_kernel_core::address_space::ServicePages;
use cloister_kernel_core::memory::FreeMemory;

fn attempt(
    mut identity: paging::IdentityMap,
    kernel: paging::KernelRoot,
    mut roots: paging::ServiceRoots,
    free: &mut FreeMemory,
    pages: &ServicePages,
) {
    identity.remove(kernel);
    let _ = roots.map(&mut identity, free, pages);
}

fn main() {}
