//! netfront and its peers: tcpip, the XenStore service, the grant manager, and the back end. Each
//! may be the hostile one.

pub mod back_end;
pub mod services;

use std::collections::{BTreeMap, BTreeSet};
use std::num::NonZeroU16;

use cloister_caps::{InvokeError, Operation, PAGE_SIZE, Slot, Status};
use cloister_interfaces::capability::{Clock, Console, Port};
use cloister_interfaces::grants::{self, Grants};
use cloister_interfaces::net::{Net, Offload, Offloads, Reply, Request, RxPage, TxPage};
use cloister_interfaces::rules::GrantPermission;
use cloister_interfaces::store::{self, Store};
use cloister_interfaces::{Memory, Service};
use cloister_netfront::{Caps, service};
use cloister_sim::fakes::{GrantService, StoreService};
use cloister_sim::{ChannelMemory, Netback, Recorder, SharedMemory, Tampered, Xenstored};

use crate::host::{Host, Work};
use crate::peer::Peer;
use crate::script::Trace;

/// The number of pages of each pool.
pub const PAGES: u16 = 16;
/// The back end may be in a domain from 0 to this one.
const PEER_LAST: u16 = 3;
/// 256 requests and 512 frames, with a few words read for each. Few invocations are needed for all
/// of them.
const MOST: Work = Work { invocations: 400, reads: 6000 };
/// The slots of the two rings (Xen `io/ring.h`): after 64 bytes of a page, 256 of 12 bytes and 256
/// of 8.
const TX_SLOTS: std::ops::Range<usize> = 64..64 + 256 * 12;
const RX_SLOTS: std::ops::Range<usize> = PAGE_SIZE + 64..PAGE_SIZE + 64 + 256 * 8;

/// The nodes that netfront writes: those of `io/netif.h` and `io/xenbus.h` that it uses.
const WRITTEN: [&str; 12] = [
    "device/vif/0/event-channel",
    "device/vif/0/event-channel-rx",
    "device/vif/0/event-channel-tx",
    "device/vif/0/feature-gso-tcpv4",
    "device/vif/0/feature-no-csum-offload",
    "device/vif/0/feature-rx-notify",
    "device/vif/0/feature-sg",
    "device/vif/0/request-rx-copy",
    "device/vif/0/rx-ring-ref",
    "device/vif/0/state",
    "device/vif/0/tx-ring-ref",
    "error/device/vif/0/error",
];

/// The hostile party.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Hostile {
    Tcpip,
    Store,
    Grants,
    /// On the rings.
    Rings,
    /// In the nodes of the handshake.
    Nodes,
}

/// netfront and its peers.
pub struct Bench {
    pub host: Host,
    pub service: Box<dyn Service>,
    pub hostile: Hostile,
    pub net: Peer<Request, Reply>,
    pub tcpip: Tcpip,
    pub back: Netback,
    pub daemon: Xenstored,
    pub store_memory: ChannelMemory,
    pub grant_memory: ChannelMemory,
    /// `None` while it is hostile.
    pub store: Option<StoreService<Recorder>>,
    pub grants: Option<GrantService<Recorder>>,
    pub rings: SharedMemory,
    pub rx_pool: SharedMemory,
    pub tx_pool: SharedMemory,
}

/// An honest tcpip: its state, as netfront's messages define it.
#[derive(Default)]
pub struct Tcpip {
    pub up: bool,
    /// The link cuts long segments.
    cuts: bool,
    /// The pages of the tx-pool that netfront has: the number for the first page of each frame.
    sent: BTreeMap<u16, u16>,
    /// The pages of the rx-pool that tcpip has.
    held: BTreeSet<u16>,
    /// Frames that came complete in one message.
    pub received: Vec<Vec<u8>>,
    pub downs: u32,
}

fn pages(offset: u16, length: u16) -> u16 {
    (usize::from(offset) + usize::from(length)).div_ceil(PAGE_SIZE).max(1) as u16
}

