//! Mapping the console takes an unsafe promise about its frame.
#![allow(dead_code, unexpected_cfgs)]

include!("image.in");

use cloister_caps::{EvtchnPort, Gfn};

fn attempt(xen: hypercall_page::Xen) {
    console::map_ring(xen, Gfn(0x100), EvtchnPort(1));
}

fn main() {}
