//! Nor is it made without the kernel, which a service does not have.
#![forbid(unsafe_code)]

use cloister_caps::Slot;
use cloister_runtime::Window;

fn attempt() -> Window {
    Window::new(Slot(3))
}

fn main() {}
