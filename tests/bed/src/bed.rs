//! The bed itself: a machine with Xen and dom0, from start to end.

use std::net::TcpStream;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use crate::agent::{Agent, Listener, Output};
use crate::error::AtPath;
use crate::guest::{GUEST_ADDRESS, Guest, State};
use crate::initramfs::{self, Dom0};
use crate::log::{Follower, TAIL_LINES, tail};
use crate::qemu::{Qemu, escape};
use crate::{BedError, Progress, bed_dir, boot_files, http, packages, port};

/// The limits of the stages: each about ten times the time measured on two cores.
mod limit {
    use std::time::Duration;
    pub const XEN: Duration = Duration::from_secs(30);
    pub const DOM0: Duration = Duration::from_secs(120);
    pub const CREATE: Duration = Duration::from_secs(60);
    /// A limit in dom0's time for commands that wait for this machine. With the instruction clock,
    /// dom0's time jumps ahead while they wait: a minute passes in a few seconds.
    pub const OF_HOST: Duration = Duration::from_secs(3600);
    pub const SHUTDOWN: Duration = Duration::from_secs(30);
    pub const FINISH: Duration = Duration::from_secs(10);
}
/// The interval at which waiting loops check their condition.
const CHECK_INTERVAL: Duration = Duration::from_millis(20);
/// The factor for all limits if one thread does all the work of the machine.
const ONE_THREAD: u32 = 10;
/// dom0's memory without the guests' files, and the memory of Xen and QEMU's firmware beside the
/// domains, in MiB.
const DOM0_MIB: u64 = 512;
const XEN_MIB: u64 = 256;

/// The clock of a bed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Clock {
    /// This machine's clock.
    Wall,
    /// One nanosecond for each executed instruction, whatever else this machine does. While no
    /// processor has work, it jumps to the next timer.
    Instructions,
}

/// The settings of a bed.
#[derive(Debug, Clone)]
pub struct Config {
    /// The name of the run's folder in `target/bed/runs`. An older run of this name is replaced.
    pub name: String,
    /// The port of 127.0.0.1 that is forwarded to port 80 of the guest at 10.0.2.15; 0 for any free
    /// port.
    pub port: u16,
    /// Memory for guests, in MiB.
    pub guests_mib: u64,
    /// The size of the guests' files, in bytes: dom0 holds them in memory.
    pub files_bytes: u64,
    /// The port of a stub for gdb (on 127.0.0.1).
    pub gdb: Option<u16>,
    /// The clock.
    pub clock: Clock,
    /// The abilities of dom0.
    pub dom0: Dom0,
    /// Once it is `true`, every wait ends with [`BedError::Stopped`].
    pub stop: Arc<AtomicBool>,
}

impl Clock {
    /// Returns the time to wait on this machine for an action that takes at most `limit` in the
    /// bed.
    fn patience(self, limit: Duration) -> Duration {
        match self {
            Self::Wall => limit,
            Self::Instructions => limit * ONE_THREAD,
        }
    }
}

impl Config {
    /// Returns the settings of a bed for small guests, on any free port.
    pub fn new(name: &str) -> Self {
        Self {
            name: name.to_owned(),
            port: 0,
            guests_mib: 512,
            files_bytes: 0,
            gdb: None,
            clock: Clock::Wall,
            dom0: Dom0::Plain,
            stop: Arc::new(AtomicBool::new(false)),
        }
    }

    /// Returns the settings of a bed with memory for `guest` and its files.
    pub fn for_guest(name: &str, guest: &Guest) -> Self {
        let size = |path: &Path| std::fs::metadata(path).map(|m| m.len()).unwrap_or(0);
        let files_bytes = size(&guest.image) + guest.ramdisk.as_deref().map_or(0, size);
        Self { guests_mib: u64::from(guest.memory) + 64, files_bytes, ..Self::new(name) }
    }

    /// Returns dom0's memory in MiB. The files are in its RAM disk, and once more in its page
    /// cache.
    fn dom0_mib(&self) -> u64 {
        DOM0_MIB + 2 * self.files_bytes.div_ceil(1 << 20)
    }
}

