//! http with a hostile tcpip, and with hostile clients.

use arbitrary::Arbitrary;
use cloister_caps::{Operation, Slot};
use cloister_http::{Caps, service};
use cloister_interfaces::capability::{Clock, Console, Info};
use cloister_interfaces::socket::{ConnectionId, Reply, Request, Socket, SourceId};
use cloister_interfaces::{Memory, Service};
use cloister_sim::{ChannelMemory, SharedMemory, Tampered};

use crate::archive::sample;
use crate::host::{Host, Pause, Work};
use crate::peer::{Act, Any, Peer};
use crate::script::{Bytes, Trace, World};

const CONNECTIONS: usize = 4;
const RING_IN: usize = 2048;
const RING_OUT: usize = 4096;
/// The limits of a call. They depend on the number of messages and of connections.
const MOST: Work = Work { invocations: 300, reads: 1500 };
const ADDRESS: [u8; 4] = [10, 0, 0, 1];

/// The queue depth, and `true` if there is an archive.
#[derive(Arbitrary, Debug)]
pub struct Setup {
    depth: u8,
    archive: bool,
}

struct Bench {
    host: Host,
    service: Box<dyn Service>,
    tcpip: Peer<Reply, Request>,
    stream_in: SharedMemory,
    stream_out: SharedMemory,
    /// The archive, which tcpip maps too.
    site: &'static [u8],
}

fn site() -> &'static [u8] {
    thread_local! {
        static SITE: &'static [u8] = sample().leak();
    }
    SITE.with(|site| *site)
}

impl Bench {
    fn new(setup: &Setup, trace: &Trace) -> Self {
        let host = Host::new(trace, MOST);
        host.only(&[Operation::QueueNotify, Operation::InfoRead]);
        let channel = ChannelMemory::new::<Socket>(4 << (setup.depth % 4));
        let stream_in = SharedMemory::new(CONNECTIONS * RING_IN);
        let stream_out = SharedMemory::new(CONNECTIONS * RING_OUT);
        let site = if setup.archive { site() } else { b"" };
        let service = service(Caps {
            console: Console::new(host.system.clone(), Slot(0)),
            clock: Clock::new(host.system.clone(), Slot(1)),
            info: Info::new(host.system.clone(), Slot(2)),
            socket: host.client(&channel, 3),
            stream_in: host.theirs(stream_in.clone()),
            stream_out: Tampered::own(stream_out.clone()),
            site,
        });
        Bench { host, service: Box::new(service), tcpip: Peer::server(&channel), stream_in, stream_out, site }
    }

    fn call(&mut self) {
        self.host.call(self.service.as_mut());
    }
}

/// A step of tcpip.
#[derive(Arbitrary, Debug)]
pub enum SocketStep {
    Tcpip(Act<Any<Reply>>),
    Accept(u8),
    Stream(u8, Text),
    Received(u8, u16),
    Sent(u8, u16),
    Down,
    Pass(Pause),
}

/// http against a hostile tcpip.
pub struct HostileTcpip(Bench);

fn accepted(connection: ConnectionId) -> Reply {
    Reply::Accepted { connection, address: ADDRESS, port: 5000, local_port: 80, source: SourceId(connection.0 % 3) }
}

fn check(requests: &[Request]) {
    for request in requests {
        if let Request::Send { length, .. } = request {
            assert!(*length as usize <= RING_OUT, "{request:?}: more than a ring holds");
        }
    }
}

impl World for HostileTcpip {
    type Setup = Setup;
    type Step = SocketStep;

    fn new(setup: Setup, trace: &Trace) -> Self {
        HostileTcpip(Bench::new(&setup, trace))
    }

    fn step(&mut self, step: SocketStep) {
        let bench = &mut self.0;
        let connection = |index: u8| ConnectionId(u16::from(index) % 5);
        match step {
            SocketStep::Tcpip(act) => check(&bench.tcpip.act(act, &bench.host)),
            SocketStep::Accept(index) => drop(bench.tcpip.send(&accepted(connection(index)))),
            SocketStep::Stream(index, text) => {
                bench.stream_in.write(usize::from(index) % CONNECTIONS * RING_IN, &text.bytes());
            }
            SocketStep::Received(index, length) => {
                let length = u32::from(length) % (RING_IN as u32 + 20);
                bench.tcpip.send(&Reply::Received { connection: connection(index), length, sent: 0, constant: 0 });
            }
            SocketStep::Sent(index, length) => {
                let length = u32::from(length) % (RING_OUT as u32 + 20);
                bench.tcpip.send(&Reply::Sent { connection: connection(index), length, constant: 0 });
            }
            SocketStep::Down => drop(bench.tcpip.send(&Reply::Network { address: [0; 4], constant: 0 })),
            SocketStep::Pass(pause) => bench.host.pass(pause.nanoseconds()),
        }
        bench.call();
    }

