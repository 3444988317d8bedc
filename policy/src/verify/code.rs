//! Checks the executable bytes of a service, decoded at every offset: an instruction need not start
//! where the compiler put one.
//!
//! There are three classes:
//!
//! - Instructions that leave the domain, or undo memory protection, without a fault in the kernel.
//!   They are refused at every offset.
//! - `syscall`. Compiled code has it in one place, the runtime's stub. At other offsets it gives no
//!   more authority than the stub: the kernel looks at the caller's capabilities, never at the
//!   address of the call.
//! - Instructions that fault in ring 3. They are refused in compiled code, and counted where only a
//!   jump into the middle of an instruction would execute them.

use std::collections::HashMap;

use cloister_caps::abi::KERNEL_ADDRESSES;
use iced_x86::{Code, Decoder, DecoderOptions, Instruction, Mnemonic, OpKind, Register};

use super::image::Load;
use super::verdict::{Finding, Hit, Unaligned, Verdict};
use crate::image_limits::{MAX_ERRORS, MAX_HITS};

/// The length of the longest instruction, in bytes.
const LONGEST: usize = 15;
/// The runtime's `_start`: `xor ebp, ebp`, `call`, and after the call's four bytes `ud2`.
const START: [u8; 3] = [0x31, 0xED, 0xE8];
const START_END: [u8; 2] = [0x0F, 0x0B];
/// The runtime's stub: `syscall` and `ret`.
const STUB: [u8; 3] = [0x0F, 0x05, 0xC3];

/// The class of an instruction that no service needs.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Class {
    /// Leaves the domain, or undoes protections, without the kernel.
    Escape,
    /// The system call.
    Call,
    /// Faults in ring 3, or is useless there.
    Faults,
}

fn class(instruction: &Instruction) -> Option<Class> {
    use Mnemonic as M;
    match instruction.mnemonic() {
        M::Vmcall | M::Vmmcall | M::Vmfunc | M::Vmgexit | M::Tdcall | M::Seamcall => Some(Class::Escape),
        M::Wrpkru | M::Xrstor | M::Xrstor64 | M::Xrstors | M::Xrstors64 | M::Xsetbv => Some(Class::Escape),
        M::Syscall => Some(Class::Call),
        M::In | M::Insb | M::Insw | M::Insd | M::Out | M::Outsb | M::Outsw | M::Outsd => Some(Class::Faults),
        M::Sgdt | M::Sidt | M::Sldt | M::Str | M::Smsw | M::Lar | M::Lsl | M::Verr | M::Verw => Some(Class::Faults),
        M::Rdtsc | M::Rdtscp | M::Rdpmc | M::Rdpid | M::Rdpkru | M::Cli | M::Sti => Some(Class::Faults),
        M::Sysenter | M::Int | M::Int1 | M::Into | M::Iret | M::Iretd | M::Iretq | M::Retf => Some(Class::Faults),
        M::Popf | M::Popfd | M::Popfq | M::Lfs | M::Lgs | M::Lss | M::Enclu => Some(Class::Faults),
        M::Monitor | M::Mwait | M::Monitorx | M::Mwaitx | M::Umonitor | M::Umwait | M::Tpause => Some(Class::Faults),
        M::Rdfsbase | M::Rdgsbase | M::Wrfsbase | M::Wrgsbase => Some(Class::Faults),
        _ if instruction.is_privileged() || moves_segment(instruction) || is_far(instruction) => Some(Class::Faults),
        _ => None,
    }
}

/// Returns `true` if the instruction reads or writes a segment register.
fn moves_segment(instruction: &Instruction) -> bool {
    matches!(instruction.mnemonic(), Mnemonic::Mov | Mnemonic::Pop | Mnemonic::Push)
        && special_register(instruction).is_some()
}

/// Returns the special register that an instruction moves.
fn special_register(instruction: &Instruction) -> Option<Register> {
    (0..instruction.op_count())
        .map(|operand| instruction.op_register(operand))
        .find(|register| register.is_cr() || register.is_dr() || register.is_segment_register())
}

/// Returns the mnemonic, with the special register that it moves.
fn name(mnemonic: Mnemonic, special: Option<Register>) -> String {
    let register = special.map_or_else(String::new, |register| format!(" {register:?}"));
    format!("{mnemonic:?}{register}").to_lowercase()
}

