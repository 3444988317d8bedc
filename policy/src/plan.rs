//! Plans the objects of an image: regions, mappings with their addresses, one-way queues, slots and
//! notification bits.
//!
//! Everything is numbered in the order of names, so that the same policy always gives the same
//! image.

use std::collections::BTreeMap;

use cloister_caps::rights::{Kind, Rights};
use cloister_caps::tables::raw::{
    Capability, DomainSet, GrantRule, Image, Mapping, Name, PortRule, Queue, Region, Service,
};
use cloister_caps::tables::{Access, FIRST_GRANT_REF, RegionKind};
use cloister_interfaces::CATALOG;
use cloister_interfaces::queue::producer_pages;
use cloister_interfaces::rules::{ClientGrantRule, ClientIndex, PathRule, PinRule, RuleIndex, encode_rules};

use crate::address_space::{FIXED_AREA, LARGE_AREA, LARGE_STEP, MODULE_ROOM, PAGE, image_base};
use crate::authority::paths::without_stars;
use crate::diagnostic::{Lines, Span};
use crate::model::{Domain, MapAccess, Named, Peer, Policy, Source};

/// A record and its name, which is not yet in the section of names.
pub(crate) struct Entry<R> {
    pub name: String,
    pub record: R,
}

impl<R> Entry<R> {
    fn new(name: impl Into<String>, record: R) -> Self {
        Entry { name: name.into(), record }
    }
}

/// The tables without the part that depends on the programs: entry points, segments, addresses of
/// data.
pub(crate) struct Plan {
    pub services: Vec<Entry<Service>>,
    pub regions: Vec<Entry<Region>>,
    pub mappings: Vec<Mapping>,
    pub capabilities: Vec<Entry<Capability>>,
    pub queues: Vec<Entry<Queue>>,
    pub grants: Vec<Entry<GrantRule>>,
    pub ports: Vec<Entry<PortRule>>,
    pub domains: Vec<Entry<DomainSet>>,
    /// What the policy demands of the processor.
    pub image: Image,
    /// The bytes of each region of image data, by the region's index.
    pub data: Vec<(usize, Vec<u8>)>,
}

impl Plan {
    /// Returns the slot in which a service holds a capability.
    pub(crate) fn slot(&self, service: usize, kind: Kind, object: usize) -> Option<u16> {
        self.capabilities
            .iter()
            .map(|entry| &entry.record)
            .find(|capability| {
                usize::from(capability.service) == service
                    && capability.kind == kind
                    && capability.object as usize == object
            })
            .map(|capability| capability.slot)
    }

    /// Returns the slot by which a service finds a region that it maps.
    pub(crate) fn region_slot(&self, service: usize, region: &str) -> Option<u16> {
        let mapping = self.mappings.iter().position(|mapping| {
            usize::from(mapping.service) == service
                && self.regions.get(usize::from(mapping.region)).is_some_and(|entry| entry.name == region)
        })?;
        self.slot(service, Kind::Region, mapping)
    }
}

/// Returns the name of the region with a service's rules.
pub(crate) fn rules_region(service: &str) -> String {
    format!("{service}.rules")
}

/// Plans the image of a policy that holds.
///
/// `None` if a number does not fit its field in the tables, which the checks exclude.
pub(crate) fn plan(policy: &Policy, lines: &Lines) -> Option<Plan> {
    let mut planner = Planner { policy, lines, regions: BTreeMap::new(), maps: Vec::new() };
    planner.policy_regions();
    planner.stacks();
    planner.queue_regions();
    planner.rules()?;
    planner.finish()
}

/// A region before it has a number.
struct RegionDraft {
    record: Region,
    data: Option<Vec<u8>>,
    /// The size of its address range in pages; `None` for a large region, see [`large_room`].
    pages: Option<u64>,
}

/// A mapping before it has an address.
struct MappingDraft {
    service: usize,
    region: String,
    access: Access,
    line: u32,
}

struct Planner<'a> {
    policy: &'a Policy,
    lines: &'a Lines,
    regions: BTreeMap<String, RegionDraft>,
    maps: Vec<MappingDraft>,
}

