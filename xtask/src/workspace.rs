//! The workspace: its folders and its programs; runs cargo in it.

use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result, bail};
use cargo_metadata::{Metadata, MetadataCommand, Package};

/// The target that the image is compiled for.
pub const TARGET: &str = "x86_64-unknown-none";

/// The variable with another root folder, for [`crate::rebuild`].
pub const ROOT: &str = "CLOISTER_WORKSPACE";

/// Returns the workspace's root folder.
pub fn root() -> PathBuf {
    if let Some(root) = std::env::var_os(ROOT).filter(|root| !root.is_empty()) {
        return PathBuf::from(root);
    }
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("..");
    root.canonicalize().unwrap_or(root)
}

/// Returns a command that runs cargo in the workspace: the cargo that started this program.
pub fn cargo() -> Command {
    let mut command = Command::new(std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into()));
    command.current_dir(root());
    command
}

/// Returns the compiler of the workspace, as `rustc --version` names it.
pub fn toolchain() -> Result<String> {
    let output = Command::new("rustc").arg("--version").current_dir(root()).output().context("rustc cannot be run")?;
    Ok(String::from_utf8_lossy(&output.stdout).trim().to_owned())
}

/// Returns the commit of the sources, or `None` if they are those of none: without git, or after a
/// change that is not committed.
pub fn commit() -> Option<String> {
    let git = |arguments: &[&str]| {
        let output = Command::new("git").args(arguments).current_dir(root()).output().ok()?;
        output.status.success().then(|| String::from_utf8_lossy(&output.stdout).trim().to_owned())
    };
    let unchanged = git(&["status", "--porcelain"])?.is_empty();
    git(&["rev-parse", "HEAD"]).filter(|_| unchanged)
}

/// Returns flags of rustc that take the folder of each registry's sources out of the paths that
/// panics print. The image has less text, and does not depend on where cargo keeps the sources.
pub fn source_flags() -> Result<Vec<String>> {
    flags_without(&cargo_home()?.join("registry/src"))
}

/// Returns cargo's folder.
pub fn cargo_home() -> Result<PathBuf> {
    let set = std::env::var_os("CARGO_HOME").map(PathBuf::from);
    set.or_else(|| Some(std::env::home_dir()?.join(".cargo"))).context("there is no home folder")
}

/// Returns the flags that take the path of each folder in `registries` out.
fn flags_without(registries: &Path) -> Result<Vec<String>> {
    // Before the first download there is none.
    let Ok(entries) = std::fs::read_dir(registries) else { return Ok(Vec::new()) };
    let mut folders = entries.map(|entry| Ok(entry?.path())).collect::<Result<Vec<_>>>()?;
    folders.sort();
    Ok(folders.iter().map(|folder| format!("--remap-path-prefix={}=", folder.display())).collect())
}

/// Returns cargo's metadata of the workspace's own packages.
pub fn metadata() -> Result<Metadata> {
    let manifest = root().join("Cargo.toml");
    MetadataCommand::new().manifest_path(manifest).no_deps().exec().context("cargo metadata failed")
}

/// Returns the name of a policy's `program` without the prefix of our crates.
fn short(program: &str) -> &str {
    program.strip_prefix("cloister-").unwrap_or(program)
}

/// Returns the programs of a package that can run in an image.
fn programs(package: &Package) -> impl Iterator<Item = &str> {
    let programs = package.targets.iter().filter(|target| target.is_bin() && target.required_features == ["image"]);
    programs.map(|target| target.name.as_str())
}

/// Returns the package of a policy's `program`: the package of that name, or one that has a program
/// of that name.
fn package<'a>(metadata: &'a Metadata, program: &str) -> Result<&'a Package> {
    let prefixed = format!("cloister-{program}");
    let named = metadata.packages.iter().find(|package| *package.name == program || *package.name == prefixed);
    let having = || metadata.packages.iter().find(|package| programs(package).any(|name| name == short(program)));
    let Some(package) = named.or_else(having) else {
        bail!(
            "the policy names the program \"{program}\", but no crate of the workspace is called {program} or {prefixed}, or has a program of that name"
        );
    };
    Ok(package)
}

/// Returns the kernel features that a program needs: `kernel` in its crate's
/// `[package.metadata.cloister]`.
pub fn kernel_features(metadata: &Metadata, program: &str) -> Result<Vec<String>> {
    let package = package(metadata, program)?;
    let words = package.metadata["cloister"]["kernel"].as_array();
    Ok(words.into_iter().flatten().filter_map(|word| Some(word.as_str()?.to_owned())).collect())
}

/// Returns the package and the binary of a policy's `program`.
pub fn program(metadata: &Metadata, program: &str) -> Result<(String, String)> {
    let package = package(metadata, program)?;
    let found: Vec<&str> = programs(package).collect();
    // A package with several programs names each by its own name.
    let same_name = found.iter().find(|name| **name == short(program));
    match (&found[..], same_name) {
        ([name], _) | (_, Some(name)) => Ok((package.name.to_string(), (*name).to_owned())),
        _ => bail!(
            "the crate {} needs one binary with required-features = [\"image\"], or one named {}",
            package.name,
            short(program)
        ),
    }
}

/// Installs [`TARGET`] if the compiler does not have it.
pub fn ensure_target(progress: &mut dyn FnMut(&str)) -> Result<()> {
    let output = Command::new("rustc").args(["--print", "sysroot"]).current_dir(root()).output();
    let output = output.context("rustc cannot be run: install Rust with rustup (https://rustup.rs)")?;
    let sysroot = PathBuf::from(String::from_utf8_lossy(&output.stdout).trim());
    if sysroot.join("lib/rustlib").join(TARGET).is_dir() {
        return Ok(());
    }
    progress(&format!("installing the Rust target {TARGET}"));
    let added = Command::new("rustup").args(["target", "add", TARGET]).current_dir(root()).output();
    match added {
        Ok(output) if output.status.success() => Ok(()),
        Ok(output) => bail!("`rustup target add {TARGET}` failed\n{}", String::from_utf8_lossy(&output.stderr)),
        Err(error) => bail!("the Rust target {TARGET} is missing and rustup cannot be run ({error})"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_registry_has_a_flag_that_takes_its_folder_out() {
        let registries = tempfile::tempdir().expect("folder");
        assert!(flags_without(registries.path()).expect("flags").is_empty());
        assert!(flags_without(&registries.path().join("none")).expect("flags").is_empty());
        for name in ["index-b", "index-a"] {
            std::fs::create_dir(registries.path().join(name)).expect("create");
        }
        let expected = |name: &str| format!("--remap-path-prefix={}/{name}=", registries.path().display());
        assert_eq!(flags_without(registries.path()).expect("flags"), [expected("index-a"), expected("index-b")]);
    }

    #[test]
    fn programs_are_found_by_either_name() {
        let metadata = metadata().expect("metadata");
        let expected = ("cloister-http".to_owned(), "http".to_owned());
        assert_eq!(program(&metadata, "http").expect("short"), expected);
        assert_eq!(program(&metadata, "cloister-http").expect("long"), expected);
        let of_several = ("cloister-prober".to_owned(), "prober-tcpip".to_owned());
        assert_eq!(program(&metadata, "cloister-prober-tcpip").expect("one of several"), of_several);
        assert_eq!(program(&metadata, "cloister-prober").expect("its own").1, "prober");
        assert!(program(&metadata, "nonsense").expect_err("none").to_string().contains("nonsense"));
        assert!(program(&metadata, "cloister-caps").is_err(), "a library is no program");
    }
}
