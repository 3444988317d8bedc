//! No reference to a trap frame outlives the choice of the next service.
#![allow(dead_code, unexpected_cfgs)]

include!("image.in");

fn attempt(frames: &mut trap_frame::TrapFrames) -> u64 {
    let frame = frames.of(1);
    frames.select(1);
    frame.map_or(0, |frame| frame.rip)
}

fn main() {}
