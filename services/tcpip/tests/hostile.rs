//! tcpip with a netfront and an application that send anything at all.
#![forbid(unsafe_code)]

#[path = "hostile/log.rs"]
mod log;

use std::collections::BTreeMap;
use std::num::NonZeroU16;

use cloister_caps::{PAGE_SIZE, Slot};
use cloister_interfaces::capability::{Clock, Console, Entropy};
use cloister_interfaces::control::{Control, Reply as ControlReply, Request as ControlRequest};
use cloister_interfaces::net::{Net, Offloads, Reply as LinkReply, Request as LinkRequest, RxPage, TxPage};
use cloister_interfaces::socket::{ConnectionId, Constant, Reply, Request, Socket};
use cloister_interfaces::{Client, Memory, Notifications, PageOffset, Server, Service};
use cloister_sim::{ChannelMemory, Recorder, SharedMemory, channel};
use cloister_tcpip::{Caps, service};
use proptest::prelude::*;
use smoltcp::wire::{IpAddress, IpProtocol, Ipv4Address, Ipv4Packet, TcpPacket, TcpSeqNumber};

const PAGES: u16 = 20;

struct Bench {
    system: Recorder,
    service: Box<dyn Service>,
    link: Server<Net, Recorder, SharedMemory>,
    link_memory: ChannelMemory,
    application: Client<Socket, Recorder, SharedMemory>,
    control: Client<Control, Recorder, SharedMemory>,
    rx_pool: SharedMemory,
    tx_pool: SharedMemory,
    /// For each port of the peer: the sequence number after the last segment to it, and that
    /// segment's acknowledgement number.
    last: BTreeMap<u16, (u32, u32)>,
    /// The first pages of frames that were sent and not given back, and the number of pages of
    /// each.
    sent: BTreeMap<u16, u16>,
    nanoseconds: u64,
}

impl Bench {
    fn new(command_line: &'static str) -> Self {
        let system = Recorder::new();
        let pool = || SharedMemory::new(usize::from(PAGES) * PAGE_SIZE);
        let (rx_pool, tx_pool) = (pool(), pool());
        let link_memory = ChannelMemory::new::<Net>(16);
        let (net, link) = link_memory.ends((&system, 1), (&system, 2));
        let (application, server) = channel::<Socket, _>(&system, 3, &system, 4, 8);
        let (control, ending) = channel::<Control, _>(&system, 5, &system, 6, 2);
        let service = service(Caps {
            console: Console::new(system.clone(), Slot(0)),
            clock: Clock::new(system.clone(), Slot(1)),
            entropy: Entropy::new(system.clone(), Slot(2)),
            net,
            socket_clients: [server].into_iter().collect(),
            control_clients: [ending].into_iter().collect(),
            rx_pool: rx_pool.clone(),
            tx_pool: tx_pool.clone(),
            stream_in: SharedMemory::new(4 * 2048),
            stream_out: SharedMemory::new(4 * 4096),
            site: &[0x5a; 5000],
            command_line: command_line.as_bytes(),
        });
        let service = Box::new(service);
        Bench {
            system,
            service,
            link_memory,
            link,
            application,
            control,
            rx_pool,
            tx_pool,
            last: BTreeMap::new(),
            sent: BTreeMap::new(),
            nanoseconds: 1 << 30,
        }
    }

    /// Runs the service, and checks what it sends.
    fn run(&mut self) {
        self.nanoseconds += 1_000_000;
        self.system.set_now(self.nanoseconds);
        self.service.notified(Notifications::ALL);
        while let Some(request) = self.link.requests.pop() {
            if let LinkRequest::Transmit { page: TxPage(page), length, .. } = request.expect("tcpip's messages decode")
            {
                let count = length.div_ceil(PAGE_SIZE as u16);
                assert!(length > 0 && page + count <= PAGES);
                assert!(self.sent.iter().all(|(first, pages)| first + pages <= page || page + count <= *first));
                self.sent.insert(page, count);
                self.note(&self.tx_pool.bytes(usize::from(page) * PAGE_SIZE, usize::from(length)));
            }
        }
        let _ = self.system.take_calls();
    }

