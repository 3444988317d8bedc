//! Which bytes of a connection were lost, and when they are sent again.
//!
//! smoltcp by itself repeats one segment after three duplicate acknowledgements, and everything after a second without any; what
//! a peer says it has (SACK, RFC 2018) it does not read. So losses are found here, from the segments that pass both ways:
//! as RFC 6675 and RFC 8985 (RACK, TLP) find them, as far as that takes no more than a few words per connection. When a
//! round of repeats begins the stack is made to go back to the oldest byte that was not acknowledged, and of what it then
//! builds again the link is given only what is [`Recovery::wanted`].
//!
//! Positions count from the oldest byte that was not acknowledged, so that none wraps.
//!
//! A peer that lies about what it has harms itself: what it claims is forgotten when a timer runs out, and a round begins at
//! most once in a round trip, so that it draws no more than a window of bytes in each, as an honest one does.

use core::time::Duration;

use arrayvec::ArrayVec;
use cloister_interfaces::Instant;

use crate::segment::{MAX_RANGES, Outgoing, Range, Segment, SendRanges};
use crate::tcp::congestion::Congestion;

/// So many repeats of an acknowledgement say that a segment is lost (RFC 5681, 3.2).
const DUPLICATE_ACKS: u8 = 3;
/// How long to wait, beyond two round trips, for an acknowledgement of several segments, before the last is sent again.
/// A timer that runs out although nothing was lost costs the processor, and one that is late the goodput.
const PROBE_DELAY: Duration = Duration::from_millis(2);
/// The same on a path that has lost nothing lately.
const CALM_PROBE_DELAY: Duration = Duration::from_millis(20);
/// So many bytes that arrived, and nothing lost among them, make a path calm.
const CALM_BYTES: u32 = 4 << 20;
/// And of less than two: the peer may hold its acknowledgement back for so long.
const MAX_ACK_DELAY: Duration = Duration::from_millis(200);
/// What a round trip is taken for before one was measured, times two (RFC 6298, 2.1).
const INITIAL_TIMEOUT: Duration = Duration::from_secs(1);
/// A peer's segments begin at most so far beyond what we acknowledged: more than any window of ours.
const MAX_WINDOW: u32 = 1 << 20;
/// The longest wait (RFC 6298, 2.5).
const MAX_TIMEOUT: Duration = Duration::from_secs(60);

/// A round of repeats.
#[derive(Clone, Copy, Debug)]
struct Round {
    /// When the last repeat was sent.
    at: Instant,
    /// What is sent again: all from here to there that the peer does not have.
    from: u32,
    to: u32,
    /// The end of what had been sent before.
    reach: u32,
    /// Something of the round arrived, or something that was sent after it.
    arrived: bool,
    /// It only asks the peer what it has.
    probe: bool,
}

/// What is known of a connection's bytes on their way.
#[derive(Debug, Default)]
pub struct Recovery {
    /// The sequence number of the oldest byte that was not acknowledged.
    base: u32,
    /// The end of what was ever sent.
    highest_sent: u32,
    /// What the stack sends next.
    next: u32,
    /// What the peer has above the first gap: ascending, apart.
    sacked: ArrayVec<Range, MAX_RANGES>,
    /// How often the last acknowledgement was repeated.
    duplicate_acks: u8,
    /// When the peer last said that it has more above a gap.
    last_sack: Instant,
    /// How often nothing came in time.
    timeouts: u8,
    round: Option<Round>,
    /// The smoothed round-trip time.
    rtt: Option<Duration>,
    /// When the segment that ends here was sent: the measurement under way.
    sample: Option<(u32, Instant)>,
    /// When something was last sent, or acknowledged.
    last_progress: Instant,
    /// How many bytes arrived since something was lost, or seemed to be.
    bytes_since_loss: u32,
    /// What we acknowledged last.
    last_ack: u32,
    /// The window that the peer announced last, as it wrote it.
    window: u16,
    congestion: Congestion,
    /// The end of what had been sent when the path was last found to lose: what is lost of it is the same loss.
    recovery_point: u32,
}

