//! Connections in TIME-WAIT (RFC 9293, 3.3.2) without a socket: their addresses, ports and last
//! sequence numbers.
//!
//! New connections get their sockets. Otherwise all large buffers of a server that closes first
//! would wait.

use core::time::Duration;

use cloister_collections::LazyVec;
use cloister_interfaces::Instant;

use crate::segment::Segment;
use crate::table::{Key, Table};

/// The time for which they stay. It is smoltcp's own time (`CLOSE_DELAY`), not twice the longest
/// lifetime of a segment, as is common. A peer that begins again with a higher sequence number need
/// not wait at all.
const WAIT: Duration = Duration::from_secs(10);
/// The time between two answers of a connection to segments that may not be its peer's (RFC 5961,
/// 7).
const ANSWER_INTERVAL: Duration = Duration::from_secs(1);

/// The ends of both streams of a connection.
///
/// # Holding one proves
/// If [`super::connection::Connection::ends`] returned it: both FINs were sent and acknowledged.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct StreamEnds {
    /// The sequence number after our FIN.
    pub ours: u32,
    /// The sequence number after the peer's FIN.
    pub peers: u32,
}

impl StreamEnds {
    /// Decides how `segment` for this connection is answered. Until `quiet_until`, only segments
    /// that prove to be the peer's are answered.
    pub fn answer(self, segment: &Segment, quiet_until: &mut Instant, now: Instant) -> Answer {
        // A reset does not end TIME-WAIT (RFC 1337), whatever else the segment says.
        if segment.flags.has_rst() {
            return Answer::Silence;
        }
        // A SYN beyond all of the old connection opens a new one at once (RFC 1122, 4.2.2.13).
        if segment.flags.opens() && segment.seq.wrapping_sub(self.peers) as i32 >= 0 {
            return Answer::Renew(self);
        }
        // The expected last acknowledgement needs no answer.
        let due = segment.flags.is_plain() && segment.data == 0 && segment.seq == self.peers;
        let own = self.is_repeated(segment);
        if due || !own && now < *quiet_until {
            return Answer::Silence;
        }
        if !own {
            *quiet_until = now + ANSWER_INTERVAL;
        }
        Answer::Acknowledge(self)
    }

    /// Returns `true` if the peer repeats its last data or its FIN, because our acknowledgement was
    /// lost. The segment acknowledges our FIN, so its sender has seen our numbers.
    fn is_repeated(self, segment: &Segment) -> bool {
        // A segment that is neither plain nor a SYN counts as a FIN.
        let length = segment.data as u32 + u32::from(!segment.flags.is_plain());
        let beyond = segment.seq.wrapping_add(length).wrapping_sub(self.peers) as i32;
        !segment.flags.has_syn() && length > 0 && beyond <= 0 && segment.ack == self.ours
    }
}

/// The kinds of answers to a segment for a connection in TIME-WAIT.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Answer {
    /// It is not answered.
    Silence,
    /// The ends are acknowledged again.
    Acknowledge(StreamEnds),
    /// It opens a new connection. The old one, which had these ends, is gone.
    Renew(StreamEnds),
}

#[derive(Clone, Copy)]
struct Entry {
    until: Instant,
    end: StreamEnds,
    /// The time before which only segments that prove to be the peer's are answered.
    quiet_until: Instant,
}

/// The number of bytes of the heap for one connection, including its share of the table.
pub const BYTES: usize = size_of::<Entry>() + 20;

/// The connections in TIME-WAIT without a socket. If there are too many, a new one replaces the
/// oldest.
pub struct TimeWait {
    table: Table,
    entries: LazyVec<Entry>,
    next: u16,
}

impl TimeWait {
    /// Creates room for `count` connections. `random` is secret.
    pub fn new(count: usize, random: u64) -> Self {
        TimeWait { table: Table::new(count, random), entries: LazyVec::new(count).unwrap_or_default(), next: 0 }
    }

    /// Adds a connection that is not in the table.
    pub fn insert(&mut self, key: Key, end: StreamEnds, quiet_until: Instant, now: Instant) {
        let index = self.next;
        let none = Entry { until: Instant::START, end, quiet_until };
        let Some(entry) = self.entries.get_or_make(index, |_| none) else { return };
        if entry.until > Instant::START {
            self.table.remove(index);
        }
        *entry = Entry { until: now + WAIT, end, quiet_until };
        self.table.insert(index, key);
        self.next = if usize::from(index) + 1 < self.entries.bound() { index + 1 } else { 0 };
    }

