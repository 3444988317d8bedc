//! A simulated network back end: the other side of netif (Xen `io/netif.h`) and of its handshake, honest and, like
//! Linux's, strict about what the front end sends.

use std::collections::VecDeque;

use cloister_caps::PAGE_SIZE;
use cloister_interfaces::Memory;

use crate::memory::SharedMemory;
use crate::xenstored::Xenstored;

const SLOTS: u32 = 256;
const TX_SLOT: usize = 12;
const RX_SLOT: usize = 8;

/// Finds the memory that a grant reference names: a region and the offset of the page in it.
pub type PageOf<'a> = &'a dyn Fn(u32) -> Option<(SharedMemory, usize)>;

/// The back end's side of a ring.
pub struct BackRing {
    /// The region that the ring's page is in.
    pub memory: SharedMemory,
    /// Where in the region the page starts.
    pub base: usize,
    slot: usize,
    req_cons: u32,
    rsp_prod: u32,
    published: u32,
}

impl BackRing {
    fn new((memory, base): (SharedMemory, usize), slot: usize) -> Self {
        BackRing { memory, base, slot, req_cons: 0, rsp_prod: 0, published: 0 }
    }

    fn at(&self, index: u32) -> usize {
        self.base + 64 + (index % SLOTS) as usize * self.slot
    }

    fn request(&mut self) -> Option<Vec<u8>> {
        let waiting = self.memory.load(self.base).wrapping_sub(self.req_cons);
        assert!(waiting <= SLOTS, "the front end's producer is impossible");
        if waiting == 0 {
            self.memory.store(self.base + 4, self.req_cons.wrapping_add(1));
            return None;
        }
        let request = self.memory.bytes(self.at(self.req_cons), self.slot);
        self.req_cons = self.req_cons.wrapping_add(1);
        Some(request)
    }

    fn respond(&mut self, response: &[u8]) {
        self.memory.write(self.at(self.rsp_prod), response);
        self.rsp_prod = self.rsp_prod.wrapping_add(1);
    }

    fn publish(&mut self) -> bool {
        let old = std::mem::replace(&mut self.published, self.rsp_prod);
        self.memory.store(self.base + 8, self.rsp_prod);
        let event = self.memory.load(self.base + 12);
        self.rsp_prod.wrapping_sub(event) < self.rsp_prod.wrapping_sub(old)
    }
}

/// An established connection.
pub struct Connection {
    /// The ring of frames from the guest.
    pub tx: BackRing,
    /// The ring of frames to the guest.
    pub rx: BackRing,
    /// The guest's event channels: of the first ring, and of the second.
    pub ports: (u32, u32),
}

/// The back end.
pub struct Netback {
    domain: u16,
    guest: u16,
    /// What it offers, by node.
    pub features: Vec<(String, String)>,
    /// The connection, while there is one.
    pub connection: Option<Connection>,
    /// Frames that the guest sent.
    pub sent: Vec<Vec<u8>>,
    /// Frames for the guest that wait for a buffer.
    pub waiting: VecDeque<Vec<u8>>,
    /// Ports of the guest that events were sent to.
    pub events: Vec<u32>,
    /// While set, requests to send are left on the ring.
    pub hold_tx: bool,
    /// While set, the guest's states are not looked at.
    pub deaf: bool,
}

impl Netback {
    /// Back end `domain` for the first interface of `guest`, with a split event channel on offer.
    #[must_use]
    pub fn new(domain: u16, guest: u16) -> Self {
        let offer = |name: &str| (name.to_string(), "1".to_string());
        Netback {
            domain,
            guest,
            features: vec![offer("feature-rx-copy"), offer("feature-split-event-channels"), offer("feature-sg")],
            connection: None,
            sent: Vec::new(),
            waiting: VecDeque::new(),
            events: Vec::new(),
            hold_tx: false,
            deaf: false,
        }
    }

    /// The back end's directory.
    #[must_use]
    pub fn directory(&self) -> String {
        format!("/local/domain/{}/backend/vif/{}/0", self.domain, self.guest)
    }

    /// The front end's directory.
    #[must_use]
    pub fn front(&self) -> String {
        format!("/local/domain/{}/device/vif/0", self.guest)
    }

    /// Creates the device as the toolstack does, and offers a connection.
    pub fn create(&self, store: &mut Xenstored) {
        let (back, front) = (self.directory(), self.front());
        for (name, value) in [("online", "1"), ("frontend", front.as_str()), ("hotplug-status", "connected")] {
            store.set(&format!("{back}/{name}"), value);
        }
        for (name, value) in &self.features {
            store.set(&format!("{back}/{name}"), value);
        }
        let id = self.domain.to_string();
        for (name, value) in [
            ("backend-id", id.as_str()),
            ("state", "1"),
            ("mac", "00:16:3e:11:22:33"),
            ("mtu", "1500"),
            ("handle", "0"),
        ] {
            store.set(&format!("{front}/{name}"), value);
        }
        store.set(&format!("{back}/state"), "2");
        store.set(&format!("{front}/backend"), back);
    }

