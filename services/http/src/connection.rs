//! One connection: its state, its positions in the two rings, and its deadlines.
//!
//! The in ring is also the buffer of a request: bytes are consumed only once a request is complete.
//! So a peer takes no memory except its own ring, and a request that fills the ring is too large.

mod serve;

use core::fmt;
use core::time::Duration;

use cloister_interfaces::socket::{
    BYTE_TIME, BYTE_TIME_PRESSED, ConnectionId, Constant, Layout, Request as SocketRequest, Ring, SourceId,
};
use cloister_interfaces::{Instant, Malformed};

use crate::cache::ResponseCache;
use crate::head::{Head, MAX_HEAD};
use crate::page;
use crate::response::{AfterResponse, Context, Sink};
use crate::tally::Standing;

/// The time that a new connection may take to send its first request, and any connection to
/// complete one.
const REQUEST_TIME: Duration = Duration::from_secs(10);
/// The time for which a connection may be idle between requests.
const IDLE_TIME: Duration = Duration::from_secs(15);
/// The time that a peer may be behind the least rate, in ns. It is measured while a request's body
/// is due, or a response is not taken.
const MAX_BEHIND: u64 = 30_000_000_000;
/// The time that a peer may be behind the least rate while others wait to connect, in ns. tcpip
/// reports what it sends of the archive once a second.
const MAX_BEHIND_PRESSED: u64 = 2_000_000_000;
/// The time that a byte takes at the least rate, in ns.
const NS_PER_BYTE: u64 = BYTE_TIME.as_nanos() as u64;
/// The same while others wait to connect, in ns.
const NS_PER_BYTE_PRESSED: u64 = BYTE_TIME_PRESSED.as_nanos() as u64;
/// The largest response whose end tcpip need not report. A larger one is watched, because its peer
/// may be slow.
const MAX_UNWATCHED: usize = 256 * 1024;
/// The time for which received bytes are discarded, so that the peer can read why it was refused.
const DISCARD_TIME: Duration = Duration::from_secs(3);
/// The largest number of requests answered on one connection in a pass.
const MAX_REQUESTS: u32 = 16;

const _: () = assert!(MAX_HEAD <= 4096 && page::MAX_LENGTH <= 4096, "the smallest out ring holds them");

/// The list of connections that were answered and have sent no new request.
pub const IDLE: usize = 0;
/// The list of connections whose first or present request is not complete.
pub const REQUESTING: usize = 1;

/// The state of a connection.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
enum State {
    /// Its index is not in use.
    #[default]
    Free,
    /// It serves requests.
    Open,
    /// The last response was written. Received bytes are discarded.
    Discarding,
    /// tcpip must still be asked to end it. The request may wait for room in the queue.
    Ending(Ending),
    /// tcpip was sent the request to end it, or the peer's end was acknowledged.
    Ended,
}

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Ending {
    Close,
    Abort,
}

/// The part of a connection that tcpip has reported as closed. The parts are in the order in which
/// they close.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug, Default)]
enum Closed {
    /// Nothing.
    #[default]
    Nothing,
    /// The peer's stream: no more bytes come.
    Peer,
    /// All of it.
    Both,
}

/// The reports of tcpip about the bytes of a response that it takes.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
enum Reports {
    /// It reports them, until it is told that it need not.
    #[default]
    Usual,
    /// It must report them, because the response is large and its peer may be slow.
    Watched,
    /// It was told that it need not report them: only the peer is waited for.
    Quiet,
}

/// A violation of the protocol by tcpip.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Violation {
    /// A message does not decode.
    Malformed(Malformed),
    /// A connection is accepted under an index that is in use, or out of range.
    Accepted,
    /// A message is about an unknown connection.
    Connection,
    /// More bytes are received than the ring holds.
    Received,
    /// More bytes are taken than there were.
    Sent,
}

impl fmt::Display for Violation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Violation::Malformed(malformed) => return malformed.fmt(f),
            Violation::Accepted => "a new connection whose index is not free",
            Violation::Connection => "an unknown connection",
            Violation::Received => "more bytes received than the ring holds",
            Violation::Sent => "more bytes taken than there were to send",
        })
    }
}

