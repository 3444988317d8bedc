//! The client: a host with its own network stack, and the requests that a test makes with it.

use smoltcp::iface::{Config, Interface, SocketHandle, SocketSet};
use smoltcp::socket::{icmp, tcp};
use smoltcp::time::Instant;
use smoltcp::wire::{EthernetAddress, HardwareAddress, Icmpv4Packet, Icmpv4Repr, IpAddress, IpCidr};

use crate::wire::Wire;

/// The image's address.
pub const SERVER: IpAddress = IpAddress::v4(10, 0, 0, 2);
/// The client's address.
pub const CLIENT: IpAddress = IpAddress::v4(10, 0, 0, 1);

/// The client.
pub struct Client {
    /// The wire that it is connected to.
    pub wire: Wire,
    /// Its interface.
    pub interface: Interface,
    /// Its sockets.
    pub sockets: SocketSet<'static>,
    next_port: u16,
}

impl Client {
    /// Creates a client.
    ///
    /// # Panics
    /// Never: the interface has room for one address.
    #[must_use]
    pub fn new() -> Self {
        Self::of(Wire::default())
    }

    /// Creates a client on this wire.
    ///
    /// # Panics
    /// As above.
    #[must_use]
    pub fn of(wire: Wire) -> Self {
        Self::at(wire, CLIENT, 9)
    }

    /// Creates a host with this address. `number` is the last byte of its link address.
    ///
    /// # Panics
    /// As above.
    #[must_use]
    pub fn at(mut wire: Wire, address: IpAddress, number: u8) -> Self {
        let config = Config::new(HardwareAddress::Ethernet(EthernetAddress([2, 0, 0, 0, 0, number])));
        let mut interface = Interface::new(config, &mut wire, Instant::from_micros(1_000_000));
        interface.update_ip_addrs(|addresses| addresses.push(IpCidr::new(address, 24)).unwrap());
        Client { wire, interface, sockets: SocketSet::new(vec![]), next_port: 49152 }
    }

    /// Takes the frames for this host, and those for all, from the frames to another, and gives
    /// that one's wire the frames that this host sends.
    pub fn share(&mut self, wire: &mut Wire) {
        let HardwareAddress::Ethernet(own) = self.interface.hardware_addr();
        let broadcast = |frame: &[u8]| frame.starts_with(EthernetAddress::BROADCAST.as_bytes());
        wire.to_client.retain(|frame| {
            let is_ours = frame.starts_with(own.as_bytes());
            if is_ours || broadcast(frame) {
                self.wire.to_client.push_back(frame.clone());
            }
            !is_ours
        });
        wire.to_server.append(&mut self.wire.to_server);
    }

    /// Receives and sends all frames that are ready at `nanoseconds`. Returns `true` if there was
    /// one.
    pub fn poll(&mut self, nanoseconds: u64) -> bool {
        let received = !self.wire.to_client.is_empty();
        let waiting = self.wire.to_server.len();
        self.interface.poll(instant(nanoseconds), &mut self.wire, &mut self.sockets);
        received || self.wire.to_server.len() > waiting
    }

    /// Returns the time, in ns, from `nanoseconds` until it must be polled. Returns `None` if it
    /// only waits for a frame.
    pub fn poll_delay(&mut self, nanoseconds: u64) -> Option<u64> {
        let delay = self.interface.poll_delay(instant(nanoseconds), &self.sockets)?;
        Some(delay.total_micros() * 1000)
    }
}

impl Default for Client {
    fn default() -> Self {
        Self::new()
    }
}

fn instant(nanoseconds: u64) -> Instant {
    Instant::from_micros((nanoseconds / 1000) as i64)
}

/// An image and a client on its wire.
pub trait Network {
    /// Runs every part for a short time.
    fn step(&mut self);
    /// The client.
    fn client(&mut self) -> &mut Client;

    /// Makes this number of steps.
    fn run(&mut self, steps: usize) {
        for _ in 0..steps {
            self.step();
        }
    }

