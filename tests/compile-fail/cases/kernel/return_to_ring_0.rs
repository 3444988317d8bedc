//! A trap frame leads to ring 3: only its own module, `entry.s` and the processor set its segments.
#![allow(dead_code, unexpected_cfgs)]

include!("image.in");

fn attempt(frame: &mut trap_frame::TrapFrame) {
    frame.cs = 8;
}

fn main() {}
