//! tcpip between a link that carries what it is given, and an application that listens to one port.
//! Frames are made and parsed without tcpip's own code.
#![allow(dead_code)] // Each test program uses a part.

use std::collections::VecDeque;
use std::num::NonZeroU16;

use cloister_caps::{PAGE_SIZE, Slot};
use cloister_interfaces::capability::{Clock, Console, Entropy};
use cloister_interfaces::control::Control;
use cloister_interfaces::net::{Net, Offloads, Reply as Link, Request as Sent, RxPage, RxRun};
use cloister_interfaces::socket::{ConnectionId, Reply, Request, Socket};
use cloister_interfaces::{Client, Memory, Notifications, PageOffset, Server, Service};
use cloister_sim::{Recorder, SharedMemory, channel};
use cloister_tcpip::{Caps, service};

const PAGES: u16 = 128;
pub const PORT: u16 = 80;
pub const OURS: [u8; 4] = [10, 0, 0, 2];
pub const OUR_MAC: [u8; 6] = [2, 0, 0, 0, 0, 1];
pub const EVERYONE: [u8; 6] = [0xff; 6];
pub const FIN: u8 = 1;
pub const SYN: u8 = 2;
pub const RST: u8 = 4;
pub const ACK: u8 = 16;

/// A host on the link.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Host {
    pub address: [u8; 4],
    pub mac: [u8; 6],
}

/// The host 10.0.`high`.`low`.
pub fn host(high: u8, low: u8) -> Host {
    Host { address: [10, 0, high, low], mac: [2, 1, 0, 0, high, low] }
}

pub const GATEWAY: Host = Host { address: [10, 0, 0, 1], mac: [2, 1, 0, 0, 0, 1] };

/// A segment.
#[derive(Clone, Debug, Default)]
pub struct Segment {
    pub from: u16,
    pub to: u16,
    pub seq: u32,
    pub ack: u32,
    pub flags: u8,
    pub window: u16,
    pub data: Vec<u8>,
}

/// A frame that the service sent.
#[derive(Clone, Debug)]
pub enum Frame {
    /// An ARP request for a host, and the link address that it was sent to.
    Request([u8; 4], [u8; 6]),
    /// An ARP reply to this host.
    Reply(Host),
    /// A ping reply to a host, and the link address that it was sent to.
    Echo(Host),
    /// A segment to this host.
    Segment(Host, Segment),
    /// The payload of a datagram.
    Datagram(Vec<u8>),
}

/// Returns the Internet checksum of `bytes`.
pub fn sum(bytes: &[u8]) -> u16 {
    let words = bytes.chunks(2).map(|pair| u32::from(u16::from_be_bytes([pair[0], *pair.get(1).unwrap_or(&0)])));
    let total = words.sum::<u32>();
    let total = (total & 0xffff) + (total >> 16);
    !((total & 0xffff) + (total >> 16)) as u16
}

/// Returns a frame with an IPv4 packet.
pub fn packet(mac: [u8; 6], from: [u8; 4], to: [u8; 4], protocol: u8, payload: &[u8]) -> Vec<u8> {
    let mut header = [0x45, 0, 0, 0, 0, 1, 0x40, 0, 64, protocol, 0, 0].to_vec();
    header[2..4].copy_from_slice(&(20 + payload.len() as u16).to_be_bytes());
    header.extend([from, to].concat());
    let check = sum(&header);
    header[10..12].copy_from_slice(&check.to_be_bytes());
    [&OUR_MAC[..], &mac, &[8, 0], &header, payload].concat()
}

/// Turns the packet in a frame into the fragment at `offset` of packet `number`, with more to
/// follow.
pub fn fragment(mut frame: Vec<u8>, number: u16, offset: usize) -> Vec<u8> {
    frame[18..20].copy_from_slice(&number.to_be_bytes());
    frame[20..22].copy_from_slice(&(0x2000 | (offset / 8) as u16).to_be_bytes());
    frame[24..26].fill(0);
    let check = sum(&frame[14..34]);
    frame[24..26].copy_from_slice(&check.to_be_bytes());
    frame
}

/// Returns a ping to `to`.
pub fn ping(mac: [u8; 6], from: [u8; 4], to: [u8; 4]) -> Vec<u8> {
    long_ping(mac, from, to, 4)
}

/// Returns a ping with `length` bytes of data.
pub fn long_ping(mac: [u8; 6], from: [u8; 4], to: [u8; 4], length: usize) -> Vec<u8> {
    let mut message = [&[8, 0, 0, 0, 0, 7, 0, 1][..], &vec![3; length]].concat();
    let check = sum(&message);
    message[2..4].copy_from_slice(&check.to_be_bytes());
    packet(mac, from, to, 1, &message)
}

