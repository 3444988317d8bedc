//! The service: the table of connections, and what tcpip says about them.

use alloc::boxed::Box;
use alloc::vec::Vec;
use core::time::Duration;

use cloister_caps::abi::info;
use cloister_interfaces::capability::{Clock, Console};
use cloister_interfaces::lists::Lists;
use cloister_interfaces::socket::{Connection as Index, Layout, Reply, Request, Socket};
use cloister_interfaces::timers::Timers;
use cloister_interfaces::{Client, Instant, Memory, Notifications, Service, System};

use crate::cache::Memo;
use crate::capabilities::Caps;
use crate::connection::{ASKING, Breach, Connection, IDLE, World};
use crate::date::Stamp;
use crate::head::Head;
use crate::response::Context;
use crate::site::Site;

/// The port that is served.
const PORT: u16 = 80;
/// Connections that should be free when others wait to connect.
const SPARE: usize = 8;
/// How long a connection may be idle although others wait to connect.
const GRACE: Duration = Duration::from_millis(50);
/// How long it may take to ask, or to ask to the end, although others wait; only [`GRACE`] while fewer than
/// half of [`SPARE`] are free.
const ASK: Duration = Duration::from_secs(3);
/// How long after a transfer was looked for that may be ended for others the next one is.
const PAUSE: Duration = Duration::from_millis(25);
/// How often the clock is asked for the date.
const SECOND: Duration = Duration::from_secs(1);
/// Messages taken in a pass.
const MESSAGES: u32 = 256;

/// The service's state.
pub struct Http<S, M> {
    console: Console<S>,
    clock: Clock<S>,
    socket: Client<Socket, S, M>,
    stream_in: M,
    stream_out: M,
    layout: Layout,
    site: Site,
    policy: [u8; 32],
    boot: Instant,
    site_bytes: &'static [u8],
    /// tcpip sends from the archive by itself.
    referring: bool,
    /// Peers may send to `/sink`.
    sink: bool,
    /// Those whose index was in use once; there is room for `most` of them.
    connections: Vec<Connection>,
    most: usize,
    /// Connections of which there is something new.
    news: Vec<u16>,
    /// Connections that are idle or have not asked to the end, the longest first.
    dispensable: Lists<2>,
    timers: Timers,
    /// Connections that are about to be free.
    ending: usize,
    scratch: Vec<u8>,
    head: Box<Head>,
    memo: Memo,
    /// Idle connections that are to end because others wait to connect.
    owed: usize,
    /// Connections that are to end for them even if they are not idle, and from when on the next may.
    needed: usize,
    pause: Instant,
    /// The date; none once the clock has refused to tell it, since every refusal is logged. And when to ask next.
    date: Option<Stamp>,
    date_due: Instant,
    /// A `Listen` is due.
    listen: bool,
    /// tcpip was found to say what cannot be, and this was logged.
    refused: bool,
    deadline: Option<Instant>,
}

impl<S: System, M: Memory> Http<S, M> {
    /// The service over its capabilities; `sink` says that it takes what is sent to `/sink`.
    pub fn new(caps: Caps<S, M>, sink: bool) -> Self {
        let layout = Layout::of(caps.stream_in.len(), caps.stream_out.len());
        let mut connections = Vec::new();
        let mut scratch = Vec::new();
        let mut news = Vec::new();
        let (dispensable, timers) = (Lists::new(layout.connections), Timers::new(layout.connections));
        let room = connections.try_reserve_exact(layout.connections).is_ok()
            && news.try_reserve_exact(layout.connections).is_ok()
            && scratch.try_reserve_exact(Layout::SMALL_IN).is_ok()
            && dispensable.is_some()
            && timers.is_some();
        if room {
            scratch.resize(Layout::SMALL_IN, 0);
        } else {
            caps.console.line(format_args!("the heap is too small for {} connections", layout.connections));
        }
        let (head, memo) = (Box::new(Head::new()), Memo::new());
        // Last, for its index takes what room there is and does without if that is too little.
        let (site, strange) = Site::new(caps.site);
        if strange {
            caps.console.line(format_args!("the module is neither a cpio nor a tar archive"));
        }
        match &site {
            Site::BuiltIn => caps.console.line(format_args!("no site: serving the built-in page")),
            Site::Archive(archive) => {
                let state = if archive.whole { "" } else { "; the archive is cut off or damaged after them" };
                caps.console.line(format_args!("serving {} files{state}", archive.files));
            }
        }
        let boot = caps.info.read(info::BOOT).map_or(Instant::START, |[boot, _]| Instant(boot));
        Http {
            policy: caps.info.policy_hash(),
            boot,
            console: caps.console,
            clock: caps.clock,
            socket: caps.socket,
            stream_in: caps.stream_in,
            stream_out: caps.stream_out,
            layout,
            site,
            site_bytes: caps.site,
            referring: false,
            sink,
            connections,
            most: if room { layout.connections } else { 0 },
            news,
            dispensable: dispensable.unwrap_or_default(),
            timers: timers.unwrap_or_default(),
            ending: 0,
            scratch,
            head,
            memo,
            owed: 0,
            needed: 0,
            pause: Instant::START,
            date: Some(Stamp::new(0)),
            date_due: Instant::START,
            listen: room,
            refused: false,
            deadline: Some(Instant::START),
        }
    }

