//! netfront and its surroundings: a kernel that has ports and wakes the service as the real one
//! does, fakes of two services, a back end, and tcpip, whose part the test plays.

#![allow(dead_code, reason = "each test program uses a part")]

use std::cell::Cell;
use std::collections::BTreeMap;
use std::ops::Range;
use std::rc::Rc;

use cloister_caps::{Operation, PAGE_SIZE, Slot, Status};
use cloister_interfaces::capability::{Clock, Console, Port};
use cloister_interfaces::grants::Grants;
use cloister_interfaces::net::{Net, Offload, Offloads, Reply, Request, RxPage, RxRun, TxPage};
use cloister_interfaces::rules::GrantPermission;
use cloister_interfaces::store::Store;
use cloister_interfaces::{Client, Instant, Memory, Notifications, PageRun, Service};
use cloister_netfront::{Caps, service};
use cloister_sim::fakes::{GrantService, StoreService};
use cloister_sim::{ChannelMemory, Netback, Recorder, Script, SharedMemory, Tampered, Xenstored};

/// The default number of pages of each pool.
pub const PAGES: u16 = 64;
pub const TX_PORT: Slot = Slot(20);
pub const RX_PORT: Slot = Slot(21);
pub const TX_BIT: u8 = 6;
pub const RX_BIT: u8 = 7;
/// The event channels that the kernel returns when the ports are opened, with their bits.
pub const CHANNELS: [(u32, u8); 2] = [(10, TX_BIT), (11, RX_BIT)];
/// The slots through which the service's peers notify it, with the bits that wake it.
pub const NOTIFY_TARGETS: [(Slot, u8); 3] = [(Slot(0), 1), (Slot(3), 2), (Slot(5), 4)];
pub const MAC: [u8; 6] = [0, 0x16, 0x3e, 0x11, 0x22, 0x33];
pub const UP: Reply = Reply::Up { mac: MAC, mtu: 1500, offloads: Offloads::all() };
/// The ranges of the slots of the two rings (Xen `io/ring.h`). Each byte of them may be read once.
const TX_SLOTS: Range<usize> = 64..64 + 256 * 12;
const RX_SLOTS: Range<usize> = PAGE_SIZE + 64..PAGE_SIZE + 64 + 256 * 8;

/// The largest number of words of the rings that are read in one pass: 512 responses, and after
/// each frame both producer indices.
const MOST_READS: u64 = 4 * 512;

/// Creates a kernel that has ports and wakes services, and nothing else.
fn kernel(pending: &Rc<Cell<u64>>) -> Recorder {
    let system = Recorder::new();
    let mut open: BTreeMap<u16, bool> = BTreeMap::new();
    let pending = pending.clone();
    system.answer(move |slot, operation, _| {
        let refused = |status: Status| Err(status.into_result().expect_err("a fault"));
        let state = open.entry(slot.0).or_default();
        match operation {
            Operation::PortOpen if *state => refused(Status::WrongState),
            Operation::PortClose if !*state => refused(Status::WrongState),
            Operation::PortOpen | Operation::PortClose => {
                *state = operation == Operation::PortOpen;
                Ok([u64::from(slot.0) - 10, 0])
            }
            Operation::QueueNotify => {
                let bit = NOTIFY_TARGETS.iter().find(|(target, _)| *target == slot).map_or(0, |(_, bit)| 1 << bit);
                pending.set(pending.get() | bit);
                Ok([0; 2])
            }
            _ => Ok([0; 2]),
        }
    });
    system
}

/// Returns a rule whose pages may be granted to domains 0 to 3.
/// Returns the request by which tcpip returns `count` pages from `page` on.
pub fn return_pages(page: RxPage, count: u16) -> Request {
    Request::Receive { pages: RxRun(PageRun::new(page.0, count).expect("a run of pages")) }
}

fn granted(rule: u8, pages: u16) -> GrantPermission {
    GrantPermission { rule, pages, peer_first: 0, peer_last: 3 }
}