/// Returns a broadcast ARP message.
pub fn arp(operation: u8, from: Host, to: [u8; 4]) -> Vec<u8> {
    [&EVERYONE[..], &from.mac, &[8, 6, 0, 1, 8, 0, 6, 4, 0, operation], &from.mac, &from.address, &[0; 6], &to].concat()
}

impl Segment {
    /// Returns the frame of the segment, from `address` through the host `mac`.
    pub fn frame(&self, mac: [u8; 6], address: [u8; 4]) -> Vec<u8> {
        let mut bytes = [self.from.to_be_bytes(), self.to.to_be_bytes()].concat();
        bytes.extend(self.seq.to_be_bytes());
        bytes.extend(self.ack.to_be_bytes());
        bytes.extend([0x50, self.flags]);
        bytes.extend(self.window.to_be_bytes());
        bytes.extend([0; 4]);
        bytes.extend(&self.data);
        let pseudo = [&address[..], &OURS, &[0, 6], &(bytes.len() as u16).to_be_bytes(), &bytes].concat();
        let check = sum(&pseudo);
        bytes[16..18].copy_from_slice(&check.to_be_bytes());
        packet(mac, address, OURS, 6, &bytes)
    }
}

fn read(frame: &[u8]) -> Frame {
    let word = |at: usize| u16::from_be_bytes([frame[at], frame[at + 1]]);
    let long = |at: usize| u32::from_be_bytes(frame[at..at + 4].try_into().expect("four bytes"));
    let four = |at: usize| <[u8; 4]>::try_from(&frame[at..at + 4]).expect("four bytes");
    let to: [u8; 6] = frame[..6].try_into().expect("six bytes");
    assert_eq!(frame[6..12], OUR_MAC, "from us");
    match (word(12), frame[23]) {
        (0x806, _) if word(20) == 1 => Frame::Request(four(38), to),
        (0x806, _) => Frame::Reply(Host { address: four(38), mac: to }),
        (0x800, protocol) => {
            assert_eq!(sum(&frame[14..34]), 0, "the header's checksum is right");
            let host = Host { address: four(30), mac: to };
            match protocol {
                1 => Frame::Echo(host),
                6 => {
                    let data = frame[34 + usize::from(frame[46] >> 4) * 4..].to_vec();
                    let (from, to, window) = (word(34), word(36), word(48));
                    let (seq, ack, flags) = (long(38), long(42), frame[47]);
                    Frame::Segment(host, Segment { from, to, seq, ack, flags, window, data })
                }
                _ => Frame::Datagram(frame[42..].to_vec()),
            }
        }
        other => panic!("{other:?}"),
    }
}

pub struct Bench {
    pub system: Recorder,
    service: Box<dyn Service>,
    link: Server<Net, Recorder, SharedMemory>,
    pub application: Client<Socket, Recorder, SharedMemory>,
    /// An application that listens to nothing yet.
    pub second: Client<Socket, Recorder, SharedMemory>,
    _control: Client<Control, Recorder, SharedMemory>,
    rx_pool: SharedMemory,
    tx_pool: SharedMemory,
    free: VecDeque<u16>,
    pub nanoseconds: u64,
    /// The messages that the application received.
    pub replies: Vec<Reply>,
}

impl Bench {
    pub fn new(command_line: &'static str) -> Self {
        Self::after(command_line, 0)
    }

    /// Creates a service whose random numbers are those after the first `draws`.
    pub fn after(command_line: &'static str, draws: usize) -> Self {
        Self::made(command_line, draws, 64 * 2048, 64 * 4096, || ())
    }

    /// The same with stream regions of these sizes. `before` is called before the service is
    /// created.
    pub fn made(
        command_line: &'static str,
        draws: usize,
        stream_in: usize,
        stream_out: usize,
        before: impl FnOnce(),
    ) -> Self {
        let system = Recorder::new();
        for _ in 0..draws {
            let _ = Entropy::new(system.clone(), Slot(2)).draw();
        }
        let pool = || SharedMemory::new(usize::from(PAGES) * PAGE_SIZE);
        let (rx_pool, tx_pool) = (pool(), pool());
        let (net, link) = channel::<Net, _>(&system, 1, &system, 2, 128);
        let (application, server) = channel::<Socket, _>(&system, 3, &system, 4, 64);
        let (second, its_server) = channel::<Socket, _>(&system, 7, &system, 8, 64);
        let (control, ending) = channel::<Control, _>(&system, 5, &system, 6, 2);
        let caps = Caps {
            console: Console::new(system.clone(), Slot(0)),
            clock: Clock::new(system.clone(), Slot(1)),
            entropy: Entropy::new(system.clone(), Slot(2)),
            net,
            socket_clients: [server, its_server].into_iter().collect(),
            control_clients: [ending].into_iter().collect(),
            rx_pool: rx_pool.clone(),
            tx_pool: tx_pool.clone(),
            stream_in: SharedMemory::new(stream_in),
            stream_out: SharedMemory::new(stream_out),
            site: &[],
            command_line: command_line.as_bytes(),
        };
        before();
        let service = Box::new(service(caps));
        let (free, nanoseconds) = ((0..PAGES).collect(), 1 << 30);
        let mut bench = Bench {
            system,
            service,
            link,
            application,
            second,
            _control: control,
            rx_pool,
            tx_pool,
            free,
            nanoseconds,
            replies: Vec::new(),
        };
        bench.up();
        bench.application.requests.send(&Request::Listen { port: PORT }).expect("room");
        bench.run();
        bench
    }