    fn hear(&mut self, reply: Reply, now: Instant) {
        let pressed = self.needed > 0;
        match reply {
            Reply::Network { address: [0, 0, 0, 0], constant } => {
                // tcpip has forgotten every connection, and so do we.
                (self.owed, self.needed) = (0, 0);
                for index in 0..self.connections.len() as u16 {
                    if self.connections.get(usize::from(index)).is_some_and(Connection::in_use) {
                        self.change(index, Connection::forget);
                        self.dispensable.remove(index);
                    }
                }
                self.listen = self.most > 0;
                self.referring = constant > 0 && constant == self.site_bytes.len() as u64;
            }
            Reply::Network { address: [a, b, c, d], .. } => {
                self.console.line(format_args!("listening on port {PORT}: http://{a}.{b}.{c}.{d}/"));
            }
            Reply::Pressure { free } => {
                self.needed = SPARE.saturating_sub(usize::from(free) + self.ending);
                self.owed = self.needed.max(1);
            }
            Reply::Accepted { connection, .. } => {
                let index = usize::from(connection.0);
                if index >= self.connections.len() && index < self.most {
                    self.connections.resize_with(index + 1, Connection::default);
                }
                let unused = self.connections.get(index).is_some_and(|place| !place.in_use());
                if unused {
                    self.change(connection.0, |place| place.accept(now));
                } else {
                    self.refuse();
                }
            }
            Reply::Received { connection, length, sent, constant } => {
                let ring = self.layout.ring_in(connection);
                self.with(connection, |connection| {
                    if sent > 0 || constant > 0 {
                        connection.sent(sent, constant, now)?;
                    }
                    connection.received(length, ring, now)?;
                    connection.got_on(length.saturating_add(sent).saturating_add(constant), pressed, now);
                    Ok(())
                });
            }
            Reply::Sent { connection, length, constant } => {
                self.with(connection, |connection| {
                    connection.sent(length, constant, now)?;
                    connection.got_on(length.saturating_add(constant), pressed, now);
                    Ok(())
                });
            }
            Reply::PeerClosed { connection } => self.with(connection, |connection| {
                connection.peer_closed();
                Ok(())
            }),
            Reply::Closed { connection } => {
                self.owed = self.owed.saturating_sub(1);
                self.needed = self.needed.saturating_sub(1);
                self.with(connection, |connection| {
                    connection.over();
                    Ok(())
                });
            }
        }
    }

    /// Changes a connection, which is then to be attended to.
    fn change<R>(&mut self, index: u16, act: impl FnOnce(&mut Connection) -> R) -> Option<R> {
        let connection = self.connections.get_mut(usize::from(index))?;
        let was = connection.is_ending();
        let result = act(connection);
        self.ending = self.ending + usize::from(connection.is_ending()) - usize::from(was);
        if connection.note() {
            self.news.push(index);
        }
        Some(result)
    }

    fn with(&mut self, Index(index): Index, act: impl FnOnce(&mut Connection) -> Result<(), Breach>) {
        let done = self.change(index, |connection| {
            if !connection.in_use() {
                return Err(Breach);
            }
            act(connection).inspect_err(|Breach| connection.abort())
        });
        if done != Some(Ok(())) {
            self.refuse();
        }
    }

    fn refuse(&mut self) {
        if !self.refused {
            self.refused = true;
            self.console.line(format_args!("refused: tcpip says what cannot be (further cases are not logged)"));
        }
    }

    /// Ends the connections that have been idle for longest, as many as are owed; one that was idle for a moment only may be
    /// about to ask, and is spared. If places are needed beyond that, ends those that have not asked for long; then the transfer
    /// that is furthest behind, one at a time: peers that come back at once would take all places of many. Returns when to look
    /// again.
    fn relieve(&mut self, now: Instant) -> Option<Instant> {
        while self.owed > 0 {
            match self.due(IDLE, GRACE) {
                Some((_, due)) if now < due => return Some(due),
                Some((index, _)) => self.end_for_others(index),
                None => break,
            }
            self.owed -= 1;
        }
        self.owed = 0;
        let mut next = None;
        while self.needed > 0 {
            let grace = if self.needed > SPARE / 2 { GRACE } else { ASK };
            match self.due(ASKING, grace) {
                Some((index, due)) if now >= due => self.end_for_others(index),
                waits => {
                    next = waits.map(|(_, due)| due);
                    break;
                }
            }
        }
        if self.needed == 0 {
            return None;
        }
        if now >= self.pause {
            let slowest = self.slowest();
            if slowest.is_none() && next.is_none() {
                self.needed = 0;
                return None;
            }
            self.pause = now + PAUSE;
            match slowest {
                Some((due, index)) if now >= due => self.end_for_others(index),
                Some((due, _)) => self.pause = self.pause.max(due),
                None => {}
            }
        }
        (self.needed > 0).then(|| next.map_or(self.pause, |next| next.min(self.pause)))
    }

