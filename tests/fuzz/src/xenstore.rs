//! The XenStore service between hostile clients and a hostile daemon.

use std::cell::Cell;
use std::rc::Rc;

use arbitrary::Arbitrary;
use cloister_caps::xen::xs_wire::{CONNECTION, REQ_CONS, REQ_PROD, RING_SIZE, RSP_CONS, RSP_PROD};
use cloister_caps::{Operation, Slot, Status};
use cloister_interfaces::capability::{Clock, Console, DomainPin, Port};
use cloister_interfaces::rules::{self, ClientIndex, PathRule, PinRule};
use cloister_interfaces::store::{Action, Path, Reply, Request, Store, StoreError, Value};
use cloister_interfaces::{Memory, Message, Service};
use cloister_sim::{ChannelMemory, SharedMemory, Tampered, Xenstored};
use cloister_xenstore::{Caps, service};

use crate::host::{Host, Pause, Work};
use crate::peer::{Act, Peer, ScriptMessage};
use crate::script::{Bytes, Claim, Trace, World};

const OWN: u16 = 7;
const BACKEND: &str = "/local/domain/0/backend/vif/7/0";
/// The clients' rules: client, path, the rights to read, write and watch, and `true` if they are to
/// what is below. Client 0 is hostile.
const RULES: [(u8, &str, [bool; 3], bool); 8] = [
    (0, "control", [true; 3], false),
    (0, "control/0", [true; 3], false),
    (0, "control/1", [true; 3], false),
    (0, "control/2", [true; 3], true),
    (0, "control/3", [true; 3], true),
    (0, "control/end", [true; 3], false),
    (1, "device/vif/0", [true; 3], true),
    (1, "/local/domain/*/backend/vif/{self}/0", [true, false, true], true),
];
/// The node that pins a domain, which the hostile client may read, and write too, so that the script
/// decides its value.
const PIN: PinRule<'static> = PinRule { pin: 0, first: 2, last: 9, node: "control/0" };
const PIN_SLOT: Slot = Slot(5);
/// The work of 256 steps, each a read of two index words and of data, with the console lines of
/// refusals, and that of four clients' queues.
const MOST: Work = Work { invocations: 2200, reads: 1600 };
/// The size of each stream of the ring page, in bytes.
const RING: u32 = RING_SIZE as u32;

fn rules() -> &'static [u8] {
    thread_local! {
        static BLOB: &'static [u8] = {
            let rules = RULES.map(|(client, path, [read, write, watch], below)| PathRule { client: ClientIndex(client), read, write, watch, below, path });
            [rules::encode_rules(&rules).expect("short paths"), rules::encode_rules(&[PIN]).expect("short")].concat().leak()
        };
    }
    BLOB.with(|blob| *blob)
}

/// A path that a client names.
#[derive(Arbitrary, Clone, Debug)]
pub enum Node {
    /// One that its rules may allow, and some below these.
    Own(u8),
    /// Its own directory in absolute form.
    Absolute(u8),
    /// A path of another client.
    Foreign,
    /// A path of another domain.
    Backend,
    /// Any text.
    Text(Bytes),
}

impl Node {
    fn path(&self) -> Path {
        let text = match self {
            Node::Own(number) => format!("control/{}{}", number % 8, if *number < 192 { "" } else { "/x" }),
            Node::Absolute(number) => format!("/local/domain/{}/control", number % 12),
            Node::Foreign => "device/vif/0/state".to_string(),
            Node::Backend => format!("{BACKEND}/state"),
            Node::Text(Bytes(bytes)) => String::from_utf8_lossy(bytes).chars().take(30).collect(),
        };
        Path::from(&text).unwrap_or_default()
    }
}

/// A request of a client.
#[derive(Arbitrary, Clone, Debug)]
pub enum Ask {
    Read(Node),
    Write(Node, Bytes),
    Remove(Node),
    List(Node),
    Watch(Node, u8),
    Unwatch(Node, u8),
    Begin,
    Commit,
    Abort,
}

impl Ask {
    fn action(&self) -> Action {
        match self {
            Ask::Read(node) => Action::Read(node.path()),
            Ask::Write(node, Bytes(bytes)) => Action::Write(node.path(), bytes.iter().copied().take(120).collect()),
            Ask::Remove(node) => Action::Remove(node.path()),
            Ask::List(node) => Action::List(node.path()),
            Ask::Watch(node, token) => Action::Watch(node.path(), (*token).into()),
            Ask::Unwatch(node, token) => Action::Unwatch(node.path(), (*token).into()),
            Ask::Begin => Action::Begin,
            Ask::Commit => Action::Commit,
            Ask::Abort => Action::Abort,
        }
    }
}

