//! The hypercall instruction is the one for this processor, and no choice of the caller.
#![allow(dead_code, unexpected_cfgs)]

include!("image.in");

fn attempt() -> Option<hypercall_page::Xen> {
    let vmcall = true;
    hypercall_page::choose_instruction(&vmcall)
}

fn main() {}