    /// Decides how `segment` is answered. Returns `None` if its connection is not in TIME-WAIT.
    pub fn lookup(&mut self, segment: &Segment, now: Instant) -> Option<Answer> {
        let index = self.table.find(segment.key)?;
        let Entry { until, end, quiet_until } = self.entries.get_mut(index)?;
        let answer = (now < *until).then(|| end.answer(segment, quiet_until, now));
        if matches!(answer, None | Some(Answer::Renew(_))) {
            self.forget(index);
        }
        answer
    }

    fn forget(&mut self, index: u16) {
        self.table.remove(index);
        if let Some(entry) = self.entries.get_mut(index) {
            entry.until = Instant::START;
        }
    }

    /// Removes all connections, because our address has changed.
    pub fn clear(&mut self) {
        for index in self.entries.numbers() {
            if self.entries.get(index).is_some_and(|entry| entry.until > Instant::START) {
                self.forget(index);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::segment::TcpFlags;

    const END: StreamEnds = StreamEnds { ours: 500, peers: u32::MAX };
    const NOW: Instant = Instant(1_000_000);

    fn key(port: u16) -> Key {
        Key::new([10, 0, 0, 1], port, 80)
    }

    /// Returns a FIN that the peer repeats.
    fn fin(port: u16) -> Segment {
        Segment {
            key: key(port),
            port: 80,
            flags: TcpFlags::FIN | TcpFlags::ACK,
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
    fn repeats_of_the_peer_are_acknowledged_each_time() {
        let mut waits = TimeWait::new(4, 7);
        assert_eq!(waits.lookup(&fin(1), NOW), None);
        // The peer's own segments are answered even before that time.
        waits.insert(key(1), END, NOW + WAIT, NOW);
        let plain = Segment { flags: TcpFlags::ACK, seq: END.peers.wrapping_sub(3), ..fin(1) };
        for _ in 0..3 {
            assert_eq!(waits.lookup(&fin(1), NOW), AGAIN);
            for data in [1, 2, 3] {
                assert_eq!(waits.lookup(&Segment { data, ..plain }, NOW), AGAIN);
            }
            assert_eq!(
                waits.lookup(&Segment { flags: TcpFlags::FIN | TcpFlags::ACK, data: 2, ..plain }, NOW),
                AGAIN,
                "data and a FIN"
            );
            assert_eq!(waits.lookup(&Segment { flags: TcpFlags::RST, ..fin(1) }, NOW), SILENCE, "a reset ends nothing");
        }
        let others = [
            Segment { ack: END.ours.wrapping_sub(1), ..fin(1) },
            Segment { ack: END.ours.wrapping_add(1), ..fin(1) },
            Segment { seq: END.peers, ..fin(1) },
            Segment { flags: TcpFlags::SYN | TcpFlags::ACK, ..fin(1) },
            Segment { data: 4, ..plain },
            plain,
        ];
        others.iter().for_each(|other| assert_eq!(waits.lookup(other, NOW), SILENCE, "{other:?}"));
        assert_eq!(waits.lookup(&fin(2), NOW), None);
        assert_eq!(waits.lookup(&fin(1), NOW + WAIT), None, "it waits no longer");
    }

    #[test]
    fn other_segments_are_acknowledged_once_a_second() {
        let mut waits = TimeWait::new(4, 7);
        let plain = Segment { flags: TcpFlags::ACK, seq: END.peers, ..fin(1) };
        let later = plain.seq.wrapping_add(1);
        let syn = Segment { flags: TcpFlags::SYN | TcpFlags::ACK, ..fin(1) };
        for segment in [
            Segment { seq: later, ..plain },
            Segment { data: 1, ..plain },
            syn,
            Segment { flags: TcpFlags::SYN, ..syn },
        ] {
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
        let start = |seq: u32| Segment { flags: TcpFlags::SYN, seq, ..fin(1) };
        assert_eq!(waits.lookup(&start(END.peers.wrapping_sub(1)), NOW), Some(Answer::Acknowledge(END)));
        assert_eq!(
            waits.lookup(&Segment { flags: TcpFlags::SYN | TcpFlags::RST, ..start(END.peers) }, NOW),
            SILENCE,
            "a reset ends nothing"
        );
        assert_eq!(waits.lookup(&start(END.peers), NOW), Some(Answer::Renew(END)));
        assert_eq!(waits.lookup(&fin(1), NOW), None);
    }

    #[test]
    fn a_new_connection_replaces_the_oldest_and_another_address_all() {
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
