//! The programs of the shipped image, compiled with the bindings of the policy compiler. They
//! compile only if the policy gives each service exactly the capabilities that it expects.

use cloister_sim::Machine;

macro_rules! program {
    ($module:ident: $name:literal, $library:ident) => {
        pub mod $module {
            use cloister_sim::program as cloister_runtime;

            include!(concat!(env!("OUT_DIR"), "/", $name, ".rs"));

            /// Starts the program.
            pub fn make() -> Box<dyn cloister_interfaces::Service> {
                cloister_runtime::start(HEAP, CONSOLE, |kernel| $library::service(capabilities(kernel)))
            }
        }
    };
}

macro_rules! programs {
    ($($module:ident: $name:literal, $library:ident;)*) => {
        $(program!($module: $name, $library);)*

        /// Installs the program of every service of the shipped policy.
        pub fn install(machine: &Machine) {
            $(machine.install($name, $module::make);)*
        }
    };
}

programs! {
    control: "control", cloister_control;
    grant_manager: "grant-manager", cloister_grant_manager;
    http: "http", cloister_http;
    netfront: "netfront", cloister_netfront;
    tcpip: "tcpip", cloister_tcpip;
    xenstore: "xenstore", cloister_xenstore;
}

/// All services as one program.
pub mod fused {
    use cloister_sim::program;

    cloister_fused::bound!(cloister_sim::program);

    use bound::{self as cloister_runtime, FromSlot as _};

    include!(concat!(env!("OUT_DIR"), "/fused-fused.rs"));

    /// Starts the program.
    pub fn make() -> Box<dyn cloister_interfaces::Service> {
        program::start(HEAP, CONSOLE, |kernel| {
            let inside = cloister_fused::Inside::new(kernel);
            cloister_fused::service(inside, move || capabilities(inside))
        })
    }
}

// The one program whose bindings contain the domains that may be the back end, with those of
// `super::driver_domain_policy`.
program!(driver_domain_netfront: "driver-domain-netfront", cloister_netfront);
