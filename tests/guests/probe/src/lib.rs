//! Attempts, for the prober, to do things that a service must not be able to do. Each function is
//! one attempt.
//!
//! As long as isolation holds, an attempt can harm nothing but the service itself. No image that
//! ships contains this crate.
#![no_std]

use core::arch::asm;

/// Makes a system call with any number and any arguments. Returns the status and the two words.
#[must_use]
pub fn system_call(number: u64, arguments: [u64; 6]) -> (u64, [u64; 2]) {
    let (status, first, second);
    // SAFETY: the registers that the kernel may change are named here: it restores the callee-saved
    // ones and clears the others. It changes memory only in regions of the service, which no Rust
    // object of the prober lives in.
    unsafe {
        asm!(
            "syscall",
            inlateout("rax") number => status,
            inlateout("rdi") arguments[0] => first,
            inlateout("rsi") arguments[1] => second,
            inlateout("rdx") arguments[2] => _,
            inlateout("r10") arguments[3] => _,
            inlateout("r8") arguments[4] => _,
            inlateout("r9") arguments[5] => _,
            lateout("rcx") _,
            lateout("r11") _,
            options(nostack),
        );
    }
    (status, [first, second])
}

/// Makes a system call with all bits of the other registers set. Returns the registers that the
/// kernel must clear: RCX, RDX, R8, R9, R10, R11.
#[must_use]
pub fn registers_after_call(number: u64, slot: u64, operation: u64) -> [u64; 6] {
    let mut out = [0; 6];
    // SAFETY: as in `system_call`.
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

/// Returns the selectors in DS, ES, FS and GS, which ring 3 may read.
#[must_use]
pub fn segments() -> [u16; 4] {
    let (ds, es, fs, gs);
    // SAFETY: the instructions only read registers.
    unsafe {
        asm!("mov {0:x}, ds", "mov {1:x}, es", "mov {2:x}, fs", "mov {3:x}, gs",
            out(reg) ds, out(reg) es, out(reg) fs, out(reg) gs, options(nomem, nostack, preserves_flags));
    }
    [ds, es, fs, gs]
}

/// Loads each data segment register with a selector that ring 3 may load: one of its own segments,
/// or null.
pub fn load_segments() {
    // SAFETY: in 64-bit mode only FS and GS matter, and the program has no data that it reaches
    // through them.
    unsafe {
        asm!("mov {0:e}, 0x1B", "mov ds, {0:x}", "mov {0:e}, 0x23", "mov es, {0:x}", "mov {0:e}, 3", "mov fs, {0:x}",
            "mov {0:e}, 0x18", "mov gs, {0:x}", out(reg) _, options(nomem, nostack, preserves_flags));
    }
}

/// Loads the data segment registers and faults, to leave the selectors in the registers for the
/// next service.
pub fn leave_segments() {
    load_segments();
    ud2();
}

/// Reads a byte.
#[must_use]
pub fn read(address: u64) -> u8 {
    let value: u8;
    // SAFETY: if the address is not mapped, the read is a fault of this service. If it is mapped,
    // reading has no effect.
    unsafe {
        asm!("mov {value}, byte ptr [{address}]", address = in(reg) address, value = out(reg_byte) value, options(nostack))
    };
    value
}

/// Writes a byte.
pub fn write(address: u64, value: u8) {
    // SAFETY: the write must be a fault of this service, unless the page is its own and writable.
    // The prober passes no address of such a page.
    unsafe {
        asm!("mov byte ptr [{address}], {value}", address = in(reg) address, value = in(reg_byte) value, options(nostack))
    }
}

/// Calls an address.
pub fn execute(address: u64) {
    // SAFETY: as in `write`: the address is not executable, or isolation is broken.
    unsafe { asm!("call {address}", address = in(reg) address, clobber_abi("C")) }
}

/// Makes the hypercall `SCHEDOP_shutdown` with the instruction of AMD processors, and returns Xen's
/// result. The instruction faults on other processors.
#[must_use]
pub fn vmmcall() -> i64 {
    let answer;
    // SAFETY: Xen refuses every hypercall from ring 3 before it looks at the arguments.
    unsafe {
        asm!("vmmcall", inlateout("rax") 29_i64 => answer, inlateout("rdi") 2_i64 => _, inlateout("rsi") 0_i64 => _, options(nostack))
    };
    answer
}

/// Makes the same hypercall with the instruction of Intel processors.
#[must_use]
pub fn vmcall() -> i64 {
    let answer;
    // SAFETY: as in `vmmcall`.
    unsafe {
        asm!("vmcall", inlateout("rax") 29_i64 => answer, inlateout("rdi") 2_i64 => _, inlateout("rsi") 0_i64 => _, options(nostack))
    };
    answer
}

macro_rules! instruction {
    ($($(#[$doc:meta])* $name:ident: $($text:literal),+;)*) => {$(
        $(#[$doc])*
        pub fn $name() {
            // SAFETY: the instruction faults in ring 3 or is refused, as the test expects.
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
    /// Writes to Xen's debug port.
    out_e9: "mov al, 0x41", "out 0xe9, al";
    /// Reads an I/O port.
    in_60: "in al, 0x60";
    /// Disables interrupts.
    cli: "cli";
    /// Enables interrupts.
    sti: "sti";
    /// Halts the processor.
    hlt: "hlt";
    /// Reads CR0.
    read_cr0: "mov rax, cr0";
    /// Reads CR3.
    read_cr3: "mov rax, cr3";
    /// Switches the address space.
    write_cr3: "xor eax, eax", "mov cr3, rax";
    /// Disables the protections of CR4.
    write_cr4: "xor eax, eax", "mov cr4, rax";
    /// Reads a model-specific register: the system-call entry.
    rdmsr: "mov ecx, 0xC0000082", "rdmsr";
    /// Writes a model-specific register.
    wrmsr: "mov ecx, 0xC0000082", "xor eax, eax", "xor edx, edx", "wrmsr";
    /// Loads an interrupt descriptor table.
    lidt: "sub rsp, 16", "lidt [rsp]", "add rsp, 16";
    /// Loads a global descriptor table.
    lgdt: "sub rsp, 16", "lgdt [rsp]", "add rsp, 16";
    /// Reads the address of the global descriptor table, which UMIP forbids.
    sgdt: "sub rsp, 16", "sgdt [rsp]", "add rsp, 16";
    /// Reads the time-stamp counter, which CR4.TSD forbids.
    rdtsc: "rdtsc";
    /// Reads a performance counter.
    rdpmc: "xor ecx, ecx", "rdpmc";
    /// Flushes a translation.
    invlpg: "invlpg [rsp]";
    /// Flushes the caches.
    wbinvd: "wbinvd";
    /// Executes x87 instructions.
    x87: "fninit", "fld1";
    /// Executes an SSE instruction.
    sse: "xorps xmm0, xmm0";
    /// Returns from an interrupt that did not happen, to the kernel's code segment.
    iret_to_ring0: "push 0x10", "push rsp", "push 2", "push 8", "lea rax, [rip]", "push rax", "iretq";
    /// Executes `sysret` in ring 3.
    sysret: "sysretq";
    /// Swaps the GS base.
    swapgs: "swapgs";
    /// Clears the task-switched flag.
    clts: "clts";
    /// Loads the task register.
    ltr: "mov ax, 0x28", "ltr ax";
    /// Raises a software interrupt with the vector of the upcall.
    int_f3: "int 0xf3";
    /// Raises a software interrupt with the vector of the double fault.
    int_8: "int 8";
    /// Executes a breakpoint.
    int3: "int3";
    /// Sets the trap flag.
    single_step: "pushfq", "or qword ptr [rsp], 0x100", "popfq", "nop";
    /// Executes an undefined instruction.
    ud2: "ud2";
    /// Divides by zero.
    divide: "xor ecx, ecx", "xor edx, edx", "mov eax, 1", "div ecx";
    /// Pushes to a stack at address 0.
    wild_stack: "mov rax, rsp", "xor esp, esp", "push rax", "mov rsp, rax";
    /// Reads a non-canonical address.
    non_canonical: "mov rax, 0x8000000000000000", "mov rax, [rax]";
    /// Writes the protection-key register while protection keys are off.
    wrpkru: "xor eax, eax", "xor ecx, ecx", "xor edx, edx", "wrpkru";
    /// Enables access to user pages from the kernel.
    stac: "stac";
    /// Executes `monitor`, which needs ring 0.
    monitor: "xor ecx, ecx", "xor edx, edx", "mov rax, rsp", "monitor";
}