/// A request with an id.
#[derive(Arbitrary, Clone, Debug)]
pub struct Numbered(u8, Ask);

impl ScriptMessage<Request> for Numbered {
    fn bytes(&self) -> Vec<u8> {
        let mut bytes = vec![0; Request::SIZE];
        Request { id: self.0.into(), action: self.1.action() }.to_bytes(&mut bytes);
        bytes
    }
}

/// The queue depth, and the first value of the ring's indices.
#[derive(Arbitrary, Debug)]
pub struct Setup {
    depth: u8,
    start: u16,
}

/// The service, its two clients, and the daemon.
struct Bench {
    host: Host,
    ring: SharedMemory,
    daemon: Xenstored,
    service: Box<dyn Service>,
    clients: [Peer<Request, Reply>; 2],
    next: u16,
    /// The number of times that the service pinned a domain.
    pins: Rc<Cell<u32>>,
}

impl Bench {
    /// With `hostile_daemon` the ring page changes while it is read, otherwise the first client's
    /// queue.
    fn new(setup: &Setup, trace: &Trace, hostile_daemon: bool) -> Self {
        let host = Host::new(trace, MOST);
        let ring = SharedMemory::new(4096);
        // A large value is just before the wrap.
        let start = u32::from(setup.start).wrapping_sub(0x4000);
        [REQ_CONS, REQ_PROD, RSP_CONS, RSP_PROD].into_iter().for_each(|index| ring.store(index, start));
        let mut daemon = Xenstored::new(ring.clone(), OWN);
        daemon.offer_reconnection(true);
        daemon.set(&daemon.own("device/vif/0/state"), "1");
        daemon.set(&format!("{BACKEND}/state"), "2");
        let depth = 2 << (setup.depth % 5);
        let channels = [ChannelMemory::new::<Store>(depth), ChannelMemory::new::<Store>(depth)];
        let first = if hostile_daemon { host.honest_server(&channels[0], 2) } else { host.server(&channels[0], 2) };
        let service = service(Caps {
            console: Console::new(host.system.clone(), Slot(0)),
            clock: Clock::new(host.system.clone(), Slot(1)),
            xenstore_ring: if hostile_daemon { host.theirs(ring.clone()) } else { Tampered::own(ring.clone()) },
            xenstore_events: Port::new(host.system.clone(), Slot(9), 20),
            store_clients: [first, host.honest_server(&channels[1], 3)].into_iter().collect(),
            pins: [DomainPin::new(host.system.clone(), PIN_SLOT)].into_iter().collect(),
            rules: rules(),
        });
        // Whatever the daemon and the clients do, the one invocation with an argument that they
        // choose stays in its range. The kernel has a port or a page in use with each fourth domain.
        let pins = Rc::new(Cell::new(0));
        let count = pins.clone();
        host.recorder.answer(move |slot, operation, [domain, rest @ ..]| {
            if operation == Operation::DomainPin {
                count.set(count.get() + 1);
                let ids = u64::from(PIN.first)..=u64::from(PIN.last);
                assert!(slot == PIN_SLOT && ids.contains(&domain) && rest == [0; 3], "pinned {domain}");
                let status = if domain % 4 == 0 { Status::InUse } else { Status::Done };
                return status.into_result().map(|()| [0; 2]);
            }
            Ok([0; 2])
        });
        let clients = [Peer::client(&channels[0]), Peer::client(&channels[1])];
        Bench { host, ring, daemon, service: Box::new(service), clients, next: 1000, pins }
    }

    fn settle(&mut self) -> Vec<(usize, Reply)> {
        let mut messages = Vec::new();
        let (daemon, clients) = (&mut self.daemon, &mut self.clients);
        self.host.settle(self.service.as_mut(), 2000, || {
            let before = messages.len();
            for (number, client) in clients.iter_mut().enumerate() {
                messages.extend(client.receive().into_iter().map(|reply| (number, reply)));
            }
            daemon.run() | (messages.len() > before)
        });
        messages
    }

