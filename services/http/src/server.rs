//! The service: the table of connections, and what tcpip says about them.

use alloc::boxed::Box;
use alloc::vec::Vec;
use core::time::Duration;

use cloister_caps::abi::info;
use cloister_interfaces::capability::{Clock, Console};
use cloister_interfaces::socket::{Layout, Reply, Request, Socket};
use cloister_interfaces::{Client, Instant, Memory, Notifications, Service, System};

use crate::Caps;
use crate::connection::{Breach, Connection, World};
use crate::response::{Context, Head};
use crate::site::Site;

/// The port that is served.
const PORT: u16 = 80;
/// Connections that should be free when others wait to connect.
const SPARE: usize = 8;
/// How long a connection may be idle although others wait to connect.
const GRACE: Duration = Duration::from_millis(50);
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
    connections: Vec<Connection>,
    scratch: Vec<u8>,
    head: Box<Head>,
    /// Connections that are to end because others wait to connect.
    owed: usize,
    /// The clock tells the date.
    dated: bool,
    /// A `Listen` is due.
    listen: bool,
    /// tcpip was found to say what cannot be, and this was logged.
    refused: bool,
    deadline: Option<Instant>,
}

impl<S: System, M: Memory> Http<S, M> {
    /// The service over its capabilities.
    pub fn new(caps: Caps<S, M>) -> Self {
        let layout = Layout::of(caps.stream_in.len(), caps.stream_out.len());
        let mut connections = Vec::new();
        let mut scratch = Vec::new();
        let room = connections.try_reserve_exact(layout.connections).is_ok()
            && scratch.try_reserve_exact(layout.ring_in).is_ok();
        if room {
            connections.resize_with(layout.connections, Connection::default);
            scratch.resize(layout.ring_in, 0);
        } else {
            caps.console.line(format_args!("the heap is too small for {} connections", layout.connections));
        }
        let head = Box::new(Head::new());
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
            connections,
            scratch,
            head,
            owed: 0,
            dated: true,
            listen: room,
            refused: false,
            deadline: Some(Instant::START),
        }
    }

    fn hear(&mut self, reply: Reply, now: Instant) {
        match reply {
            Reply::Network { address: [0, 0, 0, 0] } => {
                // tcpip has forgotten every connection, and so do we.
                self.connections.iter_mut().for_each(|connection| *connection = Connection::default());
                self.listen = !self.connections.is_empty();
            }
            Reply::Network { address: [a, b, c, d] } => {
                self.console.line(format_args!("listening on port {PORT}: http://{a}.{b}.{c}.{d}/"));
            }
            Reply::Pressure { free } => self.owe(free),
            Reply::Accepted { connection, .. } => {
                let taken = self.connections.get_mut(usize::from(connection.0)).filter(|taken| !taken.in_use());
                match taken {
                    Some(place) => *place = Connection::accepted(now),
                    None => self.refuse(),
                }
            }
            Reply::Received { connection, length } => {
                let layout = self.layout;
                self.with(connection.0, |connection| connection.received(length, layout, now));
            }
            Reply::Sent { connection, length } => self.with(connection.0, |connection| connection.sent(length, now)),
            Reply::PeerClosed { connection } => self.with(connection.0, |connection| {
                connection.peer_closed();
                Ok(())
            }),
            Reply::Closed { connection } => {
                self.owed = self.owed.saturating_sub(1);
                self.with(connection.0, |connection| {
                    connection.over();
                    Ok(())
                });
            }
        }
    }

    fn with(&mut self, index: u16, act: impl FnOnce(&mut Connection) -> Result<(), Breach>) {
        let connection = self.connections.get_mut(usize::from(index)).filter(|connection| connection.in_use());
        let Some(connection) = connection else { return self.refuse() };
        if act(connection).is_err() {
            connection.abort();
            self.refuse();
        }
    }

    fn refuse(&mut self) {
        if !self.refused {
            self.refused = true;
            self.console.line(format_args!("refused: tcpip says what cannot be (further cases are not logged)"));
        }
    }

    /// Ends the connections that have been idle for longest, as many as are owed. One that was idle for a moment only may be
    /// about to ask, and is spared; answers until when.
    fn relieve(&mut self, now: Instant) -> Option<Instant> {
        while self.owed > 0 {
            let idle =
                self.connections.iter_mut().filter_map(|connection| Some((connection.idle_since()?, connection)));
            let Some((since, connection)) = idle.min_by_key(|(since, _)| *since) else { break };
            if now < since + GRACE {
                return Some(since + GRACE);
            }
            connection.close();
            self.owed -= 1;
        }
        self.owed = 0;
        None
    }

    /// Few connections are left: so many must end.
    fn owe(&mut self, free: u16) {
        let ending = self.connections.iter().filter(|connection| connection.is_ending()).count();
        self.owed = SPARE.saturating_sub(usize::from(free) + ending).max(1);
    }

    /// Lets every connection go on. Answers whether there is more to do at once.
    fn pump(&mut self, now: Instant) -> bool {
        // A clock that does not tell the date is asked once: every refusal is logged.
        let date = if self.dated { self.clock.wall() } else { None };
        self.dated = date.is_some();
        let date = date.map(|nanoseconds| nanoseconds / 1_000_000_000);
        let mut world = World {
            layout: self.layout,
            stream_in: &self.stream_in,
            stream_out: &self.stream_out,
            scratch: &mut self.scratch,
            head: &mut self.head,
            now,
            context: Context { site: &self.site, policy: self.policy, uptime: now.since(self.boot), date },
        };
        let (mut more, mut deadline) = (false, None);
        let requests = &mut self.socket.requests;
        for (index, connection) in self.connections.iter_mut().enumerate() {
            if !connection.in_use() {
                continue;
            }
            more |= connection.pump(index, &mut world);
            if connection.deadline().is_some_and(|deadline| deadline <= now) {
                connection.expire(index, &mut world);
                more |= connection.pump(index, &mut world);
            }
            connection.tell(index as u16, |ask| requests.push(&ask).is_ok());
            deadline = [deadline, connection.deadline()].into_iter().flatten().min();
        }
        self.deadline = deadline;
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
        let spared = self.relieve(now);
        let more = self.pump(now);
        self.deadline = self.deadline.into_iter().chain(spared).min();
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
