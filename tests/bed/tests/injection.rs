//! Interrupts with a stack of their own, on real Xen: the processor delivers each of them before
//! every instruction of the kernel's entries and exits, and before some elsewhere.
//!
//! An NMI changes no register of what it interrupts. A double fault and a machine check stop the
//! image with a message that names the instruction.
#![forbid(unsafe_code)]

#[path = "support/code.rs"]
mod code;
mod support;

use std::cell::Cell;
use std::collections::BTreeSet;
use std::path::PathBuf;
use std::time::{Duration, Instant};

use cloister_bed::gdb::Registers;
use cloister_bed::inject::{Ending, Entry, Event, Machine};
use cloister_bed::{BedError, Guest, image};
use cloister_caps::abi::KERNEL_HYPERCALL_PAGE;
use cloister_cpio::Archive;
use code::Code;
use iced_x86::{Instruction, Mnemonic, Register};
use support::{client, guest, serving};

/// The time for a step of the image's work, and for the way from a fatal event to its end.
const STEP: Duration = Duration::from_secs(30);
/// The time for all of the prober's work.
const WORK: Duration = Duration::from_secs(120);
/// The number of lines that the image writes after it has come to most instructions of the samples.
const QUIET: usize = 30;
/// The vectors of faults that the prober causes: divide error, invalid instruction, general
/// protection, page fault.
const FAULTS: [u64; 4] = [0, 6, 13, 14];
/// Offsets in the hypercall page (`kernel/image/src/entry.s`): `vmmcall`, and the code that sleeps.
const HYPERCALL: u64 = 0;
const IDLE: u64 = 8;
/// The distance, in instructions, between those that are sampled of the kernel and of a service.
const KERNEL_SAMPLE: usize = 100;
const SERVICE_SAMPLE: usize = 300;
/// The number of sampled instructions that the self-test must come to: half of those that it came to
/// when this was written.
const KERNEL_LEAST: usize = 20;
const SERVICE_LEAST: usize = 4;
/// NMIs by `xl trigger`, in a row.
const STORM: usize = 100;
/// The time for them.
const STORM_LIMIT: Duration = Duration::from_secs(600);
/// Bytes of the file that is fetched meanwhile.
const FILE: usize = 100_000;
/// What the processor pushes for an NMI.
const NMI_FRAME: u64 = 5 * 8;
/// The handler of an NMI has fewer instructions.
const NMI_HANDLER: usize = 16;

