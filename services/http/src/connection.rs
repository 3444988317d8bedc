//! One connection: what came and what goes, and how long it may take.
//!
//! The in ring is the request's buffer: it is consumed when a request is whole, so a peer holds no memory but
//! its own ring, and a request that fills it is too large.

use core::time::Duration;

use cloister_interfaces::socket::{Connection as Index, Constant, Layout, Request as Ask, Ring};
use cloister_interfaces::{Instant, Memory};

use crate::memo::Memo;
use crate::page;
use crate::request;
use crate::response::{Answer, CONTINUE, Content, Context, Head, LARGEST_HEAD, Response, Sink, refuse, respond, sunk};

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

    /// Its patience has ended.
    pub fn expire<M: Memory>(&mut self, index: usize, world: &mut World<'_, M>) {
        match self.state {
            State::Open if self.idle_since().is_some() && self.available > 0 => {
                let response = refuse(408, world.context.date, world.head);
                if !self.begin(index, world.head.as_bytes(), response, world) {
                    self.abort();
                }
            }
            State::Open if self.is_quiet() => self.close(),
            State::Lingering if self.is_sent() => self.close(),
            _ => self.abort(),
        }
    }

    /// Goes on as far as the rings allow. Answers whether there is more to do at once.
    pub fn pump<M: Memory>(&mut self, index: usize, world: &mut World<'_, M>) -> bool {
        for _ in 0..REQUESTS {
            if matches!(self.state, State::Lingering) {
                self.throw_away(u64::MAX);
                if self.peer_closed {
                    self.close();
                }
            }
            if !matches!(self.state, State::Open) {
                return false;
            }
            self.send_content(index, world);
            let more = if self.close { self.watched && !self.is_sent() } else { self.constant > 0 };
            if self.content != Rest::Nothing || more {
                return false;
            }
            if self.close {
                self.finish(world.now);
                continue;
            }
            self.discard -= self.throw_away(self.discard);
            let got_on = match self.sink {
                _ if self.discard > 0 => false,
                Some(sink) => self.answer_sink(index, sink, world),
                None => self.serve(index, world),
            };
            if !got_on {
                if self.peer_closed && matches!(self.state, State::Open) && self.is_sent() {
                    self.close();
                }
                return false;
            }
        }
        true
    }

    /// The last response is written.
    fn finish(&mut self, now: Instant) {
        self.since = now;
        if self.linger && !self.peer_closed {
            self.state = State::Lingering;
        } else {
            self.close();
        }
    }

    fn throw_away(&mut self, most: u64) -> u64 {
        let count = u64::from(self.available).min(most) as u32;
        self.available -= count;
        self.consumed += count;
        self.read = self.read.wrapping_add(count);
        u64::from(count)
    }

    /// Answers the request whose body has come. Answers whether there was room.
    fn answer_sink<M: Memory>(&mut self, index: usize, sink: Sink, world: &mut World<'_, M>) -> bool {
        let response = sunk(sink, world.context.date, world.head);
        let begun = self.begin(index, world.head.as_bytes(), response, world);
        if begun {
            self.sink = None;
        }
        begun
    }

    /// Answers the next request, if it is whole and there is room. Answers whether it did.
    fn serve<M: Memory>(&mut self, index: usize, world: &mut World<'_, M>) -> bool {
        if self.available == 0 {
            return false;
        }
        let count = self.copy_in(index, world);
        let scratch = core::mem::take(&mut world.scratch);
        let bytes = scratch.get(..count).unwrap_or_default();
        if let Some((head, response)) = world.memo.find(bytes, world.second) {
            let begun = self.begin(index, head, response, world);
            if begun {
                self.throw_away(count as u64);
            }
            world.scratch = scratch;
            return begun;
        }
        let now = |response, length| Some((Answer::Now(response), length));
        let answer = match request::parse(bytes) {
            Ok(Some((request, length))) => Some((respond(&request, &world.context, world.head), length as u64)),
            Ok(None) if count == scratch.len() => {
                let line_ended = bytes.contains(&b'\n');
                let status = if line_ended { 431 } else { 414 };
                now(refuse(status, world.context.date, world.head), 0)
            }
            Ok(None) => None,
            Err(status) => now(refuse(status, world.context.date, world.head), 0),
        };
        if let Some((Answer::Now(response), length)) = answer
            && length == count as u64
        {
            world.memo.keep(bytes, world.second, world.head, response);
        }
        world.scratch = scratch;
        let (begun, length) = match answer {
            None => return false,
            Some((Answer::Now(response), length)) => {
                (self.begin(index, world.head.as_bytes(), response, world), length)
            }
            Some((Answer::Sink(sink), length)) => (self.begin_sink(index, sink, world), length),
        };
        if begun {
            self.throw_away(length);
        }
        begun
    }

    /// Begins to take in a request's body. Answers whether there was room to ask for it.
    fn begin_sink<M: Memory>(&mut self, index: usize, sink: Sink, world: &World<'_, M>) -> bool {
        if sink.expects {
            if self.room(world.layout, index) < CONTINUE.len() {
                return false;
            }
            self.put(index, CONTINUE, world);
        }
        self.discard = sink.length;
        self.sink = Some(sink);
        self.since = world.now;
        true
    }

    /// Copies what stands in the in ring to the scratch buffer; answers how much.
    fn copy_in<M: Memory>(&self, index: usize, world: &mut World<'_, M>) -> usize {
        let ring = world.layout.ring_in(Index(index as u16));
        let count = (self.available as usize).min(world.scratch.len());
        let (offset, before) = ring.span(self.read, count);
        let (first, second) = world.scratch.split_at_mut(before);
        world.stream_in.read(offset, first);
        world.stream_in.read(ring.base, second.get_mut(..count - before).unwrap_or_default());
        count
    }

    /// Begins a response with this head. Answers whether there was room for it.
    fn begin<M: Memory>(&mut self, index: usize, head: &[u8], response: Response, world: &World<'_, M>) -> bool {
        if self.room(world.layout, index) < head.len() {
            return false;
        }
        self.put(index, head, world);
        self.content = match response.content {
            Content::Nothing => Rest::Nothing,
            Content::Bytes(bytes) => Rest::Bytes(bytes),
            Content::Page(uptime) => Rest::Page(uptime, 0),
        };
        self.watched = matches!(response.content, Content::Bytes(bytes) if bytes.len() > SMALL);
        (self.close, self.linger) = (response.close, response.linger);
        self.discard = response.discard;
        self.served = true;
        self.since = world.now;
        true
    }

    fn room(&self, layout: Layout, index: usize) -> usize {
        layout.ring_out(Index(index as u16)).size.saturating_sub(self.unsent as usize)
    }

    /// Puts as much of `bytes` into the out ring as it has room for; answers how much. Nothing goes before what tcpip sends
    /// of the archive.
    fn put<M: Memory>(&mut self, index: usize, bytes: &[u8], world: &World<'_, M>) -> usize {
        let ring = world.layout.ring_out(Index(index as u16));
        let bytes = bytes.get(..self.room(world.layout, index)).unwrap_or(bytes);
        let (offset, before) = ring.span(self.write, bytes.len());
        let (first, second) = bytes.split_at_checked(before).unwrap_or((bytes, &[]));
        world.stream_out.write(offset, first);
        world.stream_out.write(ring.base, second);
        let count = bytes.len() as u32;
        self.write = self.write.wrapping_add(count);
        self.unsent += count;
        self.written += count;
        self.quiet = false;
        bytes.len()
    }

    /// Has tcpip send of the archive, if it can: as much of `bytes` as one message says. Answers how much.
    fn refer(&mut self, bytes: &[u8], constant: &[u8]) -> usize {
        let offset = bytes.as_ptr().addr().wrapping_sub(constant.as_ptr().addr());
        let (Some(rest), Ok(start)) = (constant.len().checked_sub(offset), u32::try_from(offset)) else { return 0 };
        if bytes.is_empty() || bytes.len() > rest {
            return 0;
        }
        self.constant = u32::try_from(bytes.len()).unwrap_or(u32::MAX);
        self.announce = Some(start);
        self.quiet = false;
        self.constant as usize
    }

    fn send_content<M: Memory>(&mut self, index: usize, world: &World<'_, M>) {
        match self.content {
            Rest::Nothing => {}
            Rest::Bytes(_) if self.constant > 0 => {}
            Rest::Bytes(bytes) => {
                let referred = self.refer(bytes, world.constant);
                let count = if referred > 0 { referred } else { self.put(index, bytes, world) };
                let rest = bytes.get(count..).unwrap_or_default();
                self.content = if rest.is_empty() { Rest::Nothing } else { Rest::Bytes(rest) };
            }
            Rest::Page(uptime, at) => {
                let page = page::render(&world.context.policy, uptime);
                let rest = page.as_bytes().get(at as usize..).unwrap_or_default();
                let count = self.put(index, rest, world);
                let at = at + count as u32;
                self.content = if count == rest.len() { Rest::Nothing } else { Rest::Page(uptime, at) };
            }
        }
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
