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
use crate::{Caps, MAX_CLIENTS};

/// The time that the daemon has to answer a request.
const ANSWER_TIME: Duration = Duration::from_secs(5);
/// The time between two checks of a connection that is being made, besides those for its events.
/// Also the time between two requests for the own domid while the daemon does not tell it.
const CONNECT_POLL: Duration = Duration::from_secs(1);
/// The time for which a client may keep a transaction open: meanwhile the transactions of others
/// fail, and the daemon cannot be replaced.
const TRANSACTION_TIME: Duration = Duration::from_secs(10);
/// The largest number of steps in one pass. A step takes at most 128 bytes from the ring, or one
/// request from a client.
const MAX_STEPS: usize = 256;

/// The state of the connection to the daemon.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Connection {
    /// The daemon is making it.
    Connecting,
    /// The daemon was asked for the own domid. Its answer shows that it answers, and where its
    /// answers begin.
    Greeting,
    /// The watches and transactions of the earlier user of the ring are dropped.
    Resetting,
    /// Requests are served.
    Up,
    /// Ended for good.
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
    /// The transaction was open when the connection was lost, or for too long.
    Lost,
}

struct ClientState<S, M> {
    server: Server<Store, S, M>,
    transaction: Transaction,
    /// An answer that found the reply queue full. No request is taken until it is gone.
    answer: Option<Reply>,
}

/// The purpose of a request to the daemon.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Job {
    Greet,
    Reset,
    /// Asks for the own domid again, which the daemon did not tell at first.
    Identify,
    Rewatch(usize),
    /// Aborts a transaction that was open for too long.
    AbortOverdue,
    Client {
        client: usize,
        id: u16,
        completion: Completion,
    },
}

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Completion {
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
    clients: ArrayVec<ClientState<S, M>, MAX_CLIENTS>,
    /// The client whose request is taken next.
    next_client: usize,
    watches: Watches,
    own_domid: ArrayString<5>,
    connection: Connection,
    /// The daemon let a request time out and has not answered since.
    silent: bool,
    next_poll: Instant,
    next_request: u32,
    outstanding: Option<Outstanding>,
    /// The outstanding request, while the ring has no room for it.
    unsent: Packet,
    inbound: Inbound,
    work_left: bool,
}

