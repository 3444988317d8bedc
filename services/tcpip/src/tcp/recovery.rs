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

use crate::segment::{Outgoing, RANGES, Range, Segment, Wanted};
use crate::tcp::congestion::Congestion;

/// So many repeats of an acknowledgement say that a segment is lost (RFC 5681, 3.2).
const REPEATS: u8 = 3;
/// How long to wait, beyond two round trips, for an acknowledgement of several segments, before the last is sent again.
/// A timer that runs out although nothing was lost costs the processor, and one that is late the goodput.
const PROBE: Duration = Duration::from_millis(2);
/// The same on a path that has lost nothing lately.
const CALM_PROBE: Duration = Duration::from_millis(20);
/// So many bytes that arrived, and nothing lost among them, make a path calm.
const CALM: u32 = 4 << 20;
/// And of less than two: the peer may hold its acknowledgement back for so long.
const HELD_BACK: Duration = Duration::from_millis(200);
/// What a round trip is taken for before one was measured, times two (RFC 6298, 2.1).
const UNKNOWN: Duration = Duration::from_secs(1);
/// A peer's segments begin at most so far beyond what we acknowledged: more than any window of ours.
const NEAR: u32 = 1 << 20;
/// The longest wait (RFC 6298, 2.5).
const LONGEST: Duration = Duration::from_secs(60);

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
    high: u32,
    /// What the stack sends next.
    next: u32,
    /// What the peer has above the first gap: ascending, apart.
    held: ArrayVec<Range, RANGES>,
    /// How often the last acknowledgement was repeated.
    repeats: u8,
    /// When the peer last said that it has more above a gap.
    told: Instant,
    /// How often nothing came in time.
    timeouts: u8,
    round: Option<Round>,
    /// The smoothed round-trip time.
    trip: Option<Duration>,
    /// When the segment that ends here was sent: the measurement under way.
    sample: Option<(u32, Instant)>,
    /// When something was last sent, or acknowledged.
    since: Instant,
    /// How many bytes arrived since something was lost, or seemed to be.
    calm: u32,
    /// What we acknowledged last.
    answered: u32,
    /// The window that the peer announced last, as it wrote it.
    window: u16,
    congestion: Congestion,
    /// The end of what had been sent when the path was last found to lose: what is lost of it is the same loss.
    point: u32,
}

impl Recovery {
    /// The peer has answered our SYN, when `left` was left of the time `given` to it.
    pub fn opened(&mut self, left: Duration, given: Duration) {
        let trip = given.saturating_sub(left);
        // It may have been sent twice (RFC 6298, 3).
        if trip < UNKNOWN {
            self.measured(trip);
        }
    }

    fn measured(&mut self, trip: Duration) {
        self.trip = Some(self.trip.map_or(trip, |smoothed| (smoothed * 7 + trip) / 8));
    }

