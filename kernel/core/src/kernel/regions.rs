//! Regions: where a service maps one, and what is true of it.

use cloister_caps::Status;
use cloister_caps::abi::region;
use cloister_caps::tables::{Access, Mapping, RegionKind};

use super::{Answer, Kernel, answer};

impl Kernel<'_> {
    /// Returns the address of a mapped region, and its length with the flags of [`region`].
    pub(super) fn find_region(&self, mapping: usize) -> Result<Answer, Status> {
        let mapping = self.tables.mappings().get(mapping).ok_or(Status::WrongOperation)?;
        let record = self.tables.regions().get(usize::from(mapping.region)).ok_or(Status::WrongOperation)?;
        let placement = self.placements.get(usize::from(mapping.region)).ok_or(Status::WrongOperation)?;
        let flags = match record.kind {
            RegionKind::Module | RegionKind::CommandLine | RegionKind::ImageData => region::CONSTANT,
            RegionKind::Fixed | RegionKind::Share if self.is_exclusive(&mapping) => {
                let restarted = self.restarts.get(usize::from(mapping.service)).is_none_or(|restarts| *restarts > 0);
                region::EXCLUSIVE | if restarted { 0 } else { region::FRESH }
            }
            _ => 0,
        };
        Ok(answer(mapping.address, placement.length | flags))
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
