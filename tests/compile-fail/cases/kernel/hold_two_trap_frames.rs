//! Two references to trap frames could be to the same one.
#![allow(dead_code, unexpected_cfgs)]

include!("image.in");

fn attempt(frames: &mut trap_frame::TrapFrames) -> u64 {
    let (first, second) = (frames.of(1), frames.of(1));
    first.map_or(0, |frame| frame.rip) + second.map_or(0, |frame| frame.rip)
}

fn main() {}
