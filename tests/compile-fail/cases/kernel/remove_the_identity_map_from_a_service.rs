//! The identity map is in the kernel's own address space, and is removed from that.
#![allow(dead_code, unexpected_cfgs)]

include!("image.in");

fn attempt(identity: paging::IdentityMap, roots: paging::ServiceRoots) {
    identity.remove(roots);
}

fn main() {}
