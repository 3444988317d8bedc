//! One connection: what came and what goes, and how long it may take.
//!
//! The in ring is the request's buffer: it is consumed when a request is whole, so a peer holds no memory but
//! its own ring, and a request that fills it is too large.

mod serve;

use core::time::Duration;

use cloister_interfaces::Instant;
use cloister_interfaces::socket::{Connection as Index, Constant, Layout, Request as Ask, Ring};

use crate::cache::Memo;
use crate::head::{Head, LARGEST_HEAD};
use crate::page;
use crate::response::{Context, Sink};

/// How long a new connection may take to send its first request, and any connection to finish one.
const REQUEST: Duration = Duration::from_secs(10);
/// How long a connection may be idle between requests.
const KEEP_ALIVE: Duration = Duration::from_secs(15);
/// How far a connection may be behind the least rate, which it is measured by while a request's body is due
/// or a response is not taken, in ns.
const PATIENCE: u64 = 30_000_000_000;
/// How far behind it is spared although others wait to connect: tcpip tells of what it sends of the
/// archive once a second. In ns.
const SPARED: u64 = 2_000_000_000;
/// Nanoseconds that a byte takes at the least rate, 500 bytes a second.
const BYTE: u64 = 2_000_000;
/// The same while others wait to connect: 16,000 bytes a second.
const BYTE_PRESSED: u64 = 62_500;
/// A response up to this size is left to tcpip, which need not report its end. A larger one is watched,
/// for its peer may be slow.
const SMALL: usize = 256 * 1024;
/// How long what a peer still sends is thrown away, so that it can read why it was refused.
const LINGER: Duration = Duration::from_secs(3);
/// Requests answered on one connection in one pass.
const REQUESTS: u32 = 16;

const _: () = assert!(LARGEST_HEAD <= 4096 && page::LARGEST <= 4096, "the smallest out ring holds them");

/// The list of connections that have been answered and ask for nothing.
pub const IDLE: usize = 0;
/// The list of those that have not asked yet, or not to the end.
pub const ASKING: usize = 1;

/// What the connection is doing.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
enum State {
    /// The index is not in use.
    #[default]
    Free,
    /// It serves requests.
    Open,
    /// The last response was written; what comes is thrown away.
    Lingering,
    /// Its end was decided; the order to end it may wait for room in the queue.
    Ending(Ending),
    /// The order was given, or the peer's end was acknowledged.
    Ended,
}

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Ending {
    Close,
    Abort,
}

/// Why tcpip's word about a connection is not taken.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Breach;

/// What every connection needs to do its work.
pub struct World<'a, M> {
    /// The rings.
    pub layout: Layout,
    /// The region of the in rings.
    pub stream_in: &'a M,
    /// The region of the out rings.
    pub stream_out: &'a M,
    /// A copy of the in ring's content, to be parsed.
    pub scratch: &'a mut [u8],
    /// The head of a response, to be written.
    pub head: &'a mut Head,
    /// Answers given before.
    pub memo: &'a mut Memo,
    /// The second since 1970, if it is known: that of the date.
    pub second: Option<u64>,
    /// The time.
    pub now: Instant,
    /// What responses depend on.
    pub context: Context<'a>,
    /// The archive, if tcpip sends from it by itself; else nothing.
    pub constant: &'static [u8],
}

/// A connection.
#[derive(Default)]
pub struct Connection {
    state: State,
    /// It is among those of which there is something new.
    noted: bool,
    /// tcpip has said that it is over.
    over: bool,
    /// The peer sends no more.
    peer_closed: bool,
    /// The connection ends after the response.
    close: bool,
    /// Before that, what the peer still sends is thrown away.
    linger: bool,
    /// It has answered a request.
    served: bool,
    /// Where the next byte is read; bytes that stand there; bytes read that tcpip has not been told of.
    read: u32,
    available: u32,
    consumed: u32,
    /// Where the next byte is written; bytes that tcpip has not taken; bytes written that it has not been told of.
    write: u32,
    unsent: u32,
    written: u32,
    /// Bytes of the archive that tcpip is to send after those and has not taken; where they start, until it was told.
    constant: u32,
    announce: Option<u32>,
    /// We wait for nothing but the peer: tcpip was told that it need not tell what it takes.
    quiet: bool,
    /// The response is so large that tcpip is to report its end.
    watched: bool,
    /// Bytes of a request's body, to be thrown away.
    discard: u64,
    /// The request whose body that is, if it is answered then.
    sink: Option<Sink>,
    /// The rest of the response, and how much of a rendered page was sent.
    content: Rest,
    /// When it last got on.
    since: Instant,
    /// How long its peer may be behind the least rate. Each byte adds the time that it takes at that rate, up to
    /// [`PATIENCE`]; a new request or response does not.
    patience: Patience,
    /// The timer of its deadline has fired since it was last attended to.
    fired: bool,
    /// The list that it is in, and since when.
    pub listed: Option<(usize, Instant)>,
}

