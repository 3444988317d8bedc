//! Injects events into an image that runs straight under Xen, before an instruction of choice.
//!
//! The processor delivers the event itself, through the image's own descriptor tables and stacks. Xen
//! would ask it to in the same way: by the field EVENTINJ of the virtual machine's control block
//! (VMCB). The stub for gdb stops the machine before the instruction. An NMI of QEMU's machine then
//! makes the processor leave the virtual machine there, before the instruction has run. At Xen's next
//! `vmrun`, EVENTINJ is written.
//!
//! Snapshots of the machine take it back, so that many events are injected in one run, fatal ones
//! too.

use std::collections::BTreeSet;
use std::io::ErrorKind;
use std::os::linux::net::SocketAddrExt;
use std::os::unix::net::{SocketAddr, UnixListener, UnixStream};
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use object::{Object, ObjectSegment};

use crate::error::AtPath;
use crate::gdb::{Gdb, Registers};
use crate::log::{Follower, TAIL_LINES, tail};
use crate::qemu::{Qemu, escape};
use crate::{BedError, Progress, bed_dir, boot_files, direct, packages};

/// The address of Xen's first physical byte (`XEN_VIRT_START` of Xen's `asm/config.h`).
const XEN_START: u64 = 0xFFFF_82D0_4000_0000;
/// The instruction that enters a virtual machine.
const VMRUN: [u8; 3] = [0x0F, 0x01, 0xD8];
/// Bytes of a VMCB up to the end of the general registers. Offsets in it are from AMD's
/// "Architecture Programmer's Manual", volume 2, appendix B.
const VMCB_LENGTH: usize = 0x600;
/// Offset of EVENTINJ.
const EVENT_INJECTION: usize = 0xA8;
/// The bit of EVENTINJ that says that there is an event.
const VALID: u64 = 1 << 31;
/// Offset of RIP.
const VMCB_RIP: usize = 0x578;
/// Offset of RSP.
const VMCB_RSP: usize = 0x5D8;

/// What Xen prints when the domain has crashed.
const CRASHED: &str = "Hardware Dom0 crashed";
/// The time within which the processor leaves the virtual machine after an NMI.
const EXIT: Duration = Duration::from_secs(20);
/// The interval at which the log of a running machine is read.
const CHECK_INTERVAL: Duration = Duration::from_millis(2);
/// The name of the snapshot.
const SNAPSHOT: &str = "before";

/// An event to inject.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Event {
    /// A non-maskable interrupt.
    Nmi,
    /// A double fault, with an error code of 0.
    DoubleFault,
    /// A machine check.
    MachineCheck,
}

impl Event {
    /// Returns the value of EVENTINJ: vector, type (2 for an NMI, 3 for an exception), bit 11 if
    /// there is an error code, and [`VALID`].
    fn injection(self) -> u64 {
        match self {
            Self::Nmi => VALID | 2 << 8 | 2,
            Self::DoubleFault => VALID | 1 << 11 | 3 << 8 | 8,
            Self::MachineCheck => VALID | 3 << 8 | 18,
        }
    }
}

/// The end of a run that should have been fatal.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Ending {
    /// Xen ended the domain. Holds the lines that the domain wrote meanwhile.
    Crashed(Vec<String>),
    /// The image reached an instruction at which it goes on.
    WentOn(u64),
    /// Neither happened in time. Holds the lines that the domain wrote meanwhile.
    Hung(Vec<String>),
}

/// The machine at a `vmrun` that enters the image before the instruction at which it was stopped.
///
/// # Holding one proves
/// No event is due there.
pub struct Entry {
    vmcb: u64,
}

/// An image straight under Xen, stopped or running.
pub struct Machine {
    gdb: Gdb,
    /// Kept because its drop ends QEMU.
    _qemu: Qemu,
    follower: Follower,
    lines: Vec<String>,
    /// The address of Xen's `vmrun`.
    vmrun: u64,
}

