//! CR3 takes a root, not a number.
#![allow(dead_code, unexpected_cfgs)]

include!("image.in");

fn attempt(number: u64) {
    paging::switch(number);
}

fn main() {}
