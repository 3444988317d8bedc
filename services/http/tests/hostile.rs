//! http with a tcpip that sends anything at all.
#![forbid(unsafe_code)]

use std::sync::OnceLock;

use cloister_caps::Slot;
use cloister_http::{Caps, service};
use cloister_interfaces::capability::{Clock, Console, Info};
use cloister_interfaces::socket::{ConnectionId, Constant, Reply, Request, Socket, SourceId};
use cloister_interfaces::{Memory, Notifications, Server, Service};
use cloister_sim::archive::cpio;
use cloister_sim::{Recorder, SharedMemory, channel};
use proptest::prelude::*;

const CONNECTIONS: usize = 4;
const RING_IN: usize = 2048;
const RING_OUT: usize = 4096;

/// Returns a cpio archive of one file, `index.html`.
fn archive() -> &'static [u8] {
    static ARCHIVE: OnceLock<Vec<u8>> = OnceLock::new();
    ARCHIVE.get_or_init(|| cpio(&[("index.html", FILE.as_bytes())]))
}

const FILE: &str = "<p>the file";

struct Bench {
    system: Recorder,
    service: Box<dyn Service>,
    tcpip: Server<Socket, Recorder, SharedMemory>,
    stream_in: SharedMemory,
    stream_out: SharedMemory,
    nanoseconds: u64,
    requests: Vec<Request>,
}

impl Bench {
    fn new(depth: u32) -> Self {
        Self::with_site(depth, b"")
    }

    fn with_site(depth: u32, site: &'static [u8]) -> Self {
        let system = Recorder::new();
        let (socket, tcpip) = channel::<Socket, _>(&system, 3, &system, 4, depth);
        let stream_in = SharedMemory::new(CONNECTIONS * RING_IN);
        let stream_out = SharedMemory::new(CONNECTIONS * RING_OUT);
        let service = service(Caps {
            console: Console::new(system.clone(), Slot(0)),
            clock: Clock::new(system.clone(), Slot(1)),
            info: Info::new(system.clone(), Slot(2)),
            socket,
            stream_in: stream_in.clone(),
            stream_out: stream_out.clone(),
            site,
        });
        let service = Box::new(service);
        Bench { system, service, tcpip, stream_in, stream_out, nanoseconds: 1 << 30, requests: Vec::new() }
    }

    fn run(&mut self) {
        self.system.set_now(self.nanoseconds);
        self.service.notified(Notifications::ALL);
        let _ = self.system.take_calls();
    }

    fn take_requests(&mut self) {
        while let Some(request) = self.tcpip.requests.pop() {
            self.requests.push(request.expect("http's messages decode"));
        }
    }

    fn send_reply(&mut self, reply: Reply) {
        let _ = self.tcpip.replies.send(&reply);
    }
}

const CONNECTION: ConnectionId = ConnectionId(1);

fn accepted(connection: ConnectionId) -> Reply {
    Reply::Accepted { connection, address: [10, 0, 0, 1], port: 5000, local_port: 80, source: SourceId(0) }
}

#[test]
fn a_request_in_the_in_ring_is_answered_in_the_out_ring() {
    let mut bench = Bench::new(16);
    bench.run();
    let text = b"GET / HTTP/1.0\r\n\r\n";
    bench.stream_in.write(RING_IN, text);
    bench.send_reply(accepted(CONNECTION));
    bench.send_reply(Reply::Received { connection: CONNECTION, length: text.len() as u32, sent: 0, constant: 0 });
    bench.run();
    bench.take_requests();
    let [Request::Listen { port: 80 }, Request::Send { consumed, length, .. }, rest @ ..] = bench.requests.as_slice()
    else {
        panic!("{:?}", bench.requests);
    };
    assert_eq!((*consumed as usize, rest), (text.len(), &[Request::Close { connection: CONNECTION }][..]));
    let response = String::from_utf8(bench.stream_out.bytes(RING_OUT, *length as usize)).unwrap();
    assert!(response.starts_with("HTTP/1.1 200 OK\r\n") && response.ends_with("</html>\n"), "{response}");
}

/// Returns `true` if this part of the archive is the end of the file, or all of it.
fn is_the_file(offset: u32, length: u32) -> bool {
    let part = archive().get(offset as usize..offset as usize + length as usize);
    length > 0 && part.is_some_and(|part| FILE.as_bytes().ends_with(part))
}

#[test]
fn a_file_is_sent_by_reference_if_tcpip_has_the_archive_and_copied_otherwise() {
    for (constant, named) in [(archive().len() as u64, true), (archive().len() as u64 + 1, false), (0, false)] {
        let mut bench = Bench::with_site(16, archive());
        bench.send_reply(Reply::Network { address: [0; 4], constant });
        bench.run();
        let text = b"GET / HTTP/1.1\r\nHost: a\r\n\r\n";
        bench.stream_in.write(RING_IN, text);
        bench.send_reply(accepted(CONNECTION));
        bench.send_reply(Reply::Received { connection: CONNECTION, length: text.len() as u32, sent: 0, constant: 0 });
        bench.run();
        bench.take_requests();
        let sent = bench.requests.iter().find_map(|request| match request {
            Request::Send { length, constant, quiet, .. } => Some((*length, *constant, *quiet)),
            _ => None,
        });
        let (length, constant, quiet) = sent.expect("an answer");
        assert!(quiet, "it waits for nothing but the peer");
        let ring = bench.stream_out.bytes(RING_OUT, length as usize);
        assert_eq!(ring.ends_with(FILE.as_bytes()), !named);
        assert_eq!(constant.map(|Constant { offset, length }| is_the_file(offset, length)), named.then_some(true));
    }
}

