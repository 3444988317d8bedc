//! Writes the capability tables as bytes, in the layout of [`cloister_caps::tables`].

use std::collections::BTreeMap;

use cloister_caps::abi::IMAGE_ADDRESSES;
use cloister_caps::tables::raw::{Capability, DomainSet, GrantRule, Name, PortRule, Queue, Region, Segment, Service};
use cloister_caps::tables::{HEADER_SIZE, MAGIC, Record, Section, VERSION};

use crate::plan::{Entry, Plan};

/// The part of the tables that depends on the programs and the layout of the image.
#[derive(Default)]
pub(crate) struct Placement {
    /// The entry point of each service.
    pub entries: Vec<u64>,
    /// The segments of all programs.
    pub segments: Vec<Segment>,
    /// The address of each piece of image data, in the order of [`Plan::data`].
    pub data: Vec<u64>,
}

impl Placement {
    /// Returns a placement without programs. All image data lies at the start of the image.
    pub(crate) fn without_programs(plan: &Plan) -> Placement {
        Placement { data: vec![IMAGE_ADDRESSES.start; plan.data.len()], ..Placement::default() }
    }
}

/// Emits the tables. `None` if they would be larger than their 32-bit offsets reach.
pub(crate) fn emit(plan: &Plan, placement: &Placement, hash: [u8; 32], canonical: &str) -> Option<Vec<u8>> {
    let mut names = Names::default();
    let mut regions = plan.regions.iter().map(|entry| entry.record).collect::<Vec<_>>();
    for ((index, _), address) in plan.data.iter().zip(&placement.data) {
        regions.get_mut(*index)?.image_address = *address;
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
    let domains = named(&plan.domains, &mut names, |record: &mut DomainSet, name| record.name = name)?;
    let sections: [(usize, Vec<u8>); Section::ALL.len()] = [
        records::<Service>(&services),
        records::<Segment>(&placement.segments),
        records::<Region>(&regions),
        records(&plan.mappings),
        records(&capabilities),
        records(&queues),
        records(&grants),
        records(&ports),
        records(&domains),
        (names.text.len(), names.text.into_bytes()),
        (canonical.len(), canonical.as_bytes().to_vec()),
        records(&[plan.image]),
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

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;
    use std::fmt::Debug;

    use cloister_caps::PAGE_SIZE;
    use cloister_caps::rights::Kind;
    use cloister_caps::tables::{Access, RawRecords, RegionKind, Tables};
    use cloister_interfaces::rules::{
        ClientGrantRule, ClientIndex, PathRule, PinRule, RuleIndex, after_rules, decode_rules,
    };

    use super::*;
    use crate::checked::Checked;

    fn shipped(name: &str) -> Checked {
        let path = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join(name);
        crate::checked::load(&path).unwrap()
    }

    fn tables_of(policy: &Checked) -> Vec<u8> {
        let placement = Placement {
            entries: (0..policy.plan.services.len()).map(|index| 0x4000 + index as u64).collect(),
            segments: vec![Segment {
                service: 0,
                flags: 3,
                address: 0x10_0000,
                image_address: 0x20_0000,
                file_size: 5,
                memory_size: 9,
            }],
            data: (0..policy.plan.data.len()).map(|index| 0x30_0000 + index as u64 * 4096).collect(),
        };
        emit(&policy.plan, &placement, policy.hash, &policy.canonical).unwrap()
    }

    /// Asserts that each record is read back as it was planned, with its name.
    fn same<R: Record + Copy + PartialEq + Debug>(
        found: &RawRecords<'_, R>,
        planned: &[Entry<R>],
        name: impl Fn(&mut R) -> &mut Name,
    ) {
        assert_eq!(found.len(), planned.len());
        for (mut found, planned) in found.iter().zip(planned) {
            *name(&mut found) = Name::default();
            assert_eq!(found, planned.record);
        }
    }

    /// The names are read back as they were planned.
    fn named<R>(tables: &Tables<'_>, found: impl Iterator<Item = cloister_caps::tables::Name>, planned: &[Entry<R>]) {
        let names: Vec<&str> = found.map(|name| tables.name(name)).collect();
        assert_eq!(names, planned.iter().map(|entry| entry.name.as_str()).collect::<Vec<_>>());
    }

    #[test]
    fn the_kernel_reads_back_what_was_planned() {
        for file in [
            "default.toml",
            "../tests/guests/prober.toml",
            "../tests/guests/selftest.toml",
            "../tests/guests/strict.toml",
            "../tests/guests/refusing.toml",
        ] {
            let mut policy = shipped(file);
            let blob = tables_of(&policy);
            for (index, service) in policy.plan.services.iter_mut().enumerate() {
                service.record.entry = 0x4000 + index as u64;
            }
            for position in 0..policy.plan.data.len() {
                let index = policy.plan.data[position].0;
                policy.plan.regions[index].record.image_address = 0x30_0000 + position as u64 * 4096;
            }
            let (tables, plan) = (Tables::parse(&blob).unwrap(), &policy.plan);
            assert_eq!(tables.policy_hash(), policy.hash);
            assert_eq!(tables.policy_text(), policy.canonical);
            assert_eq!((tables.image().isolation, tables.image().refused), (plan.image.isolation, plan.image.refused));
            assert_eq!(tables.segments().get(0).map(|segment| segment.memory_size), Some(9));
            assert_eq!(tables.mappings().raw().iter().collect::<Vec<_>>(), plan.mappings);
            same(&tables.services().raw(), &plan.services, |record| &mut record.name);
            same(&tables.regions().raw(), &plan.regions, |record| &mut record.name);
            same(&tables.capabilities().raw(), &plan.capabilities, |record| &mut record.name);
            same(&tables.queues().raw(), &plan.queues, |record| &mut record.name);
            same(&tables.grants().raw(), &plan.grants, |record| &mut record.name);
            same(&tables.ports().raw(), &plan.ports, |record| &mut record.name);
            same(&tables.domains().raw(), &plan.domains, |record| &mut record.name);
            named(&tables, tables.services().iter().map(|record| record.name), &plan.services);
            named(&tables, tables.regions().iter().map(|record| record.name), &plan.regions);
            named(&tables, tables.capabilities().iter().map(|record| record.name), &plan.capabilities);
            named(&tables, tables.queues().iter().map(|record| record.name), &plan.queues);
            named(&tables, tables.grants().iter().map(|record| record.name), &plan.grants);
            named(&tables, tables.ports().iter().map(|record| record.name), &plan.ports);
            named(&tables, tables.domains().iter().map(|record| record.name), &plan.domains);
        }
    }

    #[test]
    fn the_same_policy_always_gives_the_same_tables() {
        assert_eq!(tables_of(&shipped("default.toml")), tables_of(&shipped("default.toml")));
    }

    /// Returns the largest size of a mapping, in pages.
    fn room(region: &Region) -> u64 {
        match region.kind {
            RegionKind::Fixed => u64::from(region.amount),
            RegionKind::Share => u64::from(region.maximum),
            RegionKind::ImageData => region.image_length.div_ceil(PAGE_SIZE as u64),
            RegionKind::Module => 1 << 20,
            RegionKind::CommandLine | RegionKind::XenStoreRing => 1,
        }
    }

    #[test]
    fn between_two_mappings_of_a_service_is_an_unmapped_page() {
        let policy = shipped("default.toml");
        let page = PAGE_SIZE as u64;
        for service in 0..policy.plan.services.len() {
            let own = policy.plan.mappings.iter().filter(|mapping| usize::from(mapping.service) == service);
            let mut ranges: Vec<(u64, u64)> = own
                .map(|mapping| {
                    let region = &policy.plan.regions[usize::from(mapping.region)].record;
                    (mapping.address, mapping.address + room(region) * page)
                })
                .collect();
            ranges.sort_unstable();
            assert!(ranges[0].0 > 0x8000_0000);
            for pair in ranges.windows(2) {
                assert!(pair[0].1 + page <= pair[1].0, "{pair:x?}");
            }
            let stack = policy.plan.services[service].record.stack_top;
            assert!(ranges.iter().any(|(_, end)| *end == stack));
        }
    }

    #[test]
    fn slots_and_notification_bits_are_disjoint_and_every_mapping_has_one_capability() {
        let plan = shipped("default.toml").plan;
        for service in 0..plan.services.len() as u8 {
            let bits: Vec<u8> = plan
                .queues
                .iter()
                .flat_map(|queue| {
                    [(queue.record.sender, queue.record.sender_bit), (queue.record.receiver, queue.record.receiver_bit)]
                })
                .chain(plan.ports.iter().map(|port| (port.record.service, port.record.bit)))
                .filter_map(|(owner, bit)| (owner == service).then_some(bit))
                .collect();
            assert_eq!(bits.iter().collect::<BTreeSet<_>>().len(), bits.len());
            let own = plan.capabilities.iter().filter(|entry| entry.record.service == service);
            let slots: Vec<u16> = own.map(|entry| entry.record.slot).collect();
            assert_eq!(slots, (1..=slots.len() as u16).collect::<Vec<_>>());
        }
        for index in 0..plan.mappings.len() {
            let found = plan
                .capabilities
                .iter()
                .filter(|entry| entry.record.kind == Kind::Region && entry.record.object as usize == index);
            assert_eq!(found.count(), 1);
        }
    }

    #[test]
    fn each_page_of_a_queue_has_one_writer_and_the_other_side_reads_it() {
        let plan = shipped("default.toml").plan;
        for queue in plan.queues.iter().map(|entry| entry.record) {
            for (region, writer, reader) in [
                (queue.producer_region, queue.sender, queue.receiver),
                (queue.consumer_region, queue.receiver, queue.sender),
            ] {
                let mut found: Vec<(u8, Access)> = plan
                    .mappings
                    .iter()
                    .filter(|mapping| mapping.region == region)
                    .map(|mapping| (mapping.service, mapping.access))
                    .collect();
                found.sort_by_key(|(_, access)| *access as u8);
                assert_eq!(found, [(reader, Access::Read), (writer, Access::ReadWrite)]);
            }
        }
    }

    #[test]
    fn grant_references_follow_each_other_in_the_order_of_the_names() {
        let plan = shipped("default.toml").plan;
        let found: Vec<_> =
            plan.grants.iter().map(|grant| (grant.name.as_str(), grant.record.first_ref, grant.record.count)).collect();
        assert_eq!(found, [("ring-pages", 8, 2), ("rx-pages", 10, 128), ("tx-pages", 138, 128)]);
    }

    #[test]
    fn a_restart_clears_what_only_one_service_has() {
        let resets = |policy: &Checked, name: &str| {
            policy.plan.regions.iter().find(|region| region.name == name).map(|region| region.record.clear_on_restart)
        };
        let policy = shipped("default.toml");
        for (name, reset) in
            [("tcpip.stack", 1), ("tcpip-heap", 1), ("rings", 0), ("stream-in", 0), ("net.requests.producer", 0)]
        {
            assert_eq!(resets(&policy, name), Some(reset), "{name}");
        }
        let policy = shipped("../tests/guests/prober.toml");
        assert_eq!(resets(&policy, "prober-progress"), Some(0));
        let policy = shipped("../tests/guests/selftest.toml");
        assert_eq!(resets(&policy, "stream-out"), Some(1));
    }

    fn data(policy: &Checked, name: &str) -> Vec<u8> {
        let index = policy.plan.regions.iter().position(|region| region.name == name).unwrap();
        policy.plan.data.iter().find(|(region, _)| *region == index).unwrap().1.clone()
    }

    #[test]
    fn services_receive_the_rules_that_they_enforce() {
        let policy = shipped("default.toml");
        let blob = data(&policy, "xenstore.rules");
        let rights = |rule: PathRule| [rule.read, rule.write, rule.watch, rule.below];
        let paths: Vec<(u8, String, [bool; 4])> =
            decode_rules::<PathRule>(&blob).map(|rule| (rule.client.0, rule.path.to_string(), rights(rule))).collect();
        assert_eq!(paths.len(), 26);
        assert_eq!(paths[3], (0, "control/shutdown".into(), [true, true, true, false]));
        assert_eq!(paths[9], (1, "/local/domain/*/backend/vif/{self}/0/state".into(), [true, false, true, false]));
        assert_eq!(paths[25], (1, "error/device/vif/0/error".into(), [false, true, false, false]));
        let pins: Vec<PinRule> = decode_rules(after_rules::<PathRule>(&blob)).collect();
        assert_eq!(pins, [PinRule { pin: 0, first: 0, last: 0, node: "device/vif/0/backend-id" }]);
        let blob = data(&policy, "grant-manager.rules");
        let grants: Vec<ClientGrantRule> = decode_rules(&blob).collect();
        let expected = [(0, 2), (1, 128), (2, 128)];
        let expected = expected.map(|(rule, count)| ClientGrantRule {
            client: ClientIndex(0),
            rule: RuleIndex(rule),
            count,
            peer_first: 0,
            peer_last: 0,
        });
        assert_eq!(grants, expected);
    }
}
