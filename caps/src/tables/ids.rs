//! Ids of what the tables describe, and collections that they index.
//!
//! An id is made here alone, when [`Tables`](super::Tables) hands it out, or taken from a set of
//! such ids. Its range is a part of
//! its type, so a collection that it indexes has an entry for each, and looking one up cannot fail.

use core::fmt;
use core::ops::{Index, IndexMut};

use super::limits::{
    MAX_DOMAIN_SETS, MAX_GRANT_RULES, MAX_MAPPINGS, MAX_PORT_RULES, MAX_QUEUES, MAX_REGIONS, MAX_SERVICES,
};

/// Converts a number of a checked record into what it stands for.
///
/// It is called only for records of checked tables: that is what makes the result a proof.
pub(super) trait Proven<Raw> {
    fn proven(raw: Raw) -> Self;
}

macro_rules! id {
    ($(#[$doc:meta])* $name:ident($inner:ty) below $limit:ident, $prefix:literal, $($raw:ty),+) => {
        $(#[$doc])*
        #[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
        pub struct $name($inner);

        impl $name {
            /// Returns the index of the record in its section.
            #[must_use]
            #[inline]
            pub const fn index(self) -> usize {
                self.0 as usize
            }
        }

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                write!(f, concat!($prefix, " {}"), self.index())
            }
        }

        $(impl Proven<$raw> for $name {
            fn proven(raw: $raw) -> $name {
                debug_assert!((raw as usize) < $limit);
                $name(Proven::proven(raw as _))
            }
        })+
    };
}

macro_rules! collection {
    ($(#[$doc:meta])* $name:ident[$id:ident; $limit:ident]) => {
        $(#[$doc])*
        #[derive(Clone, Copy, PartialEq, Eq, Debug)]
        pub struct $name<T>([T; $limit]);

        impl<T> $name<T> {
            /// Creates a collection with these entries. Those past the last record of the tables
            /// are never looked up.
            #[must_use]
            pub const fn new(entries: [T; $limit]) -> Self {
                $name(entries)
            }

            /// Returns an iterator that can change each entry, also those that are never looked up.
            pub fn iter_mut(&mut self) -> core::slice::IterMut<'_, T> {
                self.0.iter_mut()
            }
        }

        impl<T: Copy + Default> Default for $name<T> {
            fn default() -> Self {
                $name([T::default(); $limit])
            }
        }

        impl<T> Index<$id> for $name<T> {
            type Output = T;
            #[inline]
            fn index(&self, id: $id) -> &T {
                // The minimum changes nothing: it tells the compiler the id's range.
                &self.0[id.index().min($limit - 1)]
            }
        }

        impl<T> IndexMut<$id> for $name<T> {
            #[inline]
            fn index_mut(&mut self, id: $id) -> &mut T {
                &mut self.0[id.index().min($limit - 1)]
            }
        }
    };
}

/// A number below [`MAX_SERVICES`]. As an `enum`, it is one for the compiler too.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
#[repr(u8)]
#[rustfmt::skip]
enum ServiceNumber { N0, N1, N2, N3, N4, N5, N6, N7, N8, N9, N10, N11, N12, N13, N14, N15 }

impl ServiceNumber {
    #[rustfmt::skip]
    const ALL: [ServiceNumber; MAX_SERVICES] = {
        use ServiceNumber::*;
        [N0, N1, N2, N3, N4, N5, N6, N7, N8, N9, N10, N11, N12, N13, N14, N15]
    };
}

impl fmt::Debug for ServiceNumber {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}", *self as u8)
    }
}

impl Proven<u8> for ServiceNumber {
    fn proven(raw: u8) -> ServiceNumber {
        ServiceNumber::ALL[usize::from(raw) % MAX_SERVICES]
    }
}

id! {
    /// A service of the image.
    ///
    /// # Holding one proves
    /// Checked tables describe a service of this index, which is below [`MAX_SERVICES`].
    ServiceId(ServiceNumber) below MAX_SERVICES, "service", u8
}
id! {
    /// A region.
    ///
    /// # Holding one proves
    /// Checked tables describe a region of this index, which is below [`MAX_REGIONS`].
    RegionId(u8) below MAX_REGIONS, "region", u16
}
id! {
    /// A mapping: a region in a service's address space.
    ///
    /// # Holding one proves
    /// Checked tables describe a mapping of this index, which is below [`MAX_MAPPINGS`].
    MappingId(u16) below MAX_MAPPINGS, "mapping", u32
}
id! {
    /// A one-way queue.
    ///
    /// # Holding one proves
    /// Checked tables describe a queue of this index, which is below [`MAX_QUEUES`].
    QueueId(u8) below MAX_QUEUES, "queue", u32
}
id! {
    /// A rule that allows granting pages.
    ///
    /// # Holding one proves
    /// Checked tables describe a grant rule of this index, which is below [`MAX_GRANT_RULES`].
    GrantRuleId(u8) below MAX_GRANT_RULES, "grant rule", u32
}
id! {
    /// A rule that allows an event channel.
    ///
    /// # Holding one proves
    /// Checked tables describe a port rule of this index, which is below [`MAX_PORT_RULES`].
    PortRuleId(u8) below MAX_PORT_RULES, "port rule", u32
}

id! {
    /// A set of other domains.
    ///
    /// # Holding one proves
    /// Checked tables describe a set of this index, which is below [`MAX_DOMAIN_SETS`].
    DomainSetId(u8) below MAX_DOMAIN_SETS, "domain set", u16, u32
}

collection! {
    /// A value for each service.
    PerService[ServiceId; MAX_SERVICES]
}
collection! {
    /// A value for each region.
    PerRegion[RegionId; MAX_REGIONS]
}
collection! {
    /// A value for each port rule.
    PerPortRule[PortRuleId; MAX_PORT_RULES]
}

collection! {
    /// A value for each set of other domains.
    PerDomainSet[DomainSetId; MAX_DOMAIN_SETS]
}

/// A set of port rules.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct PortRuleSet(u16);

static_assertions::const_assert!(MAX_PORT_RULES <= u16::BITS as usize);

impl PortRuleSet {
    /// The set without rules.
    pub const EMPTY: PortRuleSet = PortRuleSet(0);

    /// Adds a rule.
    #[inline]
    pub fn insert(&mut self, rule: PortRuleId) {
        self.0 |= 1 << (rule.0 & 15);
    }

    /// Removes a rule. It may not be in the set.
    #[inline]
    pub fn remove(&mut self, rule: PortRuleId) {
        self.0 &= !(1 << (rule.0 & 15));
    }
}

impl Iterator for PortRuleSet {
    type Item = PortRuleId;

    /// Takes a rule out of the set.
    #[inline]
    fn next(&mut self) -> Option<PortRuleId> {
        let rule = self.0.trailing_zeros() as u8;
        // Clears the lowest bit.
        self.0 &= self.0.checked_sub(1)?;
        Some(PortRuleId(rule))
    }
}