/// How much longer a peer may be slow.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Patience {
    /// Nothing is due from the peer. This is left for later, in ns.
    Left(u64),
    /// Something is due. The connection is ended at this time.
    Until(Instant),
}

/// Returns the time `nanoseconds` after `start`.
fn after(start: Instant, nanoseconds: u64) -> Instant {
    Instant(start.0.saturating_add(nanoseconds))
}

impl Default for Patience {
    fn default() -> Self {
        Patience::Left(PATIENCE)
    }
}

#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
enum Rest {
    #[default]
    Nothing,
    Bytes(&'static [u8]),
    Page(Duration, u32),
}

impl Connection {
    /// It was just accepted.
    pub fn accept(&mut self, now: Instant) {
        *self = Connection { state: State::Open, since: now, noted: self.noted, ..Connection::default() };
    }

    /// It is no more.
    pub fn forget(&mut self) {
        *self = Connection { noted: self.noted, ..Connection::default() };
    }

    /// There is something new of it. Answers whether that was not known.
    pub fn note(&mut self) -> bool {
        !core::mem::replace(&mut self.noted, true)
    }

    /// It was attended to.
    pub fn noted(&mut self) {
        self.noted = false;
    }

    /// Whether the index is in use.
    pub fn in_use(&self) -> bool {
        !matches!(self.state, State::Free)
    }

    /// Whether it is about to be free.
    pub fn is_ending(&self) -> bool {
        matches!(self.state, State::Ending(_) | State::Ended)
    }

    /// Returns since when it has waited for a request, if it does nothing else.
    fn idle_since(&self) -> Option<Instant> {
        (matches!(self.state, State::Open) && !self.is_busy()).then_some(self.since)
    }

    /// Returns the list of those that it is to be among, if it may be ended for others that wait to connect
    /// without the loss of a transfer, and since when.
    #[inline]
    pub fn dispensable(&self) -> Option<(usize, Instant)> {
        let refused = matches!(self.state, State::Lingering) && self.is_sent();
        let asking = !refused && (!self.served || self.available > 0);
        let since = self.idle_since().or(refused.then_some(self.since))?;
        Some((if asking { ASKING } else { IDLE }, since))
    }

    /// Returns `true` while a body is received or a response sent.
    fn is_busy(&self) -> bool {
        !self.is_quiet() || self.discard > 0
    }

    /// Takes note that the peer sent or took `bytes`, while others wait to connect (`pressed`) or not.
    pub fn got_on(&mut self, bytes: u32, pressed: bool, now: Instant) {
        let gained = u64::from(bytes) * if pressed { BYTE_PRESSED } else { BYTE };
        self.patience = match self.patience {
            Patience::Left(left) => Patience::Left((left + gained).min(PATIENCE)),
            Patience::Until(end) => Patience::Until(after(end, gained).min(after(now, PATIENCE))),
        };
    }

    /// Lets its patience run out while something is due from the peer, and keeps it otherwise.
    pub fn update_patience(&mut self, now: Instant) {
        match self.patience {
            Patience::Left(left) if self.is_busy() => self.patience = Patience::Until(after(now, left)),
            Patience::Until(end) if !self.is_busy() => self.patience = Patience::Left(end.0.saturating_sub(now.0)),
            Patience::Left(_) | Patience::Until(_) => {}
        }
    }

    /// Returns when the peer has been behind for too long.
    fn patience_ends(&self) -> Instant {
        match self.patience {
            Patience::Left(left) => after(self.since, left),
            Patience::Until(end) => end,
        }
    }

    /// Returns from when on the transfer that it is busy with, if any, may be ended for others that wait to connect.
    pub fn spared_until(&self) -> Option<Instant> {
        let busy = matches!(self.state, State::Open | State::Lingering) && self.is_busy();
        busy.then(|| Instant(self.patience_ends().0.saturating_sub(PATIENCE - SPARED)))
    }

    /// Ends it for others that wait to connect.
    pub fn yield_place(&mut self) {
        // A closed connection keeps its place until its peer has answered; a peer that was refused may not.
        self.end(if matches!(self.state, State::Open) && !self.is_busy() { Ending::Close } else { Ending::Abort });
    }

    /// Whether there is nothing of a response that is ours to see to.
    fn is_quiet(&self) -> bool {
        self.content == Rest::Nothing && (self.quiet || self.is_sent())
    }

