//! Interrupts with a stack of their own, on real Xen: the processor delivers each of them before
//! every instruction of the kernel's entries and exits, and before some elsewhere.
//!
//! An NMI changes no register of what it interrupts. A double fault and a machine check stop the
//! image with a message that names the instruction.
#![forbid(unsafe_code)]

#[path = "support/code.rs"]
mod code;

use std::collections::BTreeSet;
use std::time::{Duration, Instant};

use cloister_bed::gdb::Registers;
use cloister_bed::inject::{Ending, Entry, Event, Machine};
use cloister_bed::{BedError, image};
use cloister_caps::abi::KERNEL_HYPERCALL_PAGE;
use code::Code;
use iced_x86::{Instruction, Mnemonic};

/// The time for a step of the image's work, and for the way from a fatal event to its end.
const STEP: Duration = Duration::from_secs(30);
/// The time after which an image that has nothing to do reaches no other instruction.
const QUIET: Duration = Duration::from_secs(3);
/// The vectors of faults that the prober causes: divide error, invalid instruction, general
/// protection, page fault.
const FAULTS: [u64; 4] = [0, 6, 13, 14];
/// Offsets in the hypercall page (`kernel/image/src/entry.s`): `vmmcall`, and the code that sleeps.
const HYPERCALL: u64 = 0;
const IDLE: u64 = 8;
/// One of so many instructions is taken from the kernel's functions and from a service's.
const KERNEL_SAMPLE: usize = 100;
const SERVICE_SAMPLE: usize = 300;
/// The number of sampled instructions that the self-test must come to: half of those that it came to
/// when this was written.
const KERNEL_LEAST: usize = 20;
const SERVICE_LEAST: usize = 4;
/// What the processor pushes for an NMI.
const NMI_FRAME: u64 = 5 * 8;
/// The handler of an NMI has fewer instructions.
const NMI_HANDLER: usize = 16;

/// Injects events into one image.
struct Campaign {
    machine: Machine,
    kernel: Code,
    /// Instructions before which nothing was injected yet.
    open: BTreeSet<u64>,
    /// The number of injected events.
    events: usize,
}

impl Campaign {
    /// Starts an image, and runs it to the start of the first service. Before that, the kernel has
    /// no descriptor tables of its own.
    fn start(policy: &str, points: &dyn Fn(&Code) -> BTreeSet<u64>) -> Result<Campaign, BedError> {
        let elf = image(policy)?;
        let kernel = Code::read(&elf.with_file_name("kernel.elf"));
        let mut machine = Machine::start(&format!("injection-{policy}"), &elf, &mut |_| {})?;
        let first = BTreeSet::from([kernel.symbol("leave_kernel")]);
        machine.run_to(&first, STEP, &|_| false)?.expect("the image starts a service");
        Ok(Campaign { open: points(&kernel), machine, kernel, events: 0 })
    }

    /// Injects events before each instruction that the image comes to, until it has written a line
    /// for which `over` is `true`, or comes to no other instruction within `limit`.
    fn run(&mut self, limit: Duration, over: &dyn Fn(&str) -> bool) -> Result<(), BedError> {
        while !self.machine.lines().iter().any(|line| over(line)) {
            let Some(before) = self.machine.run_to(&self.open, limit, over)? else { return Ok(()) };
            if self.inject_all(&before)? {
                assert!(self.open.remove(&before.rip()), "the image stopped at {:#x}", before.rip());
            }
        }
        Ok(())
    }

