//! Connections in TIME-WAIT (RFC 9293, 3.3.2): their addresses, ports and last numbers, without socket and buffers, so that
//! those who come next get them. A server that closes first would else have all of its large buffers wait.

use alloc::vec::Vec;
use core::time::Duration;

use cloister_interfaces::Instant;

use crate::frame::Segment;
use crate::table::{Key, Table};

/// How long they wait. It is the stack's own figure (`CLOSE_DELAY`), not twice the longest life of a segment, as is
/// common: a peer that begins anew with a higher sequence number need not wait at all.
const WAIT: Duration = Duration::from_secs(10);

/// The end of a connection: both streams were sent to their ends and acknowledged.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct End {
    /// The sequence number after our FIN.
    pub sent: u32,
    /// The sequence number after the peer's FIN.
    pub taken: u32,
}

impl End {
    /// What `segment` for this connection comes to.
    pub fn answer(self, segment: &Segment) -> Answer {
        // A new attempt, beyond all of the old connection, waits no longer (RFC 1122, 4.2.2.13).
        if segment.start && segment.seq.wrapping_sub(self.taken) as i32 >= 0 {
            return Answer::Renew(self);
        }
        // A reset does not end the wait (RFC 1337), and an acknowledgement that is due is not answered.
        let due = segment.plain && segment.data == 0 && segment.seq == self.taken;
        if segment.reset || due { Answer::Silence } else { Answer::Acknowledge(self) }
    }
}

/// What a segment for a connection in TIME-WAIT comes to.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Answer {
    /// Nothing.
    Silence,
    /// That end is acknowledged once more.
    Acknowledge(End),
    /// A new connection: the old one, which ended there, is gone.
    Renew(End),
}

#[derive(Clone, Copy)]
struct Entry {
    until: Instant,
    end: End,
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
        let none = Entry { until: Instant::START, end: End { sent: 0, taken: 0 } };
        TimeWait { table: Table::new(count, random), entries: alloc::vec![none; count], next: 0 }
    }

    /// Lets a connection wait, of which nothing waits yet.
    pub fn insert(&mut self, key: Key, end: End, now: Instant) {
        let index = self.next;
        let Some(entry) = self.entries.get_mut(usize::from(index)) else { return };
        if entry.until > Instant::START {
            self.table.remove(index);
        }
        *entry = Entry { until: now + WAIT, end };
        self.table.insert(index, key);
        self.next = if usize::from(index) + 1 < self.entries.len() { index + 1 } else { 0 };
    }

    /// What `segment` comes to; none if its connection does not wait.
    pub fn meet(&mut self, segment: &Segment, now: Instant) -> Option<Answer> {
        let index = self.table.find(segment.key)?;
        let Entry { until, end } = *self.entries.get(usize::from(index))?;
        let answer = (now < until).then(|| end.answer(segment));
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

    const END: End = End { sent: 500, taken: u32::MAX };
    const NOW: Instant = Instant(1_000_000);

    fn key(port: u16) -> Key {
        Key::new([10, 0, 0, 1], port, 80)
    }

    /// A FIN that came before.
    fn fin(port: u16) -> Segment {
        Segment {
            key: key(port),
            port: 80,
            start: false,
            syn: false,
            reset: false,
            plain: false,
            options: false,
            data: 0,
            offset: 54,
            seq: END.taken.wrapping_sub(1),
            ack: END.sent,
            window: 100,
        }
    }

    #[test]
    fn what_is_repeated_is_acknowledged_and_nothing_else() {
        let mut waits = TimeWait::new(4, 7);
        assert_eq!(waits.meet(&fin(1), NOW), None);
        waits.insert(key(1), END, NOW);
        let again = Some(Answer::Acknowledge(END));
        assert_eq!(waits.meet(&fin(1), NOW), again);
        assert_eq!(waits.meet(&fin(2), NOW), None);
        let plain = Segment { plain: true, seq: END.taken, ..fin(1) };
        assert_eq!(waits.meet(&plain, NOW), Some(Answer::Silence));
        assert_eq!(waits.meet(&Segment { seq: END.taken.wrapping_add(1), ..plain }, NOW), again);
        assert_eq!(waits.meet(&Segment { data: 1, ..plain }, NOW), again);
        assert_eq!(waits.meet(&Segment { reset: true, ..fin(1) }, NOW), Some(Answer::Silence));
        assert_eq!(waits.meet(&fin(1), NOW), again, "a reset ends nothing");
        assert_eq!(waits.meet(&fin(1), NOW + WAIT), None, "it waits no longer");
    }

    #[test]
    fn a_new_connection_begins_beyond_the_old_one() {
        let mut waits = TimeWait::new(1, 7);
        waits.insert(key(1), END, NOW);
        let start = |seq: u32| Segment { start: true, seq, ..fin(1) };
        assert_eq!(waits.meet(&start(END.taken.wrapping_sub(1)), NOW), Some(Answer::Acknowledge(END)));
        assert_eq!(waits.meet(&start(END.taken), NOW), Some(Answer::Renew(END)));
        assert_eq!(waits.meet(&fin(1), NOW), None);
    }

    #[test]
    fn the_oldest_makes_room_and_another_address_all() {
        let mut waits = TimeWait::new(3, 7);
        for port in 1..=5 {
            waits.insert(key(port), END, NOW);
        }
        let known =
            |waits: &mut TimeWait| (1..=5).filter(|port| waits.meet(&fin(*port), NOW).is_some()).collect::<Vec<_>>();
        assert_eq!(known(&mut waits), [3, 4, 5]);
        waits.clear();
        assert_eq!(known(&mut waits), [0; 0]);
        TimeWait::new(0, 7).insert(key(1), END, NOW);
    }
}
