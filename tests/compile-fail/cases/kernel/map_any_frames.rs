//! A service maps what the capability tables give it, and no other frames.
#![allow(dead_code, unexpected_cfgs)]

include!("image.in");

use cloister_kernel_core::address_space::{PageAccess, ServicePages};
use cloister_kernel_core::memory::FrameRange;

fn attempt(pages: ServicePages) -> ServicePages {
    ServicePages { frames: FrameRange { start: 0x100, end: 0x101 }, access: PageAccess::Write, ..pages }
}

fn main() {}
