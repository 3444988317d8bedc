//! One connection: what came and what goes, and how long it may take.
//!
//! The in ring is the request's buffer: it is consumed when a request is whole, so a peer holds no memory but
//! its own ring, and a request that fills it is too large.

mod serve;

use core::time::Duration;

use cloister_interfaces::Instant;
use cloister_interfaces::socket::{Connection as ConnectionId, Constant, Layout, Request as SocketRequest, Ring};

use crate::cache::ResponseCache;
use crate::head::{Head, MAX_HEAD};
use crate::page;
use crate::response::{Context, Sink};

/// How long a new connection may take to send its first request, and any connection to finish one.
const REQUEST_TIME: Duration = Duration::from_secs(10);
/// How long a connection may be idle between requests.
const IDLE_TIME: Duration = Duration::from_secs(15);
/// How far a connection may be behind the least rate, which it is measured by while a request's body is due
/// or a response is not taken, in ns.
const MAX_BEHIND: u64 = 30_000_000_000;
/// How far behind it is spared although others wait to connect: tcpip tells of what it sends of the
/// archive once a second. In ns.
const SPARED_BEHIND: u64 = 2_000_000_000;
/// Nanoseconds that a byte takes at the least rate, 500 bytes a second.
const NS_PER_BYTE: u64 = 2_000_000;
/// The same while others wait to connect: 16,000 bytes a second.
const NS_PER_BYTE_PRESSED: u64 = 62_500;
/// A response up to this size is left to tcpip, which need not report its end. A larger one is watched,
/// for its peer may be slow.
const MAX_UNWATCHED: usize = 256 * 1024;
/// How long what a peer still sends is thrown away, so that it can read why it was refused.
const LINGER_TIME: Duration = Duration::from_secs(3);
/// Requests answered on one connection in one pass.
const MAX_REQUESTS: u32 = 16;

const _: () = assert!(MAX_HEAD <= 4096 && page::MAX_LENGTH <= 4096, "the smallest out ring holds them");

/// The list of connections that have been answered and ask for nothing.
pub const IDLE: usize = 0;
/// The list of those that have not asked yet, or not to the end.
pub const REQUESTING: usize = 1;

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
pub struct Violation;

/// What every connection needs to do its work.
pub struct Workspace<'a, M> {
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
    pub cache: &'a mut ResponseCache,
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
    ready: bool,
    /// tcpip has said that it is over.
    closed: bool,
    /// The peer sends no more.
    peer_closed: bool,
    /// The connection ends after the response.
    close_after: bool,
    /// Before that, what the peer still sends is thrown away.
    linger_after: bool,
    /// It has answered a request.
    served: bool,
    /// Where the next byte is read; bytes that stand there; bytes read that tcpip has not been told of.
    in_position: u32,
    available: u32,
    unreported_consumed: u32,
    /// Where the next byte is written; bytes that tcpip has not taken; bytes written that it has not been told of.
    out_position: u32,
    unsent: u32,
    unannounced: u32,
    /// Bytes of the archive that tcpip is to send after those and has not taken; where they start, until it was told.
    constant: u32,
    constant_start: Option<u32>,
    /// We wait for nothing but the peer: tcpip was told that it need not tell what it takes.
    quiet: bool,
    /// The response is so large that tcpip is to report its end.
    watched: bool,
    /// Bytes of a request's body, to be thrown away.
    body_left: u64,
    /// The request whose body that is, if it is answered then.
    sink: Option<Sink>,
    /// The rest of the response, and how much of a rendered page was sent.
    remaining: Remaining,
    /// When it last got on.
    last_progress: Instant,
    /// How long its peer may be behind the least rate. Each byte adds the time that it takes at that rate, up to
    /// [`MAX_BEHIND`]; a new request or response does not.
    patience: Patience,
    /// The timer of its deadline has fired since it was last attended to.
    timer_expired: bool,
    /// The list that it is in, and since when.
    pub list: Option<(usize, Instant)>,
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
        Patience::Left(MAX_BEHIND)
    }
}

#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
enum Remaining {
    #[default]
    Nothing,
    Bytes(&'static [u8]),
    Page(Duration, u32),
}

impl Connection {
    /// It was just accepted.
    pub fn accept(&mut self, now: Instant) {
        *self = Connection { state: State::Open, last_progress: now, ready: self.ready, ..Connection::default() };
    }

    /// It is no more.
    pub fn reset(&mut self) {
        *self = Connection { ready: self.ready, ..Connection::default() };
    }

    /// There is something new of it. Answers whether that was not known.
    pub fn set_ready(&mut self) -> bool {
        !core::mem::replace(&mut self.ready, true)
    }

    /// It was attended to.
    pub fn clear_ready(&mut self) {
        self.ready = false;
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
        (matches!(self.state, State::Open) && !self.is_busy()).then_some(self.last_progress)
    }

    /// Returns the list of those that it is to be among, if it may be ended for others that wait to connect
    /// without the loss of a transfer, and since when.
    #[inline]
    pub fn reclaimable(&self) -> Option<(usize, Instant)> {
        let refused = matches!(self.state, State::Lingering) && self.is_sent();
        let asking = !refused && (!self.served || self.available > 0);
        let since = self.idle_since().or(refused.then_some(self.last_progress))?;
        Some((if asking { REQUESTING } else { IDLE }, since))
    }

    /// Returns `true` while a body is received or a response sent.
    fn is_busy(&self) -> bool {
        !self.is_response_done() || self.body_left > 0
    }

