//! tcpip alone, with a minimal application above it, and a peer of bare segments below.

use std::collections::{BTreeMap, VecDeque};
use std::num::NonZeroU16;

use cloister_caps::{PAGE_SIZE, Slot};
use cloister_interfaces::capability::{Clock, Console, Entropy};
use cloister_interfaces::net::{Net, Offloads, Reply as Link, Request as Sent, RxPage, RxRun};
use cloister_interfaces::socket::{ConnectionId, Reply, Request, Socket};
use cloister_interfaces::{Client, Memory, Notifications, PageOffset, Server, Service};
use cloister_sim::{Recorder, SharedMemory, channel};
use cloister_tcpip::{Caps, service};

use crate::packet::{Answer, MAC, PEER_MAC, Packet, answer};

const PAGES: u16 = 8;
/// The largest number of frames that tcpip may send for one received frame.
const MOST_ANSWERS: usize = 4;
pub const PORT: u16 = 80;

/// The effect of an action: the segments to the peer, and the messages to the application.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct Outcome {
    pub answers: Vec<Answer>,
    /// The number of frames that are no segments.
    pub others: usize,
    pub replies: Vec<Reply>,
}

pub struct Rig {
    system: Recorder,
    service: Box<dyn Service>,
    link: Server<Net, Recorder, SharedMemory>,
    application: Client<Socket, Recorder, SharedMemory>,
    rx_pool: SharedMemory,
    tx_pool: SharedMemory,
    free: VecDeque<u16>,
    /// The connections' in rings.
    pub stream_in: SharedMemory,
    /// `true` if the link has checked the checksums of received frames.
    pub checked: bool,
    nanoseconds: u64,
    /// The application's connections, by the peer's port.
    pub connections: BTreeMap<u16, ConnectionId>,
}

impl Rig {
    pub fn new() -> Self {
        let system = Recorder::new();
        let pool = || SharedMemory::new(usize::from(PAGES) * PAGE_SIZE);
        let (rx_pool, tx_pool, stream_in) = (pool(), pool(), SharedMemory::new(3 * 2048));
        let (net, link) = channel::<Net, _>(&system, 1, &system, 2, 32);
        let (application, server) = channel::<Socket, _>(&system, 3, &system, 4, 8);
        let service = service(Caps {
            console: Console::new(system.clone(), Slot(0)),
            clock: Clock::new(system.clone(), Slot(1)),
            entropy: Entropy::new(system.clone(), Slot(2)),
            net,
            socket_clients: [server].into_iter().collect(),
            control_clients: [].into_iter().collect(),
            rx_pool: rx_pool.clone(),
            tx_pool: tx_pool.clone(),
            stream_in: stream_in.clone(),
            stream_out: SharedMemory::new(3 * 4096),
            command_line: b"ip=10.0.0.2/24",
            site: b"",
        });
        let mut rig = Rig {
            system,
            service: Box::new(service),
            link,
            application,
            rx_pool,
            tx_pool,
            free: (0..PAGES).collect(),
            stream_in,
            checked: false,
            nanoseconds: 1 << 30,
            connections: BTreeMap::new(),
        };
        let up = Link::Up { mac: MAC, mtu: 1500, offloads: Offloads::empty() };
        rig.link.replies.send(&up).expect("room");
        rig.ask(Request::Listen { port: PORT });
        rig.step();
        // The image learns the peer's Ethernet address.
        let arp = [
            &[0xFF; 6][..],
            &PEER_MAC,
            &[8, 6, 0, 1, 8, 0, 6, 4, 0, 1],
            &PEER_MAC,
            &[10, 0, 0, 1],
            &[0; 6],
            &[10, 0, 0, 2],
        ];
        let outcome = rig.receive(&arp.concat());
        assert_eq!((outcome.answers.len(), outcome.others), (0, 1), "the image answers");
        rig
    }

    pub fn ask(&mut self, request: Request) {
        self.application.requests.send(&request).expect("room");
    }

    /// Delivers a frame. Returns its effect.
    pub fn receive(&mut self, frame: &[u8]) -> Outcome {
        let page = self.free.pop_front().expect("tcpip keeps no page");
        self.rx_pool.write(usize::from(page) * PAGE_SIZE, frame);
        let length = NonZeroU16::new(frame.len() as u16).expect("a frame");
        let checked = self.checked;
        self.link
            .replies
            .send(&Link::Received { page: RxPage(page), offset: PageOffset::ZERO, length, more: false, checked })
            .expect("room");
        self.step()
    }

    pub fn send(&mut self, packet: &Packet) -> Outcome {
        self.receive(&packet.frame())
    }

    /// Runs the service until it has nothing to do, and checks the frames that it sends.
    pub fn step(&mut self) -> Outcome {
        let mut outcome = Outcome::default();
        for _ in 0..8 {
            self.nanoseconds += 1000;
            self.system.set_now(self.nanoseconds);
            self.service.notified(Notifications::ALL);
            let before = (outcome.answers.len() + outcome.others, outcome.replies.len());
            self.carry(&mut outcome);
            if before == (outcome.answers.len() + outcome.others, outcome.replies.len()) {
                break;
            }
        }
        let _ = self.system.take_calls();
        assert!(outcome.answers.len() + outcome.others <= MOST_ANSWERS, "{outcome:?}");
        // An eighth of them may be kept until the next message, with which all are given back.
        let silent = outcome.answers.len() + outcome.others == 0;
        let kept = usize::from(PAGES) - self.free.len();
        assert!(kept <= if silent { usize::from(PAGES) / 8 } else { 0 }, "{kept} pages were not given back");
        outcome
    }

    /// Lets the time pass for which an acknowledgement may be delayed (RFC 9293, 3.8.6.3).
    pub fn wait(&mut self) -> Outcome {
        self.nanoseconds += 500_000_000;
        self.step()
    }

    fn carry(&mut self, outcome: &mut Outcome) {
        while let Some(request) = self.link.requests.pop() {
            match request.expect("tcpip's messages decode") {
                Sent::Transmit { page, length, .. } => {
                    assert!(page.0 < PAGES);
                    match answer(&self.tx_pool.bytes(usize::from(page.0) * PAGE_SIZE, length.into())) {
                        Some(segment) => outcome.answers.push(segment),
                        None => outcome.others += 1,
                    }
                    self.link.replies.send(&Link::Transmitted { page }).expect("room");
                }
                Sent::Receive { pages: RxRun(run) } => {
                    for page in run.iter() {
                        assert!(page < PAGES && !self.free.contains(&page), "page {page} was given back twice");
                        self.free.push_back(page);
                    }
                }
                Sent::Close => panic!("the image was not asked to end"),
            }
        }
        while let Some(reply) = self.application.replies.pop() {
            let reply = reply.expect("tcpip's messages decode");
            outcome.replies.push(reply);
            match reply {
                Reply::Accepted { connection, port, .. } => drop(self.connections.insert(port, connection)),
                Reply::Received { connection, length, .. } => self.ask(Request::Consumed { connection, length }),
                _ => {}
            }
        }
    }
}