    /// Injects every event before the instruction at which the image is stopped. Returns `false` if
    /// Xen injects an event there itself, so that no other can be.
    fn inject_all(&mut self, before: &Registers) -> Result<bool, BedError> {
        let Some(entry) = self.machine.leave_image(before.rip())? else { return Ok(false) };
        self.machine.save()?;
        for (event, name, vector) in
            [(Event::MachineCheck, "machine check", 18), (Event::DoubleFault, "double fault", 8)]
        {
            self.machine.inject(&entry, event)?;
            self.expect_end(before, name, vector, before.rsp())?;
        }
        if self.uses_kernel_stack(before) {
            // In the page below the stack, which is never mapped. The processor cannot push the
            // page fault either, and makes it a double fault.
            let stack = self.kernel.symbol("stack_bottom") - 2048;
            self.machine.set_stack(&entry, stack)?;
            self.expect_end(before, "double fault", 8, stack)?;
        }
        self.expect_return(before, &entry)?;
        Ok(true)
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

    /// Injects an NMI, and asserts that the image goes on with the registers that it had.
    fn expect_return(&mut self, before: &Registers, entry: &Entry) -> Result<(), BedError> {
        let at = before.rip();
        self.machine.inject(entry, Event::Nmi)?;
        let handler = BTreeSet::from([self.kernel.symbol("nmi_entry")]);
        let found = self.machine.run_to(&handler, STEP, &|_| false)?;
        let mut now = found.unwrap_or_else(|| panic!("an NMI at {at:#x} does not come to its handler"));
        assert_eq!(now.rsp(), self.kernel.symbol("nmi_stack_top") - NMI_FRAME, "the stack of an NMI at {at:#x}");
        for _ in 0..NMI_HANDLER {
            now = self.machine.step()?;
            if now.rip() == at {
                break;
            }
        }
        assert_eq!(&now, before, "an NMI at {at:#x} changed a register");
        self.events += 1;
        Ok(())
    }

    /// Prints how many of `points` the image came to, and returns that number.
    fn reached(&self, name: &str, points: &BTreeSet<u64>) -> usize {
        let count = points.difference(&self.open).count();
        println!("{name}: {count} of {} instructions", points.len());
        count
    }

    /// Asserts that the image came to all of `points`.
    fn assert_all_reached(&self, name: &str, points: &BTreeSet<u64>) {
        let missed: Vec<String> = points.intersection(&self.open).map(|at| format!("{at:#x}")).collect();
        assert_eq!(self.reached(name, points), points.len(), "{name}: not {missed:?}");
    }

    /// Asserts that the NMIs were reported, and that nothing else was wrong.
    fn assert_sound(&self) {
        let lines = self.machine.lines();
        let (report, fatal) = ("cloister: at ", "cloister: fatal: ");
        assert!(lines.iter().any(|line| line.starts_with(report)), "no report after {} events", self.events);
        let others: Vec<&String> = lines
            .iter()
            .filter(|line| line.contains(fatal) && !line.contains("machine check") && !line.contains("double fault"))
            .collect();
        assert!(others.is_empty(), "{others:#?}");
        println!("{} events", self.events);
    }
}

/// Returns the instructions of the kernel's entries, from each until it calls Rust code, and from
/// there back to ring 3.
fn entries(kernel: &Code) -> BTreeSet<u64> {
    let stubs = FAULTS.map(|vector| kernel.symbol("trap_stubs") + 16 * vector);
    stubs.into_iter().chain([kernel.symbol("upcall_entry")]).flat_map(|start| entry(kernel, start)).collect()
}

/// Returns the instructions of the system call, in the same way.
fn system_call(kernel: &Code) -> BTreeSet<u64> {
    entry(kernel, kernel.symbol("system_call_entry"))
}

fn entry(kernel: &Code, start: u64) -> BTreeSet<u64> {
    kernel.flow(start, kernel.symbol("trapped_in_kernel"))
}

/// Returns the instructions that call Xen, and those that sleep until an event: where the kernel
/// runs them.
fn hypercall_page(kernel: &Code) -> BTreeSet<u64> {
    let page = kernel.symbol("hypercall_page");
    let flow = [HYPERCALL, IDLE].into_iter().flat_map(|offset| entry(kernel, page + offset));
    flow.map(|at| at - page + KERNEL_HYPERCALL_PAGE).collect()
}

/// Returns the instructions that load a control register, a segment register, or the time.
fn delicate(kernel: &Code) -> BTreeSet<u64> {
    let delicate = |one: &Instruction| {
        let target = one.op0_register();
        target.is_cr() || target.is_segment_register() || one.mnemonic() == Mnemonic::Rdtsc
    };
    kernel.instructions().into_iter().filter(delicate).map(|one| one.ip()).collect()
}

/// Returns one of `interval` instructions of a program's functions.
fn sample(code: &Code, interval: usize) -> BTreeSet<u64> {
    code.instructions().iter().step_by(interval).map(Instruction::ip).collect()
}

/// The prober's attempts bring the kernel to each of its entries. All of them must be contained.
#[test]
fn events_at_each_instruction_of_the_self_test() {
    let began = Instant::now();
    let elf = image("selftest").unwrap_or_else(|error| panic!("{error}"));
    let services: BTreeSet<u64> = ["prober.elf", "sink.elf"]
        .iter()
        .flat_map(|name| sample(&Code::read(&elf.with_file_name(name)), SERVICE_SAMPLE))
        .collect();
    let sets = |kernel: &Code| {
        let kernels = sample(kernel, KERNEL_SAMPLE).into_iter().chain(delicate(kernel)).collect();
        [entries(kernel), system_call(kernel), hypercall_page(kernel), kernels, services.clone()]
    };
    let points = |kernel: &Code| sets(kernel).into_iter().flatten().collect();
    let mut campaign = Campaign::start("selftest", &points).unwrap_or_else(|error| panic!("{error}"));
    campaign.run(STEP, &|line| line.contains("prober: done:")).unwrap_or_else(|error| panic!("{error}"));
    let [entries, system_call, page, kernel, service] = sets(&campaign.kernel);
    campaign.assert_all_reached("entries", &entries);
    campaign.assert_all_reached("system call", &system_call);
    campaign.assert_all_reached("hypercalls and sleep", &page);
    assert!(campaign.reached("kernel", &kernel) >= KERNEL_LEAST);
    assert!(campaign.reached("services", &service) >= SERVICE_LEAST);
    campaign.assert_sound();
    let lines = campaign.machine.lines();
    assert!(lines.iter().any(|line| line.contains("prober: done:") && line.ends_with(", 0 breaches")), "{lines:#?}");
    println!("{:.1?}", began.elapsed());
}

/// The image that ships starts its services, which then wait for a network that does not come.
#[test]
fn events_at_each_instruction_of_a_system_call_and_of_sleep_in_the_image_that_ships() {
    let began = Instant::now();
    let points = |kernel: &Code| [system_call(kernel), hypercall_page(kernel)].into_iter().flatten().collect();
    let mut campaign = Campaign::start("default", &points).unwrap_or_else(|error| panic!("{error}"));
    campaign.run(QUIET, &|_| false).unwrap_or_else(|error| panic!("{error}"));
    campaign.assert_all_reached("system call", &system_call(&campaign.kernel));
    campaign.assert_all_reached("hypercalls and sleep", &hypercall_page(&campaign.kernel));
    campaign.assert_sound();
    println!("{:.1?}", began.elapsed());
}
