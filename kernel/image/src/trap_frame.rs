//! The saved state of services, where `entry.s` puts it.

use cloister_caps::tables::MAX_SERVICES;

/// The registers of a service, in the order in which `entry.s` and the processor push them.
#[repr(C, align(16))]
#[derive(Clone, Copy)]
pub struct TrapFrame {
    r15: u64,
    r14: u64,
    r13: u64,
    r12: u64,
    rbp: u64,
    rbx: u64,
    /// R11; a system call leaves RFLAGS there.
    r11: u64,
    /// RCX; a system call leaves RIP there.
    rcx: u64,
    /// RDI, RSI, RDX, R10, R8, R9: the arguments of a system call, and in the first two its answer.
    pub arguments: [u64; 6],
    /// RAX: the number of the system call, and the status.
    pub rax: u64,
    /// What brought the service into the kernel.
    pub vector: u64,
    /// The processor's error code, if the vector has one.
    pub error: u64,
    /// Where the service goes on.
    pub rip: u64,
    /// Its code segment.
    pub cs: u64,
    /// Its flags.
    pub rflags: u64,
    /// Its stack.
    pub rsp: u64,
    /// Its stack segment.
    pub ss: u64,
}

static_assertions::const_assert_eq!(size_of::<TrapFrame>(), 22 * 8);

/// The vector that stands for a system call, in `entry.s`.
pub const SYSTEM_CALL_VECTOR: u64 = 0x100;

/// A frame, and below it room for what the processor pushes if an upcall comes while the stack pointer is in the frame
/// (see `upcall_entry`).
#[repr(C, align(16))]
#[derive(Clone, Copy)]
struct SavedFrame {
    room_below: [u64; 8],
    frame: TrapFrame,
}

static mut FRAMES: [SavedFrame; MAX_SERVICES] =
    [SavedFrame { room_below: [0; 8], frame: TrapFrame::EMPTY }; MAX_SERVICES];

/// Past the frame of the service that runs.
#[unsafe(no_mangle)]
static mut FRAME_TOP: u64 = 0;
/// Where a system call keeps the service's RSP for a moment.
#[unsafe(no_mangle)]
static mut SCRATCH: u64 = 0;
/// Set by a non-maskable interrupt.
#[unsafe(no_mangle)]
static mut NMI_SEEN: u8 = 0;

impl TrapFrame {
    const EMPTY: TrapFrame = TrapFrame {
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

    /// A service that starts at `entry` in ring 3, with interrupts on and empty registers.
    pub fn start(entry: u64, stack: u64) -> TrapFrame {
        TrapFrame { rip: entry, cs: 0x23, rflags: 0x202, rsp: stack, ss: 0x1B, ..TrapFrame::EMPTY }
    }

    /// Gives a system call's answer, and clears every register that a call may change and that is no part of the answer.
    pub fn answer(&mut self, status: u64, words: [u64; 2]) {
        self.rax = status;
        self.arguments = [words[0], words[1], 0, 0, 0, 0];
        [self.rcx, self.r11] = [0; 2];
    }
}

/// The frame of a service. The caller uses one at a time, and none across an entry of the kernel.
pub fn of(service: u8) -> Option<&'static mut TrapFrame> {
    // SAFETY: the kernel runs on one processor and is not preemptible, and no function that holds a frame calls another that
    // takes one; while a service runs nobody in the kernel has a reference.
    let frames = unsafe { &mut *(&raw mut FRAMES) };
    frames.get_mut(usize::from(service)).map(|saved| &mut saved.frame)
}

/// Makes `frame` the one into which the next entry is saved, and leaves the service nothing of the one that ran before in
/// the registers that no frame holds.
pub fn select(frame: &TrapFrame) {
    crate::processor::clear_segments();
    let top = (&raw const *frame).wrapping_add(1) as u64;
    // SAFETY: `entry.s` reads it at the next entry from ring 3, which is not now.
    unsafe { (&raw mut FRAME_TOP).write(top) };
    crate::processor::set_frame(top);
}

/// Whether a non-maskable interrupt came since the last call.
pub fn take_nmi() -> bool {
    // SAFETY: a byte that only `nmi_entry` sets; the exchange is one access that no interrupt splits.
    let seen = unsafe { core::sync::atomic::AtomicU8::from_ptr(&raw mut NMI_SEEN) };
    seen.swap(0, core::sync::atomic::Ordering::Relaxed) != 0
}
