//! Detects what the processor offers, loads its descriptor tables, and switches its protections on.

use core::arch::x86_64::{__cpuid, __cpuid_count, CpuidResult};
use core::sync::atomic::{AtomicBool, Ordering};

use x86_64::instructions::tables::{lgdt, lidt, load_tss};
use x86_64::registers::control::{Cr0, Cr0Flags, Cr4, Cr4Flags, Efer, EferFlags};
use x86_64::registers::model_specific::{LStar, Msr, SFMask};
use x86_64::registers::rflags::RFlags;
use x86_64::registers::segmentation::{CS, Segment};
use x86_64::structures::DescriptorTablePointer;
use x86_64::structures::gdt::SegmentSelector;
use x86_64::structures::tss::TaskStateSegment;
use x86_64::{PrivilegeLevel, VirtAddr};

use crate::vectors::{self, IST_DOUBLE_FAULT, IST_MACHINE_CHECK, IST_NMI, NMI};

/// The vector at which Xen injects event upcalls. Linux uses the same
/// (`HYPERVISOR_CALLBACK_VECTOR`).
pub const UPCALL_VECTOR: u8 = 0xF3;

/// Holds the processor features that the kernel acts on.
///
/// # Holding one proves
/// CPUID announced each feature that is set: only [`Features::detect`] makes one.
#[derive(Clone, Copy)]
pub struct Features {
    /// No-execute pages.
    nx: bool,
    /// The `syscall` instruction.
    system_call: Option<SystemCallInstruction>,
    /// Supervisor-mode execution prevention.
    smep: bool,
    /// Supervisor-mode access prevention.
    smap: bool,
    /// User-mode instruction prevention.
    umip: bool,
    /// Global pages.
    global: bool,
    /// Pages of 1 GiB.
    gigabyte: bool,
    /// The instruction that enters a hypervisor is `vmcall`, and not `vmmcall`.
    vmcall: bool,
    /// The RDRAND instruction.
    rdrand: Option<RdRand>,
    /// Xen's CPUID leaves exist: the machine is a Xen guest.
    xen: bool,
    /// The leaves 0, 1 and 7 of CPUID.
    leaves: [CpuidResult; 3],
}

impl Features {
    /// Reads the features by CPUID.
    pub fn detect() -> Features {
        let vendor = __cpuid(0);
        let basic = __cpuid(1);
        let extended = __cpuid(0x8000_0001);
        let leaf7 = __cpuid_count(7, 0);
        // For a leaf beyond its highest, a processor returns another leaf's content.
        let structured = |register: u32, bit: u32| vendor.eax >= 7 && register >> bit & 1 == 1;
        Features {
            nx: extended.edx >> 20 & 1 == 1,
            system_call: (extended.edx >> 11 & 1 == 1).then_some(SystemCallInstruction(())),
            smep: structured(leaf7.ebx, 7),
            smap: structured(leaf7.ebx, 20),
            umip: structured(leaf7.ecx, 2),
            gigabyte: extended.edx >> 26 & 1 == 1,
            // "Genu", "Cent" and "  Sh": Intel, Centaur and Zhaoxin.
            vmcall: matches!(vendor.ebx, 0x756E_6547 | 0x746E_6543 | 0x6853_2020),
            global: basic.edx >> 13 & 1 == 1,
            rdrand: (basic.ecx >> 30 & 1 == 1).then_some(RdRand(())),
            xen: (0x4000_0000..0x4001_0000).step_by(0x100).any(|leaf| {
                let leaf = __cpuid(leaf);
                // "XenVMMXenVMM" (arch-x86/cpuid.h).
                (leaf.ebx, leaf.ecx, leaf.edx) == (0x566E_6558, 0x6558_4D4D, 0x4D4D_566E)
            }),
            leaves: [vendor, basic, leaf7],
        }
    }

    /// Returns `true` if the processor has supervisor-mode execution prevention.
    pub fn smep(&self) -> bool {
        self.smep
    }

    /// Returns `true` if the processor has supervisor-mode access prevention.
    pub fn smap(&self) -> bool {
        self.smap
    }

    /// Returns `true` if the processor has user-mode instruction prevention.
    pub fn umip(&self) -> bool {
        self.umip
    }

