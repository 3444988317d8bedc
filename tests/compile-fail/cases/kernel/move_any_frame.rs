//! Replacing a frame takes an unsafe promise about it.
#![allow(dead_code, unexpected_cfgs)]

include!("image.in");

use cloister_caps::Gfn;

fn attempt() {
    let _ = hypercall::add_to_physmap(hypercall::Space::SharedInfo, 0, Gfn(0x100));
}

fn main() {}