    /// Records the numbers of a segment that the service sends.
    fn note(&mut self, frame: &[u8]) {
        if frame.len() < 54 || frame[12..14] != [8, 0] || frame[23] != 6 {
            return;
        }
        let ip = Ipv4Packet::new_checked(&frame[14..]).expect("tcpip's packets are well-formed");
        let tcp = TcpPacket::new_checked(ip.payload()).expect("tcpip's segments are well-formed");
        let next = tcp.seq_number().0.wrapping_add(tcp.segment_len() as i32);
        self.last.insert(tcp.dst_port(), (next as u32, tcp.ack_number().0 as u32));
    }

    fn frame(&mut self, page: u16, frame: &[u8]) {
        self.rx_pool.write(usize::from(page) * PAGE_SIZE, frame);
        self.link(&received(page, 0, frame.len()));
    }

    fn link(&mut self, reply: &LinkReply) {
        match reply {
            LinkReply::Transmitted { page } => drop(self.sent.remove(&page.0)),
            LinkReply::Up { .. } | LinkReply::Down => self.sent.clear(),
            LinkReply::Received { .. } => {}
        }
        let _ = self.link.replies.send(reply);
    }

    /// Sends a message with fields that the type of a message excludes.
    fn link_bytes(&mut self, bytes: &[u8]) {
        if self.link.replies.send(&LinkReply::Transmitted { page: TxPage(0) }).is_ok() {
            self.link_memory.replies.rewrite_last(bytes);
        }
    }

    /// Returns the logged lines about violations and refusals, in alphabetical order.
    fn logged(&self) -> Vec<String> {
        let about_peers = |line: &&str| line.starts_with("refused") || line.starts_with("violation");
        let mut lines: Vec<_> = self.system.console().lines().filter(about_peers).map(str::to_string).collect();
        lines.sort_unstable();
        lines
    }
}

/// Returns a part of a frame. Its offset and length must be those that a message can have.
fn part(page: u16, offset: usize, length: usize, more: bool, checked: bool) -> LinkReply {
    let offset = PageOffset::new(offset as u16).expect("less than a page");
    let length = NonZeroU16::new(length as u16).expect("bytes");
    LinkReply::Received { page: RxPage(page), offset, length, more, checked }
}

fn received(page: u16, offset: usize, length: usize) -> LinkReply {
    part(page, offset, length, false, false)
}

const UP: LinkReply = LinkReply::Up { mac: [2, 0, 0, 0, 0, 1], mtu: 1500, offloads: Offloads::empty() };

#[test]
fn impossible_link_messages_are_violations_and_logged_once() {
    let mut bench = Bench::new("ip=10.0.0.2/24");
    for mac in [[1, 0, 0, 0, 0, 0], [0xff; 6], [0; 6]] {
        bench.link(&LinkReply::Up { mac, mtu: 1500, offloads: Offloads::empty() });
    }
    bench.link(&LinkReply::Up { mac: [2; 6], mtu: 40, offloads: Offloads::empty() });
    bench.link(&LinkReply::Up { mac: [2; 6], mtu: 4090, offloads: Offloads::empty() });
    bench.run();
    bench.link(&UP);
    for page in [0, 0, PAGES, u16::MAX] {
        bench.link(&received(page, 0, 60));
    }
    bench.link(&received(1, 4000, 97));
    // An offset after the page, and no bytes.
    bench.link_bytes(&[3, 0, 2, 0, 0xff, 0xff, 0xff, 0xff]);
    bench.link_bytes(&[3, 0, 3, 0, 0, 0x10, 60, 0]);
    bench.link_bytes(&[3, 0, 4, 0, 0, 0, 0, 0]);
    for page in [5, 5, PAGES] {
        // Not through `link`, which keeps account of the pages of an honest netfront.
        let _ = bench.link.replies.send(&LinkReply::Transmitted { page: TxPage(page) });
    }
    bench.run();
    assert_eq!(
        bench.logged(),
        [
            "violation by netfront: a message with a number out of range at byte 4 (logged once)",
            "violation by netfront: a page that it does not hold (logged once)",
            "violation by netfront: an impossible address or MTU (logged once)",
        ]
    );
}

