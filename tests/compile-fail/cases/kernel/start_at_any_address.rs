//! A service starts where the capability tables say.
#![allow(dead_code, unexpected_cfgs)]

include!("image.in");

fn attempt() -> trap_frame::TrapFrame {
    trap_frame::TrapFrame::start(0xFFFF_FFFF_8010_0000, 0x9000)
}

fn main() {}
