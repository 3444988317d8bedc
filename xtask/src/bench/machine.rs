//! The bed of a measurement: our guest and a Linux guest on one bridge, and dom0, which makes the
//! load.

use std::collections::BTreeMap;
use std::path::Path;
use std::time::Duration;

use anyhow::{Context, Result, bail, ensure};
use cloister_bed::{Bed, Clock, Config, Dom0, Guest, Progress, linux};
use serde_json::Value;

/// Memory of each guest, in MiB: the Linux guest needs this much to serve a file of 100 MB from
/// memory.
pub const MEMORY: u32 = 384;
/// The longest time for a command, in seconds of dom0.
pub const LIMIT: u64 = 600;
/// The size of the small page: that of nginx's own page, which others measure with.
pub const PAGE_BYTES: u32 = 612;

/// A server that is measured.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct System {
    /// The name in tables.
    pub name: &'static str,
    /// The guest's name.
    pub guest: &'static str,
    /// The guest's address.
    pub address: &'static str,
    /// Its address with the prefix's length, and its MAC address.
    pub network: (&'static str, &'static str),
    /// The server's port.
    pub port: u16,
}

/// Our image.
pub const CLOISTER: System = System {
    name: "cloister",
    guest: "cloister",
    address: "10.0.2.15",
    network: ("10.0.2.15/24", "00:16:3e:11:22:33"),
    port: 80,
};
/// The server that ratios compare with.
pub const LINUX: System = System {
    name: "linux-nginx",
    guest: "linux",
    address: "10.0.2.16",
    network: ("10.0.2.16/24", "00:16:3e:11:22:34"),
    port: 80,
};
/// Another server in the same Linux guest.
pub const BUSYBOX: System = System { name: "linux-busybox", port: 8080, ..LINUX };
/// The fused build: all services in one program, to measure what isolation costs.
pub const FUSED: System = System {
    name: "fused",
    guest: "fused",
    address: "10.0.2.17",
    network: ("10.0.2.17/24", "00:16:3e:11:22:35"),
    port: 80,
};

impl System {
    /// Returns `true` if the system is an image of ours.
    pub fn is_ours(&self) -> bool {
        *self == CLOISTER || *self == FUSED
    }

    /// Returns the longest time from `xl create` to the first answer, in seconds.
    ///
    /// By the instruction clock it is about three times the usual time. By the wall clock it is ten
    /// times as long, because other work of this machine counts too.
    fn boot_limit(&self, clock: Clock) -> u32 {
        let seconds = if self.is_ours() { 3 } else { 20 };
        match clock {
            Clock::Instructions => seconds,
            Clock::Wall => 10 * seconds,
        }
    }

    /// Returns a file that its server has when it is ready, and the file's size.
    fn ready(&self) -> (&'static str, u32) {
        // The Linux guest makes this file last.
        if self.is_ours() { ("page", PAGE_BYTES) } else { ("ready", 6) }
    }
}

/// The images and conditions of a measurement.
pub struct Setup<'a> {
    /// Our image.
    pub image: &'a Path,
    /// The fused build, if [`FUSED`] is measured.
    pub fused: Option<&'a Path>,
    /// The archive with the page and the files.
    pub site: &'a Path,
    /// The page.
    pub page: &'a [u8],
    /// The clock.
    pub clock: Clock,
    /// `true` if guests and back end use checksum and segmentation offload.
    pub offload: bool,
}

/// A running bed with the guests.
pub struct Machine<'a> {
    bed: Bed,
    setup: Setup<'a>,
    domains: Vec<(&'static str, String)>,
}

