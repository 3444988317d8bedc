//! Checks that the parts of the image are where the tables say, and that the tables account for
//! every part.

use std::collections::BTreeMap;

use cloister_caps::tables::{HEADER_SIZE, Name, RegionKind, Segment, Tables};
use sha2::{Digest, Sha256};

use super::code::Program;
use super::image::{Image, Load, PAGE};
use super::verdict::{Finding, ProgramSummary, Verdict};
use crate::image_limits::{MAX_LOADS, MAX_NAME};

/// The size of the address range for the program of one service, in bytes.
const ROOM: u64 = 16 << 20;
/// Bits of a segment's flags in the tables.
const READ: u8 = 1;
const WRITE: u8 = 2;
const EXECUTE: u8 = 4;

/// The sections of the tables in the order of the header: name, and size of a record in bytes.
///
/// This is a second list on purpose: a check shares no code with the code that it checks. A test
/// compares the list with `cloister_caps::tables::Section`.
pub(super) const SECTIONS: [(&str, usize); 12] = [
    ("services", 36),
    ("segments", 34),
    ("regions", 38),
    ("mappings", 12),
    ("capabilities", 24),
    ("queues", 20),
    ("grants", 21),
    ("ports", 12),
    ("domains", 13),
    ("names", 1),
    ("policy text", 1),
    ("image", 3),
];
/// The number of the section of names.
const NAMES: usize = 9;

/// Checks the form of the tables as bytes, and returns their length.
///
/// The sections follow each other, with nothing between or after them, and each name is there once.
pub(super) fn blob(bytes: &[u8], tables: &Tables<'_>, findings: &mut Vec<Finding>) -> u64 {
    let mut error = |message: String| findings.push(Finding::error("tables", message));
    let word = |at: usize| {
        let word = bytes.get(at..at + 4).and_then(|word| word.try_into().ok()).map_or(0, u32::from_le_bytes);
        word as usize
    };
    let length = word(12);
    let mut next = HEADER_SIZE;
    for (index, (name, size)) in SECTIONS.into_iter().enumerate() {
        let (start, count) = (word(48 + index * 8), word(52 + index * 8));
        if start != next {
            error(format!("the section of {name} starts at {start}, and the one before ends at {next}"));
        }
        next = start.saturating_add(count.saturating_mul(size));
    }
    if next != length {
        error(format!("the sections end at {next}, the tables at {length}"));
    }
    if bytes.get(length..).is_none_or(|rest| rest.iter().any(|byte| *byte != 0)) {
        error("there is something after the tables".into());
    }
    names(tables, word(52 + NAMES * 8), &mut error);
    length as u64
}

/// Checks that the names fill their section without gaps or overlaps, and that each is one that a
/// policy makes.
fn names(tables: &Tables<'_>, length: usize, error: &mut impl FnMut(String)) {
    let all = tables
        .services()
        .iter()
        .map(|service| service.name)
        .chain(tables.regions().iter().map(|region| region.name))
        .chain(tables.capabilities().iter().map(|capability| capability.name))
        .chain(tables.queues().iter().map(|queue| queue.name))
        .chain(tables.grants().iter().map(|grant| grant.name))
        .chain(tables.ports().iter().map(|port| port.name))
        .chain(tables.domains().iter().map(|set| set.name))
        .collect::<Vec<Name>>();
    let odd = |name: &&Name| {
        let text = tables.name(**name);
        text.is_empty() || text.len() > MAX_NAME || !text.bytes().all(|byte| byte.is_ascii_graphic())
    };
    if let Some(name) = all.iter().find(odd) {
        error(format!(
            "the name at byte {} of its section is not one that an entry of a policy makes",
            name.raw().offset
        ));
    }
    let mut places: Vec<(usize, usize)> = all
        .iter()
        .map(|name| name.raw())
        .map(|name| (name.offset as usize, (name.offset as usize).saturating_add(name.length as usize)))
        .collect();
    places.sort_unstable();
    places.dedup();
    let mut next = 0;
    for (start, end) in places {
        if start != next {
            error(format!("the names before byte {start} of their section are not in order"));
        }
        next = end;
    }
    if next != length {
        error(format!("the names end at {next}, their section at {length}"));
    }
}

