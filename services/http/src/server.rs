//! The service: the table of connections, and the messages of tcpip.

use alloc::boxed::Box;
use alloc::vec::Vec;
use core::time::Duration;

use cloister_caps::abi::info;
use cloister_collections::{LazyVec, Lists, Timers};
use cloister_interfaces::capability::{Clock, Console};
use cloister_interfaces::socket::{ConnectionId, Layout, Reply, Request, Socket, SourceId};
use cloister_interfaces::{Client, Instant, Memory, Notifications, Service, System};

use crate::cache::ResponseCache;
use crate::capabilities::Caps;
use crate::connection::{Connection, IDLE, REQUESTING, Violation, Workspace};
use crate::date::Stamp;
use crate::head::Head;
use crate::response::Context;
use crate::site::{DeadLinks, Site};
use crate::tally::{Standing, Tally};

/// The port that is served.
const PORT: u16 = 80;
/// The number of connections that should be free while others wait to connect.
const FREE_TARGET: usize = 8;
/// The time for which an idle connection is kept while others wait to connect.
const IDLE_TIME_PRESSED: Duration = Duration::from_millis(50);
/// The time that a connection may take to complete a request while others wait to connect. Only
/// [`IDLE_TIME_PRESSED`] while fewer than half of [`FREE_TARGET`] are free.
const REQUEST_TIME_PRESSED: Duration = Duration::from_secs(3);
/// The shortest time between two transfers that are ended for others.
const TRANSFER_INTERVAL: Duration = Duration::from_millis(25);
/// The time between two readings of the date.
const DATE_INTERVAL: Duration = Duration::from_secs(1);
/// The number of connections of a list that are examined each time for one that is not spared.
const MAX_EXAMINED: usize = 16;
/// The shortest time between two searches of a whole list.
const SEARCH_INTERVAL: Duration = Duration::from_millis(25);
/// The largest number of messages handled in a pass.
const MAX_MESSAGES: u32 = 256;

/// When a connection of a list may be ended for others.
enum Due {
    /// This one may be ended.
    Now(u16),
    /// None before this time.
    At(Instant),
    /// None of them.
    Never,
}

/// The state of the service.
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
    /// The archive, if tcpip can send from it by itself. Otherwise empty.
    shared_archive: &'static [u8],
    /// Peers may send to `/sink`.
    sink: bool,
    connections: LazyVec<Connection>,
    /// The connections that are ready to be served.
    ready: Vec<u16>,
    /// The connections that are idle, or whose request is not complete, the oldest first.
    reclaimable: Lists,
    timers: Timers,
    /// The numbers of connections that end, and that each address holds.
    tally: Tally,
    scratch: Vec<u8>,
    head: Box<Head>,
    cache: ResponseCache,
    /// The number of idle connections to be ended because others wait to connect.
    idle_to_end: usize,
    /// The number of connections to be ended for others even if they are not idle.
    connections_needed: usize,
    /// The time at which the next transfer may be ended for others.
    next_transfer_end: Instant,
    /// For each list, the time at which all of it may be searched again.
    next_search: [Instant; 2],
    /// The date. `None` once the clock has refused it, because every refusal is logged.
    date: Option<Stamp>,
    /// The time at which to ask the clock for the date again.
    date_due: Instant,
    /// A `Listen` must be sent.
    listen_due: bool,
    /// A [`Violation`] was logged.
    violation_logged: bool,
    deadline: Option<Instant>,
}