/// The instructions before which events are injected.
struct Points {
    /// Those that the image must come to, by what they are for.
    required: [(&'static str, BTreeSet<u64>); 5],
    /// A sample of the kernel's other instructions.
    kernel: BTreeSet<u64>,
    /// A sample of the services' instructions.
    services: BTreeSet<u64>,
}

impl Points {
    fn of(kernel: &Code, services: &[Code]) -> Points {
        let fatal = kernel.symbol("trapped_in_kernel");
        let flow = |start| kernel.flow(start, fatal);
        let page = kernel.symbol("hypercall_page");
        let hypercalls = [HYPERCALL, IDLE].into_iter().flat_map(|offset| flow(page + offset));
        let required = [
            ("system call, and the way back", flow(kernel.symbol("system_call_entry"))),
            ("upcall", flow(kernel.symbol("upcall_entry"))),
            ("faults", FAULTS.iter().flat_map(|vector| flow(kernel.symbol("trap_stubs") + 16 * vector)).collect()),
            ("NMI", flow(kernel.symbol("nmi_entry"))),
            ("hypercall and sleep", hypercalls.map(|at| at - page + KERNEL_HYPERCALL_PAGE).collect()),
        ];
        let delicate = kernel.instructions().into_iter().filter(delicate).map(|one| one.ip());
        Points {
            required,
            kernel: sample(kernel, KERNEL_SAMPLE).chain(delicate).collect(),
            services: services.iter().flat_map(|code| sample(code, SERVICE_SAMPLE)).collect(),
        }
    }
}

/// Returns `true` for the instructions that load a control register, a segment register, or the time.
fn delicate(instruction: &Instruction) -> bool {
    let target = instruction.op0_register();
    target.is_cr() || target.is_segment_register() || instruction.mnemonic() == Mnemonic::Rdtsc
}

/// Returns one of `interval` instructions of a program's functions.
fn sample(code: &Code, interval: usize) -> impl Iterator<Item = u64> {
    code.instructions().into_iter().step_by(interval).map(|one| one.ip())
}

/// Injects events into the self-test's image.
struct Campaign {
    machine: Machine,
    kernel: Code,
    /// Instructions before which nothing was injected yet, and those before which everything was.
    open: BTreeSet<u64>,
    reached: BTreeSet<u64>,
    /// The number of injected events.
    events: usize,
}

impl Campaign {
    /// Starts the image, and runs it to the start of the first service. Before that, the kernel has
    /// no descriptor tables of its own.
    fn start() -> Result<(Campaign, Points), BedError> {
        let file = kernel("selftest")?;
        let kernel = Code::read(&file);
        let services = ["prober.elf", "sink.elf"].map(|name| Code::read(&file.with_file_name(name)));
        let points = Points::of(&kernel, &services);
        let sets = points.required.iter().map(|(_, set)| set).chain([&points.kernel, &points.services]);
        let open = sets.flatten().copied().collect();
        let mut machine = Machine::start("injection", &image("selftest")?, &mut |_| {})?;
        let first = BTreeSet::from([kernel.symbol("leave_kernel")]);
        machine.run_to(&first, STEP, &|_| false)?.expect("the image starts a service");
        Ok((Campaign { machine, kernel, open, reached: BTreeSet::new(), events: 0 }, points))
    }

    /// Injects events before each open instruction that the image comes to, until it has done its
    /// work, or has written `quiet` lines without coming to another.
    fn run(&mut self, quiet: usize) -> Result<(), BedError> {
        while !self.open.is_empty() && !self.machine.lines().iter().any(|line| done(line)) {
            let lines = Cell::new(0);
            let over = |line: &str| {
                lines.set(lines.get() + 1);
                done(line) || lines.get() > quiet
            };
            let Some(before) = self.machine.run_to(&self.open, WORK, &over)? else { break };
            if self.inject_all(&before)? {
                assert!(self.open.remove(&before.rip()), "the image stopped at {:#x}", before.rip());
                self.reached.insert(before.rip());
            }
        }
        Ok(())
    }

    /// Lets the image do the rest of its work.
    fn finish(&mut self) -> Result<(), BedError> {
        if !self.machine.lines().iter().any(|line| done(line)) {
            self.machine.run_to(&BTreeSet::new(), WORK, &done)?;
        }
        Ok(())
    }

    /// Injects every event before the instruction at which the image is stopped. Returns `false` if
    /// Xen injects an event there itself, so that no other can be.
    fn inject_all(&mut self, before: &Registers) -> Result<bool, BedError> {
        let Some(entry) = self.inject_fatal(before)? else { return Ok(false) };
        if self.uses_kernel_stack(before) {
            // In the page below the stack, which is never mapped. The processor cannot push the
            // page fault either, and makes it a double fault.
            let stack = self.kernel.symbol("stack_bottom") - 2048;
            self.machine.set_stack(&entry, stack)?;
            self.expect_end(before, "double fault", 8, stack)?;
        }
        self.machine.inject(&entry, Event::Nmi)?;
        self.expect_return(before)?;
        Ok(true)
    }

    /// Injects the fatal events before the instruction at which the image is stopped. Returns the
    /// way into the image there, unless Xen injects an event itself.
    fn inject_fatal(&mut self, before: &Registers) -> Result<Option<Entry>, BedError> {
        let Some(entry) = self.machine.leave_image(before.rip())? else { return Ok(None) };
        self.machine.save()?;
        for (event, name, vector) in
            [(Event::MachineCheck, "machine check", 18), (Event::DoubleFault, "double fault", 8)]
        {
            self.machine.inject(&entry, event)?;
            self.expect_end(before, name, vector, before.rsp())?;
        }
        Ok(Some(entry))
    }

    fn uses_kernel_stack(&self, before: &Registers) -> bool {
        let (ring, at) = (before.cs() & 3, before.rip());
        ring == 0 && at >= self.kernel.symbol("text_start") && self.kernel.instruction(at).is_stack_instruction()
    }

    /// Asserts that the image now ends with a message about `vector`, and goes back to no service.
    /// Then takes the machine back.
    fn expect_end(&mut self, before: &Registers, name: &str, vector: u8, stack: u64) -> Result<(), BedError> {
        let (at, cs) = (before.rip(), before.cs());
        let message =
            format!("fatal: kernel fault: {name} vector={vector} error=0x0 cs={cs:#x} rip={at:#x} rsp={stack:#x} ");
        // The instruction itself may be one of them. It does not run: the event comes before it.
        let returns = ["saved", "leave_kernel"].map(|name| self.kernel.symbol(name));
        let returns = returns.into_iter().filter(|other| *other != at).collect();
        match self.machine.run_to_end(&returns, STEP)? {
            Ending::Crashed(lines) if lines.iter().any(|line| line.contains(&message)) => {}
            other => panic!("a {name} at {at:#x} in ring {}: {other:#x?}, and not {message:?}", cs & 3),
        }
        self.events += 1;
        self.machine.restore()
    }

    /// Asserts that the image handles an NMI now, and goes on with the registers that it had. Injects
    /// the fatal events into the first handlers.
    fn expect_return(&mut self, before: &Registers) -> Result<(), BedError> {
        let at = before.rip();
        let mut now = self.run_to_one(self.kernel.symbol("nmi_entry"))?;
        assert_eq!(now.rsp(), self.kernel.symbol("nmi_stack_top") - NMI_FRAME, "the stack of an NMI at {at:#x}");
        for _ in 0..NMI_HANDLER {
            if self.open.remove(&now.rip()) {
                let entry = self.inject_fatal(&now)?;
                assert!(entry.is_some(), "Xen interrupted an NMI's handler");
                assert_eq!(self.run_to_one(now.rip())?, now);
            }
            now = self.machine.step()?;
            if now.rip() == at {
                break;
            }
        }
        assert_eq!(&now, before, "an NMI at {at:#x} changed a register");
        self.events += 1;
        Ok(())
    }

    fn run_to_one(&mut self, at: u64) -> Result<Registers, BedError> {
        let found = self.machine.run_to(&BTreeSet::from([at]), STEP, &|_| false)?;
        Ok(found.unwrap_or_else(|| panic!("the image does not come to {at:#x}")))
    }
}

/// Returns `true` for the prober's last line.
fn done(line: &str) -> bool {
    line.contains("prober: done:")
}

/// The prober's attempts bring the kernel to each of its entries. Afterwards, all of them must have
/// been contained.
#[test]
fn events_before_each_instruction_of_the_entries() {
    let began = Instant::now();
    let (mut campaign, points) = Campaign::start().unwrap_or_else(|error| panic!("{error}"));
    // A breakpoint makes all code on its page slow. Those to which the image does not come go first.
    campaign.run(QUIET).unwrap_or_else(|error| panic!("{error}"));
    campaign.open.retain(|at| points.required.iter().any(|(_, set)| set.contains(at)));
    campaign.run(usize::MAX).unwrap_or_else(|error| panic!("{error}"));
    for (name, required) in &points.required {
        let missed: Vec<String> = required.intersection(&campaign.open).map(|at| format!("{at:#x}")).collect();
        assert!(missed.is_empty(), "{name}: the image did not come to {missed:?}");
        println!("{name}: {} instructions", required.len());
    }
    for (name, sample, least) in
        [("kernel", &points.kernel, KERNEL_LEAST), ("services", &points.services, SERVICE_LEAST)]
    {
        let reached = sample.intersection(&campaign.reached).count();
        println!("{name}: {reached} of {} instructions", sample.len());
        assert!(reached >= least, "{name}: the image came to {reached} instructions of the sample");
    }
    let loads = |what: &dyn Fn(Register) -> bool| {
        campaign
            .reached
            .iter()
            .filter(|at| points.kernel.contains(at))
            .any(|&at| what(campaign.kernel.instruction(at).op0_register()))
    };
    assert!(loads(&|target| target == Register::CR3), "the image came to no switch of address spaces");
    assert!(loads(&Register::is_segment_register), "the image loaded no segment register");
    campaign.finish().unwrap_or_else(|error| panic!("{error}"));
    let lines = campaign.machine.lines();
    let last =
        lines.iter().find(|line| done(line)).unwrap_or_else(|| panic!("the prober is not done: {:?}", lines.last()));
    assert!(last.ends_with(", 0 breaches"), "{last}");
    assert!(lines.iter().any(|line| line.starts_with("cloister: at ")), "no NMI was reported");
    println!("{} events in {:.1?}", campaign.events, began.elapsed());
}

/// What the test above shows holds for the image that ships: its kernel has the same code.
#[test]
fn the_image_that_ships_has_the_code_that_was_tested() {
    let code = |policy| Code::read(&kernel(policy).unwrap_or_else(|error| panic!("{error}")));
    assert!(code("default").sections() == code("selftest").sections());
}

/// Returns the path of the kernel's ELF file of an image.
fn kernel(policy: &str) -> Result<PathBuf, BedError> {
    Ok(image(policy)?.with_file_name("kernel.elf"))
}

/// Xen injects NMIs at moments of its own choice, into the image that ships. It serves meanwhile.
#[test]
fn a_storm_of_nmis_changes_no_byte() {
    let began = Instant::now();
    let content: Vec<u8> = (0..FILE as u32).map(|number| (number.wrapping_mul(0x9E37_79B9) >> 24) as u8).collect();
    let mut archive = Archive::new(Vec::new());
    archive.file("file", 0o644, &content).expect("in memory");
    let site = tempfile::NamedTempFile::new().expect("file");
    std::fs::write(site.path(), archive.finish().expect("in memory")).expect("write");
    let guest = Guest { ramdisk: Some(site.path().to_owned()), ..guest("default") };
    let bed = serving("storm-of-nmis", &guest);
    let storm = format!("for i in $(seq {STORM}); do xl trigger {} nmi || exit; done", guest.name);
    let fetched = std::thread::scope(|scope| {
        let storm = scope.spawn(|| bed.dom0(&storm, STORM_LIMIT));
        let mut fetched = 0;
        while fetched == 0 || !storm.is_finished() {
            let body = client().get(format!("{}file", bed.url())).call().expect("an answer").body_mut().read_to_vec();
            assert!(body.expect("the whole body") == content, "file {fetched} is wrong");
            fetched += 1;
        }
        let ended = storm.join().expect("the thread").unwrap_or_else(|error| panic!("{error}"));
        assert!(ended.success(), "{}", ended.stdout);
        fetched
    });
    let console = std::fs::read_to_string(bed.guest_log(&guest.name)).expect("console");
    let reports = console.lines().filter(|line| line.starts_with("cloister: at ")).count();
    assert!(reports > 0, "{console}");
    assert!(!console.contains("fatal") && !console.contains("fault:"), "{console}");
    println!("{STORM} NMIs, {reports} reports, {fetched} files in {:.1?}", began.elapsed());
    bed.finish(&[&guest.name]);
}
