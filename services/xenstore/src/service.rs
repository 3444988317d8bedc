//! The state machine between the clients and the daemon.

use core::time::Duration;

use arrayvec::{ArrayString, ArrayVec};
use cloister_interfaces::capability::{Clock, Console, Port};
use cloister_interfaces::store::{Action, Failure, Path, Reply, Request, Store, Value};
use cloister_interfaces::{Instant, Memory, Notifications, Server, Service, System};

use crate::inbound::{Inbound, Progress};
use crate::policy::{Right, Rules};
use crate::ring::Ring;
use crate::watches::Watches;
use crate::wire::{self, Header, Kind, Packet};
use crate::{CLIENTS, Caps};

/// How long the daemon may take over one request.
const ANSWER_TIME: Duration = Duration::from_secs(5);
/// How often a connection that is being made is looked at, beside its events; and how often the daemon is asked for the
/// own id, if it does not tell.
const CONNECT_POLL: Duration = Duration::from_secs(1);
/// How long a client may keep a transaction open: those of others fail meanwhile, and the daemon cannot be renewed.
const TRANSACTION_TIME: Duration = Duration::from_secs(10);
/// Steps a call: a step takes at most 128 bytes from the ring or one request from a client.
const STEPS: usize = 256;

/// How far the connection is.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Link {
    /// The daemon is making it.
    Connecting,
    /// Asking for the own id; it tells whether the daemon answers, and where its answers begin.
    Greeting,
    /// Dropping watches and transactions of whoever used the ring before.
    Resetting,
    /// Working.
    Up,
    /// Over for good.
    Dead,
}

/// A client's transaction.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Transaction {
    None,
    Open {
        number: u32,
        until: Instant,
    },
    /// It was open when the connection was lost, or for too long.
    Lost,
}

struct Peer<S, M> {
    server: Server<Store, S, M>,
    transaction: Transaction,
    /// An answer that found the reply queue full. No request is taken until it is gone.
    answer: Option<Reply>,
}

/// On whose behalf the daemon was asked.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Job {
    Greet,
    Reset,
    /// Asking for the own id once more, which the daemon did not tell at first.
    Identify,
    Rewatch(usize),
    /// Giving up a transaction that was open for too long.
    Drop,
    Client {
        client: usize,
        id: u16,
        work: Work,
    },
}

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Work {
    Value,
    Done,
    Watch(usize),
    Unwatch(usize),
    Begin,
    End,
}

/// The request that the daemon has not answered.
#[derive(Clone, Copy)]
struct Outstanding {
    job: Job,
    kind: Kind,
    request: u32,
    deadline: Instant,
}

/// The service.
pub struct XenStore<S, M> {
    console: Console<S>,
    clock: Clock<S>,
    ring: Ring<M>,
    memory: M,
    port: Port<S>,
    rules: Rules,
    peers: ArrayVec<Peer<S, M>, CLIENTS>,
    /// The client whose turn is next.
    turn: usize,
    watches: Watches,
    own: ArrayString<5>,
    link: Link,
    /// The daemon let a request time out and has not answered since.
    silent: bool,
    poll: Instant,
    next_request: u32,
    outstanding: Option<Outstanding>,
    /// The outstanding request, while the ring has no room for it.
    unsent: Packet,
    inbound: Inbound,
    left_over: bool,
}

impl<S: System, M: Memory> XenStore<S, M> {
    /// The service, before its first look at the ring.
    pub fn new(caps: Caps<S, M>) -> Self {
        let now = caps.clock.now();
        let peer = |server| Peer { server, transaction: Transaction::None, answer: None };
        let mut service = XenStore {
            console: caps.console,
            clock: caps.clock,
            ring: Ring::new(caps.xenstore_ring.clone()),
            memory: caps.xenstore_ring,
            port: caps.xenstore_events,
            rules: Rules::parse(caps.rules),
            peers: caps.store_clients.into_iter().map(peer).collect(),
            turn: 0,
            watches: Watches::new(),
            own: ArrayString::new(),
            link: Link::Dead,
            silent: false,
            poll: now,
            // The low bits of the clock: a restarted service must not take an answer to its former self for its own.
            next_request: now.0 as u32 | 1,
            outstanding: None,
            unsent: Packet::new(),
            inbound: Inbound::new(),
            left_over: false,
        };
        service.connect(now);
        service
    }