/// Returns a ping from the peer.
fn ping() -> Vec<u8> {
    let mut message = [&[8u8, 0, 0, 0, 0, 7, 0, 1][..], &[0xab; 60]].concat();
    let sum = !smoltcp::wire::checksum::data(&message);
    message[2..4].copy_from_slice(&sum.to_be_bytes());
    packet(1, 0, &message)
}

impl Bench {
    /// Creates a bench whose service knows the peer's link address.
    fn acquainted() -> Self {
        let mut bench = Bench::new("ip=10.0.0.2/24");
        bench.link(&UP);
        bench.run();
        bench.frame(0, &arp_request());
        bench.run();
        bench
    }

    /// Returns the number of frames sent since the last call, and gives their pages back.
    fn answers(&mut self) -> usize {
        self.run();
        let pages = core::mem::take(&mut self.sent);
        for page in pages.keys() {
            let _ = self.link.replies.send(&LinkReply::Transmitted { page: TxPage(*page) });
        }
        pages.len()
    }
}

#[test]
fn a_frame_is_assembled_from_its_parts_and_broken_ones_are_dropped() {
    let mut bench = Bench::acquainted();
    let _ = bench.answers();
    let part = |page, offset, length, more| part(page, offset, length, more, false);
    let ping = ping();
    let (first, rest) = ping.split_at(31);
    // The second part continues in a second page.
    bench.rx_pool.write(100, first);
    bench.rx_pool.write(3 * PAGE_SIZE - 5, rest);
    bench.link(&part(0, 100, first.len(), true));
    assert_eq!(bench.answers(), 0, "half a frame");
    bench.link(&part(2, PAGE_SIZE - 5, rest.len(), false));
    assert_eq!(bench.answers(), 1);
    // The pages are back, and can be filled again. A frame with an impossible part is dropped up to
    // its end, and no further.
    bench.link(&part(0, 100, first.len(), true));
    bench.link(&part(PAGES, 0, 10, true));
    bench.link(&part(2, PAGE_SIZE - 5, rest.len(), false));
    assert_eq!(bench.answers(), 0);
    assert_eq!(bench.logged(), ["violation by netfront: a page that it does not hold (logged once)"]);
    // So is one with a message in its midst that does not decode, as a part without bytes.
    bench.link(&part(0, 100, first.len(), true));
    bench.link_bytes(&[3, 1, 1, 0, 0, 0, 0, 0]);
    bench.link(&part(2, PAGE_SIZE - 5, rest.len(), false));
    assert_eq!(bench.answers(), 0);
    bench.link(&part(0, 100, first.len(), true));
    bench.link(&part(2, PAGE_SIZE - 5, rest.len(), false));
    assert_eq!(bench.answers(), 1);
    // A frame that is longer than any packet is dropped, too.
    for _ in 0..3 {
        for page in (0..18).step_by(2) {
            bench.link(&part(page, 0, 2 * PAGE_SIZE, page < 16));
        }
        assert_eq!(bench.answers(), 0);
    }
    bench.link(&part(0, 100, first.len(), true));
    bench.link(&part(2, PAGE_SIZE - 5, rest.len(), false));
    assert_eq!(bench.answers(), 1);
}

#[test]
fn the_pool_is_cleared_between_two_links() {
    let mut bench = Bench::acquainted();
    bench.frame(0, &ping());
    bench.run();
    let pool = usize::from(PAGES) * PAGE_SIZE;
    assert!(bench.tx_pool.bytes(0, pool).iter().any(|byte| *byte != 0), "an answer was built there");
    bench.link(&LinkReply::Down);
    bench.run();
    assert!(bench.tx_pool.bytes(0, pool).iter().all(|byte| *byte == 0));
}

#[test]
fn a_checksum_is_verified_unless_the_link_vouches_for_it() {
    for (checked, expected) in [(false, 0), (true, 1)] {
        let mut bench = Bench::acquainted();
        let _ = bench.answers();
        let segment = Segment { port: 5000, sequence: 0, acknowledged: 0, flags: 0x10, window: 1, data: vec![1; 9] };
        let mut frame = segment.frame(None);
        bench.frame(0, &frame);
        assert_eq!(bench.answers(), 1, "a reset: nobody listens");
        *frame.last_mut().unwrap() ^= 1;
        bench.rx_pool.write(0, &frame);
        bench.link(&part(0, 0, frame.len(), false, checked));
        assert_eq!(bench.answers(), expected);
    }
}

