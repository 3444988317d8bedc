//! A grant table is one that was mapped.
#![allow(dead_code, unexpected_cfgs)]

include!("image.in");

fn attempt() -> grants::GrantTable {
    grants::GrantTable { entries: 4096 }
}

fn main() {}
