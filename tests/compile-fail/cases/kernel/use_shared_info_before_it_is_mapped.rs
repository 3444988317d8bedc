//! The time is read from the shared info page once that is mapped.
#![allow(dead_code, unexpected_cfgs)]

include!("image.in");

fn attempt(xen: hypercall_page::Xen) -> u64 {
    shared_info::SharedInfo(xen).now()
}

fn main() {}
