//! A hash table from a peer's address and ports to an index.

use alloc::vec::Vec;

use cloister_collections::LazyVec;

const END: u16 = u16::MAX;

/// The peer's address and port, and our port: what identifies a connection.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Key(u64);

impl Key {
    /// Returns the key of the connection of the peer at `address` and `port` to our port `local`.
    pub fn new(address: [u8; 4], port: u16, local: u16) -> Self {
        Key(u64::from(u32::from_be_bytes(address)) << 32 | u64::from(port) << 16 | u64::from(local))
    }

    /// Returns the peer's source.
    pub fn source(self) -> Source {
        Source(Key(self.0 >> 32 << 32))
    }

    /// Returns the peer's address.
    pub fn address(self) -> [u8; 4] {
        ((self.0 >> 32) as u32).to_be_bytes()
    }

    /// Returns the peer's address and port, and our port, in network byte order.
    pub fn bytes(self) -> [u8; 8] {
        self.0.to_be_bytes()
    }
}

/// The address that connections are counted by: the peer's IPv4 address. Of an IPv6 address it would
/// be the first 64 bits, because one host has all addresses with them.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Source(Key);

impl Source {
    /// Returns the key under which a table that has a source once finds it: with ports that no
    /// connection has.
    pub fn key(self) -> Key {
        self.0
    }
}

/// A map from keys to indices: a hash table of chains. The hash function is secret, so that no peer
/// can choose addresses and ports that fall into one chain.
pub struct Table {
    /// The first index of each chain, or `END`.
    chains: Vec<u16>,
    /// For each index, the next one of the same chain, and its key.
    entries: LazyVec<(u16, Key)>,
    factor: u64,
}

impl Table {
    /// Creates an empty table for indices below `count`. `random` makes its hash function secret.
    #[inline(never)] // Called once for each table.
    pub fn new(count: usize, random: u64) -> Self {
        let chains = count.next_power_of_two();
        // Multiplying by a random odd number and keeping the highest bits is a universal hash
        // function (Dietzfelbinger and others, 1997).
        let entries = LazyVec::new(count).unwrap_or_default();
        Table { chains: alloc::vec![END; chains], entries, factor: random | 1 }
    }

    fn chain(&mut self, key: Key) -> Option<&mut u16> {
        let hash = key.0.wrapping_mul(self.factor) >> 32;
        let chain = (hash as usize * self.chains.len()) >> 32;
        self.chains.get_mut(chain)
    }

    /// Returns the index of `key`.
    pub fn find(&mut self, key: Key) -> Option<u16> {
        let mut index = *self.chain(key)?;
        loop {
            let (next, other) = self.entries.get(index)?;
            if *other == key {
                return Some(index);
            }
            index = *next;
        }
    }

    /// Returns the key of an index that is in the table.
    pub fn key(&self, index: u16) -> Option<Key> {
        self.entries.get(index).map(|(_, key)| *key)
    }

    /// Inserts an index that is not in the table.
    pub fn insert(&mut self, index: u16, key: Key) {
        let Some(next) = self.chain(key).map(|first| *first) else { return };
        let Some(entry) = self.entries.get_or_make(index, |_| (END, Key(0))) else { return };
        *entry = (next, key);
        self.chain(key).into_iter().for_each(|first| *first = index);
    }

    /// Removes an index, if it is in the table.
    pub fn remove(&mut self, index: u16) {
        let Some((after, key)) = self.entries.get(index).copied() else { return };
        let Some(first) = self.chain(key) else { return };
        if *first == index {
            *first = after;
            return;
        }
        let mut at = *first;
        while let Some((next, _)) = self.entries.get_mut(at) {
            if *next == index {
                *next = after;
                return;
            }
            at = *next;
        }
    }
}

#[cfg(test)]
mod tests {
    use std::collections::HashMap;

    use proptest::prelude::*;

    use super::*;

    #[test]
    fn every_part_of_a_key_matters() {
        let keys = [([10, 0, 0, 1], 1, 80), ([10, 0, 0, 2], 1, 80), ([10, 0, 0, 1], 2, 80), ([10, 0, 0, 1], 1, 81)];
        let mut table = Table::new(4, 0);
        for (index, (address, port, local)) in keys.into_iter().enumerate() {
            assert_eq!(table.find(Key::new(address, port, local)), None);
            table.insert(index as u16, Key::new(address, port, local));
        }
        for (index, (address, port, local)) in keys.into_iter().enumerate() {
            assert_eq!(table.find(Key::new(address, port, local)), Some(index as u16));
        }
    }

    #[test]
    fn a_source_is_an_address_whatever_the_ports() {
        let source = Key::new([10, 0, 0, 1], 1, 80).source();
        assert_eq!(source, Key::new([10, 0, 0, 1], 65_535, 81).source());
        assert_ne!(source, Key::new([10, 0, 0, 2], 1, 80).source());
        assert_ne!(source, Key::new([11, 0, 0, 1], 1, 80).source());
    }

    proptest! {
        #[test]
        fn it_is_a_map(random: u64, count in 1usize..40, acts in prop::collection::vec((0u16..40, 0u16..60, any::<bool>()), 0..300)) {
            let mut table = Table::new(count, random);
            let mut map = HashMap::new();
            for (index, port, add) in acts {
                let index = index % count as u16;
                let key = Key::new([10, 0, 0, 1], port, 80);
                prop_assert_eq!(table.find(key), map.get(&port).copied());
                let taken = map.values().any(|other| *other == index);
                if add && !taken && !map.contains_key(&port) {
                    table.insert(index, key);
                    map.insert(port, index);
                } else if !add {
                    // It may not be there.
                    table.remove(index);
                    map.retain(|_, other| *other != index);
                }
            }
        }
    }
}
