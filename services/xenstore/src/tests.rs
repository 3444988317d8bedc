//! The service against the simulated daemon, and against a hostile one.

mod hostile_daemon;
mod log;
mod nodes;
mod passes;
mod pins;

use cloister_caps::{Operation, Slot, Status};
use cloister_interfaces::capability::{Clock, Console, DomainPin, Port};
use cloister_interfaces::rules::{PinRule, encode_rules};
use cloister_interfaces::store::{Action, Path, Reply, Request, Store, StoreError, Value};
use cloister_interfaces::{Client, Instant, Memory, Notifications, Service};
use cloister_sim::{ChannelMemory, Recorder, SharedMemory, Xenstored};
use proptest::prelude::*;

use crate::policy::tests::blob;
use crate::service::XenStore;
use crate::{Caps, wire};

const OWN: u16 = 7;
/// The node that pins a domain.
const PEER_NODE: &str = "device/vif/0/backend-id";
const BACKEND: &str = "/local/domain/0/backend/vif/7/0";

type StoreClient = Client<Store, Recorder, SharedMemory>;

struct World {
    system: Recorder,
    ring: SharedMemory,
    daemon: Xenstored,
    /// The memory of each client's queues.
    memory: [ChannelMemory; 2],
    service: XenStore<Recorder, SharedMemory>,
    clients: Vec<Client<Store, Recorder, SharedMemory>>,
    replies: Vec<Vec<Reply>>,
    next: u16,
}

fn service(
    system: &Recorder,
    ring: &SharedMemory,
    memory: &[ChannelMemory; 2],
) -> (XenStore<Recorder, SharedMemory>, Vec<StoreClient>) {
    let (mut clients, mut servers) = (Vec::new(), Vec::new());
    for (bit, memory) in (0..).zip(memory) {
        let (client, server) = memory.ends((system, bit), (system, bit + 8));
        clients.push(client);
        servers.push(server);
    }
    let caps = Caps {
        console: Console::new(system.clone(), Slot(0)),
        clock: Clock::new(system.clone(), Slot(1)),
        xenstore_ring: ring.clone(),
        xenstore_events: Port::new(system.clone(), Slot(2), 20),
        store_clients: servers.into_iter().collect(),
        pins: [DomainPin::new(system.clone(), Slot(3))].into_iter().collect(),
        rules: [
            blob(&[
                (0, "rwn", "control"),
                (0, "rwn", "control/**"),
                (1, "rwn", "device/vif/0"),
                (1, "rwn", "device/vif/0/**"),
                (1, "rwn", "data/one"),
                (1, "rwn", "data/two/**"),
                (1, "rn", "/local/domain/*/backend/vif/*/0"),
                (1, "rn", "/local/domain/*/backend/vif/*/0/**"),
            ]),
            &encode_rules(&[PinRule { pin: 0, first: 3, last: 9, node: PEER_NODE }]).expect("short"),
        ]
        .concat()
        .leak(),
    };
    (XenStore::new(caps), clients)
}

impl World {
    fn new(start: u32, depth: u32) -> World {
        let system = Recorder::new();
        let ring = SharedMemory::new(4096);
        for offset in [2048, 2052, 2056, 2060] {
            ring.store(offset, start);
        }
        let mut daemon = Xenstored::new(ring.clone(), OWN);
        daemon.set(&daemon.own("device/vif/0/mac"), "00:16:3e:11:22:33");
        daemon.set(&format!("{BACKEND}/state"), "2");
        let memory = [(); 2].map(|()| ChannelMemory::new::<Store>(depth));
        let (service, clients) = service(&system, &ring, &memory);
        World { system, ring, daemon, memory, service, clients, replies: vec![Vec::new(), Vec::new()], next: 0 }
    }

