//! dom0's initramfs, made from the distribution's packages and kept by what it was made from.

use std::collections::{BTreeMap, BTreeSet};
use std::io::Write;
use std::path::{Path, PathBuf};

use flate2::Compression;
use flate2::write::GzEncoder;
use sha2::{Digest, Sha256};

use crate::BedError;
use crate::boot_files::write_atomically;
use crate::cpio::Archive;
use crate::elf;
use crate::error::AtPath;
use crate::kmod::{self, Modules};
use crate::packages::Installed;

/// dom0's address on the bridge; the guest and QEMU's gateway are in the same network.
pub const DOM0_ADDRESS: &str = "10.0.2.20/24";
/// What the kernel of dom0 needs beside its built-in drivers.
const MODULES: [&str; 12] = [
    "xen-evtchn",
    "xen-gntdev",
    "xen-gntalloc",
    "xen-privcmd",
    "xenfs",
    "xen-netback",
    "bridge",
    "virtio_pci",
    "virtio_net",
    "virtio_console",
    "9pnet_virtio",
    "9p",
];
/// Programs of the Xen tools' own folder.
const XEN_PROGRAMS: [&str; 7] =
    ["xl", "xenstored", "xenconsoled", "xenconsole", "xen-init-dom0", "xenctx", "libxl-save-helper"];
/// Programs of other packages.
const PROGRAMS: [&str; 7] = [
    "/usr/bin/xenstore-ls",
    "/usr/bin/xenstore-read",
    "/usr/bin/xenstore-write",
    "/usr/bin/xenstore-rm",
    "/usr/bin/xenstore-watch",
    "/usr/bin/xenstore-exists",
    "/usr/bin/ping",
];
/// Libraries that are opened by name at run time: `pthread_cancel` in libxl wants libgcc.
const OPENED_LATER: [&str; 1] = ["libgcc_s.so.1"];
const FOLDERS: [&str; 14] = [
    "dev",
    "etc",
    "etc/xen",
    "etc/xen/scripts",
    "host",
    "modules",
    "proc",
    "run",
    "sys",
    "tmp",
    "usr",
    "var",
    "var/lib",
    "var/log",
];
const INIT: &str = include_str!("../dom0/init");
const VIF_BRIDGE: &str = include_str!("../dom0/vif-bridge");

/// The initramfs in `cache`, made when it is not there yet.
pub fn ensure(installed: &Installed, cache: &Path, progress: &mut dyn FnMut(&str)) -> Result<PathBuf, BedError> {
    let path = cache.join(format!("dom0-{}.cpio.gz", key(installed)));
    if !path.is_file() {
        progress("making dom0's initramfs");
        write_atomically(&path, &build(installed)?)?;
    }
    Ok(path)
}

/// Names what the initramfs is made from: the packages and everything this file puts in.
fn key(installed: &Installed) -> String {
    let mut hash = Sha256::new();
    hash.update(installed.fingerprint());
    for part in [INIT, VIF_BRIDGE, DOM0_ADDRESS, include_str!("initramfs.rs")] {
        hash.update(part);
        hash.update([0]);
    }
    hash.finalize().iter().take(8).map(|byte| format!("{byte:02x}")).collect()
}

/// Path in the initramfs (without leading `/`), with the mode and content of a file.
type Files = BTreeMap<String, (u32, Vec<u8>)>;

fn build(installed: &Installed) -> Result<Vec<u8>, BedError> {
    let xen = PathBuf::from(format!("/usr/lib/xen-{}", installed.xen));
    let mut files = Files::new();
    add_programs(&mut files, &xen)?;
    add_modules(&mut files, installed)?;
    let init = INIT.replace("@XEN_BIN@", &xen.join("bin").to_string_lossy()).replace("@DOM0_ADDRESS@", DOM0_ADDRESS);
    files.insert("init".to_owned(), (0o755, init.into_bytes()));
    files.insert("etc/xen/scripts/vif-bridge".to_owned(), (0o755, VIF_BRIDGE.as_bytes().to_vec()));
    // Silences a warning of xl.
    files.insert("etc/xen/xl.conf".to_owned(), (0o644, Vec::new()));
    pack(&files).at("dom0's initramfs")
}

