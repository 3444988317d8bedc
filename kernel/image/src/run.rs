//! The kernel while it runs: entries, and the choice of who goes on.

use cloister_caps::tables::MAX_SERVICES;
use cloister_caps::{EvtchnPort, Operation, Status};
#[cfg(feature = "profile")]
use cloister_kernel_core::schedule::Alarm;
use cloister_kernel_core::schedule::Next;
use cloister_kernel_core::{Accounting, Kernel, Outcome, Platform, Verdict};

use crate::context::{self, Frame, SYSTEM_CALL};
use crate::count::{Count, count, counts};
use crate::fatal::fatal;
use crate::global::Global;
use crate::hypercall::{self, Shutdown};
use crate::machine::Machine;
use crate::processor::{self, UPCALL_VECTOR};
use crate::service::Services;
use crate::{console, paging, xen};

/// Everything that the kernel keeps between two entries.
pub struct Run {
    /// Who may do what.
    pub kernel: Kernel<'static>,
    /// What it is done with.
    pub machine: Machine,
    /// Address spaces.
    pub services: Services,
    /// The port of the timer.
    pub timer_port: EvtchnPort,
    /// The port of the console, if there is one.
    pub console_port: Option<EvtchnPort>,
    /// Services that sleep in `wait` and are owed its answer.
    pub waiting: [bool; MAX_SERVICES],
    /// The service that ran last.
    pub current: Option<u8>,
    /// Who pays for the processor's time.
    pub accounting: Accounting,
    /// How long nothing was to be done, in ns.
    pub idle: u64,
}

static RUN: Global<Run> = Global::new();

unsafe extern "C" {
    fn leave_kernel(frame: *const Frame) -> !;
}

/// Keeps what the kernel is to work with.
pub fn keep(run: Run) {
    RUN.set(run);
}

/// Starts the services, on what is kept. Does not come back.
pub fn start() -> ! {
    let frame = RUN.with(|run| run.resume(xen::now())).flatten();
    match frame {
        // SAFETY: the frame is a service's, made by `Frame::start` and selected; its address space is in force.
        Some(frame) => unsafe { leave_kernel(frame) },
        None => fatal(format_args!("there is nothing to run")),
    }
}

/// Every entry from ring 3: `entry.s` calls it when it has saved the frame of the service that ran, and goes on with the
/// one it answers.
#[unsafe(no_mangle)]
extern "C" fn kernel_entered() -> *const Frame {
    match RUN.with(Run::entered).flatten() {
        Some(frame) => frame,
        None => fatal(format_args!("the kernel was entered while it ran")),
    }
}

/// A fault in ring 0, or one that has a stack of its own wherever it comes: a defect of the kernel, or of the machine.
#[unsafe(no_mangle)]
extern "C" fn kernel_faulted(frame: &Frame) -> ! {
    let address = x86_64::registers::control::Cr2::read_raw();
    for caller in paging::callers(frame.rsp) {
        console::debug_line(format_args!("cloister: kernel fault: called from rip={caller:#x}"));
    }
    fatal(format_args!(
        "kernel fault: {} vector={} error={:#x} cs={:#x} rip={:#x} rsp={:#x} address={address:#x}",
        vector_name(frame.vector),
        frame.vector,
        frame.error,
        frame.cs,
        frame.rip,
        frame.rsp
    ))
}

impl Run {
    /// Serves an entry, and answers the frame of the service to go on with. The one that ran goes on at once when it has its
    /// answer: an invocation wakes others, but they run when it waits, or when an event or its budget's end brings the kernel
    /// to choose again.
    fn entered(&mut self) -> Option<*const Frame> {
        let Some((service, frame)) = self.current.and_then(|service| Some((service, context::frame(service)?))) else {
            fatal(format_args!("an entry from ring 3, where no service runs"))
        };
        count(if frame.vector == SYSTEM_CALL { Count::SystemCall } else { Count::Interrupt });
        if frame.vector == SYSTEM_CALL && self.system_call(service, frame) {
            return Some(&raw const *frame);
        }
        let mut now = xen::now();
        let interrupted = frame.vector == u64::from(UPCALL_VECTOR);
        let faulted = !interrupted && frame.vector != SYSTEM_CALL;
        if interrupted {
            #[cfg(feature = "profile")]
            crate::profile::sample(service, frame.rip);
        } else if faulted {
            let frame = *frame;
            self.fault(service, &frame);
        }
        let cause = self.take_events().filter(|_| interrupted);
        self.accounting.entered(&mut self.kernel.scheduler, service, cause.unwrap_or(service), now);
        if faulted {
            now = xen::now();
            self.accounting.restarted(&mut self.kernel.scheduler, service, now);
        }
        self.resume(now)
    }

    /// Answers whether the service has its answer.
    fn system_call(&mut self, service: u8, frame: &mut Frame) -> bool {
        match self.kernel.system_call(&mut self.machine, service, frame.rax, &frame.arguments) {
            Outcome::Answer(answer) => {
                frame.answer(answer.status as u64, answer.words);
                true
            }
            Outcome::Wait => {
                count(Count::Wait);
                self.waiting[usize::from(service)] = true;
                false
            }
            Outcome::PowerOff => self.end(service, Shutdown::PowerOff, Operation::PowerOff),
            Outcome::Reboot => self.end(service, Shutdown::Reboot, Operation::PowerReboot),
        }
    }