impl Tcpip {
    /// Handles a message of netfront, and checks that netfront may send it.
    fn handle_reply(&mut self, reply: Reply, rx_pool: &SharedMemory) {
        match reply {
            Reply::Up { .. } | Reply::Down => {
                self.up = matches!(reply, Reply::Up { .. });
                self.cuts = matches!(reply, Reply::Up { offloads, .. } if offloads.contains(Offloads::SEGMENTS));
                self.downs += u32::from(!self.up);
                self.sent.clear();
                self.held.clear();
            }
            Reply::Transmitted { page: TxPage(page) } => {
                assert!(self.sent.remove(&page).is_some(), "page {page} came back and was not sent");
            }
            Reply::Received { page: RxPage(page), offset, length, .. } => {
                let (offset, length) = (offset.get(), length.get());
                assert!(self.up, "a frame while the link is down");
                for touched in page..page + pages(offset, length) {
                    assert!(touched < PAGES, "{reply:?} leaves the pool");
                    assert!(self.held.insert(touched), "page {touched} was given twice");
                }
                let at = usize::from(page) * PAGE_SIZE + usize::from(offset);
                self.received.push(rx_pool.bytes(at, length.into()));
            }
        }
    }
}

/// Returns the permission of a rule whose pages some domains may be granted.
fn granted(rule: u8, pages: u16) -> GrantPermission {
    GrantPermission { rule, pages, peer_first: 0, peer_last: PEER_LAST }
}

/// Answers as the kernel: ports are opened and closed in turn, and netfront has no other
/// capabilities.
fn kernel(slot: Slot, operation: Operation, open: &mut BTreeMap<u16, bool>) -> Result<[u64; 2], InvokeError> {
    let state = open.entry(slot.0).or_default();
    match operation {
        Operation::PortOpen | Operation::PortClose if *state == (operation == Operation::PortOpen) => {
            Status::WrongState.into_result().map(|()| [0; 2])
        }
        Operation::PortOpen | Operation::PortClose => {
            assert!(matches!(slot.0, 20 | 21), "{operation:?} on {slot}");
            *state = operation == Operation::PortOpen;
            Ok([u64::from(slot.0) - 10, 0])
        }
        Operation::PortSend | Operation::QueueNotify => Ok([0; 2]),
        other => panic!("{other:?} on {slot}, which it does not hold"),
    }
}

impl Bench {
    /// Creates a netfront with queues of a depth that follows from `depth`, and a device for it.
    pub fn new(hostile: Hostile, depth: u8, trace: &Trace) -> Self {
        let host = Host::new(trace, MOST);
        let mut open = BTreeMap::new();
        host.recorder.answer(move |slot, operation, _| kernel(slot, operation, &mut open));
        let (net, store, grant) = (
            ChannelMemory::new::<Net>(4 << (depth % 5)),
            ChannelMemory::new::<Store>(8),
            ChannelMemory::new::<Grants>(8),
        );
        let pool = || SharedMemory::new(usize::from(PAGES) * PAGE_SIZE);
        let (rings, rx_pool, tx_pool) = (SharedMemory::new(2 * PAGE_SIZE), pool(), pool());
        let ring_view = match hostile {
            Hostile::Rings => host.theirs(rings.clone()),
            _ => Tampered::own(rings.clone()),
        };
        let net_server = if hostile == Hostile::Tcpip { host.server(&net, 2) } else { host.honest_server(&net, 2) };
        let service = service(Caps {
            console: Console::new(host.system.clone(), Slot(0)),
            clock: Clock::new(host.system.clone(), Slot(1)),
            net_clients: [net_server].into_iter().collect(),
            store: if hostile == Hostile::Store { host.client(&store, 3) } else { host.honest_client(&store, 3) },
            grants: if hostile == Hostile::Grants { host.client(&grant, 4) } else { host.honest_client(&grant, 4) },
            rings: ring_view.once(TX_SLOTS).once(RX_SLOTS),
            tx_events: Port::new(host.system.clone(), Slot(20), 6),
            rx_events: Port::new(host.system.clone(), Slot(21), 7),
            ring_pages: granted(0, 2),
            rx_pages: granted(1, PAGES),
            tx_pages: granted(2, PAGES),
        });
        let mut bench = Bench {
            host,
            service: Box::new(service),
            hostile,
            net: Peer::client(&net),
            tcpip: Tcpip::default(),
            back: Netback::new(0, 7),
            daemon: Xenstored::new(SharedMemory::new(4096), 7),
            store_memory: store,
            grant_memory: grant,
            store: None,
            grants: None,
            rings,
            rx_pool,
            tx_pool,
        };
        if hostile != Hostile::Store {
            bench.honest_store();
        }
        if hostile != Hostile::Grants {
            bench.honest_grants();
        }
        bench.back.create(&mut bench.daemon);
        bench
    }

