//! Checks which tables are refused, field by field, on both sides of each limit.
#![forbid(unsafe_code)]

mod authority;
mod memory;
mod read_back;
mod sections;

use cloister_caps::tables::raw::{
    Capability, DomainSet, GrantRule, Image, Mapping, Name, PortRule, Queue, Region, Segment, Service,
};
use cloister_caps::tables::{
    Access, AfterLimit, FIRST_GRANT_REF, HEADER_SIZE, Isolation, MAGIC, MAX_GRANT_REFS, MAX_NOTIFICATION_BIT,
    MAX_SLOTS, Record, RegionKind, TableError, Tables, VERSION,
};
use cloister_caps::weakness::{Weakness, Weaknesses};
use cloister_caps::{Kind, Rights};

/// The end of the addresses of services.
const END: u64 = 1 << 46;
/// The guest-physical addresses of an image.
const IMAGE: std::ops::Range<u64> = cloister_caps::abi::IMAGE_ADDRESSES;
/// The names `alpha` and `beta`.
const NAMES: &str = "alphabeta";
const ALPHA: Name = Name { offset: 0, length: 5 };
const BETA: Name = Name { offset: 5, length: 4 };

/// The records of tables, before they are laid out.
#[derive(Clone)]
struct Draft {
    services: Vec<Service>,
    segments: Vec<Segment>,
    regions: Vec<Region>,
    mappings: Vec<Mapping>,
    capabilities: Vec<Capability>,
    queues: Vec<Queue>,
    grants: Vec<GrantRule>,
    ports: Vec<PortRule>,
    domains: Vec<DomainSet>,
    names: Vec<u8>,
    policy: Vec<u8>,
    image: Vec<Image>,
}

fn encoded<R: Record>(records: &[R]) -> (Vec<u8>, usize) {
    let mut bytes = vec![0; records.len() * R::SIZE];
    for (chunk, record) in bytes.chunks_exact_mut(R::SIZE).zip(records) {
        record.encode(chunk);
    }
    (bytes, records.len())
}

fn put(bytes: &mut [u8], at: usize, word: usize) {
    bytes[at..at + 4].copy_from_slice(&(word as u32).to_le_bytes());
}

impl Draft {
    /// Returns valid tables of two services. The first sends to the second, grants a region and has
    /// a port.
    fn good() -> Draft {
        let service = Service {
            name: ALPHA,
            entry: 0x1000,
            stack_top: 0x9000,
            budget_us: 10,
            period_us: 10,
            restart_limit: 1,
            priority: 3,
            after_limit: AfterLimit::StopImage,
        };
        let segment = Segment {
            service: 1,
            flags: 5,
            address: 0x1000,
            image_address: IMAGE.start,
            file_size: 0x800,
            memory_size: 0x800,
        };
        let region = Region {
            name: BETA,
            image_address: 0,
            image_length: 0,
            amount: 4,
            minimum: 0,
            maximum: 0,
            kind: RegionKind::Fixed,
            clear_on_restart: 0,
        };
        let mapping = Mapping { service: 0, access: Access::ReadWrite, region: 0, address: 0x4000 };
        let capability = |service, kind, slot, object| Capability {
            service,
            kind,
            slot,
            rights: Rights::NOTIFY,
            object,
            line: 7,
            name: ALPHA,
        };
        let grant =
            GrantRule { name: ALPHA, region: 0, access: Access::Read, first_ref: FIRST_GRANT_REF, count: 4, peers: 0 };
        Draft {
            services: vec![service, Service { name: BETA, ..service }],
            segments: vec![segment],
            regions: vec![region, region],
            mappings: vec![mapping, Mapping { service: 1, access: Access::Read, ..mapping }],
            capabilities: vec![
                capability(0, Kind::Sender, 0, 0),
                capability(1, Kind::Receiver, 0, 0),
                capability(0, Kind::Port, 1, 0),
                capability(0, Kind::Grant, 2, 0),
                capability(1, Kind::Region, 1, 1),
                capability(1, Kind::Console, MAX_SLOTS as u16 - 1, 0),
                capability(1, Kind::Domain, 2, 1),
            ],
            queues: vec![Queue {
                name: BETA,
                sender: 0,
                receiver: 1,
                sender_bit: 0,
                receiver_bit: MAX_NOTIFICATION_BIT,
                message_size: 1,
                depth: 4,
                producer_region: 0,
                consumer_region: 1,
            }],
            grants: vec![grant, GrantRule { first_ref: MAX_GRANT_REFS - 1, count: 1, ..grant }],
            ports: vec![PortRule { name: BETA, service: 0, bit: MAX_NOTIFICATION_BIT, peer: 1 }],
            domains: vec![
                DomainSet { name: BETA, first: 3, last: 3, pinned: 0 },
                DomainSet { name: ALPHA, first: 0, last: 9, pinned: 1 },
            ],
            names: NAMES.into(),
            policy: "a = 1".into(),
            image: vec![Image { isolation: Isolation::Strict, refused: Weaknesses::NONE.with(Weakness::Meltdown) }],
        }
    }

    fn bytes(&self) -> Vec<u8> {
        let sections = [
            encoded(&self.services),
            encoded(&self.segments),
            encoded(&self.regions),
            encoded(&self.mappings),
            encoded(&self.capabilities),
            encoded(&self.queues),
            encoded(&self.grants),
            encoded(&self.ports),
            encoded(&self.domains),
            (self.names.clone(), self.names.len()),
            (self.policy.clone(), self.policy.len()),
            encoded(&self.image),
        ];
        let mut bytes = vec![0; HEADER_SIZE];
        bytes[..8].copy_from_slice(&MAGIC);
        put(&mut bytes, 8, VERSION as usize);
        for index in 0..32 {
            bytes[16 + index] = index as u8 + 1;
        }
        for (index, (section, count)) in sections.iter().enumerate() {
            let start = bytes.len();
            put(&mut bytes, 48 + index * 8, start);
            put(&mut bytes, 52 + index * 8, *count);
            bytes.extend(section);
        }
        let length = bytes.len();
        put(&mut bytes, 12, length);
        bytes
    }

    fn refusal(&self) -> Option<TableError> {
        Tables::parse(&self.bytes()).err()
    }
}

/// A change to a good draft, and whether the tables are still valid after it.
type Case = (bool, fn(&mut Draft));

/// Asserts that each change keeps a good draft valid, or is refused for record `index` of `what`.
fn check_changes(what: &'static str, index: u32, cases: &[Case]) {
    assert_eq!(Draft::good().refusal(), None);
    for (number, (holds, change)) in cases.iter().enumerate() {
        let mut draft = Draft::good();
        change(&mut draft);
        let expected = (!holds).then_some(TableError::Record(what, index));
        assert_eq!(draft.refusal(), expected, "{what}, case {number}");
    }
}
