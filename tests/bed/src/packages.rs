//! Finds the Debian packages that the bed is made of, and installs missing ones.

use std::collections::BTreeMap;
use std::process::{Command, Stdio};

use crate::BedError;
use crate::error::AtPath;
use crate::log::last_lines;

/// The packages that run here or whose files become dom0. The Xen tools have the Xen version in
/// their name, which is found with [`XEN_METAPACKAGE`]. The hypervisor is unpacked, not installed
/// (see `boot_files`).
const FIXED: [&str; 7] = [
    "qemu-system-x86",
    "seabios",
    "xen-utils-common",
    "xenstore-utils",
    "linux-image-amd64",
    "busybox-static",
    "iputils-ping",
];

/// The package that depends on the hypervisor and the tools of Debian's Xen version.
const XEN_METAPACKAGE: &str = "xen-system-amd64";

/// The installed packages that the bed uses.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Installed {
    versions: BTreeMap<String, String>,
    /// Xen's version as in package and folder names, such as `4.17`.
    pub xen: String,
    /// The kernel's version as in file names, such as `6.1.0-18-amd64`.
    pub kernel: String,
}

impl Installed {
    /// Returns the version of a package.
    pub fn version(&self, package: &str) -> Option<&str> {
        self.versions.get(package).map(String::as_str)
    }

    /// Returns all packages and versions, one a line: the inputs of the dom0 image.
    pub fn fingerprint(&self) -> String {
        self.versions.iter().map(|(name, version)| format!("{name} {version}\n")).collect()
    }
}

/// Ensures that all packages are installed. As root, installs missing ones; otherwise the error
/// says how to. Reports its stages to `progress`.
pub fn ensure(progress: &mut dyn FnMut(&str)) -> Result<Installed, BedError> {
    let missing = match query()? {
        Ok(installed) => return Ok(installed),
        Err(missing) => missing,
    };
    install(missing, progress)?;
    query()?.map_err(BedError::MissingPackages)
}

/// Ensures that further packages are installed, such as the clients of tests.
pub fn ensure_also(names: &[&str], progress: &mut dyn FnMut(&str)) -> Result<(), BedError> {
    let missing = || -> Result<Vec<String>, BedError> {
        let mut command = Command::new("dpkg-query");
        let output =
            command.args(["-W", "-f", "${db:Status-Status}|${Package}\n"]).args(names).stderr(Stdio::null()).output();
        let listing = String::from_utf8_lossy(&output.at("dpkg-query")?.stdout).into_owned();
        let there = |name: &str| listing.lines().any(|line| line == format!("installed|{name}"));
        Ok(names.iter().filter(|name| !there(name)).map(|name| (*name).to_owned()).collect())
    };
    let wanted = missing()?;
    if wanted.is_empty() {
        return Ok(());
    }
    install(wanted, progress)?;
    match missing()? {
        rest if rest.is_empty() => Ok(()),
        rest => Err(BedError::MissingPackages(rest)),
    }
}

fn install(missing: Vec<String>, progress: &mut dyn FnMut(&str)) -> Result<(), BedError> {
    if !nix::unistd::geteuid().is_root() {
        return Err(BedError::MissingPackages(with_xen_name(missing)));
    }
    progress("reading Debian's package lists (apt-get update)");
    apt(&["update".to_owned()])?;
    let missing = with_xen_name(missing);
    progress(&format!("installing {}", missing.join(" ")));
    let options = ["install", "-y", "--no-install-recommends"].map(str::to_owned);
    apt(&[&options[..], &missing].concat())
}

/// Returns the installed packages, or the names of the missing ones. If none is missing, this runs
/// `dpkg-query` once.
fn query() -> Result<Result<Installed, Vec<String>>, BedError> {
    let output = Command::new("dpkg-query")
        .args(["-W", "-f", "${db:Status-Status}|${Package}|${Version}|${Depends}\n"])
        .args(FIXED)
        .args(["xen-utils-[0-9]*", "linux-image-*"])
        .stderr(Stdio::null())
        .output()
        .at("dpkg-query")?;
    Ok(parse(&String::from_utf8_lossy(&output.stdout)))
}

fn parse(listing: &str) -> Result<Installed, Vec<String>> {
    let mut versions = BTreeMap::new();
    let mut all_xen = Vec::new();
    let mut kernel = None;
    let mut images = BTreeMap::new();
    for line in listing.lines() {
        let mut fields = line.split('|');
        let (Some("installed"), Some(name), Some(version)) = (fields.next(), fields.next(), fields.next()) else {
            continue;
        };
        if FIXED.contains(&name) {
            versions.insert(name.to_owned(), version.to_owned());
        }
        if let Some(xen) = name.strip_prefix("xen-utils-").filter(|xen| xen.starts_with(|c: char| c.is_ascii_digit())) {
            all_xen.push((xen.to_owned(), version.to_owned()));
        }
        if name == "linux-image-amd64" {
            kernel = fields.next().and_then(kernel_of);
        } else if name.starts_with("linux-image-") {
            images.insert(name.to_owned(), version.to_owned());
        }
    }
    let mut missing: Vec<String> =
        FIXED.iter().filter(|name| !versions.contains_key(**name)).map(|name| (*name).to_owned()).collect();
    let Some((xen, xen_version)) = all_xen.pop() else {
        missing.push(XEN_METAPACKAGE.to_owned());
        return Err(missing);
    };
    versions.insert(format!("xen-utils-{xen}"), xen_version);
    let image = kernel.clone().map(|kernel| format!("linux-image-{kernel}"));
    match image.as_ref().and_then(|image| images.remove_entry(image)) {
        Some((name, version)) => versions.insert(name, version),
        None => {
            missing.push("linux-image-amd64".to_owned());
            missing.dedup();
            None
        }
    };
    match kernel {
        Some(kernel) if missing.is_empty() => Ok(Installed { versions, xen, kernel }),
        _ => Err(missing),
    }
}

