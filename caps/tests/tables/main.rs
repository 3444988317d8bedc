//! Checks which tables are refused, field by field, on both sides of each limit.
#![forbid(unsafe_code)]

use cloister_caps::tables::raw::{Capability, GrantRule, Mapping, Name, PortRule, Queue, Region, Segment, Service};
use cloister_caps::tables::{
    Access, AfterLimit, FIRST_GRANT_REF, HEADER_SIZE, MAGIC, MAX_GRANT_REFS, MAX_GRANT_RULES, MAX_MAPPINGS,
    MAX_NOTIFICATION_BIT, MAX_PORT_RULES, MAX_QUEUES, MAX_REGIONS, MAX_SERVICES, MAX_SLOTS, Object, PerService,
    PortKind, PortRuleSet, Record, RegionKind, Section, TableError, Tables, VERSION,
};
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
    names: Vec<u8>,
    policy: Vec<u8>,
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
        let grant = GrantRule {
            name: ALPHA,
            region: 0,
            access: Access::Read,
            first_ref: FIRST_GRANT_REF,
            count: 4,
            peer_first: 3,
            peer_last: 3,
        };
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
            ports: vec![PortRule {
                name: BETA,
                service: 0,
                bit: MAX_NOTIFICATION_BIT,
                kind: PortKind::Peer,
                peer_first: 1,
                peer_last: 1,
            }],
            names: NAMES.into(),
            policy: "a = 1".into(),
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
            (self.names.clone(), self.names.len()),
            (self.policy.clone(), self.policy.len()),
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

#[test]
fn tables_are_read_back() {
    let draft = Draft::good();
    let bytes = draft.bytes();
    let tables = Tables::parse(&bytes).unwrap();
    assert_eq!(tables.services().raw().iter().collect::<Vec<_>>(), draft.services);
    assert_eq!(tables.segments().raw().iter().collect::<Vec<_>>(), draft.segments);
    assert_eq!(tables.regions().raw().iter().collect::<Vec<_>>(), draft.regions);
    assert_eq!(tables.mappings().raw().iter().collect::<Vec<_>>(), draft.mappings);
    assert_eq!(tables.capabilities().raw().iter().collect::<Vec<_>>(), draft.capabilities);
    assert_eq!(tables.queues().raw().iter().collect::<Vec<_>>(), draft.queues);
    assert_eq!(tables.grants().raw().iter().collect::<Vec<_>>(), draft.grants);
    assert_eq!(tables.ports().raw().iter().collect::<Vec<_>>(), draft.ports);
    assert_eq!((tables.services().len(), tables.services().is_empty()), (2, false));
    let services = tables.services().raw();
    assert_eq!((services.get(1), services.get(2)), (Some(draft.services[1]), None));
    assert_eq!(services.get(usize::MAX), None);
    assert_eq!(tables.policy_text(), "a = 1");
    assert_eq!(tables.policy_hash(), std::array::from_fn(|index| index as u8 + 1));
    let names: Vec<_> = tables.services().ids().map(|service| tables.service_name(service)).collect();
    assert_eq!(names, ["alpha", "beta"]);
    assert!(
        Tables::parse(&Draft { ports: vec![], ..draft.clone() }.bytes()).is_err(),
        "a capability to the port is left"
    );
    let without = Draft { segments: vec![], ..draft };
    assert!(Tables::parse(&without.bytes()).unwrap().segments().is_empty());
}

