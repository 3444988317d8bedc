//! Writes the bindings of each program of the shipped image, as a build of the image does.
#![forbid(unsafe_code)]

use std::path::Path;

fn main() {
    let text = read("../../policy/default.toml");
    write(&text, "");
    write(&read("../guests/fused.toml"), "fused-");
    // A program that deals with the back end knows the domains that may be it.
    let driver_domain = text.replace("ids = \"0\"", "ids = \"12-13\"");
    assert!(driver_domain != text, "the policy that ships has its back end in domain 0");
    write(&driver_domain, "driver-domain-");
}

/// Returns the text of a policy.
fn read(policy: &str) -> String {
    let policy = Path::new(env!("CARGO_MANIFEST_DIR")).join(policy);
    println!("cargo::rerun-if-changed={}", policy.display());
    std::fs::read_to_string(&policy).unwrap_or_else(|error| panic!("{}: {error}", policy.display()))
}

/// Writes the bindings of each service of a policy into a file that begins with `prefix`.
fn write(policy: &str, prefix: &str) {
    let policy = cloister_policy::parse("default.toml", policy).unwrap_or_else(|report| panic!("{report}"));
    let out = std::env::var_os("OUT_DIR").expect("Cargo sets OUT_DIR");
    for service in policy.services() {
        let bindings = policy.bindings(service.name()).expect("a service of the policy has bindings");
        let path = Path::new(&out).join(format!("{prefix}{}.rs", service.name()));
        std::fs::write(&path, bindings).unwrap_or_else(|error| panic!("{}: {error}", path.display()));
    }
}