impl Planner<'_> {
    fn line(&self, span: &Span) -> u32 {
        u32::try_from(self.lines.line(span.start)).unwrap_or(u32::MAX)
    }

    fn service(&self, name: &str) -> Option<usize> {
        self.policy.services.index(name)
    }

    fn map(&mut self, service: &str, region: &str, access: Access, span: &Span) {
        let line = self.line(span);
        if let Some(service) = self.service(service) {
            self.maps.push(MappingDraft { service, region: region.to_owned(), access, line });
        }
    }

    fn fixed(&mut self, name: String, pages: u32, clear: bool) {
        let record = Region { amount: pages, clear_on_restart: u8::from(clear), ..empty(RegionKind::Fixed) };
        self.regions.insert(name, RegionDraft { record, data: None, pages: Some(u64::from(pages)) });
    }

    fn policy_regions(&mut self) {
        let policy = self.policy;
        for region in &policy.regions.items {
            let name = &region.name.value;
            let granted = policy.grants.items.iter().any(|grant| grant.body.region.value == *name);
            let heap = region.body.map.iter().any(|entry| entry.how.value == MapAccess::Heap);
            // A restart clears what only one service has. A region that a peer domain uses is not
            // its own.
            let private = region.body.map.len() == 1 && !granted && region.body.keep.is_none();
            let clear_on_restart = u8::from(heap || private);
            let (record, pages) = match region.body.source.value {
                Source::Fixed { pages } => {
                    (Region { amount: pages, clear_on_restart, ..empty(RegionKind::Fixed) }, Some(u64::from(pages)))
                }
                Source::Share { weight, minimum, maximum } => {
                    (Region { amount: weight, minimum, maximum, clear_on_restart, ..empty(RegionKind::Share) }, None)
                }
                Source::Module => (empty(RegionKind::Module), None),
                Source::CommandLine => (empty(RegionKind::CommandLine), Some(1)),
                Source::XenStoreRing => (empty(RegionKind::XenStoreRing), Some(1)),
            };
            self.regions.insert(name.clone(), RegionDraft { record, data: None, pages });
            for entry in &region.body.map {
                self.map(&entry.service.value, name, entry.how.value.access(), &entry.service.span);
            }
        }
    }

    fn stacks(&mut self) {
        let policy = self.policy;
        for service in &policy.services.items {
            let name = stack_region(&service.name.value);
            self.fixed(name.clone(), service.body.stack_pages.value, true);
            self.map(&service.name.value, &name, Access::ReadWrite, &service.body.stack_pages.span);
        }
    }

    fn queue_regions(&mut self) {
        let policy = self.policy;
        for queue in &policy.queues.items {
            let (from, to) = (&queue.body.from.value, &queue.body.to.value);
            for (one_way, sender, receiver, size) in
                directions(&queue.name.value, from, to, &queue.body.interface.value)
            {
                let pages = producer_pages(size, usize::from(queue.body.depth));
                let (producer, consumer) = (producer_region(&one_way), consumer_region(&one_way));
                self.fixed(producer.clone(), u32::try_from(pages).unwrap_or(u32::MAX), false);
                self.fixed(consumer.clone(), 1, false);
                self.map(sender, &producer, Access::ReadWrite, &queue.name.span);
                self.map(receiver, &producer, Access::Read, &queue.name.span);
                self.map(sender, &consumer, Access::Read, &queue.name.span);
                self.map(receiver, &consumer, Access::ReadWrite, &queue.name.span);
            }
        }
    }

    /// Adds the regions with the rules that services enforce, as read-only data.
    fn rules(&mut self) -> Option<()> {
        let policy = self.policy;
        for service in &policy.services.items {
            let name = &service.name.value;
            let blob = if policy.served(name, "store").next().is_some() {
                path_rules(policy, name)?
            } else if policy.served(name, "grants").next().is_some() {
                grant_rules(policy, name)?
            } else {
                continue;
            };
            let region = rules_region(name);
            let record = Region { image_length: blob.len() as u64, ..empty(RegionKind::ImageData) };
            let pages = Some(record.image_length.div_ceil(PAGE));
            self.regions.insert(region.clone(), RegionDraft { record, data: Some(blob), pages });
            self.map(name, &region, Access::Read, &service.name.span);
        }
        Some(())
    }

    fn finish(mut self) -> Option<Plan> {
        let index: BTreeMap<String, usize> =
            self.regions.keys().enumerate().map(|(index, name)| (name.clone(), index)).collect();
        let (mappings, mapping_lines) = self.mappings(&index)?;
        let services = self.services(&mappings, &index)?;
        let mut bits = vec![0; services.len()];
        let queues = self.queues(&index, &mut bits)?;
        let ports = self.ports(&mut bits)?;
        let grants = self.grants(&index)?;
        let mut plan = Plan {
            services,
            regions: Vec::new(),
            mappings,
            capabilities: Vec::new(),
            queues,
            grants,
            ports,
            domains: self.policy.domains.items.iter().map(domain_set).collect(),
            image: Image { isolation: self.policy.image.isolation(), refused: self.policy.image.refused },
            data: Vec::new(),
        };
        for (position, (name, draft)) in std::mem::take(&mut self.regions).into_iter().enumerate() {
            plan.data.extend(draft.data.map(|data| (position, data)));
            plan.regions.push(Entry::new(name, draft.record));
        }
        plan.capabilities = self.capabilities(&plan, &mapping_lines)?;
        Some(plan)
    }

    /// Returns the mappings of each service: its stack and the regions of known size first, then
    /// the large ones.
    ///
    /// The pages just below and above each mapping stay unmapped.
    fn mappings(&mut self, index: &BTreeMap<String, usize>) -> Option<(Vec<Mapping>, Vec<u32>)> {
        let regions = &self.regions;
        let large = |map: &MappingDraft| regions.get(&map.region).is_none_or(|draft| draft.pages.is_none());
        let stack = |map: &MappingDraft| map.region.ends_with(".stack");
        self.maps.sort_by(|a, b| {
            (a.service, large(a), !stack(a), &a.region).cmp(&(b.service, large(b), !stack(b), &b.region))
        });
        let (mut fixed, mut high) = (FIXED_AREA + PAGE, LARGE_AREA);
        let mut service = 0;
        let (mut mappings, mut lines) = (Vec::new(), Vec::new());
        for map in &self.maps {
            if map.service != service {
                (service, fixed, high) = (map.service, FIXED_AREA + PAGE, LARGE_AREA);
            }
            let draft = self.regions.get(&map.region)?;
            let address = match draft.pages {
                Some(pages) => take(&mut fixed, (pages + 1) * PAGE, 1)?,
                None => take(&mut high, large_room(&draft.record)? + PAGE, LARGE_STEP)?,
            };
            mappings.push(Mapping {
                service: u8::try_from(service).ok()?,
                access: map.access,
                region: u16::try_from(*index.get(&map.region)?).ok()?,
                address,
            });
            lines.push(map.line);
        }
        Some((mappings, lines))
    }

    fn services(&self, mappings: &[Mapping], index: &BTreeMap<String, usize>) -> Option<Vec<Entry<Service>>> {
        let mut services = Vec::new();
        for (position, service) in self.policy.services.items.iter().enumerate() {
            let name = &service.name.value;
            let region = *index.get(&stack_region(name))?;
            let stack = mappings.iter().find(|mapping| usize::from(mapping.region) == region)?;
            let record = Service {
                name: Name::default(),
                entry: image_base(position),
                stack_top: stack.address + u64::from(service.body.stack_pages.value) * PAGE,
                budget_us: service.body.budget_us.value,
                period_us: service.body.period_us.value,
                restart_limit: service.body.restart_limit,
                priority: service.body.priority,
                after_limit: service.body.after_limit,
            };
            services.push(Entry::new(name, record));
        }
        Some(services)
    }

    fn queues(&self, index: &BTreeMap<String, usize>, bits: &mut [u8]) -> Option<Vec<Entry<Queue>>> {
        let mut queues = Vec::new();
        for queue in &self.policy.queues.items {
            let (from, to) = (&queue.body.from.value, &queue.body.to.value);
            for (name, sender, receiver, size) in directions(&queue.name.value, from, to, &queue.body.interface.value) {
                let (sender, receiver) = (self.service(sender)?, self.service(receiver)?);
                let record = Queue {
                    name: Name::default(),
                    sender: u8::try_from(sender).ok()?,
                    receiver: u8::try_from(receiver).ok()?,
                    sender_bit: next_bit(bits, sender)?,
                    receiver_bit: next_bit(bits, receiver)?,
                    message_size: u16::try_from(size).ok()?,
                    depth: queue.body.depth,
                    producer_region: u16::try_from(*index.get(&producer_region(&name))?).ok()?,
                    consumer_region: u16::try_from(*index.get(&consumer_region(&name))?).ok()?,
                };
                queues.push(Entry::new(name, record));
            }
        }
        Some(queues)
    }

    fn ports(&self, bits: &mut [u8]) -> Option<Vec<Entry<PortRule>>> {
        let mut ports = Vec::new();
        for port in &self.policy.ports.items {
            let service = self.service(&port.body.service.value)?;
            let peer = match &port.body.peer {
                Peer::XenStore(_) => 0,
                Peer::Domain(peer) => self.policy.domains.index(&peer.value)? + 1,
            };
            let record = PortRule {
                name: Name::default(),
                service: u8::try_from(service).ok()?,
                bit: next_bit(bits, service)?,
                peer: u16::try_from(peer).ok()?,
            };
            ports.push(Entry::new(&port.name.value, record));
        }
        Some(ports)
    }

    fn grants(&self, index: &BTreeMap<String, usize>) -> Option<Vec<Entry<GrantRule>>> {
        let mut grants = Vec::new();
        let mut first_ref = FIRST_GRANT_REF;
        for grant in &self.policy.grants.items {
            let record = GrantRule {
                name: Name::default(),
                region: u16::try_from(*index.get(&grant.body.region.value)?).ok()?,
                access: grant.body.access.value,
                first_ref,
                count: grant.body.pages.value,
                peers: u16::try_from(self.policy.domains.index(&grant.body.peer.value)?).ok()?,
            };
            first_ref = first_ref.checked_add(record.count)?;
            grants.push(Entry::new(&grant.name.value, record));
        }
        Some(grants)
    }

    /// Returns the CSpaces. Slots start at 1: slot 0 stays empty, so that a number that was never
    /// set names nothing.
    fn capabilities(&self, plan: &Plan, mapping_lines: &[u32]) -> Option<Vec<Entry<Capability>>> {
        let mut capabilities = Vec::new();
        for index in 0..plan.services.len() {
            let mut cspace = CSpace { service: u8::try_from(index).ok()?, out: &mut capabilities, slot: 1 };
            for held in &self.policy.services.items.get(index)?.body.held {
                cspace.push(held.kind, held.rights, 0, self.line(&held.span), held.kind.name())?;
            }
            for (object, queue) in plan.queues.iter().enumerate() {
                let whole = queue.name.split('.').next().unwrap_or_default();
                let line = self.line(&self.policy.queues.get(whole)?.name.span);
                if usize::from(queue.record.sender) == index {
                    cspace.push(Kind::Sender, Rights::NOTIFY, object, line, &queue.name)?;
                }
                if usize::from(queue.record.receiver) == index {
                    cspace.push(Kind::Receiver, Rights::NOTIFY, object, line, &queue.name)?;
                }
            }
            for (object, port) in self.policy.ports.items.iter().enumerate() {
                if self.service(&port.body.service.value) == Some(index) {
                    let line = self.line(&port.name.span);
                    cspace.push(Kind::Port, port.body.rights.value, object, line, &port.name.value)?;
                }
            }
            for (object, grant) in self.policy.grants.items.iter().enumerate() {
                if self.service(&grant.body.held_by.value) == Some(index) {
                    let line = self.line(&grant.name.span);
                    cspace.push(Kind::Grant, Rights::ISSUE | Rights::END, object, line, &grant.name.value)?;
                }
            }
            for (object, domain, pin) in self.policy.pinned(&self.policy.services.items.get(index)?.name.value) {
                cspace.push(Kind::Domain, Rights::PIN, object, self.line(&pin.span), &domain.name.value)?;
            }
            for (object, (mapping, line)) in plan.mappings.iter().zip(mapping_lines).enumerate() {
                if usize::from(mapping.service) == index {
                    let region = &plan.regions.get(usize::from(mapping.region))?.name;
                    cspace.push(Kind::Region, Rights::FIND, object, *line, region)?;
                }
            }
        }
        Some(capabilities)
    }
}