#[test]
fn each_id_names_the_record_that_it_came_with() {
    let bytes = Draft::good().bytes();
    let tables = Tables::parse(&bytes).unwrap();
    assert!(tables.services().with_ids().all(|(id, service)| tables.service(id) == service));
    assert!(tables.regions().with_ids().all(|(id, region)| tables.region(id) == region));
    assert!(tables.mappings().with_ids().all(|(id, mapping)| tables.mapping(id) == mapping));
    assert!(tables.queues().with_ids().all(|(id, queue)| tables.queue(id) == queue));
    assert!(tables.grants().with_ids().all(|(id, rule)| tables.grant(id) == rule));
    assert!(tables.ports().with_ids().all(|(id, rule)| tables.port(id) == rule));
    let [first, second] = [0, 1].map(|index| tables.services().id(index).unwrap());
    assert_eq!(tables.services().id(2), None);
    assert_eq!((first.index(), second.index(), second.to_string().as_str()), (0, 1, "service 1"));
    let mapping = tables.mappings().get(1).unwrap();
    assert_eq!((mapping.service, Some(mapping.region)), (second, tables.regions().id(0)));
    let queue = tables.queues().get(0).unwrap();
    assert_eq!((queue.sender, queue.receiver), (first, second));
    let objects: Vec<_> = tables.capabilities().iter().map(|capability| capability.object).collect();
    let id = |index| tables.mappings().id(index).unwrap();
    let (queue, port) = (tables.queues().id(0).unwrap(), tables.ports().id(0).unwrap());
    let grant = tables.grants().id(0).unwrap();
    let expected = [Object::Sender(queue), Object::Receiver(queue), Object::Port(port), Object::Grant(grant)];
    assert_eq!(objects[..4], expected);
    assert_eq!(objects[4..], [Object::Region(id(1)), Object::Console]);
    assert!(tables.capabilities().iter().zip(Draft::good().capabilities).all(|(one, raw)| one.kind() == raw.kind));
}

#[test]
fn a_collection_has_a_value_for_each_id() {
    let mut draft = Draft::good();
    draft.services = vec![draft.services[0]; MAX_SERVICES];
    draft.ports = vec![draft.ports[0]; MAX_PORT_RULES];
    let bytes = draft.bytes();
    let tables = Tables::parse(&bytes).unwrap();
    let mut numbers = PerService::new([0; _]);
    for service in tables.services().ids() {
        numbers[service] += service.index() + 1;
    }
    assert_eq!(numbers, PerService::new(std::array::from_fn(|index| index + 1)));
    let mut rules = PortRuleSet::EMPTY;
    tables.ports().ids().for_each(|rule| rules.insert(rule));
    assert!(rules.eq(tables.ports().ids()), "all of them, in order");
    tables.ports().ids().skip(1).for_each(|rule| rules.remove(rule));
    assert_eq!((rules.next(), rules.next()), (tables.ports().id(0), None));
}

#[test]
fn the_header_is_checked() {
    let good = Draft::good().bytes();
    let with = |at: usize, word: usize| {
        let mut bytes = good.clone();
        put(&mut bytes, at, word);
        Tables::parse(&bytes).err()
    };
    assert_eq!(with(0, 0), Some(TableError::NotTables));
    assert_eq!(with(4, 0), Some(TableError::NotTables));
    assert_eq!(with(8, 2), Some(TableError::Version(2)));
    assert_eq!(with(12, good.len()), None);
    assert_eq!(with(12, good.len() + 1), Some(TableError::Truncated));
    assert_eq!(
        with(12, good.len() - 1),
        Some(TableError::Section(Section::PolicyText.name())),
        "the policy text is the last"
    );
    assert_eq!(Tables::parse(&good[..HEADER_SIZE - 1]).err(), Some(TableError::Truncated));
    assert_eq!(Tables::parse(&good[..good.len() - 1]).err(), Some(TableError::Truncated));
    let longer = [&good[..], &[0; 9]].concat();
    assert!(Tables::parse(&longer).is_ok(), "bytes after the stated length are ignored");
    for (index, section) in Section::ALL.into_iter().enumerate() {
        let name = section.name();
        let refused = Some(TableError::Section(name));
        assert_eq!(with(48 + index * 8, HEADER_SIZE - 1), refused, "{name} in the header");
        assert_eq!(with(48 + index * 8, u32::MAX as usize), refused, "{name} past the end");
        assert_eq!(with(52 + index * 8, u32::MAX as usize), refused, "{name} too long");
    }
    for index in [8, 9] {
        let mut draft = Draft::good();
        [&mut draft.names, &mut draft.policy][index - 8][0] = 0xFF;
        assert_eq!(
            draft.refusal(),
            Some(TableError::Section(Section::Names.name())),
            "{} is not UTF-8",
            Section::ALL[index].name()
        );
    }
}