    /// Makes a request, and returns the reply that it gets if nothing prevents it.
    fn ask(&mut self, client: usize, action: Action) -> Result<Value, StoreError> {
        self.next += 1;
        assert!(self.clients[client].send(&Request { id: self.next, action: action.clone() }), "no room");
        let messages = self.settle();
        let answers: Vec<_> = messages
            .into_iter()
            .filter_map(|(of, reply)| match reply {
                Reply::Answer { id, result } if (of, id) == (client, self.next) => Some(result),
                _ => None,
            })
            .collect();
        assert_eq!(answers.len(), 1, "{action:?}");
        answers.into_iter().next().expect("one")
    }

    /// Checks that the node's value pins a domain, or is refused while the set is in use.
    fn pins(&mut self) {
        let node = Path::from(PIN.node).expect("short");
        let _ = self.ask(0, Action::Abort);
        for (number, answer) in [("5", Ok(())), ("8", Err(StoreError::InUse)), ("12", Ok(()))] {
            self.daemon.set(&self.daemon.own(PIN.node), number);
            let before = self.pins.get();
            assert_eq!(self.ask(0, Action::Read(node)).map(drop), answer, "{number}");
            assert_eq!(self.pins.get() - before, u32::from(number != "12"), "{number}");
        }
    }

    /// Checks that both clients are served, each only as its rules allow.
    fn serves(&mut self) {
        self.pins();
        let path = |text: &str| Path::from(text).expect("short");
        let value = |text: &[u8]| Value::try_from(text).expect("short");
        let _ = self.ask(0, Action::Abort);
        assert_eq!(self.ask(0, Action::Write(path("control/end"), value(b"x"))), Ok(Value::new()));
        assert_eq!(self.ask(0, Action::Read(path("/local/domain/7/control/end"))), Ok(value(b"x")));
        assert_eq!(self.ask(0, Action::Read(path("device/vif/0/state"))), Err(StoreError::Policy));
        let _ = self.ask(1, Action::Abort);
        assert_eq!(self.ask(1, Action::Begin), Ok(Value::new()));
        assert_eq!(self.ask(1, Action::Write(path("device/vif/0/state"), value(b"4"))), Ok(Value::new()));
        assert_eq!(self.ask(1, Action::Commit), Ok(Value::new()));
        assert_eq!(self.ask(1, Action::Read(path(&format!("{BACKEND}/state")))), Ok(value(b"2")));
        assert_eq!(self.daemon.text("/local/domain/7/device/vif/0/state").as_deref(), Some("4"));
        assert_eq!(self.daemon.open_transactions(), 0, "a transaction was left open");
    }
}

/// A step of the hostile client, of the honest one or of the daemon.
#[derive(Arbitrary, Debug)]
pub enum ClientStep {
    /// The hostile client sends this.
    Hostile(Act<Numbered>),
    /// The honest client reads its device.
    Honest,
    /// The daemon serves the ring.
    Serve,
    /// A commit fails.
    Conflict,
    /// The daemon answers a request with an error.
    Error(u8),
    /// The daemon limits the guest's nodes, watches and transactions.
    Quota(u8),
    /// Time passes.
    Pass(Pause),
}

/// The service against a hostile client.
pub struct Clients(Bench);

impl Clients {
    /// Checks that only requests that a rule allows reached the daemon.
    fn check(&mut self) {
        const WITHOUT_PATH: [u32; 3] = [6, 7, 21];
        /// `XS_RM` (`xs_wire.h`).
        const REMOVE: u32 = 13;
        let honest = ["domid", "device/vif/0/state"];
        for (kind, first) in self.0.daemon.requests.drain(..).filter(|(kind, _)| !WITHOUT_PATH.contains(kind)) {
            let below = first.strip_prefix("/local/domain/7/").unwrap_or(&first);
            let subtree = below.starts_with("control/2/") || below.starts_with("control/3/");
            // What is removed takes with it all that is below.
            let node = ["control", "control/0", "control/1", "control/end"].contains(&below) && kind != REMOVE;
            assert!(
                node || subtree || honest.contains(&first.as_str()),
                "request {kind} for {first} reached the daemon"
            );
        }
        assert!(self.0.daemon.watch_count() <= 4, "more watches than a client may hold");
        assert!(self.0.daemon.open_transactions() <= 1, "more transactions than a client may have");
    }
}

impl World for Clients {
    type Setup = Setup;
    type Step = ClientStep;