impl<'a> Machine<'a> {
    /// Boots the bed and the guests of `systems`, and waits until they answer.
    pub fn start(
        setup: Setup<'a>,
        systems: &[System],
        name: &str,
        config: Config,
        progress: &mut Progress<'_>,
    ) -> Result<Self> {
        let mut guests: Vec<&System> = Vec::new();
        for system in systems {
            if guests.iter().all(|known| known.guest != system.guest) {
                guests.push(system);
            }
        }
        let site = std::fs::metadata(setup.site).context("the site's archive")?.len();
        let sites = guests.iter().filter(|system| system.is_ours()).count() as u64;
        let config = Config {
            name: name.to_owned(),
            clock: setup.clock,
            dom0: Dom0::Load,
            guests_mib: (guests.len() as u64 + 1) * u64::from(MEMORY) + 64,
            files_bytes: sites * site + (32 << 20),
            ..config
        };
        let bed = Bed::start(&config, progress)?;
        let mut machine = Self { bed, setup, domains: Vec::new() };
        // QEMU's user network answers for addresses that no guest has.
        machine.shell("brctl delif xenbr0 eth0")?;
        for system in guests {
            let guest = machine.guest(system, true, progress)?;
            machine.bed.create(&guest, progress)?;
            machine.introduce(system)?;
        }
        machine.wait(systems, progress)?;
        Ok(machine)
    }

    /// Returns the guest of a system, with the files or only with the page.
    pub fn guest(&self, system: &System, files: bool, progress: &mut Progress<'_>) -> Result<Guest> {
        let (address, mac) = system.network;
        let mut guest = if system.is_ours() {
            let image = if *system == FUSED { self.setup.fused } else { Some(self.setup.image) };
            Guest {
                name: system.guest.to_owned(),
                ramdisk: files.then(|| self.setup.site.to_owned()),
                cmdline: format!("ip={address} gw=10.0.2.2"),
                ..Guest::new(image.with_context(|| format!("the image of {} was not built", system.name))?)
            }
        } else {
            linux::guest(system.guest, address, self.setup.page, files.then_some(100), progress)?
        };
        if !self.setup.offload {
            guest.cmdline += " offload=off";
        }
        Ok(Guest { memory: MEMORY, mac: Some(mac.to_owned()), on_crash: "preserve".to_owned(), ..guest })
    }

    /// Looks up the domain of a guest, and gives dom0 its MAC address, so that no measure depends
    /// on ARP time-outs.
    pub fn introduce(&mut self, system: &System) -> Result<()> {
        let domain = self.shell(&format!("xl domid {}", system.guest))?.trim().to_owned();
        ensure!(domain.parse::<u32>().is_ok(), "{} has no domain: {domain}", system.guest);
        self.domains.retain(|(guest, _)| *guest != system.guest);
        self.domains.push((system.guest, domain.clone()));
        let (_, mac) = system.network;
        self.shell(&format!("arp -s {} {mac}", system.address))?;
        if !self.setup.offload {
            self.shell(&format!("ethtool -K vif{domain}.0 tx off sg off tso off gso off gro off"))?;
        }
        Ok(())
    }

    /// Waits until all servers answer.
    fn wait(&self, systems: &[System], progress: &mut Progress<'_>) -> Result<()> {
        progress("waiting for the guests' servers");
        for system in systems {
            let (path, bytes) = system.ready();
            let words = format!("fetch {} {} /{path} {bytes} 1 5", system.address, system.port);
            let mut tries = 0;
            while let Err(error) = self.measure(&words).and_then(|measured| measured.ensure_complete()) {
                tries += 1;
                if tries == 40 {
                    let console = self.shell("tail -n 20 /run/console/*; xl list")?;
                    return Err(error.context(format!("{} does not answer\n{console}", system.name)));
                }
                self.shell("usleep 250000")?;
            }
        }
        Ok(())
    }

    /// Returns the domain id of a system.
    pub fn domain(&self, system: &System) -> Result<&str> {
        let found = self.domains.iter().find(|(guest, _)| *guest == system.guest);
        found.map(|(_, domain)| domain.as_str()).with_context(|| format!("{} was not created", system.guest))
    }

    /// Returns the bed.
    pub fn bed(&self) -> &Bed {
        &self.bed
    }

    /// Runs a command in dom0, and returns what it prints. A failure is an error.
    pub fn shell(&self, command: &str) -> Result<String> {
        let output = self.bed.dom0(command, Duration::from_secs(LIMIT))?;
        ensure!(output.success(), "`{command}` in dom0 failed ({}): {}", output.status, output.stdout.trim());
        Ok(output.stdout)
    }