impl Recovery {
    /// The peer has answered our SYN, when `left` was left of the time `given` to it.
    pub fn opened(&mut self, left: Duration, given: Duration) {
        let trip = given.saturating_sub(left);
        // It may have been sent twice (RFC 6298, 3).
        if trip < INITIAL_TIMEOUT {
            self.add_sample(trip);
        }
    }

    fn add_sample(&mut self, trip: Duration) {
        self.rtt = Some(self.rtt.map_or(trip, |smoothed| (smoothed * 7 + trip) / 8));
    }

    /// Takes note of a segment that the stack sent.
    pub fn on_sent(&mut self, segment: Outgoing, now: Instant) {
        self.last_ack = segment.ack;
        if segment.opens {
            self.base = segment.seq.wrapping_add(1);
        }
        let from = segment.seq.wrapping_sub(self.base);
        // What asks whether the peer is there comes before the oldest byte; what asks for a window is the stack's affair.
        if segment.length() == 0 || from > i32::MAX as u32 || self.window == 0 {
            return;
        }
        let to = from.saturating_add(segment.length());
        if let Some(round) = self.round.as_mut().filter(|round| from < round.to) {
            round.at = now;
        }
        if to > self.highest_sent {
            self.highest_sent = to;
            if self.round.is_none() && self.sample.is_none() {
                self.sample = Some((to, now));
            }
        }
        (self.next, self.last_progress) = (to, now);
    }

    /// Returns the sequence number of the oldest byte that was not acknowledged.
    pub fn oldest_unacked(&self) -> u32 {
        self.base
    }

    /// Returns what was acknowledged last.
    pub fn last_ack_sent(&self) -> u32 {
        self.last_ack
    }

    /// Whether there is something to watch over: data on their way to a peer that takes some. What asks for a window is the stack's
    /// to send.
    pub fn has_data_in_flight(&self) -> bool {
        self.highest_sent > 0 && self.window > 0
    }

    /// Whether `segment` only repeats what the peer said before. The stack need not see it: it would count to three, and send
    /// one segment again.
    pub fn is_duplicate_ack(&self, segment: &Segment) -> bool {
        self.has_data_in_flight()
            && segment.plain
            && (segment.data, segment.ack, segment.seq, segment.window) == (0, self.base, self.last_ack, self.window)
    }

    /// Takes note of a segment that changed nothing but what `blocks` say.
    pub fn on_duplicate_ack(&mut self, blocks: &[Option<Range>], now: Instant) {
        self.duplicate_acks = self.duplicate_acks.saturating_add(1);
        self.on_sack(blocks, now);
    }

    /// Takes note of a segment that the stack took. `advanced` tells that it acknowledged something.
    pub fn on_received(&mut self, segment: &Segment, advanced: bool, blocks: &[Option<Range>], mss: u32, now: Instant) {
        let count = segment.ack.wrapping_sub(self.base);
        // What an old segment says, or one whose numbers are a guess, is not believed.
        if count <= self.highest_sent && segment.seq.wrapping_sub(self.last_ack) < MAX_WINDOW {
            self.window = segment.window;
        }
        if advanced && (1..=self.highest_sent).contains(&count) {
            self.on_acked(count, now);
            self.congestion.on_acked(count, mss);
        }
        if segment.ack == self.base && !blocks.is_empty() {
            self.on_sack(blocks, now);
        }
    }

    fn on_acked(&mut self, count: u32, now: Instant) {
        self.base = self.base.wrapping_add(count);
        self.highest_sent -= count;
        for place in [&mut self.next, &mut self.recovery_point] {
            *place = place.saturating_sub(count);
        }
        (self.duplicate_acks, self.timeouts, self.last_progress) = (0, 0, now);
        self.bytes_since_loss = self.bytes_since_loss.saturating_add(count);
        for range in &mut self.sacked {
            *range = (range.0.saturating_sub(count), range.1.saturating_sub(count));
        }
        // What begins at the oldest byte cannot be held: the peer has thrown it away.
        self.sacked.retain(|range| range.0 > 0);
        match self.sample {
            Some((end, at)) if end <= count => {
                self.add_sample(now.since(at));
                self.sample = None;
            }
            Some((end, at)) => self.sample = Some((end - count, at)),
            None => {}
        }
        if let Some(round) = &mut self.round {
            round.arrived |= count > round.from;
            for place in [&mut round.from, &mut round.to, &mut round.reach] {
                *place = place.saturating_sub(count);
            }
        }
        self.round.take_if(|round| round.reach == 0);
    }