struct CSpace<'a> {
    service: u8,
    out: &'a mut Vec<Entry<Capability>>,
    slot: u16,
}

impl CSpace<'_> {
    fn push(&mut self, kind: Kind, rights: Rights, object: usize, line: u32, name: &str) -> Option<()> {
        let record = Capability {
            service: self.service,
            kind,
            slot: self.slot,
            rights,
            object: u32::try_from(object).ok()?,
            line,
            name: Name::default(),
        };
        self.out.push(Entry::new(name, record));
        self.slot = self.slot.checked_add(1)?;
        Some(())
    }
}

fn domain_set(domain: &Named<Domain>) -> Entry<DomainSet> {
    let Domain { first, last, ref pin } = domain.body;
    let record = DomainSet { name: Name::default(), first, last, pinned: u8::from(pin.is_some()) };
    Entry::new(&domain.name.value, record)
}

fn empty(kind: RegionKind) -> Region {
    Region {
        name: Name::default(),
        image_address: 0,
        image_length: 0,
        amount: 0,
        minimum: 0,
        maximum: 0,
        kind,
        clear_on_restart: 0,
    }
}

/// Takes the next `size` bytes of addresses, from a multiple of `step`.
fn take(next: &mut u64, size: u64, step: u64) -> Option<u64> {
    let address = next.checked_next_multiple_of(step)?;
    *next = address.checked_add(size)?;
    Some(address)
}