    /// Takes note of a segment that the stack sent.
    pub fn sent(&mut self, segment: Outgoing, now: Instant) {
        self.answered = segment.ack;
        if segment.start {
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
        if to > self.high {
            self.high = to;
            if self.round.is_none() && self.sample.is_none() {
                self.sample = Some((to, now));
            }
        }
        (self.next, self.since) = (to, now);
    }

    /// Returns the sequence number of the oldest byte that was not acknowledged.
    pub fn oldest(&self) -> u32 {
        self.base
    }

    /// Returns what was acknowledged last.
    pub fn answered(&self) -> u32 {
        self.answered
    }

    /// Whether there is something to watch over: data on their way to a peer that takes some. What asks for a window is the stack's
    /// to send.
    pub fn follows(&self) -> bool {
        self.high > 0 && self.window > 0
    }

    /// Whether `segment` only repeats what the peer said before. The stack need not see it: it would count to three, and send
    /// one segment again.
    pub fn repeats(&self, segment: &Segment) -> bool {
        self.follows()
            && segment.plain
            && (segment.data, segment.ack, segment.seq, segment.window) == (0, self.base, self.answered, self.window)
    }

    /// Takes note of a segment that changed nothing but what `blocks` say.
    pub fn repeated(&mut self, blocks: &[Option<Range>], now: Instant) {
        self.repeats = self.repeats.saturating_add(1);
        self.selected(blocks, now);
    }

    /// Takes note of a segment that the stack took. `advanced` tells that it acknowledged something.
    pub fn took(&mut self, segment: &Segment, advanced: bool, blocks: &[Option<Range>], whole: u32, now: Instant) {
        let count = segment.ack.wrapping_sub(self.base);
        // What an old segment says, or one whose numbers are a guess, is not believed.
        if count <= self.high && segment.seq.wrapping_sub(self.answered) < NEAR {
            self.window = segment.window;
        }
        if advanced && (1..=self.high).contains(&count) {
            self.acknowledged(count, now);
            self.congestion.arrived(count, whole);
        }
        if segment.ack == self.base && !blocks.is_empty() {
            self.selected(blocks, now);
        }
    }

    fn acknowledged(&mut self, count: u32, now: Instant) {
        self.base = self.base.wrapping_add(count);
        self.high -= count;
        for place in [&mut self.next, &mut self.point] {
            *place = place.saturating_sub(count);
        }
        (self.repeats, self.timeouts, self.since) = (0, 0, now);
        self.calm = self.calm.saturating_add(count);
        for range in &mut self.held {
            *range = (range.0.saturating_sub(count), range.1.saturating_sub(count));
        }
        // What begins at the oldest byte cannot be held: the peer has thrown it away.
        self.held.retain(|range| range.0 > 0);
        match self.sample {
            Some((end, at)) if end <= count => {
                self.measured(now.since(at));
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
    fn selected(&mut self, blocks: &[Option<Range>], now: Instant) {
        for (from, to) in blocks.iter().flatten() {
            let range = (from.wrapping_sub(self.base), to.wrapping_sub(self.base));
            if 0 < range.0 && range.0 < range.1 && range.1 <= self.high {
                self.hold(range, now);
            }
        }
    }

    fn hold(&mut self, range: Range, now: Instant) {
        if self.held.iter().any(|held| held.0 <= range.0 && range.1 <= held.1) {
            return;
        }
        let touches = |held: &Range| held.0 <= range.1 && range.0 <= held.1;
        let joined = self.held.iter().copied().filter(touches);
        let merged = joined.fold(range, |one, other| (one.0.min(other.0), one.1.max(other.1)));
        self.held.retain(|held| !touches(held));
        let place = self.held.partition_point(|held| held.0 < merged.0);
        if self.held.try_insert(place, merged).is_err() {
            // It touches none of the many others: it will be sent again.
            return;
        }
        (self.since, self.told) = (now, now);
        if let Some(round) = &mut self.round {
            round.arrived |= range.1 > round.reach || range.0 < round.to && round.from < range.1;
        }
    }

    /// When a gap is no longer taken for one that late segments still fill.
    fn settled(&self) -> Option<Instant> {
        let trip = self.trip.filter(|_| !self.held.is_empty())?;
        Some(self.told + trip / 4)
    }

    /// Up to where bytes that the peer does not have are lost, because it has enough of what was sent after them, or said so long
    /// ago. `whole` is the length of a whole segment.
    fn overtaken(&self, whole: u32, now: Instant) -> u32 {
        if self.settled().is_some_and(|at| at <= now) {
            return self.held.last().map_or(0, |range| range.0);
        }
        let mut above = 0;
        for (count, range) in self.held.iter().rev().enumerate() {
            above += range.1 - range.0;
            // RFC 6675, 4, `IsLost`.
            if above > 2 * whole || count + 1 >= usize::from(REPEATS) {
                return range.0;
            }
        }
        if self.held.is_empty() && self.repeats >= REPEATS { whole.min(self.high) } else { 0 }
    }

    /// How long to wait with bytes on their way of which nothing is heard.
    fn patience(&self, whole: u32) -> Duration {
        let Some(trip) = self.trip else { return (UNKNOWN * (1 << self.timeouts.min(6))).min(LONGEST) };
        match self.timeouts {
            0 if self.high < 2 * whole => trip * 2 + HELD_BACK,
            0 => trip * 2 + if self.calm < CALM { PROBE } else { CALM_PROBE },
            count => ((trip * 2 + HELD_BACK) * (1 << (count - 1).min(9))).min(LONGEST),
        }
    }

    /// When what of a round has not arrived can be taken for lost once more: what was sent before it is overdue.
    fn overdue(&self) -> Option<Instant> {
        let round = self.round.filter(|round| round.arrived && self.next >= round.to)?;
        Some(round.at + self.trip.unwrap_or(UNKNOWN) * 5 / 4)
    }

    /// Whether the peer takes nothing at present.
    pub fn is_shut(&self) -> bool {
        self.window == 0
    }

    /// When to look again, if nothing comes.
    pub fn deadline(&self, whole: u32) -> Option<Instant> {
        self.follows().then_some(())?;
        let repeat = if self.round.is_some() { self.overdue() } else { self.settled() };
        [Some(self.since + self.patience(whole)), repeat].into_iter().flatten().min()
    }

    /// Whether a round of repeats begins: the stack is to go back.
    pub fn begins(&mut self, whole: u32, now: Instant) -> bool {
        if !self.follows() {
            return false;
        }
        let mut probe = false;
        let (from, to) = if now >= self.since + self.patience(whole) {
            self.timeouts = self.timeouts.saturating_add(1);
            if self.timeouts > 1 {
                // What the peer held it may have thrown away (RFC 2018, 8).
                self.held.clear();
                self.congestion.silent(self.high, whole);
                self.point = self.high;
            }
            // At first the last segment is enough: the answer tells what else is missing.
            probe = self.timeouts == 1 && self.held.is_empty();
            (if probe { self.high.saturating_sub(whole) } else { 0 }, self.high)
        } else {
            let lost = self.overtaken(whole, now);
            match self.round {
                None => (0, lost),
                Some(round) if self.overdue().is_some_and(|at| at <= now) => (0, lost.max(round.reach)),
                // What was found since, beyond what the round repeats.
                Some(round) if lost > round.to && now >= round.at + self.trip.unwrap_or(UNKNOWN) / 4 => {
                    (round.to, lost)
                }
                Some(_) => return false,
            }
        };
        if to == 0 {
            return false;
        }
        if !probe && to > self.point {
            self.congestion.lost(self.high, whole);
            self.point = self.high;
        }
        self.round = Some(Round { at: now, from, to, reach: self.high, arrived: false, probe });
        // What is sent twice measures nothing (Karn); what is not goes on, so that a path that has become longer is known.
        self.sample.take_if(|(end, _)| *end > from);
        (self.next, self.repeats, self.since, self.calm) = (0, 0, now, 0);
        true
    }

    /// Whether the path has as much of the connection's data as it should.
    pub fn is_full(&self) -> bool {
        // What asks for an answer goes in any case.
        let probes = self.round.is_some_and(|round| round.probe && self.next < round.reach);
        if !self.congestion.binds() || probes {
            return false;
        }
        let held: u32 = self.held.iter().map(|range| range.1 - range.0).sum();
        let due = self.wanted().map_or(0, |wanted| {
            let due = |range: &Range| range.1.min(self.high).saturating_sub(range.0.max(self.next));
            wanted.ranges.iter().map(due).sum()
        });
        !self.congestion.admits(self.high.saturating_sub(held).saturating_sub(due))
    }

    /// Whether some of `queued` bytes were never sent.
    pub fn has_unsent(&self, queued: u32) -> bool {
        queued > self.high
    }

    /// Whether all that was ever sent is on its way, nothing is sent again, and what is lost of it will be found.
    pub fn is_ahead(&self) -> bool {
        self.follows() && self.next >= self.high
    }

    /// Whether the last of `queued` bytes wait for those that follow, since they are fewer than `enough`: an acknowledgement is
    /// on its way, which makes room for these.
    pub fn defers(&self, queued: u32, enough: u32) -> bool {
        let left = queued.saturating_sub(self.high);
        self.is_ahead() && 0 < left && left < enough
    }

    /// What is to be sent of what the stack builds next; all of it if none.
    pub fn wanted(&self) -> Option<Wanted> {
        let round = self.round.filter(|round| self.next < round.reach)?;
        let mut ranges = ArrayVec::new();
        let mut from = round.from;
        for held in self.held.iter().filter(|held| held.0 < round.to) {
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
        Some(Wanted { base: self.base, ranges })
    }
}