impl<S: System, M: Memory> XenStore<S, M> {
    /// Creates the service, and starts its connection.
    pub fn new(caps: Caps<S, M>) -> Self {
        let now = caps.clock.now();
        let client = |server| ClientState { server, transaction: Transaction::None, answer: None };
        let mut service = XenStore {
            console: caps.console,
            clock: caps.clock,
            ring: Ring::new(caps.xenstore_ring.clone()),
            memory: caps.xenstore_ring,
            port: caps.xenstore_events,
            rules: Rules::parse(caps.rules),
            clients: caps.store_clients.into_iter().map(client).collect(),
            next_client: 0,
            watches: Watches::new(),
            own_domid: ArrayString::new(),
            connection: Connection::Dead,
            silent: false,
            next_poll: now,
            // The low bits of the clock: a restarted service must not take an answer to a request
            // of its earlier run for its own.
            next_request: now.0 as u32 | 1,
            outstanding: None,
            unsent: Packet::new(),
            inbound: Inbound::new(),
            work_left: false,
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
        if self.ring.is_connecting() {
            self.connection = Connection::Connecting;
            self.next_poll = now + CONNECT_POLL;
        } else {
            self.connection = Connection::Greeting;
        }
    }

    /// Marks all transactions as lost: the daemon no longer has them. A client learns it when it
    /// next uses its transaction.
    fn lose_transactions(&mut self) {
        for state in &mut self.clients {
            if state.transaction != Transaction::None {
                state.transaction = Transaction::Lost;
            }
        }
    }

    /// Asks the daemon for a new connection, or ends the connection for good if the daemon does not
    /// offer that.
    fn handle_violation(&mut self, what: &str, now: Instant) {
        self.fail_outstanding(Failure::Timeout);
        if self.ring.reconnect() {
            self.console.line(format_args!("{what}; reconnecting"));
            self.silent = true;
            self.connect(now);
            self.port.send();
        } else {
            self.console.line(format_args!("{what}; the connection is dead"));
            // So that no transaction is aborted when its time is over.
            self.lose_transactions();
            self.connection = Connection::Dead;
        }
    }

    /// Ends the outstanding request with a failure.
    fn fail_outstanding(&mut self, failure: Failure) {
        self.unsent.clear();
        if let Some(Outstanding { job: Job::Client { client, id, completion }, .. }) = self.outstanding.take() {
            self.finish_request(client, id, completion, Err(failure));
        }
    }

    /// Handles a connection that was made, and the deadlines that have passed.
    fn check_deadlines(&mut self, now: Instant) {
        if self.connection == Connection::Connecting && !self.ring.is_connecting() {
            self.ring = Ring::new(self.memory.clone());
            self.connection = Connection::Greeting;
        } else if self.connection == Connection::Connecting && now >= self.next_poll {
            self.silent = true;
            self.next_poll = now + CONNECT_POLL;
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

    /// Takes some bytes from the daemon. Returns `true` if there were any.
    fn receive(&mut self, now: Instant) -> bool {
        // Before the greeting is sent, no answer is expected in the stream.
        let expecting = match self.connection {
            Connection::Connecting | Connection::Dead => false,
            Connection::Greeting => self.outstanding.is_some(),
            Connection::Resetting | Connection::Up => true,
        };
        if !expecting {
            return false;
        }
        match self.inbound.step(&mut self.ring) {
            Ok(Progress::Empty) => false,
            Ok(Progress::Partial) => true,
            Ok(Progress::Message(header)) => {
                self.handle_message(header);
                true
            }
            Err(_) => {
                self.handle_violation("the daemon's ring index or message length is impossible", now);
                true
            }
        }
    }

    fn handle_message(&mut self, header: Header) {
        if header.is(Kind::Event) {
            return self.handle_watch_event(header);
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
            Job::Greet => self.greeting_answered(result),
            Job::Reset => {
                if result.is_err() {
                    self.console.line(format_args!("the daemon does not reset: what was open before may stay open"));
                }
                self.connection = Connection::Up;
            }
            Job::Identify => drop(self.domid_answered(result)),
            Job::AbortOverdue => {}
            Job::Rewatch(index) => self.rewatch_answered(index, result.err()),
            Job::Client { client, id, completion } => self.finish_request(client, id, completion, result),
        }
    }

    /// Handles the answer to the request for the own domid. Returns `true` if the daemon told it.
    fn domid_answered(&mut self, result: Result<Header, Failure>) -> bool {
        let id = result.ok().and_then(|header| self.inbound.payload(&header)).and_then(wire::number);
        let id = id.and_then(|id| u16::try_from(id).ok());
        self.own_domid.clear();
        match id {
            Some(id) => wire::digits(id).iter().for_each(|digit| self.own_domid.push(char::from(*digit))),
            None => self.next_poll = self.clock.now() + CONNECT_POLL,
        }
        id.is_some()
    }

    fn greeting_answered(&mut self, result: Result<Header, Failure>) {
        if !self.domid_answered(result) {
            self.console.line(format_args!("the daemon does not tell this domain's id; asking again"));
        }
        if core::mem::take(&mut self.silent) {
            self.console.line(format_args!("the daemon answers again"));
        }
        self.connection = Connection::Resetting;
    }

    fn rewatch_answered(&mut self, index: usize, failure: Option<Failure>) {
        let Some(watch) = self.watches.get_mut(index) else { return };
        watch.registered = true;
        // Without the daemon's first event, the client would not look at what it missed.
        watch.pending = true;
        if failure.is_some() {
            self.console.line(format_args!("lost the watch of client {} on {}", watch.client, watch.path));
        }
    }

    fn handle_watch_event(&mut self, header: Header) {
        let Some(payload) = self.inbound.payload(&header) else {
            // The token comes after the path, which is too long to be kept. The event may be for
            // any watch.
            return self.watches.iter_mut().for_each(|watch| watch.pending = true);
        };
        let index = wire::event_token(payload).and_then(wire::number);
        match index.and_then(|index| self.watches.get_mut(index as usize)) {
            Some(watch) => watch.pending = true,
            // An event may still be on its way when its watch ends.
            None if index.is_some() => {}
            None => self.console.line(format_args!("dropped a malformed watch event")),
        }
    }

    /// Answers a client's request, by the daemon's answer or by a failure.
    fn finish_request(&mut self, client: usize, id: u16, completion: Completion, result: Result<Header, Failure>) {
        let failure = result.err();
        let mut answer = result.map(|_| Value::new());
        match completion {
            Completion::Value => {
                answer = result.and_then(|header| {
                    let payload = self.inbound.payload(&header).ok_or(Failure::TooLong)?;
                    Value::try_from(payload).map_err(|_| Failure::TooLong)
                });
            }
            Completion::Done => {}
            Completion::Watch(index) => match failure {
                None => self.watches.get_mut(index).into_iter().for_each(|watch| watch.registered = true),
                Some(_) => self.watches.remove(index),
            },
            Completion::Unwatch(index) => {
                if matches!(failure, None | Some(Failure::NotFound)) {
                    self.watches.remove(index);
                }
            }
            Completion::Begin => {
                let number = result.ok().and_then(|header| self.inbound.payload(&header)).and_then(wire::number);
                match number.filter(|number| *number != 0) {
                    Some(number) => {
                        let until = self.clock.now() + TRANSACTION_TIME;
                        self.set_transaction(client, Transaction::Open { number, until });
                    }
                    None => answer = Err(failure.unwrap_or(Failure::Other)),
                }
            }
            Completion::End => self.set_transaction(client, Transaction::None),
        }
        self.answer_client(client, id, answer);
    }

    fn set_transaction(&mut self, client: usize, transaction: Transaction) {
        if let Some(state) = self.clients.get_mut(client) {
            state.transaction = transaction;
        }
    }

    fn answer_client(&mut self, client: usize, id: u16, result: Result<Value, Failure>) {
        if let Some(state) = self.clients.get_mut(client) {
            state.answer = Some(Reply::Answer { id, result });
            state.send_answer();
        }
    }

    /// Makes the next request to the daemon, or goes on sending the outstanding one. Returns `true`
    /// if there was work.
    fn ask_daemon(&mut self, now: Instant) -> bool {
        if self.outstanding.is_some() {
            let sent = self.try_send(now);
            // While the daemon is silent, clients' requests fail at once.
            return sent | (self.silent && self.take_request(now));
        }
        match self.connection {
            Connection::Greeting => {
                self.request(Job::Greet, Kind::Read, 0, &[b"domid\0"], now);
                if let Some(outstanding) = self.outstanding {
                    self.inbound.skip_to_answer(outstanding.request);
                }
            }
            Connection::Resetting => self.request(Job::Reset, Kind::ResetWatches, 0, &[b"\0"], now),
            Connection::Up => {
                if let Some((index, path)) = self.watches.unregistered() {
                    let path = *path;
                    self.request_watch(Job::Rewatch(index), Kind::Watch, index, &path, now);
                } else if self.own_domid.is_empty() && now >= self.next_poll {
                    self.request(Job::Identify, Kind::Read, 0, &[b"domid\0"], now);
                } else if let Some(number) = self.take_overdue_transaction(now) {
                    self.request(Job::AbortOverdue, Kind::End, number, &[b"F\0"], now);
                } else {
                    return self.take_request(now);
                }
            }
            Connection::Connecting if !self.silent => return false,
            Connection::Connecting | Connection::Dead => return self.take_request(now),
        }
        true
    }

    /// Takes from its client a transaction that was open for too long. Returns its number.
    fn take_overdue_transaction(&mut self, now: Instant) -> Option<u32> {
        self.clients.iter_mut().find_map(|state| match state.transaction {
            Transaction::Open { number, until } if now >= until => {
                state.transaction = Transaction::Lost;
                Some(number)
            }
            _ => None,
        })
    }

    /// Takes the next request of a client, in turn. Returns `true` if there was one.
    fn take_request(&mut self, now: Instant) -> bool {
        for _ in 0..self.clients.len() {
            let client = self.next_client;
            self.next_client = (self.next_client + 1) % self.clients.len().max(1);
            let Some(state) = self.clients.get_mut(client) else { continue };
            if state.answer.is_some() {
                continue;
            }
            match state.server.requests.pop() {
                None => continue,
                Some(Err(_)) => self.console.line(format_args!("client {client} sent a malformed request")),
                Some(Ok(Request { id, action })) => {
                    if let Err(failure) = self.begin_action(client, id, action, now) {
                        self.answer_client(client, id, Err(failure));
                    }
                }
            }
            return true;
        }
        false
    }

    fn check_permission(&self, client: usize, right: Right, path: &Path) -> Result<(), Failure> {
        let number = u8::try_from(client).map_err(|_| Failure::Policy)?;
        if self.rules.allows(number, right, path, &self.own_domid) {
            return Ok(());
        }
        let shown = path.as_bytes().escape_ascii();
        self.console.line(format_args!("refused client {client}: no path rule lets it {right} {shown}"));
        Err(Failure::Policy)
    }

    /// Returns the number of the transaction that a client's action is in, or 0 for none. Returns
    /// `None` if the action was answered already.
    fn transaction_for(&mut self, client: usize, id: u16, action: &Action) -> Result<Option<u32>, Failure> {
        match (self.clients.get(client).map_or(Transaction::None, |state| state.transaction), action) {
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
                self.answer_client(client, id, Ok(Value::new()));
                Ok(None)
            }
            _ => Err(Failure::Again),
        }
    }

    fn begin_action(&mut self, client: usize, id: u16, action: Action, now: Instant) -> Result<(), Failure> {
        match &action {
            Action::Read(path) | Action::List(path) => self.check_permission(client, Right::Read, path)?,
            Action::Write(path, _) | Action::Remove(path) => self.check_permission(client, Right::Write, path)?,
            Action::Watch(path, _) | Action::Unwatch(path, _) => self.check_permission(client, Right::Watch, path)?,
            Action::Begin | Action::Commit | Action::Abort => {}
        }
        if self.connection != Connection::Up {
            return Err(Failure::Timeout);
        }
        let Some(transaction) = self.transaction_for(client, id, &action)? else { return Ok(()) };
        let job = |completion| Job::Client { client, id, completion };
        match action {
            Action::Read(path) => {
                self.request(job(Completion::Value), Kind::Read, transaction, &[path.as_bytes(), b"\0"], now)
            }
            Action::List(path) => {
                self.request(job(Completion::Value), Kind::Directory, transaction, &[path.as_bytes(), b"\0"], now);
            }
            Action::Write(path, value) => {
                self.request(job(Completion::Done), Kind::Write, transaction, &[path.as_bytes(), b"\0", &value], now);
            }
            Action::Remove(path) => {
                self.request(job(Completion::Done), Kind::Remove, transaction, &[path.as_bytes(), b"\0"], now);
            }
            Action::Watch(path, token) => {
                if self.watches.find(client, &path, token).is_some() {
                    return Err(Failure::Other);
                }
                let index = self.watches.add(client, path, token).ok_or(Failure::Quota)?;
                self.request_watch(job(Completion::Watch(index)), Kind::Watch, index, &path, now);
            }
            Action::Unwatch(path, token) => {
                let index = self.watches.find(client, &path, token).ok_or(Failure::NotFound)?;
                self.request_watch(job(Completion::Unwatch(index)), Kind::Unwatch, index, &path, now);
            }
            Action::Begin if transaction != 0 => return Err(Failure::Other),
            Action::Begin => self.request(job(Completion::Begin), Kind::Begin, 0, &[b"\0"], now),
            Action::Commit | Action::Abort if transaction == 0 => return Err(Failure::Other),
            Action::Commit => self.request(job(Completion::End), Kind::End, transaction, &[b"T\0"], now),
            Action::Abort => self.request(job(Completion::End), Kind::End, transaction, &[b"F\0"], now),
        }
        Ok(())
    }

    fn request_watch(&mut self, job: Job, kind: Kind, index: usize, path: &Path, now: Instant) {
        let token = wire::digits(u16::try_from(index).unwrap_or(u16::MAX));
        self.request(job, kind, 0, &[path.as_bytes(), b"\0", &token, b"\0"], now);
    }

    /// Makes a request the outstanding one.
    fn request(&mut self, job: Job, kind: Kind, transaction: u32, parts: &[&[u8]], now: Instant) {
        // 0 is the number of watch events.
        self.next_request = self.next_request.wrapping_add(1).max(1);
        let request = self.next_request;
        // Paths and values are short enough that every request fits (`the_longest_request_fits`).
        self.unsent = wire::request(kind, request, transaction, parts).unwrap_or_default();
        self.outstanding = Some(Outstanding { job, kind, request, deadline: now + ANSWER_TIME });
        self.try_send(now);
    }

    /// Writes the outstanding request to the ring, unless it is there already. Returns `true` if
    /// there was work: it was written, or the daemon broke the protocol.
    fn try_send(&mut self, now: Instant) -> bool {
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
                self.handle_violation("the daemon's ring index is impossible", now);
                true
            }
        }
    }

