//! Only the runtime makes the kernel's handle.
#![forbid(unsafe_code)]

use cloister_caps::Slot;
use cloister_interfaces::capability::Grant;
use cloister_runtime::Kernel;

fn attempt() -> Grant<Kernel> {
    Grant::new(Kernel(()), Slot(3))
}

fn main() {}
