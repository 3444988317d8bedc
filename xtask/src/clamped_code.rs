//! Checks the kernel's machine code where a number from a service indexes a table, and that none of
//! its branches goes to an address in memory that the kernel can write.
//!
//! The sources clamp the number (`caps/src/clamped.rs`). A compiler that knows all entries of the
//! table may turn the minimum into a comparison and a branch. A processor that mispredicts the
//! branch loads from wherever the number points (Spectre). The sources do not show which of the two
//! the compiler chose.

use std::ops::Range;
use std::path::Path;

use anyhow::{Context, Result, bail};
use cloister_caps::tables::MAX_SLOTS;
use iced_x86::{ConditionCode, Decoder, DecoderOptions, FlowControl, Instruction, Mnemonic, OpKind, Register};
use object::{Object, ObjectSection, ObjectSegment, ObjectSymbol};

/// Functions of the kernel that must clamp a number without a branch, by their paths in the sources.
const CLAMPED: [(&str, Use); 2] = [
    ("cloister_caps::abi::Operation::from_number", Use::Load),
    ("cloister_kernel::grants::entry_address", Use::Address),
];

/// Functions that clamp a number among other work, with the bound of that number: the slot, and in
/// the second also the word of a grant reference, of which there are as many.
const BOUNDED: [(&str, u64); 2] = [
    ("kernel_entered", MAX_SLOTS as u64),
    ("cloister_kernel_core::kernel::Kernel::invoke_operation", MAX_SLOTS as u64),
];

/// What a function does with the clamped number.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Use {
    /// It loads from a table.
    Load,
    /// It returns an address. The minimum must be in it, since the code that loads is elsewhere.
    Address,
}

/// Checks a kernel's ELF file.
///
/// # Errors
/// A function is missing, branches, or does not clamp the number. An indirect branch goes through
/// writable memory.
pub fn check(kernel: &Path) -> Result<()> {
    let file = std::fs::read(kernel).with_context(|| kernel.display().to_string())?;
    let file = object::File::parse(&*file).with_context(|| kernel.display().to_string())?;
    for (name, purpose) in CLAMPED {
        let code = code(&file, name).with_context(|| format!("{} has no function {name}", kernel.display()))?;
        if let Err(reason) = is_clamped(code, purpose) {
            bail!("{name} in {}: {reason}", kernel.display());
        }
    }
    for (name, bound) in BOUNDED {
        let code = code(&file, name).with_context(|| format!("{} has no function {name}", kernel.display()))?;
        if let Err(reason) = is_bounded(code, bound) {
            bail!("{name} in {}: {reason}", kernel.display());
        }
    }
    let text = file.section_by_name(".text").with_context(|| format!("{} has no text", kernel.display()))?;
    let written: Vec<Range<u64>> =
        file.segments().filter(is_writable).map(|one| range(one.address(), one.size())).collect();
    if let Some((at, place)) = branch_through(text.data()?, text.address(), &written) {
        bail!(
            "{}: the branch at {at:#x} goes where the memory at {place:#x} says, which is writable",
            kernel.display()
        );
    }
    Ok(())
}

fn range(start: u64, length: u64) -> Range<u64> {
    start..start.saturating_add(length)
}

fn is_writable(segment: &object::Segment<'_, '_>) -> bool {
    matches!(segment.flags(), object::SegmentFlags::Elf { p_flags, .. } if p_flags.0 & object::elf::PF_W.0 != 0)
}

/// Returns the first indirect branch through a constant address in `written`, and that address.
///
/// A service can have the processor mispredict any indirect branch. But through writable memory it
/// could also go elsewhere for good, after one stray write.
fn branch_through(code: &[u8], start: u64, written: &[Range<u64>]) -> Option<(u64, u64)> {
    Decoder::with_ip(64, code, start, DecoderOptions::NONE).into_iter().find_map(|one| {
        let indirect = matches!(one.flow_control(), FlowControl::IndirectBranch | FlowControl::IndirectCall);
        let constant = one.is_ip_rel_memory_operand()
            || one.memory_base() == Register::None && one.memory_index() == Register::None;
        let place = one.memory_displacement64();
        let is_found = indirect
            && one.op_kinds().any(|kind| kind == OpKind::Memory)
            && constant
            && written.iter().any(|range| range.contains(&place));
        is_found.then_some((one.ip(), place))
    })
}

/// Returns the machine code of the function of this name.
fn code<'a>(file: &object::File<'a>, name: &str) -> Option<&'a [u8]> {
    let symbol = file
        .symbols()
        .find(|symbol| symbol.name().is_ok_and(|mangled| format!("{:#}", rustc_demangle::demangle(mangled)) == name))?;
    let section = file.section_by_index(symbol.section_index()?).ok()?;
    section.data_range(symbol.address(), symbol.size()).ok()?
}

/// Checks that the code has no branch, and that it loads or computes as its purpose says.
fn is_clamped(code: &[u8], purpose: Use) -> Result<(), String> {
    let instructions: Vec<Instruction> = Decoder::new(64, code, DecoderOptions::NONE).into_iter().collect();
    let branches = |one: &&Instruction| !matches!(one.flow_control(), FlowControl::Next | FlowControl::Return);
    if let Some(branch) = instructions.iter().find(branches) {
        return Err(format!("{:?} at {:#x}: there is a branch before the table", branch.mnemonic(), branch.ip()));
    }
    let indexed =
        |one: &Instruction| one.op_kinds().any(|kind| kind == OpKind::Memory) && one.memory_index() != Register::None;
    let chosen = |one: &Instruction| one.condition_code() != ConditionCode::None;
    match purpose {
        Use::Load if !instructions.iter().any(indexed) => Err("there is no load that a register indexes".to_owned()),
        Use::Address if !instructions.iter().any(chosen) => Err("there is no minimum".to_owned()),
        _ => Ok(()),
    }
}

