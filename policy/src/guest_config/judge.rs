//! Judges the settings of a guest (`xl.cfg(5)`, Xen 4.17).

use super::mistake::{ABOUT, Mistake};
use super::parse::{Setting, Settings, Value};
use super::{command_line, vif};
use crate::verify::Finding;

/// What an image needs of its guest.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Needs {
    /// Bytes of the image, and of the regions and stacks that its policy promises.
    pub bytes: u64,
    /// The domains that may be a back end: the first and the last id of each entry.
    pub domains: Vec<(u16, u16)>,
    /// `true` if a service reads the boot module.
    pub module: bool,
    /// `true` if a service reads the command line.
    pub command_line: bool,
    /// Grant references, from 0.
    pub grants: u64,
    /// Event channels: those of the policy, the console's, the timer's, and number 0, which Xen
    /// does not give out.
    pub channels: u64,
}

/// Entries of a grant table in a frame of it (`grant_entry_v1_t`, `grant_table.h`: 8 bytes).
const GRANTS_IN_A_FRAME: u64 = 512;
/// Bytes of a MiB.
const MIB: u64 = 1 << 20;
/// The longest command line that the kernel reads, in bytes (`kernel/core/src/boot.rs`).
const MAX_COMMAND_LINE: usize = 4096;

/// What may happen to a domain at its end (`action_on_shutdown_names`, `xl_parse.c`).
const ACTIONS: [&str; 7] =
    ["destroy", "restart", "rename-restart", "preserve", "coredump-destroy", "coredump-restart", "soft-reset"];
/// Settings that change neither what the guest has nor what it can reach.
const FREE: [&str; 9] = ["name", "uuid", "pool", "cpus", "cpus_soft", "cpu_weight", "cap", "seclabel", "shadow_memory"];
/// Settings that give the guest devices, memory or privileges, of which the policy says nothing.
const DEVICES: [&str; 34] = [
    "disk",
    "pci",
    "usbctrl",
    "usbdev",
    "usb",
    "usbdevice",
    "vfb",
    "vkb",
    "vkb_device",
    "vtpm",
    "p9",
    "pvcalls",
    "vsnd",
    "vdispl",
    "channel",
    "virtio",
    "irqs",
    "ioports",
    "iomem",
    "dtdev",
    "rdm",
    "vif2",
    "serial",
    "vuart",
    "gfx_passthru",
    "vnuma",
    "driver_domain",
    "nestedhvm",
    "altp2m",
    "vpmu",
    "pvshim",
    "device_tree",
    "msr_relaxed",
    "vmtrace_buf_kb",
];

/// Returns what is wrong with the settings, and what is worth knowing.
pub(super) fn judge(settings: &Settings, needs: &Needs) -> Vec<Finding> {
    let mut findings = Vec::new();
    for (key, setting) in settings {
        match judge_one(key, setting, settings, needs) {
            Ok(None) => {}
            Ok(Some(notice)) => findings.push(Finding::notice(ABOUT, format!("line {}: {notice}", setting.line))),
            Err(problem) => findings.push(Mistake::at(setting.line, problem).finding()),
        }
    }
    for (key, why) in [
        ("type", "write `type = \"pvh\"`: without it xl starts the image as PV"),
        ("kernel", "write `kernel` with the path of the image"),
        ("memory", "write `memory` with a number of MiB"),
        ("vcpus", "write `vcpus = 1`: without it xl gives a small guest too little memory for its page tables"),
    ] {
        if !settings.contains_key(key) {
            findings.push(Mistake::at(0, format!("`{key}` is missing: {why}")).finding());
        }
    }
    for (key, why) in [
        ("nomigrate", "`nomigrate = 1` is missing: the image cannot be suspended or moved to another host"),
        ("max_maptrack_frames", "`max_maptrack_frames = 0` is missing: the image maps no memory of other domains"),
    ] {
        if !settings.contains_key(key) {
            findings.push(Finding::notice(ABOUT, why));
        }
    }
    findings
}