    fn settle(&mut self) {
        for _ in 0..200 {
            self.service.notified(Notifications::ALL);
            let moved = self.daemon.run();
            let mut got = false;
            for (client, replies) in self.clients.iter_mut().zip(&mut self.replies) {
                while let Some(reply) = client.replies.pop() {
                    replies.push(reply.expect("a well-formed reply"));
                    got = true;
                }
            }
            let work_left = self.service.deadline() == Some(Instant::START);
            if !moved && !got && !work_left {
                return;
            }
        }
        panic!("it does not settle");
    }

    fn send(&mut self, client: usize, action: Action) -> u16 {
        self.next += 1;
        self.clients[client].requests.send(&Request { id: self.next, action }).expect("room");
        self.next
    }

    fn ask(&mut self, client: usize, action: Action) -> Result<Vec<u8>, StoreError> {
        let id = self.send(client, action);
        self.settle();
        self.take(client, id).expect("an answer")
    }

    fn take(&mut self, client: usize, id: u16) -> Option<Result<Vec<u8>, StoreError>> {
        let at =
            self.replies[client].iter().position(|reply| matches!(reply, Reply::Answer { id: of, .. } if *of == id))?;
        match self.replies[client].remove(at) {
            Reply::Answer { result, .. } => Some(result.map(|value| value.to_vec())),
            Reply::Changed { .. } => None,
        }
    }

    fn changes(&mut self, client: usize) -> Vec<u16> {
        self.replies[client]
            .drain(..)
            .filter_map(|reply| match reply {
                Reply::Changed { token } => Some(token),
                Reply::Answer { .. } => None,
            })
            .collect()
    }

    fn pass(&mut self, seconds: u64) {
        let now = self.service_now() + seconds * 1_000_000_000;
        self.system.set_now(now);
    }

    fn service_now(&self) -> u64 {
        Clock::new(self.system.clone(), Slot(1)).now().0
    }
}

fn path(text: &str) -> Path {
    Path::from(text).expect("a short path")
}
fn value(text: &str) -> Value {
    Value::try_from(text.as_bytes()).expect("a short value")
}
fn read(text: &str) -> Action {
    Action::Read(path(text))
}
fn write(text: &str, bytes: &str) -> Action {
    Action::Write(path(text), value(bytes))
}

#[test]
fn the_longest_request_fits() {
    let (longest_path, longest_value) = ([b'a'; 120], [b'b'; 120]);
    assert!(wire::request(wire::MessageType::Write, 1, 1, &[&longest_path, b"\0", &longest_value]).is_some());
    assert!(wire::request(wire::MessageType::Watch, 1, 1, &[&longest_path, b"\0", b"65535", b"\0"]).is_some());
}

#[test]
fn the_service_is_small() {
    let size = size_of::<XenStore<Recorder, SharedMemory>>();
    assert!(size < 6144, "{size} bytes");
}

#[test]
fn reads_writes_lists_and_removes() {
    let mut world = World::new(u32::MAX - 100, 8);
    assert_eq!(world.ask(1, read("device/vif/0/mac")), Ok(b"00:16:3e:11:22:33".to_vec()));
    assert_eq!(world.ask(1, read("/local/domain/7/device/vif/0/mac")), Ok(b"00:16:3e:11:22:33".to_vec()));
    assert_eq!(world.ask(1, write("device/vif/0/state", "4")), Ok(vec![]));
    assert_eq!(world.daemon.text("/local/domain/7/device/vif/0/state").as_deref(), Some("4"));
    assert_eq!(world.ask(1, Action::List(path("device/vif/0"))), Ok(b"mac\0state\0".to_vec()));
    assert_eq!(world.ask(1, Action::Remove(path("device/vif/0/state"))), Ok(vec![]));
    assert_eq!(world.ask(1, read("device/vif/0/state")), Err(StoreError::NotFound));
    assert_eq!(world.ask(1, write("device/vif/0/mtu", "9000")), Err(StoreError::Access));
    for _ in 0..100 {
        assert_eq!(world.ask(1, read(&format!("{BACKEND}/state"))), Ok(b"2".to_vec()));
    }
}