/// Checks that the code takes the minimum of a number and `bound`, and never branches by a
/// comparison with it.
fn is_bounded(code: &[u8], bound: u64) -> Result<(), String> {
    let instructions: Vec<Instruction> = Decoder::new(64, code, DecoderOptions::NONE).into_iter().collect();
    let mut minima = 0;
    for (at, one) in instructions.iter().enumerate() {
        let compares = one.mnemonic() == Mnemonic::Cmp
            && one.op0_kind() == OpKind::Register
            && one.op_count() == 2
            && is_immediate(one.op1_kind())
            && one.immediate(1) == bound;
        // The first that depends on the comparison. What lies between them loads the bound.
        let after = instructions.iter().skip(at + 1).find(|next| next.condition_code() != ConditionCode::None);
        match after {
            Some(next) if compares && next.flow_control() != FlowControl::Next => {
                return Err(format!("at {:#x} it branches by a comparison with {bound}", one.ip()));
            }
            Some(_) if compares => minima += 1,
            _ => {}
        }
    }
    if minima > 0 { Ok(()) } else { Err(format!("there is no minimum with {bound}")) }
}

fn is_immediate(kind: OpKind) -> bool {
    matches!(
        kind,
        OpKind::Immediate8
            | OpKind::Immediate8to32
            | OpKind::Immediate8to64
            | OpKind::Immediate32
            | OpKind::Immediate32to64
    )
}

#[cfg(test)]
mod tests {
    use super::{Use, branch_through, is_bounded, is_clamped};

    #[test]
    fn a_minimum_is_clamped_and_a_branch_is_not() {
        // mov ecx, 15; cmp rdi, rcx; cmovb rcx, rdi; mov eax, [rdx + rcx*4]; ret
        let minimum = [0xb9, 15, 0, 0, 0, 0x48, 0x39, 0xcf, 0x48, 0x0f, 0x42, 0xcf, 0x8b, 0x04, 0x8a, 0xc3];
        assert_eq!(is_clamped(&minimum, Use::Load), Ok(()));
        // xor eax, eax; cmp rdi, 15; jae +3; mov eax, [rdx + rdi*4]; ret
        let branch = [0x31, 0xc0, 0x48, 0x83, 0xff, 15, 0x73, 3, 0x8b, 0x04, 0xba, 0xc3];
        assert!(is_clamped(&branch, Use::Load).is_err_and(|reason| reason.contains("a branch before the table")));
        // xor eax, eax; ret
        assert!(is_clamped(&[0x31, 0xc0, 0xc3], Use::Load).is_err_and(|reason| reason.contains("no load that")));
        // cmp edi, esi; cmovb esi, edi; lea rax, [rsi*8 - 0x3fffb000]; ret
        let address = [0x39, 0xf7, 0x0f, 0x42, 0xf7, 0x48, 0x8d, 0x04, 0xf5, 0, 0x50, 0, 0xc0, 0xc3];
        assert_eq!(is_clamped(&address, Use::Address), Ok(()));
        assert!(is_clamped(&address[5..], Use::Address).is_err_and(|reason| reason.contains("no minimum")));
        assert!(is_clamped(&branch, Use::Address).is_err_and(|reason| reason.contains("a branch before")));
    }

    #[test]
    fn a_bound_is_a_minimum_and_never_a_branch() {
        // cmp rcx, 0x40; mov edx, 0x40; cmovb rdx, rcx; ret
        let minimum = [0x48, 0x83, 0xf9, 0x40, 0xba, 0x40, 0, 0, 0, 0x48, 0x0f, 0x42, 0xd1, 0xc3];
        assert_eq!(is_bounded(&minimum, 64), Ok(()));
        assert!(is_bounded(&minimum, 65).is_err_and(|reason| reason.contains("no minimum with 65")));
        // cmp rcx, 0x40; jae +0; ret
        let branch = [0x48, 0x83, 0xf9, 0x40, 0x73, 0, 0xc3];
        let both = [&minimum[..13], &branch[..]].concat();
        assert!(is_bounded(&both, 64).is_err_and(|reason| reason.contains("it branches by")));
    }

    #[test]
    fn a_branch_through_writable_memory_is_found() {
        // nop; call [rip + 0x100]; jmp [0x2000]; call rax; call [rax + 0x1107]
        let code = [
            &[0x90, 0xff, 0x15, 0, 1, 0, 0][..],
            &[0xff, 0x24, 0x25, 0, 0x20, 0, 0],
            &[0xff, 0xd0],
            &[0xff, 0x90, 0x07, 0x11, 0, 0],
        ]
        .concat();
        let found = |written| branch_through(&code, 0x1000, &[written]);
        assert_eq!(found(0x1100..0x1108), Some((0x1001, 0x1107)));
        assert_eq!(found(0x1108..0x2001), Some((0x1007, 0x2000)));
        assert_eq!(found(0x1108..0x2000), None);
        assert_eq!(found(0..0), None);
    }
}
