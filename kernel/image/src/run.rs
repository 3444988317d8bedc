//! Serves entries from ring 3, and chooses the service that runs next.

use cloister_caps::{EvtchnPort, Operation, ServiceId};
use cloister_kernel_core::events::take_events;
use cloister_kernel_core::run_loop::{self, Cause, Entry, Processor};
use cloister_kernel_core::schedule::{Alarm, Next};
use cloister_kernel_core::speculation::Barriers;
use cloister_kernel_core::tables_hash::{Hex, Step, TablesHash};
use cloister_kernel_core::{FaultAction, Kernel, Outcome, Platform};

use crate::count::{self, Count, count};
use crate::fatal::fatal;
use crate::global::Global;
use crate::hypercall::{self, Shutdown};
use crate::hypercall_page::{self, Xen};
use crate::machine::Machine;
use crate::processor::{self, UPCALL_VECTOR};
use crate::service::Services;
use crate::shared_info::SharedInfo;
use crate::trap_frame::{self, SYSTEM_CALL_VECTOR, TrapFrame, TrapFrames};
use crate::{console, paging, profile, speculation};

/// Holds what the kernel keeps between two entries.
pub struct Run {
    /// Decides what each service may do.
    pub kernel: Kernel<'static>,
    /// Does what was decided.
    pub machine: Machine,
    /// The way into Xen.
    pub xen: Xen,
    /// The shared info page.
    pub shared_info: SharedInfo,
    /// The address spaces of the services.
    pub services: Services,
    /// The registers of the services.
    pub trap_frames: TrapFrames,
    /// The port of the timer.
    pub timer_port: EvtchnPort,
    /// The port of the console, if there is one.
    pub console_port: Option<EvtchnPort>,
    /// The service whose address space and trap frame are in use: the one that ran last.
    pub current: Option<ServiceId>,
    /// Time for which the processor slept, in ns.
    pub idle: u64,
    /// What keeps the processor's predictions and buffers of one service from the next.
    pub barriers: Barriers,
    /// The hash of the capability tables, which an idle processor computes.
    pub tables_hash: TablesHash<'static>,
}

static RUN: Global<Run> = Global::new();

unsafe extern "C" {
    fn leave_kernel(frame: *const TrapFrame) -> !;
}

/// Stores the kernel's state, once.
pub fn install(run: Run) {
    RUN.set(run);
}

/// Loads all programs and runs the first service. Needs the state that [`install`] has stored.
pub fn start() -> ! {
    let first = |run: &mut Run| {
        for service in run.kernel.tables().services().ids() {
            run.services.load(service, run.trap_frames.get_mut(service));
        }
        // No service pays for the loading.
        let now = run.shared_info.now();
        run.kernel.note_idle(now);
        run.resume(now)
    };
    match RUN.with(first) {
        // SAFETY: the frame is a service's, made by `TrapFrame::start` and selected; its address
        // space is in force.
        Some(frame) => unsafe { leave_kernel(frame) },
        None => fatal(format_args!("the kernel's state is not initialised")),
    }
}

/// Serves an entry from ring 3. Returns the trap frame to go on with.
///
/// `entry.s` calls it after saving the trap frame of the service that ran.
#[unsafe(no_mangle)]
extern "C" fn kernel_entered() -> *const TrapFrame {
    match RUN.with(Run::entered) {
        Some(frame) => frame,
        None => fatal(format_args!("the kernel was entered while it ran")),
    }
}

/// Reports an exception in ring 0, or one with a stack of its own, and ends the domain. It is a
/// defect of the kernel or of the machine.
#[unsafe(no_mangle)]
extern "C" fn kernel_faulted(frame: &TrapFrame) -> ! {
    let address = x86_64::registers::control::Cr2::read_raw();
    for caller in paging::callers(frame.rsp()) {
        console::debug_line(format_args!("cloister: kernel fault: called from rip={caller:#x}"));
    }
    fatal(format_args!(
        "kernel fault: {} vector={} error={:#x} cs={:#x} rip={:#x} rsp={:#x} address={address:#x}",
        vector_name(frame.vector()),
        frame.vector(),
        frame.error(),
        frame.cs(),
        frame.rip(),
        frame.rsp()
    ))
}

