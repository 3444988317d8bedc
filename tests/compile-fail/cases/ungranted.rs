//! A service that wants what the policy does not give it does not compile: the bindings cannot fill the field.
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
