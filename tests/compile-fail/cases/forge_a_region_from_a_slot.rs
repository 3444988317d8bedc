//! A shared region takes the kernel's handle, which a service does not have.
#![forbid(unsafe_code)]

use cloister_caps::Slot;
use cloister_runtime::{Kernel, SharedRegion};

fn attempt() -> SharedRegion {
    SharedRegion::new(Kernel(()), Slot(3))
}

fn main() {}
