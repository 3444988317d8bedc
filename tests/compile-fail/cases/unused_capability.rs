//! A capability that the policy gives and `Caps` does not name does not compile.
#![forbid(unsafe_code)]

mod clerk {
    use cloister_interfaces::capability::Console;

    pub struct Caps<S> {
        pub console: Console<S>,
    }
}

include!("clerk.bindings");

fn main() {}