#[test]
fn what_no_rule_gives_is_refused_and_logged_and_the_daemon_never_sees_it() {
    let mut world = World::new(0, 8);
    world.settle();
    let before = world.daemon.requests.len();
    assert_eq!(world.ask(0, read("device/vif/0/mac")), Err(StoreError::Policy));
    assert_eq!(world.ask(1, write(&format!("{BACKEND}/state"), "6")), Err(StoreError::Policy));
    assert_eq!(world.ask(1, read("device/vif/0/../../control/shutdown")), Err(StoreError::Policy));
    assert_eq!(world.ask(1, read("control/a\nxenstore: all is well")), Err(StoreError::Policy));
    assert_eq!(world.ask(0, Action::Watch(path("@releaseDomain"), 1)), Err(StoreError::Policy));
    assert_eq!(world.daemon.requests.len(), before);
    let log = world.system.console();
    assert!(log.contains("refused client 0: no path rule lets it read device/vif/0/mac"), "{log}");
    assert!(log.contains("refused client 1: no path rule lets it write"), "{log}");
    assert!(!log.lines().any(|line| line == "xenstore: all is well"), "{log}");
}

#[test]
fn an_answer_too_long_for_a_message_is_a_failure_and_the_stream_goes_on() {
    let mut world = World::new(0, 8);
    for length in [120, 121, 256, 257, 4096] {
        world.daemon.set("/local/domain/7/device/vif/0/long", vec![b'x'; length]);
        let expected = if length <= 120 { Ok(vec![b'x'; length]) } else { Err(StoreError::TooLong) };
        assert_eq!(world.ask(1, read("device/vif/0/long")), expected);
    }
    assert!(world.ask(1, read("device/vif/0/mac")).is_ok());
}

#[test]
fn watches_fire_on_registration_and_on_change_with_the_clients_token() {
    let mut world = World::new(0, 8);
    assert_eq!(world.ask(1, Action::Watch(path(&format!("{BACKEND}/state")), 500)), Ok(vec![]));
    assert_eq!(world.ask(0, Action::Watch(path("control/shutdown"), 500)), Ok(vec![]));
    assert_eq!((world.changes(0), world.changes(1)), (vec![500], vec![500]));
    world.daemon.set(&format!("{BACKEND}/state"), "4");
    world.settle();
    assert_eq!((world.changes(0), world.changes(1)), (vec![], vec![500]));
    assert_eq!(world.ask(1, Action::Unwatch(path(&format!("{BACKEND}/state")), 500)), Ok(vec![]));
    world.daemon.set(&format!("{BACKEND}/state"), "5");
    world.settle();
    assert_eq!(world.changes(1), Vec::<u16>::new());
    assert_eq!(world.ask(1, Action::Unwatch(path(&format!("{BACKEND}/state")), 500)), Err(StoreError::NotFound));
    assert_eq!(world.daemon.watch_count(), 1);
}

#[test]
fn a_client_cannot_use_up_the_others_watches() {
    let mut world = World::new(0, 8);
    for token in 0..4 {
        assert_eq!(world.ask(1, Action::Watch(path("device/vif/0"), token)), Ok(vec![]));
    }
    assert_eq!(world.ask(1, Action::Watch(path("device/vif/0"), 4)), Err(StoreError::Quota));
    assert_eq!(world.ask(1, Action::Watch(path("device/vif/0"), 3)), Err(StoreError::Other));
    assert_eq!(world.ask(0, Action::Watch(path("control"), 0)), Ok(vec![]));
    assert_eq!(world.ask(1, Action::Unwatch(path("device/vif/0"), 0)), Ok(vec![]));
    assert_eq!(world.ask(1, Action::Watch(path("device/vif/0"), 4)), Ok(vec![]), "it has room again");
}