impl Machine {
    /// Starts Xen with an image, stopped before the first instruction. Logs are in
    /// `target/bed/runs/<name>`.
    pub fn start(name: &str, image: &Path, progress: &mut Progress<'_>) -> Result<Self, BedError> {
        let installed = packages::ensure(progress)?;
        let (cache, folder) = (bed_dir().join("cache"), bed_dir().join("runs").join(name));
        for folder in [&cache, &folder] {
            std::fs::create_dir_all(folder).at(folder)?;
        }
        let xen = boot_files::hypervisor(&installed, &cache)?;
        let vmrun = vmrun(&xen)?;
        let log = folder.join("xen.log");
        std::fs::write(&log, "").at(&log)?;
        let socket = format!("cloister-inject-{}-{name}", std::process::id());
        let bound = SocketAddr::from_abstract_name(&socket).and_then(|address| UnixListener::bind_addr(&address));
        let listener = bound.at(format!("@{socket}"))?;
        let arguments = arguments(&xen, image, &log, &snapshots(&folder)?, &socket);
        progress("starting Xen");
        let qemu = Qemu::spawn(arguments, &folder.join("qemu.log"))?;
        let gdb = Gdb::new(connection(&listener, &qemu)?)?;
        Ok(Self { gdb, _qemu: qemu, follower: Follower::new(log), lines: Vec::new(), vmrun })
    }

    /// Returns all lines that the image wrote so far, those of runs that were taken back too.
    pub fn lines(&self) -> &[String] {
        &self.lines
    }

    /// Runs until the image is before one of the instructions, and returns the registers there, or
    /// `None` if `over` returns `true` for a line of the image, or `limit` is over.
    pub fn run_to(
        &mut self,
        instructions: &BTreeSet<u64>,
        limit: Duration,
        over: &dyn Fn(&str) -> bool,
    ) -> Result<Option<Registers>, BedError> {
        instructions.iter().try_for_each(|&at| self.gdb.set_breakpoint(at))?;
        let until = Instant::now() + limit;
        self.gdb.resume()?;
        let found = loop {
            if self.gdb.stopped(CHECK_INTERVAL)? {
                break Some(self.gdb.registers()?);
            }
            let first = self.lines.len();
            self.read_log();
            if self.lines[first..].iter().any(|line| over(line)) || Instant::now() >= until {
                self.gdb.interrupt()?;
                break None;
            }
        };
        instructions.iter().try_for_each(|&at| self.gdb.remove_breakpoint(at))?;
        Ok(found)
    }

    /// Executes one instruction, and returns the registers after it.
    pub fn step(&mut self) -> Result<Registers, BedError> {
        self.gdb.step()?;
        self.gdb.registers()
    }

    /// Makes the processor leave the image before the instruction at which the image is stopped, and
    /// goes on to the `vmrun` after that. Returns `None` if Xen injects an event there itself.
    pub fn leave_image(&mut self, at: u64) -> Result<Option<Entry>, BedError> {
        self.gdb.monitor("nmi")?;
        let found = self.run_to(&BTreeSet::from([self.vmrun]), EXIT, &|_| false)?;
        let Some(registers) = found else { return Err(lost(at, "Xen did not enter the image")) };
        let vmcb = self.gdb.read_physical(registers.rax(), VMCB_LENGTH)?;
        let field = |offset: usize| {
            let bytes = vmcb.get(offset..offset + 8).and_then(|bytes| bytes.try_into().ok());
            u64::from_le_bytes(bytes.unwrap_or_default())
        };
        if field(VMCB_RIP) != at {
            return Err(lost(at, &format!("Xen entered the image at {:#x}", field(VMCB_RIP))));
        }
        Ok((field(EVENT_INJECTION) & VALID == 0).then_some(Entry { vmcb: registers.rax() }))
    }

    /// Keeps the machine's state, in place of what was kept before.
    pub fn save(&mut self) -> Result<(), BedError> {
        self.silent(&format!("savevm {SNAPSHOT}"))
    }

    /// Takes the machine back to the state that was kept.
    pub fn restore(&mut self) -> Result<(), BedError> {
        self.silent(&format!("loadvm {SNAPSHOT}"))
    }

    /// Makes the processor deliver an event when it enters the image.
    pub fn inject(&mut self, entry: &Entry, event: Event) -> Result<(), BedError> {
        self.gdb.write_physical(entry.vmcb + EVENT_INJECTION as u64, &event.injection().to_le_bytes())
    }

    /// Makes the processor enter the image with this stack pointer.
    pub fn set_stack(&mut self, entry: &Entry, stack: u64) -> Result<(), BedError> {
        self.gdb.write_physical(entry.vmcb + VMCB_RSP as u64, &stack.to_le_bytes())
    }

