//! Loss recovery: which bytes of a connection were lost, and when they are sent again.
//!
//! By itself, smoltcp repeats one segment after three duplicate acknowledgements, and everything
//! after a second without any. It does not read SACK (RFC 2018). So losses are found here, from the
//! segments that pass in both directions, as RFC 6675 and RFC 8985 (RACK, TLP) find them, as far as
//! a few words of state per connection allow. When a round of repeats begins, smoltcp is made to go
//! back to the oldest byte that was not acknowledged. Of the segments that it then builds, only
//! [`Recovery::send_ranges`] are sent.
//!
//! Positions count from the oldest byte that was not acknowledged, so that none wraps.
//!
//! A peer that lies in its SACK options harms itself. What it claims is forgotten when a timer
//! expires. A round begins at most once in a round trip, so that a liar draws at most a window of
//! bytes in each, as an honest peer does.

use core::time::Duration;

use arrayvec::ArrayVec;
use cloister_interfaces::Instant;

use crate::segment::{BuiltSegment, MAX_RANGES, Range, Segment, SendRanges};
use crate::tcp::congestion::Congestion;

/// The number of duplicate acknowledgements that mean a lost segment (RFC 5681, 3.2).
const DUPLICATE_ACKS: u8 = 3;
/// The time to wait, beyond two round trips, for an acknowledgement of several segments, before the
/// last one is sent again. A timer that expires without a loss costs processor time; one that
/// expires late costs goodput.
const PROBE_DELAY: Duration = Duration::from_millis(2);
/// The same on a path without recent losses.
const CALM_PROBE_DELAY: Duration = Duration::from_millis(20);
/// A path has no recent losses after this many acknowledged bytes without one.
const CALM_BYTES: u32 = 4 << 20;
/// The time for which the peer may delay an acknowledgement of fewer than two segments.
const MAX_ACK_DELAY: Duration = Duration::from_millis(200);
/// The retransmission timeout before a round trip was measured (RFC 6298, 2.1).
const INITIAL_TIMEOUT: Duration = Duration::from_secs(1);
/// The farthest that a peer's segment begins beyond what we acknowledged: more than any window of
/// ours.
const MAX_WINDOW: u32 = 1 << 20;
/// The longest retransmission timeout (RFC 6298, 2.5).
const MAX_TIMEOUT: Duration = Duration::from_secs(60);

/// Returns a duration of at most some centuries in ns.
const fn to_nanoseconds(duration: Duration) -> u64 {
    duration.as_nanos() as u64
}

/// A round of repeats.
#[derive(Clone, Copy, Debug)]
struct RepeatRound {
    /// The time at which the last repeat was sent.
    at: Instant,
    /// The range `from..to` is sent again, except for what the peer has.
    from: u32,
    to: u32,
    /// The end of what had been sent when the round began.
    reach: u32,
    /// The peer has received something of the round, or something that was sent after it.
    arrived: bool,
    /// It is only a probe, which makes the peer say what it has.
    probe: bool,
}

/// The state of a connection's bytes in flight.
#[derive(Debug, Default)]
pub struct Recovery {
    /// The sequence number of the oldest byte that was not acknowledged: position 0.
    base: u32,
    /// The end of what was ever sent.
    highest_sent: u32,
    /// The next position that smoltcp sends.
    next: u32,
    /// The ranges above the first gap that the peer has: ascending, and not adjacent.
    sacked: ArrayVec<Range, MAX_RANGES>,
    /// The number of duplicates of the last acknowledgement.
    duplicate_acks: u8,
    /// The time at which the peer last reported a new range above a gap.
    last_sack: Instant,
    /// The number of timeouts since the last progress.
    timeouts: u8,
    round: Option<RepeatRound>,
    /// The smoothed round-trip time in ns. It changes with each acknowledgement, and arithmetic
    /// with [`Duration`] divides.
    rtt: Option<u64>,
    /// The measurement under way: the end of a segment, and when it was sent.
    sample: Option<(u32, Instant)>,
    /// The time at which something was last sent or acknowledged.
    last_progress: Instant,
    /// The number of bytes acknowledged since the last loss, or what seemed to be one.
    bytes_since_loss: u32,
    /// The last acknowledgement number that we sent.
    last_ack: u32,
    /// The window that the peer announced last, not scaled.
    window: u16,
    congestion: Congestion,
    /// The end of what had been sent at the last reduction of the congestion window. Losses below
    /// it belong to the same congestion.
    recovery_point: u32,
}

impl Recovery {
    /// Handles the peer's answer to our SYN. `left` is what was left of the time `given` to it.
    pub fn opened(&mut self, left: Duration, given: Duration) {
        let trip = given.saturating_sub(left);
        // Later, the SYN may have been sent twice, and measures nothing (RFC 6298, 3).
        if trip < INITIAL_TIMEOUT {
            self.add_sample(to_nanoseconds(trip));
        }
    }

    /// Records a measured round trip of `trip` ns.
    fn add_sample(&mut self, trip: u64) {
        self.rtt = Some(self.rtt.map_or(trip, |smoothed| smoothed - smoothed / 8 + trip / 8));
    }

