//! tcpip with a link, applications and a control service, each of which may be hostile, and a
//! hostile wire.

mod packet;
pub mod parties;

use std::collections::{BTreeMap, BTreeSet};
use std::num::NonZeroU16;

use cloister_caps::{Operation, PAGE_SIZE, Slot};
use cloister_interfaces::capability::{Clock, Console, Entropy};
use cloister_interfaces::control::{self, Control};
use cloister_interfaces::net::{Net, Reply as LinkReply, Request as LinkRequest, RxPage, RxRun, TxPage};
use cloister_interfaces::socket::{self, ConnectionId, Socket};
use cloister_interfaces::{Memory, PageOffset, Service};
use cloister_sim::{ChannelMemory, SharedMemory, Tampered};
use cloister_tcpip::{Caps, service};

use crate::host::{Host, Work};
use crate::peer::Peer;
use crate::script::Trace;
use packet::{Flags, MAC, Segment};

/// The number of pages of each pool.
const PAGES: u16 = 20;
/// Messages of three queues, frames, and the frames and messages that tcpip sends for them. Each
/// number is bounded in one call.
const MOST: Work = Work { invocations: 600, reads: 4000 };
/// The link's MTU. The link has no offloads.
const MTU: u16 = 1500;
/// The constant bytes that applications may have sent unchanged.
static SITE: [u8; 6000] = [b's'; 6000];
/// The longest time for which tcpip may keep a closed connection, in ns.
const LONGEST: u64 = 400_000_000_000;

/// The hostile party. The wire may always be hostile.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Hostile {
    Link,
    Application,
    Control,
    Wire,
}

/// tcpip and its peers.
pub struct Bench {
    host: Host,
    service: Box<dyn Service>,
    hostile: Hostile,
    link: Peer<LinkReply, LinkRequest>,
    application: Peer<socket::Request, socket::Reply>,
    control: Peer<control::Request, control::Reply>,
    rx_pool: SharedMemory,
    tx_pool: SharedMemory,
    /// The pages of the rx-pool that an honest link may fill.
    free: BTreeSet<u16>,
    /// For each port of the peer: the sequence number after the last segment to it, and the number
    /// that this segment acknowledged.
    last: BTreeMap<u16, (u32, u32)>,
    /// The connections that the application has.
    open: BTreeSet<u16>,
    received: u64,
    quiet: bool,
}

impl Bench {
    /// Creates a tcpip with queues of a depth, and a number of connections, that follow from
    /// `depth`, with a static address if `fixed`, and with the link up.
    pub fn new(hostile: Hostile, depth: u8, fixed: bool, trace: &Trace) -> Self {
        let host = Host::new(trace, MOST);
        host.only(&[Operation::QueueNotify]);
        // With four connections none is kept free for addresses that hold few, with eight one is.
        let connections = if depth & 4 == 0 { 4 } else { 8 };
        let depth = 4 << (depth % 4);
        let (net, socket) = (ChannelMemory::new::<Net>(4 * depth), ChannelMemory::new::<Socket>(depth));
        let control = ChannelMemory::new::<Control>(2);
        let pool = || SharedMemory::new(usize::from(PAGES) * PAGE_SIZE);
        let (rx_pool, tx_pool) = (pool(), pool());
        let (stream_in, stream_out) = (SharedMemory::new(connections * 2048), SharedMemory::new(connections * 4096));
        let service = service(Caps {
            console: Console::new(host.system.clone(), Slot(0)),
            clock: Clock::new(host.system.clone(), Slot(1)),
            entropy: Entropy::new(host.system.clone(), Slot(2)),
            net: if hostile == Hostile::Link { host.client(&net, 3) } else { host.honest_client(&net, 3) },
            socket_clients: [match hostile {
                Hostile::Application => host.server(&socket, 4),
                _ => host.honest_server(&socket, 4),
            }]
            .into_iter()
            .collect(),
            control_clients: [match hostile {
                Hostile::Control => host.server(&control, 5),
                _ => host.honest_server(&control, 5),
            }]
            .into_iter()
            .collect(),
            // Another domain can always write the pool, and the application its stream region.
            rx_pool: host.theirs(rx_pool.clone()),
            tx_pool: tx_pool.clone(),
            stream_in: Tampered::own(stream_in),
            stream_out: host.theirs(stream_out),
            site: &SITE,
            command_line: if fixed { b"ip=10.0.0.2/24 gw=10.0.0.1 udp-echo=7" } else { b"ip=dhcp" },
        });
        let mut bench = Bench {
            host,
            service: Box::new(service),
            hostile,
            link: Peer::server(&net),
            application: Peer::client(&socket),
            control: Peer::client(&control),
            rx_pool,
            tx_pool,
            free: BTreeSet::new(),
            last: BTreeMap::new(),
            open: BTreeSet::new(),
            received: 0,
            quiet: false,
        };
        bench.up();
        bench.turn();
        bench.application.send(&socket::Request::Listen { port: 80 });
        bench.turns(4);
        bench
    }

