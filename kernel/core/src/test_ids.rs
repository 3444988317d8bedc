//! Ids for the unit tests of this crate. Only checked tables hand out ids, so these are of tables.

use cloister_caps::ServiceId;
use cloister_caps::tables::{AfterLimit, HEADER_SIZE, MAGIC, MAX_SERVICES, Record, SECTIONS, Tables, VERSION, raw};

/// Returns the id of the service at `index`, in tables with as many services as there can be.
pub(crate) fn id(index: u8) -> ServiceId {
    thread_local! {
        static TABLES: &'static [u8] = tables().leak();
    }
    Tables::parse(TABLES.with(|tables| *tables)).unwrap().services().id(usize::from(index)).unwrap()
}

fn tables() -> Vec<u8> {
    let service = raw::Service {
        name: raw::Name::default(),
        entry: 0,
        stack_top: 0,
        budget_us: 1,
        period_us: 1,
        restart_limit: 0,
        priority: 0,
        after_limit: AfterLimit::StopImage,
    };
    let length = HEADER_SIZE + MAX_SERVICES * raw::Service::SIZE;
    let mut bytes = vec![0; length];
    let mut put = |at: usize, word: usize| bytes[at..at + 4].copy_from_slice(&(word as u32).to_le_bytes());
    put(8, VERSION as usize);
    put(12, length);
    for section in 0..SECTIONS.len() {
        put(48 + section * 8, HEADER_SIZE);
        put(52 + section * 8, if section == 0 { MAX_SERVICES } else { 0 });
    }
    bytes[..8].copy_from_slice(&MAGIC);
    bytes[HEADER_SIZE..].chunks_exact_mut(raw::Service::SIZE).for_each(|record| service.encode(record));
    bytes
}