    /// Starts the connection over.
    fn connect(&mut self, now: Instant) {
        self.outstanding = None;
        self.unsent.clear();
        self.lose_transactions();
        for watch in self.watches.iter_mut() {
            watch.registered = false;
        }
        if self.ring.connecting() {
            self.link = Link::Connecting;
            self.poll = now + CONNECT_POLL;
        } else {
            self.link = Link::Greeting;
        }
    }

    /// The daemon knows of no transaction any more; the clients learn it when they go on with theirs.
    fn lose_transactions(&mut self) {
        for peer in &mut self.peers {
            if peer.transaction != Transaction::None {
                peer.transaction = Transaction::Lost;
            }
        }
    }

    /// The connection cannot go on as it is.
    fn broken(&mut self, what: &str, now: Instant) {
        self.fail_outstanding(Failure::Timeout);
        if self.ring.reconnect() {
            self.console.line(format_args!("{what}; reconnecting"));
            self.silent = true;
            self.connect(now);
            self.port.send();
        } else {
            self.console.line(format_args!("{what}; the connection is dead"));
            // None is ended by us any more, when its time is over.
            self.lose_transactions();
            self.link = Link::Dead;
        }
    }

    fn fail_outstanding(&mut self, failure: Failure) {
        self.unsent.clear();
        if let Some(Outstanding { job: Job::Client { client, id, work }, .. }) = self.outstanding.take() {
            self.finish(client, id, work, Err(failure));
        }
    }

    fn expire(&mut self, now: Instant) {
        if self.link == Link::Connecting && !self.ring.connecting() {
            self.ring = Ring::new(self.memory.clone());
            self.link = Link::Greeting;
        } else if self.link == Link::Connecting && now >= self.poll {
            self.silent = true;
            self.poll = now + CONNECT_POLL;
        }
        if self.outstanding.is_some_and(|outstanding| now >= outstanding.deadline) {
            if !self.silent {
                self.console.line(format_args!("no answer from the daemon in {} s", ANSWER_TIME.as_secs()));
            }
            self.silent = true;
            self.fail_outstanding(Failure::Timeout);
            self.connect(now);
        }
    }

    /// Takes a part of what the daemon sent; whether there was any.
    fn receive(&mut self, now: Instant) -> bool {
        // Before the greeting is on its way there is nothing to look for in the stream.
        let looking = match self.link {
            Link::Connecting | Link::Dead => false,
            Link::Greeting => self.outstanding.is_some(),
            Link::Resetting | Link::Up => true,
        };
        if !looking {
            return false;
        }
        match self.inbound.step(&mut self.ring) {
            Ok(Progress::Empty) => false,
            Ok(Progress::Some) => true,
            Ok(Progress::Message(header)) => {
                self.message(header);
                true
            }
            Err(_) => {
                self.broken("the daemon's ring index or message length is impossible", now);
                true
            }
        }
    }

    fn message(&mut self, header: Header) {
        if header.is(Kind::Event) {
            return self.event(header);
        }
        let Some(outstanding) = self.outstanding.filter(|outstanding| outstanding.request == header.request) else {
            return self.console.line(format_args!("dropped an answer to no request ({})", header.request));
        };
        if !self.unsent.is_empty() {
            return self.console.line(format_args!("dropped an answer to a request not sent"));
        }
        self.outstanding = None;
        let result = if header.is(outstanding.kind) {
            Ok(header)
        } else if header.is(Kind::Error) {
            Err(self.inbound.payload(&header).map_or(Failure::Other, wire::failure))
        } else {
            self.console.line(format_args!("an answer of the wrong type, {}", header.kind));
            Err(Failure::Other)
        };
        match outstanding.job {
            Job::Greet => self.greeted(result),
            Job::Reset => {
                if result.is_err() {
                    self.console.line(format_args!("the daemon does not reset: what was open before may stay open"));
                }
                self.link = Link::Up;
            }
            Job::Identify => drop(self.identified(result)),
            Job::Drop => {}
            Job::Rewatch(slot) => self.rewatched(slot, result.err()),
            Job::Client { client, id, work } => self.finish(client, id, work, result),
        }
    }