    /// Returns the `syscall` instruction, if the processor has it.
    pub fn system_call(&self) -> Option<SystemCallInstruction> {
        self.system_call
    }

    /// Returns `true` if the processor has pages of 1 GiB.
    pub fn gigabyte(&self) -> bool {
        self.gigabyte
    }

    /// Returns `true` if `vmcall` is the instruction that enters a hypervisor, and `false` if
    /// `vmmcall` is.
    pub fn vmcall(&self) -> bool {
        self.vmcall
    }

    /// Returns the RDRAND instruction, if the processor has it.
    pub fn rdrand(&self) -> Option<RdRand> {
        self.rdrand
    }

    /// Returns EAX, EBX, ECX and EDX of a leaf and sub-leaf of CPUID.
    ///
    /// Each leaf costs an exit to Xen, so what was read before is not read again.
    pub fn cpuid(&self, leaf: u32, sub_leaf: u32) -> [u32; 4] {
        let [vendor, basic, leaf7] = self.leaves;
        let found = match (leaf, sub_leaf) {
            (0, _) => vendor,
            (1, _) => basic,
            (7, 0) => leaf7,
            _ => __cpuid_count(leaf, sub_leaf),
        };
        [found.eax, found.ebx, found.ecx, found.edx]
    }

    /// Returns `true` if the machine is a Xen guest.
    pub fn xen(&self) -> bool {
        self.xen
    }
}

unsafe extern "C" {
    static trap_stubs: [[u8; 16]; 32];
    static upcall_entry: u8;
    static nmi_entry: u8;
    static system_call_entry: u8;
    static double_fault_stack_top: u8;
    static machine_check_stack_top: u8;
    static nmi_stack_top: u8;
}

fn address<T>(symbol: *const T) -> u64 {
    symbol as u64
}

static mut TSS: TaskStateSegment = TaskStateSegment::new();
/// Null, kernel code, kernel data, user data, user code, and the TSS in two entries. `entry.s` has
/// the selectors.
static mut GDT: [u64; 7] =
    [0, 0x00AF_9B00_0000_FFFF, 0x00CF_9300_0000_FFFF, 0x00CF_F300_0000_FFFF, 0x00AF_FB00_0000_FFFF, 0, 0];
const TSS_SELECTOR: SegmentSelector = SegmentSelector::new(5, PrivilegeLevel::Ring0);

#[derive(Clone, Copy)]
#[repr(C)]
struct Gate {
    offset_low: u16,
    selector: u16,
    ist: u8,
    kind: u8,
    offset_middle: u16,
    offset_high: u32,
    reserved: u32,
}

impl Gate {
    const ABSENT: Gate =
        Gate { offset_low: 0, selector: 0, ist: 0, kind: 0, offset_middle: 0, offset_high: 0, reserved: 0 };

    /// Returns an interrupt gate that ring 3 cannot enter by `int`.
    fn to(target: u64, ist: Option<u16>) -> Gate {
        Gate {
            offset_low: target as u16,
            selector: 8,
            ist: ist.map_or(0, |ist| ist as u8 + 1),
            kind: 0x8E,
            offset_middle: (target >> 16) as u16,
            offset_high: (target >> 32) as u32,
            reserved: 0,
        }
    }
}

#[repr(C, align(16))]
struct Gates([Gate; UPCALL_VECTOR as usize + 1]);

static mut IDT: Gates = Gates([Gate::ABSENT; UPCALL_VECTOR as usize + 1]);

/// Gives the right to fill and load the kernel's descriptor tables.
///
/// # Holding one proves
/// The tables are not loaded yet, and nothing refers to them.
pub struct UnloadedTables(());

impl UnloadedTables {
    /// Returns the token at the first call, and `None` at each later one.
    pub fn take() -> Option<UnloadedTables> {
        static TAKEN: AtomicBool = AtomicBool::new(false);
        (!TAKEN.swap(true, Ordering::Relaxed)).then_some(UnloadedTables(()))
    }
}

