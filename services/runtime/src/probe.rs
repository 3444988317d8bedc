//! What a service must not be able to do, for the prober to try: each function is one attempt. None of them can harm
//! anything but the service itself, or the isolation that they test is broken.

use core::arch::asm;

/// Makes a system call of any number with any arguments; answers the status and the two words.
#[must_use]
pub fn system_call(number: u64, arguments: [u64; 6]) -> (u64, [u64; 2]) {
    crate::call::raw(number, arguments)
}

/// Makes a system call with every other register set, and answers the registers that the kernel must clear:
/// RCX, RDX, R8, R9, R10, R11.
#[must_use]
pub fn registers_after_call(number: u64, slot: u64, operation: u64) -> [u64; 6] {
    let mut out = [0; 6];
    // SAFETY: as for `call`.
    unsafe {
        asm!(
            "syscall",
            inlateout("rax") number => _,
            inlateout("rdi") slot => _,
            inlateout("rsi") operation => _,
            inlateout("rdx") u64::MAX => out[1],
            inlateout("r8") u64::MAX => out[2],
            inlateout("r9") u64::MAX => out[3],
            inlateout("r10") u64::MAX => out[4],
            inlateout("rcx") u64::MAX => out[0],
            inlateout("r11") u64::MAX => out[5],
            options(nostack),
        );
    }
    out
}

/// Reads the selectors in DS, ES, FS and GS, which ring 3 may.
#[must_use]
pub fn segments() -> [u16; 4] {
    let (ds, es, fs, gs);
    // SAFETY: the instructions read registers, and nothing else.
    unsafe {
        asm!("mov {0:x}, ds", "mov {1:x}, es", "mov {2:x}, fs", "mov {3:x}, gs",
            out(reg) ds, out(reg) es, out(reg) fs, out(reg) gs, options(nomem, nostack, preserves_flags));
    }
    [ds, es, fs, gs]
}

/// Loads every data segment register with a selector that ring 3 may load: those of its segments, and what is no segment.
pub fn load_segments() {
    // SAFETY: no code uses a data segment in 64-bit mode but by FS and GS, of which the program has nothing.
    unsafe {
        asm!("mov {0:e}, 0x1B", "mov ds, {0:x}", "mov {0:e}, 0x23", "mov es, {0:x}", "mov {0:e}, 3", "mov fs, {0:x}",
            "mov {0:e}, 0x18", "mov gs, {0:x}", out(reg) _, options(nomem, nostack, preserves_flags));
    }
}

/// Leaves selectors behind at a fault.
pub fn leave_segments() {
    load_segments();
    ud2();
}

/// Reads a byte.
#[must_use]
pub fn read(address: u64) -> u8 {
    let value: u8;
    // SAFETY: if the address is not mapped the kernel ends this service; if it is, reading has no effect.
    unsafe {
        asm!("mov {value}, byte ptr [{address}]", address = in(reg) address, value = out(reg_byte) value, options(nostack))
    };
    value
}

/// Writes a byte.
pub fn write(address: u64, value: u8) {
    // SAFETY: the attempt is the purpose; the kernel must end this service unless the page is its own and writable, and the
    // prober names no such page.
    unsafe {
        asm!("mov byte ptr [{address}], {value}", address = in(reg) address, value = in(reg_byte) value, options(nostack))
    }
}

/// Calls an address.
pub fn execute(address: u64) {
    // SAFETY: as for `write`: the address is not executable, or isolation is broken.
    unsafe { asm!("call {address}", address = in(reg) address, clobber_abi("C")) }
}

/// A hypercall, `SCHEDOP_shutdown`, by the instruction of AMD processors; answers what Xen says. On another
/// processor it faults.
#[must_use]
pub fn vmmcall() -> i64 {
    let answer;
    // SAFETY: Xen takes no hypercall from ring 3: it refuses before it looks at anything.
    unsafe {
        asm!("vmmcall", inlateout("rax") 29_i64 => answer, inlateout("rdi") 2_i64 => _, inlateout("rsi") 0_i64 => _, options(nostack))
    };
    answer
}

/// The same by the instruction of Intel processors.
#[must_use]
pub fn vmcall() -> i64 {
    let answer;
    // SAFETY: as for `vmmcall`.
    unsafe {
        asm!("vmcall", inlateout("rax") 29_i64 => answer, inlateout("rdi") 2_i64 => _, inlateout("rsi") 0_i64 => _, options(nostack))
    };
    answer
}

