//! Maps pages of the front end in place of our own.

use cloister_caps::{DomId, GrantRef, PAGE_SIZE};
use cloister_interfaces::capability::Grant;
use cloister_interfaces::{Memory, System};

/// The largest number of pages of a region.
const MOST: usize = 258;

/// A region whose pages are replaced by those of the front end. Each is mapped when it is first
/// needed, and stays mapped.
pub struct ForeignPages<S, M> {
    rule: Grant<S>,
    memory: M,
    /// The reference under which each page is mapped.
    mapped: [Option<GrantRef>; MOST],
    /// The number of pages that are mapped by number. The others are for [`ForeignPages::at`].
    fixed: usize,
    count: usize,
}

impl<S: System, M: Memory> ForeignPages<S, M> {
    /// Wraps the region `memory`, shared under `rule`. Its first `fixed` pages are mapped by
    /// number.
    pub fn new(rule: Grant<S>, memory: M, fixed: usize) -> Self {
        let count = (memory.len() / PAGE_SIZE).min(MOST);
        ForeignPages { rule, memory, mapped: [None; MOST], fixed, count }
    }

    /// Returns the region.
    pub fn memory(&self) -> &M {
        &self.memory
    }

    /// Maps the page that `peer` grants under `reference` as page `page`. Returns `true`
    /// if it is mapped.
    pub fn map(&mut self, page: usize, peer: DomId, reference: GrantRef) -> bool {
        let Some(entry) = self.mapped.get_mut(page) else { return false };
        if *entry == Some(reference) {
            return true;
        }
        if entry.take().is_some() {
            // A page that we mapped can be unmapped.
            let _ = self.rule.end(page as u32);
        }
        if self.rule.map(page as u32, peer, reference).is_err() {
            return false;
        }
        *entry = Some(reference);
        true
    }

    /// Returns the offset in the region of the page that `peer` grants under `reference`. Maps it
    /// if it is not mapped.
    pub fn at(&mut self, peer: DomId, reference: GrantRef) -> Option<usize> {
        let room = self.count.checked_sub(self.fixed).filter(|room| *room > 0)?;
        let page = self.fixed + reference.0 as usize % room;
        self.map(page, peer, reference).then_some(page * PAGE_SIZE)
    }

    /// Returns the offsets and references of the mapped pages, except for the fixed ones.
    pub fn mapped(&self) -> impl Iterator<Item = (usize, GrantRef)> + '_ {
        let pages = self.mapped.iter().enumerate().skip(self.fixed);
        pages.filter_map(|(page, reference)| Some((page * PAGE_SIZE, (*reference)?)))
    }

    /// Unmaps every page.
    pub fn unmap(&mut self) {
        for (page, entry) in self.mapped.iter_mut().enumerate() {
            if entry.take().is_some() {
                let _ = self.rule.end(page as u32);
            }
        }
    }
}

/// Returns the number of bytes that are not 0.
pub fn count_nonzero(bytes: &[u8]) -> u32 {
    bytes.iter().filter(|byte| **byte != 0).count() as u32
}

#[cfg(test)]
mod tests {
    use super::*;
    use cloister_caps::Slot;
    use cloister_sim::{Recorder, SharedMemory};

    #[test]
    fn a_page_is_mapped_once_and_given_up_for_another() {
        let system = Recorder::new();
        let rule = Grant::new(system.clone(), Slot(3));
        let mut pages = ForeignPages::new(rule, SharedMemory::new(4 * PAGE_SIZE), 2);
        let calls = || system.take_calls().iter().map(|call| (call.1.name(), call.2)).collect::<Vec<_>>();
        assert!(pages.map(0, DomId(7), GrantRef(9)) && pages.map(0, DomId(7), GrantRef(9)));
        assert_eq!(calls(), [("issue", [0, 7, 9, 0])]);
        assert_eq!(pages.at(DomId(7), GrantRef(11)), Some(3 * PAGE_SIZE));
        assert_eq!(pages.at(DomId(7), GrantRef(13)), Some(3 * PAGE_SIZE));
        assert_eq!(calls(), [("issue", [3, 7, 11, 0]), ("end", [3, 0, 0, 0]), ("issue", [3, 7, 13, 0])]);
        assert_eq!(pages.mapped().collect::<Vec<_>>(), [(3 * PAGE_SIZE, GrantRef(13))]);
        pages.unmap();
        assert_eq!(calls(), [("end", [0; 4]), ("end", [3, 0, 0, 0])]);
        assert!(!pages.map(258, DomId(7), GrantRef(1)));
    }
}
