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
            RegionKind::Fixed | RegionKind::Share if self.is_exclusive(&mapping) => {
                region::EXCLUSIVE | if self.restarts[mapping.service] > 0 { 0 } else { region::FRESH }
            }
            _ => 0,
        };
        answer(mapping.address, self.placements[mapping.region].length() | flags)
    }

    /// Returns `true` if a mapping has the flag [`region::EXCLUSIVE`].
    fn is_exclusive(&self, mapping: &Mapping) -> bool {
        let shared = |other: &Mapping| other.region == mapping.region && other.service != mapping.service;
        let grants = self.tables.grants();
        let mut granted = grants.iter().filter(|rule| rule.region == mapping.region).peekable();
        // Few regions are granted, so this check comes before the search for other mappings.
        mapping.access == Access::ReadWrite
            && granted.peek().is_some()
            && granted.all(|rule| rule.access == Access::Read)
            && !self.tables.mappings().iter().any(|other| shared(&other))
    }
}
