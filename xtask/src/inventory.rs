//! The inventories that an image carries for those who verify it.
//!
//! One is the bill of materials (CycloneDX 1.6, JSON, <https://cyclonedx.org/docs/1.6/json/>), the
//! other lists where `unsafe` is written. Neither contains a time or a path: the same sources give
//! the same image.

use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;

use anyhow::{Context, Result};
use cargo_metadata::{CargoOpt, DependencyKind, Metadata, MetadataCommand, Package, PackageId, TargetKind};
use cloister_policy::{Checked, hexadecimal};
use serde_json::{Value, json};
use toml_edit::Document;

use crate::unsafe_counts::{self, UnsafeCounts};
use crate::workspace::{self, TARGET};

/// The inventories of an image.
pub struct Inventory {
    /// The bill of materials.
    pub sbom: Vec<u8>,
    /// The uses of `unsafe` in each crate.
    pub unsafe_uses: Vec<u8>,
}

/// Makes the inventories of an image, from the packages of its kernel and programs.
pub fn take(policy: &Checked, programs: &BTreeSet<String>) -> Result<Inventory> {
    let metadata = metadata(programs)?;
    let crates = crates(&metadata, programs)?;
    let lock = std::fs::read_to_string(workspace::root().join("Cargo.lock")).context("Cargo.lock")?;
    let sbom = sbom(policy, &metadata, &crates, programs, &checksums(&lock)?)?;
    let mut list = Vec::new();
    for package in &crates {
        list.push(unsafe_use(package, &unsafe_counts::count(&sources(package)?)?));
    }
    let unsafe_uses = json!({ "format": "cloister-unsafe", "version": 1, "crates": list });
    Ok(Inventory { sbom: serde_json::to_vec(&sbom)?, unsafe_uses: serde_json::to_vec(&unsafe_uses)? })
}

/// Returns cargo's metadata with the dependencies and features that the programs are built with.
fn metadata(programs: &BTreeSet<String>) -> Result<Metadata> {
    let features = programs.iter().map(|program| format!("{program}/image")).collect();
    let options = ["--locked", "--filter-platform", TARGET].map(str::to_owned);
    MetadataCommand::new()
        .manifest_path(workspace::root().join("Cargo.toml"))
        .features(CargoOpt::SomeFeatures(features))
        .other_options(options)
        .exec()
        .context("cargo metadata failed")
}

/// Returns the crates with code in the image, by name. Procedural macros run only in the compiler.
fn crates<'a>(metadata: &'a Metadata, programs: &BTreeSet<String>) -> Result<Vec<&'a Package>> {
    let mut found: BTreeMap<(&str, String), &Package> = BTreeMap::new();
    let mut open: Vec<&PackageId> =
        metadata.packages.iter().filter(|package| programs.contains(package.name.as_str())).map(|p| &p.id).collect();
    while let Some(id) = open.pop() {
        let package = metadata.packages.iter().find(|package| package.id == *id).context("a package is missing")?;
        let is_macro = package.targets.iter().any(|target| target.kind.contains(&TargetKind::ProcMacro));
        let key = (package.name.as_str(), package.version.to_string());
        if !is_macro && found.insert(key, package).is_none() {
            open.extend(dependencies(metadata, id));
        }
    }
    Ok(found.into_values().collect())
}

/// Returns the packages that the code of a package depends on.
fn dependencies<'a>(metadata: &'a Metadata, id: &PackageId) -> Vec<&'a PackageId> {
    let nodes = metadata.resolve.iter().flat_map(|resolve| &resolve.nodes).filter(|node| node.id == *id);
    nodes
        .flat_map(|node| &node.deps)
        .filter(|dep| dep.dep_kinds.iter().any(|kind| kind.kind == DependencyKind::Normal))
        .map(|dep| &dep.pkg)
        .collect()
}

/// Returns the SHA-256 of each crate from a registry, by name and version.
fn checksums(lock: &str) -> Result<BTreeMap<(String, String), String>> {
    let lock = Document::parse(lock).context("Cargo.lock")?;
    let packages =
        lock.get("package").and_then(|item| item.as_array_of_tables()).context("Cargo.lock lists nothing")?;
    let text = |table: &toml_edit::Table, key: &str| Some(table.get(key)?.as_str()?.to_owned());
    let entry =
        |table: &toml_edit::Table| Some(((text(table, "name")?, text(table, "version")?), text(table, "checksum")?));
    Ok(packages.iter().filter_map(entry).collect())
}

fn reference(package: &Package) -> String {
    format!("pkg:cargo/{}@{}", package.name, package.version)
}