#[test]
fn a_header_is_verified_whatever_the_link_says() {
    let segment = Segment { port: 5000, sequence: 0, acknowledged: 0, flags: 0x10, window: 1, data: vec![1; 9] };
    for mut frame in [ping(), segment.frame(None)] {
        let mut bench = Bench::acquainted();
        let _ = bench.answers();
        bench.frame(0, &frame);
        assert_eq!(bench.answers(), 1);
        // The time to live.
        frame[22] ^= 1;
        bench.rx_pool.write(0, &frame);
        bench.link(&part(0, 0, frame.len(), false, true));
        assert_eq!(bench.answers(), 0);
    }
}

#[test]
fn a_connection_that_does_not_exist_is_a_violation_and_port_0_is_refused() {
    let mut bench = Bench::new("ip=10.0.0.2/24");
    bench.link(&UP);
    bench.run();
    bench.application.requests.send(&Request::Listen { port: 80 }).unwrap();
    bench.run();
    let connection = ConnectionId(3);
    for request in [
        Request::Send { connection, consumed: 0, length: u32::MAX, constant: None, quiet: false },
        Request::Consumed { connection: ConnectionId(511), length: 1 },
        Request::Close { connection },
        Request::Listen { port: 0 },
    ] {
        bench.application.requests.send(&request).unwrap();
    }
    bench.run();
    assert_eq!(
        bench.logged(),
        [
            "refused an application: a port that is 0 or taken (client 0, logged once)",
            "violation by an application: a connection that it does not have (client 0, logged once)",
        ]
    );
}

#[test]
fn a_second_listen_voids_everything() {
    let mut bench = Bench::new("ip=10.0.0.2/24");
    bench.link(&UP);
    bench.run();
    let hear = |bench: &mut Bench| {
        bench.run();
        core::iter::from_fn(|| bench.application.replies.pop()).map(Result::unwrap).collect::<Vec<_>>()
    };
    assert_eq!(hear(&mut bench), [Reply::Network { address: [0; 4], constant: 5000 }]);
    for _ in 0..2 {
        bench.application.requests.send(&Request::Listen { port: 80 }).unwrap();
        assert_eq!(hear(&mut bench), [Reply::Network { address: [10, 0, 0, 2], constant: 5000 }]);
        bench.application.requests.send(&Request::Listen { port: 80 }).unwrap();
        assert_eq!(hear(&mut bench), [Reply::Network { address: [0; 4], constant: 5000 }]);
    }
}

#[test]
fn quiescing_is_quick_without_a_link_and_ends_with_a_silent_one() {
    let mut bench = Bench::new("");
    bench.control.requests.send(&ControlRequest::Quiesce).unwrap();
    bench.run();
    bench.run();
    assert_eq!(bench.control.replies.pop(), Some(Ok(ControlReply::Quiet)));
    let mut bench = Bench::new("");
    bench.link(&UP);
    bench.run();
    bench.control.requests.send(&ControlRequest::Quiesce).unwrap();
    let ended = (0..5000).any(|_| {
        bench.run();
        bench.control.replies.pop().is_some()
    });
    assert!(ended, "the link never answers, and that is waited for only so long");
}

fn link_message() -> impl Strategy<Value = Act> {
    let page = prop_oneof![9 => 0..PAGES, 1 => any::<u16>()];
    let reply = |reply| Act::Link(reply);
    prop_oneof![
        1 => any::<u8>().prop_map(|offloads| LinkReply::Up {
            mac: [2, 0, 0, 0, 0, 1],
            mtu: 1500,
            offloads: Offloads::from_bits_truncate(offloads),
        }).prop_map(reply),
        1 => (any::<[u8; 6]>(), any::<u16>())
            .prop_map(|(mac, mtu)| LinkReply::Up { mac, mtu, offloads: Offloads::empty() })
            .prop_map(reply),
        1 => Just(LinkReply::Down).prop_map(reply),
        20 => (page.clone(), 0u16..4200, prop_oneof![9 => 0u16..1600, 1 => any::<u16>()], 0u8..4)
            .prop_map(|(page, offset, length, flags)| Act::Part { flags, fields: [page, offset, length] }),
        6 => page.prop_map(|page| LinkReply::Transmitted { page: TxPage(page) }).prop_map(reply),
    ]
}