#[test]
fn a_name_never_splits_a_character() {
    let mut draft = Draft::good();
    let names = format!("{NAMES}aé€");
    draft.names = names.clone().into_bytes();
    for (offset, length) in (0..=draft.names.len()).flat_map(|offset| (0..8).map(move |length| (offset, length))) {
        draft.services[0].name = Name { offset: offset as u32, length: length as u32 };
        let whole = names.get(offset..offset + length).is_some();
        assert_eq!(draft.refusal().is_none(), whole, "{length} bytes from {offset}");
    }
    draft.names.resize(NAMES.len() + 97, b'x');
    draft.services[0].name = Name { offset: 9, length: 96 };
    assert_eq!(draft.refusal(), None);
    draft.services[0].name.length = 97;
    assert!(draft.refusal().is_some());
    draft.services[0].name = Name { offset: u32::MAX, length: u32::MAX };
    assert!(draft.refusal().is_some());
}

#[test]
fn a_section_is_limited_to_what_the_kernel_has_room_for() {
    let error = |name| Some(TableError::Section(name));
    let refused = |change: &dyn Fn(&mut Draft)| {
        let mut draft = Draft::good();
        change(&mut draft);
        draft.refusal()
    };
    let fill = |count: usize| {
        move |draft: &mut Draft| {
            draft.grants.truncate(1);
            let grant = GrantRule { count: 1, ..draft.grants[0] };
            draft.grants = (0..count as u32).map(|n| GrantRule { first_ref: FIRST_GRANT_REF + n, ..grant }).collect();
        }
    };
    assert_eq!(refused(&|draft| draft.services.resize(MAX_SERVICES, draft.services[0])), None);
    assert_eq!(refused(&|draft| draft.services.resize(MAX_SERVICES + 1, draft.services[0])), error("services"));
    assert_eq!(refused(&|draft| draft.regions.resize(MAX_REGIONS, draft.regions[0])), None);
    assert_eq!(refused(&|draft| draft.regions.resize(MAX_REGIONS + 1, draft.regions[0])), error("regions"));
    // Every service may map every region, each once.
    let map_all = |draft: &mut Draft| {
        draft.services.resize(MAX_SERVICES, draft.services[0]);
        draft.regions.resize(MAX_REGIONS, draft.regions[0]);
        let pairs =
            (0..MAX_REGIONS as u16).flat_map(|region| (0..MAX_SERVICES as u8).map(move |service| (region, service)));
        let reading = Mapping { access: Access::Read, ..draft.mappings[0] };
        draft.mappings = pairs.map(|(region, service)| Mapping { service, region, ..reading }).collect();
    };
    assert_eq!(refused(&map_all), None);
    assert_eq!(
        refused(&|draft| {
            map_all(draft);
            draft.mappings.push(draft.mappings[0]);
        }),
        error("mappings")
    );
    assert_eq!(refused(&|draft| draft.queues.resize(MAX_QUEUES, draft.queues[0])), None);
    assert_eq!(refused(&|draft| draft.queues.resize(MAX_QUEUES + 1, draft.queues[0])), error("queues"));
    assert_eq!(refused(&fill(MAX_GRANT_RULES)), None);
    assert_eq!(refused(&fill(MAX_GRANT_RULES + 1)), error("grants"));
    assert_eq!(refused(&|draft| draft.ports.resize(MAX_PORT_RULES, draft.ports[0])), None);
    assert_eq!(refused(&|draft| draft.ports.resize(MAX_PORT_RULES + 1, draft.ports[0])), error("ports"));
}

