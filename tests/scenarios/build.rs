//! Writes the bindings of each program of the shipped image, as a build of the image does.
#![forbid(unsafe_code)]

use std::path::Path;

fn main() {
    let policy = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../policy/default.toml");
    println!("cargo::rerun-if-changed={}", policy.display());
    let policy = cloister_policy::load(&policy).unwrap_or_else(|report| panic!("{report}"));
    let out = std::env::var_os("OUT_DIR").expect("Cargo sets OUT_DIR");
    for service in policy.services() {
        let bindings = policy.bindings(service.name()).expect("a service of the policy has bindings");
        let path = Path::new(&out).join(format!("{}.rs", service.name()));
        std::fs::write(&path, bindings).unwrap_or_else(|error| panic!("{}: {error}", path.display()));
    }
}
