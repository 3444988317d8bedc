//! What a service says of its peers on the console.
//!
//! The kernel limits the lines of each service. It does not know which peer a line is about. So each
//! service that has several peers limits the lines about each of them: none can use up what is left
//! for the others.

use core::fmt::{self, Display};
use core::time::Duration;

use crate::capability::Console;
use crate::rules::ClientIndex;
use crate::system::{Instant, System};

/// The name of a peer, in the counts of lines that were left out.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Peer {
    /// A client of the service.
    Client(ClientIndex),
    /// Another one, of this name.
    Named(&'static str),
}

impl Display for Peer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Peer::Client(client) => client.fmt(f),
            Peer::Named(name) => f.write_str(name),
        }
    }
}

/// Writes the late form of the first line of a kind.
pub type LateLine<'a> = &'a dyn Fn(usize, &mut fmt::Formatter<'_>) -> fmt::Result;

/// A kind, and the writer of its late form.
struct Late<'a>(usize, LateLine<'a>);

impl Display for Late<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        (self.1)(self.0, f)
    }
}

/// The log of one peer.
///
/// Lines have kinds. The first of each kind is always printed; if the console may have dropped it,
/// [`PeerLog::catch_up`] prints what is known of it again. Further ones are printed at a limited
/// rate; those that are left out are counted.
#[derive(Clone, Copy, Debug)]
pub struct PeerLog {
    peer: Peer,
    /// A bit for each kind of which the first line came.
    seen: u128,
    /// The bits of those whose line the console may have dropped.
    waiting: u128,
    /// Lines that were left out and are in no printed count yet.
    left_out: u32,
    /// Lines of a burst that are spent.
    spent: u32,
    /// The time at which lines were last earned.
    earned_at: Instant,
    /// The time of the next [`PeerLog::catch_up`] that prints, while there is something.
    due: Instant,
}

impl PeerLog {
    /// The number of kinds that there can be.
    pub const KINDS: usize = u128::BITS as usize;
    /// The largest number of further lines that come at once. With four clients it is less than
    /// the kernel lets through (`Credit::BURST`).
    pub const BURST: u32 = 16;
    /// The time that earns one more line. It is also the time after which a line that the console
    /// may have dropped is printed again.
    pub const REFILL: Duration = Duration::from_millis(100);

    /// Creates the log of a peer with this name.
    pub const fn new(peer: Peer) -> Self {
        let start = Instant::START;
        PeerLog { peer, seen: 0, waiting: 0, left_out: 0, spent: 0, earned_at: start, due: start }
    }

    /// Prints a line, if it is the first of its kind or there is credit for it at `now`.
    ///
    /// `kind` is below [`PeerLog::KINDS`].
    #[cold]
    #[inline(never)]
    pub fn add<S: System>(&mut self, console: &Console<S>, now: Instant, kind: usize, line: fmt::Arguments<'_>) {
        if self.add_first(console, now, kind, line) {
            return;
        }
        if !self.take_credit(now) || !self.print_count(console) || !console.try_line(line) {
            self.begin_pause(now);
            self.left_out = self.left_out.saturating_add(1);
        }
    }

    /// Prints a line if it is the first of its kind. Returns `true` if it was. Others are not
    /// counted.
    #[cold]
    #[inline(never)]
    pub fn add_first<S: System>(
        &mut self,
        console: &Console<S>,
        now: Instant,
        kind: usize,
        line: fmt::Arguments<'_>,
    ) -> bool {
        debug_assert!(kind < Self::KINDS, "there are more kinds than bits");
        let bit = 1_u128.rotate_left(kind as u32);
        let first = self.seen & bit == 0;
        if first {
            self.seen |= bit;
            self.take_credit(now);
            if !console.try_line(line) {
                self.begin_pause(now);
                self.waiting |= bit;
            }
        }
        first
    }

    /// Returns the time of the next [`PeerLog::catch_up`] that prints something.
    #[must_use]
    pub fn deadline(&self) -> Option<Instant> {
        self.is_behind().then_some(self.due)
    }

    /// Prints, if that is due, the first lines that the console may have dropped, in the form that
    /// `late` gives for their kinds, and the number of lines that were left out.
    #[inline]
    pub fn catch_up<S: System>(&mut self, console: &Console<S>, now: Instant, late: LateLine<'_>) {
        if self.is_behind() && now >= self.due {
            self.print_waiting(console, now, late);
        }
    }

    #[cold]
    #[inline(never)]
    fn print_waiting<S: System>(&mut self, console: &Console<S>, now: Instant, late: LateLine<'_>) {
        while self.waiting != 0 {
            let kind = self.waiting.trailing_zeros() as usize;
            if !console.try_line(format_args!("{}", Late(kind, late))) {
                self.due = now + Self::REFILL;
                return;
            }
            self.waiting &= self.waiting - 1;
        }
        if !self.take_credit(now) || !self.print_count(console) {
            self.due = now + Self::REFILL;
        }
    }

    fn is_behind(&self) -> bool {
        self.waiting != 0 || self.left_out != 0
    }

    /// Begins the time until [`PeerLog::catch_up`], unless it has begun.
    fn begin_pause(&mut self, now: Instant) {
        if !self.is_behind() {
            self.due = now + Self::REFILL;
        }
    }

    /// Prints how many lines were left out, if any were. Returns `false` if the console may have
    /// dropped that.
    #[inline(never)]
    fn print_count<S: System>(&mut self, console: &Console<S>) -> bool {
        let printed =
            self.left_out == 0 || console.try_line(format_args!("{} more lines about {}", self.left_out, self.peer));
        if printed {
            self.left_out = 0;
        }
        printed
    }

    /// Takes the credit for a line. Returns `true` if there was some.
    #[inline(never)]
    fn take_credit(&mut self, now: Instant) -> bool {
        let earned = now.0.saturating_sub(self.earned_at.0) / (Self::REFILL.as_millis() as u64 * 1_000_000);
        if earned > 0 {
            self.earned_at = now;
            self.spent = self.spent.saturating_sub(u32::try_from(earned).unwrap_or(u32::MAX));
        }
        let allowed = self.spent < Self::BURST;
        self.spent += u32::from(allowed);
        allowed
    }
}

/// Shows text that a peer chose: in printable ASCII, and not more of it than [`Excerpt::LENGTH`].
///
/// So the peer does not determine how long a line is, and where the kernel breaks it.
#[derive(Clone, Copy, Debug)]
pub struct Excerpt<'a>(pub &'a [u8]);

impl Excerpt<'_> {
    /// The largest number of characters that are shown, without the three dots that stand for the
    /// rest.
    pub const LENGTH: usize = 64;
}

impl Display for Excerpt<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut left = Self::LENGTH;
        for byte in self.0 {
            let shown = byte.escape_ascii();
            if shown.len() > left {
                return f.write_str("...");
            }
            left -= shown.len();
            Display::fmt(&shown, f)?;
        }
        Ok(())
    }
}