#[test]
fn services() {
    check_changes(
        "service",
        1,
        &[
            (false, |draft| draft.services[1].name.length = 5),
            (false, |draft| draft.services[1].name.offset = u32::MAX),
            (true, |draft| draft.services[1].entry = END - 1),
            (false, |draft| draft.services[1].entry = END),
            (true, |draft| draft.services[1].stack_top = END - 16),
            (false, |draft| draft.services[1].stack_top = END),
            (false, |draft| draft.services[1].stack_top = 0x9008),
            (false, |draft| draft.services[1].period_us = 0),
            (false, |draft| draft.services[1].budget_us = 0),
            (false, |draft| (draft.services[1].budget_us, draft.services[1].period_us) = (0, 0)),
            (true, |draft| draft.services[1].budget_us = 1),
            (false, |draft| draft.services[1].budget_us = 11),
        ],
    );
}

#[test]
fn segments() {
    check_changes(
        "segment",
        0,
        &[
            (false, |draft| draft.segments[0].service = 2),
            (false, |draft| draft.segments[0].flags = 8),
            (false, |draft| draft.segments[0].flags = 6),
            (false, |draft| draft.segments[0].flags = 7),
            (true, |draft| draft.segments[0].flags = 3),
            (true, |draft| draft.segments[0].flags = 4),
            (true, |draft| draft.segments[0].flags = 0),
            (false, |draft| draft.segments[0].address = 0x1800),
            (false, |draft| draft.segments[0].address = 0),
            // Its bytes are pages of the image.
            (true, |draft| draft.segments[0].image_address += 0x1000),
            (false, |draft| draft.segments[0].image_address += 0x800),
            (false, |draft| draft.segments[0].image_address = IMAGE.start - 0x1000),
            (true, |draft| draft.segments[0].image_address = IMAGE.end - 0x1000),
            (false, |draft| draft.segments[0].image_address = IMAGE.end),
            (false, |draft| draft.segments[0].image_address = 0xFFFF_FFFF_FFFF_F000),
            // Only a writable one may be longer in memory.
            (false, |draft| draft.segments[0].memory_size = 0x801),
            (false, |draft| draft.segments[0].memory_size = 0x7FF),
            (false, |draft| draft.segments[0].memory_size = u64::MAX),
        ],
    );
    let writable = |file_size, memory_size, image_address| {
        let mut draft = Draft::good();
        draft.segments[0] = Segment { flags: 3, file_size, memory_size, image_address, ..draft.segments[0] };
        draft.refusal()
    };
    let refused = Some(TableError::Record("segment", 0));
    assert_eq!(writable(0x800, 0x801, IMAGE.start), None);
    assert_eq!(writable(0x800, 0x7FF, IMAGE.start), refused);
    assert_eq!(writable(0x800, END - 0x1001, IMAGE.start), None);
    assert_eq!(writable(0x800, END - 0x1000, IMAGE.start), refused);
    assert_eq!(writable(0x800, u64::MAX, IMAGE.start), refused);
    // One without bytes in the image has no address there.
    assert_eq!((writable(0, 0x800, 0), writable(1, 0x800, 0)), (None, refused));
}

#[test]
fn programs_and_data_lie_in_the_range_that_the_tables_are_checked_for() {
    let mut draft = Draft::good();
    draft.segments[0].image_address = 0x20_3000;
    let region =
        Region { kind: RegionKind::ImageData, image_address: 0x20_5000, image_length: 0x1001, ..draft.regions[1] };
    draft.regions[1] = region;
    let bytes = draft.bytes();
    let within = |start, end| Tables::parse_within(&bytes, &(start..end)).err();
    assert_eq!(within(0x20_3000, 0x20_6001), None);
    assert_eq!(within(0x20_3001, 0x20_6001), Some(TableError::Record("segment", 0)));
    assert_eq!(within(0x20_3000, 0x20_6000), Some(TableError::Record("region", 1)));
}

/// Makes the second region one of image data.
fn set_image_data(draft: &mut Draft, address: u64, length: u64) {
    let region = &mut draft.regions[1];
    (region.kind, region.image_address, region.image_length) = (RegionKind::ImageData, address, length);
}

