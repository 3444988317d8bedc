//! Tests which nodes of its device a compromised service can change. Between it and the daemon is
//! the real XenStore service, with the rules of the policy that ships.
#![forbid(unsafe_code)]

use cloister_caps::Slot;
use cloister_interfaces::capability::{Clock, Console, Port};
use cloister_interfaces::store::{Action, Path, Reply, Request, Store, StoreError, Value};
use cloister_interfaces::{Client, Instant, Notifications, Service};
use cloister_scenarios::image::shipped_policy;
use cloister_sim::{Recorder, SharedMemory, Xenstored, channel};
use cloister_xenstore::Caps;

const OWN: u16 = 7;
/// The clients, by the names of their queues.
const CONTROL: usize = 0;
const NETFRONT: usize = 1;
/// Types of messages that change the store (Xen `io/xs_wire.h`): `XS_WRITE`, `XS_MKDIR`, `XS_RM`,
/// `XS_SET_PERMS`.
const CHANGES: [u32; 4] = [11, 12, 13, 14];

const DEVICE: &str = "device/vif/0";
/// The nodes of a front end with one queue (Xen `io/netif.h`, `io/xenbus.h`) that this one
/// publishes.
const PUBLISHED: [&str; 11] = [
    "state",
    "tx-ring-ref",
    "rx-ring-ref",
    "event-channel",
    "event-channel-tx",
    "event-channel-rx",
    "request-rx-copy",
    "feature-rx-notify",
    "feature-no-csum-offload",
    "feature-sg",
    "feature-gso-tcpv4",
];
/// The nodes of the device that it reads.
const READ: [&str; 5] = ["backend", "backend-id", "mac", "mtu", "state"];
/// The nodes that the toolstack writes in the device's directory, and further nodes that a front
/// end may publish there.
const OTHERS: [&str; 21] = [
    "backend",
    "backend-id",
    "backend-uuid",
    "mac",
    "mtu",
    "handle",
    "bridge",
    "online",
    "protocol",
    "trusted",
    "max-mtu",
    "feature-rx-copy",
    "feature-rx-flip",
    "feature-gso-tcpv6",
    "feature-gso-tcpv4-prefix",
    "feature-ipv6-csum-offload",
    "feature-multicast-control",
    "feature-split-event-channels",
    "multi-queue-num-queues",
    "queue-0",
    "queue-0/tx-ring-ref",
];

struct World {
    daemon: Xenstored,
    service: Box<dyn Service>,
    clients: Vec<Client<Store, Recorder, SharedMemory>>,
    next: u16,
}

impl World {
    fn new() -> World {
        let policy =
            cloister_policy::parse("the policy", &shipped_policy()).unwrap_or_else(|report| panic!("{report}"));
        let rules = policy.data().find(|(name, _)| *name == "xenstore.rules").expect("rules").1.to_vec().leak();
        let (system, ring) = (Recorder::new(), SharedMemory::new(4096));
        let (mut clients, mut servers) = (Vec::new(), Vec::new());
        for bit in 0..2 {
            let (client, server) = channel::<Store, _>(&system, bit, &system, bit + 8, 8);
            clients.push(client);
            servers.push(server);
        }
        let mut daemon = Xenstored::new(ring.clone(), OWN);
        for name in PUBLISHED.iter().chain(&OTHERS) {
            daemon.set(&daemon.own(&format!("{DEVICE}/{name}")), "the toolstack's");
        }
        let service = cloister_xenstore::service(Caps {
            console: Console::new(system.clone(), Slot(0)),
            clock: Clock::new(system.clone(), Slot(1)),
            xenstore_ring: ring,
            xenstore_events: Port::new(system.clone(), Slot(2), 20),
            store_clients: servers.into_iter().collect(),
            pins: Default::default(),
            rules,
        });
        World { daemon, service: Box::new(service), clients, next: 0 }
    }

    /// Sends a request. Returns its result.
    fn ask(&mut self, client: usize, action: Action) -> Result<Value, StoreError> {
        self.next += 1;
        let id = self.next;
        self.clients[client].requests.send(&Request { id, action }).expect("room");
        for _ in 0..200 {
            self.service.notified(Notifications::ALL);
            self.daemon.run();
            if let Some(reply) = self.clients[client].replies.pop() {
                let Ok(Reply::Answer { id: of, result }) = reply else { panic!("{reply:?}") };
                assert_eq!(of, id);
                return result;
            }
        }
        panic!("no answer by {:?}", self.service.deadline().unwrap_or(Instant::START));
    }

