//! Tables for the unit tests of this crate. Only checked tables hand out ids.

use cloister_caps::ServiceId;
use cloister_caps::tables::raw::{Image, Mapping, Name, Region, Segment, Service};
use cloister_caps::tables::{
    Access, AfterLimit, HEADER_SIZE, Isolation, MAGIC, MAX_SERVICES, Record, RegionKind, Section, Tables, VERSION,
};
use cloister_caps::weakness::Weaknesses;

/// A service that may be in tables.
pub(crate) const SERVICE: Service = Service {
    name: NAME,
    entry: 0,
    stack_top: 0,
    budget_us: 1,
    period_us: 1,
    restart_limit: 0,
    priority: 0,
    after_limit: AfterLimit::StopImage,
};
/// A region of one page.
pub(crate) const REGION: Region = Region {
    name: NAME,
    image_address: 0,
    image_length: 0,
    amount: 1,
    minimum: 0,
    maximum: 0,
    kind: RegionKind::Fixed,
    clear_on_restart: 0,
};
/// A mapping of the first region in the first service, for reading.
pub(crate) const MAPPING: Mapping = Mapping { service: 0, access: Access::Read, region: 0, address: 0x1000 };
const NAME: Name = Name { offset: 0, length: 0 };

/// Returns the id of the service at `index`, in tables with as many services as there can be.
pub(crate) fn id(index: u8) -> ServiceId {
    thread_local! {
        static TABLES: Tables<'static> = tables(&[SERVICE; MAX_SERVICES], &[], &[], &[]);
    }
    TABLES.with(|tables| tables.services().id(usize::from(index))).unwrap()
}

/// Returns checked tables of these records.
pub(crate) fn tables(
    services: &[Service],
    segments: &[Segment],
    regions: &[Region],
    mappings: &[Mapping],
) -> Tables<'static> {
    let sections = [records(services), records(segments), records(regions), records(mappings)];
    let mut bytes = vec![0; HEADER_SIZE];
    let put = |bytes: &mut [u8], at: usize, word: usize| {
        bytes[at..at + 4].copy_from_slice(&u32::try_from(word).unwrap().to_le_bytes());
    };
    bytes[..8].copy_from_slice(&MAGIC);
    put(&mut bytes, 8, VERSION as usize);
    for section in 0..Section::ALL.len() {
        let start = bytes.len();
        put(&mut bytes, 48 + section * 8, start);
        let image;
        let section_records = if section == Section::Image as usize {
            image = records(&[Image { isolation: Isolation::Standard, refused: Weaknesses::NONE }]);
            Some(&image)
        } else {
            sections.get(section)
        };
        if let Some((records, count)) = section_records {
            put(&mut bytes, 52 + section * 8, *count);
            bytes.extend(records);
        }
    }
    let length = bytes.len();
    put(&mut bytes, 12, length);
    Tables::parse(bytes.leak()).unwrap()
}

fn records<R: Record>(records: &[R]) -> (Vec<u8>, usize) {
    let mut bytes = vec![0; records.len() * R::SIZE];
    for (place, record) in bytes.chunks_exact_mut(R::SIZE).zip(records) {
        record.encode(place);
    }
    (bytes, records.len())
}