/// Returns the size of the address range of a region whose size is decided at boot, in bytes.
fn large_room(region: &Region) -> Option<u64> {
    match region.kind {
        RegionKind::Module => Some(MODULE_ROOM),
        _ => u64::from(region.maximum).checked_mul(PAGE),
    }
}

fn next_bit(bits: &mut [u8], service: usize) -> Option<u8> {
    let bit = bits.get_mut(service)?;
    *bit = bit.checked_add(1)?;
    bit.checked_sub(1)
}

fn stack_region(service: &str) -> String {
    format!("{service}.stack")
}

pub(crate) fn producer_region(one_way: &str) -> String {
    format!("{one_way}.producer")
}

pub(crate) fn consumer_region(one_way: &str) -> String {
    format!("{one_way}.consumer")
}

/// Returns the two one-way queues of a queue: name, sender, receiver, size of a message in bytes.
fn directions<'a>(queue: &str, from: &'a str, to: &'a str, interface: &str) -> Vec<(String, &'a str, &'a str, usize)> {
    CATALOG
        .iter()
        .filter(|(name, _, _)| *name == interface)
        .flat_map(|(_, request, reply)| [(requests(queue), from, to, *request), (replies(queue), to, from, *reply)])
        .collect()
}

/// Returns the name of the one-way queue of a queue's requests.
pub(crate) fn requests(queue: &str) -> String {
    format!("{queue}.requests")
}