impl Run {
    /// Serves an entry, and returns the trap frame to go on with.
    ///
    /// After a system call that has its answer, the caller runs on at once. Services that it woke
    /// run when it waits, or when an event or the end of its budget makes the kernel choose again.
    fn entered(&mut self) -> *const TrapFrame {
        let Some(service) = self.current else {
            fatal(format_args!("entered from ring 3 although no service is running"))
        };
        let vector = self.trap_frames.get_mut(service).vector();
        count(if vector == SYSTEM_CALL_VECTOR { Count::SystemCall } else { Count::Interrupt });
        if vector == SYSTEM_CALL_VECTOR
            && let Some(frame) = self.system_call(service)
        {
            return frame;
        }
        let now = self.shared_info.now();
        let entry = if vector == SYSTEM_CALL_VECTOR {
            Entry::SystemCall
        } else if vector == u64::from(UPCALL_VECTOR) {
            profile::sample(service, self.trap_frames.get_mut(service).rip());
            Entry::Interrupt
        } else {
            self.fault(service);
            Entry::Fault
        };
        let now = run_loop::enter(self, service, entry, now);
        self.resume(now)
    }

    /// Executes a system call. Returns the caller's trap frame if it has its answer.
    fn system_call(&mut self, service: ServiceId) -> Option<*const TrapFrame> {
        let frame = self.trap_frames.get_mut(service);
        let (number, arguments) = frame.system_call();
        match self.kernel.system_call(&mut self.machine, service, number, arguments) {
            Outcome::Answer(answer) => {
                frame.answer(answer.status as u64, answer.words);
                Some(&raw const *frame)
            }
            Outcome::Wait => {
                count(Count::Wait);
                None
            }
            Outcome::PowerOff => self.shut_down(service, Shutdown::PowerOff, Operation::PowerOff),
            Outcome::Reboot => self.shut_down(service, Shutdown::Reboot, Operation::PowerReboot),
        }
    }

    /// Prints the report and ends the domain for `service`.
    fn shut_down(&mut self, service: ServiceId, reason: Shutdown, operation: Operation) -> ! {
        let name = self.kernel.tables().service_name(service);
        // The report needs most of the room.
        console::drain();
        self.report();
        console::line(format_args!("cloister: power {} by {name}", operation.name()));
        console::drain();
        hypercall::shutdown(self.xen, reason);
        fatal(format_args!("Xen did not shut the domain down"))
    }

