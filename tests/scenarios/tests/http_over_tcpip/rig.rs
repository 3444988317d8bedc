//! http and tcpip wired together, a netfront of a few lines, and on the wire a client with a stack of its own.

use std::collections::VecDeque;

use cloister_caps::{PAGE_SIZE, Slot};
use cloister_http as http;
use cloister_interfaces::capability::{Clock, Console, Entropy, Info};
use cloister_interfaces::control::{Control, Reply as ControlReply, Request as ControlRequest};
use cloister_interfaces::net::{Net, Reply, Request};
use cloister_interfaces::socket::Socket as SocketInterface;
use cloister_interfaces::{Client, Memory, Notifications, Server, Service};
use cloister_sim::{Recorder, SharedMemory, channel};
use cloister_tcpip as tcpip;
use smoltcp::iface::{Config, Interface, SocketHandle, SocketSet};
use smoltcp::phy::{Device, DeviceCapabilities, Medium, RxToken, TxToken};
use smoltcp::socket::tcp;
use smoltcp::time::Instant;
use smoltcp::wire::{EthernetAddress, HardwareAddress, IpAddress, IpCidr};

pub const MAC: [u8; 6] = [2, 0, 0, 0, 0, 1];
pub const SERVER: IpAddress = IpAddress::v4(10, 0, 0, 2);
const PAGES: usize = 64;

/// netfront as tcpip sees it, with the wire in place of a backend.
struct Link {
    server: Server<Net, Recorder, SharedMemory>,
    rx_pool: SharedMemory,
    tx_pool: SharedMemory,
    rx_free: VecDeque<u16>,
    closed: bool,
}

impl Link {
    fn up(&mut self) {
        self.rx_free = (0..PAGES as u16).collect();
        self.server.replies.send(&Reply::Up { mac: MAC, mtu: 1500 }).unwrap();
    }

    /// Carries frames both ways. A page tcpip gives back twice, or sends twice, fails the test.
    fn carry(&mut self, wire: &mut Wire) {
        while let Some(request) = self.server.requests.pop() {
            match request.unwrap() {
                Request::Transmit { page, length } => {
                    let frame = self.tx_pool.bytes(usize::from(page) * PAGE_SIZE, length.into());
                    if wire.keeps() {
                        wire.to_client.push_back(frame);
                    }
                    self.server.replies.push(&Reply::Transmitted { page }).unwrap();
                }
                Request::Receive { page } => {
                    assert!(!self.rx_free.contains(&page), "page {page} was given back twice");
                    self.rx_free.push_back(page);
                }
                Request::Close => {
                    self.closed = true;
                    self.server.replies.push(&Reply::Down).unwrap();
                }
            }
        }
        while let (Some(page), false) = (self.rx_free.front().copied(), wire.to_server.is_empty()) {
            if self.closed || self.server.replies.room() < 2 {
                break;
            }
            self.rx_free.pop_front();
            let frame = wire.to_server.pop_front().unwrap();
            // Not always at the start of the page, as a backend may do.
            let offset = usize::from(page) % 3 * 64;
            self.rx_pool.write(usize::from(page) * PAGE_SIZE + offset, &frame);
            let reply = Reply::Received { page, offset: offset as u16, length: frame.len() as u16 };
            self.server.replies.push(&reply).unwrap();
        }
        self.server.replies.flush();
        self.server.requests.release();
    }
}

/// Frames in flight, and the client's device.
#[derive(Default)]
pub struct Wire {
    pub to_client: VecDeque<Vec<u8>>,
    pub to_server: VecDeque<Vec<u8>>,
    /// One in so many frames is lost, whichever way it goes.
    pub lose_every: Option<u64>,
    sent: u64,
}

impl Wire {
    fn keeps(&mut self) -> bool {
        self.sent += 1;
        self.lose_every.is_none_or(|every| !self.sent.is_multiple_of(every))
    }
}