#[test]
fn a_full_reply_queue_delays_answers_and_changes_and_loses_none() {
    let mut world = World::new(0, 2);
    world.ask(1, Action::Watch(path("device/vif/0"), 9)).expect("a watch");
    world.changes(1);
    let mut sent = vec![world.send(1, read("device/vif/0/mac")), world.send(1, read("device/vif/0/mac"))];
    for round in 0..20 {
        world.daemon.set("/local/domain/7/device/vif/0/x", round.to_string());
        world.service.notified(Notifications::ALL);
        world.daemon.run();
        if world.clients[1].requests.room() > 0 && sent.len() < 8 {
            sent.push(world.send(1, read("device/vif/0/mac")));
        }
    }
    assert!(sent.len() < 8, "requests wait while answers are not taken");
    world.settle();
    for id in sent {
        assert!(world.take(1, id).expect("an answer").is_ok());
    }
    assert!(!world.changes(1).is_empty());
}

#[test]
fn transactions_of_two_clients_are_separate_and_a_conflict_fails() {
    let mut world = World::new(0, 8);
    assert_eq!(world.ask(0, Action::Commit), Err(StoreError::Other));
    assert_eq!(world.ask(0, Action::Begin), Ok(vec![]));
    assert_eq!(world.ask(0, Action::Begin), Err(StoreError::Other));
    assert_eq!(world.ask(1, Action::Begin), Ok(vec![]));
    assert_eq!(world.ask(0, write("control/shutdown", "x")), Ok(vec![]));
    assert_eq!(world.ask(1, write("device/vif/0/state", "4")), Ok(vec![]));
    assert_eq!(world.daemon.text("/local/domain/7/control/shutdown").as_deref(), Some(""));
    world.daemon.set("/local/domain/7/control/shutdown", "poweroff");
    assert_eq!(world.ask(0, Action::Commit), Err(StoreError::Again));
    assert_eq!(world.ask(1, Action::Abort), Ok(vec![]));
    assert_eq!(world.daemon.text("/local/domain/7/control/shutdown").as_deref(), Some("poweroff"));
    assert_eq!(world.daemon.get("/local/domain/7/device/vif/0/state"), None);
    assert_eq!(world.ask(0, Action::Begin), Ok(vec![]));
}

#[test]
fn a_transaction_is_not_kept_open_for_ever() {
    let mut world = World::new(0, 8);
    assert_eq!(world.ask(0, Action::Begin), Ok(vec![]));
    let deadline = world.service.deadline().expect("a deadline").0;
    assert_eq!(deadline, world.service_now() + 10_000_000_000);
    world.pass(9);
    assert_eq!(world.ask(0, write("control/x", "1")), Ok(vec![]));
    world.pass(1);
    world.settle();
    assert_eq!((world.daemon.open_transactions(), world.service.deadline()), (0, None));
    assert_eq!(world.ask(0, Action::Commit), Err(StoreError::Again));
    assert_eq!(world.daemon.get("/local/domain/7/control/x"), None);
    assert_eq!(world.ask(0, Action::Begin), Ok(vec![]));
    // A client may give the lost one up, or begin another without a word about it.
    for _ in 0..2 {
        world.pass(10);
        world.settle();
        assert_eq!(world.ask(0, Action::Begin), Ok(vec![]));
    }
    world.pass(10);
    world.settle();
    assert_eq!((world.ask(0, Action::Abort), world.ask(0, Action::Commit)), (Ok(vec![]), Err(StoreError::Other)));
}

