//! Regions: where a service maps one, and what is true of it.

use cloister_caps::MappingId;
use cloister_caps::abi::region;
use cloister_caps::tables::{Access, Mapping, RegionKind};

use super::Kernel;
use super::answer::{Answer, answer};

impl Kernel<'_> {
    /// Returns the address of a mapped region, and its length with the flags of [`region`].
    pub(super) fn find_region(&self, mapping: MappingId) -> Answer {
        let mapping = self.tables.mapping(mapping);
        let flags = match self.tables.region(mapping.region).kind {
            RegionKind::Module | RegionKind::CommandLine | RegionKind::ImageData => region::CONSTANT,
            RegionKind::Fixed | RegionKind::Share => self.owner_flags(&mapping),
            RegionKind::XenStoreRing => 0,
        };
        answer(mapping.address, self.placements[mapping.region].length() | flags)
    }

    /// Returns the flags that say what a service has for itself: [`region::PRIVATE`],
    /// [`region::EXCLUSIVE`] and [`region::FRESH`].
    fn owner_flags(&self, mapping: &Mapping) -> u64 {
        if mapping.access != Access::ReadWrite || self.mappers[mapping.region] > 1 {
            return 0;
        }
        let fresh = if self.restarts[mapping.service] > 0 { 0 } else { region::FRESH };
        let granted = self.tables.grants().ids().map(|rule| self.tables.grant(rule));
        let granted = granted.filter(|rule| rule.region == mapping.region);
        granted.fold(region::PRIVATE, |flags, rule| match rule.access {
            Access::Read if flags != 0 => region::EXCLUSIVE | fresh,
            _ => 0,
        })
    }
}