/// Xen and dom0 in QEMU. Dropping it kills QEMU.
pub struct Bed {
    qemu: Qemu,
    agent: Agent,
    folder: PathBuf,
    port: u16,
    watch: Mutex<Watch>,
    stop: Arc<AtomicBool>,
    clock: Clock,
}

/// Watches the serial log for the death of Xen or dom0.
struct Watch {
    follower: Follower,
    died: Option<&'static str>,
}

impl Bed {
    /// Starts Xen and dom0, and waits until dom0 can run commands.
    pub fn start(config: &Config, progress: &mut Progress<'_>) -> Result<Self, BedError> {
        let port = port::choose(config.port)?;
        let installed = packages::ensure(progress)?;
        let cache = bed_dir().join("cache");
        std::fs::create_dir_all(&cache).at(&cache)?;
        let xen = boot_files::hypervisor(&installed, &cache)?;
        let initramfs = initramfs::ensure(&installed, config.dom0, &cache, progress)?;
        let folder = fresh_folder(&config.name)?;
        let listener = Listener::new()?;
        progress("starting Xen");
        let boot = format!(
            "{} console=hvc0 quiet panic=-1,{}",
            escape(&boot_files::kernel(&installed).to_string_lossy()),
            escape(&initramfs.to_string_lossy())
        );
        let arguments = arguments(config, &xen, boot, &folder, port, listener.name());
        let starting = Starting {
            qemu: Qemu::spawn(arguments, &folder.join("qemu.log"))?,
            watch: Mutex::new(Watch { follower: Follower::new(folder.join("xen.log")), died: None }),
            folder,
            stop: Arc::clone(&config.stop),
            clock: config.clock,
        };
        starting.finish(&listener, port, progress)
    }

    /// Starts a bed, creates one guest in it, and waits for the first text on its console.
    pub fn with_guest(config: &Config, guest: &Guest, progress: &mut Progress<'_>) -> Result<Self, BedError> {
        let bed = Self::start(config, progress)?;
        bed.create(guest, progress)?;
        bed.wait_for_console(guest, limit::CREATE, progress)?;
        Ok(bed)
    }

    /// Creates a guest.
    pub fn create(&self, guest: &Guest, progress: &mut Progress<'_>) -> Result<(), BedError> {
        progress("creating the guest");
        let config = self.stage(guest)?;
        self.checked(&format!("xl create {config}"), limit::CREATE, &self.folder.join("xen.log")).map(drop)
    }

    /// Copies a guest's files into dom0's memory. Returns the path of its configuration there, for
    /// `xl create`.
    pub fn stage(&self, guest: &Guest) -> Result<String, BedError> {
        if let Some(problem) = guest.problem() {
            return Err(BedError::Distribution(problem));
        }
        let here = self.folder.join("guests").join(&guest.name);
        std::fs::create_dir_all(&here).at(&here)?;
        let there = format!("/tmp/guests/{}", guest.name);
        std::fs::copy(&guest.image, here.join("kernel")).at(&guest.image)?;
        if let Some(ramdisk) = &guest.ramdisk {
            // The archive may be large, and is mostly on the same file system.
            let copy = here.join("ramdisk");
            std::fs::hard_link(ramdisk, &copy).or_else(|_| std::fs::copy(ramdisk, &copy).map(drop)).at(ramdisk)?;
        }
        let ramdisk = guest.ramdisk.as_ref().map(|_| format!("{there}/ramdisk"));
        let config = guest.config(&format!("{there}/kernel"), ramdisk.as_deref());
        std::fs::write(here.join("guest.cfg"), config).at(here.join("guest.cfg"))?;
        // Large blocks: each read is a round trip to QEMU.
        let command = format!(
            "mkdir -p {there} && for f in /host/guests/{name}/*; do dd if=$f of={there}/${{f##*/}} bs=1M 2> /dev/null || exit; done",
            name = guest.name
        );
        let copied = self.run(&command, limit::OF_HOST, self.clock.patience(limit::CREATE))?;
        self.succeeded(&command, copied, &self.folder.join("dom0.log"))?;
        // The host's copies are no longer needed, and the image and the site may be large.
        let _ = std::fs::remove_file(here.join("ramdisk"));
        Ok(format!("{there}/guest.cfg"))
    }

