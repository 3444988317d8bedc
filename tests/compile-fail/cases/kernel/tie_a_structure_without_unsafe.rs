//! Only unsafe code ties a structure to an operation.
#![allow(dead_code, unexpected_cfgs)]

include!("image.in");

#[repr(C)]
struct Mine {
    address: u64,
}

impl hypercall::Hypercall for Mine {
    const NUMBER: u64 = 12;
    const OP: u64 = 7;
    const NAME: &str = "XENMEM_add_to_physmap";
    const SIZE: usize = 8;
}

fn main() {}
