//! Connects http and tcpip, with a minimal netfront, and a client with a stack of its own on the
//! wire.

use std::collections::VecDeque;
use std::num::NonZeroU16;

use cloister_caps::{PAGE_SIZE, Slot};
use cloister_http as http;
use cloister_interfaces::capability::{Clock, Console, Entropy, Info};
use cloister_interfaces::control::{Control, Reply as ControlReply, Request as ControlRequest};
use cloister_interfaces::net::{Net, Offloads, Reply, Request, RxPage, RxRun};
use cloister_interfaces::socket::Socket as SocketInterface;
use cloister_interfaces::{Client, Memory, Notifications, PageOffset, Server, Service};
use cloister_scenarios::{Client as Peer, Network, Wire, finish, join};
use cloister_sim::{Recorder, SharedMemory, channel};
use cloister_tcpip as tcpip;
use smoltcp::wire::IpAddress;

pub const MAC: [u8; 6] = [2, 0, 0, 0, 0, 1];
const PAGES: usize = 64;
/// Bytes that an earlier run of tcpip has left in the transmit pool.
pub const EARLIER: &[u8] = b"of an earlier run";

/// The random losses in a million: frames as the image sends them, packets that they are cut into,
/// and frames to the image.
#[derive(Clone, Copy, Default, Debug)]
pub struct Loss {
    pub frames: u64,
    pub packets: u64,
    pub acks: u64,
    pub seed: u64,
}

impl Loss {
    fn keeps(&mut self, lost: u64) -> bool {
        // Knuth's MMIX generator.
        self.seed = self.seed.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (self.seed >> 33) % 1_000_000 >= lost
    }
}

/// Acts as netfront for tcpip, with the wire in place of a back end.
struct Link {
    server: Server<Net, Recorder, SharedMemory>,
    rx_pool: SharedMemory,
    tx_pool: SharedMemory,
    rx_free: VecDeque<u16>,
    offloads: Offloads,
    /// The length of the longest sent frame, in bytes.
    longest: usize,
    /// The length of the longest packet after the link, in bytes.
    longest_carried: usize,
    /// The length of the longest frame to tcpip, in bytes.
    longest_received: usize,
    /// The number of sent frames.
    frames: usize,
    closed: bool,
    loss: Loss,
}

impl Link {
    fn up(&mut self) {
        self.rx_free = (0..PAGES as u16).collect();
        self.server.replies.send(&Reply::Up { mac: MAC, mtu: 1500, offloads: self.offloads }).unwrap();
    }

    /// Carries frames both ways. A page that tcpip gives back twice, or sends twice, fails the
    /// test.
    fn carry(&mut self, wire: &mut Wire) {
        while let Some(request) = self.server.requests.pop() {
            match request.unwrap() {
                Request::Transmit { page, length, offload } => {
                    let frame = self.tx_pool.bytes(usize::from(page.0) * PAGE_SIZE, length.into());
                    self.longest = self.longest.max(frame.len());
                    self.frames += 1;
                    let (frames, packets) = (self.loss.frames, self.loss.packets);
                    let whole = self.loss.keeps(frames);
                    for frame in finish(frame, offload) {
                        self.longest_carried = self.longest_carried.max(frame.len());
                        if self.loss.keeps(packets) && whole && wire.keeps() {
                            wire.to_client.push_back(frame);
                        }
                    }
                    self.server.replies.push(&Reply::Transmitted { page }).unwrap();
                }
                Request::Receive { pages: RxRun(run) } => {
                    for page in run.iter() {
                        assert!(!self.rx_free.contains(&page), "page {page} was given back twice");
                        self.rx_free.push_back(page);
                    }
                }
                Request::Close => {
                    self.closed = true;
                    self.server.replies.push(&Reply::Down).unwrap();
                }
            }
        }
        while let (Some(page), false) = (self.rx_free.front().copied(), wire.to_server.is_empty()) {
            if self.closed || self.server.replies.room() < 3 || self.rx_free.len() < 2 {
                break;
            }
            // A link that cuts frames for others leaves ours uncut.
            let uncut = self.offloads.contains(Offloads::SEGMENTS);
            let frame = if uncut { join(&mut wire.to_server) } else { wire.to_server.pop_front() }.unwrap();
            self.longest_received = self.longest_received.max(frame.len());
            if !self.loss.keeps(self.loss.acks) {
                continue;
            }
            // As a back end may do, it does not always check the checksum, begin at the start of a
            // page, or deliver one part.
            let (checked, cut) = (page % 2 == 0, if page % 5 == 0 { 700 } else { PAGE_SIZE - 128 });
            let mut parts = frame.chunks(cut.max(frame.len().div_ceil(2))).peekable();
            while let Some(part) = parts.next() {
                let page = self.rx_free.pop_front().unwrap();
                let offset = usize::from(page) % 3 * 64;
                self.rx_pool.write(usize::from(page) * PAGE_SIZE + offset, part);
                let offset = PageOffset::new(offset as u16).unwrap();
                let (length, more) = (NonZeroU16::new(part.len() as u16).unwrap(), parts.peek().is_some());
                self.server
                    .replies
                    .push(&Reply::Received { page: RxPage(page), offset, length, more, checked })
                    .unwrap();
            }
        }
        self.server.replies.flush();
        self.server.requests.release();
    }
}