#[test]
fn a_silent_daemon_costs_a_time_out_and_is_recovered_from() {
    let mut world = World::new(0, 8);
    world.ask(1, Action::Watch(path("device/vif/0"), 9)).expect("a watch");
    world.ask(1, Action::Begin).expect("a transaction");
    world.changes(1);
    world.daemon.silent = true;
    let id = world.send(1, read("device/vif/0/mac"));
    world.settle();
    assert_eq!(world.take(1, id), None);
    let deadline = world.service.deadline().expect("a deadline");
    assert_eq!(deadline.0, world.service_now() + 5_000_000_000);
    world.pass(5);
    world.settle();
    assert_eq!(world.take(1, id), Some(Err(StoreError::Timeout)));
    assert_eq!(world.ask(0, read("control/shutdown")), Err(StoreError::Timeout), "at once while it is silent");
    world.daemon.silent = false;
    world.settle();
    assert_eq!(world.ask(1, read("device/vif/0/mac")), Err(StoreError::Again), "the transaction is lost");
    assert_eq!(world.ask(1, Action::Commit), Err(StoreError::Again));
    assert_eq!(world.ask(1, read("device/vif/0/mac")), Ok(b"00:16:3e:11:22:33".to_vec()));
    assert_eq!(world.changes(1), vec![9], "the watch is registered again, and what was missed is looked at");
    assert_eq!((world.daemon.watch_count(), world.daemon.open_transactions()), (1, 0));
    assert!(world.system.console().contains("answers again"));
}

#[test]
fn a_restarted_service_finds_its_place_in_the_stream() {
    let mut world = World::new(77, 8);
    world.ask(1, Action::Watch(path("device/vif/0"), 9)).expect("a watch");
    world.daemon.set("/local/domain/7/device/vif/0/long", vec![b'x'; 1000]);
    world.send(1, read("device/vif/0/long"));
    world.service.notified(Notifications::ALL);
    world.daemon.run();
    let half = &mut [0; 30];
    let mut ring = crate::ring::Ring::new(world.ring.clone());
    assert_eq!(ring.receive(half), Ok(30));
    world.system.set_now(99_000_000_123);
    world.memory = [(); 2].map(|()| ChannelMemory::new::<Store>(8));
    (world.service, world.clients) = service(&world.system, &world.ring, &world.memory);
    assert_eq!(world.ask(1, read("device/vif/0/mac")), Ok(b"00:16:3e:11:22:33".to_vec()));
    assert_eq!(world.daemon.watch_count(), 0);
}

#[test]
fn impossible_indices_end_the_connection_and_clients_get_a_failure() {
    let mut world = World::new(0, 8);
    world.settle();
    world.daemon.silent = true;
    world.ring.store(2060, 5_000);
    assert_eq!(world.ask(1, read("device/vif/0/mac")), Err(StoreError::Timeout));
    assert_eq!(world.ask(0, read("control/shutdown")), Err(StoreError::Timeout));
    let console = world.system.console();
    let line =
        "violation by the daemon: its ring index or the length of a message is impossible; the connection is dead";
    assert_eq!(console, format!("{line}\n"));
    assert_eq!(world.service.deadline(), None);
}

/// Whatever was under way when the connection ended for good: there is no deadline, and above all
/// none in the past.
#[test]
fn a_dead_connection_leaves_nothing_to_wait_for() {
    for begun in [
        &[][..],
        &[Action::Begin],
        &[Action::Begin, write("device/vif/0/x", "1")],
        &[Action::Watch(path("device/vif/0"), 1), Action::Begin],
    ] {
        for waiting in [false, true] {
            let mut world = World::new(0, 8);
            world.settle();
            for action in begun {
                world.ask(1, action.clone()).expect("carried out");
            }
            world.daemon.silent = true;
            if waiting {
                world.send(1, read("device/vif/0/mac"));
                world.service.notified(Notifications::ALL);
            }
            world.ring.store(2060, world.ring.load(2056).wrapping_add(5_000));
            world.settle();
            assert!(world.system.console().contains("is dead"));
            for seconds in [0, 4, 7, 100] {
                world.pass(seconds);
                world.settle();
                assert_eq!(world.service.deadline(), None, "{begun:?} {waiting} {seconds}");
            }
            assert_eq!(world.ask(1, Action::Commit), Err(StoreError::Timeout));
        }
    }
}

