//! Tests the structure of the workspace: which crate may depend on which, where `unsafe` is
//! allowed, and which versions are used.
#![forbid(unsafe_code)]

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};

use cargo_metadata::{DependencyKind, Metadata, MetadataCommand, Package};
use toml_edit::{DocumentMut, Item, TableLike};

/// The crates that may contain `unsafe`: the two of the image, and the attempts of the prober,
/// which no shipped image contains.
const UNSAFE: [&str; 3] = ["kernel/image", "services/runtime", "tests/guests/probe"];
/// The directories of the crates that are no part of the image.
const OUTSIDE: [&str; 3] = ["policy", "tests/", "xtask"];

fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../..").canonicalize().unwrap()
}

fn workspace() -> Metadata {
    MetadataCommand::new().manifest_path(root().join("Cargo.toml")).no_deps().exec().unwrap()
}

/// Returns the directory of a package, relative to the root.
fn directory(package: &Package) -> String {
    let path = package.manifest_path.parent().unwrap().as_std_path();
    path.strip_prefix(root()).unwrap().to_str().unwrap().to_string()
}

fn manifest(path: &Path) -> DocumentMut {
    std::fs::read_to_string(path).unwrap().parse().unwrap()
}

/// Returns the directories of our own crates that the crate in `directory` may depend on; `None`
/// outside of the image, where it may depend on all.
fn allowed(directory: &str) -> Option<&'static [&'static str]> {
    match directory {
        "caps" => Some(&[]),
        "services/interfaces" | "kernel/core" => Some(&["caps"]),
        "services/runtime" => Some(&["caps", "services/interfaces"]),
        "kernel/image" => Some(&["caps", "kernel/core"]),
        // Services depend on no other service, so that only the interfaces define their messages.
        "netfront-service" => Some(&["caps", "services/interfaces", "services/runtime"]),
        "services/collections" => Some(&["services/interfaces"]),
        _ if directory.starts_with("services/") => {
            Some(&["caps", "services/collections", "services/interfaces", "services/runtime"])
        }
        "policy" => Some(&["caps", "services/interfaces"]),
        _ if OUTSIDE.iter().any(|outside| directory.starts_with(outside)) => None,
        _ => panic!("{directory} has no place in the structure"),
    }
}

/// Returns the directories of our own crates that only its tests may depend on.
fn allowed_in_tests(directory: &str) -> &'static [&'static str] {
    match directory {
        "caps" | "kernel/image" | "services/runtime" => &[],
        // The compiler's tables are tested on the kernel's decisions, and the other way round, with
        // the simulator's platforms.
        "kernel/core" => &["policy", "tests/sim"],
        "policy" => &["kernel/core", "tests/sim"],
        _ => &["tests/sim"],
    }
}

#[test]
fn dependencies_go_one_way() {
    let workspace = workspace();
    assert!(workspace.packages.len() > 15);
    for package in &workspace.packages {
        let own = directory(package);
        let Some(allowed) = allowed(&own) else { continue };
        for dependency in &package.dependencies {
            let Some(path) = &dependency.path else { continue };
            let on = path.as_std_path().strip_prefix(root()).unwrap().to_str().unwrap();
            let tests = dependency.kind == DependencyKind::Development && allowed_in_tests(&own).contains(&on);
            assert!(tests || allowed.contains(&on), "{own} depends on {on}");
        }
    }
}

#[test]
fn a_dependency_of_one_crate_of_the_image_is_of_no_other() {
    for (name, of) in [("x86_64", "kernel/image"), ("smoltcp", "services/tcpip"), ("httparse", "services/http")] {
        let workspace = workspace();
        let users = workspace.packages.iter().filter(|package| {
            package.dependencies.iter().any(|dependency| dependency.name == name)
                && !OUTSIDE.iter().any(|outside| directory(package).starts_with(outside))
        });
        assert_eq!(users.map(directory).collect::<Vec<_>>(), [of], "{name}");
    }
}