/// Loads the kernel's own descriptor tables. Exceptions that cannot trust the current stack get
/// stacks of their own.
pub fn load_tables(_: UnloadedTables) {
    let (tss, gdt, idt) = (&raw mut TSS, &raw mut GDT, &raw mut IDT);
    // SAFETY: nothing else refers to these statics, as the token proves, which ends here.
    // Afterwards only the processor reads them, and only `set_frame` writes, to RSP0.
    unsafe {
        let tss = &mut *tss;
        tss.interrupt_stack_table[usize::from(IST_DOUBLE_FAULT)] =
            VirtAddr::new_truncate(address(&raw const double_fault_stack_top));
        tss.interrupt_stack_table[usize::from(IST_MACHINE_CHECK)] =
            VirtAddr::new_truncate(address(&raw const machine_check_stack_top));
        tss.interrupt_stack_table[usize::from(IST_NMI)] = VirtAddr::new_truncate(address(&raw const nmi_stack_top));
        // No I/O permission map, so every port is closed to ring 3.
        tss.iomap_base = size_of::<TaskStateSegment>() as u16;
        let base = address(&raw const TSS);
        let gdt = &mut *gdt;
        let limit = size_of::<TaskStateSegment>() as u64 - 1;
        gdt[5] = limit | (base & 0xFF_FFFF) << 16 | 0x89 << 40 | (base >> 24 & 0xFF) << 56;
        gdt[6] = base >> 32;
        let idt = &mut (*idt).0;
        for (vector, gate) in idt.iter_mut().enumerate().take(32) {
            let stub = address(&raw const trap_stubs) + 16 * vector as u64;
            let entry = if vector == NMI { address(&raw const nmi_entry) } else { stub };
            *gate = Gate::to(entry, vectors::ist(vector));
        }
        idt[usize::from(UPCALL_VECTOR)] = Gate::to(address(&raw const upcall_entry), None);
        lgdt(&DescriptorTablePointer {
            limit: size_of_val(gdt) as u16 - 1,
            base: VirtAddr::new_truncate(address(gdt)),
        });
        CS::set_reg(SegmentSelector::new(1, PrivilegeLevel::Ring0));
        load_tss(TSS_SELECTOR);
        // There is no local descriptor table. The toolstack chose the register's first value.
        core::arch::asm!("lldt {null:x}", null = in(reg) 0_u32, options(nomem, nostack, preserves_flags));
        lidt(&DescriptorTablePointer {
            limit: size_of_val(idt) as u16 - 1,
            base: VirtAddr::new_truncate(address(idt)),
        });
    }
}

/// Loads null into the data segment registers.
///
/// Ring 3 can load a few selectors into each, and no trap frame holds them. A service would read
/// what the one before it left. None of them has a base, before or after.
pub fn clear_segments() {
    // SAFETY: the kernel uses none of these segments. In 64-bit mode a null selector works like any
    // other.
    unsafe {
        core::arch::asm!("mov ds, {null:x}", "mov es, {null:x}", "mov fs, {null:x}", "mov gs, {null:x}",
            null = in(reg) 0_u32, options(nomem, nostack, preserves_flags));
    }
}

/// Makes the processor push the state of ring 3 below `top` at the next entry.
///
/// # Safety
/// The memory below `top` is for that, until another address is set.
pub unsafe fn set_frame(top: u64) {
    // SAFETY: an aligned store that the processor reads at the next entry from ring 3; interrupts
    // are off.
    unsafe { (&raw mut TSS.privilege_stack_table[0]).write_unaligned(VirtAddr::new_truncate(top)) }
}