/// What a connection needs for serving, and shares with all others.
pub struct Workspace<'a, M> {
    /// The layout of the rings.
    pub layout: Layout,
    /// The memory of the in rings.
    pub stream_in: &'a M,
    /// The memory of the out rings.
    pub stream_out: &'a M,
    /// The buffer into which a request is copied before it is parsed.
    pub scratch: &'a mut [u8],
    /// The buffer for the head of a response.
    pub head: &'a mut Head,
    /// Earlier responses.
    pub cache: &'a mut ResponseCache,
    /// The second of the date, since 1970, if it is known.
    pub second: Option<u64>,
    /// The time.
    pub now: Instant,
    /// The context of responses, besides the request.
    pub context: Context<'a>,
    /// The archive, if tcpip can send from it by itself. Otherwise empty.
    pub constant: &'static [u8],
}

/// A connection.
#[derive(Default)]
pub struct Connection {
    state: State,
    /// It is in the list of ready connections.
    ready: bool,
    /// The part of it that tcpip has reported as closed.
    closed: Closed,
    /// What happens to it after the present response.
    after_response: AfterResponse,
    /// It has answered a request.
    served: bool,
    /// The number of its peer's address.
    source: SourceId,
    /// The position of the next byte to read in the in ring.
    in_position: u32,
    /// The number of received bytes from there on.
    available: u32,
    /// The number of consumed bytes that tcpip was not told of.
    unreported_consumed: u32,
    /// The position of the next byte to write in the out ring.
    out_position: u32,
    /// The number of bytes before it that tcpip has not taken.
    unsent: u32,
    /// The number of those that tcpip was not told of.
    unannounced: u32,
    /// The number of bytes of the archive that tcpip has to send after those in the ring, and has
    /// not taken.
    constant: u32,
    /// Where those bytes of the archive start, until tcpip was told.
    constant_start: Option<u32>,
    /// What tcpip reports of the response.
    reports: Reports,
    /// The number of bytes of a request's body that must still be discarded.
    body_left: u64,
    /// The request with that body, if it is answered after the body.
    sink: Option<Sink>,
    /// The rest of the response.
    remaining: Remaining,
    /// The time at which it last made progress.
    last_progress: Instant,
    /// The time that its peer may still be behind the least rate. Each byte adds the time that it
    /// takes at that rate, up to [`MAX_BEHIND`]. A new request or response adds nothing.
    allowance: SlowAllowance,
    /// Its timer has expired since it was last served.
    timer_expired: bool,
    /// The list that it is in, and since when.
    pub list: Option<(usize, Instant)>,
}

/// The time that a peer may still be slow.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum SlowAllowance {
    /// Nothing is due from the peer, so the time stands still. This much is left, in ns.
    Stopped(u64),
    /// Something is due, and the time runs. The connection is ended at this time.
    Running(Instant),
}

/// Returns the time `nanoseconds` after `start`.
fn after(start: Instant, nanoseconds: u64) -> Instant {
    Instant(start.0.saturating_add(nanoseconds))
}

impl Default for SlowAllowance {
    fn default() -> Self {
        SlowAllowance::Stopped(MAX_BEHIND)
    }
}

/// The rest of a response.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
enum Remaining {
    #[default]
    Nothing,
    /// Bytes of the archive.
    Bytes(&'static [u8]),
    /// The built-in page with this uptime, from this byte on.
    Page(Duration, u32),
}

impl Connection {
    /// Starts a connection that was just accepted.
    pub fn accept(&mut self, source: SourceId, now: Instant) {
        let ready = self.ready;
        *self = Connection { state: State::Open, source, last_progress: now, ready, ..Connection::default() };
    }

    /// Forgets the connection. Its index is free.
    pub fn forget(&mut self) {
        *self = Connection { ready: self.ready, ..Connection::default() };
    }

    /// Marks the connection as ready. Returns `true` if it was not.
    pub fn set_ready(&mut self) -> bool {
        !core::mem::replace(&mut self.ready, true)
    }

    /// Marks the connection as not ready, after it was served.
    pub fn clear_ready(&mut self) {
        self.ready = false;
    }

    /// Returns `true` if the index is in use.
    pub fn in_use(&self) -> bool {
        !matches!(self.state, State::Free)
    }

    /// Returns what it counts as.
    #[inline]
    pub fn standing(&self) -> Standing {
        match self.state {
            State::Free => Standing::Free,
            State::Open | State::Discarding => Standing::Held(self.source),
            State::Ending(_) | State::Ended => Standing::Ending,
        }
    }