    /// Returns the machine's clock.
    pub fn clock(&self) -> Clock {
        self.setup.clock
    }

    /// Runs the program `measure` in dom0.
    pub fn measure(&self, words: &str) -> Result<Measured> {
        let text = self.shell(&format!("measure {words}"))?;
        let line =
            text.lines().rfind(|line| line.starts_with('{')).with_context(|| format!("`measure` printed {text}"))?;
        let measured = Measured { value: serde_json::from_str(line)? };
        match measured.value.get("status").and_then(Value::as_i64) {
            Some(status) if status != 0 => bail!("`{words}` ended with {status}: {}", measured.output().trim()),
            _ => Ok(measured),
        }
    }

    /// Destroys a guest and creates it again, without its files.
    ///
    /// `create`, `frame`, `ping` and `http` are the seconds until `xl create` returned, an ARP
    /// frame arrived, a ping was answered, and the first byte of an HTTP answer arrived.
    pub fn boot_again(&mut self, system: &System, memory: u32) -> Result<Measured> {
        self.boot(system, memory, "first")
    }

    /// Boots a guest again up to its first frame, without sending it anything.
    pub fn boot_to_frame(&mut self, system: &System, memory: u32) -> Result<Measured> {
        self.boot(system, memory, "frame")
    }

    fn boot(&mut self, system: &System, memory: u32, until: &str) -> Result<Measured> {
        let limit = system.boot_limit(self.setup.clock);
        let guest = Guest { memory, ..self.guest(system, false, &mut |_| {})? };
        self.shell(&format!(
            "xl destroy {0} 2> /dev/null; while xl domid {0} > /dev/null 2>&1; do usleep 10000; done",
            guest.name
        ))?;
        let config = self.bed.stage(&guest)?;
        let measured =
            self.measure(&format!("{until} {} {} {limit} xl create {config}", system.address, system.network.1))?;
        // A guest that was refused has no domain, and `measure` says why.
        measured.ensure_complete()?;
        self.introduce(system)?;
        Ok(measured)
    }

    /// Detaches a guest's network and attaches it again: `http` are the seconds until a request was
    /// answered.
    pub fn reattach(&mut self, system: &System) -> Result<Measured> {
        let (guest, mac) = (system.guest, system.network.1);
        self.shell(&format!("xl network-detach {guest} 0; sleep 1"))?;
        let words = format!("first {} {mac} 10 xl network-attach {guest} mac={mac} bridge=xenbr0", system.address);
        let measured = self.measure(&words)?;
        measured.ensure_complete()?;
        Ok(measured)
    }

    /// Returns what our kernel has counted since it booted, from a report that an NMI triggers.
    pub fn counts(&self, system: &System) -> Result<Counts> {
        let log = format!("/run/console/guest-{}.log", system.guest);
        let text = self.shell(&format!("xl trigger {} nmi; usleep 200000; tail -n 200 {log}", system.guest))?;
        Counts::parse(&text).context("the image printed no counts")
    }

    /// Returns the console output with the samples that a profiling kernel took since the last
    /// report.
    pub fn samples(&self) -> Result<String> {
        let log = format!("/run/console/guest-{}.log", CLOISTER.guest);
        self.shell(&format!(
            "from=$(wc -l < {log}); xl trigger {} nmi; for i in $(seq 1 100); do usleep 100000; \\
             tail -n +$((from + 1)) {log} | grep -q 'profile: lost' && break; done; tail -n +$((from + 1)) {log}",
            CLOISTER.guest
        ))
    }

    /// Ends the bed, and keeps the guests' consoles in its folder.
    pub fn finish(self) {
        // A failure loses only a log.
        let _ = self.shell("cp /run/console/* /host/console/");
        self.bed.stop();
    }
}

/// Counts of a kernel's operations, by their names.
pub struct Counts(BTreeMap<String, f64>);

impl Counts {
    /// Parses lines `cloister: count NAME N`; of several reports the last one counts.
    fn parse(text: &str) -> Option<Self> {
        let count = |line: &str| {
            let (name, number) = line.strip_prefix("cloister: count ")?.split_once(' ')?;
            Some((name.to_owned(), number.trim().parse().ok()?))
        };
        let counts: BTreeMap<String, f64> = text.lines().filter_map(count).collect();
        (!counts.is_empty()).then_some(Self(counts))
    }

