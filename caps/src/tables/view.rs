//! Reads the tables: checks them once as a whole, after which reading cannot fail.

use core::marker::PhantomData;
use core::ops::Range;

use static_assertions::const_assert;

use super::records::{Entry, Numbered};
use super::{
    Access, Capability, DomainSet, DomainSetId, GrantRule, GrantRuleId, HEADER_SIZE, Image, MAGIC, MAX_DOMAIN_SETS,
    MAX_GRANT_REFS, MAX_GRANT_RULES, MAX_MAPPINGS, MAX_NAME, MAX_NOTIFICATION_BIT, MAX_PORT_RULES, MAX_QUEUES,
    MAX_REGIONS, MAX_SERVICES, MAX_SLOTS, Mapping, MappingId, Name, PortRule, PortRuleId, Queue, QueueId, Record,
    Region, RegionId, RegionKind, Section, Segment, Service, ServiceId, TableError, VERSION, raw,
    segment_flag::{EXECUTABLE, WRITABLE},
};
use crate::PAGE_SIZE;
use crate::abi::IMAGE_ADDRESSES;
use crate::rights::Kind;

/// The end of the addresses of services.
///
/// It is well inside the lower half, so that no instruction of a service ends at the first
/// non-canonical address: an `iretq` to it would fault in the kernel.
const LOWER_HALF_END: u64 = 1 << 46;

// `capability_is_valid` keeps the slots of a service as the bits of a word.
const_assert!(MAX_SLOTS == 64);
// `SeenCapabilities` keeps the domain sets with a capability as the bits of a word.
const_assert!(MAX_DOMAIN_SETS <= u32::BITS as usize);
// `SeenMappings` keeps the services that map a region as the bits of a half-word.
const_assert!(MAX_SERVICES <= u16::BITS as usize);

/// The earlier mappings of a region, while mappings are checked.
#[derive(Clone, Copy, Default)]
struct SeenMappings {
    /// A bit for each service that maps the region.
    services: u16,
    /// `true` if one of them may write the region.
    writable: bool,
}

/// The earlier capabilities, while capabilities are checked.
struct SeenCapabilities {
    /// For each service, a bit for each slot in use.
    slots: [u64; MAX_SERVICES],
    /// For each region, a bit for each service with a capability to its mapping.
    regions: [u16; MAX_REGIONS],
    /// A bit for each domain set with a capability.
    domains: u32,
}

/// Checked capability tables.
///
/// # Holding one proves
/// Every index in the tables names a record, every address is in the half of the address space that
/// is for services, and every name is UTF-8. So each id that the tables hand out names a record.
/// The bytes of every segment and of all image data lie in the range of the image that the tables
/// were checked for. A service maps a region once, and only one service may write it. At most one
/// service may pin a domain of a set.
#[derive(Clone, Copy)]
pub struct Tables<'a> {
    bytes: &'a [u8],
    /// Start and end of each section in `bytes`, in the order of [`Section`].
    sections: [(usize, usize); Section::ALL.len()],
}

/// The records of one section, as they lie in the tables.
#[derive(Clone)]
pub struct RawRecords<'a, R> {
    bytes: &'a [u8],
    record: PhantomData<R>,
}

impl<'a, R: Record> RawRecords<'a, R> {
    /// Returns the number of records.
    #[must_use]
    pub fn len(&self) -> usize {
        self.bytes.len() / R::SIZE
    }

    /// Returns `true` if there are no records.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.bytes.is_empty()
    }

    /// Returns the record at `index`, if there is one.
    #[must_use]
    pub fn get(&self, index: usize) -> Option<R> {
        let start = index.checked_mul(R::SIZE)?;
        R::decode(self.bytes.get(start..start.checked_add(R::SIZE)?)?)
    }

    /// Returns an iterator over the records, in order.
    pub fn iter(&self) -> impl Iterator<Item = R> + use<'a, R> {
        self.bytes.chunks_exact(R::SIZE).filter_map(R::decode)
    }
}

/// The records of one section of checked tables.
#[derive(Clone)]
pub struct Records<'a, R: Entry>(RawRecords<'a, R::Raw>);

impl<'a, R: Entry> Records<'a, R> {
    /// Returns the records as they lie in the tables.
    #[must_use]
    pub fn raw(self) -> RawRecords<'a, R::Raw> {
        self.0
    }

    /// Returns the number of records.
    #[must_use]
    pub fn len(&self) -> usize {
        self.0.len()
    }

    /// Returns `true` if there are no records.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// Returns the record at `index`, if there is one.
    #[must_use]
    pub fn get(&self, index: usize) -> Option<R> {
        self.0.get(index).map(R::proven)
    }

    /// Returns an iterator over the records, in order.
    pub fn iter(&self) -> impl Iterator<Item = R> + use<'a, R> {
        self.0.iter().map(R::proven)
    }
}