    fn new(setup: Setup, trace: &Trace) -> Self {
        Clients(Bench::new(&setup, trace, false))
    }

    fn step(&mut self, step: ClientStep) {
        const ERRORS: [&str; 8] = ["ENOENT", "EACCES", "EAGAIN", "ENOSPC", "EBUSY", "EINVAL", "EIO", ""];
        let bench = &mut self.0;
        match step {
            ClientStep::Hostile(act) => drop(bench.clients[0].act(act, &bench.host)),
            ClientStep::Honest => {
                let path = Path::from("device/vif/0/state").expect("short");
                bench.clients[1].send(&Request { id: 1, action: Action::Read(path) });
            }
            ClientStep::Serve => drop(bench.daemon.run()),
            ClientStep::Conflict => bench.daemon.conflicts += 1,
            ClientStep::Error(which) => bench.daemon.errors.push_back(ERRORS[usize::from(which) % ERRORS.len()]),
            ClientStep::Quota(least) => {
                let least = usize::from(least);
                let quota = &mut bench.daemon.quota;
                (quota.nodes, quota.node_size, quota.watches, quota.transactions) =
                    (least, least, least % 4, least % 2);
            }
            ClientStep::Pass(pause) => bench.host.pass(pause.nanoseconds()),
        }
        bench.host.call(bench.service.as_mut());
        bench.clients[1].receive();
        self.check();
    }

    fn honest(mut self) {
        let bench = &mut self.0;
        bench.clients[0].behave(&bench.host);
        (bench.daemon.quota, bench.daemon.conflicts) = (Default::default(), 0);
        bench.daemon.errors.clear();
        bench.daemon.set("/local/domain/7/control/shutdown", "");
        bench.settle();
        // Requests without a reply wait at most for the daemon's time, or for that of a
        // transaction.
        bench.host.pass(20_000_000_000);
        bench.settle();
        bench.serves();
        self.0.daemon.requests.clear();
    }
}

/// A step of the daemon, or a client's request.
#[derive(Arbitrary, Debug)]
pub enum WireStep {
    /// Serves the ring honestly.
    Serve,
    /// Sends a reply with this type, id, transaction and payload.
    Answer {
        kind: u8,
        number: Number,
        transaction: u8,
        payload: Bytes,
    },
    /// Claims a length that is not that of the payload.
    Header {
        kind: u8,
        number: Number,
        length: Claim,
    },
    /// Sends an error by its name.
    Error(Number, u8),
    /// Sends a watch event.
    Event(u8, Bytes),
    /// Writes bytes into the stream of replies.
    Raw(Bytes),
    /// Claims another index: of the replies that it has written, or of the requests that it has
    /// consumed.
    RspProd(Claim),
    ReqCons(Claim),
    /// Overwrites the guest's own indices.
    Own(u32, u32),
    /// Writes the words of the connection's state.
    Offer(bool),
    Connection(u8),
    /// Changes words while they are read.
    Lie(Bytes),
    /// A client makes a request that the other client's rules do not allow.
    Ask(bool, Ask),
    /// Time passes.
    Pass(Pause),
}

/// The id of the request that the daemon claims to answer.
#[derive(Arbitrary, Clone, Copy, Debug)]
pub enum Number {
    /// That of the last request.
    Last,
    /// Another id.
    Other(u32),
}

/// The service against a hostile daemon.
pub struct Daemon {
    bench: Bench,
    /// The index of the stream of replies, as the daemon knows it.
    at: u32,
}

impl Daemon {
    fn put(&mut self, bytes: &[u8]) {
        for byte in bytes {
            self.bench.ring.write(RING as usize + (self.at % RING) as usize, &[*byte]);
            self.at = self.at.wrapping_add(1);
        }
        self.bench.ring.store(RSP_PROD, self.at);
    }

    /// Returns the id of the last request in the ring: the second word of its header.
    fn last(&self) -> u32 {
        let end = self.bench.ring.load(REQ_PROD);
        // Requests of the service are shorter than this, so the last header is within it. It is the
        // first of a plausible type whose length leads to the end.
        let byte = |back: u32| self.bench.ring.bytes((end.wrapping_sub(back) % RING) as usize, 1)[0];
        let word = |back: u32| u32::from_le_bytes([byte(back), byte(back - 1), byte(back - 2), byte(back - 3)]);
        (16..290).find(|back| word(*back) < 22 && word(back - 12) == back - 16).map_or(0, |back| word(back - 4))
    }

