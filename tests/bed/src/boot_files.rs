//! Finds the hypervisor, in the form that QEMU's multiboot loader takes, and dom0's kernel.
//!
//! The hypervisor package is downloaded and unpacked, never installed: installing it makes GRUB
//! start this machine under Xen from the next boot on (Debian's `/etc/default/grub.d/xen.cfg`).

use std::io::Read;
use std::path::{Path, PathBuf};
use std::process::Command;

use crate::BedError;
use crate::error::AtPath;
use crate::log::last_lines;
use crate::packages::Installed;

/// Returns the path of dom0's kernel image.
pub fn kernel(installed: &Installed) -> PathBuf {
    PathBuf::from(format!("/boot/vmlinuz-{}", installed.kernel))
}

/// Returns the path of the uncompressed hypervisor in `cache`.
pub fn hypervisor(installed: &Installed, cache: &Path) -> Result<PathBuf, BedError> {
    let tools = format!("xen-utils-{}", installed.xen);
    let version = installed.version(&tools).unwrap_or_default();
    let path = cache.join(format!("xen-{}", version.replace(['/', ':'], "_")));
    if path.is_file() {
        return Ok(path);
    }
    let on_disk = PathBuf::from(format!("/boot/xen-{}-amd64.gz", installed.xen));
    let packed = match on_disk.is_file() {
        true => std::fs::read(&on_disk).at(&on_disk)?,
        false => download(&installed.xen, version, cache)?,
    };
    let mut unpacked = Vec::new();
    flate2::read::GzDecoder::new(packed.as_slice()).read_to_end(&mut unpacked).at(&on_disk)?;
    write_atomically(&path, &unpacked)?;
    Ok(path)
}

/// Returns the compressed hypervisor from its package, of the same version as the tools.
fn download(xen: &str, version: &str, cache: &Path) -> Result<Vec<u8>, BedError> {
    let work = scratch(cache)?;
    let file = work.join(format!("boot/xen-{xen}-amd64.gz"));
    let result = unpack_into(&work, &format!("xen-hypervisor-{xen}-amd64={version}"))
        .and_then(|()| std::fs::read(&file).at(&file));
    // The folder is temporary, and its files have been read.
    let _ = std::fs::remove_dir_all(&work);
    result
}

/// Returns the folder in `cache` with a package's files, which are not installed on this machine.
pub fn unpacked(package: &str, cache: &Path) -> Result<PathBuf, BedError> {
    let folder = cache.join(format!("unpacked-{package}"));
    if !folder.is_dir() {
        let work = scratch(cache)?;
        unpack_into(&work, package)?;
        std::fs::rename(&work, &folder).at(&folder)?;
    }
    Ok(folder)
}

fn scratch(cache: &Path) -> Result<PathBuf, BedError> {
    let work = cache.join(format!("unpack-{}", std::process::id()));
    std::fs::create_dir_all(&work).at(&work)?;
    Ok(work)
}

fn unpack_into(work: &Path, package: &str) -> Result<(), BedError> {
    run(Command::new("apt-get").args(["download", "-q", package]).current_dir(work))?;
    let entries = std::fs::read_dir(work).at(work)?.filter_map(Result::ok).map(|entry| entry.path());
    let archive = entries
        .into_iter()
        .find(|path| path.extension().is_some_and(|extension| extension == "deb"))
        .ok_or_else(|| BedError::Distribution(format!("apt-get downloaded no file for {package}")))?;
    run(Command::new("dpkg").arg("-x").arg(&archive).arg(work))
}

fn run(command: &mut Command) -> Result<(), BedError> {
    let output = command.output().at(command.get_program().to_os_string())?;
    if output.status.success() {
        return Ok(());
    }
    Err(BedError::Command {
        command: format!("{command:?}").replace('"', ""),
        status: output.status.to_string(),
        output: last_lines(&String::from_utf8_lossy(&output.stderr), 10),
    })
}

/// Writes a cache file so that no other process ever sees an incomplete one.
pub(crate) fn write_atomically(path: &Path, content: &[u8]) -> Result<(), BedError> {
    let partial = path.with_extension(format!("part-{}", std::process::id()));
    std::fs::write(&partial, content).at(&partial)?;
    std::fs::rename(&partial, path).at(path)
}