    /// Waits for the first text on the guest's console.
    pub fn wait_for_console(
        &self,
        guest: &Guest,
        limit: Duration,
        progress: &mut Progress<'_>,
    ) -> Result<(), BedError> {
        progress("waiting for the guest's console");
        let log = self.guest_log(&guest.name);
        let spoke = || std::fs::metadata(&log).is_ok_and(|m| m.len() > 0);
        self.wait_for_guest(guest, "the guest's first text was awaited", limit, &spoke)
    }

    /// Waits until the guest answers HTTP on the forwarded port, with any status.
    pub fn wait_for_http(&self, guest: &Guest, limit: Duration, progress: &mut Progress<'_>) -> Result<(), BedError> {
        progress("waiting for an HTTP answer");
        let answers = || http::probe(self.port, Duration::from_secs(2)).is_some();
        self.wait_for_guest(guest, "an HTTP answer was awaited", limit, &answers)
    }

    /// Waits for `condition`, while the bed lives and the guest exists and has not crashed.
    pub fn wait_for_guest(
        &self,
        guest: &Guest,
        during: &str,
        limit: Duration,
        condition: &dyn Fn() -> bool,
    ) -> Result<(), BedError> {
        let until = Instant::now() + limit;
        let mut next_list = Instant::now() + Duration::from_secs(2);
        while !condition() {
            self.alive(during)?;
            if Instant::now() >= next_list {
                // A restart removes a guest for a moment. Only if it is absent twice in a row has
                // it ended.
                let gone = || matches!(self.state(&guest.name), Ok(State::Gone | State::Crashed));
                if gone() && gone() && !condition() {
                    return Err(self.guest_error(guest, during, None));
                }
                next_list = Instant::now() + Duration::from_secs(2);
            }
            if Instant::now() >= until {
                return Err(self.guest_error(guest, during, Some(limit)));
            }
            std::thread::sleep(CHECK_INTERVAL);
        }
        Ok(())
    }

    /// Returns the error for a guest that ended unexpectedly.
    pub fn guest_ended(&self, guest: &Guest, during: &str) -> BedError {
        self.guest_error(guest, during, None)
    }

    fn guest_error(&self, guest: &Guest, during: &str, limit: Option<Duration>) -> BedError {
        let console = self.guest_log(&guest.name);
        // A guest that died before its console worked has written the reason to port 0xE9: it is in
        // Xen's log.
        let empty = std::fs::metadata(&console).map_or(true, |m| m.len() == 0);
        let log = if empty { self.folder.join("xen.log") } else { console };
        let (tail, during, name) = (tail(&log, TAIL_LINES), during.to_owned(), guest.name.clone());
        match limit {
            Some(limit) => BedError::Timeout { during, limit, log, tail },
            None => BedError::GuestEnded { name, during, log, tail },
        }
    }

    /// Runs a command with `sh` in dom0. A status other than 0 is no error.
    pub fn dom0(&self, command: &str, limit: Duration) -> Result<Output, BedError> {
        self.run(command, limit, self.clock.patience(limit))
    }

    /// Runs a command as [`Self::dom0`] does, for at most `limit` of dom0's time and `patience` of
    /// this machine's.
    fn run(&self, command: &str, limit: Duration, patience: Duration) -> Result<Output, BedError> {
        let alive = || self.alive("a command ran in dom0");
        let log = self.folder.join("dom0.log");
        self.agent.run(command, limit, patience, &alive)?.ok_or_else(|| BedError::Timeout {
            during: format!("`{command}` in dom0"),
            limit,
            tail: tail(&log, TAIL_LINES),
            log,
        })
    }

    /// Runs a command in dom0 that must succeed. An error shows the end of `log`.
    fn checked(&self, command: &str, limit: Duration, log: &Path) -> Result<Output, BedError> {
        let output = self.dom0(command, limit)?;
        self.succeeded(command, output, log)
    }

    /// Returns the output of a command, if it succeeded.
    fn succeeded(&self, command: &str, output: Output, log: &Path) -> Result<Output, BedError> {
        if output.success() {
            return Ok(output);
        }
        Err(BedError::InDom0 {
            command: command.to_owned(),
            status: output.status,
            output: output.stdout,
            log: log.to_owned(),
            tail: tail(log, TAIL_LINES),
        })
    }