    /// Replaces the XenStore service by an honest one.
    pub fn honest_store(&mut self) {
        let same = |memory: SharedMemory| memory;
        self.store = Some(StoreService::new(self.store_memory.server(&Recorder::new(), 5, same, same)));
    }

    /// Replaces the grant manager by an honest one.
    pub fn honest_grants(&mut self) {
        let same = |memory: SharedMemory| memory;
        let regions = vec![self.rings.clone(), self.rx_pool.clone(), self.tx_pool.clone()];
        self.grants = Some(GrantService::new(self.grant_memory.server(&Recorder::new(), 6, same, same), regions));
    }

    /// Runs the service once, and then each honest party. Returns `true` if one of them did
    /// anything.
    pub fn turn(&mut self) -> bool {
        self.host.call(self.service.as_mut());
        let mut moved = false;
        if self.hostile != Hostile::Tcpip {
            for reply in self.net.receive() {
                self.tcpip.handle_reply(reply, &self.rx_pool);
                moved = true;
            }
        }
        moved |= self.back_end();
        moved |= self.grants.as_mut().is_some_and(GrantService::run);
        moved | self.store.as_mut().is_some_and(|store| store.run(&mut self.daemon))
    }

    /// Runs every party this number of times.
    pub fn turns(&mut self, times: usize) {
        for _ in 0..times {
            self.turn();
        }
    }

    fn back_end(&mut self) -> bool {
        // Without an honest grant manager and an honest XenStore service, the back end cannot run.
        let (Some(grants), true) = (&self.grants, self.hostile != Hostile::Store || self.store.is_some()) else {
            return false;
        };
        let granted = &grants.granted;
        let moved = self.back.run(&mut self.daemon, &|reference| granted.get(&reference).cloned());
        if self.hostile == Hostile::Rings {
            // The script alone writes the rings.
            self.back.connection = None;
        }
        moved
    }

    /// Runs all parties until none makes progress.
    pub fn settle(&mut self) {
        for _ in 0..3000 {
            if !self.turn() && !self.host.is_due(self.service.as_ref()) {
                return;
            }
        }
        panic!("the parties do not settle: {}", self.host.recorder.console());
    }

    /// Sends a frame from tcpip, if the pages of the frame are free and the link offers the work.
    fn transmit(&mut self, page: u16, length: u16, offload: Offload) {
        let count = length.div_ceil(PAGE_SIZE as u16);
        let free = self.tcpip.sent.iter().all(|(first, pages)| page + count <= *first || first + pages <= page);
        let done = self.tcpip.cuts || !matches!(offload, Offload::Segments(_));
        let request = Request::Transmit { page: TxPage(page), length, offload };
        if self.tcpip.up && free && done && page + count <= PAGES && self.net.send(&request) {
            self.tcpip.sent.insert(page, count);
        }
    }

    /// Sends a long frame from tcpip that the link must cut.
    pub fn transmit_long(&mut self, page: u16, length: u16, segment: u16) {
        self.transmit(
            page % PAGES,
            length.max(14),
            Offload::Segments(NonZeroU16::new(segment).unwrap_or(NonZeroU16::MIN)),
        );
    }