#[test]
fn only_the_prober_depends_on_its_attempts() {
    let workspace = workspace();
    let users = workspace
        .packages
        .iter()
        .filter(|package| package.dependencies.iter().any(|dependency| dependency.name == "cloister-probe"));
    assert_eq!(users.map(directory).collect::<Vec<_>>(), ["tests/guests/prober"]);
}

#[test]
fn every_root_forbids_unsafe_code() {
    let mut roots = 0;
    for package in &workspace().packages {
        let manifest = manifest(package.manifest_path.as_std_path());
        if UNSAFE.contains(&directory(package).as_str()) {
            let every_block = &manifest["lints"]["clippy"]["undocumented_unsafe_blocks"];
            assert_eq!(every_block.as_str(), Some("deny"), "{}", package.name);
            continue;
        }
        assert_eq!(manifest["lints"]["workspace"].as_bool(), Some(true), "{}", package.name);
        let programs = package.targets.iter().filter(|target| target.is_lib() || target.is_bin());
        for target in programs {
            let text = std::fs::read_to_string(&target.src_path).unwrap();
            assert!(text.lines().any(|line| line == "#![forbid(unsafe_code)]"), "{}", target.src_path);
            roots += 1;
        }
    }
    assert!(roots >= 20, "{roots} roots");
    let lint = &manifest(&root().join("Cargo.toml"))["workspace"]["lints"];
    assert_eq!(lint["rust"]["unsafe_code"].as_str(), Some("deny"));
    assert_eq!(lint["clippy"]["undocumented_unsafe_blocks"].as_str(), Some("deny"));
}

/// Returns the dependencies of a manifest, including those for one target.
fn dependencies(manifest: &dyn TableLike) -> Vec<(String, Item)> {
    let mut found = Vec::new();
    for section in ["dependencies", "dev-dependencies", "build-dependencies"] {
        if let Some(table) = manifest.get(section).and_then(Item::as_table_like) {
            found.extend(table.iter().map(|(name, item)| (name.to_string(), item.clone())));
        }
    }
    if let Some(targets) = manifest.get("target").and_then(Item::as_table_like) {
        for (_, target) in targets.iter() {
            found.extend(dependencies(target.as_table_like().unwrap()));
        }
    }
    found
}

/// Returns each entry of the workspace's table: the name, and the version, or `None` if the crate
/// is ours.
fn table() -> Vec<(String, Option<String>)> {
    let manifest = manifest(&root().join("Cargo.toml"));
    let table = manifest["workspace"]["dependencies"].as_table_like().unwrap();
    table
        .iter()
        .map(|(name, item)| {
            let version = item.as_str().or_else(|| item.get("version").and_then(Item::as_str));
            let ours = item.get("path").is_some();
            assert_ne!(ours, version.is_some(), "{name} is ours or has a version");
            (name.to_string(), version.map(str::to_string))
        })
        .collect()
}

#[test]
fn every_version_is_exact_and_written_once() {
    let table = table();
    assert!(table.len() > 25);
    for (name, version) in &table {
        let exact = |version: &str| {
            version.strip_prefix('=').is_some_and(|number| {
                let parts: Vec<&str> = number.split('.').collect();
                parts.len() == 3 && parts.iter().all(|part| part.parse::<u32>().is_ok())
            })
        };
        assert!(version.as_deref().is_none_or(exact), "{name} {version:?}");
    }
    for package in &workspace().packages {
        let manifest = manifest(package.manifest_path.as_std_path());
        for (name, item) in dependencies(manifest.as_table()) {
            let workspace = item.get("workspace").and_then(Item::as_bool);
            assert_eq!(workspace, Some(true), "{} names {name} by itself", package.name);
        }
    }
}

#[test]
fn every_dependency_of_the_workspace_is_used() {
    let used: BTreeSet<String> = workspace()
        .packages
        .iter()
        .flat_map(|package| dependencies(manifest(package.manifest_path.as_std_path()).as_table()))
        .map(|(name, _)| name)
        .collect();
    let unused: Vec<String> = table().into_iter().map(|(name, _)| name).filter(|name| !used.contains(name)).collect();
    assert_eq!(unused, Vec::<String>::new());
}