    /// The daemon was asked for the own id; whether it told.
    fn identified(&mut self, result: Result<Header, Failure>) -> bool {
        let id = result.ok().and_then(|header| self.inbound.payload(&header)).and_then(wire::number);
        let id = id.and_then(|id| u16::try_from(id).ok());
        self.own.clear();
        match id {
            Some(id) => wire::digits(id).iter().for_each(|digit| self.own.push(char::from(*digit))),
            None => self.poll = self.clock.now() + CONNECT_POLL,
        }
        id.is_some()
    }

    fn greeted(&mut self, result: Result<Header, Failure>) {
        if !self.identified(result) {
            self.console.line(format_args!("the daemon does not tell this domain's id; asking again"));
        }
        if core::mem::take(&mut self.silent) {
            self.console.line(format_args!("the daemon answers again"));
        }
        self.link = Link::Resetting;
    }

    fn rewatched(&mut self, slot: usize, failure: Option<Failure>) {
        let Some(watch) = self.watches.get_mut(slot) else { return };
        watch.registered = true;
        // Without the daemon's first event, the client would not look at what it missed.
        watch.pending = true;
        if failure.is_some() {
            self.console.line(format_args!("lost the watch of client {} on {}", watch.client, watch.path));
        }
    }

    fn event(&mut self, header: Header) {
        let Some(payload) = self.inbound.payload(&header) else {
            // The token stands behind a path too long to keep: any watch may be meant.
            return self.watches.iter_mut().for_each(|watch| watch.pending = true);
        };
        let slot = wire::event_token(payload).and_then(wire::number);
        match slot.and_then(|slot| self.watches.get_mut(slot as usize)) {
            Some(watch) => watch.pending = true,
            // An event may still be on its way when its watch ends.
            None if slot.is_some() => {}
            None => self.console.line(format_args!("dropped a malformed watch event")),
        }
    }

    /// Ends a client's request, by the daemon's answer or without one.
    fn finish(&mut self, client: usize, id: u16, work: Work, result: Result<Header, Failure>) {
        let failure = result.err();
        let mut answer = result.map(|_| Value::new());
        match work {
            Work::Value => {
                answer = result.and_then(|header| {
                    let payload = self.inbound.payload(&header).ok_or(Failure::TooLong)?;
                    Value::try_from(payload).map_err(|_| Failure::TooLong)
                });
            }
            Work::Done => {}
            Work::Watch(slot) => match failure {
                None => self.watches.get_mut(slot).into_iter().for_each(|watch| watch.registered = true),
                Some(_) => self.watches.remove(slot),
            },
            Work::Unwatch(slot) => {
                if matches!(failure, None | Some(Failure::NotFound)) {
                    self.watches.remove(slot);
                }
            }
            Work::Begin => {
                let number = result.ok().and_then(|header| self.inbound.payload(&header)).and_then(wire::number);
                match number.filter(|number| *number != 0) {
                    Some(number) => {
                        let until = self.clock.now() + TRANSACTION_TIME;
                        self.set_transaction(client, Transaction::Open { number, until });
                    }
                    None => answer = Err(failure.unwrap_or(Failure::Other)),
                }
            }
            Work::End => self.set_transaction(client, Transaction::None),
        }
        self.answer(client, id, answer);
    }

    fn set_transaction(&mut self, client: usize, transaction: Transaction) {
        if let Some(peer) = self.peers.get_mut(client) {
            peer.transaction = transaction;
        }
    }

    fn answer(&mut self, client: usize, id: u16, result: Result<Value, Failure>) {
        if let Some(peer) = self.peers.get_mut(client) {
            peer.answer = Some(Reply::Answer { id, result });
            peer.deliver();
        }
    }

    /// Asks the daemon the next thing there is to ask; whether there was any.
    fn ask(&mut self, now: Instant) -> bool {
        if self.outstanding.is_some() {
            let sent = self.transmit(now);
            // While the daemon is silent, clients learn so at once.
            return sent | (self.silent && self.serve(now));
        }
        match self.link {
            Link::Greeting => {
                self.begin(Job::Greet, Kind::Read, 0, &[b"domid\0"], now);
                if let Some(outstanding) = self.outstanding {
                    self.inbound.seek(outstanding.request);
                }
            }
            Link::Resetting => self.begin(Job::Reset, Kind::ResetWatches, 0, &[b"\0"], now),
            Link::Up => {
                if let Some((slot, path)) = self.watches.unregistered() {
                    let path = *path;
                    self.begin_watch(Job::Rewatch(slot), Kind::Watch, slot, &path, now);
                } else if self.own.is_empty() && now >= self.poll {
                    self.begin(Job::Identify, Kind::Read, 0, &[b"domid\0"], now);
                } else if let Some(number) = self.overdue(now) {
                    self.begin(Job::Drop, Kind::End, number, &[b"F\0"], now);
                } else {
                    return self.serve(now);
                }
            }
            Link::Connecting if !self.silent => return false,
            Link::Connecting | Link::Dead => return self.serve(now),
        }
        true
    }

