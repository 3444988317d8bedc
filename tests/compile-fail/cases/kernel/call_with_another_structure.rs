//! A hypercall takes the structure of its operation, and no other.
#![allow(dead_code, unexpected_cfgs)]

include!("image.in");

#[repr(C)]
struct Mine {
    address: u64,
}

fn attempt(xen: hypercall_page::Xen, mut mine: Mine) {
    let _ = hypercall::call(xen, &mut mine);
}

fn main() {}