    /// Announces the link as up.
    fn up(&mut self) {
        self.free = (0..PAGES).collect();
        self.link.send(&LinkReply::Up { mac: MAC, mtu: MTU, offloads: Default::default() });
    }

    /// Runs tcpip once, and lets each honest party take its messages. Returns `true` if there were
    /// any.
    fn turn(&mut self) -> bool {
        self.host.call(self.service.as_mut());
        let mut moved = false;
        if self.hostile != Hostile::Link {
            moved |= self.run_link();
        }
        if self.hostile != Hostile::Application {
            moved |= self.apply();
        }
        if self.hostile != Hostile::Control {
            self.quiet |= !self.control.receive().is_empty();
        }
        moved
    }

    fn turns(&mut self, times: usize) {
        for _ in 0..times {
            self.turn();
        }
    }

    /// Runs every party until none does anything.
    fn settle(&mut self) {
        for _ in 0..2000 {
            if !self.turn() && !self.host.is_due(self.service.as_ref()) {
                return;
            }
        }
        panic!("the parties do not settle");
    }

    /// Acts as an honest link: sends frames at once, and gives pages back.
    fn run_link(&mut self) -> bool {
        let messages = self.link.receive();
        let moved = !messages.is_empty();
        let mut taken = BTreeSet::new();
        for request in messages {
            match request {
                LinkRequest::Transmit { page: TxPage(page), length, .. } => {
                    let pages = usize::from(length).div_ceil(PAGE_SIZE) as u16;
                    assert!(length >= 14 && page + pages <= PAGES, "{request:?} leaves the pool");
                    for page in page..page + pages {
                        assert!(taken.insert(page), "page {page} is netfront's already");
                    }
                    let frame = self.tx_pool.bytes(usize::from(page) * PAGE_SIZE, length.into());
                    assert!(frame.len() <= usize::from(MTU) + 14, "{} bytes on a link of {MTU}", frame.len());
                    self.note(&frame);
                    for _ in 0..100 {
                        if self.link.send(&LinkReply::Transmitted { page: TxPage(page) }) {
                            break;
                        }
                        self.host.call(self.service.as_mut());
                    }
                }
                LinkRequest::Receive { pages: RxRun(run) } => {
                    for page in run.iter() {
                        assert!(page < PAGES && self.free.insert(page), "page {page} was given back twice");
                    }
                }
                LinkRequest::Close => drop(self.link.send(&LinkReply::Down)),
            }
        }
        moved
    }

    /// Records the numbers of a segment that tcpip sends.
    fn note(&mut self, frame: &[u8]) {
        if let Some((port, next, acknowledged)) = packet::numbers(frame) {
            self.last.insert(port, (next, acknowledged));
        }
    }

