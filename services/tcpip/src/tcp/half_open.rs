//! Which handshake gives way to a SYN.
//!
//! SYNs may have forged addresses. So addresses that hold connections, and all others, have half of
//! the places for handshakes each. Within each half, the address with the most handshakes gives way,
//! of several the one that holds the most connections, and of several the one whose handshake is the
//! oldest. All of them are kept in that order: finding one takes constant time, and a change takes
//! logarithmic time.

use alloc::vec::Vec;

use cloister_collections::Timers;
use cloister_interfaces::Instant;
use cloister_interfaces::socket::{ConnectionId, SourceId};

use crate::table::Source;
use crate::tcp::sources::{self, Sources};

/// The number of bytes of the heap for each connection: the two orders 18 each, serial 4, held 2, and
/// the numbers by what is held 2.
pub const BYTES: usize = sources::BYTES + 44;

/// The connections whose peers have not answered our SYN, by source.
pub struct HalfOpen {
    sources: Sources,
    /// The numbers of the sources that hold no connection, and of those that do, the one that gives
    /// way first.
    orders: [Timers; 2],
    /// For each connection, the number of handshakes that began before.
    serials: Vec<u32>,
    /// The number of handshakes that have begun.
    begun: u32,
    /// For each source's number, how many connections it holds.
    held: Vec<u16>,
    /// For each number of connections, the handshakes of the sources that hold that number.
    by_held: Vec<u16>,
}

/// Returns what a source is ordered by: the one that gives way first has the least. `oldest` is the
/// serial of its oldest handshake.
fn rank(count: u16, held: u16, oldest: u32) -> Instant {
    Instant(!(u64::from(count) << 48 | u64::from(held) << 32 | u64::from(!oldest)))
}

impl HalfOpen {
    /// Creates room for `count` connections. `random` makes the hash function of the table secret.
    #[inline(never)] // Called once.
    pub fn new(count: usize, random: u64) -> Self {
        HalfOpen {
            sources: Sources::new(count, random),
            orders: [(); 2].map(|()| Timers::new(count).unwrap_or_default()),
            serials: alloc::vec![0; count],
            begun: 0,
            held: alloc::vec![0; count],
            by_held: alloc::vec![0; count + 1],
        }
    }

    /// Adds a handshake of `source`, which holds `held` connections.
    #[inline(never)] // Rarely called.
    pub fn add(&mut self, id: ConnectionId, source: Source, held: u16) {
        self.remove(id);
        self.take_out(source);
        if let Some(serial) = self.serials.get_mut(usize::from(id.0)) {
            *serial = self.begun;
        }
        self.begun = self.begun.wrapping_add(1);
        self.sources.add(id, source);
        self.put_in(source, held);
    }

    /// Removes a handshake, if it is one.
    #[inline(never)] // Rarely called.
    pub fn remove(&mut self, id: ConnectionId) {
        let Some(source) = self.sources.source(id) else { return };
        let held = self.take_out(source);
        self.sources.remove(id);
        self.put_in(source, held);
    }

    /// Records how many connections `source` holds now.
    #[inline(never)] // Rarely called.
    pub fn set_held(&mut self, source: Source, held: u16) {
        self.take_out(source);
        self.put_in(source, held);
    }

    /// Takes a source out of its order. Returns how many connections it held.
    fn take_out(&mut self, source: Source) -> u16 {
        let Some(SourceId(number)) = self.sources.find(source) else { return 0 };
        let held = self.held.get(usize::from(number)).copied().unwrap_or(0);
        self.orders.iter_mut().for_each(|order| order.remove(number));
        let count = self.sources.held(source);
        self.by_held.get_mut(usize::from(held)).into_iter().for_each(|all| *all -= count);
        held
    }

    /// Puts a source into its order, if it has a handshake.
    fn put_in(&mut self, source: Source, held: u16) {
        let Some(number) = self.sources.find(source) else { return };
        let index = usize::from(number.0);
        let count = self.sources.held(source);
        let oldest = self.sources.connections(number).next();
        let serial = oldest.and_then(|id| self.serials.get(usize::from(id.0)).copied()).unwrap_or(0);
        self.held.get_mut(index).into_iter().for_each(|of| *of = held);
        self.by_held.get_mut(usize::from(held)).into_iter().for_each(|all| *all += count);
        let [strangers, known] = &mut self.orders;
        if held > 0 { known } else { strangers }.set(number.0, rank(count, held, serial));
    }

    /// Returns the number of handshakes of `source`.
    pub fn count(&mut self, source: Source) -> usize {
        usize::from(self.sources.held(source))
    }

