//! Shows that a build is reproducible: builds the image of a policy once more, from a copy
//! of the sources, where everything is different that must not matter.
//!
//! Different are the folder of the sources and of the results, the home folder, the folder of
//! cargo's downloads, the user's name and language, the time, the number of jobs, and flags for the
//! compiler in the environment.

use std::os::unix::fs::symlink;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result, bail, ensure};
use cloister_policy::release::Release;

use crate::image;
use crate::workspace::{self, ROOT};

/// The file of an image, in its folder.
const IMAGE: &str = "cloister.elf";

/// Builds the image of a policy again, and compares it with the one that was built before.
///
/// # Errors
/// It cannot be built, or is not the same.
pub fn check(policy: &Path) -> Result<()> {
    let first = image::folder(policy)?;
    let place = tempfile::Builder::new().prefix("cloister-rebuild-").tempdir().context("a temporary folder")?;
    let sources = place.path().join("a folder/elsewhere");
    copy_sources(&sources)?;
    let text = std::fs::read(first.join("policy.toml")).context("policy.toml")?;
    std::fs::write(place.path().join("again.toml"), text).context("again.toml")?;
    build(&sources, place.path())?;
    compare(&first, &sources.join("target/image/again"))
}

/// Copies the files of the sources that git would: not the results of builds.
fn copy_sources(to: &Path) -> Result<()> {
    let mut command = Command::new("git");
    command.args(["ls-files", "-z", "--cached", "--others", "--exclude-standard"]).current_dir(workspace::root());
    let output = command.output().context("git cannot be run")?;
    ensure!(output.status.success(), "git ls-files: {}", String::from_utf8_lossy(&output.stderr));
    let list = String::from_utf8(output.stdout).context("a file's name is not UTF-8")?;
    for name in list.split('\0').filter(|name| !name.is_empty()) {
        let (from, to) = (workspace::root().join(name), to.join(name));
        // A file that is removed and not yet committed is still on the list.
        if !from.exists() {
            continue;
        }
        let folder = to.parent().context("a file has no folder")?;
        std::fs::create_dir_all(folder).with_context(|| folder.display().to_string())?;
        std::fs::copy(&from, &to).with_context(|| from.display().to_string())?;
    }
    Ok(())
}

/// Builds the image of `again.toml` in `place` from the sources in `sources`, with this very
/// program.
fn build(sources: &Path, place: &Path) -> Result<()> {
    let home = place.join("home of another");
    let cargo_home = place.join("downloads");
    std::fs::create_dir_all(&home).context("the other home folder")?;
    std::fs::create_dir_all(&cargo_home).context("the other folder of downloads")?;
    // Downloads are shared: they are large, and the lock file has their checksums.
    let real = workspace::cargo_home()?;
    for name in ["registry", "config.toml", "config"] {
        let from = real.join(name);
        if from.exists() {
            symlink(&from, cargo_home.join(name)).with_context(|| name.to_owned())?;
        }
    }
    let mut command = Command::new(std::env::current_exe().context("this program's path")?);
    command.args(["build", "--policy"]).arg(place.join("again.toml")).current_dir(place);
    command.env(ROOT, sources).env("CARGO_TARGET_DIR", sources.join("target"));
    command.env("RUSTUP_HOME", rustup_home()?).env("HOME", &home).env("CARGO_HOME", &cargo_home);
    command.env("USER", "somebody-else").env("LOGNAME", "somebody-else").env("LC_ALL", "C").env("TZ", "Asia/Tokyo");
    command.env("CARGO_BUILD_JOBS", "1").env("RUSTFLAGS", "-C debuginfo=0").env("SOURCE_DATE_EPOCH", "1");
    let output = command.output().context("the build elsewhere cannot be run")?;
    if !output.status.success() {
        bail!("the build elsewhere failed\n{}", String::from_utf8_lossy(&output.stderr));
    }
    Ok(())
}

/// Returns rustup's folder, which the other home folder does not have.
fn rustup_home() -> Result<PathBuf> {
    let set = std::env::var_os("RUSTUP_HOME").map(PathBuf::from);
    set.or_else(|| Some(std::env::home_dir()?.join(".rustup"))).context("there is no home folder")
}

