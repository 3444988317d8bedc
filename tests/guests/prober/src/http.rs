//! The role of http, once an attacker controls it.

use core::time::Duration;

use arrayvec::ArrayVec;
use cloister_caps::Operation;
use cloister_interfaces::capability::{Clock, Console, Info};
use cloister_interfaces::socket::{ConnectionId, Constant, MAX_CONNECTIONS, Reply, Request, Socket};
use cloister_interfaces::{Memory, Message, Service, System};

use crate::bindings::Client;
use crate::campaign::{Campaign, IN_QUEUE, RawMessage, Role, RoleAttempt, console_and_clock, write_constant};
use crate::outcome::Outcome;
use crate::raw_queue::{RawQueue, bytes};

/// The capabilities that the policy gives http.
pub struct Caps<S, M> {
    /// The console.
    pub console: Console<S>,
    /// The clock.
    pub clock: Clock<S>,
    /// Facts about the image.
    pub info: Info<S>,
    /// tcpip.
    pub socket: Client<Socket, S, M>,
    /// The bytes that clients sent.
    pub stream_in: M,
    /// The bytes for clients.
    pub stream_out: M,
    /// The archive; empty if the guest has none.
    pub site: &'static [u8],
}

/// Makes the prober in this role.
pub fn service<S: System + 'static, M: Memory + 'static>(caps: Caps<S, M>) -> impl Service {
    Campaign::new(caps)
}

const FIRST: ConnectionId = ConnectionId(0);
const SECOND: ConnectionId = ConnectionId(1);
const LAST: ConnectionId = ConnectionId(MAX_CONNECTIONS as u16 - 1);
const NONE: ConnectionId = ConnectionId(u16::MAX);

const fn send(connection: ConnectionId, length: u32, constant: Option<Constant>) -> Request {
    Request::Send { connection, consumed: 0, length, constant, quiet: false }
}

const fn constant(offset: u32, length: u32) -> Option<Constant> {
    Some(Constant { offset, length })
}

/// Messages that tcpip must refuse or survive. No client has connected, so no connection is http's.
const MESSAGES: [(&str, Request); 25] = [
    ("listen to port 0", Request::Listen { port: 0 }),
    ("listen to the last port", Request::Listen { port: u16::MAX }),
    ("listen twice", Request::Listen { port: u16::MAX }),
    ("send on a connection that is not ours", send(FIRST, 1, None)),
    ("send nothing", send(FIRST, 0, None)),
    ("send more than a ring holds", send(FIRST, u32::MAX, None)),
    ("send on the last connection", send(LAST, 1, None)),
    ("send on a connection that there is not", send(NONE, 1, None)),
    ("send what lies behind the site", send(FIRST, 0, constant(u32::MAX, 1))),
    ("send all memory after the site", send(FIRST, 0, constant(0, u32::MAX))),
    ("send where the ends meet", send(FIRST, 1, constant(u32::MAX, u32::MAX))),
    ("send constant bytes of no length", send(FIRST, 1, constant(1, 0))),
    (
        "send and take what did not come",
        Request::Send { connection: FIRST, consumed: u32::MAX, length: 1, constant: None, quiet: true },
    ),
    ("take what did not come", Request::Consumed { connection: FIRST, length: 1 }),
    ("take more than a ring holds", Request::Consumed { connection: FIRST, length: u32::MAX }),
    ("take nothing", Request::Consumed { connection: SECOND, length: 0 }),
    ("take from the last connection", Request::Consumed { connection: LAST, length: 1 }),
    ("take from a connection that there is not", Request::Consumed { connection: NONE, length: 1 }),
    ("close a connection that is not ours", Request::Close { connection: FIRST }),
    ("close it again", Request::Close { connection: FIRST }),
    ("close the last connection", Request::Close { connection: LAST }),
    ("close a connection that there is not", Request::Close { connection: NONE }),
    ("reset a connection that is not ours", Request::Abort { connection: FIRST }),
    ("reset it again", Request::Abort { connection: FIRST }),
    ("reset the last connection", Request::Abort { connection: LAST }),
];

impl<S: System + 'static, M: Memory + 'static> Role for Caps<S, M> {
    console_and_clock!();

    const RIGHTS: &'static [Operation] = &[
        Operation::ConsoleWrite,
        Operation::ClockNow,
        Operation::ClockWall,
        Operation::InfoRead,
        Operation::QueueNotify,
        Operation::RegionFind,
    ];

    fn saved_words(&self) -> (&M, usize) {
        (&self.socket.requests.producer, IN_QUEUE)
    }

    fn queues(&self) -> ArrayVec<RawQueue<'_, M>, 4> {
        ArrayVec::from_iter([RawQueue::client(&self.socket)])
    }

    fn attempts() -> &'static [RoleAttempt<Self>] {
        &[
            ("write what peers sent", |caps| {
                caps.stream_in.store(0, 0);
                Some("the stream from tcpip was written")
            }),
            ("write the site", |caps| write_constant(caps.site, "the site was written")),
            ("fill what is sent with what nobody asked for", |caps| {
                (0..caps.stream_out.len()).step_by(4).for_each(|at| caps.stream_out.store(at, u32::MAX));
                None
            }),
        ]
    }

    fn message(&self, number: usize) -> Option<RawMessage> {
        let (name, request) = MESSAGES.get(number)?;
        Some(RawMessage { name, queue: 0, bytes: bytes(request), pause: Duration::ZERO })
    }

    fn check_reply(&self, _: usize, reply: &[u8], _: Option<usize>) -> Result<(), Outcome> {
        match Reply::from_bytes(reply) {
            Ok(Reply::Sent { .. }) => Err(Outcome::Breach("bytes were taken for another's connection")),
            Ok(Reply::Received { .. }) => Err(Outcome::Breach("bytes came of another's connection")),
            _ => Ok(()),
        }
    }
}