#[test]
fn a_network_that_goes_down_voids_all_connections() {
    let mut bench = Bench::new(16);
    bench.send_reply(accepted(CONNECTION));
    bench.run();
    bench.send_reply(Reply::Network { address: [0; 4], constant: 0 });
    bench.run();
    bench.send_reply(accepted(CONNECTION));
    bench.run();
    bench.take_requests();
    assert_eq!(bench.requests, [Request::Listen { port: 80 }, Request::Listen { port: 80 }]);
    assert!(!bench.system.console().contains("violation"), "{}", bench.system.console());
}

#[test]
fn an_index_can_be_used_again_at_once() {
    let mut bench = Bench::new(16);
    bench.send_reply(accepted(CONNECTION));
    bench.run();
    bench.nanoseconds += 3_600_000_000_000;
    bench.run();
    bench.take_requests();
    assert_eq!(bench.requests.last(), Some(&Request::Close { connection: CONNECTION }));
    bench.send_reply(Reply::Closed { connection: CONNECTION });
    bench.send_reply(accepted(CONNECTION));
    let text = b"GET / HTTP/1.0\r\n\r\n";
    bench.stream_in.write(RING_IN, text);
    bench.send_reply(Reply::Received { connection: CONNECTION, length: text.len() as u32, sent: 0, constant: 0 });
    bench.run();
    bench.take_requests();
    assert!(bench.requests.iter().any(|request| matches!(request, Request::Send { .. })), "{:?}", bench.requests);
    assert!(!bench.system.console().contains("violation"), "{}", bench.system.console());
}

#[test]
fn an_impossible_message_is_logged_once_and_ends_the_connection() {
    let mut bench = Bench::new(16);
    bench.send_reply(accepted(CONNECTION));
    bench.send_reply(Reply::Received { connection: CONNECTION, length: RING_IN as u32 + 1, sent: 0, constant: 0 });
    bench.send_reply(Reply::Sent { connection: ConnectionId(3), length: 1, constant: 0 });
    bench.send_reply(accepted(ConnectionId(500)));
    bench.run();
    bench.take_requests();
    assert!(bench.requests.contains(&Request::Abort { connection: CONNECTION }));
    let line = "violation by tcpip: more bytes received than the ring holds (logged once)\n";
    assert_eq!(bench.system.console().matches(line).count(), 1);
}

#[derive(Clone, Debug)]
enum Act {
    SendReply(Reply),
    Bytes(u16, Vec<u8>),
    TakeRequests,
    Time(u64),
}

fn act() -> impl Strategy<Value = Act> {
    let connection = || prop_oneof![9 => 0u16..4, 1 => 0u16..512].prop_map(ConnectionId);
    let length = || prop_oneof![9 => 0u32..600, 1 => any::<u32>()];
    let seldom = || prop_oneof![3 => Just(0), 1 => length()];
    let reply = prop_oneof![
        3 => connection().prop_map(accepted),
        6 => (connection(), length(), seldom(), seldom()).prop_map(|(connection, length, sent, constant)| {
            Reply::Received { connection, length, sent, constant }
        }),
        6 => (connection(), length(), seldom())
            .prop_map(|(connection, length, constant)| Reply::Sent { connection, length, constant }),
        1 => connection().prop_map(|connection| Reply::PeerClosed { connection }),
        1 => connection().prop_map(|connection| Reply::Closed { connection }),
        1 => any::<u16>().prop_map(|free| Reply::Pressure { free }),
        1 => (any::<[u8; 4]>(), prop_oneof![Just(0), Just(archive().len() as u64)])
            .prop_map(|(address, constant)| Reply::Network { address, constant }),
        1 => Just(Reply::Network { address: [0; 4], constant: archive().len() as u64 }),
    ];
    let text = prop_oneof![
        Just(b"GET / HTTP/1.1\r\nHost: a\r\n\r\n".repeat(20)),
        Just(b"POST /x HTTP/1.1\r\nHost: a\r\nContent-Length: 300\r\n\r\n".to_vec()),
        prop::collection::vec(any::<u8>(), 0..100),
    ];
    prop_oneof![
        8 => reply.prop_map(Act::SendReply),
        4 => (0u16..4, text).prop_map(|(ring, bytes)| Act::Bytes(ring, bytes)),
        2 => Just(Act::TakeRequests),
        1 => (0u64..40_000_000_000).prop_map(Act::Time),
    ]
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 256, failure_persistence: None, ..ProptestConfig::default() })]

    /// Checks that there is no panic, that no more is announced than the ring holds, and that the
    /// service does not wait busily.
    #[test]
    fn any_messages_of_tcpip_are_survived(acts in prop::collection::vec(act(), 0..200), deep: bool) {
        let mut bench = Bench::with_site(if deep { 64 } else { 2 }, archive());
        for act in acts {
            match act {
                Act::SendReply(reply) => bench.send_reply(reply),
                Act::Bytes(ring, bytes) => bench.stream_in.write(usize::from(ring) * RING_IN, &bytes),
                Act::TakeRequests => bench.take_requests(),
                Act::Time(nanoseconds) => bench.nanoseconds += nanoseconds,
            }
            bench.run();
        }
        for request in &bench.requests {
            if let Request::Send { length, constant, .. } = request {
                prop_assert!(*length as usize <= RING_OUT);
                let named = constant.is_none_or(|part| is_the_file(part.offset, part.length));
                prop_assert!(named, "{:?}", request);
            }
        }
        for _ in 0..40 {
            bench.run();
        }
        let due = bench.service.deadline().is_some_and(|deadline| deadline.0 <= bench.nanoseconds);
        prop_assert!(!due, "it wants to run again and again");
    }
}
