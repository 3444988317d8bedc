//! Tests the back end with a store and a front end that the test plays.

use std::collections::BTreeMap;

use cloister_caps::{Operation, PAGE_SIZE, Slot};
use cloister_interfaces::capability::{Clock, Console, Grant, Port};
use cloister_interfaces::rules::GrantPermission;
use cloister_interfaces::store::{Action, Reply, Request, Store, StoreError};
use cloister_interfaces::{Memory, Notifications, Server, Service};
use cloister_sim::{Recorder, SharedMemory, channel};

use crate::{Caps, service};

const OWN: &str = "backend/vif/7/0";
const FRONT: &str = "/local/domain/7/device/vif/0";

/// The time from one run of the service to the next, in ms. It is longer under Miri, which is a
/// thousand times slower.
const STEP: usize = if cfg!(miri) { 10 } else { 1 };

struct World {
    system: Recorder,
    service: Box<dyn Service>,
    store: Server<Store, Recorder, SharedMemory>,
    nodes: BTreeMap<String, Vec<u8>>,
    rings: SharedMemory,
    now: u64,
}

impl World {
    fn new(script: &str) -> World {
        let system = Recorder::new();
        let (store, server) = channel::<Store, _>(&system, 1, &system, 2, 8);
        let pages = |count: usize| SharedMemory::new(count * PAGE_SIZE);
        let (rings, read) = (pages(258), pages(256));
        let granted = GrantPermission { rule: 0, pages: 1, peer_first: 1, peer_last: 32_751 };
        let port = |slot| Port::new(system.clone(), Slot(slot), 8);
        let service = service(Caps {
            console: Console::new(system.clone(), Slot(3)),
            clock: Clock::new(system.clone(), Slot(4)),
            store,
            peer_written: rings.clone(),
            peer_read: read,
            grant_rules: [5, 6].map(|slot| Grant::new(system.clone(), Slot(slot))).into(),
            peer_read_pages: granted,
            peer_written_pages: granted,
            tx_events: port(7),
            rx_events: port(8),
            spare_events: port(9),
        });
        let mut world = World {
            service: Box::new(service),
            system,
            store: server,
            nodes: BTreeMap::new(),
            rings,
            now: 1_000_000_000,
        };
        world.set("data/script", script);
        world
    }

    fn set(&mut self, path: &str, value: &str) {
        self.nodes.insert(path.to_string(), value.as_bytes().to_vec());
    }

    fn node(&self, name: &str) -> Option<&str> {
        self.nodes.get(&format!("{OWN}/{name}")).and_then(|value| std::str::from_utf8(value).ok())
    }

    fn answer(&mut self, action: Action) -> Result<Vec<u8>, StoreError> {
        match action {
            Action::Read(path) => self.nodes.get(path.as_str()).cloned().ok_or(StoreError::NotFound),
            Action::Write(path, value) => {
                self.nodes.insert(path.to_string(), value.to_vec());
                Ok(Vec::new())
            }
            Action::Remove(path) => {
                self.nodes.retain(|node, _| node != path.as_str() && !node.starts_with(&format!("{path}/")));
                Ok(Vec::new())
            }
            Action::List(path) => {
                let below = format!("{path}/");
                let mut names: Vec<&str> =
                    self.nodes.keys().filter_map(|node| node.strip_prefix(&below)?.split('/').next()).collect();
                names.dedup();
                let listing = names.iter().flat_map(|name| [name.as_bytes(), b"\0"].concat()).collect();
                if names.is_empty() { Err(StoreError::NotFound) } else { Ok(listing) }
            }
            other => panic!("{other:?}"),
        }
    }

    /// Advances the clock by `ms`.
    fn pass(&mut self, ms: u64) {
        for _ in (0..ms).step_by(STEP) {
            self.now += STEP as u64 * 1_000_000;
            self.system.set_now(self.now);
            self.service.notified(Notifications::ALL);
            while let Some(Ok(Request { id, action })) = self.store.requests.pop() {
                let result = self.answer(action).map(|value| value.iter().copied().collect());
                self.store.replies.send(&Reply::Answer { id, result }).expect("room");
            }
        }
    }