    /// Returns since when it has only waited for a request.
    fn idle_since(&self) -> Option<Instant> {
        (matches!(self.state, State::Open) && !self.is_busy()).then_some(self.last_progress)
    }

    /// Returns the list that it belongs to, and since when. `None` if others that wait to connect
    /// may not get its place, because a transfer would be lost.
    #[inline]
    pub fn reclaimable(&self) -> Option<(usize, Instant)> {
        let refused = matches!(self.state, State::Discarding) && self.is_sent();
        let asking = !refused && (!self.served || self.available > 0);
        let since = self.idle_since().or(refused.then_some(self.last_progress))?;
        Some((if asking { REQUESTING } else { IDLE }, since))
    }

    /// Returns `true` while a request's body is received or a response is sent.
    fn is_busy(&self) -> bool {
        !self.is_response_done() || self.body_left > 0
    }

    /// Records that the peer sent or took `bytes`. `pressed` is `true` while others wait to
    /// connect.
    pub fn on_progress(&mut self, bytes: u32, pressed: bool, now: Instant) {
        let gained = u64::from(bytes) * if pressed { NS_PER_BYTE_PRESSED } else { NS_PER_BYTE };
        self.allowance = match self.allowance {
            SlowAllowance::Stopped(left) => SlowAllowance::Stopped((left + gained).min(MAX_BEHIND)),
            SlowAllowance::Running(end) => SlowAllowance::Running(after(end, gained).min(after(now, MAX_BEHIND))),
        };
    }

    /// Lets the peer's time run while something is due from it, and stops it otherwise.
    pub fn update_allowance(&mut self, now: Instant) {
        match self.allowance {
            SlowAllowance::Stopped(left) if self.is_busy() => self.allowance = SlowAllowance::Running(after(now, left)),
            SlowAllowance::Running(end) if !self.is_busy() => {
                self.allowance = SlowAllowance::Stopped(end.0.saturating_sub(now.0))
            }
            SlowAllowance::Stopped(_) | SlowAllowance::Running(_) => {}
        }
    }

    /// Returns when the peer has been behind for too long.
    fn allowance_ends(&self) -> Instant {
        match self.allowance {
            SlowAllowance::Stopped(left) => after(self.last_progress, left),
            SlowAllowance::Running(end) => end,
        }
    }

    /// Returns when the present transfer may be ended for others that wait to connect.
    pub fn reclaimable_at(&self) -> Option<Instant> {
        let busy = matches!(self.state, State::Open | State::Discarding) && self.is_busy();
        busy.then(|| Instant(self.allowance_ends().0.saturating_sub(MAX_BEHIND - MAX_BEHIND_PRESSED)))
    }

    /// Ends the connection for others that wait to connect.
    pub fn end_for_others(&mut self) {
        // A closed connection keeps its place until the peer answers, which a peer that was refused
        // may never do.
        self.end(if matches!(self.state, State::Open) && !self.is_busy() { Ending::Close } else { Ending::Abort });
    }

    /// Returns `true` if nothing of a response is left for us to do.
    fn is_response_done(&self) -> bool {
        self.remaining == Remaining::Nothing && (self.reports == Reports::Quiet || self.is_sent())
    }

    /// Returns `true` if tcpip has taken everything that it was given.
    fn is_sent(&self) -> bool {
        self.unsent == 0 && self.constant == 0
    }

    /// Records `length` received bytes.
    ///
    /// # Errors
    /// They are more than the ring holds.
    pub fn on_received(&mut self, length: u32, ring: Ring, now: Instant) -> Result<(), Violation> {
        let standing = u64::from(self.available) + u64::from(self.unreported_consumed) + u64::from(length);
        if standing > ring.size as u64 {
            return Err(Violation::Received);
        }
        if self.body_left > 0 {
            self.last_progress = now;
        } else if self.available == 0 && self.idle_since().is_some() {
            // A request's time starts at its first byte, however slowly the others come.
            self.last_progress = now;
        }
        self.available += length;
        Ok(())
    }

    /// Records that tcpip took `length` bytes of the ring, and `constant` bytes of the archive.
    ///
    /// # Errors
    /// They are more than there were.
    pub fn on_sent(&mut self, length: u32, constant: u32, now: Instant) -> Result<(), Violation> {
        let announced = if self.constant_start.is_some() { 0 } else { self.constant };
        if length > self.unsent.saturating_sub(self.unannounced) || constant > announced {
            return Err(Violation::Sent);
        }
        self.unsent -= length;
        self.constant -= constant;
        // Bytes of a quiet send were taken earlier.
        if !self.end_quiet() {
            self.last_progress = now;
        }
        Ok(())
    }

