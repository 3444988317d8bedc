//! tcpip: between a link, applications and a control service of which each may say anything, and a wire on which anything
//! comes.

mod packet;
pub mod parties;

use std::collections::{BTreeMap, BTreeSet};
use std::num::NonZeroU16;

use cloister_caps::{Operation, PAGE_SIZE, Slot};
use cloister_interfaces::capability::{Clock, Console, Entropy};
use cloister_interfaces::control::{self, Control};
use cloister_interfaces::net::{Net, Reply as LinkReply, Request as LinkRequest, RxPage, RxRun, TxPage};
use cloister_interfaces::socket::{self, Connection, Socket};
use cloister_interfaces::{Memory, PageOffset, Service};
use cloister_sim::{SharedMemory, Tampered, Wires};
use cloister_tcpip::{Caps, service};

use crate::host::{Host, Work};
use crate::peer::Peer;
use crate::script::Trace;
use packet::{Flags, Segment};

/// Pages of each pool.
const PAGES: u16 = 20;
/// Messages of three queues, frames, and what they make tcpip send; each bounded in a call.
const MOST: Work = Work { invocations: 600, reads: 4000 };
/// The link's address, as `netfront` says; no offloads.
const MAC: [u8; 6] = [2, 0, 0, 0, 0, 1];
const MTU: u16 = 1500;
/// What applications may have sent as it is.
static SITE: [u8; 6000] = [b's'; 6000];
/// How long tcpip may keep what is left of a connection, in ns.
const LONGEST: u64 = 400_000_000_000;

/// Who is hostile; the wire always may be.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Hostile {
    Link,
    Application,
    Control,
    Wire,
}

/// tcpip in its world.
pub struct Bench {
    host: Host,
    service: Box<dyn Service>,
    hostile: Hostile,
    link: Peer<LinkReply, LinkRequest>,
    application: Peer<socket::Request, socket::Reply>,
    control: Peer<control::Request, control::Reply>,
    rx_pool: SharedMemory,
    tx_pool: SharedMemory,
    /// For an honest link: pages to fill, and pages that tcpip sent and that are not given back yet.
    free: BTreeSet<u16>,
    /// For each port of the peer, the number after the last segment to it, and what that acknowledged.
    last: BTreeMap<u16, (u32, u32)>,
    /// Connections that the application has.
    open: BTreeSet<u16>,
    received: u64,
    quiet: bool,
}

impl Bench {
    /// A tcpip whose queues are `depth` deep, with a static address if `fixed`, and the link up.
    pub fn new(hostile: Hostile, depth: u8, fixed: bool, trace: &Trace) -> Self {
        let host = Host::new(trace, MOST);
        host.only(&[Operation::QueueNotify]);
        let depth = 4 << (depth % 4);
        let (net, socket) = (Wires::new::<Net>(4 * depth), Wires::new::<Socket>(depth));
        let control = Wires::new::<Control>(2);
        let pool = || SharedMemory::new(usize::from(PAGES) * PAGE_SIZE);
        let (rx_pool, tx_pool) = (pool(), pool());
        let (stream_in, stream_out) = (SharedMemory::new(4 * 2048), SharedMemory::new(4 * 4096));
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
            // Another domain can always write it, and the application its streams.
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

    /// The link comes up.
    fn up(&mut self) {
        self.free = (0..PAGES).collect();
        self.link.send(&LinkReply::Up { mac: MAC, mtu: MTU, offloads: Default::default() });
    }

    /// tcpip runs once, and everybody who is honest takes what it said; whether there was anything.
    fn turn(&mut self) -> bool {
        self.host.call(self.service.as_mut());
        let mut moved = false;
        if self.hostile != Hostile::Link {
            moved |= self.carry();
        }
        if self.hostile != Hostile::Application {
            moved |= self.apply();
        }
        if self.hostile != Hostile::Control {
            self.quiet |= !self.control.hear().is_empty();
        }
        moved
    }

    fn turns(&mut self, times: usize) {
        for _ in 0..times {
            self.turn();
        }
    }

    /// Everybody runs until nobody moves.
    fn settle(&mut self) {
        for _ in 0..2000 {
            if !self.turn() && !self.host.is_due(self.service.as_ref()) {
                return;
            }
        }
        panic!("it does not come to rest");
    }

    /// The honest link: frames go out at once, and pages come back.
    fn carry(&mut self) -> bool {
        let heard = self.link.hear();
        let moved = !heard.is_empty();
        let mut taken = BTreeSet::new();
        for request in heard {
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

    /// Follows the numbers of a segment that tcpip sends.
    fn note(&mut self, frame: &[u8]) {
        if let Some((port, next, acknowledged)) = packet::numbers(frame) {
            self.last.insert(port, (next, acknowledged));
        }
    }

    /// The honest application: reads everything, and closes what its peer closed.
    fn apply(&mut self) -> bool {
        let heard = self.application.hear();
        let moved = !heard.is_empty();
        for reply in heard {
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
                    // One that was not asked for is answered; that of an honest application comes in its own time.
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

    /// A frame comes; whether there was a page for it.
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

    /// Everybody behaves: after what may be left of connections has run out, a new one is made, and carries data.
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
            // As an application that was started anew: twice, if its former self did not listen.
            for _ in 0..2 {
                self.application.send(&socket::Request::Listen { port: 80 });
                self.settle();
            }
        }
        if self.quiet || !self.free.is_empty() && self.host.recorder.console().contains("quiet") {
            return;
        }
        for connection in std::mem::take(&mut self.open) {
            self.application.send(&socket::Request::Abort { connection: Connection(connection) });
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
        // A few may wait for the next frame to send, with which all go back.
        assert!(self.frame(&packet::arp()));
        self.settle();
        assert_eq!(self.free.len(), usize::from(PAGES), "pages were not given back");
    }
}