fn is_far(instruction: &Instruction) -> bool {
    instruction.is_jmp_far()
        || instruction.is_jmp_far_indirect()
        || instruction.is_call_far()
        || instruction.is_call_far_indirect()
}

/// A service's program, and the addresses that its code is checked against.
pub(super) struct Program<'a> {
    pub service: &'a str,
    pub entry: u64,
    pub loads: Vec<&'a Load<'a>>,
    /// The addresses of all its segments in memory, including those without bytes in the image.
    pub memory: Vec<std::ops::Range<u64>>,
    pub kernel: std::ops::Range<u64>,
}

/// The findings of a scan, so far.
#[derive(Default)]
struct Scan {
    findings: Vec<Finding>,
    hits: Vec<Hit>,
    /// Number and first address of the instructions that are not refused, by mnemonic and special
    /// register.
    unaligned: HashMap<(Mnemonic, Option<Register>), (u64, u64)>,
    /// The number of stubs, and the address of the second.
    stubs: (usize, u64),
    /// The number of bytes that are not an instruction, and the address of the first.
    undecodable: (u64, u64),
    refused: usize,
    /// The number of hits that the verdict has room for.
    room: usize,
}

impl Scan {
    /// Returns `true` if the scan has reached the limit of errors.
    fn is_over(&self) -> bool {
        self.findings.len() + self.refused >= MAX_ERRORS
    }
}