    /// Lets tcpip report what it takes. Returns `true` if it need not until now.
    #[inline]
    fn end_quiet(&mut self) -> bool {
        let quiet = self.reports == Reports::Quiet;
        if quiet {
            self.reports = Reports::Usual;
        }
        quiet
    }

    /// Records that the peer sends no more bytes.
    pub fn on_peer_closed(&mut self) {
        self.closed = self.closed.max(Closed::Peer);
    }

    /// Records that tcpip has ended the connection.
    pub fn on_closed(&mut self) {
        self.closed = Closed::Both;
        if !matches!(self.state, State::Ending(_) | State::Ended) {
            self.end(Ending::Close);
        }
        // If we had requested it, the index is free at once. The next message may be about a new
        // connection with it.
        self.forget_if_ended();
    }

    /// Closes the connection once everything written is sent.
    pub fn close(&mut self) {
        self.end(Ending::Close);
    }

    /// Aborts the connection.
    pub fn abort(&mut self) {
        self.end(Ending::Abort);
    }

    fn end(&mut self, ending: Ending) {
        if !matches!(self.state, State::Free | State::Ended) {
            self.state = State::Ending(ending);
        }
    }

    /// Returns the time at which the connection is ended.
    #[inline(always)] // Shares half of its work with `reclaimable`.
    pub fn deadline(&self) -> Option<Instant> {
        Some(match self.state {
            State::Free | State::Ending(_) | State::Ended => return None,
            State::Discarding if self.is_sent() => self.last_progress + DISCARD_TIME,
            _ if self.is_busy() => self.allowance_ends(),
            _ if self.available > 0 || !self.served => self.last_progress + REQUEST_TIME,
            _ => self.last_progress + IDLE_TIME,
        })
    }

    /// Records that its timer has expired.
    pub fn on_timer(&mut self) {
        self.timer_expired = true;
    }

    /// Returns `true` once after its timer has expired, if the deadline has not moved since.
    pub fn is_expired(&mut self, now: Instant) -> bool {
        core::mem::take(&mut self.timer_expired) && self.is_late(now)
    }

    #[cold]
    fn is_late(&self, now: Instant) -> bool {
        self.deadline().is_some_and(|deadline| deadline <= now)
    }

    /// Sends tcpip everything new with `push`, which returns `false` if the queue has no room.
    /// Returns `true` if all was sent.
    pub fn send_requests(&mut self, index: u16, mut push: impl FnMut(SocketRequest) -> bool) -> bool {
        let connection = ConnectionId(index);
        let open = self.closed != Closed::Both;
        if (self.unannounced > 0 || self.constant_start.is_some()) && open {
            let constant = self.constant_start.map(|offset| Constant { offset, length: self.constant });
            let idle = matches!(self.state, State::Open) && self.remaining == Remaining::Nothing && self.available == 0;
            let quiet = idle
                && !self.after_response.ends()
                && self.body_left == 0
                && self.closed == Closed::Nothing
                && self.reports != Reports::Watched;
            let (consumed, length) = (self.unreported_consumed, self.unannounced);
            if push(SocketRequest::Send { connection, consumed, length, constant, quiet }) {
                (self.unreported_consumed, self.unannounced, self.constant_start) = (0, 0, None);
                if quiet {
                    self.reports = Reports::Quiet;
                }
            }
        }
        if self.unreported_consumed > 0
            && open
            && push(SocketRequest::Consumed { connection, length: self.unreported_consumed })
        {
            self.unreported_consumed = 0;
        }
        let behind = (self.unannounced > 0 || self.constant_start.is_some()) && open;
        let ask = match self.state {
            State::Ending(Ending::Close) if !behind => SocketRequest::Close { connection },
            State::Ending(Ending::Abort) => SocketRequest::Abort { connection },
            State::Ending(_) => return false,
            _ => {
                self.forget_if_ended();
                return !behind && (self.unreported_consumed == 0 || !open);
            }
        };
        let sent = push(ask);
        if sent {
            self.state = State::Ended;
        }
        self.forget_if_ended();
        sent
    }

    fn forget_if_ended(&mut self) {
        if matches!(self.state, State::Ended) && self.closed == Closed::Both {
            self.forget();
        }
    }
}
