//! Describes a guest, and writes its `xl` configuration.

use std::fmt::Write;
use std::path::PathBuf;

/// The expected address of the guest: QEMU forwards the host's port there, and its DHCP server
/// leases it first.
pub const GUEST_ADDRESS: &str = "10.0.2.15";
/// The command line that sets this address without DHCP.
pub const STATIC_CMDLINE: &str = "ip=10.0.2.15/24 gw=10.0.2.2";
/// The name of the bridge in dom0.
const BRIDGE: &str = "xenbr0";

/// A guest to create with `xl`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Guest {
    /// The name in `xl list`: letters, digits and `-`.
    pub name: String,
    /// The ELF image.
    pub image: PathBuf,
    /// The boot module, if any.
    pub ramdisk: Option<PathBuf>,
    /// The command line.
    pub cmdline: String,
    /// The memory in MiB.
    pub memory: u32,
    /// The MAC address of the network interface; `None` for no interface.
    pub mac: Option<String>,
    /// The action of `xl` after a crash: `destroy`, `preserve`, `restart`.
    pub on_crash: String,
    /// More lines for the configuration.
    pub extra: String,
}

impl Guest {
    /// Returns a guest from `image` with the defaults: 64 MiB, a static address, kept for
    /// inspection if it crashes.
    pub fn new(image: impl Into<PathBuf>) -> Self {
        Self {
            name: "cloister".to_owned(),
            image: image.into(),
            ramdisk: None,
            cmdline: STATIC_CMDLINE.to_owned(),
            memory: 64,
            mac: Some("00:16:3e:11:22:33".to_owned()),
            on_crash: "preserve".to_owned(),
            extra: String::new(),
        }
    }

    /// Returns the reason why `xl` would refuse this guest, if it would.
    pub fn problem(&self) -> Option<String> {
        let plain = |c: char| c.is_ascii_alphanumeric() || c == '-';
        if self.name.is_empty() || !self.name.chars().all(plain) || self.name.starts_with('-') {
            return Some(format!("{:?} is not a guest name: use letters, digits and '-'", self.name));
        }
        if self.cmdline.chars().any(|c| c.is_control()) {
            return Some("the command line contains a control character".to_owned());
        }
        (self.memory < 2).then(|| "the toolstack builds no guest with less than 2 MiB".to_owned())
    }

    /// Returns the configuration, with the files at these paths.
    pub fn config(&self, kernel: &str, ramdisk: Option<&str>) -> String {
        let mut text = format!("name = {}\ntype = \"pvh\"\nkernel = {}\n", quoted(&self.name), quoted(kernel));
        if let Some(ramdisk) = ramdisk {
            text += &format!("ramdisk = {}\n", quoted(ramdisk));
        }
        text += &format!("cmdline = {}\n", quoted(&self.cmdline));
        // vcpus must be written: without it libxl sizes the paging pool for none, and small guests
        // fail to build.
        text += &format!("memory = {0}\nmaxmem = {0}\nvcpus = 1\n", self.memory);
        if let Some(mac) = &self.mac {
            text += &format!("vif = [ \"mac={mac},bridge={BRIDGE}\" ]\n");
        }
        // native: emulated TSC reads would be reported as RDTSCP by QEMU 7.2 and kill the guest.
        text += "tsc_mode = \"native\"\nnomigrate = 1\n";
        // One frame of version 1 entries holds 512 grants. 4 is the least with which Xen's own
        // defaults are tested.
        text += "max_grant_frames = 4\nmax_maptrack_frames = 0\nmax_event_channels = 32\n";
        text += &format!("on_poweroff = \"destroy\"\non_reboot = \"restart\"\non_crash = {}\n", quoted(&self.on_crash));
        // Writing to a String cannot fail.
        let _ = writeln!(text, "{}", self.extra);
        text
    }
}

/// Returns a string of the configuration language, with `"` and `\` escaped.
fn quoted(text: &str) -> String {
    format!("\"{}\"", text.replace('\\', "\\\\").replace('"', "\\\""))
}

/// A guest's state in `xl list`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum State {
    /// It exists and runs (or waits for something to do).
    Running,
    /// It has shut itself down, and `xl` is about to remove or restart it.
    Ending,
    /// It crashed and was kept.
    Crashed,
    /// There is no such guest.
    Gone,
}

impl State {
    /// Reads the state from the output of `xl list NAME`: the fifth column has one letter for each
    /// state.
    pub fn parse(listing: &str, name: &str) -> Self {
        let row = listing.lines().map(|line| line.split_whitespace().collect::<Vec<_>>());
        let Some(row) = row.into_iter().find(|row| row.first() == Some(&name)) else { return Self::Gone };
        let letters = row.get(4).copied().unwrap_or_default();
        match letters {
            letters if letters.contains('c') => Self::Crashed,
            letters if letters.contains(['s', 'd']) => Self::Ending,
            _ => Self::Running,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_configuration_names_everything() {
        let guest = Guest { cmdline: "say=\"hi\\\"".to_owned(), memory: 8, ..Guest::new("/x.elf") };
        let text = guest.config("/g/kernel", Some("/g/ramdisk"));
        for line in [
            "kernel = \"/g/kernel\"",
            "ramdisk = \"/g/ramdisk\"",
            "cmdline = \"say=\\\"hi\\\\\\\"\"",
            "memory = 8",
            "maxmem = 8",
            "vcpus = 1",
            "type = \"pvh\"",
            "tsc_mode = \"native\"",
            "vif = [ \"mac=00:16:3e:11:22:33,bridge=xenbr0\" ]",
        ] {
            assert!(text.lines().any(|l| l == line), "{line} is not in\n{text}");
        }
        assert!(!Guest::new("/x").config("/g/kernel", None).contains("ramdisk"));
    }

    #[test]
    fn names_and_command_lines_that_would_break_out_are_refused() {
        for name in ["", "a b", "a;b", "-a", "a/b"] {
            assert!(Guest { name: name.to_owned(), ..Guest::new("/x") }.problem().is_some(), "{name}");
        }
        assert!(Guest { cmdline: "a\nb".to_owned(), ..Guest::new("/x") }.problem().is_some());
        assert_eq!(Guest::new("/x").problem(), None);
    }

    #[test]
    fn states_are_read_from_the_listing() {
        let head = "Name                                        ID   Mem VCPUs\tState\tTime(s)\n";
        let list = |letters: &str| {
            format!("{head}app                                          1    64     1     {letters}       0.3\n")
        };
        assert_eq!(State::parse(&list("-b----"), "app"), State::Running);
        assert_eq!(State::parse(&list("---sc-"), "app"), State::Crashed);
        assert_eq!(State::parse(&list("---s--"), "app"), State::Ending);
        assert_eq!(State::parse(&list("r-----"), "other"), State::Gone);
        assert_eq!(State::parse("", "app"), State::Gone);
    }
}