pub struct Received(Vec<u8>);
impl RxToken for Received {
    fn consume<R, F: FnOnce(&[u8]) -> R>(self, f: F) -> R {
        f(&self.0)
    }
}
pub struct Sending<'a>(&'a mut Wire);
impl TxToken for Sending<'_> {
    fn consume<R, F: FnOnce(&mut [u8]) -> R>(self, length: usize, f: F) -> R {
        let mut frame = vec![0; length];
        let result = f(&mut frame);
        if self.0.keeps() {
            self.0.to_server.push_back(frame);
        }
        result
    }
}
impl Device for Wire {
    type RxToken<'a> = Received;
    type TxToken<'a> = Sending<'a>;
    fn receive(&mut self, _: Instant) -> Option<(Received, Sending<'_>)> {
        let frame = self.to_client.pop_front()?;
        Some((Received(frame), Sending(self)))
    }
    fn transmit(&mut self, _: Instant) -> Option<Sending<'_>> {
        Some(Sending(self))
    }
    fn capabilities(&self) -> DeviceCapabilities {
        let mut capabilities = DeviceCapabilities::default();
        capabilities.medium = Medium::Ethernet;
        capabilities.max_transmission_unit = 1514;
        capabilities
    }
}

/// Sizes and settings of an image.
pub struct Setup {
    pub connections: usize,
    pub ring_out: usize,
    pub command_line: &'static str,
    pub site: &'static [u8],
}

impl Default for Setup {
    fn default() -> Self {
        Setup { connections: 64, ring_out: 16 * 1024, command_line: "ip=10.0.0.2/24 gw=10.0.0.1", site: b"" }
    }
}