impl<S: System, M: Memory> Http<S, M> {
    /// Creates the service from its capabilities. With `sink`, it takes whatever is sent to
    /// `/sink`.
    pub fn new(caps: Caps<S, M>, sink: bool) -> Self {
        let layout = Layout::of(caps.stream_in.len(), caps.stream_out.len());
        let connections = LazyVec::new(layout.connections);
        let mut scratch = Vec::new();
        let mut ready = Vec::new();
        let (reclaimable, timers) = (Lists::new(2, layout.connections), Timers::new(layout.connections));
        let tally = Tally::new(layout.connections);
        let room = connections.is_some()
            && ready.try_reserve_exact(layout.connections).is_ok()
            && scratch.try_reserve_exact(Layout::SMALL_IN).is_ok()
            && reclaimable.is_some()
            && timers.is_some()
            && tally.is_some();
        if room {
            scratch.resize(Layout::SMALL_IN, 0);
        } else {
            caps.console.line(format_args!("the heap is too small for {} connections", layout.connections));
        }
        let (head, cache) = (Box::new(Head::new()), ResponseCache::new());
        // The site comes last: its index takes the room that is left, and is left out if that is
        // too little.
        let site = Site::new(caps.site).unwrap_or_else(|unreadable| {
            caps.console.line(format_args!("{unreadable}"));
            Site::BuiltIn
        });
        log_site(&caps.console, &site);
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
            shared_archive: &[],
            sink,
            connections: connections.filter(|_| room).unwrap_or_default(),
            ready,
            reclaimable: reclaimable.unwrap_or_default(),
            timers: timers.unwrap_or_default(),
            tally: tally.unwrap_or_default(),
            scratch,
            head,
            cache,
            idle_to_end: 0,
            connections_needed: 0,
            next_transfer_end: Instant::START,
            next_search: [Instant::START; 2],
            date: Some(Stamp::new(0)),
            date_due: Instant::START,
            listen_due: room,
            violation_logged: false,
            deadline: Some(Instant::START),
        }
    }

    fn on_reply(&mut self, reply: Reply, now: Instant) {
        match reply {
            Reply::Network { address: [0, 0, 0, 0], constant } => {
                self.forget_all();
                self.shared_archive = if constant == self.site_bytes.len() as u64 { self.site_bytes } else { &[] };
            }
            Reply::Network { address: [a, b, c, d], .. } => {
                self.console.line(format_args!("listening on port {PORT}: http://{a}.{b}.{c}.{d}/"));
            }
            Reply::Pressure { free } => {
                self.connections_needed = FREE_TARGET.saturating_sub(usize::from(free) + self.tally.ending());
                self.idle_to_end = self.connections_needed.max(1);
            }
            Reply::Accepted { connection, source, .. } => {
                self.accept(connection, source, now);
            }
            Reply::Received { connection, length, sent, constant } => {
                let ring = self.layout.ring_in(connection);
                let pressed = self.is_pressed(connection);
                self.update(connection, |connection| {
                    if sent > 0 || constant > 0 {
                        connection.on_sent(sent, constant, now)?;
                    }
                    connection.on_received(length, ring, now)?;
                    connection.on_progress(length.saturating_add(sent).saturating_add(constant), pressed, now);
                    Ok(())
                });
            }
            Reply::Sent { connection, length, constant } => {
                let pressed = self.is_pressed(connection);
                self.update(connection, |connection| {
                    connection.on_sent(length, constant, now)?;
                    connection.on_progress(length.saturating_add(constant), pressed, now);
                    Ok(())
                });
            }
            Reply::PeerClosed { connection } => self.update(connection, |connection| {
                connection.on_peer_closed();
                Ok(())
            }),
            Reply::Closed { connection } => {
                self.idle_to_end = self.idle_to_end.saturating_sub(1);
                self.connections_needed = self.connections_needed.saturating_sub(1);
                self.update(connection, |connection| {
                    connection.on_closed();
                    Ok(())
                });
            }
        }
    }

    /// Returns `true` if a connection must be fast, because others wait to connect.
    #[inline]
    fn is_pressed(&self, ConnectionId(index): ConnectionId) -> bool {
        self.connections_needed > 0 && !self.is_spared(index)
    }

    /// Returns `true` if a connection is not ended for others.
    #[inline(never)] // Rarely called.
    fn is_spared(&self, index: u16) -> bool {
        let standing = self.connections.get(index).map(Connection::standing);
        standing.is_none_or(|standing| self.tally.is_spared(standing))
    }

    /// Forgets every connection, as tcpip has.
    #[cold]
    fn forget_all(&mut self) {
        (self.idle_to_end, self.connections_needed) = (0, 0);
        for index in self.connections.numbers() {
            if self.connections.get(index).is_some_and(Connection::in_use) {
                self.change(index, Connection::forget);
                self.reclaimable.remove(index);
            }
        }
        self.listen_due = self.connections.bound() > 0;
    }

    /// Handles a new connection.
    #[inline]
    fn accept(&mut self, connection: ConnectionId, source: SourceId, now: Instant) {
        let made = self.connections.get_or_make(connection.0, |_| Connection::default());
        let unused = made.is_some_and(|connection| !connection.in_use());
        if unused {
            self.change(connection.0, |connection| connection.accept(source, now));
        } else {
            self.log_violation(Violation::Accepted);
        }
    }

    /// Changes a connection and marks it as ready.
    fn change<R>(&mut self, index: u16, act: impl FnOnce(&mut Connection) -> R) -> Option<R> {
        let connection = self.connections.get_mut(index)?;
        let before = connection.standing();
        let result = act(connection);
        self.on_changed(index, before);
        Some(result)
    }

    /// Counts a connection that was `before`, and marks it as ready.
    #[inline(never)] // Not in every function that changes a connection.
    fn on_changed(&mut self, index: u16, before: Standing) {
        let Some(connection) = self.connections.get_mut(index) else { return };
        self.tally.update(before, connection.standing());
        if connection.set_ready() {
            self.ready.push(index);
        }
    }

    fn update(
        &mut self,
        ConnectionId(index): ConnectionId,
        act: impl FnOnce(&mut Connection) -> Result<(), Violation>,
    ) {
        let done = self.change(index, |connection| {
            if !connection.in_use() {
                return Err(Violation::Connection);
            }
            act(connection).inspect_err(|_| connection.abort())
        });
        if let Err(violation) = done.unwrap_or(Err(Violation::Connection)) {
            self.log_violation(violation);
        }
    }

    #[cold]
    fn log_violation(&mut self, violation: Violation) {
        if !self.violation_logged {
            self.violation_logged = true;
            self.console.line(format_args!("violation by tcpip: {violation} (logged once)"));
        }
    }

    /// Ends connections because others wait to connect. Returns when to look again.
    ///
    /// Those of addresses that hold less than half as many as another are spared. Of the others,
    /// first, `idle_to_end` of the connections that have been idle for longest; one that has been
    /// idle only for a moment may be about to send a request, and is spared. If more are needed,
    /// those whose requests have not been complete for long. Then the transfer that is farthest
    /// behind, one at a time, because peers that come back at once would take the places of many.
    fn free_connections(&mut self, now: Instant) -> Option<Instant> {
        while self.idle_to_end > 0 {
            match self.due(IDLE, IDLE_TIME_PRESSED, now) {
                Due::Now(index) => self.end_for_others(index),
                Due::At(at) => return Some(at),
                Due::Never => break,
            }
            self.idle_to_end -= 1;
        }
        self.idle_to_end = 0;
        let mut next = None;
        while self.connections_needed > 0 {
            let grace =
                if self.connections_needed > FREE_TARGET / 2 { IDLE_TIME_PRESSED } else { REQUEST_TIME_PRESSED };
            match self.due(REQUESTING, grace, now) {
                Due::Now(index) => self.end_for_others(index),
                Due::At(at) => {
                    next = Some(at);
                    break;
                }
                Due::Never => break,
            }
        }
        if self.connections_needed == 0 {
            return None;
        }
        if now >= self.next_transfer_end {
            let slowest = self.slowest();
            if slowest.is_none() && next.is_none() {
                self.connections_needed = 0;
                return None;
            }
            self.next_transfer_end = now + TRANSFER_INTERVAL;
            match slowest {
                Some((due, index)) if now >= due => self.end_for_others(index),
                Some((due, _)) => self.next_transfer_end = self.next_transfer_end.max(due),
                None => {}
            }
        }
        (self.connections_needed > 0)
            .then(|| next.map_or(self.next_transfer_end, |next| next.min(self.next_transfer_end)))
    }

    /// Finds the connection that has been in `list` for longest, of those that are not spared. It
    /// may be ended once it has been there for `grace`.
    ///
    /// Usually it is among the first. Behind many that are spared, all are searched, but not often.
    #[inline(never)] // Rarely called.
    fn due(&mut self, list: usize, grace: Duration, now: Instant) -> Due {
        let Some(next_search) = self.next_search.get(list).copied() else { return Due::Never };
        let count = if now < next_search { MAX_EXAMINED } else { usize::MAX };
        let mut oldest = self.reclaimable.iter(list).take(count).enumerate();
        let found = oldest.find(|(_, index)| !self.is_spared(*index));
        drop(oldest);
        if now >= next_search
            && found.is_none_or(|(position, _)| position >= MAX_EXAMINED)
            && let Some(next) = self.next_search.get_mut(list)
        {
            *next = now + SEARCH_INTERVAL;
        }
        // It was served after its last change, so the list is up to date.
        match found.and_then(|(_, index)| Some((index, self.connections.get(index)?.reclaimable()?.1 + grace))) {
            Some((index, at)) if at <= now => Due::Now(index),
            Some((_, at)) => Due::At(at),
            None if self.reclaimable.len(list) > count => Due::At(next_search),
            None => Due::Never,
        }
    }

    fn end_for_others(&mut self, index: u16) {
        self.reclaimable.remove(index);
        self.change(index, Connection::end_for_others);
        self.connections_needed = self.connections_needed.saturating_sub(1);
    }

    /// Returns the transfer that is farthest behind, of those that are not spared, and when it may
    /// be ended for others.
    fn slowest(&self) -> Option<(Instant, u16)> {
        let transfers = self.connections.iter().filter(|(index, _)| !self.is_spared(*index));
        transfers.filter_map(|(index, connection)| Some((connection.reclaimable_at()?, index))).min()
    }

    /// Asks the clock for the date, if it may have changed.
    fn update_date(&mut self, now: Instant) {
        let Some(date) = self.date.as_mut().filter(|_| now >= self.date_due) else { return };
        match self.clock.wall() {
            Some(nanoseconds) => {
                date.set(nanoseconds / 1_000_000_000);
                // At the start of the next second.
                self.date_due = now + (DATE_INTERVAL - Duration::from_nanos(nanoseconds % 1_000_000_000));
            }
            None => self.date = None,
        }
    }

    /// Serves the ready connections. Returns `true` if more could be done at once.
    fn serve_ready(&mut self, now: Instant) -> bool {
        while let Some(index) = self.timers.pop_expired(now) {
            self.change(index, Connection::on_timer);
        }
        if self.ready.is_empty() {
            return false;
        }
        self.update_date(now);
        let mut workspace = Workspace {
            layout: self.layout,
            stream_in: &self.stream_in,
            stream_out: &self.stream_out,
            scratch: &mut self.scratch,
            head: &mut self.head,
            cache: &mut self.cache,
            second: self.date.as_ref().map(Stamp::seconds),
            now,
            context: Context {
                site: &self.site,
                sink: self.sink,
                policy: self.policy,
                uptime: now.since(self.boot),
                date: self.date.as_ref().map(Stamp::as_str),
            },
            constant: self.shared_archive,
        };
        let (mut more, mut kept) = (false, 0);
        for at in 0..self.ready.len() {
            let Some(index) = self.ready.get(at).copied() else { break };
            let Some(connection) = self.connections.get_mut(index) else { continue };
            let before = connection.standing();
            let mut again = connection.pump(usize::from(index), &mut workspace);
            if connection.is_expired(now) {
                connection.expire(usize::from(index), &mut workspace);
                again |= connection.pump(usize::from(index), &mut workspace);
            }
            let requests = &mut self.socket.requests;
            let sent = connection.send_requests(index, |ask| requests.push(&ask).is_ok());
            self.tally.update(before, connection.standing());
            connection.update_allowance(now);
            update_list_and_timer(connection, index, &mut self.reclaimable, &mut self.timers);
            more |= again;
            if again || !sent {
                // It stays ready.
                if let Some(entry) = self.ready.get_mut(kept) {
                    *entry = index;
                }
                kept += 1;
            } else {
                connection.clear_ready();
            }
        }
        self.ready.truncate(kept);
        more
    }
}

