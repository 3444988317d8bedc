//! References into memory end with the call that lent them.
#![forbid(unsafe_code)]

use cloister_interfaces::system::Own;

fn attempt<O: Own>(pages: &mut O) -> Option<&mut [u8]> {
    pages.edit(0, 64, |bytes| bytes)
}

fn main() {}
