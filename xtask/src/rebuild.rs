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
    if read(first, "cloister.elf")? == read(second, "cloister.elf")? {
        return Ok(());
    }
    let release = |folder: &Path| -> Result<Release> {
        Ok(Release::parse(&String::from_utf8_lossy(&read(folder, "release.toml")?))?)
    };
    let findings = release(first)?.compare(&release(second)?.hashes);
    let lines: Vec<String> = findings.iter().map(ToString::to_string).collect();
    bail!("a build elsewhere gives another image\n{}", lines.join("\n"))
}
