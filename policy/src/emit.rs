//! The capability tables as bytes, in the layout of [`cloister_caps::tables`].

use std::collections::BTreeMap;

use cloister_caps::tables::{
    Capability, GrantRule, HEADER_SIZE, MAGIC, Name, PortRule, Queue, Record, Region, SECTIONS, Segment, Service,
    VERSION,
};

use crate::plan::{Entry, Plan};

/// What the programs and the layout of the image add to a plan.
#[derive(Default)]
pub(crate) struct Placement {
    /// The entry point of each service.
    pub entries: Vec<u64>,
    /// The segments of all programs.
    pub segments: Vec<Segment>,
    /// Where each piece of image data lies, in the order of [`Plan::data`].
    pub data: Vec<u64>,
}

/// Emits the tables. `None` if they would be larger than their 32-bit offsets reach.
pub(crate) fn emit(plan: &Plan, placement: &Placement, hash: [u8; 32], canonical: &str) -> Option<Vec<u8>> {
    let mut names = Names::default();
    let mut regions = plan.regions.iter().map(|entry| entry.record).collect::<Vec<_>>();
    for ((index, _), address) in plan.data.iter().zip(&placement.data) {
        regions.get_mut(*index)?.image = *address;
    }
    let mut services = plan.services.iter().map(|entry| entry.record).collect::<Vec<_>>();
    for (service, entry) in services.iter_mut().zip(&placement.entries) {
        service.entry = *entry;
    }
    for (record, entry) in services.iter_mut().zip(&plan.services) {
        record.name = names.intern(&entry.name)?;
    }
    for (record, entry) in regions.iter_mut().zip(&plan.regions) {
        record.name = names.intern(&entry.name)?;
    }
    let capabilities = named(&plan.capabilities, &mut names, |record: &mut Capability, name| record.name = name)?;
    let queues = named(&plan.queues, &mut names, |record: &mut Queue, name| record.name = name)?;
    let grants = named(&plan.grants, &mut names, |record: &mut GrantRule, name| record.name = name)?;
    let ports = named(&plan.ports, &mut names, |record: &mut PortRule, name| record.name = name)?;
    let sections: [(usize, Vec<u8>); SECTIONS.len()] = [
        records::<Service>(&services),
        records::<Segment>(&placement.segments),
        records::<Region>(&regions),
        records(&plan.mappings),
        records(&capabilities),
        records(&queues),
        records(&grants),
        records(&ports),
        (names.text.len(), names.text.into_bytes()),
        (canonical.len(), canonical.as_bytes().to_vec()),
    ];
    let length = sections.iter().map(|(_, bytes)| bytes.len()).sum::<usize>().checked_add(HEADER_SIZE)?;
    let mut out = Vec::with_capacity(length);
    out.extend(MAGIC);
    out.extend(VERSION.to_le_bytes());
    out.extend(u32::try_from(length).ok()?.to_le_bytes());
    out.extend(hash);
    let mut offset = HEADER_SIZE;
    for (count, bytes) in &sections {
        out.extend(u32::try_from(offset).ok()?.to_le_bytes());
        out.extend(u32::try_from(*count).ok()?.to_le_bytes());
        offset += bytes.len();
    }
    for (_, bytes) in sections {
        out.extend(bytes);
    }
    Some(out)
}

fn named<R: Copy>(entries: &[Entry<R>], names: &mut Names, set: impl Fn(&mut R, Name)) -> Option<Vec<R>> {
    entries
        .iter()
        .map(|entry| {
            let mut record = entry.record;
            set(&mut record, names.intern(&entry.name)?);
            Some(record)
        })
        .collect()
}

fn records<R: Record>(records: &[R]) -> (usize, Vec<u8>) {
    let mut bytes = vec![0; records.len() * R::SIZE];
    for (record, place) in records.iter().zip(bytes.chunks_exact_mut(R::SIZE)) {
        record.encode(place);
    }
    (records.len(), bytes)
}

/// The names section: each name once.
#[derive(Default)]
struct Names {
    text: String,
    known: BTreeMap<String, Name>,
}

impl Names {
    fn intern(&mut self, name: &str) -> Option<Name> {
        if let Some(known) = self.known.get(name) {
            return Some(*known);
        }
        let new = Name { offset: u32::try_from(self.text.len()).ok()?, length: u32::try_from(name.len()).ok()? };
        self.text.push_str(name);
        self.known.insert(name.to_owned(), new);
        Some(new)
    }
}