#[test]
fn regions() {
    check_changes(
        "region",
        1,
        &[
            (false, |draft| draft.regions[1].name.length = 5),
            (false, |draft| draft.regions[1].amount = 0),
            (true, |draft| draft.regions[1].amount = 1 << 20),
            (false, |draft| draft.regions[1].amount = (1 << 20) + 1),
            (true, |draft| draft.regions[1].clear_on_restart = 1),
            (false, |draft| draft.regions[1].clear_on_restart = 2),
            (false, |draft| (draft.regions[1].image_address, draft.regions[1].image_length) = (u64::MAX, 1)),
            (true, |draft| draft.regions[1].kind = RegionKind::Share),
            (false, |draft| (draft.regions[1].kind, draft.regions[1].amount) = (RegionKind::Share, 0)),
            (true, |draft| (draft.regions[1].kind, draft.regions[1].maximum) = (RegionKind::Share, 1 << 20)),
            (false, |draft| (draft.regions[1].kind, draft.regions[1].maximum) = (RegionKind::Share, (1 << 20) + 1)),
            (false, |draft| (draft.regions[1].kind, draft.regions[1].minimum) = (RegionKind::Share, 1)),
            (true, |draft| set_image_data(draft, IMAGE.start, 1)),
            (false, |draft| set_image_data(draft, IMAGE.start, 0)),
            (false, |draft| set_image_data(draft, IMAGE.start + 0x800, 1)),
            (false, |draft| set_image_data(draft, 0, 1)),
            (true, |draft| set_image_data(draft, IMAGE.end - 0x1000, 0x1000)),
            (false, |draft| set_image_data(draft, IMAGE.end - 0x1000, 0x1001)),
            (false, |draft| set_image_data(draft, IMAGE.start, u64::MAX)),
            (true, |draft| (draft.regions[1].kind, draft.regions[1].amount) = (RegionKind::Module, 0)),
            (true, |draft| (draft.regions[1].kind, draft.regions[1].amount) = (RegionKind::CommandLine, 0)),
            (true, |draft| (draft.regions[1].kind, draft.regions[1].amount) = (RegionKind::XenStoreRing, 0)),
        ],
    );
}

#[test]
fn mappings() {
    check_changes(
        "mapping",
        1,
        &[
            (false, |draft| draft.mappings[1].region = 2),
            (false, |draft| draft.mappings[1].address = 0x4800),
            (false, |draft| draft.mappings[1].address = 0),
            (true, |draft| draft.mappings[1].address = END - 0x1000),
            (false, |draft| draft.mappings[1].address = END),
            (true, |draft| (draft.mappings[1].region, draft.mappings[1].access) = (1, Access::ReadWrite)),
            (true, |draft| draft.regions[1].kind = RegionKind::Module),
        ],
    );
    // The capability to the mapping has the same service, but capabilities are checked later.
    check_changes("mapping", 1, &[(false, |draft| draft.mappings[1].service = 2)]);
    // A service maps a region once; the error names the second mapping.
    check_changes("mapping", 1, &[(false, |draft| draft.mappings[1].service = 0)]);
    // If two mappings may write one region, the error names the second.
    check_changes("mapping", 1, &[(false, |draft| draft.mappings[1].access = Access::ReadWrite)]);
    for (kind, writable) in [
        (RegionKind::Fixed, true),
        (RegionKind::Share, true),
        (RegionKind::XenStoreRing, true),
        (RegionKind::Module, false),
        (RegionKind::CommandLine, false),
        (RegionKind::ImageData, false),
    ] {
        let mut draft = Draft::good();
        draft.grants.clear();
        draft.capabilities.retain(|capability| capability.kind != Kind::Grant);
        draft.regions[0] = Region { kind, image_address: IMAGE.start, image_length: 1, ..draft.regions[0] };
        let expected = (!writable).then_some(TableError::Record("mapping", 0));
        assert_eq!(draft.refusal(), expected, "{kind:?} written");
        draft.mappings[0].access = Access::Read;
        assert_eq!(draft.refusal(), None, "{kind:?} read");
    }
}

