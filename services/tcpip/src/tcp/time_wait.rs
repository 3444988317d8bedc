//! Connections in TIME-WAIT (RFC 9293, 3.3.2): their addresses, ports and last numbers, without socket and buffers, so that
//! those who come next get them. A server that closes first would else have all of its large buffers wait.

use alloc::vec::Vec;
use core::time::Duration;

use cloister_interfaces::Instant;

use crate::segment::Segment;
use crate::table::{Key, Table};

/// How long they wait. It is the stack's own figure (`CLOSE_DELAY`), not twice the longest life of a segment, as is
/// common: a peer that begins anew with a higher sequence number need not wait at all.
const WAIT: Duration = Duration::from_secs(10);
/// How often a connection answers what need not be its peer's (RFC 5961, 7).
const ANSWER_INTERVAL: Duration = Duration::from_secs(1);

/// The end of a connection: both streams were sent to their ends and acknowledged.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct StreamEnds {
    /// The sequence number after our FIN.
    pub ours: u32,
    /// The sequence number after the peer's FIN.
    pub peers: u32,
}

impl StreamEnds {
    /// Returns what `segment` for this connection comes to. `quiet_until` is the time until which the connection answers its peer
    /// alone.
    pub fn answer(self, segment: &Segment, quiet_until: &mut Instant, now: Instant) -> Answer {
        // A reset does not end the wait (RFC 1337), whatever else the segment says it is.
        if segment.reset {
            return Answer::Silence;
        }
        // A new attempt, beyond all of the old connection, waits no longer (RFC 1122, 4.2.2.13).
        if segment.opens && segment.seq.wrapping_sub(self.peers) as i32 >= 0 {
            return Answer::Renew(self);
        }
        // An acknowledgement that is due is not answered.
        let due = segment.plain && segment.data == 0 && segment.seq == self.peers;
        let own = self.is_repeated(segment);
        if due || !own && now < *quiet_until {
            return Answer::Silence;
        }
        if !own {
            *quiet_until = now + ANSWER_INTERVAL;
        }
        Answer::Acknowledge(self)
    }

    /// Returns `true` if the peer sends its last data or its FIN once more, because our acknowledgement was lost. It has
    /// acknowledged our FIN, so only who has seen our numbers can make such a segment.
    fn is_repeated(self, segment: &Segment) -> bool {
        // What is neither plain nor a SYN counts as a FIN.
        let length = segment.data as u32 + u32::from(!segment.plain);
        let beyond = segment.seq.wrapping_add(length).wrapping_sub(self.peers) as i32;
        !segment.syn && length > 0 && beyond <= 0 && segment.ack == self.ours
    }
}

/// What a segment for a connection in TIME-WAIT comes to.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Answer {
    /// Nothing.
    Silence,
    /// That end is acknowledged once more.
    Acknowledge(StreamEnds),
    /// A new connection: the old one, which ended there, is gone.
    Renew(StreamEnds),
}

#[derive(Clone, Copy)]
struct Entry {
    until: Instant,
    end: StreamEnds,
    /// Until when it answers its peer alone.
    quiet_until: Instant,
}

/// Bytes that one takes of the heap, with its share of the table.
pub const BYTES: usize = size_of::<Entry>() + 20;

/// The connections in TIME-WAIT, as many as there may be; the next one takes the place of the oldest.
pub struct TimeWait {
    table: Table,
    entries: Vec<Entry>,
    next: u16,
}

impl TimeWait {
    /// Room for `count`, with a random number.
    pub fn new(count: usize, random: u64) -> Self {
        let none = Entry { until: Instant::START, end: StreamEnds { ours: 0, peers: 0 }, quiet_until: Instant::START };
        TimeWait { table: Table::new(count, random), entries: alloc::vec![none; count], next: 0 }
    }

    /// Lets a connection wait, of which nothing waits yet. Until `quiet_until` it answers its peer alone.
    pub fn insert(&mut self, key: Key, end: StreamEnds, quiet_until: Instant, now: Instant) {
        let index = self.next;
        let Some(entry) = self.entries.get_mut(usize::from(index)) else { return };
        if entry.until > Instant::START {
            self.table.remove(index);
        }
        *entry = Entry { until: now + WAIT, end, quiet_until };
        self.table.insert(index, key);
        self.next = if usize::from(index) + 1 < self.entries.len() { index + 1 } else { 0 };
    }

    /// What `segment` comes to; none if its connection does not wait.
    pub fn lookup(&mut self, segment: &Segment, now: Instant) -> Option<Answer> {
        let index = self.table.find(segment.key)?;
        let Entry { until, end, quiet_until } = self.entries.get_mut(usize::from(index))?;
        let answer = (now < *until).then(|| end.answer(segment, quiet_until, now));
        if matches!(answer, None | Some(Answer::Renew(_))) {
            self.forget(index);
        }
        answer
    }

    fn forget(&mut self, index: u16) {
        self.table.remove(index);
        if let Some(entry) = self.entries.get_mut(usize::from(index)) {
            entry.until = Instant::START;
        }
    }

