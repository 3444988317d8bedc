//! Two references to trap frames could be to the same one.
#![allow(dead_code, unexpected_cfgs)]

include!("image.in");

use cloister_caps::ServiceId;

fn attempt(frames: &mut trap_frame::TrapFrames, service: ServiceId) -> u64 {
    let (first, second) = (frames.get_mut(service), frames.get_mut(service));
    first.rip() + second.rip()
}

fn main() {}
