//! The service against the simulated back end, and against hostile ones.

mod connection;
mod frames;
mod hostile;

use std::cell::Cell;
use std::collections::BTreeMap;
use std::rc::Rc;

use cloister_caps::{Operation, PAGE_SIZE, Slot, Status};
use cloister_interfaces::capability::{Clock, Console, Port};
use cloister_interfaces::grants::Grants;
use cloister_interfaces::net::{Net, Offloads, Reply, Request, Work};
use cloister_interfaces::rules::Granted;
use cloister_interfaces::store::Store;
use cloister_interfaces::{Client, Instant, Memory, Notifications, Service};
use cloister_sim::stand_ins::{GrantService, StoreService};
use cloister_sim::{Netback, Recorder, SharedMemory, Xenstored, channel};

use crate::Caps;
use crate::service::Netfront;

const PAGES: u16 = 64;
const TX_PORT: Slot = Slot(20);
const RX_PORT: Slot = Slot(21);
const TX_BIT: u8 = 6;
const RX_BIT: u8 = 7;
/// The numbers of the channels: what the kernel answers when the ports are opened.
const CHANNELS: [(u32, u8); 2] = [(10, TX_BIT), (11, RX_BIT)];
/// The bits by which the service is woken, by the slots through which its peers ring.
const BELLS: [(Slot, u8); 3] = [(Slot(0), 1), (Slot(3), 2), (Slot(5), 4)];
const MAC: [u8; 6] = [0, 0x16, 0x3e, 0x11, 0x22, 0x33];
const UP: Reply = Reply::Up { mac: MAC, mtu: 1500, offloads: Offloads::all() };

/// The kernel, as far as it knows ports and wakes services.
fn kernel(bells: &Rc<Cell<u64>>) -> Recorder {
    let system = Recorder::new();
    let mut open: BTreeMap<u16, bool> = BTreeMap::new();
    let bells = bells.clone();
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
                let bit = BELLS.iter().find(|(bell, _)| *bell == slot).map_or(0, |(_, bit)| 1 << bit);
                bells.set(bells.get() | bit);
                Ok([0; 2])
            }
            _ => Ok([0; 2]),
        }
    });
    system
}

struct World {
    system: Recorder,
    /// By what the service is to be woken.
    bells: Rc<Cell<u64>>,
    daemon: Xenstored,
    store: StoreService<Recorder>,
    grants: GrantService<Recorder>,
    back: Netback,
    net: Client<Net, Recorder, SharedMemory>,
    service: Netfront<Recorder, SharedMemory>,
    rings: SharedMemory,
    rx_pool: SharedMemory,
    tx_pool: SharedMemory,
    now: u64,
    /// How often the service ran.
    wakes: u32,
}

impl World {
    fn bare(depth: u32) -> World {
        let bells = Rc::new(Cell::new(u64::MAX));
        let system = kernel(&bells);
        let (net, net_server) = channel::<Net, _>(&system, 0, &system, 1, depth);
        let (store_client, store) = channel::<Store, _>(&system, 2, &system, 3, 8);
        let (grants_client, grants) = channel::<Grants, _>(&system, 4, &system, 5, 8);
        let pool = |pages: usize| SharedMemory::new(pages * PAGE_SIZE);
        let (rings, rx_pool, tx_pool) = (pool(2), pool(usize::from(PAGES)), pool(usize::from(PAGES)));
        let service = Netfront::new(Caps {
            console: Console::new(system.clone(), Slot(0)),
            clock: Clock::new(system.clone(), Slot(1)),
            net_clients: [net_server].into_iter().collect(),
            store: store_client,
            grants: grants_client,
            rings: rings.clone(),
            tx_events: Port::new(system.clone(), TX_PORT, TX_BIT),
            rx_events: Port::new(system.clone(), RX_PORT, RX_BIT),
            ring_pages: Granted { rule: 0, pages: 2 },
            rx_pages: Granted { rule: 1, pages: PAGES },
            tx_pages: Granted { rule: 2, pages: PAGES },
        });
        World {
            bells,
            daemon: Xenstored::new(SharedMemory::new(4096), 7),
            store: StoreService::new(store),
            grants: GrantService::new(grants, vec![rings.clone(), rx_pool.clone(), tx_pool.clone()]),
            back: Netback::new(0, 7),
            net,
            service,
            rings,
            rx_pool,
            tx_pool,
            now: 1_000_000_000,
            wakes: 0,
            system,
        }
    }

