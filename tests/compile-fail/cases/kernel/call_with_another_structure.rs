//! A hypercall takes the structure of its operation, and no other.
#![allow(dead_code, unexpected_cfgs)]

include!("image.in");

#[repr(C)]
struct Mine {
    address: u64,
}

fn attempt(mut mine: Mine) {
    let _ = hypercall::call(&mut mine);
}

fn main() {}
