//! Which connections each source holds.

use cloister_collections::{Counts, Lists};
use cloister_interfaces::socket::{ConnectionId, SourceId};

use crate::table::{Key, Source, Table};

/// The number of bytes of the heap for each connection: the table 20, counts 8, lists 12.
pub const BYTES: usize = 40;

/// The sources that hold connections. Each has a number.
pub struct Sources {
    table: Table,
    counts: Counts,
    /// For each source's number, its connections.
    lists: Lists,
}

impl Sources {
    /// Creates room for the sources of `count` connections. `random` makes the hash function of the
    /// table secret.
    #[inline(never)] // Called a few times.
    pub fn new(count: usize, random: u64) -> Self {
        Sources {
            table: Table::new(count, random),
            counts: Counts::new(count).unwrap_or_default(),
            lists: Lists::new(count, count).unwrap_or_default(),
        }
    }

    /// Counts a connection for `source`, if it does not count yet. It is the last of its source.
    #[inline(never)] // Rarely called.
    pub fn add(&mut self, id: ConnectionId, source: Source) {
        if self.number(id).is_some() {
            return;
        }
        let found = self.table.find(source.key());
        let Some(number) = found.or_else(|| self.counts.unused()) else { return };
        self.lists.move_to_back(id.0, usize::from(number));
        // There may be no such connection.
        if self.number(id).is_some() {
            if found.is_none() {
                self.table.insert(number, source.key());
            }
            self.counts.grow(number);
        }
    }

    /// Counts a connection no longer, if it does. Returns its source.
    #[inline(never)] // Rarely called.
    pub fn remove(&mut self, id: ConnectionId) -> Option<Source> {
        let source = self.source(id);
        let SourceId(number) = self.number(id)?;
        self.lists.remove(id.0);
        self.counts.shrink(number);
        if self.counts.of(number) == 0 {
            self.table.remove(number);
        }
        source
    }

    /// Returns the connections of a source, the one that has counted for longest first.
    pub fn connections(&self, SourceId(number): SourceId) -> impl Iterator<Item = ConnectionId> + '_ {
        self.lists.iter(usize::from(number)).map(ConnectionId)
    }

    /// Returns the source of a connection, if the connection counts.
    pub fn source(&self, id: ConnectionId) -> Option<Source> {
        self.table.key(self.number(id)?.0).map(Key::source)
    }

    /// Returns the number of a connection's source, if the connection counts.
    pub fn number(&self, id: ConnectionId) -> Option<SourceId> {
        self.lists.list_of(id.0).map(|number| SourceId(number as u16))
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
}

#[cfg(test)]
mod tests {
    use std::collections::HashMap;

    use proptest::prelude::*;

    use super::*;

    fn source(number: u8) -> Source {
        Key::new([10, 0, 0, number], 5000, 80).source()
    }

    proptest! {
        /// Compares with a map from each connection to its source, and the order in which they came.
        #[test]
        fn counts_and_orders_match_a_map(random: u64, count in 1usize..40, acts in prop::collection::vec((0u16..40, 0u8..30, any::<bool>()), 0..300)) {
            let mut sources = Sources::new(count, random);
            // Each connection's source, and when it came.
            let (mut map, mut came) = (HashMap::new(), HashMap::new());
            for (time, (index, number, add)) in acts.into_iter().enumerate() {
                let id = ConnectionId(index % count as u16);
                if add {
                    sources.add(id, source(number));
                    map.entry(id).or_insert_with(|| {
                        came.insert(id, time);
                        number
                    });
                } else {
                    prop_assert_eq!(sources.remove(id), map.remove(&id).map(source));
                }
                for number in 0..30 {
                    let mut own: Vec<_> = map.iter().filter(|(_, other)| **other == number).map(|(id, _)| *id).collect();
                    own.sort_by_key(|id| came[id]);
                    let found: Vec<_> =
                        sources.find(source(number)).into_iter().flat_map(|number| sources.connections(number)).collect();
                    prop_assert_eq!(found, own);
                }
                let held = |number: u8| map.values().filter(|other| **other == number).count() as u16;
                for number in 0..30 {
                    prop_assert_eq!(sources.held(source(number)), held(number));
                }
                let most = (0..30).map(held).max().unwrap_or(0);
                prop_assert_eq!(sources.most(), most);
                let largest = sources.largest().expect("there are some");
                prop_assert_eq!(sources.connections(largest).count(), usize::from(most));
                let mut numbers = HashMap::new();
                for (id, source) in &map {
                    let number = sources.number(*id).expect("it counts");
                    prop_assert_eq!(*numbers.entry(number).or_insert(*source), *source, "a number is one source's");
                    prop_assert_eq!(sources.held_with(*id), held(*source));
                }
            }
        }
    }
}
