//! Only the owner of frames can have them written.
#![allow(dead_code, unexpected_cfgs)]

include!("image.in");

use cloister_caps::Gfn;

fn attempt() {
    paging::write_frame(&mut Gfn(0x100), b"kernel");
}

fn main() {}
