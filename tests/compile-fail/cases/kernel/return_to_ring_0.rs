//! A trap frame leads to ring 3: nothing but the processor sets its segments.
#![allow(dead_code, unexpected_cfgs)]

include!("image.in");

fn attempt(frame: &mut trap_frame::TrapFrame) {
    frame.cs = 8;
}

fn main() {}
