//! Events come at the vector whose stub takes no error code, and at no other.
#![allow(dead_code, unexpected_cfgs)]

include!("image.in");

fn attempt(xen: hypercall_page::Xen) {
    let set: fn(hypercall_page::Xen, u8) -> _ = hypercall::set_callback_vector;
    let _ = set(xen, 14);
}

fn main() {}