    /// Records a segment that smoltcp sent.
    pub fn on_sent(&mut self, segment: BuiltSegment, now: Instant) {
        self.last_ack = segment.ack;
        if segment.flags.has_syn() {
            self.base = segment.seq.wrapping_add(1);
        }
        let from = segment.seq.wrapping_sub(self.base);
        // A keep-alive probe comes before the oldest byte. A window probe is smoltcp's affair.
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

    /// Returns the last acknowledgement number that we sent.
    pub fn last_ack_sent(&self) -> u32 {
        self.last_ack
    }

    /// Returns `true` if data is in flight to a peer with an open window. While the window is
    /// closed, smoltcp sends window probes by itself.
    pub fn has_data_in_flight(&self) -> bool {
        self.highest_sent > 0 && self.window > 0
    }

    /// Returns `true` if `segment` only repeats the last acknowledgement. smoltcp does not get it,
    /// because it would count to three and repeat one segment.
    #[inline]
    pub fn is_duplicate_ack(&self, segment: &Segment) -> bool {
        self.has_data_in_flight()
            && segment.flags.is_plain()
            && (segment.data, segment.ack, segment.seq, segment.window) == (0, self.base, self.last_ack, self.window)
    }

    /// Records a duplicate acknowledgement with the SACK ranges `blocks`.
    pub fn on_duplicate_ack(&mut self, blocks: &[Option<Range>], now: Instant) {
        self.duplicate_acks = self.duplicate_acks.saturating_add(1);
        self.on_sack(blocks, now);
    }

    /// Records a segment that smoltcp took. `advanced` is `true` if it acknowledged something.
    pub fn on_received(&mut self, segment: &Segment, advanced: bool, blocks: &[Option<Range>], mss: u32, now: Instant) {
        let count = segment.ack.wrapping_sub(self.base);
        // The window of an old segment, or of one with guessed numbers, is not believed.
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
        for position in [&mut self.next, &mut self.recovery_point] {
            *position = position.saturating_sub(count);
        }
        (self.duplicate_acks, self.timeouts, self.last_progress) = (0, 0, now);
        self.bytes_since_loss = self.bytes_since_loss.saturating_add(count);
        for range in &mut self.sacked {
            *range = (range.0.saturating_sub(count), range.1.saturating_sub(count));
        }
        // A range that begins at the oldest byte cannot be held: the peer has discarded it.
        self.sacked.retain(|range| range.0 > 0);
        match self.sample {
            Some((end, at)) if end <= count => {
                self.add_sample(now.0.saturating_sub(at.0));
                self.sample = None;
            }
            Some((end, at)) => self.sample = Some((end - count, at)),
            None => {}
        }
        if let Some(round) = &mut self.round {
            round.arrived |= count > round.from;
            for position in [&mut round.from, &mut round.to, &mut round.reach] {
                *position = position.saturating_sub(count);
            }
        }
        self.round.take_if(|round| round.reach == 0);
    }

    /// Records SACK ranges, in sequence numbers.
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
        let index = self.sacked.partition_point(|held| held.0 < merged.0);
        if self.sacked.try_insert(index, merged).is_err() {
            // There are too many ranges. This one will be sent again.
            return;
        }
        (self.last_progress, self.last_sack) = (now, now);
        if let Some(round) = &mut self.round {
            round.arrived |= range.1 > round.reach || range.0 < round.to && round.from < range.1;
        }
    }

    /// Returns when a gap counts as a loss, because reordered segments would have filled it by
    /// then.
    fn gaps_settle_at(&self) -> Option<Instant> {
        let trip = self.rtt.filter(|_| !self.sacked.is_empty())?;
        Some(self.last_sack + Duration::from_nanos(trip / 4))
    }

    /// Returns the position below which bytes that the peer does not have are lost: the peer has
    /// enough of what was sent after them, or has said so for long enough.
    fn lost_up_to(&self, mss: u32, now: Instant) -> u32 {
        if self.gaps_settle_at().is_some_and(|at| at <= now) {
            return self.sacked.last().map_or(0, |range| range.0);
        }
        let mut above = 0;
        for (count, range) in self.sacked.iter().rev().enumerate() {
            above += range.1 - range.0;
            // `IsLost` of RFC 6675, 4.
            if above > 2 * mss || count + 1 >= usize::from(DUPLICATE_ACKS) {
                return range.0;
            }
        }
        if self.sacked.is_empty() && self.duplicate_acks >= DUPLICATE_ACKS { mss.min(self.highest_sent) } else { 0 }
    }