fn sbom(
    policy: &Checked,
    metadata: &Metadata,
    crates: &[&Package],
    programs: &BTreeSet<String>,
    checksums: &BTreeMap<(String, String), String>,
) -> Result<Value> {
    let of = |id: &PackageId| crates.iter().find(|package| package.id == *id).map(|package| reference(package));
    let mut components = Vec::new();
    let mut dependencies_of = Vec::new();
    for package in crates {
        let is_program = programs.contains(package.name.as_str());
        let mut component = json!({
            "type": if is_program { "application" } else { "library" },
            "bom-ref": reference(package),
            "name": package.name.as_str(),
            "version": package.version.to_string(),
            "purl": reference(package),
        });
        if let Some(license) = &package.license {
            // The older form of crates.io, `MIT/Apache-2.0`, is not SPDX.
            component["licenses"] = json!([{ "expression": license.replace('/', " OR ") }]);
        }
        if let Some(sum) = checksums.get(&(package.name.to_string(), package.version.to_string())) {
            component["hashes"] = json!([{ "alg": "SHA-256", "content": sum }]);
        }
        components.push(component);
        let on: BTreeSet<String> = dependencies(metadata, &package.id).into_iter().filter_map(of).collect();
        dependencies_of.push(json!({ "ref": reference(package), "dependsOn": on }));
    }
    let hash = hexadecimal(&policy.hash());
    Ok(json!({
        "bomFormat": "CycloneDX",
        "specVersion": "1.6",
        "version": 1,
        "metadata": {
            "component": {
                "type": "operating-system",
                "bom-ref": "image",
                "name": "cloister",
                "version": env!("CARGO_PKG_VERSION"),
                "properties": [{ "name": "cloister:policy-sha256", "value": hash }],
            },
        },
        "components": components,
        "dependencies": dependencies_of,
    }))
}

/// Returns the Rust sources of a crate's code: the files beside, and below, the root files of its
/// library and programs.
fn sources(package: &Package) -> Result<Vec<std::path::PathBuf>> {
    let of_code = |target: &&cargo_metadata::Target| target.is_lib() || target.is_bin();
    let roots: BTreeSet<&Path> =
        package.targets.iter().filter(of_code).filter_map(|target| target.src_path.as_std_path().parent()).collect();
    let mut files = BTreeSet::new();
    let mut open: Vec<std::path::PathBuf> = roots.into_iter().map(Path::to_owned).collect();
    while let Some(folder) = open.pop() {
        for entry in std::fs::read_dir(&folder).with_context(|| folder.display().to_string())? {
            let path = entry?.path();
            match path.is_dir() {
                true => open.push(path),
                false if path.extension().is_some_and(|extension| extension == "rs") => {
                    files.insert(path);
                }
                false => {}
            }
        }
    }
    Ok(files.into_iter().collect())
}

fn unsafe_use(package: &Package, counts: &UnsafeCounts) -> Value {
    json!({
        "name": package.name.as_str(),
        "crate-version": package.version.to_string(),
        "forbids": counts.forbids,
        "blocks": counts.blocks,
        "functions": counts.functions,
        "traits": counts.traits,
        "implementations": counts.implementations,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_shipped_image_is_made_of_our_crates_and_of_those_they_need() {
        let policy = cloister_policy::load(&workspace::root().join(crate::image::DEFAULT_POLICY))
            .unwrap_or_else(|report| panic!("{}", report.render(false)));
        let programs: BTreeSet<String> = ["cloister-kernel", "cloister-tcpip"].map(str::to_owned).into();
        let inventory = take(&policy, &programs).expect("inventory");
        let sbom: Value = serde_json::from_slice(&inventory.sbom).expect("JSON");
        let components = sbom["components"].as_array().expect("components");
        let find = |name: &str| components.iter().find(|component| component["name"] == name);
        for ours in ["cloister-kernel", "cloister-tcpip", "cloister-caps", "cloister-runtime"] {
            assert!(find(ours).is_some(), "{ours}");
        }
        let smoltcp = find("smoltcp").expect("smoltcp");
        assert_eq!(smoltcp["hashes"][0]["content"].as_str().map(str::len), Some(64));
        assert_eq!(smoltcp["purl"], smoltcp["bom-ref"]);
        for absent in ["cloister-http", "cloister-policy", "proptest", "clap", "syn"] {
            assert!(find(absent).is_none(), "{absent}");
        }
        let uses: Value = serde_json::from_slice(&inventory.unsafe_uses).expect("JSON");
        let uses = uses["crates"].as_array().expect("crates");
        assert_eq!(uses.len(), components.len());
        let of = |name: &str| uses.iter().find(|item| item["name"] == name).expect("listed");
        assert_eq!((&of("cloister-tcpip")["forbids"], &of("cloister-tcpip")["blocks"]), (&json!(true), &json!(0)));
        assert!(of("cloister-kernel")["blocks"].as_u64().is_some_and(|count| count > 10));
        assert_eq!(take(&policy, &programs).expect("again").sbom, inventory.sbom);
    }
}