    /// Brings the link up.
    pub fn up(&mut self) -> Vec<Frame> {
        let up = Link::Up { mac: OUR_MAC, mtu: 1500, offloads: Offloads::empty() };
        self.link.replies.send(&up).expect("room");
        self.run()
    }

    /// Lets time pass.
    pub fn pass(&mut self, milliseconds: u64) -> Vec<Frame> {
        self.nanoseconds += milliseconds * 1_000_000;
        self.run()
    }

    /// Runs the service until it is idle. Returns what it sent.
    pub fn run(&mut self) -> Vec<Frame> {
        let mut frames = Vec::new();
        for _ in 0..8 {
            self.nanoseconds += 1000;
            self.system.set_now(self.nanoseconds);
            self.service.notified(Notifications::ALL);
            while let Some(request) = self.link.requests.pop() {
                match request.expect("tcpip's messages decode") {
                    Sent::Transmit { page, length, .. } => {
                        frames.push(read(&self.tx_pool.bytes(usize::from(page.0) * PAGE_SIZE, length.into())));
                        self.link.replies.send(&Link::Transmitted { page }).expect("room");
                    }
                    Sent::Receive { pages: RxRun(run) } => self.free.extend(run.iter()),
                    Sent::Close => {}
                }
            }
            while let Some(reply) = self.application.replies.pop() {
                self.replies.push(reply.expect("tcpip's messages decode"));
            }
            self.application.replies.release();
        }
        let _ = self.system.take_calls();
        frames
    }

    /// Delivers a frame, in as many pages as it takes, and runs the service. Returns what it sent.
    pub fn frame(&mut self, frame: &[u8]) -> Vec<Frame> {
        self.deliver(frame);
        self.run()
    }

    /// Delivers a frame without running the service.
    pub fn deliver(&mut self, frame: &[u8]) {
        let pages = frame.chunks(PAGE_SIZE).count();
        for (at, part) in frame.chunks(PAGE_SIZE).enumerate() {
            let page = self.free.pop_front().expect("tcpip keeps no page");
            self.rx_pool.write(usize::from(page) * PAGE_SIZE, part);
            let (length, more) = (NonZeroU16::new(part.len() as u16).expect("bytes"), at + 1 < pages);
            self.link
                .replies
                .send(&Link::Received { page: RxPage(page), offset: PageOffset::ZERO, length, more, checked: false })
                .expect("room");
        }
    }

    /// Delivers a segment from a host. Returns the segments that were sent.
    pub fn segment(&mut self, host: Host, segment: &Segment) -> Vec<Segment> {
        segments(self.frame(&segment.frame(host.mac, host.address)))
    }

    /// Opens a connection from `port` of the host, whose initial sequence number is `seq`. Returns
    /// our initial sequence number.
    pub fn open(&mut self, host: Host, port: u16, seq: u32) -> Option<u32> {
        let syn = Segment { from: port, to: PORT, seq, flags: SYN, window: 1000, ..Segment::default() };
        let answer = self.segment(host, &syn).pop()?;
        assert_eq!((answer.flags, answer.ack), (SYN | ACK, seq.wrapping_add(1)));
        let (ack, flags) = (answer.seq.wrapping_add(1), ACK);
        self.segment(host, &Segment { seq: seq.wrapping_add(1), ack, flags, ..syn });
        Some(answer.seq)
    }

    /// Returns the connections that were accepted.
    pub fn accepted(&self) -> Vec<ConnectionId> {
        let accepted = |reply: &Reply| match reply {
            Reply::Accepted { connection, .. } => Some(*connection),
            _ => None,
        };
        self.replies.iter().filter_map(accepted).collect()
    }

    /// Returns the number of connections that ended.
    pub fn closed(&self) -> usize {
        self.replies.iter().filter(|reply| matches!(reply, Reply::Closed { .. })).count()
    }
}

/// Returns the segments among `frames`.
pub fn segments(frames: Vec<Frame>) -> Vec<Segment> {
    let segment = |frame| match frame {
        Frame::Segment(_, segment) => Some(segment),
        _ => None,
    };
    frames.into_iter().filter_map(segment).collect()
}
