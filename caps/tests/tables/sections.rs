//! Checks the header, the sections and their limits, and values that no record may have.

use cloister_caps::tables::raw::{GrantRule, Mapping, Name, Region, Service};
use cloister_caps::tables::{
    Access, FIRST_GRANT_REF, HEADER_SIZE, MAX_DOMAIN_SETS, MAX_GRANT_RULES, MAX_MAPPINGS, MAX_PORT_RULES, MAX_QUEUES,
    MAX_REGIONS, MAX_SERVICES, Record, Section, TableError, Tables,
};

use crate::{Draft, NAMES, put};

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
    assert_eq!(with(8, 1), Some(TableError::Version(1)));
    assert_eq!(with(12, good.len()), None);
    assert_eq!(with(12, good.len() + 1), Some(TableError::Truncated));
    assert_eq!(
        with(12, good.len() - 1),
        Some(TableError::Section(Section::Image.name())),
        "the record of the image is the last"
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
    for index in [9, 10] {
        let mut draft = Draft::good();
        [&mut draft.names, &mut draft.policy][index - 9][0] = 0xFF;
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
    assert_eq!(
        refused(&|draft| {
            map_all(draft);
            assert_eq!(draft.mappings.len(), MAX_MAPPINGS);
        }),
        None
    );
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
    assert_eq!(refused(&|draft| draft.domains.resize(MAX_DOMAIN_SETS, draft.domains[0])), None);
    assert_eq!(refused(&|draft| draft.domains.resize(MAX_DOMAIN_SETS + 1, draft.domains[0])), error("domains"));
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
    let mut bytes = good.clone();
    bytes[start(4) + 7] = 0x80;
    assert_eq!(Tables::parse(&bytes).err(), Some(TableError::Record("capability", 0)), "a right that does not exist");
    for (at, byte) in [(0, 2), (2, 0x80)] {
        let mut bytes = good.clone();
        bytes[start(11) + at] = byte;
        assert_eq!(Tables::parse(&bytes).err(), Some(TableError::Record("image", 0)), "no isolation or weakness");
    }
}

#[test]
fn tables_demand_one_thing_of_the_processor() {
    let refusal = |count: usize| {
        let mut draft = Draft::good();
        draft.image = vec![draft.image[0]; count];
        draft.refusal()
    };
    assert_eq!(refusal(0), Some(TableError::Section(Section::Image.name())));
    assert_eq!(refusal(1), None);
    assert_eq!(refusal(2), Some(TableError::Record("image", 0)));
}
