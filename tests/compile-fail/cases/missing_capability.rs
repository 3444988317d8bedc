//! A capability that the policy does not give leaves a field without a value.
#![forbid(unsafe_code)]

mod clerk {
    use cloister_interfaces::Memory;
    use cloister_interfaces::capability::{Console, Power};

    pub struct Caps<S, M: Memory> {
        pub console: Console<S>,
        pub power: Power<S>,
        pub notes: M,
    }
}

include!("clerk.bindings");

fn main() {}