    /// Returns the state of a guest.
    pub fn state(&self, name: &str) -> Result<State, BedError> {
        Ok(State::parse(&self.dom0("xl list", limit::CREATE)?.stdout, name))
    }

    /// Asks a guest to shut down, and waits until it is removed: `-w` waits for the shutdown alone,
    /// and the daemon of `xl` removes the guest after it.
    pub fn shutdown_guest(&self, name: &str) -> Result<(), BedError> {
        let gone = format!("while xl domid {name} > /dev/null 2>&1; do usleep 100000; done");
        let command = format!("xl shutdown -w {name} && {gone}");
        self.checked(&command, limit::SHUTDOWN, &self.guest_log(name)).map(drop)
    }

    /// Asks a guest to restart, and does not wait for it.
    pub fn reboot_guest(&self, name: &str) -> Result<(), BedError> {
        self.checked(&format!("xl reboot {name}"), limit::SHUTDOWN, &self.guest_log(name)).map(drop)
    }

    /// Destroys a guest at once.
    pub fn destroy_guest(&self, name: &str) -> Result<(), BedError> {
        self.checked(&format!("xl destroy {name}"), limit::SHUTDOWN, &self.guest_log(name)).map(drop)
    }

    /// Returns the port of 127.0.0.1 that is forwarded to the guest's port 80.
    pub fn port(&self) -> u16 {
        self.port
    }

    /// Returns the URL of the guest's HTTP server on this machine.
    pub fn url(&self) -> String {
        format!("http://127.0.0.1:{}/", self.port)
    }

    /// Opens a connection to the guest's port 80.
    pub fn connect(&self) -> std::io::Result<TcpStream> {
        TcpStream::connect((std::net::Ipv4Addr::LOCALHOST, self.port))
    }

    /// Returns the run's folder, with all logs.
    pub fn folder(&self) -> &Path {
        &self.folder
    }

    /// Returns the log of the hypervisor, of dom0's kernel, and of guests' output to port 0xE9.
    pub fn xen_log(&self) -> PathBuf {
        self.folder.join("xen.log")
    }

    /// Returns the log of a guest's console, which is written while the guest runs.
    pub fn guest_log(&self, name: &str) -> PathBuf {
        self.folder.join("console").join(format!("guest-{name}.log"))
    }

    /// Fails if QEMU, Xen or dom0 has died, or if the bed was asked to stop.
    pub fn alive(&self, during: &str) -> Result<(), BedError> {
        check(&self.qemu, &self.watch, &self.folder, &self.stop, during)
    }

    /// Asks the guests to shut down, collects the last logs, and ends QEMU. Cannot fail: a guest
    /// that does not answer ends with QEMU.
    pub fn finish(self, guests: &[&str]) {
        // From here on, the request to stop is being carried out.
        self.stop.store(false, Ordering::Relaxed);
        for guest in guests {
            if matches!(self.state(guest), Ok(State::Running)) {
                let _ = self.dom0(&format!("xl shutdown -w {guest}"), limit::FINISH);
            }
        }
        let _ = self.dom0("dmesg >> /host/dom0.log; xl dmesg > /host/xl-dmesg.log; sync", limit::FINISH);
        self.qemu.stop(Duration::from_secs(5));
    }

    /// Collects the last logs and ends QEMU, whatever the guests do.
    pub fn stop(self) {
        self.finish(&[]);
    }
}

/// A bed whose dom0 does not answer yet.
struct Starting {
    qemu: Qemu,
    watch: Mutex<Watch>,
    folder: PathBuf,
    stop: Arc<AtomicBool>,
    clock: Clock,
}