    /// Takes note that the peer sent or took `bytes`, while others wait to connect (`pressed`) or not.
    pub fn on_progress(&mut self, bytes: u32, pressed: bool, now: Instant) {
        let gained = u64::from(bytes) * if pressed { NS_PER_BYTE_PRESSED } else { NS_PER_BYTE };
        self.patience = match self.patience {
            Patience::Left(left) => Patience::Left((left + gained).min(MAX_BEHIND)),
            Patience::Until(end) => Patience::Until(after(end, gained).min(after(now, MAX_BEHIND))),
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
            Patience::Left(left) => after(self.last_progress, left),
            Patience::Until(end) => end,
        }
    }

    /// Returns from when on the transfer that it is busy with, if any, may be ended for others that wait to connect.
    pub fn spared_until(&self) -> Option<Instant> {
        let busy = matches!(self.state, State::Open | State::Lingering) && self.is_busy();
        busy.then(|| Instant(self.patience_ends().0.saturating_sub(MAX_BEHIND - SPARED_BEHIND)))
    }

    /// Ends it for others that wait to connect.
    pub fn end_for_others(&mut self) {
        // A closed connection keeps its place until its peer has answered; a peer that was refused may not.
        self.end(if matches!(self.state, State::Open) && !self.is_busy() { Ending::Close } else { Ending::Abort });
    }

    /// Whether there is nothing of a response that is ours to see to.
    fn is_response_done(&self) -> bool {
        self.remaining == Remaining::Nothing && (self.quiet || self.is_sent())
    }

    /// Whether tcpip has taken all that it was given.
    fn is_sent(&self) -> bool {
        self.unsent == 0 && self.constant == 0
    }

    /// Takes note of `length` bytes that came.
    ///
    /// # Errors
    /// More than the ring holds.
    pub fn on_received(&mut self, length: u32, ring: Ring, now: Instant) -> Result<(), Violation> {
        let standing = u64::from(self.available) + u64::from(self.unreported_consumed) + u64::from(length);
        if standing > ring.size as u64 {
            return Err(Violation);
        }
        if self.body_left > 0 {
            self.last_progress = now;
        } else if self.available == 0 && self.idle_since().is_some() {
            // A request has its time from its first byte, however slowly the others come.
            self.last_progress = now;
        }
        self.available += length;
        Ok(())
    }

    /// Takes note that tcpip took `length` bytes of the ring, and `constant` of the archive.
    ///
    /// # Errors
    /// More than there were.
    pub fn on_sent(&mut self, length: u32, constant: u32, now: Instant) -> Result<(), Violation> {
        let announced = if self.constant_start.is_some() { 0 } else { self.constant };
        if length > self.unsent.saturating_sub(self.unannounced) || constant > announced {
            return Err(Violation);
        }
        self.unsent -= length;
        self.constant -= constant;
        // What was done quietly was done long before we hear of it.
        if !core::mem::take(&mut self.quiet) {
            self.last_progress = now;
        }
        Ok(())
    }

    /// The peer sends no more.
    pub fn on_peer_closed(&mut self) {
        self.peer_closed = true;
    }

    /// tcpip says that the connection is over.
    pub fn on_closed(&mut self) {
        self.closed = true;
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
            State::Lingering if self.is_sent() => self.last_progress + LINGER_TIME,
            _ if self.is_busy() => self.patience_ends(),
            _ if self.available > 0 || !self.served => self.last_progress + REQUEST_TIME,
            _ => self.last_progress + IDLE_TIME,
        })
    }

    /// Its timer has fired.
    pub fn on_timer(&mut self) {
        self.timer_expired = true;
    }

    /// Returns `true` once after its timer has fired, if its deadline has not moved since.
    pub fn is_expired(&mut self, now: Instant) -> bool {
        core::mem::take(&mut self.timer_expired) && self.is_late(now)
    }

    #[cold]
    fn is_late(&self, now: Instant) -> bool {
        self.deadline().is_some_and(|deadline| deadline <= now)
    }

    /// Tells tcpip what it has not been told, by `push`, which answers whether there was room. Answers whether all was told.
    pub fn send_requests(&mut self, index: u16, mut push: impl FnMut(SocketRequest) -> bool) -> bool {
        let connection = ConnectionId(index);
        if (self.unannounced > 0 || self.constant_start.is_some()) && !self.closed {
            let constant = self.constant_start.map(|offset| Constant { offset, length: self.constant });
            let idle = matches!(self.state, State::Open) && self.remaining == Remaining::Nothing && self.available == 0;
            let quiet = idle && !self.close_after && self.body_left == 0 && !self.peer_closed && !self.watched;
            let (consumed, length) = (self.unreported_consumed, self.unannounced);
            if push(SocketRequest::Send { connection, consumed, length, constant, quiet }) {
                (self.unreported_consumed, self.unannounced, self.constant_start, self.quiet) = (0, 0, None, quiet);
            }
        }
        if self.unreported_consumed > 0
            && !self.closed
            && push(SocketRequest::Consumed { connection, length: self.unreported_consumed })
        {
            self.unreported_consumed = 0;
        }
        let behind = (self.unannounced > 0 || self.constant_start.is_some()) && !self.closed;
        let ask = match self.state {
            State::Ending(Ending::Close) if !behind => SocketRequest::Close { connection },
            State::Ending(Ending::Abort) => SocketRequest::Abort { connection },
            State::Ending(_) => return false,
            _ => {
                self.free();
                return !behind && (self.unreported_consumed == 0 || self.closed);
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
        if matches!(self.state, State::Ended) && self.closed {
            self.reset();
        }
    }
}