    /// Returns the number of handshakes of sources that hold `held` connections.
    pub fn count_with(&self, held: u16) -> usize {
        self.by_held.get(usize::from(held)).map_or(0, |count| usize::from(*count))
    }

    /// Returns the handshake that gives way to a SYN of `source`, which holds `held` connections.
    /// There are `all` handshakes, and `half` places for those of each half if both need as many.
    /// Returns `None` if the SYN gives way itself: its source would be the one that does, and has no
    /// other handshake.
    pub fn giving_way(&mut self, source: Source, held: u16, all: usize, half: usize) -> Option<ConnectionId> {
        let known = held > 0;
        let strangers = self.count_with(0);
        let others = if known { strangers } else { all.saturating_sub(strangers) };
        let of_known = known != (others > half);
        let [unknown_order, known_order] = &self.orders;
        let heaviest = SourceId(if of_known { known_order } else { unknown_order }.first()?);
        let first = self.sources.connections(heaviest).next()?;
        if of_known != known {
            return Some(first);
        }
        let of_heaviest = self.held.get(usize::from(heaviest.0)).copied().unwrap_or(0);
        let weight = (self.sources.held_with(first), of_heaviest);
        let own = self.sources.find(source).and_then(|own| self.sources.connections(own).next());
        let own_weight = (self.sources.held(source) + 1, held);
        match own {
            Some(own) if own_weight >= weight => Some(own),
            None if own_weight > weight => None,
            _ => Some(first),
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::table::Key;

    const COUNT: u16 = 24;

    fn source(number: u16) -> Source {
        Key::new([10, 0, 0, number as u8], 5000, 80).source()
    }

    #[derive(Clone, Debug)]
    enum Act {
        Add(u16, u16),
        Remove(u16),
        Hold(u16, u16),
    }

    fn act() -> impl Strategy<Value = Act> {
        let number = prop_oneof![2 => Just(0u16), 1 => 0u16..10];
        prop_oneof![
            4 => (0..COUNT, number.clone()).prop_map(|(id, number)| Act::Add(id, number)),
            1 => (0..COUNT).prop_map(Act::Remove),
            1 => (number, 0u16..4).prop_map(|(number, held)| Act::Hold(number, held)),
        ]
    }

    proptest! {
        /// Compares with a list of all handshakes, the oldest first, that is searched.
        #[test]
        fn the_one_that_gives_way_is_that_of_the_rule(random: u64, half in 0usize..20, acts in prop::collection::vec(act(), 0..200)) {
            let mut half_open = HalfOpen::new(usize::from(COUNT), random);
            let (mut list, mut held) = (Vec::<(u16, u16)>::new(), [0u16; 10]);
            for act in acts {
                match act {
                    Act::Add(id, number) => {
                        list.retain(|(other, _)| *other != id);
                        list.push((id, number));
                        half_open.add(ConnectionId(id), source(number), held[usize::from(number)]);
                    }
                    Act::Remove(id) => {
                        list.retain(|(other, _)| *other != id);
                        half_open.remove(ConnectionId(id));
                    }
                    Act::Hold(number, now) => {
                        held[usize::from(number)] = now;
                        half_open.set_held(source(number), now);
                    }
                }
                let held_by = |number: u16| held[usize::from(number)];
                let count = |number: u16| list.iter().filter(|(_, of)| *of == number).count();
                for with in 0..5 {
                    let all = list.iter().filter(|(_, of)| held_by(*of) == with).count();
                    prop_assert_eq!(half_open.count_with(with), all);
                }
                for number in 0..10 {
                    prop_assert_eq!(half_open.count(source(number)), count(number));
                    let known = held_by(number) > 0;
                    let other_half = list.iter().filter(|(_, of)| (held_by(*of) > 0) != known).count();
                    let loses = if other_half > half { !known } else { known };
                    // The new one counts for its source.
                    let weight = |of: u16| (count(of) + usize::from(of == number), held_by(of));
                    let all = || list.iter().filter(|(_, of)| (held_by(*of) > 0) == loses);
                    let own = list.iter().find(|(_, of)| *of == number);
                    let most = all().filter(|(_, of)| *of != number).map(|(_, of)| weight(*of)).max();
                    let expected = if loses == known && most.is_none_or(|most| weight(number) > most || own.is_some() && weight(number) == most) {
                        own
                    } else {
                        // Of several with the most, the one with the oldest.
                        all().find(|(_, of)| *of != number && Some(weight(*of)) == most)
                    };
                    let found = half_open.giving_way(source(number), held_by(number), list.len(), half);
                    prop_assert_eq!(found, expected.map(|(id, _)| ConnectionId(*id)), "{:?} of {:?}, {:?}", number, &list, held);
                }
            }
        }
    }
}