impl Starting {
    fn finish(self, listener: &Listener, port: u16, progress: &mut Progress<'_>) -> Result<Bed, BedError> {
        let xen_log = self.folder.join("xen.log");
        let spoke = || Ok(std::fs::metadata(&xen_log).is_ok_and(|m| m.len() > 0).then_some(()));
        self.wait("Xen was starting", limit::XEN, &spoke)?;
        progress("starting dom0");
        let during = "dom0 was starting";
        let agent = self.wait(during, limit::DOM0, &|| Ok(listener.accept(&self.folder)))?;
        let dom0_log = self.folder.join("dom0.log");
        self.wait(during, limit::DOM0, &|| match agent.ready() {
            Ok(ready) => Ok(ready.then_some(())),
            Err(reason) => Err(BedError::Dom0 { reason, tail: tail(&dom0_log, TAIL_LINES), log: dom0_log.clone() }),
        })?;
        let Self { qemu, watch, folder, stop, clock } = self;
        Ok(Bed { qemu, agent, folder, port, watch, stop, clock })
    }

    fn wait<T>(
        &self,
        during: &str,
        limit: Duration,
        poll: &dyn Fn() -> Result<Option<T>, BedError>,
    ) -> Result<T, BedError> {
        let limit = self.clock.patience(limit);
        let until = Instant::now() + limit;
        loop {
            if let Some(value) = poll()? {
                return Ok(value);
            }
            check(&self.qemu, &self.watch, &self.folder, &self.stop, during)?;
            if Instant::now() >= until {
                let log = self.folder.join("xen.log");
                return Err(BedError::Timeout { during: during.to_owned(), limit, tail: tail(&log, TAIL_LINES), log });
            }
            std::thread::sleep(CHECK_INTERVAL);
        }
    }
}

fn check(qemu: &Qemu, watch: &Mutex<Watch>, folder: &Path, stop: &AtomicBool, during: &str) -> Result<(), BedError> {
    let during = during.to_owned();
    if stop.load(Ordering::Relaxed) {
        return Err(BedError::Stopped(during));
    }
    let xen_log = folder.join("xen.log");
    let mut watch = watch.lock().unwrap_or_else(PoisonError::into_inner);
    for line in watch.follower.lines() {
        watch.died = watch.died.or_else(|| death(&line));
    }
    if let Some(what) = watch.died {
        // The report continues for some lines after the line that was recognised.
        std::thread::sleep(Duration::from_millis(300));
        return Err(BedError::Died { what, during, tail: tail(&xen_log, 2 * TAIL_LINES), log: xen_log });
    }
    let Some(ended) = qemu.ended() else { return Ok(()) };
    // A machine that ended by itself printed the reason on its console; otherwise the reason is in
    // QEMU's messages.
    let log = if ended.code == Some(0) { xen_log } else { qemu.log().to_owned() };
    Err(BedError::QemuEnded { during, status: ended.status, tail: tail(&log, TAIL_LINES), log })
}

/// Returns `true` if a line of the serial log reports the death of Xen or dom0. A guest's output
/// there, `(dN) …`, never counts.
fn death(line: &str) -> Option<&'static str> {
    let guest = line.find("(d").is_some_and(|at| line[at + 2..].starts_with(|c: char| c.is_ascii_digit()));
    if guest {
        return None;
    }
    let marks = [
        ("Panic on CPU", "Xen"),
        ("FATAL TRAP", "Xen"),
        ("Domain 0 crashed", "dom0"),
        ("Hardware Dom0 crashed", "dom0"),
        ("Hardware Dom0 halted", "dom0"),
        ("Kernel panic - not syncing", "dom0"),
    ];
    marks.iter().find(|(mark, _)| line.contains(mark)).map(|(_, what)| *what)
}

fn fresh_folder(name: &str) -> Result<PathBuf, BedError> {
    let folder = bed_dir().join("runs").join(name);
    if folder.exists() {
        std::fs::remove_dir_all(&folder).at(&folder)?;
    }
    std::fs::create_dir_all(folder.join("console")).at(&folder)?;
    std::fs::write(folder.join("xen.log"), "").at(&folder)?;
    folder.canonicalize().at(&folder)
}

