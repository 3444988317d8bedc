//! Which connections http ends when others wait to connect: those of addresses that hold many, the
//! one that has been idle for longest first, wherever it is among those of others.
#![forbid(unsafe_code)]

use cloister_caps::Slot;
use cloister_http::{Caps, service};
use cloister_interfaces::capability::{Clock, Console, Info};
use cloister_interfaces::socket::{ConnectionId, Layout, Reply, Request, Socket, SourceId};
use cloister_interfaces::{Memory, Notifications, Server, Service};
use cloister_sim::{Recorder, SharedMemory, channel};
use proptest::prelude::*;

const CONNECTIONS: usize = 96;
/// The number of connections that should be free while others wait.
const TARGET: usize = 8;
const MILLISECOND: u64 = 1_000_000;
const GET: &[u8] = b"GET / HTTP/1.1\r\nHost: a\r\n\r\n";

struct Bench {
    system: Recorder,
    service: Box<dyn Service>,
    tcpip: Server<Socket, Recorder, SharedMemory>,
    stream_in: SharedMemory,
    layout: Layout,
    now: u64,
    passes: usize,
}

impl Bench {
    fn new() -> Self {
        let system = Recorder::new();
        let (socket, tcpip) = channel::<Socket, _>(&system, 3, &system, 4, 256);
        let (stream_in, stream_out) = (SharedMemory::new(CONNECTIONS * 2048), SharedMemory::new(CONNECTIONS * 4096));
        let layout = Layout::of(stream_in.len(), stream_out.len());
        let service = Box::new(service(Caps {
            console: Console::new(system.clone(), Slot(0)),
            clock: Clock::new(system.clone(), Slot(1)),
            info: Info::new(system.clone(), Slot(2)),
            socket,
            stream_in: stream_in.clone(),
            stream_out,
            site: b"",
        }));
        Bench { system, service, tcpip, stream_in, layout, now: 1 << 30, passes: 0 }
    }

    /// Runs the service once. Returns its requests.
    fn pass(&mut self) -> Vec<Request> {
        self.passes += 1;
        self.system.set_now(self.now);
        self.service.notified(Notifications::ALL);
        let _ = self.system.take_calls();
        let requests = std::iter::from_fn(|| self.tcpip.requests.pop());
        requests.map(|request| request.expect("http's messages decode")).collect()
    }

    /// Opens a connection, which makes a request and gets its answer if it is `served`.
    fn open(&mut self, number: u16, source: u16, served: bool) {
        let connection = ConnectionId(number);
        let accepted =
            Reply::Accepted { connection, address: [10; 4], port: 5000, local_port: 80, source: SourceId(source) };
        let _ = self.tcpip.replies.send(&accepted);
        if served {
            let (offset, _) = self.layout.ring_in(connection).span(0, GET.len());
            self.stream_in.write(offset, GET);
            let received = Reply::Received { connection, length: GET.len() as u32, sent: 0, constant: 0 };
            let _ = self.tcpip.replies.send(&received);
        }
        for request in self.pass() {
            if let Request::Send { length, quiet: false, .. } = request {
                let _ = self.tcpip.replies.send(&Reply::Sent { connection, length, constant: 0 });
            }
        }
        self.pass();
    }

    /// Notifies the service that `free` places are free, and runs it for a second. Returns the
    /// connections that it ends, in order.
    fn press(&mut self, free: usize) -> Vec<u16> {
        let until = self.now + 1000 * MILLISECOND;
        let mut ended = Vec::new();
        let _ = self.tcpip.replies.send(&Reply::Pressure { free: free as u16 });
        while self.now < until {
            ended.extend(self.pass().into_iter().filter_map(|request| match request {
                Request::Close { connection } | Request::Abort { connection } => Some(connection.0),
                _ => None,
            }));
            self.now = self.service.deadline().map_or(until, |at| at.0.max(self.now)).min(until);
        }
        ended
    }
}

/// More addresses than are looked at first hold one connection each, and theirs are older than
/// those of the address that holds most.
#[test]
fn many_small_holders_do_not_shield_a_large_one() {
    for served in [true, false] {
        let mut bench = Bench::new();
        (0..40).for_each(|number| bench.open(number, 1 + number, served));
        (40..90).for_each(|number| bench.open(number, 0, served));
        bench.now += 4000 * MILLISECOND;
        bench.passes = 0;
        assert_eq!(bench.press(0), Vec::from_iter(40..48), "served: {served}");
        assert!(bench.passes < 50, "{} passes", bench.passes);
    }
}

proptest! {
    /// Compares with a list of all connections: first those that have been served, and then others.
    #[test]
    fn the_oldest_of_those_that_are_not_spared_are_ended(
        small in prop::collection::vec((1u16..90, any::<bool>()), 0..60),
        mixed in prop::collection::vec((prop_oneof![Just(0u16), 0u16..4, 0u16..90], any::<bool>()), 1..36),
        free in 0..TARGET,
    ) {
        let mut bench = Bench::new();
        let mut model: Vec<(u16, u16, bool)> = Vec::new();
        for (number, (source, served)) in (0..).zip(small.into_iter().chain(mixed)) {
            bench.open(number, source, served);
            model.push((number, source, served));
            bench.now += MILLISECOND;
        }
        bench.now += 4000 * MILLISECOND;
        let mut expected = Vec::new();
        for idle in [true, false] {
            while expected.len() < TARGET - free {
                let held = |of: u16| model.iter().filter(|(_, source, _)| *source == of).count();
                let most = model.iter().map(|(_, source, _)| held(*source)).max().unwrap_or(0);
                let spared = |source: u16| 2 * held(source) < most;
                let oldest = model.iter().position(|(_, source, served)| *served == idle && !spared(*source));
                let Some(oldest) = oldest else { break };
                expected.push(model.remove(oldest).0);
            }
        }
        prop_assert_eq!(bench.press(free), expected);
    }
}
