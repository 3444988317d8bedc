//! Makes dom0's initramfs from the distribution's packages. It is cached under a hash of its
//! inputs.

use std::path::{Path, PathBuf};
use std::process::Command;

use sha2::{Digest, Sha256};

use crate::BedError;
use crate::boot_files::write_atomically;
use crate::error::AtPath;
use crate::packages::{self, Installed};
use crate::tree::Tree;

/// dom0's address on the bridge; the guest and QEMU's gateway are in the same network.
pub const DOM0_ADDRESS: &str = "10.0.2.20/24";
/// The modules that dom0's kernel needs beside its built-in drivers.
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
/// The further modules for losing packets on purpose (`tc … netem`).
const LOAD_MODULES: [&str; 5] = ["sch_netem", "sch_ingress", "cls_matchall", "act_mirred", "ifb"];
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
/// Programs that make load, and Python with Xen's own bindings, which read a domain's CPU time in
/// nanoseconds.
const LOAD_PROGRAMS: [&str; 7] = [
    "/usr/bin/wrk",
    "/usr/bin/ab",
    "/usr/bin/httperf",
    "/usr/bin/siege",
    "/usr/sbin/ethtool",
    "/usr/sbin/tc",
    "/usr/bin/python3",
];
/// Their packages (Python comes with the Xen tools).
const LOAD_PACKAGES: [&str; 6] = ["wrk", "apache2-utils", "httperf", "siege", "ethtool", "iproute2"];
/// Programs that make slow clients, record what passes an interface, and connect a client with an
/// address of its own that is further away.
const SLOW_PROGRAMS: [&str; 4] = ["/usr/bin/slowhttptest", "/usr/bin/tcpdump", "/usr/sbin/ip", "/usr/sbin/tc"];
/// Their packages.
const SLOW_PACKAGES: [&str; 3] = ["slowhttptest", "tcpdump", "iproute2"];
/// Libraries that are opened by name at run time: `pthread_cancel` in libxl wants libgcc.
const OPENED_LATER: [&str; 1] = ["libgcc_s.so.1"];
const FOLDERS: [&str; 5] = ["etc/xen/scripts", "host", "var/lib/xen/dump", "var/lib/xenstored", "var/log/xen"];
const INIT: &str = include_str!("../dom0/init");
const VIF_BRIDGE: &str = include_str!("../dom0/vif-bridge");
const MEASURE: &str = include_str!("../dom0/measure.py");
/// Prints the files of the modules that `measure.py` imports. Without Python's startup parts it
/// opens nothing else.
const IMPORTED: &str =
    "import encodings.idna\nfor m in list(sys.modules.values()):\n f = getattr(m, '__file__', None)\n f and print(f)\n";

/// The required abilities of dom0.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Dom0 {
    /// Create guests, and connect to them.
    Plain,
    /// Also make load, and measure it.
    Load,
    /// Also act as many slow clients, and as one of another address, and record what they send.
    SlowClients,
}

/// Returns the path of the initramfs in `cache`. Makes it if it does not exist.
pub fn ensure(
    installed: &Installed,
    kind: Dom0,
    cache: &Path,
    progress: &mut dyn FnMut(&str),
) -> Result<PathBuf, BedError> {
    match kind {
        Dom0::Plain => {}
        Dom0::Load => packages::ensure_also(&LOAD_PACKAGES, progress)?,
        Dom0::SlowClients => packages::ensure_also(&SLOW_PACKAGES, progress)?,
    }
    let path = cache.join(format!("dom0-{}.cpio.gz", key(installed, kind)));
    if !path.is_file() {
        progress("making dom0's initramfs");
        write_atomically(&path, &build(installed, kind)?)?;
    }
    Ok(path)
}

/// Returns a hash of the inputs of the initramfs: the packages, and everything that this file adds.
fn key(installed: &Installed, kind: Dom0) -> String {
    let mut hash = Sha256::new();
    hash.update(installed.fingerprint());
    let sources = [include_str!("initramfs.rs"), include_str!("tree.rs"), &format!("{kind:?}")];
    for part in [INIT, VIF_BRIDGE, MEASURE, DOM0_ADDRESS].into_iter().chain(sources) {
        hash.update(part);
        hash.update([0]);
    }
    hash.finalize().iter().take(8).map(|byte| format!("{byte:02x}")).collect()
}