    /// Reports an exception in a service, and applies its restart rule.
    fn fault(&mut self, service: ServiceId) {
        let frame = self.trap_frames.get_mut(service);
        let name = self.kernel.tables().service_name(service);
        let address = x86_64::registers::control::Cr2::read_raw();
        let (rip, rsp, error) = (frame.rip(), frame.rsp(), frame.error());
        let what = vector_name(frame.vector());
        if frame.vector() == 14 {
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
        match self.kernel.fault(&mut self.machine, service) {
            FaultAction::Restart(count) => {
                console::line(format_args!("restart: {name} number {count}"));
                self.services.restart(service, self.kernel.placements(), frame);
                // A restart must clear what a switch to another service clears. Without a current
                // service, the next `resume` switches.
                self.current = None;
            }
            FaultAction::StopService => {}
            FaultAction::StopImage => {
                fatal(format_args!("{name} faulted, and its restart rule stops the image (rip={rip:#x})"))
            }
        }
    }

    /// Prints the processor time and the rights that each service has used.
    fn report(&mut self) {
        let now = self.shared_info.now();
        console::line(format_args!("cloister: at {} ms, {} refusals", now / 1_000_000, self.kernel.refusals()));
        for service in self.kernel.tables().services().ids() {
            let (used, state) = (self.kernel.cpu_time(service) / 1_000, self.kernel.state(service));
            console::line(format_args!("cloister: {} {used} us {state}", self.kernel.tables().service_name(service)));
        }
        console::line(format_args!("cloister: idle {} us", self.idle / 1_000));
        // The image's own time, and that in which other domains ran in its place.
        let own = self.shared_info.nanoseconds(count::ticks_outside_hypercalls(processor::counter()));
        let counts = count::counts().chain([("own-ns", own.saturating_sub(self.idle))]);
        counts.for_each(|(name, count)| console::line(format_args!("cloister: count {name} {count}")));
        self.kernel.used_rights().for_each(|used| console::line(format_args!("{used}")));
        profile::print(&self.kernel.tables());
        console::counts();
    }

    /// Chooses the service that runs at `now`, and returns its trap frame.
    fn resume(&mut self, now: u64) -> *const TrapFrame {
        match run_loop::resume(self, now) {
            Some(service) => &raw const *self.trap_frames.get_mut(service),
            None => fatal(format_args!("no interrupt will ever come")),
        }
    }

    /// Hashes a part of the capability tables if it is time, and prints the hash when it is known.
    /// Returns `true` if it has worked.
    fn hash_tables(&mut self, now: u64) -> bool {
        match self.tables_hash.step(now) {
            Step::Nothing => return false,
            Step::Part => {}
            Step::Last(hash) => console::line(format_args!("cloister: tables SHA-256 {}", Hex(hash))),
        }
        true
    }

    /// Sets the timer for the next choice, unless it fires early enough.
    fn set_timer(&mut self, next: &Next, now: u64) {
        if let Some(at) = self.kernel.arm(next, now) {
            hypercall::set_timer(self.xen, at);
        }
    }
}

impl Processor for Run {
    fn next(&mut self, now: u64) -> Next {
        if trap_frame::take_nmi() {
            self.report();
        }
        let mut next = self.kernel.next(now);
        if next.service.is_none() {
            next.deadline = next.deadline.earlier(Alarm { at: self.tables_hash.due(), owner: None });
        }
        next
    }

    fn arm(&mut self, next: &Next, now: u64) {
        if let Some(sample) = profile::until_sample(next, now) {
            self.set_timer(&sample, now);
        }
        self.set_timer(next, now);
    }

    fn sleep(&mut self, asleep: u64) -> Option<u64> {
        if self.kernel.has_revocations(asleep) {
            self.kernel.retry_revocations(&mut self.machine);
        }
        if self.hash_tables(asleep) {
            let now = self.shared_info.now();
            self.kernel.note_idle(now);
            return Some(now);
        }
        count(Count::Sleep);
        hypercall_page::sleep(self.xen);
        let now = self.shared_info.now();
        self.idle += now.saturating_sub(asleep);
        self.kernel.note_idle(now);
        Some(now)
    }

    fn take_events(&mut self) -> Cause {
        let mut cause = Cause::default();
        let Run { kernel, machine, shared_info, timer_port, console_port, .. } = self;
        let shared_info = *shared_info;
        take_events(shared_info, |port| {
            count(Count::Event);
            cause.note(if port == *timer_port {
                machine.unmask(port);
                kernel.timer_fired()
            } else if Some(port) == *console_port {
                console::handle_event(shared_info.now());
                machine.unmask(port);
                None
            } else {
                // A port that belongs to no rule stays masked.
                kernel.event(port)
            });
        });
        cause
    }

    fn charge_entry(&mut self, service: ServiceId, payer: ServiceId, now: u64) {
        self.kernel.charge_entry(service, payer, now);
    }

    fn charge_restart(&mut self, service: ServiceId) -> u64 {
        let now = self.shared_info.now();
        self.kernel.charge_restart(service, now);
        now
    }

    /// Gives the service the answer to its `wait`, and puts its address space in force.
    fn switch_to(&mut self, service: ServiceId, now: u64) {
        if let Some(answer) = self.kernel.take_answer(service, now) {
            self.trap_frames.get_mut(service).answer(answer.status as u64, answer.words);
        }
        if self.current != Some(service) {
            count(Count::Switch);
            paging::switch(self.services.address_space(service));
            self.trap_frames.select(service);
            self.current = Some(service);
            if self.barriers.any() {
                speculation::raise(self.barriers);
            }
        }
        self.kernel.charge_kernel_work(service, || self.shared_info.now());
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