/// Sizes and settings of an image.
pub struct Setup {
    pub connections: usize,
    pub ring_out: usize,
    pub command_line: &'static str,
    pub site: &'static [u8],
    /// `true` if tcpip sends from the site by itself.
    pub shared: bool,
    /// `true` if http is that of the benchmarks, which takes uploads to `/sink`.
    pub sink: bool,
    /// The offloads of the link.
    pub offloads: Offloads,
    /// The size of the client's largest packet, in bytes.
    pub mtu: usize,
}

impl Default for Setup {
    fn default() -> Self {
        Setup {
            connections: 64,
            ring_out: 16 * 1024,
            command_line: "ip=10.0.0.2/24 gw=10.0.0.1",
            site: b"",
            shared: true,
            sink: false,
            offloads: Offloads::empty(),
            mtu: 1500,
        }
    }
}

/// The image and its surroundings.
pub struct Rig {
    pub system: Recorder,
    tcpip: Box<dyn Service>,
    http: Option<Box<dyn Service>>,
    link: Link,
    pub control: Client<Control, Recorder, SharedMemory>,
    pub client: Peer,
    /// Other hosts on the same wire, each with an address of its own.
    pub others: Vec<Peer>,
    pub nanoseconds: u64,
    /// The duration of a step, in ns.
    pub pace: u64,
    /// The application's end of the queue, if the test itself is the application.
    pub application: Option<Client<SocketInterface, Recorder, SharedMemory>>,
    pub stream_in: SharedMemory,
    pub stream_out: SharedMemory,
}

impl Rig {
    pub fn new(setup: Setup) -> Self {
        let mut rig = Rig::bare(&setup);
        let system = rig.system.clone();
        rig.http = rig.application.take().map(|socket| -> Box<dyn Service> {
            let caps = http::Caps {
                console: Console::new(system.clone(), Slot(0)),
                clock: Clock::new(system.clone(), Slot(1)),
                info: Info::new(system.clone(), Slot(2)),
                socket,
                stream_in: rig.stream_in.clone(),
                stream_out: rig.stream_out.clone(),
                site: setup.site,
            };
            if setup.sink { Box::new(http::with_sink::service(caps)) } else { Box::new(http::service(caps)) }
        });
        rig.run(50);
        rig
    }

    /// Creates an image without http: the test is the application.
    pub fn bare(setup: &Setup) -> Self {
        let system = Recorder::new();
        let pool = || SharedMemory::new(PAGES * PAGE_SIZE);
        let (rx_pool, tx_pool) = (pool(), pool());
        // An earlier run of tcpip may have sent something.
        tx_pool.write((PAGES - 1) * PAGE_SIZE, EARLIER);
        let (net, netfront) = channel::<Net, _>(&system, 10, &system, 11, 64);
        let (application, server) = channel::<SocketInterface, _>(&system, 12, &system, 13, 64);
        let (control, ending) = channel::<Control, _>(&system, 14, &system, 15, 4);
        let stream_in = SharedMemory::new(setup.connections * 2048);
        let stream_out = SharedMemory::new(setup.connections * setup.ring_out);
        let tcpip = tcpip::service(tcpip::Caps {
            console: Console::new(system.clone(), Slot(0)),
            clock: Clock::new(system.clone(), Slot(1)),
            entropy: Entropy::new(system.clone(), Slot(2)),
            net,
            socket_clients: [server].into_iter().collect(),
            control_clients: [ending].into_iter().collect(),
            rx_pool: rx_pool.clone(),
            tx_pool: tx_pool.clone(),
            stream_in: stream_in.clone(),
            stream_out: stream_out.clone(),
            site: if setup.shared { setup.site } else { b"" },
            command_line: setup.command_line.as_bytes(),
        });
        let mut rig = Rig {
            system,
            tcpip: Box::new(tcpip),
            http: None,
            link: Link {
                server: netfront,
                rx_pool,
                tx_pool,
                rx_free: VecDeque::new(),
                offloads: setup.offloads,
                longest: 0,
                longest_carried: 0,
                longest_received: 0,
                frames: 0,
                closed: false,
                loss: Loss::default(),
            },
            control,
            client: Peer::of(Wire::of(setup.mtu)),
            others: Vec::new(),
            nanoseconds: 1_000_000_000,
            pace: 100_000,
            application: Some(application),
            stream_in,
            stream_out,
        };
        rig.link.up();
        rig
    }