impl Program<'_> {
    /// Checks the whole program.
    pub(super) fn check(&self, verdict: &mut Verdict) {
        let mut scan = Scan { room: MAX_HITS.saturating_sub(verdict.hits.len()), ..Scan::default() };
        self.check_entry(&mut scan.findings);
        for load in &self.loads {
            self.check_words(load, &mut scan.findings);
            if load.execute {
                self.scan(load, &mut scan);
            }
        }
        if scan.is_over() {
            scan.findings.push(self.error(format!("more than {MAX_ERRORS} errors; the rest of it was not checked")));
        }
        let (count, first) = scan.undecodable;
        if count > 0 {
            scan.findings.push(
                self.notice(format!("bytes in the text that are not an instruction: {count}, the first at {first:#x}")),
            );
        }
        let (count, second) = scan.stubs;
        if count > 1 {
            scan.findings.push(self.error(format!(
                "the text contains `syscall` in {count} places, the second at {second:#x}; the runtime's stub is the only one allowed"
            )));
        }
        verdict.findings.append(&mut scan.findings);
        verdict.hits.append(&mut scan.hits);
        let unaligned = scan.unaligned.into_iter().map(|((mnemonic, register), (count, first))| {
            let mnemonic = name(mnemonic, register);
            Unaligned { service: self.service.to_owned(), mnemonic, count, first }
        });
        verdict.unaligned.extend(unaligned);
    }

    fn error(&self, message: String) -> Finding {
        Finding::error("code", format!("{}: {message}", self.service))
    }

    fn notice(&self, message: String) -> Finding {
        Finding::notice("code", format!("{}: {message}", self.service))
    }

    /// Checks that the entry point is the runtime's: the stack is empty there, and the function
    /// that it calls never returns.
    fn check_entry(&self, findings: &mut Vec<Finding>) {
        let load = self.loads.iter().find(|load| self.entry.wrapping_sub(load.address) < load.bytes.len() as u64);
        let Some(load) = load.filter(|load| load.execute) else {
            findings.push(self.error(format!("the entry point {:#x} is in no executable segment", self.entry)));
            return;
        };
        let at = (self.entry - load.address) as usize;
        let bytes = load.bytes.get(at..).unwrap_or_default();
        if !bytes.starts_with(&START) || !bytes.get(7..).is_some_and(|rest| rest.starts_with(&START_END)) {
            findings.push(self.error(format!("the entry point {:#x} is not the runtime's", self.entry)));
        }
    }

    /// Looks for addresses of the kernel among the words of a segment. Other words that look like
    /// upper addresses are numbers and tables of bytes.
    fn check_words(&self, load: &Load<'_>, findings: &mut Vec<Finding>) {
        let words = load.bytes.windows(8).filter_map(|word| Some(u64::from_le_bytes(word.try_into().ok()?)));
        let wrong = words.enumerate().find(|(at, word)| {
            let aligned = at.is_multiple_of(8) && !load.execute;
            self.kernel.contains(word) || (aligned && KERNEL_ADDRESSES.iter().any(|range| range.contains(word)))
        });
        if let Some((at, word)) = wrong {
            let address = load.address.wrapping_add(at as u64);
            findings.push(self.error(format!("a word at {address:#x} is an address of the kernel, {word:#x}")));
        }
    }

    fn scan(&self, load: &Load<'_>, scan: &mut Scan) {
        // The zeros that fill the last page may end in the middle of an instruction.
        let end = load.bytes.iter().rposition(|byte| *byte != 0).map_or(0, |last| last + 1);
        let mut boundary = 0;
        for offset in 0..load.bytes.len() {
            if scan.is_over() {
                return;
            }
            let address = load.address.wrapping_add(offset as u64);
            let Some(rest) = load.bytes.get(offset..) else { break };
            let window = rest.get(..LONGEST).unwrap_or(rest);
            let instruction = Decoder::with_ip(64, window, address, DecoderOptions::NONE).decode();
            let compiled = offset == boundary;
            if compiled && instruction.code() == Code::INVALID {
                boundary = offset + 1;
                if offset < end {
                    let (count, first) = scan.undecodable;
                    scan.undecodable = (count + 1, if count == 0 { address } else { first });
                }
            } else if compiled {
                boundary += instruction.len().max(1);
                self.check_references(&instruction, &mut scan.findings);
            }
            if instruction.code() == Code::INVALID {
                continue;
            }
            let Some(class) = class(&instruction) else { continue };
            if class == Class::Call && compiled && rest.starts_with(&STUB) {
                let (count, second) = scan.stubs;
                scan.stubs = (count + 1, if count == 1 { address } else { second });
                continue;
            }
            self.record(&instruction, compiled, class, scan);
        }
    }

    /// Records an instruction: each one that is refused, the first of the others, and their number.
    fn record(&self, instruction: &Instruction, compiled: bool, class: Class, scan: &mut Scan) {
        let (mnemonic, special) = (instruction.mnemonic(), special_register(instruction));
        let (address, refused) = (instruction.ip(), compiled || class == Class::Escape);
        if refused {
            scan.refused += 1;
        } else {
            scan.unaligned.entry((mnemonic, special)).or_insert((0, address)).0 += 1;
        }
        if refused || scan.hits.len() < scan.room {
            let mnemonic = name(mnemonic, special);
            scan.hits.push(Hit { service: self.service.to_owned(), address, mnemonic, compiled, refused });
        }
    }

    /// Checks that addresses in compiled code are in the program itself, and never in the kernel.
    fn check_references(&self, instruction: &Instruction, findings: &mut Vec<Finding>) {
        let at = instruction.ip();
        let inside = |address: u64| self.memory.iter().any(|segment| segment.contains(&address));
        if matches!(instruction.op0_kind(), OpKind::NearBranch16 | OpKind::NearBranch32 | OpKind::NearBranch64) {
            let target = instruction.near_branch_target();
            let text = self
                .loads
                .iter()
                .any(|load| load.execute && target.wrapping_sub(load.address) < load.bytes.len() as u64);
            if !text {
                findings
                    .push(self.error(format!("the code at {at:#x} goes to {target:#x}, outside the program's text")));
            }
        }
        if instruction.is_ip_rel_memory_operand() && !inside(instruction.ip_rel_memory_address()) {
            let target = instruction.ip_rel_memory_address();
            findings.push(self.error(format!("the code at {at:#x} refers to {target:#x}, outside the program")));
        }
        let immediate = (0..instruction.op_count()).find_map(|operand| match instruction.op_kind(operand) {
            OpKind::Immediate64 | OpKind::Immediate32to64 => Some(instruction.immediate(operand)),
            OpKind::Memory if instruction.memory_base() != Register::RIP => Some(instruction.memory_displacement64()),
            _ => None,
        });
        if let Some(address) = immediate.filter(|address| self.kernel.contains(address)) {
            findings.push(self.error(format!("the code at {at:#x} names {address:#x}, an address of the kernel")));
        }
    }
}