fn build(installed: &Installed, kind: Dom0) -> Result<Vec<u8>, BedError> {
    let xen = PathBuf::from(format!("/usr/lib/xen-{}", installed.xen));
    let libraries = [xen.join("lib/x86_64-linux-gnu"), xen.join("lib")];
    let mut tree = Tree::new()?;
    for folder in FOLDERS {
        tree.folder(folder);
    }
    let mut programs: Vec<PathBuf> = XEN_PROGRAMS.iter().map(|name| xen.join("bin").join(name)).collect();
    programs.extend(PROGRAMS.iter().map(PathBuf::from));
    let mut modules = MODULES.to_vec();
    // A console log on the host costs dom0 a wait for QEMU, during which an instruction clock
    // jumps.
    let mut console = "/host/console";
    if kind == Dom0::SlowClients {
        programs.extend(SLOW_PROGRAMS.iter().map(PathBuf::from));
        modules.extend(["veth", "sch_netem"]);
        console = "/run/console";
        // tcpdump looks up the user that it runs as.
        tree.file("etc/passwd", 0o644, "root:x:0:0:root:/root:/bin/sh\n");
    }
    if kind == Dom0::Load {
        programs.extend(LOAD_PROGRAMS.iter().map(PathBuf::from));
        modules.extend(LOAD_MODULES);
        console = "/run/console";
        add_measure(&mut tree, &xen, &libraries)?;
    }
    tree.programs(&programs, &OPENED_LATER, &libraries)?;
    tree.modules(&installed.kernel, &modules)?;
    let init = INIT
        .replace("@XEN_BIN@", &xen.join("bin").to_string_lossy())
        .replace("@DOM0_ADDRESS@", DOM0_ADDRESS)
        .replace("@CONSOLE@", console);
    tree.file("init", 0o755, init);
    tree.file("etc/xen/scripts/vif-bridge", 0o755, VIF_BRIDGE);
    // Silences a warning of xl.
    tree.file("etc/xen/xl.conf", 0o644, "");
    tree.pack().at("dom0's initramfs")
}

/// Adds `measure`, with the parts of Python that it uses: those that Python itself lists.
fn add_measure(tree: &mut Tree, xen: &Path, libraries: &[PathBuf]) -> Result<(), BedError> {
    let bindings = xen.join("lib/python/xen/lowlevel");
    let imports: String = MEASURE.lines().filter(|l| l.starts_with("import ")).map(|l| format!("{l}\n")).collect();
    let mut python = Command::new("/usr/bin/python3");
    python.args(["-S", "-s", "-c", &(imports + IMPORTED)]).env("PYTHONPATH", &bindings);
    let output = python.output().at("/usr/bin/python3")?;
    if !output.status.success() {
        let text = String::from_utf8_lossy(&output.stderr).into_owned();
        return Err(BedError::Distribution(format!("python3 does not name its modules: {text}")));
    }
    let parts: Vec<PathBuf> = String::from_utf8_lossy(&output.stdout).lines().map(PathBuf::from).collect();
    for path in &parts {
        tree.copy(path, path.to_string_lossy().trim_start_matches('/'))?;
    }
    let shared: Vec<PathBuf> = parts.into_iter().filter(|path| path.extension().is_some_and(|e| e == "so")).collect();
    tree.libraries(&shared, &[], libraries)?;
    tree.file("usr/lib/measure.py", 0o644, MEASURE);
    // siege requires a configuration file. Its defaults are right, except that it would request
    // what each page refers to.
    tree.file(
        "etc/siege/siegerc",
        0o644,
        "parser = false\njson_output = true\nconnection = close\nprotocol = HTTP/1.1\n",
    );
    // Each open connection is an open file.
    let start = format!(
        "#!/bin/sh\nulimit -n 65536\nPYTHONPATH={} exec /usr/bin/python3 -S -s /usr/lib/measure.py \"$@\"\n",
        bindings.display()
    );
    tree.file("usr/bin/measure", 0o755, start);
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_scripts_have_no_unknown_placeholders() {
        let text =
            ["@XEN_BIN@", "@DOM0_ADDRESS@", "@CONSOLE@"].iter().fold(INIT.to_owned(), |t, name| t.replace(name, ""));
        let marker = |word: &str| word.split(['=', ' ']).any(|w| w.starts_with('@') && w.ends_with('@') && w.len() > 2);
        assert!(!text.split_whitespace().any(marker));
    }
}
