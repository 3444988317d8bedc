//! References into memory end with the call that lent them.
#![forbid(unsafe_code)]

use cloister_interfaces::system::ExclusiveMemory;

fn attempt<O: ExclusiveMemory>(pages: &mut O) -> Option<&mut [u8]> {
    pages.edit(0, 64, |bytes| bytes)
}

fn main() {}
