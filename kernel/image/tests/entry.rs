//! Checks where interrupts with a stack of their own lead: follows the code of `entry.s`, which is
//! linked into this program, from each of them along every branch.
//!
//! On such a stack `save` would push a frame that the kernel never reads. The kernel would serve
//! the service's last entry again.

use std::arch::global_asm;
use std::collections::BTreeSet;

use iced_x86::{Decoder, DecoderOptions, FlowControl, Instruction, Mnemonic};

#[path = "../src/vectors.rs"]
mod vectors;

global_asm!(include_str!("../src/entry.s"));

/// More bytes than `entry.s` has code.
const LENGTH: u64 = 4096;

unsafe extern "C" {
    static trap_stubs: [[u8; 16]; 32];
    static nmi_entry: u8;
    static upcall_entry: u8;
    static system_call_entry: u8;
    static save: u8;
    fn fill_return_predictions();
}

// The symbols that `entry.s` refers to. They are never used, because the code is read and not run.
#[unsafe(no_mangle)]
static FRAME_TOP: u64 = 0;
#[unsafe(no_mangle)]
static SCRATCH: u64 = 0;
#[unsafe(no_mangle)]
static NMI_SEEN: u8 = 0;
#[unsafe(no_mangle)]
static WAY: u8 = 0;
#[unsafe(no_mangle)]
static relocated_page: [u8; 4096] = [0; 4096];
#[unsafe(no_mangle)]
static stack_top: u64 = 0;
#[unsafe(no_mangle)]
extern "C" fn kernel_entered() {}
#[unsafe(no_mangle)]
extern "C" fn kernel_faulted() {}

/// Decodes the instruction at an address.
fn instruction(at: u64) -> Instruction {
    // SAFETY: every address is one of `entry.s`: an entry, or the target of a branch. After it
    // follow more bytes of this program's text than an instruction has.
    let bytes = unsafe { std::slice::from_raw_parts(at as *const u8, 15) };
    let instruction = Decoder::with_ip(64, bytes, at, DecoderOptions::NONE).decode();
    assert!(!instruction.is_invalid(), "{at:#x} is no instruction");
    instruction
}

/// Returns the addresses of all instructions that can run from `start` on, and of the functions
/// that they call.
fn reached(start: u64) -> (BTreeSet<u64>, BTreeSet<u64>) {
    let (mut seen, mut called, mut open) = (BTreeSet::new(), BTreeSet::new(), vec![start]);
    while let Some(at) = open.pop() {
        assert!(at.abs_diff(start) < LENGTH, "{at:#x} lies outside of the file");
        if !seen.insert(at) {
            continue;
        }
        let instruction = instruction(at);
        match instruction.flow_control() {
            FlowControl::Next => open.push(instruction.next_ip()),
            FlowControl::UnconditionalBranch => open.push(instruction.near_branch_target()),
            FlowControl::ConditionalBranch => open.extend([instruction.next_ip(), instruction.near_branch_target()]),
            FlowControl::Call => {
                called.insert(instruction.near_branch_target());
                open.push(instruction.next_ip());
            }
            // `iretq` and `ud2`.
            FlowControl::Return | FlowControl::Exception => {}
            other => panic!("{other:?} at {at:#x}"),
        }
    }
    (seen, called)
}

/// Returns the address of a vector's entry.
fn entry(vector: usize) -> u64 {
    let stub = &raw const trap_stubs as u64 + 16 * vector as u64;
    if vector == vectors::NMI { &raw const nmi_entry as u64 } else { stub }
}

#[test]
fn no_vector_with_its_own_stack_leads_to_a_trap_frame() {
    let (saves, entered) = (&raw const save as u64, kernel_entered as *const () as u64);
    let mut own = Vec::new();
    for vector in 0..32 {
        let (seen, called) = reached(entry(vector));
        let frame = seen.contains(&saves) || called.contains(&entered);
        assert_eq!(frame, vectors::ist(vector).is_none(), "vector {vector}");
        own.extend(vectors::ist(vector));
    }
    assert_eq!(own.iter().collect::<BTreeSet<_>>().len(), own.len(), "each has its own stack");
    assert_eq!(own.len(), 3);
}

#[test]
fn a_double_fault_and_a_machine_check_are_fatal_and_an_nmi_calls_nothing() {
    let faulted = kernel_faulted as *const () as u64;
    for vector in [vectors::DOUBLE_FAULT, vectors::MACHINE_CHECK] {
        assert_eq!(reached(entry(vector)).1, BTreeSet::from([faulted]), "vector {vector}");
    }
    assert_eq!(reached(entry(vectors::NMI)).1, BTreeSet::new());
}

#[test]
fn upcalls_and_system_calls_lead_to_the_kernel() {
    let entered = kernel_entered as *const () as u64;
    for entry in [&raw const upcall_entry, &raw const system_call_entry] {
        assert!(reached(entry as u64).1.contains(&entered));
    }
}

/// The filling runs here as in the kernel: it needs no privilege.
#[test]
fn predictions_of_returns_are_filled_by_32_calls_and_the_stack_is_left_as_it_was() {
    let start = fill_return_predictions as *const () as u64;
    let (mut at, mut calls, mut rounds, mut dropped) = (start, 0, None, 0);
    // In the order of the code: each call goes to the next part, past an `int3`.
    loop {
        let one = instruction(at);
        match (one.mnemonic(), one.flow_control()) {
            (Mnemonic::Mov, _) => rounds = Some(one.immediate(1)),
            (_, FlowControl::Call) => {
                calls += 1;
                assert_eq!(instruction(one.next_ip()).mnemonic(), Mnemonic::Int3);
                at = one.near_branch_target();
                continue;
            }
            (Mnemonic::Add, _) => dropped += one.immediate(1),
            (_, FlowControl::ConditionalBranch) => assert!(one.near_branch_target() > start),
            (_, FlowControl::Return) => break,
            _ => {}
        }
        at = one.next_ip();
    }
    assert_eq!((rounds.map(|rounds| rounds * calls), dropped), (Some(32), calls * 8));
    let (before, after): (u64, u64);
    // SAFETY: it keeps to the calling convention. What would make it not return fails this test.
    unsafe {
        std::arch::asm!("mov r12, rsp", "call {fill}", "mov r13, rsp", out("r12") before, out("r13") after,
            fill = sym fill_return_predictions, clobber_abi("C"));
    }
    assert_eq!(before, after);
}