    fn notify_changes(&mut self) {
        for watch in self.watches.iter_mut().filter(|watch| watch.pending) {
            if let Some(state) = self.clients.get_mut(watch.client) {
                watch.pending = state.server.replies.push(&Reply::Changed { token: watch.token }).is_err();
            }
        }
    }
}

impl<S: System, M: Memory> ClientState<S, M> {
    fn send_answer(&mut self) {
        if self.answer.as_ref().is_some_and(|answer| self.server.replies.push(answer).is_ok()) {
            self.answer = None;
        }
    }
}

impl<S: System, M: Memory> Service for XenStore<S, M> {
    fn notified(&mut self, _: Notifications) {
        let now = self.clock.now();
        self.check_deadlines(now);
        self.clients.iter_mut().filter(|state| state.answer.is_some()).for_each(ClientState::send_answer);
        self.work_left = true;
        for _ in 0..MAX_STEPS {
            if !(self.receive(now) | self.ask_daemon(now)) {
                self.work_left = false;
                break;
            }
        }
        self.notify_changes();
        self.clients.iter_mut().for_each(|state| state.server.replies.flush());
        if self.ring.take_pending_event() && self.connection != Connection::Dead {
            self.port.send();
        }
    }

    fn deadline(&self) -> Option<Instant> {
        if self.work_left {
            return Some(Instant::START);
        }
        if self.connection == Connection::Connecting {
            return Some(self.next_poll);
        }
        let until = |state: &ClientState<S, M>| match state.transaction {
            Transaction::Open { until, .. } if self.outstanding.is_none() => Some(until),
            _ => None,
        };
        let answer = self.outstanding.map(|outstanding| outstanding.deadline);
        let domid_unknown = self.connection == Connection::Up && self.own_domid.is_empty() && answer.is_none();
        let poll = domid_unknown.then_some(self.next_poll);
        let first = self.clients.iter().filter_map(until).min();
        Instant::earlier(Instant::earlier(answer, poll), first)
    }
}