    /// Whether tcpip has taken all that it was given.
    fn is_sent(&self) -> bool {
        self.unsent == 0 && self.constant == 0
    }

    /// Takes note of `length` bytes that came.
    ///
    /// # Errors
    /// More than the ring holds.
    pub fn received(&mut self, length: u32, ring: Ring, now: Instant) -> Result<(), Breach> {
        let standing = u64::from(self.available) + u64::from(self.consumed) + u64::from(length);
        if standing > ring.size as u64 {
            return Err(Breach);
        }
        if self.discard > 0 {
            self.since = now;
        } else if self.available == 0 && self.idle_since().is_some() {
            // A request has its time from its first byte, however slowly the others come.
            self.since = now;
        }
        self.available += length;
        Ok(())
    }

    /// Takes note that tcpip took `length` bytes of the ring, and `constant` of the archive.
    ///
    /// # Errors
    /// More than there were.
    pub fn sent(&mut self, length: u32, constant: u32, now: Instant) -> Result<(), Breach> {
        let announced = if self.announce.is_some() { 0 } else { self.constant };
        if length > self.unsent.saturating_sub(self.written) || constant > announced {
            return Err(Breach);
        }
        self.unsent -= length;
        self.constant -= constant;
        // What was done quietly was done long before we hear of it.
        if !core::mem::take(&mut self.quiet) {
            self.since = now;
        }
        Ok(())
    }

    /// The peer sends no more.
    pub fn peer_closed(&mut self) {
        self.peer_closed = true;
    }

    /// tcpip says that the connection is over.
    pub fn over(&mut self) {
        self.over = true;
        if !matches!(self.state, State::Ending(_) | State::Ended) {
            self.end(Ending::Close);
        }
        // If it was asked for, the number is free at once: the next message may be of a new connection with it.
        self.free();
    }

    /// Ends it when what was written is sent.
    pub fn close(&mut self) {
        self.end(Ending::Close);
    }

    /// Ends it at once.
    pub fn abort(&mut self) {
        self.end(Ending::Abort);
    }

    fn end(&mut self, ending: Ending) {
        if !matches!(self.state, State::Free | State::Ended) {
            self.state = State::Ending(ending);
        }
    }

    /// Returns when its patience ends.
    #[inline(always)] // Half of it is also what the list is decided by.
    pub fn deadline(&self) -> Option<Instant> {
        Some(match self.state {
            State::Free | State::Ending(_) | State::Ended => return None,
            State::Lingering if self.is_sent() => self.since + LINGER,
            _ if self.is_busy() => self.patience_ends(),
            _ if self.available > 0 || !self.served => self.since + REQUEST,
            _ => self.since + KEEP_ALIVE,
        })
    }

    /// Its timer has fired.
    pub fn timer_fired(&mut self) {
        self.fired = true;
    }

    /// Returns `true` once after its timer has fired, if its deadline has not moved since.
    pub fn is_expired(&mut self, now: Instant) -> bool {
        core::mem::take(&mut self.fired) && self.is_late(now)
    }

    #[cold]
    fn is_late(&self, now: Instant) -> bool {
        self.deadline().is_some_and(|deadline| deadline <= now)
    }

    /// Tells tcpip what it has not been told, by `push`, which answers whether there was room. Answers whether all was told.
    pub fn tell(&mut self, index: u16, mut push: impl FnMut(Ask) -> bool) -> bool {
        let connection = Index(index);
        if (self.written > 0 || self.announce.is_some()) && !self.over {
            let constant = self.announce.map(|offset| Constant { offset, length: self.constant });
            let idle = matches!(self.state, State::Open) && self.content == Rest::Nothing && self.available == 0;
            let quiet = idle && !self.close && self.discard == 0 && !self.peer_closed && !self.watched;
            let (consumed, length) = (self.consumed, self.written);
            if push(Ask::Send { connection, consumed, length, constant, quiet }) {
                (self.consumed, self.written, self.announce, self.quiet) = (0, 0, None, quiet);
            }
        }
        if self.consumed > 0 && !self.over && push(Ask::Consumed { connection, length: self.consumed }) {
            self.consumed = 0;
        }
        let behind = (self.written > 0 || self.announce.is_some()) && !self.over;
        let ask = match self.state {
            State::Ending(Ending::Close) if !behind => Ask::Close { connection },
            State::Ending(Ending::Abort) => Ask::Abort { connection },
            State::Ending(_) => return false,
            _ => {
                self.free();
                return !behind && (self.consumed == 0 || self.over);
            }
        };
        let told = push(ask);
        if told {
            self.state = State::Ended;
        }
        self.free();
        told
    }

    fn free(&mut self) {
        if matches!(self.state, State::Ended) && self.over {
            self.forget();
        }
    }
}
