//! Finds kernel modules, and the order in which to load them, in depmod's `modules.dep` and
//! `modules.builtin`.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::process::Command;

use crate::BedError;
use crate::error::AtPath;

/// The modules of one kernel version.
pub struct Modules {
    /// The path of each module and of those that it needs, in the order of `modules.dep`, by module
    /// name.
    by_name: BTreeMap<String, (String, Vec<String>)>,
    builtin: Vec<String>,
}

impl Modules {
    /// Reads `modules.dep` and `modules.builtin` of a folder like `/lib/modules/6.1.0-18-amd64`.
    pub fn of(folder: &Path) -> Result<Self, BedError> {
        let dep = folder.join("modules.dep");
        let builtin = folder.join("modules.builtin");
        let dep = std::fs::read_to_string(&dep).at(&dep)?;
        Ok(Self::parse(&dep, &std::fs::read_to_string(&builtin).at(&builtin)?))
    }

    fn parse(dep: &str, builtin: &str) -> Self {
        let by_name = dep
            .lines()
            .filter_map(|line| line.split_once(':'))
            .map(|(path, needs)| {
                let needs = needs.split_whitespace().map(str::to_owned).collect();
                (name_of(path), (path.to_owned(), needs))
            })
            .collect();
        Self { by_name, builtin: builtin.lines().map(name_of).collect() }
    }

    /// Returns the paths of `wanted` and of all modules that they need, each after those that it
    /// needs. Built-in modules have none.
    pub fn in_load_order(&self, wanted: &[&str]) -> Result<Vec<String>, BedError> {
        let mut order = Vec::new();
        for name in wanted {
            self.visit(&name_of(name), &mut order)?;
        }
        Ok(order)
    }

    fn visit(&self, name: &str, order: &mut Vec<String>) -> Result<(), BedError> {
        let Some((path, needs)) = self.by_name.get(name) else {
            return match self.builtin.iter().any(|builtin| builtin == name) {
                true => Ok(()),
                false => Err(BedError::Distribution(format!("the kernel package has no module {name}"))),
            };
        };
        if order.contains(path) {
            return Ok(());
        }
        // depmod lists the whole closure, nearest first, so that the reverse is a valid order.
        for need in needs.iter().rev().filter(|need| !order.contains(need)).cloned().collect::<Vec<_>>() {
            order.push(need);
        }
        order.push(path.clone());
        Ok(())
    }
}

/// Returns a module's name: the file name without suffixes, with `_` for `-`.
fn name_of(path: &str) -> String {
    let file = path.rsplit('/').next().unwrap_or(path);
    file.split('.').next().unwrap_or(file).replace('-', "_")
}

/// Returns a module's content, unpacked if the distribution ships it compressed.
pub fn content(path: &Path) -> Result<Vec<u8>, BedError> {
    let unpacker = match path.extension().and_then(|extension| extension.to_str()) {
        Some("xz") => "unxz",
        Some("gz") => "gunzip",
        _ => return std::fs::read(path).at(path),
    };
    let output = Command::new("busybox").args([unpacker, "-c"]).arg(path).output().at("busybox")?;
    match output.status.success() {
        true => Ok(output.stdout),
        false => Err(BedError::Distribution(format!("{} cannot be unpacked", path.display()))),
    }
}

/// Returns the folder of a kernel version's modules.
pub fn folder(version: &str) -> PathBuf {
    Path::new("/lib/modules").join(version)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn sample() -> Modules {
        Modules::parse(
            "kernel/net/llc/llc.ko:\nkernel/net/802/stp.ko.xz: kernel/net/llc/llc.ko\n\
             kernel/net/bridge/bridge.ko.xz: kernel/net/802/stp.ko.xz kernel/net/llc/llc.ko\n",
            "kernel/drivers/virtio/virtio_pci.ko\n",
        )
    }

    #[test]
    fn each_module_comes_after_those_it_needs_and_once() {
        let order = sample().in_load_order(&["stp", "bridge", "virtio-pci"]).expect("all known");
        assert_eq!(order, ["kernel/net/llc/llc.ko", "kernel/net/802/stp.ko.xz", "kernel/net/bridge/bridge.ko.xz"]);
    }

    #[test]
    fn an_unknown_module_is_an_error() {
        assert!(sample().in_load_order(&["xen_netback"]).expect_err("unknown").to_string().contains("xen_netback"));
    }
}
