//! A hypercall takes the proof that its instruction is chosen.
#![allow(dead_code, unexpected_cfgs)]

include!("image.in");

fn attempt() {
    let _ = hypercall::version(hypercall_page::Xen(()));
    hypercall_page::sleep(hypercall_page::Xen(()));
}

fn main() {}