    pub fn advance(&mut self, nanoseconds: u64) {
        self.nanoseconds += nanoseconds;
        self.system.set_now(self.nanoseconds);
    }

    /// Lets `seconds` pass, in steps of 50 ms.
    pub fn wait(&mut self, seconds: u64) {
        for _ in 0..seconds * 20 {
            self.advance(50_000_000);
            self.step();
        }
    }

    /// Adds hosts, each with an address of its own.
    pub fn add_hosts(&mut self, count: u8) {
        for number in 0..count {
            self.others.push(Peer::at(Wire::default(), IpAddress::v4(10, 0, 0, 20 + number), 20 + number));
        }
    }

    /// Returns a host: the client is number 0.
    pub fn host(&mut self, number: usize) -> &mut Peer {
        match number.checked_sub(1) {
            None => &mut self.client,
            Some(other) => &mut self.others[other],
        }
    }

    /// Returns the time until the next deadline of a service.
    pub fn poll_delay(&self) -> Option<core::time::Duration> {
        let http = self.http.as_ref().and_then(|http| http.deadline());
        let deadline = self.tcpip.deadline().into_iter().chain(http).min()?;
        Some(deadline.since(cloister_interfaces::Instant(self.nanoseconds)))
    }

    /// Sets the losses of the link.
    pub fn lose(&mut self, loss: Loss) {
        self.link.loss = loss;
    }

    /// Returns the number of frames that the image sent.
    pub fn frames(&self) -> usize {
        self.link.frames
    }

    /// Returns the length of the longest frame that the image sent, in bytes.
    pub fn longest_frame(&self) -> usize {
        self.link.longest
    }

    /// Returns the length of the longest packet after the link, which cuts the image's frames, in
    /// bytes.
    pub fn longest_carried(&self) -> usize {
        self.link.longest_carried
    }

    /// Returns the length of the longest frame to the image, in bytes.
    pub fn longest_received(&self) -> usize {
        self.link.longest_received
    }

    /// Returns `true` if the back end could read these bytes in the transmit pool.
    pub fn shows(&self, bytes: &[u8]) -> bool {
        self.link.tx_pool.bytes(0, PAGES * PAGE_SIZE).windows(bytes.len()).any(|window| window == bytes)
    }

    /// Ends the back end's connection.
    pub fn disconnect(&mut self) {
        self.link.server.replies.send(&Reply::Down).unwrap();
        self.step();
    }

    /// Ends the back end's connection, and begins another.
    pub fn reconnect(&mut self) {
        self.disconnect();
        self.link.up();
    }

    pub fn quiesce(&mut self) {
        self.control.requests.send(&ControlRequest::Quiesce).unwrap();
    }

    pub fn is_quiet(&mut self) -> bool {
        match self.control.replies.pop() {
            Some(reply) => reply == Ok(ControlReply::Quiet) && self.link.closed,
            None => false,
        }
    }
}

impl Network for Rig {
    /// Runs every part once.
    fn step(&mut self) {
        self.advance(self.pace);
        self.tcpip.notified(Notifications::ALL);
        if let Some(http) = &mut self.http {
            http.notified(Notifications::ALL);
        }
        self.link.carry(&mut self.client.wire);
        for other in &mut self.others {
            other.share(&mut self.client.wire);
            other.poll(self.nanoseconds);
        }
        self.client.poll(self.nanoseconds);
        let _ = self.system.take_calls();
    }

    fn client(&mut self) -> &mut Peer {
        &mut self.client
    }
}