pub struct World {
    pub system: Recorder,
    /// The pending notifications of the service.
    pub pending: Rc<Cell<u64>>,
    pub daemon: Xenstored,
    pub store: StoreService<Recorder>,
    pub grants: GrantService<Recorder>,
    pub back: Netback,
    pub net: Client<Net, Recorder, Tampered>,
    pub net_memory: ChannelMemory,
    pub service: Box<dyn Service>,
    /// Counts the reads of words that the back end writes.
    pub script: Script,
    pub rings: SharedMemory,
    pub rx_pool: SharedMemory,
    pub tx_pool: SharedMemory,
    pub now: u64,
    /// The number of times that the service ran.
    pub wakes: u32,
}

impl World {
    /// Creates a world without a device. The queue between tcpip and netfront holds `depth`
    /// messages.
    pub fn bare(depth: u32) -> World {
        World::sized(depth, PAGES)
    }

    /// Creates the same world, with `pages` pages in each pool.
    pub fn sized(depth: u32, pages: u16) -> World {
        let pending = Rc::new(Cell::new(u64::MAX));
        let system = kernel(&pending);
        let (own, same) = (Tampered::own, |memory: SharedMemory| memory);
        let (net, store, grants) =
            (ChannelMemory::new::<Net>(depth), ChannelMemory::new::<Store>(8), ChannelMemory::new::<Grants>(8));
        let pool = |pages: u16| SharedMemory::new(usize::from(pages) * PAGE_SIZE);
        let (rings, rx_pool, tx_pool) = (pool(2), pool(pages), pool(pages));
        let script = Script::new();
        let service = service(Caps {
            console: Console::new(system.clone(), Slot(0)),
            clock: Clock::new(system.clone(), Slot(1)),
            net_clients: [net.server(&system, 1, own, own)].into_iter().collect(),
            store: store.client(&system, 2, own, own),
            grants: grants.client(&system, 4, own, own),
            rings: Tampered::new(rings.clone(), &script).once(TX_SLOTS).once(RX_SLOTS),
            tx_events: Port::new(system.clone(), TX_PORT, TX_BIT),
            rx_events: Port::new(system.clone(), RX_PORT, RX_BIT),
            ring_pages: granted(0, 2),
            rx_pages: granted(1, pages),
            tx_pages: granted(2, pages),
        });
        World {
            pending,
            daemon: Xenstored::new(SharedMemory::new(4096), 7),
            store: StoreService::new(store.server(&system, 3, same, same)),
            grants: GrantService::new(
                grants.server(&system, 5, same, same),
                vec![rings.clone(), rx_pool.clone(), tx_pool.clone()],
            ),
            back: Netback::new(0, 7),
            net: net.client(&system, 0, own, own),
            net_memory: net,
            service: Box::new(service),
            script,
            rings,
            rx_pool,
            tx_pool,
            now: 1_000_000_000,
            wakes: 0,
            system,
        }
    }

    pub fn connected() -> World {
        let mut world = World::bare(64);
        world.back.create(&mut world.daemon);
        world.settle();
        assert_eq!(world.replies(), [UP], "{}", world.system.console());
        world
    }

    /// Runs the service if the kernel would wake it. Returns `true` if it ran.
    pub fn wake(&mut self) -> bool {
        for port in self.back.events.drain(..) {
            let bit = CHANNELS.iter().find(|(channel, _)| *channel == port).map_or(0, |(_, bit)| 1 << bit);
            self.pending.set(self.pending.get() | bit);
        }
        let due = self.service.deadline().is_some_and(|deadline| deadline <= Instant(self.now));
        // Notifications that the service holds stay pending.
        let held = self.service.events_to_hold().0;
        let bits = self.pending.get() & !held;
        self.pending.set(self.pending.get() & held);
        if bits == 0 && !due {
            return false;
        }
        self.wakes += 1;
        let before = self.script.reads();
        self.service.notified(Notifications(bits));
        let reads = self.script.reads() - before;
        assert!(reads <= MOST_READS, "{reads} reads of the rings in one call");
        true
    }

