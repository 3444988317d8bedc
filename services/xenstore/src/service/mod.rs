//! The state machine between the clients and the daemon.

mod answers;
mod daemon_note;
mod log;
mod requests;

use core::time::Duration;

use arrayvec::{ArrayString, ArrayVec};
use cloister_interfaces::capability::{Clock, Console, Port};
use cloister_interfaces::log::{Peer, PeerLog};
use cloister_interfaces::rules::ClientIndex;
use cloister_interfaces::store::{Reply, Store, StoreError};
use cloister_interfaces::{Instant, Memory, Notifications, Server, Service, System};

use crate::capabilities::{Caps, MAX_CLIENTS};
use crate::inbound::{Inbound, Progress};
use crate::pins::{PinIndex, Pins};
use crate::policy::Rules;
use crate::ring::Ring;
use crate::watches::Watches;
use crate::wire::{MessageType, Packet};
use daemon_note::DaemonNote;

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
    log: PeerLog,
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
        client: ClientIndex,
        id: u16,
        completion: Completion,
    },
}

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Completion {
    Value,
    /// The value says which domain of a set is the peer.
    Peer(PinIndex),
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
    kind: MessageType,
    request: u32,
    deadline: Instant,
}

/// The service.
pub struct XenStore<S, M> {
    console: Console<S>,
    daemon_log: PeerLog,
    clock: Clock<S>,
    ring: Ring<M>,
    memory: M,
    port: Port<S>,
    rules: Rules,
    pins: Pins<S>,
    clients: ArrayVec<ClientState<S, M>, MAX_CLIENTS>,
    /// The client whose request is taken next.
    next_client: ClientIndex,
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
        let client = |(index, server)| ClientState {
            server,
            transaction: Transaction::None,
            answer: None,
            log: PeerLog::new(Peer::Client(ClientIndex(index))),
        };
        let mut service = XenStore {
            console: caps.console,
            daemon_log: PeerLog::new(Peer::Named("the daemon")),
            clock: caps.clock,
            ring: Ring::new(caps.xenstore_ring.clone()),
            memory: caps.xenstore_ring,
            port: caps.xenstore_events,
            rules: Rules::parse(caps.rules),
            pins: Pins::new(caps.pins, caps.rules),
            clients: (0..).zip(caps.store_clients).map(client).collect(),
            next_client: ClientIndex(0),
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
        self.fail_outstanding(StoreError::Timeout);
        if self.ring.reconnect() {
            self.log_daemon(DaemonNote::Reconnecting, format_args!(": {what}; reconnecting"));
            self.silent = true;
            self.connect(now);
            self.port.send();
        } else {
            self.log_daemon(DaemonNote::Dead, format_args!(": {what}; the connection is dead"));
            // So that no transaction is aborted when its time is over.
            self.lose_transactions();
            self.connection = Connection::Dead;
        }
    }

    /// Ends the outstanding request with an error.
    fn fail_outstanding(&mut self, error: StoreError) {
        self.unsent.clear();
        if let Some(Outstanding { job: Job::Client { client, id, completion }, .. }) = self.outstanding.take() {
            self.finish_request(client, id, completion, Err(error));
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
                let time = ANSWER_TIME.as_secs();
                self.log_daemon(DaemonNote::Silent, format_args!(" in {time} s"));
            }
            self.silent = true;
            self.fail_outstanding(StoreError::Timeout);
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
                self.handle_violation("its ring index or the length of a message is impossible", now);
                true
            }
        }
    }

    fn notify_changes(&mut self) {
        for watch in self.watches.iter_mut().filter(|watch| watch.pending) {
            if let Some(state) = self.clients.get_mut(watch.client.index()) {
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
        self.catch_up(now);
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
            return Instant::earlier(Some(self.next_poll), self.log_deadline());
        }
        let until = |state: &ClientState<S, M>| match state.transaction {
            Transaction::Open { until, .. } if self.outstanding.is_none() => Some(until),
            _ => None,
        };
        let answer = self.outstanding.map(|outstanding| outstanding.deadline);
        let domid_unknown = self.connection == Connection::Up && self.own_domid.is_empty() && answer.is_none();
        let poll = domid_unknown.then_some(self.next_poll);
        let first = self.clients.iter().filter_map(until).min();
        Instant::earlier(Instant::earlier(answer, poll), Instant::earlier(first, self.log_deadline()))
    }
}
