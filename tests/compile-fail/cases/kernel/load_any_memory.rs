//! A service's memory is filled from its own segment, and from no other place.
#![allow(dead_code, unexpected_cfgs)]

include!("image.in");

use cloister_kernel_core::address_space::SegmentCopy;
use cloister_kernel_core::memory::OwnedFrames;

fn attempt(frames: &mut OwnedFrames) {
    paging::load_segment(frames);
}

fn change(copy: &mut SegmentCopy) {
    copy.segment.image_address = 0x10_0000;
}

fn main() {}