/// Logs what is served.
fn log_site<S: System>(console: &Console<S>, site: &Site) {
    match site {
        Site::BuiltIn => console.line(format_args!("no site: serving the built-in page")),
        Site::Archive(archive) => {
            let state = if archive.complete { "" } else { "; the archive is truncated or damaged after them" };
            console.line(format_args!("serving {} files{state}", archive.files));
            if let Some(DeadLinks { count, example }) = archive.dead_links() {
                console.line(format_args!("{count} links lead to nothing that is served, as {example}"));
            }
        }
    }
}

/// Puts a connection that was served in its list, and sets its timer.
#[inline]
fn update_list_and_timer(connection: &mut Connection, index: u16, reclaimable: &mut Lists, timers: &mut Timers) {
    let (deadline, listed) = (connection.deadline(), connection.reclaimable());
    match listed {
        Some((list, _)) if listed != connection.list => reclaimable.move_to_back(index, list),
        Some(_) => {}
        None => reclaimable.remove(index),
    }
    connection.list = listed;
    match deadline {
        Some(deadline) => timers.set(index, deadline),
        None => timers.remove(index),
    }
}

impl<S: System, M: Memory> Service for Http<S, M> {
    fn notified(&mut self, _notifications: Notifications) {
        let now = self.clock.now();
        let mut budget = MAX_MESSAGES;
        while budget > 0 {
            match self.socket.replies.pop() {
                Some(Ok(reply)) => self.on_reply(reply, now),
                Some(Err(malformed)) => self.log_violation(Violation::Malformed(malformed)),
                None => break,
            }
            budget -= 1;
        }
        if self.listen_due && self.socket.requests.push(&Request::Listen { port: PORT }).is_ok() {
            self.listen_due = false;
        }
        // Serving may make connections idle, and ending those gives them something to send.
        let mut more = self.serve_ready(now);
        let spared = self.free_connections(now);
        more |= self.serve_ready(now);
        self.deadline = Instant::earlier(self.timers.next(), spared);
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
