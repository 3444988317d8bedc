//! Checks the kernel's machine code where a number from a service indexes a table.
//!
//! The sources clamp the number (`caps/src/clamped.rs`). A compiler that knows all entries of the
//! table may turn the minimum into a comparison and a branch. A processor that mispredicts the
//! branch loads from wherever the number points (Spectre). The sources do not show which of the two
//! the compiler chose.

use std::path::Path;

use anyhow::{Context, Result, bail};
use iced_x86::{Decoder, DecoderOptions, FlowControl, Instruction, OpKind, Register};
use object::{Object, ObjectSection, ObjectSymbol};

/// Functions of the kernel that must index a table without a branch, by their paths in the sources.
const CLAMPED: [&str; 1] = ["cloister_caps::abi::Operation::from_number"];

/// Checks a kernel's ELF file.
///
/// # Errors
/// A function is missing, branches, or has no load that a register indexes.
pub fn check(kernel: &Path) -> Result<()> {
    let file = std::fs::read(kernel).with_context(|| kernel.display().to_string())?;
    let file = object::File::parse(&*file).with_context(|| kernel.display().to_string())?;
    for name in CLAMPED {
        let code = code(&file, name).with_context(|| format!("{} has no function {name}", kernel.display()))?;
        if let Err(reason) = is_clamped(code) {
            bail!("{name} in {}: {reason}", kernel.display());
        }
    }
    Ok(())
}

/// Returns the machine code of the function of this name.
fn code<'a>(file: &object::File<'a>, name: &str) -> Option<&'a [u8]> {
    let symbol = file
        .symbols()
        .find(|symbol| symbol.name().is_ok_and(|mangled| format!("{:#}", rustc_demangle::demangle(mangled)) == name))?;
    let section = file.section_by_index(symbol.section_index()?).ok()?;
    section.data_range(symbol.address(), symbol.size()).ok()?
}

/// Checks that the code has no branch, and that it has a load that a register indexes.
fn is_clamped(code: &[u8]) -> Result<(), String> {
    let instructions: Vec<Instruction> = Decoder::new(64, code, DecoderOptions::NONE).into_iter().collect();
    let branches = |one: &&Instruction| !matches!(one.flow_control(), FlowControl::Next | FlowControl::Return);
    if let Some(branch) = instructions.iter().find(branches) {
        return Err(format!("{:?} at {:#x}: there is a branch before the table", branch.mnemonic(), branch.ip()));
    }
    let indexed =
        |one: &Instruction| one.op_kinds().any(|kind| kind == OpKind::Memory) && one.memory_index() != Register::None;
    if instructions.iter().any(indexed) { Ok(()) } else { Err("there is no load that a register indexes".to_owned()) }
}

#[cfg(test)]
mod tests {
    use super::is_clamped;

    #[test]
    fn a_minimum_is_clamped_and_a_branch_is_not() {
        // mov ecx, 15; cmp rdi, rcx; cmovb rcx, rdi; mov eax, [rdx + rcx*4]; ret
        let minimum = [0xb9, 15, 0, 0, 0, 0x48, 0x39, 0xcf, 0x48, 0x0f, 0x42, 0xcf, 0x8b, 0x04, 0x8a, 0xc3];
        assert_eq!(is_clamped(&minimum), Ok(()));
        // xor eax, eax; cmp rdi, 15; jae +3; mov eax, [rdx + rdi*4]; ret
        let branch = [0x31, 0xc0, 0x48, 0x83, 0xff, 15, 0x73, 3, 0x8b, 0x04, 0xba, 0xc3];
        assert!(is_clamped(&branch).is_err_and(|reason| reason.contains("a branch before the table")));
        // xor eax, eax; ret
        assert!(is_clamped(&[0x31, 0xc0, 0xc3]).is_err_and(|reason| reason.contains("no load that")));
    }
}
