//! Acts on what `kernel/core` has decided about speculation: reads the processor's registers,
//! switches its controls on, and keeps the barriers between services.

use core::arch::asm;

use cloister_caps::tables::Image;
use cloister_kernel_core::speculation::{self, Barriers, Controls, Cpuid, Speculation, Unmet};
use x86_64::registers::model_specific::Msr;

use crate::processor::Features;

/// `IA32_SPEC_CTRL`.
const SPEC_CTRL: u32 = 0x48;
/// `IA32_PRED_CMD`.
const PRED_CMD: u32 = 0x49;
/// `IA32_PRED_CMD`: IBPB.
const IBPB: u64 = 1;
/// `IA32_ARCH_CAPABILITIES`.
const ARCH_CAPABILITIES: u32 = 0x10A;
/// EFER.
const EFER: u32 = 0xC000_0080;
/// EFER: automatic IBRS.
const AUTO_IBRS: u64 = 1 << 21;

/// The operand of VERW: the selector of the kernel's data segment in the GDT of `processor.rs`. With
/// one of a writable segment, VERW is the fastest.
static DATA_SEGMENT: u16 = 0x10;

unsafe extern "C" {
    fn fill_return_predictions();
}

/// Decides what to do on this processor, and switches the controls on.
///
/// # Errors
/// The processor does not meet a demand of the policy.
pub fn prepare(features: &Features, image: &Image) -> Result<Speculation, Unmet> {
    let cpuid = Cpuid::read(image, |leaf, sub_leaf| features.cpuid(leaf, sub_leaf));
    let capabilities = cpuid.has_arch_capabilities().then(|| {
        // SAFETY: CPUID announces the register, and reading it changes nothing.
        unsafe { Msr::new(ARCH_CAPABILITIES).read() }
    });
    let decided = speculation::decide(&cpuid, capabilities, image)?;
    let Controls { spec_ctrl, auto_ibrs } = decided.controls;
    if spec_ctrl != 0 {
        set(SPEC_CTRL, spec_ctrl);
    }
    if auto_ibrs {
        set(EFER, AUTO_IBRS);
    }
    Ok(decided)
}

/// Sets bits of a register that control speculation. CPUID has announced them.
fn set(register: u32, bits: u64) {
    let mut register = Msr::new(register);
    // SAFETY: the bits change what the processor predicts, and not what instructions do. A bit that
    // does not exist is an exception, which ends the image.
    unsafe {
        let before = register.read();
        register.write(before | bits);
    }
}

/// Keeps the barriers, after the kernel has gone to another service.
///
/// What the kernel itself reads after that, such as the registers of the new service, stays in the
/// processor's buffers.
#[cold]
pub fn raise(barriers: Barriers) {
    if barriers.flush {
        // SAFETY: the barrier is decided only where CPUID announces IBPB. It changes no memory and no
        // register. The filling keeps to the calling convention, and leaves the stack as it was.
        unsafe {
            Msr::new(PRED_CMD).write(IBPB);
            fill_return_predictions();
        }
    }
    if barriers.verw {
        // SAFETY: it checks a selector, and changes a flag. With a memory operand, processors that
        // announce MD_CLEAR also clear their buffers.
        unsafe { asm!("verw word ptr [{}]", in(reg) &raw const DATA_SEGMENT, options(nostack, readonly)) }
    }
}