/// Returns QEMU's command line. `tests/bed/README.md` explains the options.
fn arguments(config: &Config, xen: &Path, boot: String, folder: &Path, port: u16, agent: &str) -> Vec<String> {
    let dom0 = config.dom0_mib();
    let memory = XEN_MIB + dom0 + config.guests_mib;
    let shared = escape(&folder.to_string_lossy());
    let mut list: Vec<String> = Vec::new();
    let mut add = |option: &str, value: String| list.extend([option.to_owned(), value]);
    let (threads, processors) = match config.clock {
        Clock::Wall => ("multi", "2"),
        Clock::Instructions => ("single", "1"),
    };
    add("-accel", format!("tcg,thread={threads},tb-size=1024"));
    // RDTSCP exits are reported as RDTSC by QEMU 7.2, so guests must not see it.
    let mut cpu = "EPYC,+svm,-rdtscp,+pku,+umip".to_owned();
    if config.clock == Clock::Instructions {
        // QEMU 7.2 counts each round of a REP instruction as one instruction, so that nothing may
        // copy bytes that way.
        cpu += ",-erms,-fsrm";
    }
    add("-cpu", cpu);
    add("-smp", processors.to_owned());
    add("-m", memory.to_string());
    add("-display", "none".to_owned());
    add("-serial", format!("file:{shared}/xen.log"));
    add("-kernel", xen.to_string_lossy().into_owned());
    // smap=hvm: QEMU before 9.1 takes a PV dom0's stack for a user page. cpuidle=0: no usable
    // MWAIT.
    let xen_options = "console=com1 com1=115200,8n1 smap=hvm cpuidle=0 noreboot bootscrub=0 loglvl=all guest_loglvl=all \
                       dom0_max_vcpus=1";
    add("-append", format!("{xen_options} dom0_mem={dom0}M,max:{dom0}M"));
    add("-initrd", boot);
    add("-netdev", format!("user,id=net,hostfwd=tcp:127.0.0.1:{port}-{GUEST_ADDRESS}:80"));
    add("-device", "virtio-net-pci,netdev=net,romfile=".to_owned());
    add("-device", "virtio-serial-pci".to_owned());
    add("-chardev", format!("socket,id=agent,path={agent},abstract=on,tight=on"));
    add("-device", "virtserialport,chardev=agent,name=cloister.agent,nr=1".to_owned());
    add("-fsdev", format!("local,id=host,path={shared},security_model=none"));
    add("-device", "virtio-9p-pci,fsdev=host,mount_tag=host".to_owned());
    if config.clock == Clock::Instructions {
        add("-icount", "shift=0,sleep=off".to_owned());
        add("-rtc", "clock=vm".to_owned());
    }
    if let Some(gdb) = config.gdb {
        add("-gdb", format!("tcp:127.0.0.1:{gdb}"));
    }
    list.extend(["-nodefaults".to_owned(), "-no-reboot".to_owned()]);
    list
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ends_of_xen_and_dom0_are_recognised_but_not_a_guests_words() {
        assert_eq!(death("(XEN) Panic on CPU 0:"), Some("Xen"));
        assert_eq!(death("[    1.0] Kernel panic - not syncing: VFS"), Some("dom0"));
        assert_eq!(death("(XEN) [ 9.1] (d1) Panic on CPU 0: I am a guest"), None);
        assert_eq!(death("(XEN) Dom0 has maximum 1 VCPUs"), None);
    }

    #[test]
    fn a_machine_of_one_thread_has_more_time() {
        assert_eq!(Clock::Wall.patience(limit::DOM0), limit::DOM0);
        assert!(Clock::Instructions.patience(limit::DOM0) > 5 * limit::DOM0);
    }

    #[test]
    fn dom0_has_room_for_a_large_site() {
        let config = Config { files_bytes: 110 << 20, ..Config::new("x") };
        assert!(config.dom0_mib() >= DOM0_MIB + 220);
    }

    #[test]
    fn the_command_line_names_port_folder_and_stub() {
        let config = Config { gdb: Some(1234), ..Config::new("x") };
        let all = arguments(&config, Path::new("/xen"), "k,i".to_owned(), Path::new("/a,b"), 8080, "name").join(" ");
        for part in ["hostfwd=tcp:127.0.0.1:8080-10.0.2.15:80", "path=/a,,b,security_model", "-gdb tcp:127.0.0.1:1234"]
        {
            assert!(all.contains(part), "{part} is not in {all}");
        }
    }
}