    /// A transaction that has been open for too long, which is its client's no more.
    fn overdue(&mut self, now: Instant) -> Option<u32> {
        self.peers.iter_mut().find_map(|peer| match peer.transaction {
            Transaction::Open { number, until } if now >= until => {
                peer.transaction = Transaction::Lost;
                Some(number)
            }
            _ => None,
        })
    }

    /// Takes the next request of a client, in turn; whether there was one.
    fn serve(&mut self, now: Instant) -> bool {
        for _ in 0..self.peers.len() {
            let client = self.turn;
            self.turn = (self.turn + 1) % self.peers.len().max(1);
            let Some(peer) = self.peers.get_mut(client) else { continue };
            if peer.answer.is_some() {
                continue;
            }
            match peer.server.requests.pop() {
                None => continue,
                Some(Err(_)) => self.console.line(format_args!("client {client} sent a malformed request")),
                Some(Ok(Request { id, action })) => {
                    if let Err(failure) = self.begin_action(client, id, action, now) {
                        self.answer(client, id, Err(failure));
                    }
                }
            }
            return true;
        }
        false
    }

    fn permit(&self, client: usize, right: Right, path: &Path) -> Result<(), Failure> {
        let number = u8::try_from(client).map_err(|_| Failure::Policy)?;
        if self.rules.allow(number, right, path, &self.own) {
            return Ok(());
        }
        let shown = path.escape_debug();
        self.console.line(format_args!("refused client {client}: no path rule lets it {right} {shown}"));
        Err(Failure::Policy)
    }

    /// The number of the transaction that a client's action is in, 0 for none; `None` if the action is answered.
    fn transaction_for(&mut self, client: usize, id: u16, action: &Action) -> Result<Option<u32>, Failure> {
        match (self.peers.get(client).map_or(Transaction::None, |peer| peer.transaction), action) {
            (Transaction::None, _) => return Ok(Some(0)),
            (Transaction::Open { number, .. }, _) => return Ok(Some(number)),
            (Transaction::Lost, Action::Watch(..) | Action::Unwatch(..)) => return Ok(Some(0)),
            (Transaction::Lost, Action::Begin | Action::Commit | Action::Abort) => {}
            (Transaction::Lost, _) => return Err(Failure::Again),
        }
        self.set_transaction(client, Transaction::None);
        match action {
            Action::Begin => Ok(Some(0)),
            Action::Abort => {
                self.answer(client, id, Ok(Value::new()));
                Ok(None)
            }
            _ => Err(Failure::Again),
        }
    }

    fn begin_action(&mut self, client: usize, id: u16, action: Action, now: Instant) -> Result<(), Failure> {
        match &action {
            Action::Read(path) | Action::List(path) => self.permit(client, Right::Read, path)?,
            Action::Write(path, _) | Action::Remove(path) => self.permit(client, Right::Write, path)?,
            Action::Watch(path, _) | Action::Unwatch(path, _) => self.permit(client, Right::Watch, path)?,
            Action::Begin | Action::Commit | Action::Abort => {}
        }
        if self.link != Link::Up {
            return Err(Failure::Timeout);
        }
        let Some(transaction) = self.transaction_for(client, id, &action)? else { return Ok(()) };
        let job = |work| Job::Client { client, id, work };
        match action {
            Action::Read(path) => self.begin(job(Work::Value), Kind::Read, transaction, &[path.as_bytes(), b"\0"], now),
            Action::List(path) => {
                self.begin(job(Work::Value), Kind::Directory, transaction, &[path.as_bytes(), b"\0"], now);
            }
            Action::Write(path, value) => {
                self.begin(job(Work::Done), Kind::Write, transaction, &[path.as_bytes(), b"\0", &value], now);
            }
            Action::Remove(path) => {
                self.begin(job(Work::Done), Kind::Remove, transaction, &[path.as_bytes(), b"\0"], now);
            }
            Action::Watch(path, token) => {
                if self.watches.find(client, &path, token).is_some() {
                    return Err(Failure::Other);
                }
                let slot = self.watches.add(client, path, token).ok_or(Failure::Quota)?;
                self.begin_watch(job(Work::Watch(slot)), Kind::Watch, slot, &path, now);
            }
            Action::Unwatch(path, token) => {
                let slot = self.watches.find(client, &path, token).ok_or(Failure::NotFound)?;
                self.begin_watch(job(Work::Unwatch(slot)), Kind::Unwatch, slot, &path, now);
            }
            Action::Begin if transaction != 0 => return Err(Failure::Other),
            Action::Begin => self.begin(job(Work::Begin), Kind::Begin, 0, &[b"\0"], now),
            Action::Commit | Action::Abort if transaction == 0 => return Err(Failure::Other),
            Action::Commit => self.begin(job(Work::End), Kind::End, transaction, &[b"T\0"], now),
            Action::Abort => self.begin(job(Work::End), Kind::End, transaction, &[b"F\0"], now),
        }
        Ok(())
    }