macro_rules! instruction {
    ($($(#[$doc:meta])* $name:ident: $($text:literal),+;)*) => {$(
        $(#[$doc])*
        pub fn $name() {
            // SAFETY: the instruction faults in ring 3, or is refused; that is what is tested.
            unsafe {
                asm!(
                    "push rbx", $($text,)+ "pop rbx",
                    out("rax") _, out("rcx") _, out("rdx") _, out("rdi") _, out("rsi") _,
                    out("r8") _, out("r9") _, out("r10") _, out("r11") _,
                )
            }
        }
    )*};
}

instruction! {
    /// Port output to Xen's debug port.
    out_e9: "mov al, 0x41", "out 0xe9, al";
    /// Port input.
    in_60: "in al, 0x60";
    /// Disabling interrupts.
    cli: "cli";
    /// Enabling interrupts.
    sti: "sti";
    /// Stopping the processor.
    hlt: "hlt";
    /// Reading CR0.
    read_cr0: "mov rax, cr0";
    /// Reading CR3.
    read_cr3: "mov rax, cr3";
    /// Switching the address space.
    write_cr3: "xor eax, eax", "mov cr3, rax";
    /// Disabling protections.
    write_cr4: "xor eax, eax", "mov cr4, rax";
    /// Reading a model-specific register: the system-call entry.
    rdmsr: "mov ecx, 0xC0000082", "rdmsr";
    /// Writing a model-specific register.
    wrmsr: "mov ecx, 0xC0000082", "xor eax, eax", "xor edx, edx", "wrmsr";
    /// Loading an interrupt table.
    lidt: "sub rsp, 16", "lidt [rsp]", "add rsp, 16";
    /// Loading a descriptor table.
    lgdt: "sub rsp, 16", "lgdt [rsp]", "add rsp, 16";
    /// Reading the descriptor table's address, which UMIP forbids.
    sgdt: "sub rsp, 16", "sgdt [rsp]", "add rsp, 16";
    /// Reading the time-stamp counter, which needs the clock capability.
    rdtsc: "rdtsc";
    /// Reading a performance counter.
    rdpmc: "xor ecx, ecx", "rdpmc";
    /// Flushing a translation.
    invlpg: "invlpg [rsp]";
    /// Flushing the caches.
    wbinvd: "wbinvd";
    /// An x87 instruction.
    x87: "fninit", "fld1";
    /// An SSE instruction.
    sse: "xorps xmm0, xmm0";
    /// Returning from an interrupt that was none, to the kernel's code segment.
    iret_to_ring0: "push 0x10", "push rsp", "push 2", "push 8", "lea rax, [rip]", "push rax", "iretq";
    /// `sysret` from ring 3.
    sysret: "sysretq";
    /// Swapping the GS base.
    swapgs: "swapgs";
    /// Clearing the task-switched flag.
    clts: "clts";
    /// Loading a task register.
    ltr: "mov ax, 0x28", "ltr ax";
    /// A software interrupt at the upcall's vector.
    int_f3: "int 0xf3";
    /// A software interrupt at the double fault's vector.
    int_8: "int 8";
    /// A breakpoint.
    int3: "int3";
    /// The trap flag.
    single_step: "pushfq", "or qword ptr [rsp], 0x100", "popfq", "nop";
    /// An undefined instruction.
    ud2: "ud2";
    /// A division by zero.
    divide: "xor ecx, ecx", "xor edx, edx", "mov eax, 1", "div ecx";
    /// A wild stack.
    wild_stack: "mov rax, rsp", "xor esp, esp", "push rax", "mov rsp, rax";
    /// A non-canonical address.
    non_canonical: "mov rax, 0x8000000000000000", "mov rax, [rax]";
    /// Writing the protection-key register, which is off.
    wrpkru: "xor eax, eax", "xor ecx, ecx", "xor edx, edx", "wrpkru";
    /// Enabling access to user pages from the kernel.
    stac: "stac";
    /// A supervisor-mode monitor instruction.
    monitor: "xor ecx, ecx", "xor edx, edx", "mov rax, rsp", "monitor";
}