/// Returns the name of the one-way queue of a queue's replies.
pub(crate) fn replies(queue: &str) -> String {
    format!("{queue}.replies")
}

fn path_rules(policy: &Policy, service: &str) -> Option<Vec<u8>> {
    let mut rules = Vec::new();
    for (index, queue) in policy.served(service, "store").enumerate() {
        let client = &policy.queues.get(queue)?.body.from.value;
        for right in policy.xenstore.get(client).map_or(&[][..], |paths| &paths.body) {
            let (path, below) = without_stars(&right.path.value);
            rules.push(PathRule {
                client: ClientIndex(u8::try_from(index).ok()?),
                read: right.read,
                write: right.write,
                watch: right.watch,
                below,
                path,
            });
        }
    }
    let mut pins = Vec::new();
    for (index, (_, domain, pin)) in policy.pinned(service).enumerate() {
        let Domain { first, last, .. } = domain.body;
        pins.push(PinRule { pin: u8::try_from(index).ok()?, first, last, node: &pin.node.value });
    }
    Some([encode_rules(&rules)?, encode_rules(&pins)?].concat())
}

fn grant_rules(policy: &Policy, service: &str) -> Option<Vec<u8>> {
    let mut rules = Vec::new();
    let held = policy.grants.items.iter().filter(|grant| grant.body.held_by.value == service);
    for (rule, grant) in held.enumerate() {
        let client = policy.served(service, "grants").position(|queue| {
            policy.queues.get(queue).is_some_and(|queue| queue.body.from.value == grant.body.on_behalf_of.value)
        })?;
        let domain = &policy.domains.get(&grant.body.peer.value)?.body;
        rules.push(ClientGrantRule {
            client: ClientIndex(u8::try_from(client).ok()?),
            rule: RuleIndex(u8::try_from(rule).ok()?),
            count: u16::try_from(grant.body.pages.value).ok()?,
            peer_first: domain.first,
            peer_last: domain.last,
        });
    }
    encode_rules(&rules)
}