    fn begin_watch(&mut self, job: Job, kind: Kind, slot: usize, path: &Path, now: Instant) {
        let token = wire::digits(u16::try_from(slot).unwrap_or(u16::MAX));
        self.begin(job, kind, 0, &[path.as_bytes(), b"\0", &token, b"\0"], now);
    }

    /// Makes a request the outstanding one.
    fn begin(&mut self, job: Job, kind: Kind, transaction: u32, parts: &[&[u8]], now: Instant) {
        // 0 is the number of watch events.
        self.next_request = self.next_request.wrapping_add(1).max(1);
        let request = self.next_request;
        // Paths and values are short enough that every request fits (`the_longest_request_fits`).
        self.unsent = wire::request(kind, request, transaction, parts).unwrap_or_default();
        self.outstanding = Some(Outstanding { job, kind, request, deadline: now + ANSWER_TIME });
        self.transmit(now);
    }

    /// Puts the outstanding request on the ring if it is not there yet; whether it was put there.
    fn transmit(&mut self, now: Instant) -> bool {
        if self.unsent.is_empty() {
            return false;
        }
        match self.ring.send(&self.unsent) {
            Ok(sent) => {
                if sent {
                    self.unsent.clear();
                }
                sent
            }
            Err(_) => {
                self.broken("the daemon's ring index is impossible", now);
                true
            }
        }
    }

    fn tell_changes(&mut self) {
        for watch in self.watches.iter_mut().filter(|watch| watch.pending) {
            if let Some(peer) = self.peers.get_mut(watch.client) {
                watch.pending = peer.server.replies.push(&Reply::Changed { token: watch.token }).is_err();
            }
        }
    }
}

impl<S: System, M: Memory> Peer<S, M> {
    fn deliver(&mut self) {
        if self.answer.as_ref().is_some_and(|answer| self.server.replies.push(answer).is_ok()) {
            self.answer = None;
        }
    }
}

impl<S: System, M: Memory> Service for XenStore<S, M> {
    fn notified(&mut self, _: Notifications) {
        let now = self.clock.now();
        self.expire(now);
        self.peers.iter_mut().filter(|peer| peer.answer.is_some()).for_each(Peer::deliver);
        self.left_over = true;
        for _ in 0..STEPS {
            if !(self.receive(now) | self.ask(now)) {
                self.left_over = false;
                break;
            }
        }
        self.tell_changes();
        self.peers.iter_mut().for_each(|peer| peer.server.replies.flush());
        if self.ring.take_owed() && self.link != Link::Dead {
            self.port.send();
        }
    }

    fn deadline(&self) -> Option<Instant> {
        if self.left_over {
            return Some(Instant::START);
        }
        if self.link == Link::Connecting {
            return Some(self.poll);
        }
        let until = |peer: &Peer<S, M>| match peer.transaction {
            Transaction::Open { until, .. } if self.outstanding.is_none() => Some(until),
            _ => None,
        };
        let answer = self.outstanding.map(|outstanding| outstanding.deadline);
        let nameless = self.link == Link::Up && self.own.is_empty() && answer.is_none();
        self.peers.iter().filter_map(until).chain(answer).chain(nameless.then_some(self.poll)).min()
    }
}