    /// Plays a toolstack that makes a device, and a front end that posts buffers and connects.
    fn connect(&mut self) {
        self.set(&format!("{OWN}/online"), "1");
        self.set(&format!("{OWN}/state"), "1");
        self.set(&format!("{FRONT}/state"), "1");
        self.pass(400);
        assert_eq!(self.node("state"), Some("2"));
        for (name, value) in
            [("tx-ring-ref", "8"), ("rx-ring-ref", "9"), ("event-channel-tx", "3"), ("event-channel-rx", "4")]
        {
            self.set(&format!("{FRONT}/{name}"), value);
        }
        for index in 0..128u16 {
            let [[i0, i1], [g0, g1]] = [index, index + 10].map(u16::to_le_bytes);
            self.rings.write(PAGE_SIZE + 64 + usize::from(index) * 8, &[i0, i1, 0, 0, g0, g1, 0, 0]);
        }
        self.rings.store(PAGE_SIZE, 128);
        self.set(&format!("{FRONT}/state"), "4");
        self.pass(400);
        assert_eq!(self.node("state"), Some("4"));
    }
}

#[test]
fn the_back_end_connects_sends_a_request_and_disconnects() {
    let mut world = World::new("honest");
    world.connect();
    assert_eq!((world.node("feature-rx-copy"), world.node("hotplug-status")), (Some("1"), Some("connected")));
    // An ARP question, in the first buffer's page: broadcast, and answered in the ring.
    assert_eq!(world.rings.bytes(PAGE_SIZE + 64, 8), [0, 0, 0, 0, 0, 0, 60, 0]);
    let calls = world.system.take_calls();
    let of = |slot: u16, operation| calls.iter().filter(|call| call.0 == Slot(slot) && call.1 == operation).count();
    assert_eq!(of(6, Operation::GrantIssue), 2 + world.rings.load(PAGE_SIZE + 8) as usize);
    assert_eq!((of(7, Operation::PortOpen), of(8, Operation::PortOpen)), (1, 1));
    world.set(&format!("{OWN}/online"), "0");
    world.pass(1_000);
    assert_eq!(world.node("state"), None, "its directory is for it to remove");
    let calls = world.system.take_calls();
    assert!(calls.iter().filter(|call| call.1 == Operation::GrantEnd).count() > 2);
    assert!(world.system.console().contains("done honest: "), "{}", world.system.console());
}

#[test]
fn a_script_publishes_its_features_and_reports_a_refusal() {
    let mut world = World::new("copy-two");
    world.set(&format!("{OWN}/online"), "1");
    world.set(&format!("{OWN}/state"), "1");
    world.set(&format!("{FRONT}/state"), "6");
    world.pass(4_000);
    assert_eq!((world.node("feature-rx-copy"), world.node("state")), (Some("2"), Some("2")));
    assert!(world.system.console().contains("done copy-two: no connection"));
}

#[test]
fn a_lie_is_published_once_the_connection_is_up() {
    let mut world = World::new("rx-length");
    world.connect();
    // Nobody answers the echo requests, and they use up the buffers. More buffers come after the
    // back end has stopped sending requests.
    world.pass(19_000);
    world.rings.store(PAGE_SIZE, 128 + 100);
    world.pass(2_000);
    let last = world.rings.load(PAGE_SIZE + 8) as usize;
    let lied = (0..256).any(|slot| world.rings.bytes(PAGE_SIZE + 64 + slot * 8 + 6, 2) == 4097u16.to_le_bytes());
    assert!(lied, "{last} responses");
    world.set(&format!("{FRONT}/state"), "5");
    world.pass(200);
    assert_eq!(world.node("state"), Some("6"));
    assert!(world.system.console().contains("done rx-length: 1 acts"));
}
