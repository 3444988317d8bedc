//! Replacing a frame takes an unsafe promise about it.
#![allow(dead_code, unexpected_cfgs)]

include!("image.in");

use cloister_caps::Gfn;

fn attempt(xen: hypercall_page::Xen) {
    let _ = hypercall::add_to_physmap(xen, hypercall::Space::SharedInfo, 0, Gfn(0x100));
}

fn main() {}