    /// The peer has these blocks of sequence numbers.
    fn on_sack(&mut self, blocks: &[Option<Range>], now: Instant) {
        for (from, to) in blocks.iter().flatten() {
            let range = (from.wrapping_sub(self.base), to.wrapping_sub(self.base));
            if 0 < range.0 && range.0 < range.1 && range.1 <= self.highest_sent {
                self.add_sacked(range, now);
            }
        }
    }

    fn add_sacked(&mut self, range: Range, now: Instant) {
        if self.sacked.iter().any(|held| held.0 <= range.0 && range.1 <= held.1) {
            return;
        }
        let touches = |held: &Range| held.0 <= range.1 && range.0 <= held.1;
        let joined = self.sacked.iter().copied().filter(touches);
        let merged = joined.fold(range, |one, other| (one.0.min(other.0), one.1.max(other.1)));
        self.sacked.retain(|held| !touches(held));
        let place = self.sacked.partition_point(|held| held.0 < merged.0);
        if self.sacked.try_insert(place, merged).is_err() {
            // It touches none of the many others: it will be sent again.
            return;
        }
        (self.last_progress, self.last_sack) = (now, now);
        if let Some(round) = &mut self.round {
            round.arrived |= range.1 > round.reach || range.0 < round.to && round.from < range.1;
        }
    }

    /// When a gap is no longer taken for one that late segments still fill.
    fn gaps_settle_at(&self) -> Option<Instant> {
        let trip = self.rtt.filter(|_| !self.sacked.is_empty())?;
        Some(self.last_sack + trip / 4)
    }

    /// Up to where bytes that the peer does not have are lost, because it has enough of what was sent after them, or said so long
    /// ago. `mss` is the length of a whole segment.
    fn lost_up_to(&self, mss: u32, now: Instant) -> u32 {
        if self.gaps_settle_at().is_some_and(|at| at <= now) {
            return self.sacked.last().map_or(0, |range| range.0);
        }
        let mut above = 0;
        for (count, range) in self.sacked.iter().rev().enumerate() {
            above += range.1 - range.0;
            // RFC 6675, 4, `IsLost`.
            if above > 2 * mss || count + 1 >= usize::from(DUPLICATE_ACKS) {
                return range.0;
            }
        }
        if self.sacked.is_empty() && self.duplicate_acks >= DUPLICATE_ACKS { mss.min(self.highest_sent) } else { 0 }
    }

    /// How long to wait with bytes on their way of which nothing is heard.
    fn timeout(&self, mss: u32) -> Duration {
        let Some(trip) = self.rtt else { return (INITIAL_TIMEOUT * (1 << self.timeouts.min(6))).min(MAX_TIMEOUT) };
        match self.timeouts {
            0 if self.highest_sent < 2 * mss => trip * 2 + MAX_ACK_DELAY,
            0 => trip * 2 + if self.bytes_since_loss < CALM_BYTES { PROBE_DELAY } else { CALM_PROBE_DELAY },
            count => ((trip * 2 + MAX_ACK_DELAY) * (1 << (count - 1).min(9))).min(MAX_TIMEOUT),
        }
    }

    /// When what of a round has not arrived can be taken for lost once more: what was sent before it is overdue.
    fn round_overdue_at(&self) -> Option<Instant> {
        let round = self.round.filter(|round| round.arrived && self.next >= round.to)?;
        Some(round.at + self.rtt.unwrap_or(INITIAL_TIMEOUT) * 5 / 4)
    }

    /// Whether the peer takes nothing at present.
    pub fn is_window_closed(&self) -> bool {
        self.window == 0
    }

    /// When to look again, if nothing comes.
    pub fn deadline(&self, mss: u32) -> Option<Instant> {
        self.has_data_in_flight().then_some(())?;
        let repeat = if self.round.is_some() { self.round_overdue_at() } else { self.gaps_settle_at() };
        [Some(self.last_progress + self.timeout(mss)), repeat].into_iter().flatten().min()
    }