/// Compares two folders of an image: the bytes of the image, and where they differ, its parts.
fn compare(first: &Path, second: &Path) -> Result<()> {
    let read = |folder: &Path, name: &str| {
        let path = folder.join(name);
        std::fs::read(&path).with_context(|| path.display().to_string())
    };
    let [one, other] = [read(first, IMAGE)?, read(second, IMAGE)?];
    let Some(difference) = first_difference(&one, &other) else { return Ok(()) };
    let release = |folder: &Path| -> Result<Release> {
        Ok(Release::parse(&String::from_utf8_lossy(&read(folder, "release.toml")?))?)
    };
    let findings = release(first)?.compare(&release(second)?.hashes);
    let parts: Vec<String> = findings.iter().map(ToString::to_string).collect();
    bail!("a build elsewhere gives another image: {IMAGE}: {difference}\n{}", parts.join("\n"))
}

/// Says where two files differ first. Returns `None` if they are the same.
fn first_difference(one: &[u8], other: &[u8]) -> Option<String> {
    if let Some(at) = one.iter().zip(other).position(|(one, other)| one != other) {
        let [one, other] = [one, other].map(|file| file.get(at).copied().unwrap_or_default());
        return Some(format!("the byte at {at:#x} is {one:#04x} in one, and {other:#04x} in the other"));
    }
    let [one, other] = [one.len(), other.len()];
    (one != other).then(|| format!("one has {one} bytes, the other {other}, and the same before"))
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Compiles a program for the image's target, as another user. Returns its bytes.
    fn compiled(source: &str, folder: &Path, user: &str) -> Vec<u8> {
        std::fs::create_dir_all(folder).expect("a folder");
        std::fs::write(folder.join("service.rs"), source).expect("a source");
        let mut rustc = Command::new(std::env::var_os("RUSTC").unwrap_or_else(|| "rustc".into()));
        rustc.args(["--edition=2024", "--crate-type=lib", "--emit=obj=service.o", "-Copt-level=2", "service.rs"]);
        let output = rustc.current_dir(folder).env("USER", user).output().expect("rustc runs");
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
        std::fs::read(folder.join("service.o")).expect("an object file")
    }

    fn manifest(image: &[u8], program: &[u8]) -> String {
        use cloister_policy::release::{Hashes, Sources, hash_of};
        let hashes = Hashes {
            image: hash_of(image),
            policy: [1; 32],
            tables: [2; 32],
            sbom: None,
            unsafe_uses: None,
            programs: vec![("kernel".to_owned(), [3; 32]), ("http".to_owned(), hash_of(program))],
        };
        let sources =
            Sources { policy_file: [4; 32], lock: [5; 32], toolchain: "rustc 1.95.0".to_owned(), commit: None };
        Release { hashes, sources, configuration: None }.text()
    }

    /// Builds the service twice, in two folders, for two users, and compares the results as two
    /// images.
    fn built_twice(source: &str) -> Result<()> {
        let place = tempfile::tempdir().expect("a temporary folder");
        let folders = ["first", "second"].map(|name| place.path().join(name));
        for (folder, user) in folders.iter().zip(["somebody", "another"]) {
            let program = compiled(source, folder, user);
            let image = [b"headers", &program[..]].concat();
            std::fs::write(folder.join(IMAGE), &image).expect("an image");
            std::fs::write(folder.join("release.toml"), manifest(&image, &program)).expect("a manifest");
        }
        compare(&folders[0], &folders[1])
    }

    #[test]
    fn a_build_that_takes_in_who_builds_it_is_refused_with_the_part_and_the_first_difference() {
        let source = |value: &str| format!("#[inline(never)]\npub fn built_by() -> &'static str {{ {value} }}\n");
        built_twice(&source("\"nobody\"")).expect("the same bytes");
        let error = built_twice(&source("env!(\"USER\")")).expect_err("other bytes").to_string();
        assert!(error.starts_with("a build elsewhere gives another image: cloister.elf: the byte at 0x"), "{error}");
        assert!(error.contains("http"), "the part is named: {error}");
    }

    #[test]
    fn the_first_difference_is_a_byte_or_the_length() {
        assert_eq!(first_difference(b"abc", b"abc"), None);
        let byte = first_difference(b"abcd", b"abXY").expect("other bytes");
        assert_eq!(byte, "the byte at 0x2 is 0x63 in one, and 0x58 in the other");
        let length = first_difference(b"ab", b"abc").expect("more bytes");
        assert_eq!(length, "one has 2 bytes, the other 3, and the same before");
    }
}