    /// Fails if the client can write or remove the node, by its relative or absolute path, inside
    /// or outside a transaction.
    fn keeps(&mut self, client: usize, node: &str) {
        let before = self.daemon.requests.len();
        let absolute = self.daemon.own(node);
        for inside in [false, true] {
            if inside {
                self.ask(client, Action::Begin).expect("a transaction");
            }
            for spelling in [node, &absolute] {
                let path = Path::from(spelling).expect("a short path");
                for action in [Action::Write(path, value("9")), Action::Remove(path)] {
                    assert_eq!(self.ask(client, action.clone()), Err(StoreError::Policy), "{action:?}");
                }
            }
            if inside {
                self.ask(client, Action::Commit).expect("an empty transaction");
            }
        }
        let changes = |(kind, _): &&(u32, String)| CHANGES.contains(kind);
        let changes_made: Vec<_> = self.daemon.requests[before..].iter().filter(changes).collect();
        assert!(changes_made.is_empty(), "the daemon got requests: {changes_made:?}");
    }

    /// Fails if the client can remove the node, or make or remove a node below it.
    fn keeps_below(&mut self, client: usize, node: &str) {
        self.keeps(client, &format!("{node}/x"));
        self.keeps(client, &format!("{node}/0/x"));
        let before = self.daemon.requests.len();
        let path = Path::from(node).expect("a short path");
        assert_eq!(self.ask(client, Action::Remove(path)), Err(StoreError::Policy), "{node}");
        assert_eq!(self.daemon.requests.len(), before);
    }

    /// Fails unless the client can write the node.
    fn writes(&mut self, client: usize, node: &str) {
        let path = Path::from(node).expect("a short path");
        assert_eq!(self.ask(client, Action::Write(path, value("9"))), Ok(Value::new()), "{node}");
        assert_eq!(self.daemon.text(&self.daemon.own(node)).as_deref(), Some("9"), "{node}");
    }
}

fn value(text: &str) -> Value {
    text.bytes().collect()
}

/// Returns names that resemble these but are none of them: shortened, and extended.
fn like<'a>(names: &'a [&'a str]) -> impl Iterator<Item = String> + 'a {
    let cut = names.iter().flat_map(|name| (1..name.len()).map(|end| name[..end].trim_end_matches('/').to_owned()));
    let longer = names.iter().flat_map(|name| ["x", "-", "0", "-id"].map(|more| format!("{name}{more}")));
    cut.chain(longer).filter(move |name| !names.contains(&name.as_str()))
}

#[test]
fn netfront_writes_only_the_nodes_that_it_publishes() {
    let mut world = World::new();
    for name in OTHERS {
        world.keeps(NETFRONT, &format!("{DEVICE}/{name}"));
    }
    for name in like(&PUBLISHED) {
        world.keeps(NETFRONT, &format!("{DEVICE}/{name}"));
    }
    for name in PUBLISHED {
        world.keeps_below(NETFRONT, &format!("{DEVICE}/{name}"));
    }
    world.keeps_below(NETFRONT, "error/device/vif/0/error");
    for node in
        [DEVICE, "device/vif", "device", "device/vif/1/state", "error", "error/device/vif/0", "control/shutdown"]
    {
        world.keeps(NETFRONT, node);
    }
    for name in OTHERS {
        let text = world.daemon.text(&world.daemon.own(&format!("{DEVICE}/{name}")));
        assert_eq!(text.as_deref(), Some("the toolstack's"), "{name}");
    }
    for name in PUBLISHED.into_iter().chain(OTHERS).chain(["", "mac/x"]) {
        let path = format!("{DEVICE}/{name}");
        let path = Path::from(path.trim_end_matches('/')).expect("a short path");
        let expected = if READ.contains(&name) { Ok(value("the toolstack's")) } else { Err(StoreError::Policy) };
        assert_eq!(world.ask(NETFRONT, Action::Read(path)), expected, "{name}");
    }
    for name in PUBLISHED {
        world.writes(NETFRONT, &format!("{DEVICE}/{name}"));
    }
    world.writes(NETFRONT, "error/device/vif/0/error");
}

#[test]
fn control_writes_only_its_features_and_the_acknowledgement() {
    const FEATURES: [&str; 3] = ["control/feature-poweroff", "control/feature-reboot", "control/feature-suspend"];
    const OTHERS: [&str; 9] = [
        "control",
        "control/sysrq",
        "control/platform-feature-multiprocessor-suspend",
        "control/platform-feature-xs_reset_watches",
        "control/feature-s3",
        "control/feature-s4",
        "control/laptop-slate-mode",
        "control/balloon",
        "device/vif/0/state",
    ];
    let mut world = World::new();
    let written = [&FEATURES[..], &["control/shutdown"]].concat();
    let near: Vec<String> = like(&written).filter(|name| name.starts_with("control/")).collect();
    for node in OTHERS.into_iter().chain(near.iter().map(String::as_str)) {
        world.keeps(CONTROL, node);
    }
    for node in &written {
        world.keeps_below(CONTROL, node);
    }
    for node in written {
        world.writes(CONTROL, node);
    }
}