    /// Acts as an honest application: reads everything, and closes connections that the peer has
    /// closed.
    fn apply(&mut self) -> bool {
        let messages = self.application.receive();
        let moved = !messages.is_empty();
        for reply in messages {
            let answer = match reply {
                socket::Reply::Accepted { connection, .. } => {
                    assert!(self.open.insert(connection.0), "{connection:?} was accepted twice");
                    continue;
                }
                socket::Reply::Received { connection, length, .. } => {
                    assert!(self.open.contains(&connection.0) && length <= 128 << 10, "{reply:?}");
                    self.received += u64::from(length);
                    socket::Request::Consumed { connection, length }
                }
                socket::Reply::PeerClosed { connection } => socket::Request::Close { connection },
                socket::Reply::Closed { connection } => {
                    // An honest application answers this only for a connection that it did not
                    // close itself.
                    if !self.open.remove(&connection.0) {
                        continue;
                    }
                    socket::Request::Close { connection }
                }
                socket::Reply::Network { address, .. } => {
                    if address == [0; 4] {
                        self.open.clear();
                        socket::Request::Listen { port: 80 }
                    } else {
                        continue;
                    }
                }
                _ => continue,
            };
            if let socket::Request::Close { connection } = answer {
                self.open.remove(&connection.0);
            }
            for _ in 0..100 {
                if self.application.send(&answer) {
                    break;
                }
                self.host.call(self.service.as_mut());
            }
        }
        moved
    }

    /// Delivers a frame to tcpip. Returns `true` if there was a page for it.
    fn frame(&mut self, frame: &[u8]) -> bool {
        let frame = &frame[..frame.len().min(PAGE_SIZE)];
        let Some(page) = self.free.first().copied().filter(|_| !frame.is_empty()) else { return false };
        self.rx_pool.write(usize::from(page) * PAGE_SIZE, frame);
        let length = NonZeroU16::new(frame.len() as u16).expect("a frame");
        let came = self.link.send(&LinkReply::Received {
            page: RxPage(page),
            offset: PageOffset::ZERO,
            length,
            more: false,
            checked: false,
        });
        if came {
            self.free.remove(&page);
        }
        came
    }

    /// Lets every party behave, and checks that a new connection carries data once the remains of
    /// earlier ones have timed out.
    fn works(&mut self) {
        self.host.script.lie(&[]);
        if self.hostile == Hostile::Link {
            self.link.behave(&self.host);
            self.hostile = Hostile::Wire;
            self.up();
            self.settle();
        }
        if self.hostile == Hostile::Application {
            self.application.behave(&self.host);
            self.hostile = Hostile::Wire;
            // As an application that has restarted: twice, if its earlier run did not listen.
            for _ in 0..2 {
                self.application.send(&socket::Request::Listen { port: 80 });
                self.settle();
            }
        }
        if self.quiet || !self.free.is_empty() && self.host.recorder.console().contains("quiet") {
            return;
        }
        for connection in std::mem::take(&mut self.open) {
            self.application.send(&socket::Request::Abort { connection: ConnectionId(connection) });
            self.settle();
        }
        for _ in 0..20 {
            self.host.pass(LONGEST / 20);
            self.settle();
        }
        let before = self.received;
        assert!(self.frame(&packet::arp()), "no page for a frame");
        self.settle();
        let mut segment = Segment { from: 40_999, sequence: 1000, flags: Flags::SYN, ..Segment::default() };
        assert!(self.frame(&packet::tcp(&segment)));
        self.settle();
        let (next, acknowledged) = *self.last.get(&40_999).unwrap_or_else(|| {
            panic!("a connection is not accepted: {}", self.host.recorder.console());
        });
        assert_eq!(acknowledged, 1001, "what was acknowledged is not what was sent");
        segment = Segment { sequence: 1001, acknowledged: next, flags: Flags::ACK, data: vec![7; 9], ..segment };
        assert!(self.frame(&packet::tcp(&segment)));
        self.settle();
        assert_eq!(self.received, before + 9, "data did not come: {}", self.host.recorder.console());
        // A few pages may be kept until the next sent frame, with which all are given back.
        assert!(self.frame(&packet::arp()));
        self.settle();
        assert_eq!(self.free.len(), usize::from(PAGES), "pages were not given back");
    }
}