fn add_programs(files: &mut Files, xen: &Path) -> Result<(), BedError> {
    let mut programs: Vec<PathBuf> = XEN_PROGRAMS.iter().map(|name| xen.join("bin").join(name)).collect();
    programs.extend(PROGRAMS.iter().map(PathBuf::from));
    let folders = library_folders(xen);
    let mut wanted = elf::closure(&programs, &folders)?;
    wanted.extend(OPENED_LATER.iter().filter_map(|name| elf::find(name, &folders)));
    wanted.extend(programs);
    for path in wanted {
        let content = std::fs::read(&path).at(&path)?;
        files.insert(place(&path), (0o755, content));
    }
    let busybox = ["/usr/bin/busybox", "/bin/busybox"].iter().map(Path::new).find(|path| path.is_file());
    let busybox = busybox.ok_or_else(|| BedError::Distribution("busybox-static has no /usr/bin/busybox".to_owned()))?;
    files.insert("usr/bin/busybox".to_owned(), (0o755, std::fs::read(busybox).at(busybox)?));
    Ok(())
}

fn library_folders(xen: &Path) -> Vec<PathBuf> {
    let mut folders = vec![xen.join("lib/x86_64-linux-gnu"), xen.join("lib")];
    folders.extend(["/usr/lib/x86_64-linux-gnu", "/lib/x86_64-linux-gnu", "/usr/lib", "/lib64"].map(PathBuf::from));
    folders
}

fn add_modules(files: &mut Files, installed: &Installed) -> Result<(), BedError> {
    let folder = kmod::folder(&installed.kernel);
    for (index, module) in Modules::of(&folder)?.in_load_order(&MODULES)?.iter().enumerate() {
        let file = Path::new(module).file_name().unwrap_or_default().to_string_lossy();
        let name = file.split('.').next().unwrap_or_default();
        // The number is the order in which /init loads them.
        files.insert(format!("modules/{index:02}-{name}.ko"), (0o644, kmod::content(&folder.join(module))?));
    }
    Ok(())
}

/// Where a file of this machine lies in dom0: `/bin`, `/sbin`, `/lib` and `/lib64` are links into `/usr` there.
fn place(path: &Path) -> String {
    let text = path.to_string_lossy();
    let text = text.trim_start_matches('/');
    match ["bin/", "sbin/", "lib/", "lib64/"].iter().any(|folder| text.starts_with(folder)) {
        true => format!("usr/{text}"),
        false => text.to_owned(),
    }
}

fn pack(files: &Files) -> std::io::Result<Vec<u8>> {
    let mut folders: BTreeSet<String> = FOLDERS.iter().map(|folder| (*folder).to_owned()).collect();
    for name in files.keys().map(String::as_str).chain([
        "usr/sbin/",
        "usr/lib64/",
        "var/lib/xen/dump/",
        "var/lib/xenstored/",
        "var/log/xen/",
    ]) {
        let ends = name.char_indices().filter(|(_, c)| *c == '/').map(|(at, _)| at);
        folders.extend(ends.map(|at| name[..at].to_owned()));
    }
    // Level 1: the kernel unpacks it in software emulation, and the file is read once.
    let mut archive = Archive::new(GzEncoder::new(Vec::new(), Compression::fast()));
    for folder in &folders {
        archive.folder(folder)?;
    }
    for folder in ["bin", "sbin", "lib", "lib64"] {
        archive.link(folder, &format!("usr/{folder}"))?;
    }
    // c 5 1: /init speaks before it has mounted devtmpfs.
    archive.device("dev/console", 5, 1)?;
    for (name, (mode, content)) in files {
        archive.file(name, *mode, content)?;
    }
    let mut packed = archive.finish()?;
    packed.flush()?;
    packed.finish()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn files_of_the_root_folders_go_where_the_links_point() {
        assert_eq!(place(Path::new("/lib64/ld-linux-x86-64.so.2")), "usr/lib64/ld-linux-x86-64.so.2");
        assert_eq!(place(Path::new("/usr/bin/ping")), "usr/bin/ping");
    }

    #[test]
    fn packing_is_deterministic() {
        let files = Files::from([("a/b/c".to_owned(), (0o644, b"x".to_vec()))]);
        assert_eq!(pack(&files).expect("pack"), pack(&files).expect("pack"));
    }

    #[test]
    fn the_scripts_have_no_unknown_placeholders() {
        let text = INIT.replace("@XEN_BIN@", "").replace("@DOM0_ADDRESS@", "");
        let marker = |word: &str| word.starts_with('@') && word.ends_with('@') && word.len() > 2;
        assert!(!text.split_whitespace().any(marker));
    }
}