/// Switches on write protection, and SMEP, SMAP and UMIP where the processor has them.
/// Closes the time-stamp counter and the FPU to ring 3, and enables the system call instruction.
pub fn protect(features: &Features, _: SystemCallInstruction) {
    // SAFETY: each bit is one that CPUID announced, as `Features` and `SystemCallInstruction` prove,
    // or that every 64-bit processor has. All page tables that are ever in force, the boot code's too, are valid under
    // all of them.
    unsafe {
        let mut cr0 = Cr0::read();
        cr0.insert(
            Cr0Flags::WRITE_PROTECT | Cr0Flags::EMULATE_COPROCESSOR | Cr0Flags::TASK_SWITCHED | Cr0Flags::NUMERIC_ERROR,
        );
        cr0.remove(Cr0Flags::MONITOR_COPROCESSOR);
        Cr0::write(cr0);
        let mut cr4 = Cr4Flags::PHYSICAL_ADDRESS_EXTENSION | Cr4Flags::TIMESTAMP_DISABLE;
        cr4.set(Cr4Flags::PAGE_GLOBAL, features.global);
        cr4.set(Cr4Flags::SUPERVISOR_MODE_EXECUTION_PROTECTION, features.smep);
        cr4.set(Cr4Flags::SUPERVISOR_MODE_ACCESS_PREVENTION, features.smap);
        cr4.set(Cr4Flags::USER_MODE_INSTRUCTION_PREVENTION, features.umip);
        Cr4::write(cr4);
        Efer::update(|efer| efer.insert(EferFlags::SYSTEM_CALL_EXTENSIONS));
        // IA32_STAR: kernel segments from 8, user segments from 0x10 + 3.
        Msr::new(0xC000_0081).write(0x0013_0008_u64 << 32);
    }
    LStar::write(VirtAddr::new_truncate(address(&raw const system_call_entry)));
    SFMask::write(
        RFlags::INTERRUPT_FLAG
            | RFlags::TRAP_FLAG
            | RFlags::DIRECTION_FLAG
            | RFlags::ALIGNMENT_CHECK
            | RFlags::NESTED_TASK
            | RFlags::IOPL_LOW
            | RFlags::IOPL_HIGH,
    );
}

/// Gives the right to enable the `syscall` instruction.
///
/// # Holding one proves
/// CPUID announced it: a toolstack can take it away (`cpuid` of `xl.cfg`), and enabling it would be
/// an exception.
#[derive(Clone, Copy)]
pub struct SystemCallInstruction(());

/// Gives the right to load page tables that use NX.
///
/// # Holding one proves
/// NX is on. Nothing turns it off.
#[derive(Clone, Copy)]
pub struct NoExecute(());

/// Switches NX on. Returns `None` if the processor has none.
pub fn enable_no_execute(features: &Features) -> Option<NoExecute> {
    features.nx.then(|| {
        // SAFETY: CPUID announced NX, as `Features` proves.
        unsafe { Efer::update(|efer| efer.insert(EferFlags::NO_EXECUTE_ENABLE)) }
        NoExecute(())
    })
}

/// Returns the time-stamp counter. Instructions before the call are complete when it is read.
pub fn counter() -> u64 {
    let (low, high): (u32, u32);
    // SAFETY: both instructions exist on every 64-bit processor; TSD binds ring 3 only.
    unsafe { core::arch::asm!("lfence", "rdtsc", out("eax") low, out("edx") high, options(nostack)) };
    u64::from(low) | u64::from(high) << 32
}

/// Gives access to the processor's source of random bits.
///
/// # Holding one proves
/// CPUID announced RDRAND.
#[derive(Clone, Copy)]
pub struct RdRand(());

impl RdRand {
    /// Returns 64 random bits, or `None` if the source fails ten times.
    pub fn word(self) -> Option<u64> {
        (0..10).find_map(|_| {
            let (value, good): (u64, u8);
            // SAFETY: CPUID announced RDRAND.
            unsafe {
                core::arch::asm!("rdrand {value}", "setc {good}", value = out(reg) value, good = out(reg_byte) good, options(nomem, nostack));
            }
            (good == 1).then_some(value)
        })
    }
}

/// Writes a byte to Xen's and QEMU's debug port.
pub fn debug_byte(byte: u8) {
    // SAFETY: port 0xE9 is a debug port, or there is none.
    unsafe { x86_64::instructions::port::Port::<u8>::new(0xE9).write(byte) }
}

/// Writes a byte to the first serial port, for a machine without Xen's debug port.
pub fn serial_byte(byte: u8) {
    // SAFETY: port 0x3F8 is a serial port, or there is none.
    unsafe { x86_64::instructions::port::Port::<u8>::new(0x3F8).write(byte) }
}

/// Stops a machine that is not a Xen guest: by QEMU's `isa-debug-exit` if it has one, else by a
/// halt.
pub fn stop_machine() -> ! {
    // SAFETY: port 0xF4 is QEMU's exit device, or there is none.
    unsafe { x86_64::instructions::port::Port::<u8>::new(0xF4).write(3) };
    loop {
        // SAFETY: the kernel has nothing left to do.
        unsafe { core::arch::asm!("cli", "hlt", options(nomem, nostack)) }
    }
}
