//! Owned frames come from free memory only.
#![allow(dead_code, unexpected_cfgs)]

include!("image.in");

use cloister_kernel_core::memory::{FrameRange, OwnedFrames};

fn attempt() {
    paging::write_frame(&mut OwnedFrames(FrameRange { start: 0x100, end: 0x101 }), b"kernel");
}

fn main() {}