    fn end(&mut self, service: u8, reason: Shutdown, operation: Operation) -> ! {
        let name = self.kernel.tables().service_name(service);
        self.report();
        console::line(format_args!("cloister: power {} by {name}", operation.name()));
        console::drain();
        hypercall::shutdown(reason);
        fatal(format_args!("Xen did not shut the domain down"))
    }

    fn fault(&mut self, service: u8, frame: &Frame) {
        let name = self.kernel.tables().service_name(service);
        let address = x86_64::registers::control::Cr2::read_raw();
        let (rip, rsp, error) = (frame.rip, frame.rsp, frame.error);
        let what = vector_name(frame.vector);
        if frame.vector == 14 {
            let how = if error & 16 != 0 {
                "executing"
            } else if error & 2 != 0 {
                "writing"
            } else {
                "reading"
            };
            console::line(format_args!(
                "fault: {name} {what} {how} {address:#x} rip={rip:#x} rsp={rsp:#x} error={error:#x}"
            ));
        } else {
            console::line(format_args!("fault: {name} {what} rip={rip:#x} rsp={rsp:#x} error={error:#x}"));
        }
        match self.kernel.fault(service) {
            Verdict::Restart(count) => {
                console::line(format_args!("restart: {name} number {count}"));
                self.services.clear_own(service, self.kernel.places());
                self.services.load(service);
                self.waiting[usize::from(service)] = false;
                // What a change of services clears, a restart clears too.
                self.current = None;
            }
            Verdict::StopService => console::line(format_args!("stopped: {name}: its restart rule allows no more")),
            Verdict::StopImage => {
                fatal(format_args!("{name} faulted, and its restart rule stops the image (rip={rip:#x})"))
            }
        }
    }

    /// Takes the events that are pending. Returns the service that the first of them is for: one interrupt brings them all,
    /// and it would have come for that service alone.
    fn take_events(&mut self) -> Option<u8> {
        let Run { kernel, machine, accounting, timer_port, console_port, .. } = self;
        let mut cause = None;
        xen::take_events(|port| {
            count(Count::Event);
            let owner = if port == *timer_port {
                machine.unmask(port);
                accounting.timer_fired()
            } else if Some(port) == *console_port {
                console::event();
                machine.unmask(port);
                None
            } else {
                // A port of nobody stays masked.
                kernel.event(port)
            };
            cause = cause.or(owner);
        });
        cause
    }

    /// Says what each service has used, of the processor and of its rights, on the console.
    fn report(&mut self) {
        let now = xen::now();
        console::line(format_args!("cloister: at {} ms, {} refusals", now / 1_000_000, self.kernel.refusals()));
        for (index, service) in self.kernel.tables().services().iter().enumerate() {
            let used = self.kernel.scheduler.total(index as u8) / 1_000;
            let state = self.kernel.scheduler.state(index as u8);
            console::line(format_args!("cloister: {} {used} us {state:?}", self.kernel.tables().name(service.name)));
        }
        console::line(format_args!("cloister: idle {} us", self.idle / 1_000));
        counts(self.idle).for_each(|(name, count)| console::line(format_args!("cloister: count {name} {count}")));
        self.kernel.uses().for_each(|used| console::line(format_args!("{used}")));
        #[cfg(feature = "profile")]
        crate::profile::print(|service| self.kernel.tables().service_name(service));
    }

    /// Chooses a service at `now` and makes everything ready for it; sleeps while there is none. Answers its frame.
    fn resume(&mut self, mut now: u64) -> Option<*const Frame> {
        loop {
            if context::take_nmi() {
                self.report();
            }
            let next = self.kernel.next(now);
            #[cfg(feature = "profile")]
            if next.service.is_some() {
                self.arm(&Next { budget: Alarm { at: crate::profile::next(now), owner: next.service }, ..next }, now);
            }
            self.arm(&next, now);
            let Some(service) = next.service else {
                count(Count::Sleep);
                processor::sleep();
                let asleep = core::mem::replace(&mut now, xen::now());
                self.idle += now.saturating_sub(asleep);
                self.accounting.slept(now);
                self.take_events();
                continue;
            };
            let frame = context::frame(service)?;
            if core::mem::take(&mut self.waiting[usize::from(service)]) {
                let answer = self.kernel.awake(service, now);
                frame.answer(Status::Done as u64, answer.words);
            }
            if self.current != Some(service) {
                count(Count::Switch);
                paging::switch(self.services.root(service)?);
                context::select(frame);
                self.current = Some(service);
            }
            self.accounting.resumed(&mut self.kernel.scheduler, service, xen::now);
            return Some(&raw const *frame);
        }
    }

    fn arm(&mut self, next: &Next, now: u64) {
        if let Some(at) = self.accounting.arm(next, now) {
            hypercall::set_timer(at);
        }
    }
}

fn vector_name(vector: u64) -> &'static str {
    match vector {
        0 => "divide error",
        1 => "debug trap",
        3 => "breakpoint",
        4 => "overflow",
        5 => "bound range",
        6 => "invalid instruction",
        7 => "FPU use",
        8 => "double fault",
        10 => "invalid TSS",
        11 => "segment not present",
        12 => "stack fault",
        13 => "general protection",
        14 => "page fault",
        16 => "x87 fault",
        17 => "alignment check",
        18 => "machine check",
        19 => "SIMD fault",
        _ => "unknown trap",
    }
}
