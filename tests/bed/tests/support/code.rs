//! Lists instructions of a program by reading its ELF file.
#![allow(dead_code, reason = "each test program uses a part of it")]

use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;

use iced_x86::{Decoder, DecoderOptions, FlowControl, Instruction};
use object::{Object, ObjectSection, ObjectSymbol, SectionKind};

/// The longest instruction, in bytes.
const LONGEST: usize = 15;

/// The code of a program.
pub struct Code {
    /// Each section of code: its address and its bytes.
    sections: Vec<(u64, Vec<u8>)>,
    symbols: BTreeMap<String, u64>,
    /// Each function: its address and its length.
    functions: Vec<(u64, u64)>,
}

impl Code {
    /// Reads the file of a program.
    pub fn read(path: &Path) -> Code {
        let bytes = std::fs::read(path).unwrap_or_else(|error| panic!("{}: {error}", path.display()));
        let file = object::File::parse(&*bytes).unwrap_or_else(|error| panic!("{}: {error}", path.display()));
        let code = file.sections().filter(|section| section.kind() == SectionKind::Text);
        let sections = code.map(|section| (section.address(), section.data().expect("content").to_vec())).collect();
        let named = |symbol: &object::Symbol<'_, '_>| Some((symbol.name().ok()?.to_owned(), symbol.address()));
        let functions = file.symbols().filter(|symbol| symbol.size() > 0 && symbol.kind() == object::SymbolKind::Text);
        Code {
            sections,
            symbols: file.symbols().filter_map(|symbol| named(&symbol)).collect(),
            functions: functions.map(|symbol| (symbol.address(), symbol.size())).collect(),
        }
    }

    /// Returns the sections of code: their addresses and bytes.
    pub fn sections(&self) -> &[(u64, Vec<u8>)] {
        &self.sections
    }

    /// Returns the address of a symbol.
    pub fn symbol(&self, name: &str) -> u64 {
        *self.symbols.get(name).unwrap_or_else(|| panic!("there is no symbol {name}"))
    }

    /// Returns the instruction at an address.
    pub fn instruction(&self, at: u64) -> Instruction {
        let inside = |(start, bytes): &&(u64, Vec<u8>)| (*start..*start + bytes.len() as u64).contains(&at);
        let (start, bytes) = self.sections.iter().find(inside).unwrap_or_else(|| panic!("{at:#x} is no code"));
        let from = (at - start) as usize;
        let bytes = &bytes[from..bytes.len().min(from + LONGEST)];
        Decoder::with_ip(64, bytes, at, DecoderOptions::NONE).decode()
    }

    /// Returns the addresses of all instructions that can run from `start` on until a return,
    /// without those of called functions and those from `end` on.
    pub fn flow(&self, start: u64, end: u64) -> BTreeSet<u64> {
        let (mut seen, mut open) = (BTreeSet::new(), vec![start]);
        while let Some(at) = open.pop() {
            if at == end || !seen.insert(at) {
                continue;
            }
            let instruction = self.instruction(at);
            match instruction.flow_control() {
                FlowControl::Next | FlowControl::Call => open.push(instruction.next_ip()),
                FlowControl::UnconditionalBranch => open.push(instruction.near_branch_target()),
                FlowControl::ConditionalBranch => {
                    open.extend([instruction.next_ip(), instruction.near_branch_target()]);
                }
                _ => {}
            }
        }
        seen
    }

    /// Returns all instructions of the functions that have a symbol.
    pub fn instructions(&self) -> Vec<Instruction> {
        let mut all = Vec::new();
        for &(start, length) in &self.functions {
            let mut at = start;
            while at < start + length {
                let instruction = self.instruction(at);
                at = instruction.next_ip();
                all.push(instruction);
            }
        }
        all
    }
}
