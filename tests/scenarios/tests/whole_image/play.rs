//! Plays what the policy's closure describes: a program in place of a service makes random acts, and
//! what happens to the image must be something that the closure says it can cause.
//!
//! The other services are those that ship, and the back end is honest: so the closure is asked
//! without the back end's help. A difference would be a row that the catalogue of programs and
//! interfaces (`docs/policy.md`, R4) lacks.

use std::cell::RefCell;
use std::collections::BTreeSet;

use cloister_caps::tables::Tables;
use cloister_caps::{Operation, Slot};
use cloister_interfaces::queue::{HEAD, SLOTS, TAIL};
use cloister_interfaces::store::{Action, Path, Request, Value};
use cloister_interfaces::{CATALOG, Instant, Memory, Message, Notifications, Service, System};
use cloister_policy::analyse_text;
use cloister_scenarios::image::shipped_policy;
use cloister_scenarios::{Image, Network, Options};
use cloister_sim::hypervisor::End;
use cloister_sim::program::{Kernel, SharedRegion};

/// The steps of one game, and the games of each player.
const STEPS: usize = 2_000;
const GAMES: u64 = 2;

/// Nodes that a player tries, and that are looked at: the closure names them by these paths.
const NODES: [&str; 8] = [
    "device/vif/0/backend",
    "device/vif/0/backend-id",
    "device/vif/0/mac",
    "device/vif/0/state",
    "device/vif/0/event-channel-tx",
    "control/shutdown",
    "control/feature-poweroff",
    "data",
];

/// A queue, as the player has it: the region that it writes, the one that it reads, and the size
/// and the number of messages.
struct Outlet {
    producer: Slot,
    consumer_of_other: Slot,
    own_consumer: Slot,
    store: bool,
    size: usize,
    depth: u32,
}

/// The program in place of a service.
struct Player {
    random: u64,
    outlets: Vec<Outlet>,
    /// Other regions that it writes, with their sizes.
    memory: Vec<Slot>,
}

thread_local! {
    static PLAYER: RefCell<Option<Player>> = const { RefCell::new(None) };
}

impl Player {
    /// Returns the player of a service, from the tables alone.
    fn of(service: &str, seed: u64) -> Player {
        let policy = cloister_policy::parse("the policy", &shipped_policy()).unwrap();
        let blob = policy.tables().unwrap();
        let tables = Tables::parse(&blob).unwrap();
        let slots: Vec<(String, Slot)> = tables
            .capabilities()
            .iter()
            .filter(|capability| tables.service_name(capability.service) == service)
            .map(|capability| (tables.name(capability.name).to_owned(), Slot(capability.slot)))
            .collect();
        let slot = |name: &str| slots.iter().find(|(known, _)| known == name).map(|(_, slot)| *slot);
        let text = shipped_policy();
        let mut outlets = Vec::new();
        for (name, from, to, interface, depth) in queues(&text) {
            let (request, reply) = CATALOG
                .iter()
                .find(|(known, ..)| *known == interface)
                .map(|(_, request, reply)| (*request, *reply))
                .unwrap();
            let (out, back, size) = match () {
                () if from == service => ("requests", "replies", request),
                () if to == service => ("replies", "requests", reply),
                () => continue,
            };
            outlets.push(Outlet {
                producer: slot(&format!("{name}.{out}.producer")).unwrap(),
                consumer_of_other: slot(&format!("{name}.{back}.producer")).unwrap(),
                own_consumer: slot(&format!("{name}.{back}.consumer")).unwrap(),
                store: interface == "store" && from == service,
                size,
                depth,
            });
        }
        let written = |(name, how): &(String, String)| how != "read" && slot(name).is_some();
        let memory = regions(&text, service).into_iter().filter(written).filter_map(|(name, _)| slot(&name)).collect();
        Player { random: seed, outlets, memory }
    }

    fn below(&mut self, bound: u64) -> u64 {
        self.random = self.random.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (self.random >> 33) % bound
    }

    /// Returns a number of the kind that messages and calls have.
    fn number(&mut self) -> u64 {
        match self.below(4) {
            0 => self.below(3),
            1 => self.below(300),
            2 => 8 + self.below(260),
            _ => self.below(1 << 20),
        }
    }