    /// Runs until Xen has ended the domain, at most for `limit`. The image must not come to one of
    /// `forbidden`.
    pub fn run_to_end(&mut self, forbidden: &BTreeSet<u64>, limit: Duration) -> Result<Ending, BedError> {
        let (first, crashed) = (self.lines.len(), |line: &str| line.contains(CRASHED));
        let stopped = self.run_to(forbidden, limit, &crashed)?;
        let lines = self.lines[first..].to_vec();
        Ok(match stopped {
            Some(registers) => Ending::WentOn(registers.rip()),
            None if lines.iter().any(|line| crashed(line)) => Ending::Crashed(lines),
            None => Ending::Hung(lines),
        })
    }

    fn silent(&mut self, command: &str) -> Result<(), BedError> {
        match self.gdb.monitor(command)?.trim() {
            "" => Ok(()),
            text => Err(BedError::Debugger(format!("`{command}`: {text}"))),
        }
    }

    fn read_log(&mut self) {
        let text: String = self.follower.lines().iter().map(|line| format!("{line}\n")).collect();
        self.lines.extend(text.lines().filter(|line| line.contains(CRASHED)).map(str::to_owned));
        self.lines.extend(direct::lines(&text).iter().map(|&line| line.to_owned()));
    }
}

/// Waits for QEMU's connection.
fn connection(listener: &UnixListener, qemu: &Qemu) -> Result<UnixStream, BedError> {
    let error = |error: std::io::Error| BedError::Debugger(error.to_string());
    listener.set_nonblocking(true).map_err(error)?;
    loop {
        match listener.accept() {
            Ok((stream, _)) => {
                stream.set_nonblocking(false).map_err(error)?;
                return Ok(stream);
            }
            Err(other) if other.kind() != ErrorKind::WouldBlock => return Err(error(other)),
            Err(_) => {}
        }
        if let Some(ended) = qemu.wait(CHECK_INTERVAL) {
            return Err(BedError::QemuEnded {
                during: "it was to connect to this program".to_owned(),
                status: ended.status,
                tail: tail(qemu.log(), TAIL_LINES),
                log: qemu.log().to_owned(),
            });
        }
    }
}

/// Creates the disk that QEMU puts an overlay over for its snapshots, and returns its path.
fn snapshots(folder: &Path) -> Result<PathBuf, BedError> {
    let disk = folder.join("snapshots.raw");
    let file = std::fs::File::create(&disk).at(&disk)?;
    file.set_len(1 << 20).at(&disk)?;
    Ok(disk)
}

fn lost(at: u64, what: &str) -> BedError {
    BedError::Debugger(format!("{what} after an NMI at {at:#x}"))
}

/// Returns the address of the only `vmrun` in Xen's file, which lists physical addresses.
fn vmrun(xen: &Path) -> Result<u64, BedError> {
    let unusable = |what: String| BedError::Distribution(format!("{}: {what}", xen.display()));
    let bytes = std::fs::read(xen).at(xen)?;
    let file = object::File::parse(&*bytes).map_err(|error| unusable(error.to_string()))?;
    let mut found = Vec::new();
    for segment in file.segments() {
        let content = segment.data().map_err(|error| unusable(error.to_string()))?;
        let offsets = content.windows(VMRUN.len()).enumerate().filter(|(_, bytes)| *bytes == VMRUN);
        found.extend(offsets.map(|(offset, _)| XEN_START + segment.address() + offset as u64));
    }
    match found[..] {
        [address] => Ok(address),
        _ => Err(unusable(format!("the bytes of `vmrun` occur {} times, and not once", found.len()))),
    }
}

fn arguments(xen: &Path, image: &Path, log: &Path, disk: &Path, socket: &str) -> Vec<String> {
    // Little memory: a snapshot looks at all of it. `nmi=ignore`: QEMU's NMIs have no cause that Xen
    // knows.
    let mut list = direct::arguments(xen, image, "", log, direct::Memory { machine: 320, domain: 64 }, "nmi=ignore");
    let disk = escape(&disk.to_string_lossy());
    list.extend(["-drive".to_owned(), format!("file={disk},format=raw,if=none,id=snapshots,snapshot=on")]);
    list.extend(["-chardev".to_owned(), format!("socket,id=gdb,path={socket},abstract=on,tight=on")]);
    list.extend(["-gdb".to_owned(), "chardev:gdb".to_owned(), "-S".to_owned()]);
    list
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn events_are_those_of_the_manual() {
        assert_eq!(Event::Nmi.injection(), 0x8000_0202);
        assert_eq!(Event::MachineCheck.injection(), 0x8000_0312);
        assert_eq!(Event::DoubleFault.injection(), 0x8000_0B08);
    }
}
