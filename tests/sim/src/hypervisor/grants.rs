//! A grant table of version 1 (`grant_table.h`), and its use by other domains.

use cloister_caps::tables::{FIRST_GRANT_REF, MAX_GRANT_REFS};
pub use cloister_caps::xen::grant::{PERMIT_ACCESS, READING, READONLY, WRITING};
use cloister_caps::{DomId, Gfn, GrantRef};

/// The reason why Xen refuses a domain the use of a page.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum GrantError {
    /// `GNTST_bad_gntref`: the entry is empty, or for another domain.
    BadReference,
    /// `GNTST_permission_denied`: the page is granted for reading only.
    ReadOnly,
}

/// An entry, and the number of the peer's uses of each kind.
#[derive(Clone, Copy, Default)]
struct Entry {
    flags: u16,
    domain: u16,
    frame: u64,
    readers: u32,
    writers: u32,
}

/// The grant table of a domain.
pub struct GrantTable {
    entries: Vec<Entry>,
}

impl GrantTable {
    /// Creates an empty table.
    #[must_use]
    pub fn new() -> Self {
        GrantTable { entries: vec![Entry::default(); MAX_GRANT_REFS as usize] }
    }

    /// Writes an entry, as the guest does.
    ///
    /// # Panics
    /// The entry is the toolstack's, or is in use. Either is a defect of the kernel: the peer may
    /// use the page at this moment.
    pub fn permit(&mut self, reference: GrantRef, frame: Gfn, peer: DomId, writable: bool) {
        assert!(reference.0 >= FIRST_GRANT_REF, "{reference} is the toolstack's");
        let entry = &mut self.entries[reference.0 as usize];
        assert_eq!(entry.flags, 0, "{reference} was granted twice");
        let flags = PERMIT_ACCESS | if writable { 0 } else { READONLY };
        *entry = Entry { flags, domain: peer.0, frame: frame.0, readers: 0, writers: 0 };
    }

    /// Ends a grant, as the guest does, unless the peer uses the page. Returns `true` if the grant
    /// ended.
    pub fn end(&mut self, reference: GrantRef) -> bool {
        let entry = &mut self.entries[reference.0 as usize];
        if entry.flags & (READING | WRITING) != 0 {
            return false;
        }
        *entry = Entry::default();
        true
    }

    /// Begins a use of a page by `domain`, with a mapping or a copy. Returns the frame of the page.
    ///
    /// # Errors
    /// The grant does not allow the use.
    pub fn begin(&mut self, domain: u16, reference: u32, write: bool) -> Result<Gfn, GrantError> {
        let entry = self.entries.get_mut(reference as usize).ok_or(GrantError::BadReference)?;
        if entry.flags & PERMIT_ACCESS == 0 || entry.domain != domain {
            return Err(GrantError::BadReference);
        }
        if write && entry.flags & READONLY != 0 {
            return Err(GrantError::ReadOnly);
        }
        let users = if write { &mut entry.writers } else { &mut entry.readers };
        *users += 1;
        entry.flags |= READING | if write { WRITING } else { 0 };
        Ok(Gfn(entry.frame))
    }

    /// Ends a use that `domain` began.
    pub fn finish(&mut self, domain: u16, reference: u32, write: bool) {
        let Some(entry) = self.entries.get_mut(reference as usize).filter(|entry| entry.domain == domain) else {
            return;
        };
        let users = if write { &mut entry.writers } else { &mut entry.readers };
        *users = users.saturating_sub(1);
        if entry.writers == 0 {
            entry.flags &= !WRITING;
            if entry.readers == 0 {
                entry.flags &= !READING;
            }
        }
    }

    /// Returns the flags of an entry, as the guest reads them.
    #[must_use]
    pub fn flags(&self, reference: u32) -> u16 {
        self.entries.get(reference as usize).map_or(0, |entry| entry.flags)
    }

    /// Returns the granted pages: the reference, the frame, the peer, and `true` if it may write.
    pub fn active(&self) -> impl Iterator<Item = (GrantRef, Gfn, DomId, bool)> {
        self.entries.iter().enumerate().filter(|(_, entry)| entry.flags != 0).map(|(reference, entry)| {
            (GrantRef(reference as u32), Gfn(entry.frame), DomId(entry.domain), entry.flags & READONLY == 0)
        })
    }
}

impl Default for GrantTable {
    fn default() -> Self {
        Self::new()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_page_in_use_stays_granted() {
        let mut table = GrantTable::new();
        table.permit(GrantRef(9), Gfn(70), DomId(3), true);
        assert_eq!(table.begin(4, 9, false), Err(GrantError::BadReference));
        assert_eq!(table.begin(3, 9, false), Ok(Gfn(70)));
        assert_eq!(table.begin(3, 9, true), Ok(Gfn(70)));
        assert_eq!(table.flags(9), PERMIT_ACCESS | READING | WRITING);
        table.finish(3, 9, true);
        assert_eq!(table.flags(9), PERMIT_ACCESS | READING);
        assert!(!table.end(GrantRef(9)));
        table.finish(3, 9, false);
        assert!(table.end(GrantRef(9)));
        assert_eq!(table.begin(3, 9, false), Err(GrantError::BadReference));
        assert_eq!(table.active().count(), 0);
    }

    #[test]
    fn a_page_granted_for_reading_cannot_be_written() {
        let mut table = GrantTable::new();
        table.permit(GrantRef(8), Gfn(1), DomId(0), false);
        assert_eq!(table.begin(0, 8, true), Err(GrantError::ReadOnly));
        assert_eq!(table.begin(0, 8, false), Ok(Gfn(1)));
        assert_eq!(table.flags(8), PERMIT_ACCESS | READONLY | READING);
    }

    #[test]
    #[should_panic(expected = "granted twice")]
    fn an_active_entry_is_not_overwritten() {
        let mut table = GrantTable::new();
        table.permit(GrantRef(8), Gfn(1), DomId(0), false);
        table.permit(GrantRef(8), Gfn(2), DomId(0), false);
    }
}
