//! Page tables are changed through the identity map, and not after it is dropped.
#![allow(dead_code, unexpected_cfgs)]

include!("image.in");

use cloister_kernel_core::memory::{FrameRange, FreeMemory};

fn attempt(
    mut identity: paging::IdentityMap,
    kernel: paging::Root,
    mut service: paging::Root,
    free: &mut FreeMemory,
) {
    identity.remove(kernel);
    let _ = service.map_user(&mut identity, free, 0, FrameRange { start: 1, end: 2 }, paging::UserPages::Writable);
}

fn main() {}