    fn act(&mut self) {
        match self.below(8) {
            0 => {
                let slot = Slot(self.below(40) as u16);
                let operation = Operation::ALL[self.below(Operation::ALL.len() as u64) as usize];
                let arguments = [self.number(), self.number(), self.number(), self.number()];
                let _ = Kernel.invoke(slot, operation, arguments);
            }
            1 if !self.memory.is_empty() => {
                let chosen = self.below(self.memory.len() as u64) as usize;
                let slot = self.memory[chosen];
                let region = SharedRegion::new(Kernel, slot);
                // A share of no memory has no words.
                if let words @ 1.. = region.len() as u64 / 4 {
                    region.store(self.below(words) as usize * 4, self.number() as u32);
                }
            }
            _ => self.send(),
        }
        for outlet in &self.outlets {
            let head = SharedRegion::new(Kernel, outlet.consumer_of_other).load(HEAD);
            SharedRegion::new(Kernel, outlet.own_consumer).store(TAIL, head);
        }
        // Its own ends are among these. The refusals of the others take time, in which those that
        // it has notified run.
        for slot in 0..40 {
            let _ = Kernel.invoke(Slot(slot), Operation::QueueNotify, [0; 4]);
        }
    }

    /// Sends a message, mostly one that decodes.
    fn send(&mut self) {
        let at = self.below(self.outlets.len() as u64) as usize;
        let mut bytes = vec![0; self.outlets[at].size];
        if self.outlets[at].store {
            let request = self.store_request();
            for (word, chunk) in request.to_words().iter().zip(bytes.chunks_mut(8)) {
                chunk.copy_from_slice(&word.to_le_bytes()[..chunk.len()]);
            }
        } else {
            bytes[0] = self.below(7) as u8;
            for field in 1..bytes.len().min(4 + self.below(24) as usize) {
                if self.below(3) == 0 {
                    bytes[field] = self.number() as u8;
                }
            }
        }
        let outlet = &self.outlets[at];
        let queue = SharedRegion::new(Kernel, outlet.producer);
        let head = queue.load(HEAD);
        queue.write(SLOTS + (head % outlet.depth) as usize * outlet.size, &bytes);
        queue.store(HEAD, head.wrapping_add(1));
    }

    fn store_request(&mut self) -> Request {
        let path = Path::from(NODES[self.below(NODES.len() as u64) as usize]).unwrap();
        let value: &[u8] = [&b"poweroff"[..], b"4", b"6", b"0", b"12", b""][self.below(6) as usize];
        let value = value.iter().copied().collect::<Value>();
        let action = match self.below(8) {
            0 => Action::Read(path),
            1 => Action::Remove(path),
            2 => Action::Watch(path, self.below(9) as u16),
            3 => Action::Begin,
            4 => Action::Commit,
            _ => Action::Write(path, value),
        };
        Request { id: self.below(9) as u16, action }
    }
}

/// Returns name, client, server, interface and depth of each queue.
fn queues(text: &str) -> Vec<(String, String, String, String, u32)> {
    let document: toml_edit::DocumentMut = text.parse().unwrap();
    let table = document["queues"].as_table().unwrap();
    let word = |item: &toml_edit::Item, key: &str| item[key].as_str().unwrap().to_owned();
    let queue = |(name, item): (&str, &toml_edit::Item)| {
        let depth = item["depth"].as_integer().unwrap() as u32;
        (name.to_owned(), word(item, "from"), word(item, "to"), word(item, "interface"), depth)
    };
    table.iter().map(queue).collect()
}

/// Returns the regions that a service maps, and how.
fn regions(text: &str, service: &str) -> Vec<(String, String)> {
    let document: toml_edit::DocumentMut = text.parse().unwrap();
    let table = document["regions"].as_table().unwrap();
    let mapped = |(name, item): (&str, &toml_edit::Item)| {
        Some((name.to_owned(), item["map"].get(service)?.as_str()?.to_owned()))
    };
    table.iter().filter_map(mapped).collect()
}

struct Playing;