    /// Returns the connection that has been in `list` for longest, and when its grace ends.
    fn due(&self, list: usize, grace: Duration) -> Option<(u16, Instant)> {
        let index = self.dispensable.front(list)?;
        // It was attended to since it last changed, so the list is right.
        let (_, since) = self.connections.get(usize::from(index))?.dispensable()?;
        Some((index, since + grace))
    }

    fn end_for_others(&mut self, index: u16) {
        self.dispensable.remove(index);
        self.change(index, Connection::yield_place);
        self.needed = self.needed.saturating_sub(1);
    }

    /// Returns the transfer that is furthest behind, and until when it is spared.
    fn slowest(&self) -> Option<(Instant, u16)> {
        let transfers = self.connections.iter().zip(0..);
        transfers.filter_map(|(connection, index)| Some((connection.spared_until()?, index))).min()
    }

    /// Asks the clock for the date, if it may have changed.
    fn look_at_the_date(&mut self, now: Instant) {
        let Some(date) = self.date.as_mut().filter(|_| now >= self.date_due) else { return };
        match self.clock.wall() {
            Some(nanoseconds) => {
                date.set(nanoseconds / 1_000_000_000);
                // At the start of the next second.
                self.date_due = now + (SECOND - Duration::from_nanos(nanoseconds % 1_000_000_000));
            }
            None => self.date = None,
        }
    }

    /// Lets the connections go on of which there is something new. Answers whether there is more to do at once.
    fn attend(&mut self, now: Instant) -> bool {
        while let Some(index) = self.timers.pop_expired(now) {
            self.change(index, Connection::timer_fired);
        }
        if self.news.is_empty() {
            return false;
        }
        self.look_at_the_date(now);
        let mut world = World {
            layout: self.layout,
            stream_in: &self.stream_in,
            stream_out: &self.stream_out,
            scratch: &mut self.scratch,
            head: &mut self.head,
            memo: &mut self.memo,
            second: self.date.as_ref().map(Stamp::seconds),
            now,
            context: Context {
                site: &self.site,
                sink: self.sink,
                policy: self.policy,
                uptime: now.since(self.boot),
                date: self.date.as_ref().map(Stamp::as_str),
            },
            constant: if self.referring { self.site_bytes } else { &[] },
        };
        let (mut more, mut kept) = (false, 0);
        for at in 0..self.news.len() {
            let Some(index) = self.news.get(at).copied() else { break };
            let Some(connection) = self.connections.get_mut(usize::from(index)) else { continue };
            let was = connection.is_ending();
            let mut again = connection.pump(usize::from(index), &mut world);
            if connection.is_expired(now) {
                connection.expire(usize::from(index), &mut world);
                again |= connection.pump(usize::from(index), &mut world);
            }
            let requests = &mut self.socket.requests;
            let told = connection.tell(index, |ask| requests.push(&ask).is_ok());
            self.ending = self.ending + usize::from(connection.is_ending()) - usize::from(was);
            connection.update_patience(now);
            let (deadline, listed) = (connection.deadline(), connection.dispensable());
            match listed {
                Some((list, _)) if listed != connection.listed => self.dispensable.move_to_back(index, list),
                Some(_) => {}
                None => self.dispensable.remove(index),
            }
            connection.listed = listed;
            match deadline {
                Some(deadline) => self.timers.set(index, deadline),
                None => self.timers.remove(index),
            }
            more |= again;
            if again || !told {
                // It stays among the news.
                if let Some(place) = self.news.get_mut(kept) {
                    *place = index;
                }
                kept += 1;
            } else {
                connection.noted();
            }
        }
        self.news.truncate(kept);
        more
    }
}

impl<S: System, M: Memory> Service for Http<S, M> {
    fn notified(&mut self, _notifications: Notifications) {
        let now = self.clock.now();
        let mut budget = MESSAGES;
        while budget > 0 {
            match self.socket.replies.pop() {
                Some(Ok(reply)) => self.hear(reply, now),
                Some(Err(_)) => self.refuse(),
                None => break,
            }
            budget -= 1;
        }
        if self.listen && self.socket.requests.push(&Request::Listen { port: PORT }).is_ok() {
            self.listen = false;
        }
        // What is idle is known when all were attended to; what is then to end has to be told.
        let mut more = self.attend(now);
        let spared = self.relieve(now);
        more |= self.attend(now);
        self.deadline = self.timers.next().into_iter().chain(spared).min();
        if more || budget == 0 {
            self.deadline = Some(now);
        }
        self.socket.requests.flush();
        self.socket.replies.release();
    }

    fn deadline(&self) -> Option<Instant> {
        self.deadline
    }
}