#[test]
fn a_daemon_that_offers_it_is_reconnected_to() {
    let mut world = World::new(0, 8);
    world.ask(1, Action::Watch(path("device/vif/0"), 9)).expect("a watch");
    world.changes(1);
    world.ring.store(2064, 1);
    world.ring.store(2060, 90_000);
    world.service.notified(Notifications::ALL);
    assert_eq!(world.ring.load(2068), 1, "asks for a new connection");
    let line = "violation by the daemon: its ring index or the length of a message is impossible; reconnecting";
    assert_eq!(world.system.console(), format!("{line}\n"));
    assert_eq!(world.ask(1, read("device/vif/0/mac")), Err(StoreError::Timeout));
    for offset in [2048, 2052, 2056, 2060] {
        world.ring.store(offset, 0);
    }
    let mut daemon = Xenstored::new(world.ring.clone(), OWN);
    daemon.set("/local/domain/7/device/vif/0/mac", "x");
    world.daemon = daemon;
    world.ring.store(2068, 0);
    world.settle();
    assert_eq!(world.ask(1, read("device/vif/0/mac")), Ok(b"x".to_vec()));
    assert_eq!(world.daemon.watch_count(), 1);
}

#[test]
fn a_daemon_that_does_not_tell_the_own_id_at_first_is_asked_again() {
    let mut world = World::new(0, 8);
    world.daemon.errors.push_back("EIO");
    world.settle();
    assert_eq!(world.service.deadline(), Some(Instant(world.service_now() + 1_000_000_000)));
    let absolute = || read("/local/domain/7/device/vif/0/mac");
    assert_eq!(world.ask(1, absolute()), Err(StoreError::Policy));
    assert!(world.ask(1, read("device/vif/0/mac")).is_ok());
    world.pass(1);
    world.settle();
    assert_eq!(world.ask(1, absolute()), Ok(b"00:16:3e:11:22:33".to_vec()));
}

#[test]
fn the_daemon_is_notified_of_every_move() {
    let mut world = World::new(0, 8);
    world.service.notified(Notifications::ALL);
    let sends = |system: &Recorder| system.take_calls().iter().filter(|call| call.1 == Operation::PortSend).count();
    assert_eq!(sends(&world.system), 1);
    world.service.notified(Notifications::ALL);
    assert_eq!(sends(&world.system), 0, "nothing moved");
}

/// Writes a message to the response stream.
fn inject(ring: &SharedMemory, kind: u32, request: u32, length: u32, payload: &[u8]) {
    let mut bytes = wire::Header { kind, request, transaction: 0, length }.encode().to_vec();
    bytes.extend(payload);
    let mut at = ring.load(2060);
    for byte in bytes {
        ring.write(1024 + (at % 1024) as usize, &[byte]);
        at = at.wrapping_add(1);
    }
    ring.store(2060, at);
}

#[test]
fn answers_of_the_wrong_number_or_type_are_dropped() {
    let mut world = World::new(0, 8);
    world.settle();
    let id = world.send(1, read("device/vif/0/mac"));
    world.service.notified(Notifications::ALL);
    let request = world.ring.bytes(((world.ring.load(2052) - 33) % 1024) as usize + 4, 4);
    let request = u32::from_le_bytes(request.try_into().expect("four bytes"));
    inject(&world.ring, 2, request.wrapping_add(1), 4, b"evil");
    inject(&world.ring, 15, 0, 3, b"a\x003");
    inject(&world.ring, 15, 0, 6, b"a\x00999\0");
    inject(&world.ring, 99, 0, 0, b"");
    world.service.notified(Notifications::ALL);
    world.settle_clients();
    assert_eq!(world.take(1, id), None);
    inject(&world.ring, 11, request, 3, b"OK\0");
    world.service.notified(Notifications::ALL);
    world.settle_clients();
    assert_eq!(world.take(1, id), Some(Err(StoreError::Other)));
    assert_eq!(
        world.violations(),
        [
            "violation by the daemon: a watch event without a token (dropped)",
            "violation by the daemon: an answer of the wrong type, 11"
        ]
    );
}