#[test]
fn capabilities() {
    /// The indices of a good draft's capabilities, by kind.
    const SENDER: usize = 0;
    const RECEIVER: usize = 1;
    const PORT: usize = 2;
    const GRANT: usize = 3;
    const REGION: usize = 4;
    const CONSOLE: usize = 5;
    check_changes(
        "capability",
        SENDER as u32,
        &[
            (false, |draft| draft.capabilities[SENDER].object = 1),
            (false, |draft| draft.capabilities[SENDER].service = 1),
            (false, |draft| draft.capabilities[SENDER].kind = Kind::Receiver),
        ],
    );
    // If two capabilities are in one slot, the error names the second.
    check_changes("capability", PORT as u32, &[(false, |draft| draft.capabilities[SENDER].slot = 1)]);
    check_changes(
        "capability",
        RECEIVER as u32,
        &[
            (false, |draft| draft.capabilities[RECEIVER].object = 1),
            (false, |draft| (draft.capabilities[RECEIVER].service, draft.capabilities[RECEIVER].slot) = (0, 9)),
        ],
    );
    check_changes(
        "capability",
        PORT as u32,
        &[
            (false, |draft| draft.capabilities[PORT].object = 1),
            (false, |draft| (draft.capabilities[PORT].service, draft.capabilities[PORT].slot) = (1, 9)),
        ],
    );
    check_changes(
        "capability",
        GRANT as u32,
        &[(true, |draft| draft.capabilities[GRANT].object = 1), (false, |draft| draft.capabilities[GRANT].object = 2)],
    );
    check_changes(
        "capability",
        REGION as u32,
        &[
            (false, |draft| draft.capabilities[REGION].object = 2),
            (false, |draft| draft.capabilities[REGION].object = 0),
        ],
    );
    check_changes(
        "capability",
        CONSOLE as u32,
        &[
            (false, |draft| draft.capabilities[CONSOLE].object = 1),
            (false, |draft| draft.capabilities[CONSOLE].slot = MAX_SLOTS as u16),
            (false, |draft| draft.capabilities[CONSOLE].service = 2),
            (false, |draft| draft.capabilities[CONSOLE].name.length = 10),
            (true, |draft| draft.capabilities[CONSOLE].slot = 2),
            (true, |draft| draft.capabilities[CONSOLE].kind = Kind::Clock),
            (true, |draft| draft.capabilities[CONSOLE].kind = Kind::Entropy),
            (true, |draft| draft.capabilities[CONSOLE].kind = Kind::Power),
            (true, |draft| draft.capabilities[CONSOLE].kind = Kind::Info),
        ],
    );
}

#[test]
fn queues() {
    // The changed queue is one that no capability names.
    let queue = |change: fn(&mut Queue)| {
        let mut draft = Draft::good();
        draft.queues.push(draft.queues[0]);
        change(&mut draft.queues[1]);
        draft.refusal()
    };
    let refused = Some(TableError::Record("queue", 1));
    assert_eq!(queue(|queue| queue.name.length = 5), refused);
    assert_eq!(queue(|queue| queue.sender = 2), refused);
    assert_eq!(queue(|queue| queue.receiver = 2), refused);
    assert_eq!(queue(|queue| queue.sender_bit = MAX_NOTIFICATION_BIT), None);
    assert_eq!(queue(|queue| queue.sender_bit = MAX_NOTIFICATION_BIT + 1), refused);
    assert_eq!(queue(|queue| queue.receiver_bit = MAX_NOTIFICATION_BIT + 1), refused);
    assert_eq!(queue(|queue| queue.message_size = 0), refused);
    assert_eq!(queue(|queue| queue.depth = 1), None);
    assert_eq!(queue(|queue| queue.depth = 0), refused);
    assert_eq!(queue(|queue| queue.depth = 3), refused);
    assert_eq!(queue(|queue| queue.producer_region = 1), None);
    assert_eq!(queue(|queue| queue.producer_region = 2), refused);
    assert_eq!(queue(|queue| queue.consumer_region = 2), refused);
}