    /// Lets nobody wait: our address is another.
    pub fn clear(&mut self) {
        for index in 0..self.entries.len() as u16 {
            if self.entries.get(usize::from(index)).is_some_and(|entry| entry.until > Instant::START) {
                self.forget(index);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const END: StreamEnds = StreamEnds { ours: 500, peers: u32::MAX };
    const NOW: Instant = Instant(1_000_000);

    fn key(port: u16) -> Key {
        Key::new([10, 0, 0, 1], port, 80)
    }

    /// A FIN that came before.
    fn fin(port: u16) -> Segment {
        Segment {
            key: key(port),
            port: 80,
            opens: false,
            syn: false,
            reset: false,
            plain: false,
            options: false,
            data: 0,
            offset: 54,
            seq: END.peers.wrapping_sub(1),
            ack: END.ours,
            window: 100,
        }
    }

    const AGAIN: Option<Answer> = Some(Answer::Acknowledge(END));
    const SILENCE: Option<Answer> = Some(Answer::Silence);

    #[test]
    fn what_the_peer_repeats_is_acknowledged_each_time() {
        let mut waits = TimeWait::new(4, 7);
        assert_eq!(waits.lookup(&fin(1), NOW), None);
        // Until later than it waits, it answers its peer alone.
        waits.insert(key(1), END, NOW + WAIT, NOW);
        let plain = Segment { plain: true, seq: END.peers.wrapping_sub(3), ..fin(1) };
        for _ in 0..3 {
            assert_eq!(waits.lookup(&fin(1), NOW), AGAIN);
            for data in [1, 2, 3] {
                assert_eq!(waits.lookup(&Segment { data, ..plain }, NOW), AGAIN);
            }
            assert_eq!(waits.lookup(&Segment { plain: false, data: 2, ..plain }, NOW), AGAIN, "data and a FIN");
            assert_eq!(waits.lookup(&Segment { reset: true, ..fin(1) }, NOW), SILENCE, "a reset ends nothing");
        }
        let others = [
            Segment { ack: END.ours.wrapping_sub(1), ..fin(1) },
            Segment { ack: END.ours.wrapping_add(1), ..fin(1) },
            Segment { seq: END.peers, ..fin(1) },
            Segment { syn: true, ..fin(1) },
            Segment { data: 4, ..plain },
            plain,
        ];
        others.iter().for_each(|other| assert_eq!(waits.lookup(other, NOW), SILENCE, "{other:?}"));
        assert_eq!(waits.lookup(&fin(2), NOW), None);
        assert_eq!(waits.lookup(&fin(1), NOW + WAIT), None, "it waits no longer");
    }

    #[test]
    fn all_else_is_acknowledged_once_a_second() {
        let mut waits = TimeWait::new(4, 7);
        let plain = Segment { plain: true, seq: END.peers, ..fin(1) };
        let later = plain.seq.wrapping_add(1);
        let syn = Segment { syn: true, ..fin(1) };
        for segment in
            [Segment { seq: later, ..plain }, Segment { data: 1, ..plain }, syn, Segment { opens: true, ..syn }]
        {
            waits.clear();
            waits.insert(key(1), END, Instant::START, NOW);
            let mut at = NOW;
            for _ in 0..3 {
                assert_eq!(waits.lookup(&plain, at), SILENCE, "it is due");
                assert_eq!(waits.lookup(&segment, at), AGAIN);
                assert_eq!(waits.lookup(&segment, at), SILENCE);
                assert_eq!(waits.lookup(&syn, Instant(at.0 + 999_999_999)), SILENCE);
                assert_eq!(waits.lookup(&fin(1), at), AGAIN, "the peer's own is");
                at = at + ANSWER_INTERVAL;
            }
        }
    }

    #[test]
    fn a_new_connection_begins_beyond_the_old_one() {
        let mut waits = TimeWait::new(1, 7);
        waits.insert(key(1), END, Instant::START, NOW);
        let start = |seq: u32| Segment { opens: true, seq, ..fin(1) };
        assert_eq!(waits.lookup(&start(END.peers.wrapping_sub(1)), NOW), Some(Answer::Acknowledge(END)));
        assert_eq!(waits.lookup(&Segment { reset: true, ..start(END.peers) }, NOW), SILENCE, "a reset ends nothing");
        assert_eq!(waits.lookup(&start(END.peers), NOW), Some(Answer::Renew(END)));
        assert_eq!(waits.lookup(&fin(1), NOW), None);
    }

    #[test]
    fn the_oldest_makes_room_and_another_address_all() {
        let mut waits = TimeWait::new(3, 7);
        for port in 1..=5 {
            waits.insert(key(port), END, Instant::START, NOW);
        }
        let known =
            |waits: &mut TimeWait| (1..=5).filter(|port| waits.lookup(&fin(*port), NOW).is_some()).collect::<Vec<_>>();
        assert_eq!(known(&mut waits), [3, 4, 5]);
        waits.clear();
        assert_eq!(known(&mut waits), [0; 0]);
        TimeWait::new(0, 7).insert(key(1), END, Instant::START, NOW);
    }
}