/// Judges a setting. Returns what is worth knowing about it, or what is wrong.
fn judge_one(key: &str, setting: &Setting, settings: &Settings, needs: &Needs) -> Result<Option<String>, String> {
    let value = &setting.value;
    match key {
        "type" => word(key, value, &["pvh"]),
        "kernel" => text(key, value).map(|_| None),
        "ramdisk" if needs.module => text(key, value).map(|_| None),
        "ramdisk" => Err("`ramdisk` is set, and no region of the policy is a module: remove it".to_owned()),
        "cmdline" => judge_command_line(text(key, value)?, needs),
        "extra" | "root" => Err(format!("`{key}` adds to the command line: write all of it in `cmdline`")),
        "memory" => judge_memory(number(key, value)?, needs),
        "maxmem" => {
            match settings.get("memory").map(|memory| number("memory", &memory.value)) {
                Some(Ok(memory)) if memory == number(key, value)? => Ok(None),
                _ => Err("`maxmem` is not `memory`: the image does not give memory back, so set both to one number"
                    .to_owned()),
            }
        }
        "vcpus" | "maxvcpus" => exactly(key, value, 1, "the image runs on one processor"),
        "vif" => judge_vif(value, needs),
        "tsc_mode" => word(key, value, &["native", "default", "0", "2"]),
        "nomigrate" => exactly(key, value, 1, "the image cannot be suspended or moved"),
        "max_grant_frames" => at_least(key, value, needs.grants.div_ceil(GRANTS_IN_A_FRAME), "grants of the policy"),
        "max_event_channels" => at_least(key, value, needs.channels, "event channels of the policy, console and timer"),
        "max_maptrack_frames" => exactly(key, value, 0, "the image maps no memory of other domains"),
        "passthrough" => word(key, value, &["disabled", "0"]),
        "on_poweroff" | "on_reboot" | "on_crash" | "on_watchdog" | "on_soft_reset" => {
            word(key, value, &ACTIONS)?;
            let dumps = text(key, value)?.starts_with("coredump");
            Ok(dumps.then(|| format!("`{key}` writes the guest's memory to a file, with all secrets in it")))
        }
        _ if FREE.contains(&key) => Ok(None),
        _ if DEVICES.contains(&key) && empty(value) => Ok(None),
        _ if DEVICES.contains(&key) => {
            Err(format!("`{key}` gives the guest something of which the policy does not speak: remove it"))
        }
        _ if key.starts_with("device_model") || matches!(key, "firmware" | "bios" | "builder" | "bootloader") => {
            Err(format!("`{key}` is for guests of another type: remove it"))
        }
        _ => Err(format!("`{key}` is not judged: remove it, or look whether it is mistyped")),
    }
}

fn judge_memory(mib: u64, needs: &Needs) -> Result<Option<String>, String> {
    let least = needs.bytes.div_ceil(MIB);
    if mib < least {
        let bytes = needs.bytes;
        return Err(format!(
            "`memory` is {mib} MiB; image, regions and stacks take {bytes} bytes: write at least {least}"
        ));
    }
    Ok(None)
}

fn judge_command_line(line: &str, needs: &Needs) -> Result<Option<String>, String> {
    if line.len() > MAX_COMMAND_LINE {
        return Err(format!("`cmdline` has more than {MAX_COMMAND_LINE} bytes"));
    }
    if !needs.command_line && !line.trim().is_empty() {
        return Err("`cmdline` is set, and no region of the policy is the command line: remove it".to_owned());
    }
    command_line::check(line).map(|()| None)
}

fn judge_vif(value: &Value, needs: &Needs) -> Result<Option<String>, String> {
    let entries = match value {
        Value::List(entries) => entries.as_slice(),
        Value::Text(_) => return Err("`vif` is not a list: write `vif = [ \"bridge=…\" ]`".to_owned()),
    };
    match entries {
        [] => Ok(None),
        [_] if needs.domains.is_empty() => {
            Err("`vif` is set, and the policy names no domain of a back end: remove it".to_owned())
        }
        [entry] => vif::check(entry, &needs.domains),
        _ => Err(format!("`vif` has {} interfaces, and the image drives one: keep one of them", entries.len())),
    }
}

fn text<'a>(key: &str, value: &'a Value) -> Result<&'a str, String> {
    match value {
        Value::Text(text) if !text.is_empty() || key == "cmdline" => Ok(text),
        Value::Text(_) => Err(format!("`{key}` is empty")),
        Value::List(_) => Err(format!("`{key}` is a list, and needs one value")),
    }
}

/// Reads a number in decimal. xl also takes `0x10` and, as octal, `010`: neither is accepted.
fn number(key: &str, value: &Value) -> Result<u64, String> {
    let text = text(key, value)?;
    let plain = text.bytes().all(|byte| byte.is_ascii_digit()) && (text == "0" || !text.starts_with('0'));
    text.parse()
        .ok()
        .filter(|_| plain)
        .ok_or_else(|| format!("`{key}` is not a decimal number: write, for example, 16"))
}

fn word(key: &str, value: &Value, known: &[&str]) -> Result<Option<String>, String> {
    let text = text(key, value)?;
    match known.contains(&text) {
        true => Ok(None),
        false => Err(format!("`{key}` is \"{text}\"; it must be {}", known.join(" or "))),
    }
}

fn exactly(key: &str, value: &Value, wanted: u64, why: &str) -> Result<Option<String>, String> {
    let found = number(key, value)?;
    if found == wanted { Ok(None) } else { Err(format!("`{key}` is {found}: {why}; write `{key} = {wanted}`")) }
}

fn at_least(key: &str, value: &Value, least: u64, what: &str) -> Result<Option<String>, String> {
    let found = number(key, value)?;
    if found >= least { Ok(None) } else { Err(format!("`{key}` is {found}, and the {what} need {least}")) }
}

fn empty(value: &Value) -> bool {
    match value {
        Value::Text(text) => matches!(text.as_str(), "" | "0"),
        Value::List(list) => list.is_empty(),
    }
}