    fn connected() -> World {
        let mut world = World::bare(64);
        world.back.create(&mut world.daemon);
        world.settle();
        assert_eq!(world.replies(), [UP], "{}", world.system.console());
        world
    }

    /// Runs the service if there is something by which the kernel wakes it.
    fn wake(&mut self) -> bool {
        for port in self.back.events.drain(..) {
            let bit = CHANNELS.iter().find(|(channel, _)| *channel == port).map_or(0, |(_, bit)| 1 << bit);
            self.bells.set(self.bells.get() | bit);
        }
        let due = self.service.deadline().is_some_and(|deadline| deadline <= Instant(self.now));
        // What the service holds back stays where it is.
        let held = self.service.held().0;
        let bits = self.bells.get() & !held;
        self.bells.set(self.bells.get() & held);
        if bits == 0 && !due {
            return false;
        }
        self.wakes += 1;
        self.service.notified(Notifications(bits));
        true
    }

    /// Runs everybody until nobody moves. With `back`, the back end too.
    fn settle_with(&mut self, back: bool) {
        for _ in 0..1000 {
            let mut moved = self.wake();
            let granted = &self.grants.granted;
            let page_of = |reference: u32| granted.get(&reference).cloned();
            moved |= back && self.back.run(&mut self.daemon, &page_of);
            moved |= self.grants.run();
            moved |= self.store.run(&mut self.daemon);
            if !moved {
                return;
            }
        }
        panic!("it does not come to rest: {}", self.system.console());
    }

    fn settle(&mut self) {
        self.settle_with(true);
    }

    /// Rings as a back end does that sends events for no reason.
    fn storm(&mut self) {
        self.bells.set(self.bells.get() | 1 << TX_BIT | 1 << RX_BIT);
    }

    fn pass(&mut self, milliseconds: u64) {
        self.now += milliseconds * 1_000_000;
        self.system.set_now(self.now);
        self.settle();
    }

    fn replies(&mut self) -> Vec<Reply> {
        let mut replies = Vec::new();
        while let Some(reply) = self.net.replies.pop() {
            replies.push(reply.expect("a well-formed reply"));
        }
        replies
    }

    fn ask(&mut self, request: Request) {
        while self.net.requests.send(&request).is_err() {
            assert!(self.wake(), "the queue is full, and the service was not told of it");
        }
    }

    fn transmit(&mut self, page: u16, frame: &[u8]) {
        self.transmit_with(page, frame, Work::Nothing);
    }

    fn transmit_with(&mut self, page: u16, frame: &[u8], work: Work) {
        self.tx_pool.write(usize::from(page) * PAGE_SIZE, frame);
        self.ask(Request::Transmit { page, length: frame.len() as u16, work });
    }

    /// The bytes of the frames that the back end has sent since it was last asked.
    fn sent(&mut self) -> Vec<Vec<u8>> {
        self.back.sent.drain(..).map(|frame| frame.bytes).collect()
    }

    /// Takes the replies, answers the received frames with whether they are checked, and gives their pages back.
    fn received(&mut self) -> Vec<(Vec<u8>, bool)> {
        let (mut frames, mut bytes) = (Vec::new(), Vec::new());
        for reply in self.replies() {
            let (page, offset, length, more, checked) = match reply {
                Reply::Received { page, offset, length, more, checked } => (page, offset, length, more, checked),
                Reply::Transmitted { .. } => continue,
                other => panic!("{other:?}"),
            };
            let at = usize::from(page) * PAGE_SIZE + usize::from(offset);
            bytes.extend(self.rx_pool.bytes(at, usize::from(length)));
            if !more {
                frames.push((std::mem::take(&mut bytes), checked));
            }
            let count = (usize::from(offset) + usize::from(length)).div_ceil(PAGE_SIZE) as u16;
            self.ask(Request::Receive { page, count });
        }
        assert!(bytes.is_empty(), "a frame without an end");
        frames
    }

    fn front(&self, name: &str) -> Option<String> {
        self.daemon.text(&format!("{}/{name}", self.back.front()))
    }

    /// Events sent since the calls were last taken.
    fn events_sent(&self) -> usize {
        self.system.take_calls().iter().filter(|call| call.1 == Operation::PortSend).count()
    }
}