fn request() -> impl Strategy<Value = Request> {
    let connection = prop_oneof![9 => 0u16..4, 1 => 0u16..512].prop_map(ConnectionId);
    let length = prop_oneof![0u32..5000, any::<u32>()];
    let constant = prop::option::of(
        (0u32..5000, prop_oneof![1u32..5000, any::<u32>()])
            .prop_map(|(offset, length)| Constant { offset, length: length.max(1) }),
    );
    prop_oneof![
        prop_oneof![Just(80u16), any::<u16>()].prop_map(|port| Request::Listen { port }),
        (connection.clone(), prop_oneof![3 => Just(0), 1 => length.clone()], length.clone(), constant, any::<bool>())
            .prop_map(|(connection, consumed, length, constant, quiet)| {
                Request::Send { connection, consumed, length, constant, quiet }
            }),
        (connection.clone(), length).prop_map(|(connection, length)| Request::Consumed { connection, length }),
        connection.clone().prop_map(|connection| Request::Close { connection }),
        connection.prop_map(|connection| Request::Abort { connection }),
    ]
}

/// A frame to the service that passes its first checks: IPv4 with a valid header checksum, or ARP.
fn frame() -> impl Strategy<Value = Vec<u8>> {
    let protocol = prop_oneof![Just(1u8), Just(6), Just(17), any::<u8>()];
    (prop::collection::vec(any::<u8>(), 0..200), protocol, any::<bool>(), any::<u16>()).prop_map(
        |(payload, protocol, arp, fragment)| {
            let mut frame = packet(protocol, if fragment % 4 == 0 { fragment / 4 } else { 0 }, &payload);
            frame[13] = if arp { 6 } else { 0 };
            frame
        },
    )
}

/// A TCP segment to the port that is listened to. Its numbers count from those of the connection,
/// if there is one.
#[derive(Clone, Debug)]
struct Segment {
    port: u16,
    sequence: u32,
    acknowledged: u32,
    flags: u8,
    window: u16,
    data: Vec<u8>,
}

fn segment() -> impl Strategy<Value = Segment> {
    let flags = prop_oneof![3 => Just(0x02u8), 6 => Just(0x10), 2 => Just(0x11), 1 => Just(0x04), 2 => any::<u8>()];
    let number = || prop_oneof![8 => Just(0u32), 2 => 0u32..200, 1 => any::<u32>()];
    (5000u16..5004, number(), number(), flags, any::<u16>(), prop::collection::vec(any::<u8>(), 0..80)).prop_map(
        |(port, sequence, acknowledged, flags, window, data)| Segment {
            port,
            sequence,
            acknowledged,
            flags,
            window,
            data,
        },
    )
}

impl Segment {
    /// Returns the frame of the segment. `last` is what the service sent and acknowledged last.
    fn frame(&self, last: Option<(u32, u32)>) -> Vec<u8> {
        let (acknowledged, sequence) = last.unwrap_or((0, 100));
        let mut bytes = vec![0; 20];
        bytes.extend(&self.data);
        let length = bytes.len();
        let mut segment = TcpPacket::new_unchecked(&mut bytes[..]);
        segment.set_src_port(self.port);
        segment.set_dst_port(80);
        segment.set_seq_number(TcpSeqNumber(sequence.wrapping_add(self.sequence) as i32));
        segment.set_ack_number(TcpSeqNumber(acknowledged.wrapping_add(self.acknowledged) as i32));
        segment.set_window_len(self.window);
        let options = if self.window.is_multiple_of(5) { 8 } else { 0 };
        segment.set_header_len((20 + options).min(length / 4 * 4) as u8);
        bytes[13] = self.flags;
        let (from, to) = (IpAddress::v4(10, 0, 0, 1), IpAddress::v4(10, 0, 0, 2));
        TcpPacket::new_unchecked(&mut bytes[..]).fill_checksum(&from, &to);
        packet(6, 0, &bytes)
    }
}

/// Returns an ARP request of the peer for the service's address, which tells the peer's own
/// address.
fn arp_request() -> Vec<u8> {
    let mut frame = cloister_tcpip::link::arp::announcement([2, 0, 0, 0, 0, 9], [10, 0, 0, 1]).to_vec();
    frame[41] = 2;
    frame
}