    /// Runs everything once, the back end only if `back`. Returns `true` if there was work.
    pub fn turn(&mut self, back: bool) -> bool {
        let mut moved = self.wake();
        let granted = &self.grants.granted;
        let page_of = |reference: u32| granted.get(&reference).cloned();
        moved |= back && self.back.run(&mut self.daemon, &page_of);
        moved |= self.grants.run();
        moved | self.store.run(&mut self.daemon)
    }

    /// Runs everything until there is no more work.
    pub fn settle_with(&mut self, back: bool) {
        assert!((0..1000).any(|_| !self.turn(back)), "it does not come to rest: {}", self.system.console());
    }

    pub fn settle(&mut self) {
        self.settle_with(true);
    }

    /// Sends events on both channels, as a back end does that sends them without work.
    pub fn storm(&mut self) {
        self.pending.set(self.pending.get() | 1 << TX_BIT | 1 << RX_BIT);
    }

    pub fn pass(&mut self, milliseconds: u64) {
        self.pass_to(self.now + milliseconds * 1_000_000);
    }

    /// Lets time pass up to `now`, in ns.
    pub fn pass_to(&mut self, now: u64) {
        self.now = now;
        self.system.set_now(now);
        self.settle();
    }

    pub fn replies(&mut self) -> Vec<Reply> {
        let mut replies = Vec::new();
        while let Some(reply) = self.net.replies.pop() {
            replies.push(reply.expect("a well-formed reply"));
        }
        replies
    }

    pub fn ask(&mut self, request: Request) {
        while self.net.requests.send(&request).is_err() {
            assert!(self.wake(), "the queue is full, and the service was not notified");
        }
    }

    pub fn transmit(&mut self, page: u16, frame: &[u8]) {
        self.transmit_with(page, frame, Offload::None);
    }

    pub fn transmit_with(&mut self, page: u16, frame: &[u8], offload: Offload) {
        self.tx_pool.write(usize::from(page) * PAGE_SIZE, frame);
        self.ask(Request::Transmit { page: TxPage(page), length: frame.len() as u16, offload });
    }

    /// Takes the bytes of the frames that the back end has sent.
    pub fn sent(&mut self) -> Vec<Vec<u8>> {
        self.back.sent.drain(..).map(|frame| frame.bytes).collect()
    }

    /// Takes the replies. Returns the received frames, each with whether it is checked, and gives
    /// their pages back.
    pub fn received(&mut self) -> Vec<(Vec<u8>, bool)> {
        let (mut frames, mut bytes) = (Vec::new(), Vec::new());
        for reply in self.replies() {
            let (page, offset, length, more, checked) = match reply {
                Reply::Received { page, offset, length, more, checked } => {
                    (page, offset.get(), length.get(), more, checked)
                }
                Reply::Transmitted { .. } => continue,
                other => panic!("{other:?}"),
            };
            let at = usize::from(page.0) * PAGE_SIZE + usize::from(offset);
            bytes.extend(self.rx_pool.bytes(at, usize::from(length)));
            if !more {
                frames.push((std::mem::take(&mut bytes), checked));
            }
            let count = (usize::from(offset) + usize::from(length)).div_ceil(PAGE_SIZE) as u16;
            self.ask(return_pages(page, count));
        }
        assert!(bytes.is_empty(), "a frame without an end");
        frames
    }

    pub fn front(&self, name: &str) -> Option<String> {
        self.daemon.text(&format!("{}/{name}", self.back.front_directory()))
    }

    /// Returns the number of events sent since the calls were last taken.
    pub fn events_sent(&self) -> usize {
        self.system.take_calls().iter().filter(|call| call.1 == Operation::PortSend).count()
    }
}