impl<'a, R: Numbered> Records<'a, R> {
    /// Returns an iterator over the ids of the records, in order.
    pub fn ids(&self) -> impl Iterator<Item = R::Id> + use<'a, R> {
        (0..self.len()).map(R::id)
    }

    /// Returns the id of the record at `index`, if there is one.
    #[must_use]
    pub fn id(&self, index: usize) -> Option<R::Id> {
        (index < self.len()).then(|| R::id(index))
    }

    /// Returns an iterator over the records with their ids, in order.
    pub fn with_ids(&self) -> impl Iterator<Item = (R::Id, R)> + use<'a, R> {
        self.ids().zip(self.iter())
    }

    fn of(&self, id: R::Id) -> R {
        self.get(R::index(id)).unwrap_or_else(|| foreign())
    }
}

/// Stops at an id or a name of other tables, which [`Tables::parse`] has not checked.
#[cold]
#[inline(never)]
fn foreign() -> ! {
    panic!("an id or a name of other tables")
}

impl<'a> Tables<'a> {
    /// Checks `bytes` as the capability tables of an image at [`IMAGE_ADDRESSES`].
    ///
    /// # Errors
    /// Returns the first section or record that is out of range.
    pub fn parse(bytes: &'a [u8]) -> Result<Self, TableError> {
        Tables::parse_within(bytes, &IMAGE_ADDRESSES)
    }

    /// Checks `bytes` as capability tables of which the programs and data lie at the guest-physical
    /// addresses `image`.
    ///
    /// # Errors
    /// Returns the first section or record that is out of range.
    pub fn parse_within(bytes: &'a [u8], image: &Range<u64>) -> Result<Self, TableError> {
        let header = bytes.get(..HEADER_SIZE).ok_or(TableError::Truncated)?;
        if header[..8] != MAGIC {
            return Err(TableError::NotTables);
        }
        let word = |at: usize| u32::from_le_bytes([header[at], header[at + 1], header[at + 2], header[at + 3]]);
        if word(8) != VERSION {
            return Err(TableError::Version(word(8)));
        }
        let bytes = bytes.get(..word(12) as usize).ok_or(TableError::Truncated)?;
        let mut sections = [(0, 0); Section::ALL.len()];
        for (index, section) in Section::ALL.into_iter().enumerate() {
            let start = word(48 + index * 8) as usize;
            let length = (word(52 + index * 8) as usize).checked_mul(section.record_size());
            let end = length.and_then(|length| start.checked_add(length));
            match end {
                Some(end) if start >= HEADER_SIZE && end <= bytes.len() => sections[index] = (start, end),
                _ => return Err(TableError::Section(section.name())),
            }
        }
        let tables = Tables { bytes, sections };
        tables.check(image)?;
        Ok(tables)
    }