#[test]
fn an_answer_to_a_request_that_waits_for_room_is_a_violation() {
    let mut world = World::new(0, 8);
    world.ask(1, read("device/vif/0/mac")).expect("a value");
    let last =
        u32::from_le_bytes(world.ring.bytes((world.ring.load(2052) - 33) as usize % 1024 + 4, 4).try_into().unwrap());
    world.ring.store(2048, world.ring.load(2052).wrapping_sub(1024));
    let id = world.send(1, read("device/vif/0/mac"));
    world.service.notified(Notifications::ALL);
    inject(&world.ring, 2, last + 1, 4, b"evil");
    world.service.notified(Notifications::ALL);
    world.settle_clients();
    assert_eq!(world.violations(), ["violation by the daemon: an answer to a request that was not sent yet"]);
    assert_eq!(world.take(1, id), None, "it is no answer");
}

/// A hostile client writes what the type of a request cannot hold.
#[test]
fn a_malformed_request_is_logged_with_its_client() {
    let mut world = World::new(0, 8);
    world.settle();
    for (client, bytes, what) in [(0, &[0, 0, 99][..], "an unknown tag"), (1, &[0xFF; 3], "an unknown tag")] {
        world.send(client, Action::Begin);
        world.memory[client].requests.rewrite_last(bytes);
        world.settle();
        assert!(world.replies[client].is_empty());
        assert_eq!(
            world.violations().pop(),
            Some(format!("violation by client {client}: a message with {what} at byte 2"))
        );
    }
    assert_eq!(world.system.console().lines().count(), 2);
    assert!(world.ask(1, read("device/vif/0/mac")).is_ok(), "the next one is served");
}

impl World {
    /// Returns the lines about violations.
    fn violations(&self) -> Vec<String> {
        self.system.console().lines().filter(|line| line.starts_with("violation ")).map(String::from).collect()
    }
}

impl World {
    fn settle_clients(&mut self) {
        for (client, replies) in self.clients.iter_mut().zip(&mut self.replies) {
            while let Some(Ok(reply)) = client.replies.pop() {
                replies.push(reply);
            }
        }
    }
}

#[test]
fn a_message_over_the_limit_ends_the_connection() {
    let mut world = World::new(0, 8);
    world.settle();
    world.daemon.silent = true;
    inject(&world.ring, 2, 1, 4097, b"");
    assert_eq!(world.ask(1, read("device/vif/0/mac")), Err(StoreError::Timeout));
    assert!(world.system.console().contains("is dead"));
}

fn action() -> impl Strategy<Value = Action> {
    let paths = prop::sample::select(vec!["device/vif/0", "device/vif/0/mac", "control/shutdown", "../x", "/", "a//b"]);
    (0u8..9, paths, 0u16..6).prop_map(|(kind, at, token)| match kind {
        0 => read(at),
        1 => write(at, "1"),
        2 => Action::Remove(path(at)),
        3 => Action::List(path(at)),
        4 => Action::Watch(path(at), token),
        5 => Action::Unwatch(path(at), token),
        6 => Action::Begin,
        7 => Action::Commit,
        _ => Action::Abort,
    })
}

proptest! {
    #[test]
    fn every_request_of_any_client_is_answered_once(actions in prop::collection::vec((0usize..2, action()), 1..40)) {
        let mut world = World::new(3, 4);
        for (client, action) in actions {
            let id = world.send(client, action);
            world.settle();
            prop_assert!(world.take(client, id).is_some());
            prop_assert!(world.take(client, id).is_none());
        }
    }
}
