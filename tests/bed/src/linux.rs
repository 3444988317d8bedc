//! A Linux guest to compare with: the distribution's kernel, nginx with sendfile and busybox httpd.

use std::path::{Path, PathBuf};

use sha2::{Digest, Sha256};

use crate::boot_files::{self, write_atomically};
use crate::error::AtPath;
use crate::tree::Tree;
use crate::{BedError, Guest, Progress, bed_dir, packages};

/// The modules that its kernel needs beside the built-in ones.
const MODULES: [&str; 1] = ["xen-netfront"];
/// Programs of this machine that the guest has beside busybox.
const PROGRAMS: [&str; 1] = ["/usr/sbin/ethtool"];
/// nginx is unpacked and not installed: installed, it would start to serve on this machine.
const NGINX: &str = "nginx";
const INIT: &str = include_str!("../linux/init");
const CONFIG: &str = include_str!("../linux/nginx.conf");
const FOLDERS: [&str; 4] = ["var/log/nginx", "var/lib/nginx", "root", "www"];
/// Libraries that are opened by name at run time: nginx looks up the user it runs as.
const OPENED_LATER: [&str; 1] = ["libnss_files.so.2"];

/// Makes a Linux guest at `address` (with the prefix's length) that serves `page` as `/page` and at
/// `/`, and files of up to `files` MB, if any.
pub fn guest(
    name: &str,
    address: &str,
    page: &[u8],
    files: Option<u32>,
    progress: &mut Progress<'_>,
) -> Result<Guest, BedError> {
    let installed = packages::ensure(progress)?;
    let cache = bed_dir().join("cache");
    let ramdisk = initramfs(&installed, page, &cache, progress)?;
    let files = files.map_or(String::new(), |size| format!(" files={size}"));
    Ok(Guest {
        name: name.to_owned(),
        ramdisk: Some(ramdisk),
        cmdline: format!("console=hvc0 quiet panic=-1 address={address}{files}"),
        ..Guest::new(boot_files::kernel(&installed))
    })
}

/// Returns the files that a toolstack loads for it: the kernel and the RAM disk.
pub fn files(page: &[u8], progress: &mut Progress<'_>) -> Result<Vec<PathBuf>, BedError> {
    let installed = packages::ensure(progress)?;
    let cache = bed_dir().join("cache");
    Ok(vec![boot_files::kernel(&installed), initramfs(&installed, page, &cache, progress)?])
}

fn initramfs(
    installed: &packages::Installed,
    page: &[u8],
    cache: &Path,
    progress: &mut Progress<'_>,
) -> Result<PathBuf, BedError> {
    let mut hash = Sha256::new();
    hash.update(installed.fingerprint());
    for part in [INIT, CONFIG, include_str!("linux.rs"), include_str!("tree.rs")] {
        hash.update(part);
    }
    hash.update(page);
    let key: String = hash.finalize().iter().take(8).map(|byte| format!("{byte:02x}")).collect();
    let path = cache.join(format!("linux-{key}.cpio.gz"));
    if path.is_file() {
        return Ok(path);
    }
    packages::ensure_also(&["ethtool"], progress)?;
    std::fs::create_dir_all(cache).at(cache)?;
    progress("making the Linux guest's initramfs");
    let nginx = boot_files::unpacked(NGINX, cache)?.join("usr/sbin/nginx");
    let mut tree = Tree::new()?;
    for folder in FOLDERS {
        tree.folder(folder);
    }
    tree.programs(&PROGRAMS.map(PathBuf::from), &OPENED_LATER, &[])?;
    tree.libraries(std::slice::from_ref(&nginx), &[], &[])?;
    tree.copy(&nginx, "usr/sbin/nginx")?;
    tree.modules(&installed.kernel, &MODULES)?;
    tree.file("init", 0o755, INIT);
    tree.file("etc/nginx/nginx.conf", 0o644, CONFIG);
    tree.file("etc/passwd", 0o644, "root:x:0:0:root:/root:/bin/sh\n");
    tree.file("etc/group", 0o644, "root:x:0:\n");
    tree.file("www/page", 0o644, page);
    tree.file("www/index.html", 0o644, page);
    write_atomically(&path, &tree.pack().at("the Linux guest's initramfs")?)?;
    Ok(path)
}