fn packet(protocol: u8, fragment: u16, payload: &[u8]) -> Vec<u8> {
    let mut frame = vec![2, 0, 0, 0, 0, 1, 2, 0, 0, 0, 0, 9, 8, 0];
    frame.resize(34 + payload.len(), 0);
    frame[34..].copy_from_slice(payload);
    let mut packet = Ipv4Packet::new_unchecked(&mut frame[14..]);
    packet.set_version(4);
    packet.set_header_len(20);
    packet.set_total_len(20 + payload.len() as u16);
    packet.set_hop_limit(64);
    packet.set_next_header(IpProtocol::from(protocol));
    packet.set_src_addr(Ipv4Address::new(10, 0, 0, 1));
    packet.set_dst_addr(Ipv4Address::new(10, 0, 0, 2));
    frame[20..22].copy_from_slice(&fragment.to_be_bytes());
    Ipv4Packet::new_unchecked(&mut frame[14..]).fill_checksum();
    frame
}

#[derive(Clone, Debug)]
enum Act {
    Link(LinkReply),
    /// A part of a frame: the flags, and the page, offset and length of the message, whatever they
    /// are.
    Part {
        flags: u8,
        fields: [u16; 3],
    },
    Frame(u16, Vec<u8>),
    Segment(u16, Segment),
    Application(Request),
    Hear(usize),
    Time(u64),
}

fn act() -> impl Strategy<Value = Act> {
    prop_oneof![
        6 => link_message(),
        6 => (0..PAGES, frame()).prop_map(|(page, frame)| Act::Frame(page, frame)),
        8 => (0..PAGES, segment()).prop_map(|(page, segment)| Act::Segment(page, segment)),
        3 => request().prop_map(Act::Application),
        1 => (0usize..10).prop_map(Act::Hear),
        1 => (0u64..100_000_000_000).prop_map(Act::Time),
    ]
}

proptest! {
    #![proptest_config(ProptestConfig {
        cases: if cfg!(miri) { 2 } else { 200 },
        failure_persistence: None,
        ..ProptestConfig::default()
    })]

    /// Checks that there is no panic, that no page is sent twice, and that the service does not
    /// wait busily once everybody is quiet.
    #[test]
    fn any_messages_leave_the_pages_accounted_for(acts in prop::collection::vec(act(), 0..150), dhcp: bool) {
        let mut bench = Bench::new(if dhcp { "" } else { "ip=10.0.0.2/24 udp-echo=7" });
        bench.link(&UP);
        bench.run();
        bench.frame(0, &arp_request());
        bench.application.requests.send(&Request::Listen { port: 80 }).unwrap();
        bench.run();
        for act in acts {
            match act {
                // Only a netfront that breaks the protocol returns a page twice. This account
                // follows the first return.
                Act::Link(reply) => bench.link(&reply),
                Act::Part { flags, fields } => {
                    let fields = fields.map(u16::to_le_bytes).concat();
                    bench.link_bytes(&[&[3, flags][..], &fields].concat());
                }
                Act::Frame(page, frame) => bench.frame(page, &frame),
                Act::Segment(page, segment) => {
                    let frame = segment.frame(bench.last.get(&segment.port).copied());
                    bench.frame(page, &frame);
                }
                Act::Application(request) => drop(bench.application.requests.send(&request)),
                Act::Hear(count) => {
                    for _ in 0..count {
                        if let Some(reply) = bench.application.replies.pop() {
                            prop_assert!(reply.is_ok());
                        }
                    }
                    bench.application.replies.release();
                }
                Act::Time(nanoseconds) => bench.nanoseconds += nanoseconds,
            }
            bench.run();
        }
        for _ in 0..300 {
            for page in bench.sent.keys().copied().collect::<Vec<_>>() {
                bench.link(&LinkReply::Transmitted { page: TxPage(page) });
            }
            while bench.application.replies.pop().is_some() {}
            bench.run();
        }
        let due = bench.service.deadline().is_some_and(|deadline| deadline.0 <= bench.nanoseconds);
        prop_assert!(!due, "it wants to run again and again");
    }
}
