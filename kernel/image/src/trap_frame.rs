//! Describes the trap frames: the registers of each service while it does not run, where `entry.s`
//! saves them.

use core::sync::atomic::{AtomicU8, Ordering};

use cloister_caps::ServiceId;
use cloister_caps::tables::{MAX_SERVICES, PerService, Service, Tables};

use crate::processor;

/// Holds the registers of a service, in the order in which `entry.s` and the processor push them.
///
/// # Holding one proves
/// Leaving the kernel with these registers goes to ring 3. At an interrupt or a fault the processor
/// pushes the segments of ring 3, where it was. At a system call, `system_call_entry` of `entry.s`
/// pushes [`USER_CODE`] and [`USER_DATA`]. Before the first entry they are those of
/// [`TrapFrame::NOT_STARTED`] or of [`TrapFrame::start`]. Nothing else sets them, nor the flags.
#[repr(C, align(16))]
#[derive(Clone, Copy)]
pub struct TrapFrame {
    r15: u64,
    r14: u64,
    r13: u64,
    r12: u64,
    rbp: u64,
    rbx: u64,
    /// After a system call, RFLAGS.
    r11: u64,
    /// After a system call, RIP.
    rcx: u64,
    /// RDI, RSI, RDX, R10, R8, R9: the arguments of a system call. The first two take its answer.
    arguments: [u64; 6],
    /// The number of a system call, then its status.
    rax: u64,
    /// The interrupt vector of the entry, or [`SYSTEM_CALL_VECTOR`].
    vector: u64,
    /// The processor's error code, or 0 if the vector has none.
    error: u64,
    rip: u64,
    cs: u64,
    rflags: u64,
    rsp: u64,
    ss: u64,
}

static_assertions::const_assert_eq!(size_of::<TrapFrame>(), 22 * 8);

/// The selector of ring 3's code, as `entry.s` pushes it for a system call.
const USER_CODE: u64 = 0x23;
/// The selector of ring 3's stack, as `entry.s` pushes it for a system call.
const USER_DATA: u64 = 0x1B;
/// Interrupts are on (bit 9). Bit 1 is always set.
const USER_RFLAGS: u64 = 0x202;

/// The number that `entry.s` pushes as the vector of a system call.
pub const SYSTEM_CALL_VECTOR: u64 = 0x100;

/// Holds a trap frame. Below it is room for what the processor pushes if an upcall comes while the
/// stack pointer is in the frame (see `upcall_entry`).
#[repr(C, align(16))]
#[derive(Clone, Copy)]
struct SavedFrame {
    room_below: [u64; 8],
    frame: TrapFrame,
}

static mut FRAMES: PerService<SavedFrame> =
    PerService::new([SavedFrame { room_below: [0; 8], frame: TrapFrame::ZERO }; MAX_SERVICES]);

/// The address past the trap frame of the service that runs.
#[unsafe(no_mangle)]
static mut FRAME_TOP: u64 = 0;
/// Holds the service's RSP during the entry of a system call.
#[unsafe(no_mangle)]
static mut SCRATCH: u64 = 0;
/// Not 0 if a non-maskable interrupt came.
#[unsafe(no_mangle)]
static mut NMI_SEEN: u8 = 0;

impl TrapFrame {
    /// What the memory of the frames holds until [`TrapFrames::new`].
    const ZERO: TrapFrame = TrapFrame {
        r15: 0,
        r14: 0,
        r13: 0,
        r12: 0,
        rbp: 0,
        rbx: 0,
        r11: 0,
        rcx: 0,
        arguments: [0; 6],
        rax: 0,
        vector: 0,
        error: 0,
        rip: 0,
        cs: 0,
        rflags: 0,
        rsp: 0,
        ss: 0,
    };

    /// The frame of a service that has not started: ring 3, with interrupts on and all other
    /// registers 0.
    const NOT_STARTED: TrapFrame = TrapFrame { cs: USER_CODE, rflags: USER_RFLAGS, ss: USER_DATA, ..TrapFrame::ZERO };

    /// Returns the frame of a service that starts at its entry in ring 3, with interrupts on and
    /// all other registers 0.
    pub fn start(tables: &Tables<'_>, service: ServiceId) -> TrapFrame {
        let Service { entry, stack_top, .. } = tables.service(service);
        TrapFrame { rip: entry, rsp: stack_top, ..TrapFrame::NOT_STARTED }
    }

    /// Returns the interrupt vector of the entry, or [`SYSTEM_CALL_VECTOR`].
    pub fn vector(&self) -> u64 {
        self.vector
    }

    /// Returns the processor's error code, or 0 if the vector has none.
    pub fn error(&self) -> u64 {
        self.error
    }

    /// Returns the instruction pointer.
    pub fn rip(&self) -> u64 {
        self.rip
    }

    /// Returns the stack pointer.
    pub fn rsp(&self) -> u64 {
        self.rsp
    }

    /// Returns the code segment.
    pub fn cs(&self) -> u64 {
        self.cs
    }

    /// Returns the number of a system call, and its arguments in the order of the registers.
    pub fn system_call(&self) -> (u64, &[u64; 6]) {
        (self.rax, &self.arguments)
    }

    /// Stores the answer to a system call, and clears every other register that a call may change.
    pub fn answer(&mut self, status: u64, words: [u64; 2]) {
        self.rax = status;
        self.arguments = [words[0], words[1], 0, 0, 0, 0];
        [self.rcx, self.r11] = [0; 2];
    }
}

/// Gives access to the trap frames of all services. It does not contain them: they would lie on the
/// stack while the kernel's state is made.
///
/// # Holding one proves
/// Only the holder refers to trap frames, while the kernel runs. Each of them leads to ring 3.
pub struct TrapFrames(());

impl TrapFrames {
    /// Creates the token, and makes each frame one that leads to ring 3.
    ///
    /// # Safety
    /// This is called once.
    pub unsafe fn new() -> TrapFrames {
        let mut frames = TrapFrames(());
        frames.all().iter_mut().for_each(|saved| saved.frame = TrapFrame::NOT_STARTED);
        frames
    }

    /// Returns all trap frames.
    fn all(&mut self) -> &mut PerService<SavedFrame> {
        let frames = &raw mut FRAMES;
        // SAFETY: the reference lasts no longer than the borrow of the only token.
        unsafe { &mut *frames }
    }

    /// Returns the trap frame of a service.
    pub fn get_mut(&mut self, service: ServiceId) -> &mut TrapFrame {
        &mut self.all()[service].frame
    }

    /// Makes the frame of `service` the one into which the next entry is saved.
    ///
    /// Clears the registers that no frame holds, so that the service sees nothing of the one before
    /// it.
    pub fn select(&mut self, service: ServiceId) {
        let top = (&raw mut *self.get_mut(service)).wrapping_add(1) as u64;
        processor::clear_segments();
        // SAFETY: `entry.s` and the processor write to the frame at the next entry from ring 3.
        // Then the kernel does not run, so no borrow of the token lasts.
        unsafe {
            (&raw mut FRAME_TOP).write(top);
            processor::set_frame(top);
        }
    }
}

/// Returns `true` if a non-maskable interrupt came since the last call.
pub fn take_nmi() -> bool {
    // SAFETY: a byte that only `nmi_entry` sets; the exchange is one access that no interrupt
    // splits.
    let seen = unsafe { AtomicU8::from_ptr(&raw mut NMI_SEEN) };
    seen.swap(0, Ordering::Relaxed) != 0
}