    /// Sends a frame from tcpip, and gives back a received page.
    pub fn traffic(&mut self, page: u16, length: u16) {
        self.transmit(page % PAGES, 14 + length % 1500, Offload::None);
        if let Some(held) = self.tcpip.held.first().copied()
            && self.net.send_bytes(&[[2, 0], held.to_le_bytes(), [1, 0], [0, 0]].concat())
        {
            self.tcpip.held.remove(&held);
        }
    }

    /// Returns `true` if tcpip has a link, and the current back end is at its other end.
    fn connected(&self) -> bool {
        self.tcpip.up && self.back.connection.is_some()
    }

    /// Lets every party behave, and checks that the link comes up, carries frames both ways, and is
    /// closed without a remaining grant.
    pub fn works(&mut self) {
        self.host.script.lie(&[]);
        self.hostile = Hostile::Nodes;
        self.daemon.conflicts = 0;
        self.back = Netback::new(0, 7);
        self.back.destroy(&mut self.daemon);
        self.settle();
        self.back.create(&mut self.daemon);
        if let Some(store) = &mut self.store {
            (store.conflicts, store.refuse) = (0, None);
        }
        if let Some(grants) = &mut self.grants {
            grants.refused.clear();
            std::mem::take(&mut grants.held).into_iter().for_each(|rule| grants.release(rule));
        }
        for _ in 0..60 {
            // Reports changes, as for the watches that the service assumes it has.
            self.store.iter_mut().for_each(|store| [1, 2].into_iter().for_each(|token| store.notify(token)));
            self.settle();
            // A link that was up before belongs to a destroyed back end. netfront may be waiting
            // for an answer that a hostile service never gave, and asks again after its timeout.
            if self.connected() {
                break;
            }
            self.host.pass(10_000_000_000);
        }
        assert!(self.connected(), "the link does not come up: {}", self.host.recorder.console());
        let frame: Vec<u8> = (0..100).collect();
        self.tx_pool.write(3 * PAGE_SIZE, &frame);
        self.transmit(3, 100, Offload::None);
        self.back.waiting.push_back(frame.clone().into());
        self.settle();
        assert_eq!(self.back.sent.last().map(|sent| &sent.bytes), Some(&frame));
        assert_eq!(self.tcpip.received.last(), Some(&frame));
        assert!(self.net.send(&Request::Close));
        let downs = self.tcpip.downs;
        for _ in 0..4 {
            self.settle();
            self.host.pass(1_000_000_000);
        }
        assert!(self.tcpip.downs > downs, "it does not close: {}", self.host.recorder.console());
        let granted = self.grants.as_ref().map_or(0, |grants| grants.granted.len());
        assert_eq!(granted, 0, "grants stand after the link was closed");
    }

    /// Checks that the policy allows netfront this request to the XenStore service.
    pub fn check(&self, action: &store::Action) {
        use store::Action::{Abort, Begin, Commit, List, Read, Remove, Unwatch, Watch, Write};
        match action {
            Read(path) | Watch(path, _) | Unwatch(path, _) => {
                let own = path.starts_with("device/vif/0");
                let backend = path.starts_with("/local/domain/") && path.contains("/backend/vif/");
                assert!(own || backend, "{action:?}");
            }
            Write(path, _) => assert!(WRITTEN.contains(&path.as_str()), "{action:?}"),
            Begin | Commit | Abort => {}
            List(_) | Remove(_) => panic!("{action:?}"),
        }
    }

    /// Checks that the policy allows netfront this request to the grant manager.
    pub fn check_grant(&self, request: grants::Request) {
        match request {
            grants::Request::Issue { rule, pages, peer } => {
                let count = if rule == 0 { 2 } else { PAGES };
                assert!(rule < 3 && (pages.first(), pages.count()) == (0, count) && peer.0 <= PEER_LAST, "{request:?}");
            }
            grants::Request::End { rule } => assert!(rule < 3, "{request:?}"),
        }
    }
}
