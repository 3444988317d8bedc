//! Frames are written by whoever owns them, not by whoever names them.
#![allow(dead_code, unexpected_cfgs)]

include!("image.in");

use cloister_caps::Gfn;

fn attempt() {
    paging::write(&mut Gfn(0x100), b"kernel");
}

fn main() {}