/// `linux-image-6.1.0-18-amd64 (= 6.1.76-1)` names the kernel `6.1.0-18-amd64`.
fn kernel_of(depends: &str) -> Option<String> {
    let name = depends.split([',', ' ', '(']).map(str::trim).find(|name| name.starts_with("linux-image-"))?;
    name.strip_prefix("linux-image-").map(str::to_owned)
}

/// The metapackage would install the hypervisor, and the boot loader would start Xen. So its tools
/// are named instead.
fn with_xen_name(missing: Vec<String>) -> Vec<String> {
    let resolve = |name: String| match name == XEN_METAPACKAGE {
        true => xen_tools_package().unwrap_or(name),
        false => name,
    };
    missing.into_iter().map(resolve).collect()
}

fn xen_tools_package() -> Option<String> {
    let output = Command::new("apt-cache").args(["depends", XEN_METAPACKAGE]).stderr(Stdio::null()).output().ok()?;
    xen_tools_in(&String::from_utf8_lossy(&output.stdout))
}

fn xen_tools_in(depends: &str) -> Option<String> {
    let names = depends.lines().filter_map(|line| line.trim().strip_prefix("Depends: "));
    names.map(str::trim).find(|name| name.starts_with("xen-utils-") && !name.ends_with("common")).map(str::to_owned)
}

fn apt(arguments: &[String]) -> Result<(), BedError> {
    let output = Command::new("apt-get")
        .args(arguments)
        .env("DEBIAN_FRONTEND", "noninteractive")
        .stdin(Stdio::null())
        .output()
        .at("apt-get")?;
    if output.status.success() {
        return Ok(());
    }
    let text = String::from_utf8_lossy(&output.stdout) + String::from_utf8_lossy(&output.stderr);
    Err(BedError::Command {
        command: format!("apt-get {}", arguments.join(" ")),
        status: output.status.to_string(),
        output: last_lines(&text, 15),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn listing() -> String {
        let fixed = FIXED.iter().filter(|name| **name != "linux-image-amd64");
        let mut text: String = fixed.map(|name| format!("installed|{name}|1.0|libc6\n")).collect();
        text += "installed|linux-image-amd64|6.1.76-1|linux-image-6.1.0-18-amd64 (= 6.1.76-1)\n";
        text += "installed|linux-image-6.1.0-18-amd64|6.1.76-1|kmod\n";
        text += "installed|linux-image-6.1.0-17-amd64|6.1.69-1|kmod\n";
        text + "installed|xen-utils-4.17|4.17.3|x\nnot-installed|xen-utils-4.14||\n"
    }

    #[test]
    fn versions_of_xen_and_kernel_come_from_the_packages() {
        let installed = parse(&listing()).expect("all installed");
        assert_eq!((installed.xen.as_str(), installed.kernel.as_str()), ("4.17", "6.1.0-18-amd64"));
        assert_eq!(installed.version("xen-utils-4.17"), Some("4.17.3"));
        assert!(installed.fingerprint().contains("linux-image-6.1.0-18-amd64 6.1.76-1\n"));
        assert!(!installed.fingerprint().contains("6.1.0-17"));
    }

    #[test]
    fn each_missing_package_is_named() {
        for gone in FIXED {
            let rest: String = listing()
                .lines()
                .filter(|line| !line.contains(&format!("|{gone}|")))
                .fold(String::new(), |text, line| text + line + "\n");
            let missing = parse(&rest).expect_err("one is missing");
            assert_eq!(missing, [gone], "without {gone}");
        }
        assert_eq!(parse("").expect_err("nothing there").len(), FIXED.len() + 1);
    }

    #[test]
    fn a_removed_package_counts_as_missing() {
        let text = listing().replace("installed|seabios", "config-files|seabios");
        assert_eq!(parse(&text).expect_err("removed"), ["seabios"]);
    }

    #[test]
    fn the_tools_package_is_found_by_the_metapackage() {
        let depends = "xen-system-amd64\n  Depends: xen-hypervisor-4.17-amd64\n  Depends: xen-hypervisor-common\n  Depends: xen-utils-4.17\n";
        assert_eq!(xen_tools_in(depends).as_deref(), Some("xen-utils-4.17"));
        assert_eq!(xen_tools_in(""), None);
    }

    #[test]
    fn the_error_says_which_command_helps() {
        let error = BedError::MissingPackages(vec!["qemu-system-x86".to_owned(), "seabios".to_owned()]);
        assert!(error.to_string().contains("apt-get install --no-install-recommends qemu-system-x86 seabios"));
    }
}