    /// Returns a count.
    pub fn number(&self, name: &str) -> Result<f64> {
        self.0.get(name).copied().with_context(|| format!("the image does not count {name}"))
    }

    /// Returns by how much a count grew since `before`, divided by `each`.
    pub fn since(&self, before: &Self, name: &str, each: f64) -> Result<f64> {
        Ok((self.number(name)? - before.number(name)?) / each)
    }
}

/// The result of the program `measure`.
pub struct Measured {
    value: Value,
}

impl Measured {
    /// Returns what the command printed.
    pub fn output(&self) -> &str {
        self.value.get("output").and_then(Value::as_str).unwrap_or_default()
    }

    /// Returns the duration, in seconds.
    pub fn seconds(&self) -> Result<f64> {
        Ok(self.number("ns")? / 1e9)
    }

    /// Returns the processor time of a domain, in microseconds.
    pub fn cpu_us(&self, domain: &str) -> Result<f64> {
        self.time_us("cpu", domain)
    }

    /// Returns the processor time of a new domain until its first ARP frame, in microseconds.
    pub fn frame_cpu_us(&self, domain: &str) -> Result<f64> {
        self.time_us("frame_cpu", domain)
    }

    fn time_us(&self, account: &str, domain: &str) -> Result<f64> {
        let nanoseconds = self.value.get(account).and_then(|cpu| cpu.get(domain)).and_then(Value::as_f64);
        Ok(nanoseconds.with_context(|| format!("there is no domain {domain}"))? / 1e3)
    }

    /// Returns the number of this name.
    pub fn number(&self, name: &str) -> Result<f64> {
        self.value.get(name).and_then(Value::as_f64).with_context(|| format!("`measure` names no {name}"))
    }

    /// Returns the list of numbers of this name.
    pub fn numbers(&self, name: &str) -> Vec<f64> {
        self.list(name).iter().filter_map(Value::as_f64).collect()
    }

    /// Returns an error if any transfer failed.
    pub fn ensure_complete(&self) -> Result<()> {
        let errors = self.list("errors");
        let Some(first) = errors.first() else { return Ok(()) };
        bail!("{} failed, such as: {}", errors.len(), first.as_str().unwrap_or_default())
    }

    fn list(&self, name: &str) -> &[Value] {
        self.value.get(name).and_then(Value::as_array).map_or(&[], Vec::as_slice)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn counts_grow_from_report_to_report() {
        let before = Counts::parse("boot\ncloister: count events 10\ncloister: count grants 512\n").expect("counts");
        let after = Counts::parse("cloister: count events 11\ncloister: count events 30\n").expect("counts");
        assert_eq!(after.since(&before, "events", 10.0).expect("counted"), 2.0);
        assert!(after.since(&before, "grants", 1.0).is_err());
        assert!(Counts::parse("cloister: 6 services\n").is_none());
    }

    #[test]
    fn a_boot_may_take_longer_where_other_work_counts() {
        // By the wall clock xl alone took 2 s for ours and 8 s for Linux, on a machine with nothing
        // else to do.
        assert!(CLOISTER.boot_limit(Clock::Wall) > 10 * 2 && LINUX.boot_limit(Clock::Wall) > 10 * 8);
        // The limit passes once for each size of memory with which the guest does not boot.
        assert!(CLOISTER.boot_limit(Clock::Instructions) <= 3 && FUSED.boot_limit(Clock::Instructions) <= 3);
    }

    #[test]
    fn a_failed_transfer_is_an_error() {
        let measured = |text: &str| Measured { value: serde_json::from_str(text).expect("json") };
        assert!(measured(r#"{"errors": [], "bytes": 3}"#).ensure_complete().is_ok());
        let error = measured(r#"{"errors": ["reset", "reset"]}"#).ensure_complete().expect_err("failed").to_string();
        assert_eq!(error, "2 failed, such as: reset");
    }
}
