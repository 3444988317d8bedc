//! Exclusive memory has one owner; a copy could be written at the same time.
#![forbid(unsafe_code)]

use cloister_interfaces::system::ExclusiveMemory;

fn attempt<O: ExclusiveMemory>(pages: &O) -> O {
    pages.clone()
}

fn main() {}