    fn message(&mut self, kind: u32, number: Number, transaction: u32, length: u32, payload: &[u8]) {
        let number = match number {
            Number::Last => self.last(),
            Number::Other(other) => other,
        };
        let mut bytes = Vec::new();
        for field in [kind, number, transaction, length] {
            bytes.extend(field.to_le_bytes());
        }
        bytes.extend(payload);
        self.put(&bytes);
    }

    fn act(&mut self, step: WireStep) {
        const NAMES: [&str; 6] = ["ENOENT\0", "EAGAIN\0", "EACCES", "ENOSPC\0", "E\0E\0", "\u{fffd}"];
        let ring = self.bench.ring.clone();
        match step {
            WireStep::Serve => {
                self.bench.daemon.resume();
                self.bench.daemon.run();
                self.at = ring.load(RSP_PROD);
            }
            WireStep::Answer { kind, number, transaction, payload: Bytes(payload) } => {
                self.message(u32::from(kind % 24), number, transaction.into(), payload.len() as u32, &payload);
            }
            WireStep::Header { kind, number, length } => {
                self.message(u32::from(kind % 24), number, 0, length.of(16), &[]);
            }
            WireStep::Error(number, which) => {
                let name = NAMES[usize::from(which) % NAMES.len()];
                self.message(16, number, 0, name.len() as u32, name.as_bytes());
            }
            WireStep::Event(token, Bytes(path)) => {
                let payload = [&path[..], b"\0", token.to_string().as_bytes(), b"\0"].concat();
                self.message(15, Number::Other(0), 0, payload.len() as u32, &payload);
            }
            WireStep::Raw(Bytes(bytes)) => self.put(&bytes),
            WireStep::RspProd(claim) => ring.store(RSP_PROD, claim.of(self.at)),
            WireStep::ReqCons(claim) => {
                ring.store(REQ_CONS, claim.of(ring.load(REQ_PROD)));
            }
            WireStep::Own(req_prod, rsp_cons) => {
                ring.store(REQ_PROD, req_prod);
                ring.store(RSP_CONS, rsp_cons);
            }
            WireStep::Offer(offered) => self.bench.daemon.offer_reconnection(offered),
            WireStep::Connection(word) => ring.store(CONNECTION, u32::from(word % 4)),
            WireStep::Lie(Bytes(bytes)) => {
                self.bench.host.script.lie(&bytes);
            }
            WireStep::Ask(second, ask) => {
                self.bench.next += 1;
                let (id, action) = (self.bench.next, ask.action());
                self.bench.clients[usize::from(second)].send(&Request { id, action });
            }
            WireStep::Pass(pause) => self.bench.host.pass(pause.nanoseconds()),
        }
    }
}

impl World for Daemon {
    type Setup = Setup;
    type Step = WireStep;

    fn new(setup: Setup, trace: &Trace) -> Self {
        let mut bench = Bench::new(&setup, trace, true);
        bench.daemon.forgiving = true;
        let at = bench.ring.load(RSP_PROD);
        Daemon { bench, at }
    }

    fn step(&mut self, step: WireStep) {
        self.act(step);
        self.bench.host.call(self.bench.service.as_mut());
        for client in &mut self.bench.clients {
            client.receive();
        }
    }

    fn honest(mut self) {
        let bench = &mut self.bench;
        bench.host.script.lie(&[]);
        // A daemon that does not know its index any more breaks the connection, so that the service
        // reconnects.
        bench.daemon.offer_reconnection(true);
        for _ in 0..4 {
            bench.ring.store(RSP_PROD, bench.ring.load(RSP_CONS).wrapping_add(RING + 1));
            bench.host.pass(2_000_000_000);
            bench.host.call(bench.service.as_mut());
            if bench.ring.load(CONNECTION) == 1 {
                break;
            }
            bench.ring.store(CONNECTION, 0);
        }
        bench.daemon.resume();
        bench.daemon.run();
        for _ in 0..4 {
            bench.host.pass(6_000_000_000);
            bench.settle();
        }
        if bench.host.recorder.console().contains("the connection is dead") {
            // The daemon broke the protocol while it offered no reconnection: requests of clients
            // fail at once.
            let path = Path::from("control/end").expect("short");
            assert_eq!(bench.ask(0, Action::Read(path)), Err(StoreError::Timeout));
        } else {
            bench.serves();
        }
    }
}