impl Service for Playing {
    fn notified(&mut self, _: Notifications) {
        PLAYER.with_borrow_mut(|player| player.as_mut().unwrap().act());
    }
    fn deadline(&self) -> Option<Instant> {
        Some(Instant::START)
    }
}

/// What a game looks at.
#[derive(Clone, PartialEq, Eq, Debug)]
struct State {
    ended: Option<End>,
    peers: BTreeSet<u16>,
    granted: BTreeSet<(u32, u16)>,
    channels: usize,
    nodes: Vec<Option<String>>,
}

fn state(image: &mut Image) -> State {
    let nodes = NODES.iter().map(|node| image.store().text(&format!("/local/domain/5/{node}"))).collect();
    let peers = image.peers();
    let xen = image.machine.xen();
    State {
        ended: image.machine.ended(),
        peers,
        granted: xen.grants.active().map(|(reference, _, peer, _)| (reference.0, peer.0)).collect(),
        channels: xen.events.allocated(),
        nodes,
    }
}

/// Returns the operations that must have happened between two states.
fn happened(before: &State, after: &State) -> BTreeSet<String> {
    let mut found = BTreeSet::new();
    match after.ended {
        Some(End::PowerOff) => _ = found.insert("power.off".to_owned()),
        Some(End::Reboot) => _ = found.insert("power.reboot".to_owned()),
        _ => {}
    }
    // A domain that was no peer before, whoever was to name it.
    if after.peers.difference(&before.peers).next().is_some() {
        found.insert("netback.pin".into());
    }
    if after.granted.difference(&before.granted).next().is_some() {
        found.insert("grant.issue".into());
    }
    if before.granted.difference(&after.granted).next().is_some() {
        found.insert("grant.end".into());
    }
    if after.channels > before.channels {
        found.insert("port.open".into());
    }
    for ((node, before), after) in NODES.iter().zip(&before.nodes).zip(&after.nodes) {
        if before != after {
            let object = if node.contains('/') { (*node).to_owned() } else { format!("path:{node}") };
            found.insert(format!("{object}.write"));
        }
    }
    found
}

/// Returns `true` if the closure says that the service can cause the operation without the back end.
fn can_cause(service: &str, operation: &str) -> bool {
    let claim = format!(
        "\n[[assert]]\nname = \"played\"\nwhy = \"w\"\nkind = \"cannot-cause\"\nfrom = \"{service}\"\nto = \"{operation}\"\n\
         unless = [\"netback\"]\nallow-vacuous = true\n"
    );
    let policy = analyse_text("played.toml", &(shipped_policy() + &claim)).unwrap();
    !policy.verdicts().into_iter().find(|verdict| verdict.name == "played").unwrap().holds
}

/// Runs an image that serves, with or without a player in place of a service. Returns everything
/// that happened.
fn play(service: Option<&'static str>, seed: u64) -> BTreeSet<String> {
    let mut image = Image::new(Options::default());
    image.listens(1);
    if let Some(service) = service {
        PLAYER.set(Some(Player::of(service, seed)));
        image.machine.install(service, || Box::new(Playing));
    }
    let mut all = BTreeSet::new();
    let mut before = state(&mut image);
    for _ in 0..STEPS {
        image.step();
        let after = state(&mut image);
        let new = happened(&before, &after);
        all.extend(new);
        if after.ended.is_some() {
            break;
        }
        before = after;
    }
    all
}

#[test]
fn a_player_causes_nothing_that_the_closure_excludes() {
    assert_eq!(play(None, 0), BTreeSet::new(), "an image that serves does nothing of this by itself");
    let mut seen = BTreeSet::new();
    for service in ["http", "tcpip", "netfront", "grant-manager", "control", "xenstore"] {
        for game in 0..GAMES {
            let seed = 0x9E37_79B9_7F4A_7C15 ^ (game << 8) ^ service.len() as u64;
            for operation in play(Some(service), seed) {
                if seen.insert((service, operation.clone())) {
                    assert!(can_cause(service, &operation), "{service}, game {game}: {operation}");
                }
            }
        }
    }
    // A game in which nothing happens proves nothing.
    assert!(seen.len() >= 3, "{seen:?}");
}