    fn section(&self, section: Section) -> &'a [u8] {
        let (start, end) = self.sections[section as usize];
        &self.bytes[start..end]
    }

    fn records<R: Entry>(&self, section: Section) -> Records<'a, R> {
        Records(RawRecords { bytes: self.section(section), record: PhantomData })
    }

    /// Returns the bytes of the tables, as many as their header says.
    #[must_use]
    pub fn bytes(&self) -> &'a [u8] {
        self.bytes
    }

    /// Returns the SHA-256 of the canonical policy.
    #[must_use]
    pub fn policy_hash(&self) -> [u8; 32] {
        let mut hash = [0; 32];
        hash.copy_from_slice(&self.bytes[16..48]);
        hash
    }

    /// Returns the services.
    #[must_use]
    pub fn services(&self) -> Records<'a, Service> {
        self.records(Section::Services)
    }

    /// Returns the loadable segments of all services.
    #[must_use]
    pub fn segments(&self) -> Records<'a, Segment> {
        self.records(Section::Segments)
    }

    /// Returns the regions.
    #[must_use]
    pub fn regions(&self) -> Records<'a, Region> {
        self.records(Section::Regions)
    }

    /// Returns the mappings of all services.
    #[must_use]
    pub fn mappings(&self) -> Records<'a, Mapping> {
        self.records(Section::Mappings)
    }

    /// Returns the capabilities of all services.
    #[must_use]
    pub fn capabilities(&self) -> Records<'a, Capability> {
        self.records(Section::Capabilities)
    }

    /// Returns the one-way queues.
    #[must_use]
    pub fn queues(&self) -> Records<'a, Queue> {
        self.records(Section::Queues)
    }

    /// Returns the grant rules.
    #[must_use]
    pub fn grants(&self) -> Records<'a, GrantRule> {
        self.records(Section::Grants)
    }

    /// Returns the event-channel rules.
    #[must_use]
    pub fn ports(&self) -> Records<'a, PortRule> {
        self.records(Section::Ports)
    }

    /// Returns what the policy demands of the processor.
    #[must_use]
    pub fn image(&self) -> Image {
        self.records(Section::Image).get(0).unwrap_or_else(|| foreign())
    }

    /// Returns the sets of other domains.
    #[must_use]
    pub fn domains(&self) -> Records<'a, DomainSet> {
        self.records(Section::Domains)
    }

    /// Returns a service.
    ///
    /// # Panics
    /// The id is of other tables, which have more of them.
    #[must_use]
    pub fn service(&self, id: ServiceId) -> Service {
        self.services().of(id)
    }

    /// Returns a region.
    ///
    /// # Panics
    /// The id is of other tables, which have more of them.
    #[must_use]
    pub fn region(&self, id: RegionId) -> Region {
        self.regions().of(id)
    }

    /// Returns a mapping.
    ///
    /// # Panics
    /// The id is of other tables, which have more of them.
    #[must_use]
    pub fn mapping(&self, id: MappingId) -> Mapping {
        self.mappings().of(id)
    }

    /// Returns a queue.
    ///
    /// # Panics
    /// The id is of other tables, which have more of them.
    #[must_use]
    pub fn queue(&self, id: QueueId) -> Queue {
        self.queues().of(id)
    }

    /// Returns a grant rule.
    ///
    /// # Panics
    /// The id is of other tables, which have more of them.
    #[must_use]
    pub fn grant(&self, id: GrantRuleId) -> GrantRule {
        self.grants().of(id)
    }

    /// Returns a port rule.
    ///
    /// # Panics
    /// The id is of other tables, which have more of them.
    #[must_use]
    pub fn port(&self, id: PortRuleId) -> PortRule {
        self.ports().of(id)
    }

    /// Returns a set of other domains.
    ///
    /// # Panics
    /// The id is of other tables, which have more of them.
    #[must_use]
    pub fn domain_set(&self, id: DomainSetId) -> DomainSet {
        self.domains().of(id)
    }

    /// Returns the canonical policy text.
    #[must_use]
    pub fn policy_text(&self) -> &'a str {
        core::str::from_utf8(self.section(Section::PolicyText)).unwrap_or_else(|_| foreign())
    }

    /// Returns the text of a name.
    ///
    /// # Panics
    /// The name is of other tables.
    #[must_use]
    pub fn name(&self, name: Name) -> &'a str {
        let name = name.raw();
        let end = (name.offset as usize).saturating_add(name.length as usize);
        let bytes = self.section(Section::Names).get(name.offset as usize..end);
        bytes.and_then(|bytes| core::str::from_utf8(bytes).ok()).unwrap_or_else(|| foreign())
    }

    /// Returns the name of a service.
    ///
    /// # Panics
    /// The id is of other tables, which have more services.
    #[must_use]
    pub fn service_name(&self, id: ServiceId) -> &'a str {
        self.name(self.service(id).name)
    }

    fn check(&self, image: &Range<u64>) -> Result<(), TableError> {
        let limits = [
            (Section::Services, self.services().len(), MAX_SERVICES),
            (Section::Regions, self.regions().len(), MAX_REGIONS),
            (Section::Mappings, self.mappings().len(), MAX_MAPPINGS),
            (Section::Queues, self.queues().len(), MAX_QUEUES),
            (Section::Grants, self.grants().len(), MAX_GRANT_RULES),
            (Section::Ports, self.ports().len(), MAX_PORT_RULES),
            (Section::Domains, self.domains().len(), MAX_DOMAIN_SETS),
        ];
        for (section, length, limit) in limits {
            if length > limit {
                return Err(TableError::Section(section.name()));
            }
        }
        if core::str::from_utf8(self.section(Section::Names)).is_err()
            || core::str::from_utf8(self.section(Section::PolicyText)).is_err()
        {
            return Err(TableError::Section(Section::Names.name()));
        }
        let demands = self.records::<Image>(Section::Image).raw();
        check_each("image", &demands, |_| demands.len() == 1)?;
        if demands.is_empty() {
            return Err(TableError::Section(Section::Image.name()));
        }
        check_each("service", &self.services().raw(), |service| self.service_is_valid(service))?;
        check_each("segment", &self.segments().raw(), |segment| self.segment_is_valid(segment, image))?;
        check_each("region", &self.regions().raw(), |region| self.region_is_valid(region, image))?;
        let mut seen = [SeenMappings::default(); MAX_REGIONS];
        check_each("mapping", &self.mappings().raw(), |mapping| self.mapping_is_valid(mapping, &mut seen))?;
        let mut seen = SeenCapabilities { slots: [0; MAX_SERVICES], regions: [0; MAX_REGIONS], domains: 0 };
        check_each("capability", &self.capabilities().raw(), |capability| {
            self.capability_is_valid(capability, &mut seen)
        })?;
        check_each("queue", &self.queues().raw(), |queue| self.queue_is_valid(queue))?;
        check_each("grant", &self.grants().raw(), |grant| self.grant_is_valid(grant))?;
        check_each("port", &self.ports().raw(), |port| {
            self.is_service(port.service)
                && port.bit <= MAX_NOTIFICATION_BIT
                // 0 is the XenStore daemon.
                && usize::from(port.peer) <= self.domains().len()
                && self.is_name(port.name)
        })?;
        check_each("domain", &self.domains().raw(), |domains| {
            domains.first <= domains.last && domains.pinned < 2 && self.is_name(domains.name)
        })
    }

    fn is_service(&self, index: u8) -> bool {
        usize::from(index) < self.services().len()
    }

    fn is_name(&self, name: raw::Name) -> bool {
        let (names, start) = (self.section(Section::Names), name.offset as usize);
        let end = start.saturating_add(name.length as usize);
        // The whole section was checked to be UTF-8 first. A part of it is UTF-8 if neither end
        // splits a character.
        let between = |at: usize| names.get(at).is_none_or(|byte| byte & 0b1100_0000 != 0b1000_0000);
        name.length <= MAX_NAME && end <= names.len() && between(start) && between(end)
    }

    fn service_is_valid(&self, service: &raw::Service) -> bool {
        self.is_name(service.name)
            && service.entry < LOWER_HALF_END
            && service.stack_top < LOWER_HALF_END
            && service.stack_top.is_multiple_of(16)
            && service.budget_us > 0
            && service.budget_us <= service.period_us
    }

    fn segment_is_valid(&self, segment: &raw::Segment, image: &Range<u64>) -> bool {
        let end = segment.address.checked_add(segment.memory_size);
        // Without bytes in the image, the address of them has no meaning, and names no page.
        let in_image = segment.file_size == 0 || lies_in(image, segment.image_address, segment.file_size);
        // What is mapped from the image must be there as a whole.
        let whole = segment.file_size == segment.memory_size;
        self.is_service(segment.service)
            && segment.flags < 8
            && segment.flags & (WRITABLE | EXECUTABLE) != WRITABLE | EXECUTABLE
            && segment.address.is_multiple_of(PAGE_SIZE as u64)
            && in_image
            && segment.image_address.is_multiple_of(PAGE_SIZE as u64)
            && (whole || segment.flags & WRITABLE != 0 && segment.file_size < segment.memory_size)
            && segment.address > 0
            && end.is_some_and(|end| end < LOWER_HALF_END)
    }

    fn region_is_valid(&self, region: &raw::Region, image: &Range<u64>) -> bool {
        let size_is_valid = match region.kind {
            RegionKind::Fixed => region.amount > 0 && region.amount <= 1 << 20,
            RegionKind::Share => region.amount > 0 && region.minimum <= region.maximum && region.maximum <= 1 << 20,
            RegionKind::ImageData => {
                region.image_length > 0 && lies_in(image, region.image_address, region.image_length)
            }
            RegionKind::Module | RegionKind::CommandLine | RegionKind::XenStoreRing => true,
        };
        size_is_valid
            && region.image_address.checked_add(region.image_length).is_some()
            && self.is_name(region.name)
            && region.clear_on_restart < 2
    }

    /// Checks one mapping. `seen` has the earlier mappings of each region.
    fn mapping_is_valid(&self, mapping: &raw::Mapping, seen: &mut [SeenMappings; MAX_REGIONS]) -> bool {
        let region = self.regions().raw().get(usize::from(mapping.region));
        let writable = mapping.access == Access::ReadWrite;
        let access_fits = region.is_some_and(|region| {
            matches!(region.kind, RegionKind::Fixed | RegionKind::Share | RegionKind::XenStoreRing) || !writable
        });
        let service = 1_u16.checked_shl(u32::from(mapping.service)).unwrap_or_default();
        let fits_others = seen.get_mut(usize::from(mapping.region)).is_some_and(|seen| {
            let fits = seen.services & service == 0 && !(writable && seen.writable);
            *seen = SeenMappings { services: seen.services | service, writable: seen.writable || writable };
            fits
        });
        self.is_service(mapping.service)
            && access_fits
            && fits_others
            && mapping.address.is_multiple_of(PAGE_SIZE as u64)
            && mapping.address > 0
            && mapping.address < LOWER_HALF_END
    }

    /// Checks one capability. `seen` has the earlier ones. A service has at most one for each of
    /// its mappings, so that nothing it owns has two names.
    fn capability_is_valid(&self, capability: &raw::Capability, seen: &mut SeenCapabilities) -> bool {
        let object = capability.object as usize;
        let exists = match capability.kind {
            Kind::Sender => self.queues().raw().get(object).is_some_and(|queue| queue.sender == capability.service),
            Kind::Receiver => self.queues().raw().get(object).is_some_and(|queue| queue.receiver == capability.service),
            Kind::Port => self.ports().raw().get(object).is_some_and(|port| port.service == capability.service),
            Kind::Grant => object < self.grants().len(),
            Kind::Region => self.mappings().raw().get(object).is_some_and(|mapping| {
                let service = 1_u16.checked_shl(u32::from(mapping.service)).unwrap_or_default();
                let is_first = seen.regions.get_mut(usize::from(mapping.region)).is_some_and(|services| {
                    let first = *services & service == 0;
                    *services |= service;
                    first
                });
                mapping.service == capability.service && is_first
            }),
            Kind::Domain => self.domains().raw().get(object).is_some_and(|domains| {
                // A set that is not pinned has no pin to set. There are fewer sets than bits.
                let bit = 1_u32.checked_shl(capability.object).unwrap_or_default();
                let is_first = seen.domains & bit == 0;
                seen.domains |= bit;
                domains.pinned == 1 && is_first
            }),
            Kind::Console | Kind::Clock | Kind::Entropy | Kind::Power | Kind::Info => object == 0,
        };
        let slot = 1u64.checked_shl(u32::from(capability.slot)).unwrap_or_default();
        let slot_is_free = seen.slots.get_mut(usize::from(capability.service)).is_some_and(|slots| {
            let free = *slots & slot == 0;
            *slots |= slot;
            free && slot != 0
        });
        exists && slot_is_free && self.is_service(capability.service) && self.is_name(capability.name)
    }

    fn queue_is_valid(&self, queue: &raw::Queue) -> bool {
        let regions = self.regions().len();
        self.is_name(queue.name)
            && self.is_service(queue.sender)
            && self.is_service(queue.receiver)
            && queue.sender_bit <= MAX_NOTIFICATION_BIT
            && queue.receiver_bit <= MAX_NOTIFICATION_BIT
            && queue.message_size > 0
            && queue.depth.is_power_of_two()
            && usize::from(queue.producer_region) < regions
            && usize::from(queue.consumer_region) < regions
    }

    fn grant_is_valid(&self, grant: &raw::GrantRule) -> bool {
        let last = grant.first_ref.checked_add(grant.count);
        let fits =
            self.regions().raw().get(usize::from(grant.region)).is_some_and(|region| {
                region.kind == RegionKind::Fixed && grant.count > 0 && grant.count <= region.amount
            });
        let disjoint = self
            .grants()
            .raw()
            .iter()
            .filter(|other| {
                other.first_ref < grant.first_ref.saturating_add(grant.count)
                    && grant.first_ref < other.first_ref.saturating_add(other.count)
            })
            .count()
            == 1;
        fits && disjoint
            && grant.first_ref >= super::FIRST_GRANT_REF
            && last.is_some_and(|last| last <= MAX_GRANT_REFS)
            && usize::from(grant.peers) < self.domains().len()
            && self.is_name(grant.name)
    }
}

/// Returns `true` if the `length` bytes from a page's start at `address` on lie in `image`.
fn lies_in(image: &Range<u64>, address: u64, length: u64) -> bool {
    address.is_multiple_of(PAGE_SIZE as u64)
        && address >= image.start
        && address.checked_add(length).is_some_and(|end| end <= image.end)
}

fn check_each<R: Record>(
    what: &'static str,
    records: &RawRecords<'_, R>,
    mut is_valid: impl FnMut(&R) -> bool,
) -> Result<(), TableError> {
    for index in 0..records.len() {
        if !records.get(index).is_some_and(|record| is_valid(&record)) {
            return Err(TableError::Record(what, index as u32));
        }
    }
    Ok(())
}