/// The whole.
pub struct Rig {
    pub system: Recorder,
    tcpip: Box<dyn Service>,
    http: Option<Box<dyn Service>>,
    link: Link,
    pub control: Client<Control, Recorder, SharedMemory>,
    pub wire: Wire,
    pub interface: Interface,
    pub sockets: SocketSet<'static>,
    pub nanoseconds: u64,
    /// How much time a step takes, in ns.
    pub pace: u64,
    next_port: u16,
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
            Box::new(http::service(http::Caps {
                console: Console::new(system.clone(), Slot(0)),
                clock: Clock::new(system.clone(), Slot(1)),
                info: Info::new(system.clone(), Slot(2)),
                socket,
                stream_in: rig.stream_in.clone(),
                stream_out: rig.stream_out.clone(),
                site: setup.site,
            }))
        });
        rig.run(50);
        rig
    }

    /// Without http: the test speaks to tcpip itself.
    pub fn bare(setup: &Setup) -> Self {
        let system = Recorder::new();
        let pool = || SharedMemory::new(PAGES * PAGE_SIZE);
        let (rx_pool, tx_pool) = (pool(), pool());
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
            command_line: setup.command_line.as_bytes(),
        });
        let mut wire = Wire::default();
        let config = Config::new(HardwareAddress::Ethernet(EthernetAddress([2, 0, 0, 0, 0, 9])));
        let mut interface = Interface::new(config, &mut wire, Instant::from_micros(1_000_000));
        interface.update_ip_addrs(|addresses| addresses.push(IpCidr::new(IpAddress::v4(10, 0, 0, 1), 24)).unwrap());
        let mut rig = Rig {
            system,
            tcpip: Box::new(tcpip),
            http: None,
            link: Link { server: netfront, rx_pool, tx_pool, rx_free: VecDeque::new(), closed: false },
            control,
            wire,
            interface,
            sockets: SocketSet::new(vec![]),
            nanoseconds: 1_000_000_000,
            pace: 100_000,
            next_port: 49152,
            application: Some(application),
            stream_in,
            stream_out,
        };
        rig.link.up();
        rig
    }

    /// One pass over everything.
    pub fn step(&mut self) {
        self.advance(self.pace);
        self.tcpip.notified(Notifications::ALL);
        if let Some(http) = &mut self.http {
            http.notified(Notifications::ALL);
        }
        self.link.carry(&mut self.wire);
        let now = Instant::from_micros((self.nanoseconds / 1000) as i64);
        self.interface.poll(now, &mut self.wire, &mut self.sockets);
        let _ = self.system.take_calls();
    }

    pub fn advance(&mut self, nanoseconds: u64) {
        self.nanoseconds += nanoseconds;
        self.system.set_now(self.nanoseconds);
    }

    pub fn run(&mut self, steps: usize) {
        for _ in 0..steps {
            self.step();
        }
    }

    /// Lets `seconds` go by, in steps of 50 ms.
    pub fn wait(&mut self, seconds: u64) {
        for _ in 0..seconds * 20 {
            self.advance(50_000_000);
            self.step();
        }
    }

    /// The time until a service wants to run by itself.
    pub fn sleeps(&self) -> Option<core::time::Duration> {
        let http = self.http.as_ref().and_then(|http| http.deadline());
        let deadline = self.tcpip.deadline().into_iter().chain(http).min()?;
        Some(deadline.since(cloister_interfaces::Instant(self.nanoseconds)))
    }

    /// The backend goes, and comes again.
    pub fn reconnect(&mut self) {
        self.link.server.replies.send(&Reply::Down).unwrap();
        self.step();
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

    /// A new connection of the client to the server.
    pub fn connect(&mut self) -> SocketHandle {
        let buffer = || tcp::SocketBuffer::new(vec![0; 64 * 1024]);
        let mut socket = tcp::Socket::new(buffer(), buffer());
        self.next_port = self.next_port.checked_add(1).unwrap_or(49152);
        socket.connect(self.interface.context(), (SERVER, 80), self.next_port).unwrap();
        self.sockets.add(socket)
    }

    pub fn socket(&mut self, handle: SocketHandle) -> &mut tcp::Socket<'static> {
        self.sockets.get_mut(handle)
    }

    pub fn send(&mut self, handle: SocketHandle, bytes: &[u8]) {
        let mut rest = bytes;
        for _ in 0..100_000 {
            if self.socket(handle).can_send() {
                let count = self.socket(handle).send_slice(rest).unwrap();
                rest = &rest[count..];
            }
            if rest.is_empty() {
                return;
            }
            self.step();
        }
        panic!("{} bytes could not be sent, {}", rest.len(), self.socket(handle).state());
    }

    /// What has come, without waiting.
    pub fn take(&mut self, handle: SocketHandle) -> Vec<u8> {
        let mut bytes = Vec::new();
        while self.socket(handle).can_recv() {
            self.socket(handle).recv(|part| (part.len(), bytes.extend_from_slice(part))).unwrap();
        }
        bytes
    }

    /// Reads one response: its head, and as much body as it announces (none after HEAD).
    pub fn response(&mut self, handle: SocketHandle, bare: bool) -> (String, Vec<u8>) {
        let mut bytes = Vec::new();
        for _ in 0..200_000 {
            self.step();
            let wanted = |bytes: &[u8]| {
                let end = bytes.windows(4).position(|window| window == b"\r\n\r\n")? + 4;
                let head = String::from_utf8(bytes[..end].to_vec()).unwrap();
                let length = head.lines().find_map(|line| line.strip_prefix("Content-Length: ")?.parse::<usize>().ok());
                Some((head, end, if bare { 0 } else { length.unwrap_or(0) }))
            };
            // One byte at a time past the head, so that a pipelined response stays in the socket.
            while self.socket(handle).can_recv() {
                let missing = match wanted(&bytes) {
                    Some((head, end, length)) if bytes.len() == end + length => return (head, bytes.split_off(end)),
                    Some((_, end, length)) => end + length - bytes.len(),
                    None => 1,
                };
                let take = |part: &mut [u8]| {
                    let count = part.len().min(missing);
                    bytes.extend_from_slice(&part[..count]);
                    (count, ())
                };
                self.socket(handle).recv(take).unwrap();
            }
            if let Some((head, end, length)) = wanted(&bytes)
                && bytes.len() == end + length
            {
                return (head, bytes.split_off(end));
            }
        }
        panic!("no whole response, but {:?}", String::from_utf8_lossy(&bytes[..bytes.len().min(500)]));
    }

    /// A request on a connection of its own.
    pub fn get(&mut self, target: &str) -> (String, Vec<u8>) {
        let handle = self.connect();
        self.send(handle, format!("GET {target} HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n").as_bytes());
        let answer = self.response(handle, false);
        self.socket(handle).close();
        self.run(20);
        self.sockets.remove(handle);
        answer
    }
}

/// A "newc" archive of these files.
pub fn cpio(files: &[(&str, &[u8])]) -> &'static [u8] {
    let mut archive = Vec::new();
    for (name, data) in files.iter().copied().chain([("TRAILER!!!", &b""[..])]) {
        let mut header = String::from("070701");
        for field in [1, 0o100_644, 0, 0, 1, 1_700_000_000, data.len(), 0, 0, 0, 0, name.len() + 1, 0] {
            header.push_str(&format!("{field:08x}"));
        }
        archive.extend(header.bytes().chain(name.bytes()).chain([0]));
        archive.resize(archive.len().next_multiple_of(4), 0);
        archive.extend_from_slice(data);
        archive.resize(archive.len().next_multiple_of(4), 0);
    }
    archive.leak()
}
