//! How many connections each source holds.
//!
//! Only connections of peers that have answered our SYN count: anybody can send a SYN with a forged
//! address.

use alloc::vec::Vec;

use cloister_collections::Counts;
use cloister_interfaces::socket::{ConnectionId, SourceId};

use crate::table::{Source, Table};

/// In place of a source: the connection counts for none.
const NONE: u16 = u16::MAX;

/// The number of bytes of the heap for each connection.
pub const BYTES: usize = 30;

/// The sources that hold connections. Each has a number.
pub struct Sources {
    table: Table,
    counts: Counts,
    /// For each connection, the number of its source, or `NONE`.
    of: Vec<u16>,
    /// The connection at which the next search begins.
    hand: usize,
}

impl Sources {
    /// Creates room for the sources of `count` connections. `random` makes the hash function of the
    /// table secret.
    pub fn new(count: usize, random: u64) -> Self {
        Sources {
            table: Table::new(count, random),
            counts: Counts::new(count).unwrap_or_default(),
            of: alloc::vec![NONE; count],
            hand: 0,
        }
    }

    /// Counts a connection for `source`, if it does not count yet.
    #[inline(never)] // Rarely called.
    pub fn add(&mut self, id: ConnectionId, source: Source) {
        let found = self.table.find(source.key());
        let (Some(of), Some(number)) = (self.of.get_mut(usize::from(id.0)), found.or_else(|| self.counts.unused()))
        else {
            return;
        };
        if *of == NONE {
            *of = number;
            if found.is_none() {
                self.table.insert(number, source.key());
            }
            self.counts.grow(number);
        }
    }

    /// Counts a connection no longer, if it does.
    #[inline(never)] // Rarely called.
    pub fn remove(&mut self, id: ConnectionId) {
        let Some(of) = self.of.get_mut(usize::from(id.0)) else { return };
        let number = core::mem::replace(of, NONE);
        self.counts.shrink(number);
        if number != NONE && self.counts.of(number) == 0 {
            self.table.remove(number);
        }
    }

    /// Returns the number of a connection's source, if the connection counts.
    pub fn number(&self, id: ConnectionId) -> Option<SourceId> {
        self.of.get(usize::from(id.0)).copied().filter(|number| *number != NONE).map(SourceId)
    }

    /// Returns how many connections the source of a connection holds.
    pub fn held_with(&self, id: ConnectionId) -> u16 {
        self.number(id).map_or(0, |SourceId(number)| self.counts.of(number))
    }

    /// Returns the number of `source`, if it holds a connection.
    #[inline(never)] // Rarely called.
    pub fn find(&mut self, source: Source) -> Option<SourceId> {
        self.table.find(source.key()).map(SourceId)
    }

    /// Returns how many connections `source` holds.
    pub fn held(&mut self, source: Source) -> u16 {
        self.find(source).map_or(0, |SourceId(number)| self.counts.of(number))
    }

    /// Returns the largest number of connections that a source holds.
    pub fn most(&self) -> u16 {
        self.counts.largest()
    }

    /// Returns a source that holds the most connections.
    pub fn largest(&self) -> Option<SourceId> {
        self.counts.first().map(SourceId)
    }

    /// Returns up to `count` connections of a source, others each time.
    pub fn connections(&mut self, SourceId(source): SourceId, count: usize) -> impl Iterator<Item = ConnectionId> + '_ {
        let Sources { of, hand, .. } = self;
        let length = of.len();
        (0..length)
            .map(move |_| {
                *hand = if *hand + 1 < length { *hand + 1 } else { 0 };
                *hand
            })
            .filter(move |index| of.get(*index) == Some(&source))
            .map(|index| ConnectionId(index as u16))
            .take(count)
    }
}

#[cfg(test)]
mod tests {
    use std::collections::HashMap;

    use proptest::prelude::*;

    use super::*;
    use crate::table::Key;

    fn source(number: u8) -> Source {
        Key::new([10, 0, 0, number], 5000, 80).source()
    }

    proptest! {
        /// Compares with a map from each connection to its source.
        #[test]
        fn counts_match_those_of_a_map(random: u64, count in 1usize..40, acts in prop::collection::vec((0u16..40, 0u8..30, any::<bool>()), 0..300)) {
            let mut sources = Sources::new(count, random);
            let mut map = HashMap::new();
            for (index, number, add) in acts {
                let id = ConnectionId(index % count as u16);
                if add {
                    sources.add(id, source(number));
                    map.entry(id).or_insert(number);
                } else {
                    sources.remove(id);
                    map.remove(&id);
                }
                let held = |number: u8| map.values().filter(|other| **other == number).count() as u16;
                for number in 0..30 {
                    prop_assert_eq!(sources.held(source(number)), held(number));
                }
                let most = (0..30).map(held).max().unwrap_or(0);
                prop_assert_eq!(sources.most(), most);
                let largest = sources.largest().expect("there are some");
                let largest: Vec<ConnectionId> = sources.connections(largest, count).collect();
                prop_assert_eq!(largest.len(), usize::from(most));
                prop_assert!(largest.iter().all(|id| map[id] == map[&largest[0]]));
                let mut numbers = HashMap::new();
                for (id, source) in &map {
                    let number = sources.number(*id).expect("it counts");
                    prop_assert_eq!(*numbers.entry(number).or_insert(*source), *source, "a number is one source's");
                    prop_assert_eq!(sources.held_with(*id), held(*source));
                }
            }
        }
    }

    #[test]
    fn a_search_goes_on_where_the_last_one_ended() {
        let mut sources = Sources::new(6, 1);
        (0..6).for_each(|index| sources.add(ConnectionId(index), source(u8::from(index == 2))));
        let largest = sources.largest().expect("it has five");
        let mut found = || sources.connections(largest, 2).map(|id| id.0).collect::<Vec<_>>();
        assert_eq!([found(), found(), found()], [[1, 3], [4, 5], [0, 1]]);
    }
}