    /// Whether a round of repeats begins: the stack is to go back.
    pub fn begin_round(&mut self, mss: u32, now: Instant) -> bool {
        if !self.has_data_in_flight() {
            return false;
        }
        let mut probe = false;
        let (from, to) = if now >= self.last_progress + self.timeout(mss) {
            self.timeouts = self.timeouts.saturating_add(1);
            if self.timeouts > 1 {
                // What the peer held it may have thrown away (RFC 2018, 8).
                self.sacked.clear();
                self.congestion.on_timeout(self.highest_sent, mss);
                self.recovery_point = self.highest_sent;
            }
            // At first the last segment is enough: the answer tells what else is missing.
            probe = self.timeouts == 1 && self.sacked.is_empty();
            (if probe { self.highest_sent.saturating_sub(mss) } else { 0 }, self.highest_sent)
        } else {
            let lost = self.lost_up_to(mss, now);
            match self.round {
                None => (0, lost),
                Some(round) if self.round_overdue_at().is_some_and(|at| at <= now) => (0, lost.max(round.reach)),
                // What was found since, beyond what the round repeats.
                Some(round) if lost > round.to && now >= round.at + self.rtt.unwrap_or(INITIAL_TIMEOUT) / 4 => {
                    (round.to, lost)
                }
                Some(_) => return false,
            }
        };
        if to == 0 {
            return false;
        }
        if !probe && to > self.recovery_point {
            self.congestion.on_loss(self.highest_sent, mss);
            self.recovery_point = self.highest_sent;
        }
        self.round = Some(Round { at: now, from, to, reach: self.highest_sent, arrived: false, probe });
        // What is sent twice measures nothing (Karn); what is not goes on, so that a path that has become longer is known.
        self.sample.take_if(|(end, _)| *end > from);
        (self.next, self.duplicate_acks, self.last_progress, self.bytes_since_loss) = (0, 0, now, 0);
        true
    }

    /// Whether the path has as much of the connection's data as it should.
    pub fn is_full(&self) -> bool {
        // What asks for an answer goes in any case.
        let probes = self.round.is_some_and(|round| round.probe && self.next < round.reach);
        if !self.congestion.is_limited() || probes {
            return false;
        }
        let held: u32 = self.sacked.iter().map(|range| range.1 - range.0).sum();
        let due = self.send_ranges().map_or(0, |wanted| {
            let due = |range: &Range| range.1.min(self.highest_sent).saturating_sub(range.0.max(self.next));
            wanted.ranges.iter().map(due).sum()
        });
        !self.congestion.admits(self.highest_sent.saturating_sub(held).saturating_sub(due))
    }

    /// Whether some of `queued` bytes were never sent.
    pub fn has_unsent(&self, queued: u32) -> bool {
        queued > self.highest_sent
    }

    /// Whether all that was ever sent is on its way, nothing is sent again, and what is lost of it will be found.
    pub fn is_caught_up(&self) -> bool {
        self.has_data_in_flight() && self.next >= self.highest_sent
    }

    /// Whether the last of `queued` bytes wait for those that follow, since they are fewer than `enough`: an acknowledgement is
    /// on its way, which makes room for these.
    pub fn defers(&self, queued: u32, enough: u32) -> bool {
        let left = queued.saturating_sub(self.highest_sent);
        self.is_caught_up() && 0 < left && left < enough
    }

    /// What is to be sent of what the stack builds next; all of it if none.
    pub fn send_ranges(&self) -> Option<SendRanges> {
        let round = self.round.filter(|round| self.next < round.reach)?;
        let mut ranges = ArrayVec::new();
        let mut from = round.from;
        for held in self.sacked.iter().filter(|held| held.0 < round.to) {
            if from < held.0 {
                ranges.push((from, held.0));
            }
            from = from.max(held.1);
        }
        if round.to < round.reach {
            if from < round.to {
                ranges.push((from, round.to));
            }
            from = round.reach;
        }
        ranges.push((from, u32::MAX));
        Some(SendRanges { base: self.base, ranges })
    }
}
