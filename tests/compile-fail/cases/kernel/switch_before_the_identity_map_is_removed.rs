//! No service can run while the identity map is in force: its address space does not exist yet.
#![allow(dead_code, unexpected_cfgs)]

include!("image.in");

use cloister_caps::tables::Tables;

fn attempt(
    identity: paging::IdentityMap,
    kernel: paging::KernelRoot,
    roots: paging::ServiceRoots,
    tables: &Tables<'_>,
) {
    let spaces = roots.address_spaces(tables, kernel);
    paging::switch(spaces[tables.services().id(0).unwrap()]);
    identity.remove(kernel);
}

fn main() {}