/// Checks where the programs of the services are, and that nothing else is in the image. Returns
/// the programs.
pub(super) fn programs<'a>(image: &'a Image<'a>, tables: &'a Tables<'a>, verdict: &mut Verdict) -> Vec<Program<'a>> {
    let mut programs = Vec::new();
    verdict.programs.push(kernel_part(image));
    if tables.segments().len() > MAX_LOADS {
        verdict.error("layout", format!("there are {} segments of programs", tables.segments().len()));
        return programs;
    }
    let mut accounted = vec![false; image.rest().len()];
    for (id, service) in tables.services().with_ids() {
        let name = tables.name(service.name);
        let base = ROOM.saturating_mul(id.index() as u64 + 1);
        let own: Vec<Segment> = tables.segments().iter().filter(|segment| segment.service == id).collect();
        let mut loads = Vec::new();
        let mut part = ProgramSummary { name: name.to_owned(), hash: [0; 32], bytes: 0, text: 0 };
        let mut hash = Sha256::new();
        for segment in &own {
            check_segment(name, segment, base, &mut verdict.findings);
            hash_segment(&mut hash, segment);
            if segment.file_size == 0 {
                check_empty(name, segment, &mut verdict.findings);
                continue;
            }
            let load = image.rest().iter().position(|load| load.physical == segment.image_address);
            let Some((at, load)) = load.and_then(|at| Some((at, image.rest().get(at)?))) else {
                let place = segment.image_address;
                verdict
                    .findings
                    .push(Finding::error("layout", format!("{name}: nothing is loaded at physical {place:#x}")));
                continue;
            };
            if accounted.get(at) == Some(&true) {
                let message = format!("{name}: the segment at physical {:#x} is used twice", load.physical);
                verdict.findings.push(Finding::error("layout", message));
            }
            accounted[at] = true;
            check_load(name, segment, load, &mut verdict.findings);
            hash.update(&load.bytes);
            part.add(load);
            loads.push(load);
        }
        check_pages(name, &own, &mut verdict.findings);
        check_order(name, &own, &mut verdict.findings);
        part.hash = hash.finalize().into();
        verdict.programs.push(part);
        let memory = |segment: &Segment| segment.address..segment.address.saturating_add(segment.memory_size);
        let memory = own.iter().map(memory).collect();
        programs.push(Program { service: name, entry: service.entry, loads, memory, kernel: image.kernel_range() });
    }
    for region in tables.regions().iter().filter(|region| region.kind == RegionKind::ImageData) {
        if let Some(at) = image.rest().iter().position(|load| load.physical == region.image_address) {
            accounted[at] = true;
        }
    }
    for (load, _) in image.rest().iter().zip(accounted).filter(|(_, accounted)| !accounted) {
        let message = format!("the tables do not account for the segment at physical {:#x}", load.physical);
        verdict.findings.push(Finding::error("layout", message));
    }
    programs
}

/// Returns the part of the kernel. Its hash leaves out the sixteen bytes that point to the tables.
fn kernel_part(image: &Image<'_>) -> ProgramSummary {
    let mut part = ProgramSummary { name: "kernel".into(), hash: [0; 32], bytes: 0, text: 0 };
    let mut hash = Sha256::new();
    let mut constants = image.kernel().iter().position(|load| load.in_kernel_half() && !load.write && !load.execute);
    for (index, load) in image.kernel().iter().enumerate() {
        for word in [load.address, load.physical, load.memory, load.bytes.len() as u64] {
            hash.update(word.to_le_bytes());
        }
        hash.update([u8::from(load.read), u8::from(load.write), u8::from(load.execute)]);
        let skipped = if constants.take_if(|constants| *constants == index).is_some() { 16 } else { 0 };
        hash.update(load.bytes.get(skipped..).unwrap_or_default());
        part.add(load);
    }
    part.hash = hash.finalize().into();
    part
}

impl ProgramSummary {
    fn add(&mut self, load: &Load<'_>) {
        self.bytes = self.bytes.saturating_add(load.memory);
        self.text = self.text.saturating_add(if load.execute { load.memory } else { 0 });
    }
}

fn hash_segment(hash: &mut Sha256, segment: &Segment) {
    hash.update([segment.flags]);
    for word in [segment.address, segment.file_size, segment.memory_size] {
        hash.update(word.to_le_bytes());
    }
}

fn check_segment(name: &str, segment: &Segment, base: u64, findings: &mut Vec<Finding>) {
    let mut error = |message: String| findings.push(Finding::error("layout", format!("{name}: {message}")));
    let address = segment.address;
    let (end, last) = (address.saturating_add(segment.memory_size), base.saturating_add(ROOM - 1));
    if address < base || end > last.saturating_add(1) {
        error(format!("the segment at {address:#x} is outside {base:#x} to {last:#x}"));
    }
    if segment.flags & READ == 0 || segment.memory_size == 0 {
        error(format!("the segment at {address:#x} is useless: it cannot be read, or has no bytes"));
    }
    if segment.flags & WRITE != 0 && segment.flags & EXECUTE != 0 {
        error(format!("the segment at {address:#x} is writable and executable"));
    }
    if segment.flags & WRITE == 0 && segment.file_size != segment.memory_size {
        error(format!("the segment at {address:#x} is mapped from the image, which does not hold all of it"));
    }
}