    /// Returns how long to wait for an acknowledgement of bytes in flight, in ns.
    fn timeout(&self, mss: u32) -> u64 {
        const ACK_DELAY: u64 = to_nanoseconds(MAX_ACK_DELAY);
        let limited = |first: u64, doublings: u8| first.saturating_mul(1 << doublings).min(to_nanoseconds(MAX_TIMEOUT));
        let Some(trip) = self.rtt else { return limited(to_nanoseconds(INITIAL_TIMEOUT), self.timeouts.min(6)) };
        let trips = trip.saturating_mul(2);
        match self.timeouts {
            0 if self.highest_sent < 2 * mss => trips.saturating_add(ACK_DELAY),
            0 if self.bytes_since_loss < CALM_BYTES => trips.saturating_add(to_nanoseconds(PROBE_DELAY)),
            0 => trips.saturating_add(to_nanoseconds(CALM_PROBE_DELAY)),
            count => limited(trips.saturating_add(ACK_DELAY), (count - 1).min(9)),
        }
    }

    /// Returns when bytes in flight count as lost, if nothing is acknowledged until then.
    fn times_out_at(&self, mss: u32) -> Instant {
        Instant(self.last_progress.0.saturating_add(self.timeout(mss)))
    }

    /// Returns the smoothed round-trip time, or a guess before one was measured.
    fn round_trip(&self) -> Duration {
        self.rtt.map_or(INITIAL_TIMEOUT, Duration::from_nanos)
    }

    /// Returns when what is missing of a round counts as lost again: by then, what was sent before
    /// it is overdue.
    fn round_overdue_at(&self) -> Option<Instant> {
        let round = self.round.filter(|round| round.arrived && self.next >= round.to)?;
        Some(round.at + self.round_trip() * 5 / 4)
    }

    /// Returns `true` if the peer's window is closed.
    pub fn is_window_closed(&self) -> bool {
        self.window == 0
    }

    /// Returns when to look again, if nothing is received.
    pub fn deadline(&self, mss: u32) -> Option<Instant> {
        self.has_data_in_flight().then_some(())?;
        let repeat = if self.round.is_some() { self.round_overdue_at() } else { self.gaps_settle_at() };
        Instant::earlier(Some(self.times_out_at(mss)), repeat)
    }

    /// Begins a round of repeats if one is due. Returns `true` if it did; then smoltcp must go
    /// back.
    pub fn begin_round(&mut self, mss: u32, now: Instant) -> bool {
        if !self.has_data_in_flight() {
            return false;
        }
        let mut probe = false;
        let (from, to) = if now >= self.times_out_at(mss) {
            self.timeouts = self.timeouts.saturating_add(1);
            if self.timeouts > 1 {
                // The peer may have discarded what it held (RFC 2018, 8).
                self.sacked.clear();
                self.congestion.on_timeout(self.highest_sent, mss);
                self.recovery_point = self.highest_sent;
            }
            // At first, repeating the last segment is enough: the answer tells what else is
            // missing.
            probe = self.timeouts == 1 && self.sacked.is_empty();
            (if probe { self.highest_sent.saturating_sub(mss) } else { 0 }, self.highest_sent)
        } else {
            let lost = self.lost_up_to(mss, now);
            match self.round {
                None => (0, lost),
                Some(round) if self.round_overdue_at().is_some_and(|at| at <= now) => (0, lost.max(round.reach)),
                // Losses found since, beyond what the round repeats.
                Some(round) if lost > round.to && now >= round.at + self.round_trip() / 4 => (round.to, lost),
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
        self.round = Some(RepeatRound { at: now, from, to, reach: self.highest_sent, arrived: false, probe });
        // A segment that is sent twice measures nothing (Karn's algorithm). Others still do, so
        // that a longer path is noticed.
        self.sample.take_if(|(end, _)| *end > from);
        (self.next, self.duplicate_acks, self.last_progress, self.bytes_since_loss) = (0, 0, now, 0);
        true
    }

    /// Returns `true` if as many bytes are in flight as the congestion window allows.
    pub fn is_full(&self) -> bool {
        // A probe is sent in any case.
        let probes = self.round.is_some_and(|round| round.probe && self.next < round.reach);
        if !self.congestion.is_limited() || probes {
            return false;
        }
        let held: u32 = self.sacked.iter().map(|range| range.1 - range.0).sum();
        let due = self.send_ranges().map_or(0, |selection| {
            let due = |range: &Range| range.1.min(self.highest_sent).saturating_sub(range.0.max(self.next));
            selection.ranges.iter().map(due).sum()
        });
        !self.congestion.admits(self.highest_sent.saturating_sub(held).saturating_sub(due))
    }

    /// Returns `true` if some of the `queued` bytes were never sent.
    pub fn has_unsent(&self, queued: u32) -> bool {
        queued > self.highest_sent
    }

    /// Returns `true` if everything up to the highest position is in flight and nothing is being
    /// repeated, so that losses will be noticed.
    pub fn is_caught_up(&self) -> bool {
        self.has_data_in_flight() && self.next >= self.highest_sent
    }

    /// Returns `true` if the last of the `queued` bytes are held back until more follow, because
    /// they are fewer than `enough`. An acknowledgement, which makes room for more, is on its way.
    pub fn holds_back(&self, queued: u32, enough: u32) -> bool {
        let left = queued.saturating_sub(self.highest_sent);
        self.is_caught_up() && 0 < left && left < enough
    }

    /// Returns the ranges that must be sent of the segments that smoltcp builds next. `None` means
    /// all.
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