#[test]
fn grants() {
    check_changes(
        "grant",
        0,
        &[
            (false, |draft| draft.grants[0].name.offset = 9),
            (false, |draft| draft.grants[0].region = 2),
            (false, |draft| draft.grants[0].count = 0),
            // A rule without pages overlaps no rule, not even itself, unless it lies within
            // another's references.
            (false, |draft| {
                (draft.grants[0].count, draft.grants[1].first_ref, draft.grants[1].count) = (0, FIRST_GRANT_REF - 1, 4)
            }),
            (true, |draft| draft.grants[0].count = 1),
            (false, |draft| draft.grants[0].count = 5),
            (false, |draft| draft.grants[0].first_ref = FIRST_GRANT_REF - 1),
            (true, |draft| draft.grants[0].first_ref = MAX_GRANT_REFS - 5),
            (false, |draft| draft.grants[0].first_ref = MAX_GRANT_REFS - 4),
            (false, |draft| draft.grants[0].first_ref = u32::MAX),
            (true, |draft| draft.grants[0].peer_first = 2),
            (false, |draft| draft.grants[0].peer_first = 4),
            (false, |draft| (draft.regions[0].kind, draft.regions[0].maximum) = (RegionKind::Share, 9)),
            // The second rule's references follow without a gap, or start one too early.
            (true, |draft| draft.grants[1].first_ref = FIRST_GRANT_REF + 4),
            (false, |draft| draft.grants[1].first_ref = FIRST_GRANT_REF + 3),
        ],
    );
    check_changes("grant", 1, &[(false, |draft| draft.grants[1].first_ref = MAX_GRANT_REFS)]);
}

#[test]
fn ports() {
    let port = |change: fn(&mut PortRule)| {
        let mut draft = Draft::good();
        draft.ports.push(draft.ports[0]);
        change(&mut draft.ports[1]);
        draft.refusal()
    };
    let refused = Some(TableError::Record("port", 1));
    assert_eq!(port(|port| port.service = 2), refused);
    assert_eq!(port(|port| port.bit = 0), None);
    assert_eq!(port(|port| port.bit = MAX_NOTIFICATION_BIT + 1), refused);
    assert_eq!(port(|port| port.peer_first = 0), None);
    assert_eq!(port(|port| port.peer_first = 2), refused);
    assert_eq!(port(|port| port.name.length = 5), refused);
}

#[test]
fn a_record_with_an_unknown_value_is_refused() {
    let good = Draft::good().bytes();
    let start = |section: usize| u32::from_le_bytes(good[48 + section * 8..][..4].try_into().unwrap()) as usize;
    // For each section with an enumeration: its index, the offset of the enumeration's byte in the
    // first record, and the name of its records.
    let enumerations = [
        (0, Service::SIZE - 1, "service"),
        (2, Region::SIZE - 2, "region"),
        (3, 1, "mapping"),
        (4, 1, "capability"),
        (6, 10, "grant"),
    ];
    for (section, at, name) in enumerations {
        let mut bytes = good.clone();
        bytes[start(section) + at] = 0xEE;
        assert_eq!(Tables::parse(&bytes).err(), Some(TableError::Record(name, 0)));
    }
    let mut draft = Draft::good();
    draft.capabilities.remove(2);
    let mut bytes = draft.bytes();
    let at = bytes.len() - draft.policy.len() - draft.names.len() - PortRule::SIZE;
    bytes[at + 10] = 0xEE;
    assert_eq!(Tables::parse(&bytes).err(), Some(TableError::Record("port", 0)));
    let mut bytes = good.clone();
    bytes[start(4) + 7] = 0x80;
    assert_eq!(Tables::parse(&bytes).err(), Some(TableError::Record("capability", 0)), "a right that does not exist");
}

#[test]
fn errors_name_their_cause() {
    let texts = [
        TableError::Truncated,
        TableError::NotTables,
        TableError::Version(9),
        TableError::Section("ports"),
        TableError::Record("queue", 3),
    ]
    .map(|error| error.to_string());
    let marks = ["cut short", "not capability tables", "version 9", "section of ports", "queue record 3"];
    assert!(texts.iter().zip(marks).all(|(text, mark)| text.contains(mark)), "{texts:?}");
}