    /// Removes the device as the toolstack does.
    pub fn destroy(&mut self, store: &mut Xenstored) {
        self.connection = None;
        store.delete(&self.directory());
        store.delete(&self.front());
    }

    /// Sets the back end's state.
    pub fn set_state(&self, store: &mut Xenstored, state: &str) {
        store.set(&format!("{}/state", self.directory()), state);
    }

    /// Follows the guest's states and moves frames; whether anything moved.
    pub fn run(&mut self, store: &mut Xenstored, page_of: PageOf<'_>) -> bool {
        let followed = !self.deaf && self.follow(store, page_of);
        followed | self.receive_from_guest(page_of) | self.send_to_guest(page_of)
    }

    fn follow(&mut self, store: &mut Xenstored, page_of: PageOf<'_>) -> bool {
        let front = store.text(&format!("{}/state", self.front()));
        let own = store.text(&format!("{}/state", self.directory()));
        let (Some(front), Some(own)) = (front, own) else { return false };
        let next = match (front.as_str(), own.as_str()) {
            // As `set_backend_state` of Linux's netback: by way of Closing and Closed to InitWait.
            ("1", "4" | "5" | "6") => "2",
            ("4", "2") => "4",
            ("5", "2" | "4") => "5",
            ("6", "2" | "4" | "5") => "6",
            _ => return false,
        };
        self.connection = match next {
            "4" => Some(self.connect(store, page_of)),
            _ => None,
        };
        self.set_state(store, next);
        true
    }

    fn connect(&self, store: &Xenstored, page_of: PageOf<'_>) -> Connection {
        let key = |name: &str| store.text(&format!("{}/{name}", self.front()));
        let number = |name: &str| key(name).and_then(|text| text.parse::<u32>().ok());
        assert_eq!(key("request-rx-copy").as_deref(), Some("1"), "a front end must have frames copied");
        let ring = |name: &str, slot| {
            let page = number(name).and_then(page_of).unwrap_or_else(|| panic!("{name} names no granted page"));
            BackRing::new(page, slot)
        };
        let split = self.features.iter().any(|(name, value)| name == "feature-split-event-channels" && value == "1");
        let ports = match (split, number("event-channel-tx"), number("event-channel-rx"), number("event-channel")) {
            (true, Some(tx), Some(rx), _) => (tx, rx),
            (_, _, _, Some(both)) => (both, both),
            _ => panic!("no event channel"),
        };
        Connection { tx: ring("tx-ring-ref", TX_SLOT), rx: ring("rx-ring-ref", RX_SLOT), ports }
    }

    fn receive_from_guest(&mut self, page_of: PageOf<'_>) -> bool {
        let Some(connection) = self.connection.as_mut().filter(|_| !self.hold_tx) else { return false };
        let mut moved = false;
        while let Some(request) = connection.tx.request() {
            let word = |at: usize| u16::from_le_bytes([request[at], request[at + 1]]);
            let reference = u32::from_le_bytes([request[0], request[1], request[2], request[3]]);
            let (offset, flags, id, size) = (word(4), word(6), word(8), word(10));
            assert_eq!(flags, 0, "no flag was negotiated");
            assert!(size >= 14 && usize::from(offset) + usize::from(size) <= PAGE_SIZE, "a frame out of bounds");
            let status = match page_of(reference) {
                Some((memory, at)) => {
                    self.sent.push(memory.bytes(at + usize::from(offset), usize::from(size)));
                    0i16
                }
                None => -1,
            };
            connection.tx.respond(&[id.to_le_bytes(), status.to_le_bytes()].concat());
            moved = true;
        }
        if moved && connection.tx.publish() {
            self.events.push(connection.ports.0);
        }
        moved
    }

    fn send_to_guest(&mut self, page_of: PageOf<'_>) -> bool {
        let Some(connection) = self.connection.as_mut() else { return false };
        let mut moved = false;
        while !self.waiting.is_empty() {
            let Some(request) = connection.rx.request() else { break };
            let frame = self.waiting.pop_front().unwrap_or_default();
            let reference = u32::from_le_bytes([request[4], request[5], request[6], request[7]]);
            let status = match page_of(reference) {
                Some((memory, at)) => {
                    memory.write(at, &frame);
                    frame.len() as i16
                }
                None => -1,
            };
            let mut response = request[..2].to_vec();
            response.extend([0, 0, 0, 0]);
            response.extend(status.to_le_bytes());
            connection.rx.respond(&response);
            moved = true;
        }
        if moved && connection.rx.publish() {
            self.events.push(connection.ports.1);
        }
        moved
    }
}