    fn honest(self) {
        let mut bench = self.0;
        bench.tcpip.behave(&bench.host);
        bench.call();
        bench.tcpip.receive();
        // As tcpip does when it starts: all connections are gone.
        assert!(bench.tcpip.send(&Reply::Network { address: [0; 4], constant: 0 }));
        let mut world = Honest::new(bench);
        world.settle();
        world.serves();
    }
}

/// Text that clients send.
#[derive(Arbitrary, Debug)]
pub enum Text {
    Get(u8),
    Line(u8),
    Field(u8, Bytes),
    End,
    Any(Bytes),
    Many(u8, u8),
}

impl Text {
    fn bytes(&self) -> Vec<u8> {
        const TARGETS: [&str; 8] =
            ["/", "/index.html", "/a.txt", "/dir", "/dir/", "/%2e%2e/x", "/nothing", "http://a/a.txt"];
        const LINES: [&str; 14] = [
            "Host: a\r\n",
            "HEAD /a.txt HTTP/1.0\r\n",
            "Connection: close\r\n",
            "Connection: keep-alive\r\n",
            "Range: bytes=0-3\r\n",
            "Range: bytes=-2,5-9,1-\r\n",
            "Content-Length: 5\r\n",
            "Content-Length: 18446744073709551615\r\n",
            "Transfer-Encoding: chunked\r\n",
            "Expect: 100-continue\r\n",
            "If-None-Match: *\r\n",
            "If-Range: \"0\"\r\n",
            "POST / HTTP/1.1\r\n",
            "GET / HTTP/2.0\r\n",
        ];
        const NAMES: [&str; 6] =
            ["Host", "Range", "Content-Length", "If-None-Match", "Connection", "If-Modified-Since"];
        match self {
            Text::Get(which) => format!("GET {} HTTP/1.1\r\n", TARGETS[usize::from(*which) % TARGETS.len()]).into(),
            Text::Line(which) => LINES[usize::from(*which) % LINES.len()].into(),
            Text::Field(which, Bytes(value)) => {
                [NAMES[usize::from(*which) % NAMES.len()].as_bytes(), b": ", value, b"\r\n"].concat()
            }
            Text::End => b"\r\n".to_vec(),
            Text::Any(Bytes(bytes)) => bytes.clone(),
            Text::Many(byte, times) => vec![*byte; usize::from(*times) * 8],
        }
    }
}

/// A connection, as an honest tcpip sees it.
#[derive(Clone, Default)]
struct Stream {
    open: bool,
    /// `true` once tcpip has reported its end.
    over: bool,
    /// The number of bytes written to the in ring, and of those that were consumed.
    written: usize,
    consumed: usize,
    /// The number of bytes that the application wrote to the out ring.
    written_out: usize,
    /// All that it sent, consumed at once.
    sent: Vec<u8>,
    /// The bytes of the ring, and the constant bytes, that were consumed but not yet reported.
    kept: (u32, u32),
}

impl Stream {
    fn consume(&mut self, length: u32) {
        self.consumed += length as usize;
        assert!(self.consumed <= self.written, "it consumed what was not there");
    }
}

/// An honest tcpip.
struct Honest {
    bench: Bench,
    streams: Vec<Stream>,
}

impl Honest {
    fn new(bench: Bench) -> Self {
        Honest { bench, streams: vec![Stream::default(); CONNECTIONS] }
    }

    fn receive(&mut self) -> bool {
        let messages = self.bench.tcpip.receive();
        check(&messages);
        let any = !messages.is_empty();
        for request in messages {
            let reply = match request {
                Request::Listen { .. } => Some(Reply::Network { address: [10, 0, 0, 2], constant: 0 }),
                Request::Send { connection, consumed, length, constant, quiet } => {
                    let stream = &mut self.streams[usize::from(connection.0)];
                    assert!(stream.open, "it sends on a connection that is none");
                    stream.consume(consumed);
                    let (start, at) = (usize::from(connection.0) * RING_OUT, stream.written_out);
                    for index in at..at + length as usize {
                        stream.sent.extend(self.bench.stream_out.bytes(start + index % RING_OUT, 1));
                    }
                    stream.written_out += length as usize;
                    let part = constant.map_or(0..0, |part| part.offset as usize..(part.offset + part.length) as usize);
                    let part = self.bench.site.get(part).expect("a part of the region that both map");
                    stream.sent.extend(part);
                    let constant = part.len() as u32;
                    stream.kept = (stream.kept.0 + length, stream.kept.1 + constant);
                    (!stream.over && !quiet).then(|| {
                        let (length, constant) = core::mem::take(&mut stream.kept);
                        Reply::Sent { connection, length, constant }
                    })
                }
                Request::Consumed { connection, length } => {
                    let stream = &mut self.streams[usize::from(connection.0)];
                    assert!(stream.open, "it reads on a connection that is none");
                    stream.consume(length);
                    None
                }
                Request::Close { connection } | Request::Abort { connection } => {
                    let stream = &mut self.streams[usize::from(connection.0)];
                    assert!(stream.open, "it closes a connection that is none");
                    let started = stream.sent.is_empty() || stream.sent.starts_with(b"HTTP/1.1 ");
                    assert!(started, "{:?}", stream.sent.escape_ascii().to_string());
                    let over = stream.over;
                    *stream = Stream::default();
                    (!over).then_some(Reply::Closed { connection })
                }
            };
            // Its queue is as deep as the other: the application waits for room, and so does tcpip.
            for _ in 0..100 {
                if reply.is_none_or(|reply| self.bench.tcpip.send(&reply)) {
                    break;
                }
                self.bench.call();
            }
        }
        any
    }