    /// Opens a connection from the client to the image's web server.
    ///
    /// # Panics
    /// The client has no free port or address.
    fn connect(&mut self) -> SocketHandle {
        let buffer = || tcp::SocketBuffer::new(vec![0; 64 * 1024]);
        let mut socket = tcp::Socket::new(buffer(), buffer());
        let client = self.client();
        client.next_port = client.next_port.checked_add(1).unwrap_or(49152);
        socket.connect(client.interface.context(), (SERVER, 80), client.next_port).unwrap();
        client.sockets.add(socket)
    }

    /// Returns the socket of a connection.
    fn socket(&mut self, handle: SocketHandle) -> &mut tcp::Socket<'static> {
        self.client().sockets.get_mut(handle)
    }

    /// Sends all of `bytes`.
    ///
    /// # Panics
    /// They cannot be sent.
    fn send(&mut self, handle: SocketHandle, bytes: &[u8]) {
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

    /// Returns the bytes that have arrived, without waiting.
    ///
    /// # Panics
    /// Never: a socket that can receive does.
    fn take(&mut self, handle: SocketHandle) -> Vec<u8> {
        let mut bytes = Vec::new();
        while self.socket(handle).can_recv() {
            self.socket(handle).recv(|part| (part.len(), bytes.extend_from_slice(part))).unwrap();
        }
        bytes
    }

    /// Reads one response: its head, and the body that it announces (none after HEAD).
    ///
    /// # Panics
    /// No whole response comes.
    fn response(&mut self, handle: SocketHandle, bare: bool) -> (String, Vec<u8>) {
        let mut bytes = Vec::new();
        for _ in 0..200_000 {
            self.step();
            let wanted = |bytes: &[u8]| {
                let end = bytes.windows(4).position(|window| window == b"\r\n\r\n")? + 4;
                let head = String::from_utf8(bytes[..end].to_vec()).unwrap();
                let length = head.lines().find_map(|line| line.strip_prefix("Content-Length: ")?.parse::<usize>().ok());
                Some((head, end, if bare { 0 } else { length.unwrap_or(0) }))
            };
            // One byte at a time up to the end of the head, so that a pipelined response stays in
            // the socket.
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

    /// Makes a request on a new connection.
    fn get(&mut self, target: &str) -> (String, Vec<u8>) {
        let handle = self.connect();
        self.send(handle, format!("GET {target} HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n").as_bytes());
        let answer = self.response(handle, false);
        self.socket(handle).close();
        self.run(20);
        self.client().sockets.remove(handle);
        answer
    }

    /// Sends `count` pings of `length` bytes, each after the answer to the one before. Returns the
    /// number of correct answers.
    ///
    /// # Panics
    /// The client cannot send.
    fn pings(&mut self, count: u16, length: usize) -> u16 {
        const IDENTITY: u16 = 7;
        let buffer = || icmp::PacketBuffer::new(vec![icmp::PacketMetadata::EMPTY; 8], vec![0; 16384]);
        let mut socket = icmp::Socket::new(buffer(), buffer());
        socket.bind(icmp::Endpoint::Ident(IDENTITY)).unwrap();
        let handle = self.client().sockets.add(socket);
        let mut answered = 0;
        for number in 0..count {
            let data: Vec<u8> = (0..length).map(|at| (at as u16 ^ number) as u8).collect();
            let echo = Icmpv4Repr::EchoRequest { ident: IDENTITY, seq_no: number, data: &data };
            let socket = self.client().sockets.get_mut::<icmp::Socket<'_>>(handle);
            let space = socket.send(echo.buffer_len(), SERVER).unwrap();
            echo.emit(&mut Icmpv4Packet::new_unchecked(space), &smoltcp::phy::ChecksumCapabilities::default());
            for _ in 0..1000 {
                self.step();
                let socket = self.client().sockets.get_mut::<icmp::Socket<'_>>(handle);
                if let Ok((bytes, from)) = socket.recv() {
                    answered += u16::from(from == SERVER && bytes.get(8..) == Some(&data[..]));
                    break;
                }
            }
        }
        self.client().sockets.remove(handle);
        answered
    }
}
