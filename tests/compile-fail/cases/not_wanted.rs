//! Nor does one that has no use for what the policy gives it: the policy says too much.
#![forbid(unsafe_code)]

mod clerk {
    use cloister_interfaces::capability::Console;

    pub struct Caps<S> {
        pub console: Console<S>,
    }
}

include!("clerk.bindings");

fn main() {}