    fn settle(&mut self) {
        for _ in 0..2000 {
            self.bench.call();
            if !self.receive() && !self.bench.host.is_due(self.bench.service.as_ref()) {
                return;
            }
        }
        panic!("http does not settle");
    }

    fn put(&mut self, index: usize, bytes: &[u8]) {
        let stream = &mut self.streams[index];
        let room = RING_IN - (stream.written - stream.consumed);
        let bytes = &bytes[..bytes.len().min(room)];
        if !stream.open || stream.over || bytes.is_empty() {
            return;
        }
        let connection = ConnectionId(index as u16);
        for (at, byte) in (stream.written..).zip(bytes) {
            self.bench.stream_in.write(index * RING_IN + at % RING_IN, &[*byte]);
        }
        let (sent, constant) = stream.kept;
        if self.bench.tcpip.send(&Reply::Received { connection, length: bytes.len() as u32, sent, constant }) {
            stream.written += bytes.len();
            stream.kept = (0, 0);
        }
    }

    fn open(&mut self, index: usize) {
        if !self.streams[index].open && self.bench.tcpip.send(&accepted(ConnectionId(index as u16))) {
            self.streams[index].open = true;
        }
    }

    /// Ends a connection at its client.
    fn reset(&mut self, index: usize) {
        let stream = &mut self.streams[index];
        if stream.open && !stream.over {
            stream.over = self.bench.tcpip.send(&Reply::Closed { connection: ConnectionId(index as u16) });
        }
    }

    /// Checks that a new connection is served.
    fn serves(&mut self) {
        self.open(0);
        self.put(0, b"GET / HTTP/1.1\r\nHost: a\r\n\r\n");
        self.settle();
        let sent = self.streams[0].sent.escape_ascii().to_string();
        assert!(sent.starts_with("HTTP/1.1 200 OK"), "{sent}, {}", self.bench.host.recorder.console());
    }
}

/// A step of a client.
#[derive(Arbitrary, Debug)]
pub enum StreamStep {
    Open(u8),
    Put(u8, Text),
    /// Closes its sending side.
    Half(u8),
    /// Disappears.
    Reset(u8),
    Run,
    Pressure(u8),
    Pass(Pause),
}

/// http with hostile clients.
pub struct HostilePeers(Honest);

impl World for HostilePeers {
    type Setup = Setup;
    type Step = StreamStep;

    fn new(setup: Setup, trace: &Trace) -> Self {
        HostilePeers(Honest::new(Bench::new(&setup, trace)))
    }

    fn step(&mut self, step: StreamStep) {
        let world = &mut self.0;
        let at = |index: u8| usize::from(index) % CONNECTIONS;
        match step {
            StreamStep::Open(index) => world.open(at(index)),
            StreamStep::Put(index, text) => world.put(at(index), &text.bytes()),
            StreamStep::Half(index) if world.streams[at(index)].open => {
                world.bench.tcpip.send(&Reply::PeerClosed { connection: ConnectionId(at(index) as u16) });
            }
            StreamStep::Half(_) => {}
            StreamStep::Reset(index) => world.reset(at(index)),
            StreamStep::Run => world.settle(),
            StreamStep::Pressure(free) => drop(world.bench.tcpip.send(&Reply::Pressure { free: free.into() })),
            StreamStep::Pass(pause) => world.bench.host.pass(pause.nanoseconds()),
        }
        world.bench.call();
        world.receive();
    }

    fn honest(self) {
        let mut world = self.0;
        world.settle();
        (0..CONNECTIONS).for_each(|index| world.reset(index));
        world.settle();
        assert!(world.streams.iter().all(|stream| !stream.open), "a connection of a peer that is gone stays");
        world.serves();
    }
}