fn check_empty(name: &str, segment: &Segment, findings: &mut Vec<Finding>) {
    if segment.image_address != 0 {
        let message =
            format!("{name}: the segment at {:#x} has no bytes, but an address in the image", segment.address);
        findings.push(Finding::error("layout", message));
    }
}

/// Checks a segment against the part of the file that it is mapped or copied from.
fn check_load(name: &str, segment: &Segment, load: &Load<'_>, findings: &mut Vec<Finding>) {
    let mut error = |message: String| findings.push(Finding::error("layout", format!("{name}: {message}")));
    let address = segment.address;
    if load.address != address {
        error(format!("the segment at {address:#x} is linked at {:#x}", load.address));
    }
    if Some(load.memory) != segment.file_size.checked_next_multiple_of(PAGE) {
        error(format!("the segment at {address:#x} has {} bytes; the image holds {}", segment.file_size, load.memory));
    }
    if (segment.flags & EXECUTE != 0) != load.execute {
        error(format!("the segment at {address:#x} is {} in the image", load.mode()));
    }
    let end = usize::try_from(segment.file_size).unwrap_or(usize::MAX);
    if load.bytes.get(end..).is_some_and(|rest| rest.iter().any(|byte| *byte != 0)) {
        error(format!("there is something after the end of the segment at {address:#x}"));
    }
}

/// Checks that no page belongs to two segments.
fn check_pages(name: &str, own: &[Segment], findings: &mut Vec<Finding>) {
    let mut ranges: Vec<(u64, u64)> = own
        .iter()
        .map(|segment| {
            (segment.address, segment.address.saturating_add(segment.memory_size).div_ceil(PAGE).saturating_mul(PAGE))
        })
        .collect();
    ranges.sort_unstable();
    for pair in ranges.windows(2) {
        if let [(_, end), (start, _)] = pair
            && end > start
        {
            findings.push(Finding::error("layout", format!("{name}: two segments share the page at {start:#x}")));
        }
    }
}

/// Checks that a program is constants, text and data, in this order (`services/runtime/link.ld`).
///
/// The image itself does not show which of its pages are copied to be written.
fn check_order(name: &str, own: &[Segment], findings: &mut Vec<Finding>) {
    let mut sorted: Vec<&Segment> = own.iter().collect();
    sorted.sort_by_key(|segment| segment.address);
    let kinds: Vec<u8> = sorted.iter().map(|segment| segment.flags & (WRITE | EXECUTE)).collect();
    if !matches!(kinds[..], [EXECUTE] | [0, EXECUTE] | [EXECUTE, WRITE] | [0, EXECUTE, WRITE]) {
        let message = format!("{name}: its segments are not constants, text and data, in this order");
        findings.push(Finding::error("layout", message));
    }
}

/// Checks the bytes of the regions of image data.
pub(super) fn data(
    image: &Image<'_>,
    tables: &Tables<'_>,
    expected: &BTreeMap<String, Vec<u8>>,
    findings: &mut Vec<Finding>,
) {
    for region in tables.regions().iter() {
        let name = tables.name(region.name);
        let mut error = |message: &str| findings.push(Finding::error("data", format!("{name}: {message}")));
        if region.kind != RegionKind::ImageData {
            if region.image_address != 0 {
                error("is not data of the image, but has an address in it");
            }
            continue;
        }
        let Some(bytes) = expected.get(name) else { continue };
        let load = image.rest().iter().find(|load| load.physical == region.image_address);
        let Some(load) = load else {
            error("nothing is loaded where the tables say that its bytes are");
            continue;
        };
        if !load.bytes.starts_with(bytes) {
            error("its bytes are not the rules of the policy");
        } else if load.bytes.get(bytes.len()..).is_some_and(|rest| rest.iter().any(|byte| *byte != 0)) {
            error("there is something after its rules");
        }
        if Some(load.bytes.len()) != bytes.len().checked_next_multiple_of(PAGE as usize)
            || load.execute
            || load.address != load.physical
        {
            error("its segment is too large, executable, or linked elsewhere");
        }
    }
}
