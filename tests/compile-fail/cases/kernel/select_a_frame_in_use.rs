//! No reference to a trap frame outlives the choice of the next service.
#![allow(dead_code, unexpected_cfgs)]

include!("image.in");

use cloister_caps::ServiceId;

fn attempt(frames: &mut trap_frame::TrapFrames, service: ServiceId) -> u64 {
    let frame = frames.get_mut(service);
    frames.select(service);
    frame.rip()
}

fn main() {}
