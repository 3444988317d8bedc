//! Runs an image straight under Xen as its PVH hardware domain, without dom0, toolstack or network,
//! which is fast.

use std::path::{Path, PathBuf};
use std::time::Duration;

use crate::error::AtPath;
use crate::log::{TAIL_LINES, printable, tail};
use crate::qemu::{Qemu, escape};
use crate::{BedError, Progress, bed_dir, boot_files, packages};

/// The result of a run.
#[derive(Debug)]
pub struct Run {
    /// The output of Xen and of the image.
    pub log: String,
    /// The path of the log with that output.
    pub path: PathBuf,
    /// `true` if the machine ended by itself: the image rebooted or crashed. A power-off does not
    /// count: Xen halts then, and QEMU runs until the time is over.
    pub ended: bool,
}

impl Run {
    /// Returns the image's output to port 0xE9, without Xen's prefix.
    pub fn lines(&self) -> Vec<&str> {
        lines(&self.log)
    }
}

/// Returns the lines of a log that a domain wrote to port 0xE9. The last one counts once it has
/// ended: the log may have been read in the middle of it.
pub fn lines(log: &str) -> Vec<&str> {
    let ended = log.split_inclusive('\n').filter(|line| line.ends_with('\n'));
    ended.map(|line| line.trim_end_matches(['\r', '\n'])).filter_map(guest_line).collect()
}

/// Returns the text of a `(dN) text` line.
fn guest_line(line: &str) -> Option<&str> {
    let at = line.find("(d")?;
    let (number, text) = line[at + 2..].split_once(')')?;
    (!number.is_empty() && number.bytes().all(|b| b.is_ascii_digit())).then(|| text.strip_prefix(' ').unwrap_or(text))
}

/// Runs `image` with `cmdline` until the machine ends, `limit` is over, or `done` returns `true`
/// for the log so far.
pub fn run(
    image: &Path,
    cmdline: &str,
    limit: Duration,
    done: &dyn Fn(&str) -> bool,
    progress: &mut Progress<'_>,
) -> Result<Run, BedError> {
    let installed = packages::ensure(progress)?;
    let cache = bed_dir().join("cache");
    let folder = bed_dir().join("runs/direct");
    std::fs::create_dir_all(&cache).at(&cache)?;
    std::fs::create_dir_all(&folder).at(&folder)?;
    let xen = boot_files::hypervisor(&installed, &cache)?;
    let log = folder.join("xen.log");
    std::fs::write(&log, "").at(&log)?;
    progress("running straight under Xen");
    let memory = Memory { machine: 1024, domain: 256 };
    let qemu = Qemu::spawn(arguments(&xen, image, cmdline, &log, memory, ""), &folder.join("qemu.log"))?;
    let until = std::time::Instant::now() + limit;
    loop {
        let ended = qemu.wait(Duration::from_millis(50));
        let text = printable(&std::fs::read(&log).at(&log)?);
        let over = std::time::Instant::now() >= until;
        if let Some(ended) = &ended
            && ended.code != Some(0)
        {
            return Err(BedError::QemuEnded {
                during: "an image ran straight under Xen".to_owned(),
                status: ended.status.clone(),
                tail: tail(qemu.log(), TAIL_LINES),
                log: qemu.log().to_owned(),
            });
        }
        if ended.is_some() || over || done(&text) {
            return Ok(Run { log: text, path: log, ended: ended.is_some() });
        }
    }
}

/// Sizes in MiB.
pub(crate) struct Memory {
    /// The memory of QEMU's machine.
    pub machine: u32,
    /// The memory of the image, a part of it.
    pub domain: u32,
}

/// Returns QEMU's command line. `more` are further options of Xen.
pub(crate) fn arguments(
    xen: &Path,
    image: &Path,
    cmdline: &str,
    log: &Path,
    memory: Memory,
    more: &str,
) -> Vec<String> {
    let Memory { machine, domain } = memory;
    let xen_options = format!(
        "console=com1 com1=115200,8n1 loglvl=all guest_loglvl=all dom0=pvh dom0-iommu=none \
         dom0_mem={domain}M,max:{domain}M cpuidle=0 bootscrub=0 {more}"
    );
    let module = format!("{} {}", escape(&image.to_string_lossy()), escape(cmdline));
    let mut arguments: Vec<String> =
        ["-accel", "tcg,thread=multi", "-cpu", "max", "-smp", "1", "-m"].map(str::to_owned).into();
    arguments.push(machine.to_string());
    arguments.extend(["-display", "none", "-monitor", "none", "-no-reboot"].map(str::to_owned));
    arguments.extend(["-serial".to_owned(), format!("file:{}", escape(&log.to_string_lossy()))]);
    arguments.extend(["-kernel".to_owned(), xen.to_string_lossy().into_owned()]);
    arguments.extend(["-append".to_owned(), xen_options, "-initrd".to_owned(), module]);
    arguments
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_lines_of_a_domain_are_the_images() {
        assert_eq!(guest_line("(XEN) [    1.2] (d0) hello (world)"), Some("hello (world)"));
        assert_eq!(guest_line("(d12) x"), Some("x"));
        assert_eq!(guest_line("(XEN) (don't) panic"), None);
        assert_eq!(guest_line("plain"), None);
    }

    #[test]
    fn a_line_counts_once_it_has_ended() {
        assert_eq!(lines("(d1) one\r\n(XEN) two\n(d1) done: "), ["one"]);
        assert_eq!(lines("(d1) one\n(d1) done: 0 breaches\n"), ["one", "done: 0 breaches"]);
    }
}
