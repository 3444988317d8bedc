//! Memory that a service may build in place is held once, or two could build there.
#![forbid(unsafe_code)]

use cloister_interfaces::system::ExclusiveMemory;

fn attempt<O: ExclusiveMemory>(pages: &O) -> O {
    pages.clone()
}

fn main() {}
