//! The role of tcpip, once an attacker controls it.

use core::time::Duration;

use arrayvec::ArrayVec;
use cloister_caps::Operation;
use cloister_interfaces::capability::{Clock, Console, Entropy};
use cloister_interfaces::control::{Control, Reply as Quiet};
use cloister_interfaces::net::{Net, Reply as Link, RxPage, TxPage};
use cloister_interfaces::socket::{ConnectionId, MAX_CONNECTIONS, Reply, Socket, SourceId};
use cloister_interfaces::{Memory, Message, Service, System};
use cloister_probe as probe;

use crate::bindings::{Client, Server};
use crate::campaign::{Campaign, IN_QUEUE, RawMessage, Role, RoleAttempt, console_and_clock, write_constant};
use crate::outcome::Outcome;
use crate::raw_queue::{Bytes, RawFields, RawQueue, bytes};

/// The capabilities that the policy gives tcpip.
pub struct Caps<S, M: Memory> {
    /// The console.
    pub console: Console<S>,
    /// The clock.
    pub clock: Clock<S>,
    /// Random bits.
    pub entropy: Entropy<S>,
    /// netfront.
    pub net: Client<Net, S, M>,
    /// The applications.
    pub socket_clients: ArrayVec<Server<Socket, S, M>, 4>,
    /// The service that may end the image.
    pub control_clients: ArrayVec<Server<Control, S, M>, 4>,
    /// Pages into which the back end writes frames.
    pub rx_pool: M,
    /// Pages from which the back end reads frames.
    pub tx_pool: M::Exclusive,
    /// Streams to the applications.
    pub stream_in: M,
    /// Streams from the applications.
    pub stream_out: M,
    /// The site.
    pub site: &'static [u8],
    /// The guest's command line.
    pub command_line: &'static [u8],
}

/// Makes the prober in this role.
pub fn service<S: System + 'static, M: Memory + 'static>(caps: Caps<S, M>) -> impl Service {
    Campaign::new(caps)
}

/// The indices of the queues.
const NET: usize = 0;
const SOCKET: usize = 1;
const CONTROL: usize = 2;
/// Pages of each pool in the policy that ships.
const PAGES: u16 = 128;
/// The pause before the link is closed, in which the test checks from outside that it works.
const PAUSE: Duration = Duration::from_secs(10);

/// The offloads of a frame to send: the second byte of the message, and its last field.
#[derive(Clone, Copy)]
enum Offload {
    None,
    Checksum,
    Segments(u16),
}

const fn transmit(page: u16, length: u16, offload: Offload) -> RawFields {
    let (kind, segment) = match offload {
        Offload::None => (0, 0),
        Offload::Checksum => (1, 0),
        Offload::Segments(size) => (2, size),
    };
    RawFields(1, kind, [page, length, segment, 0])
}

const fn receive(page: u16, count: u16) -> RawFields {
    RawFields(2, 0, [page, count, 0, 0])
}

const CLOSE: RawFields = RawFields(3, 0, [0; 4]);

/// Messages that netfront must refuse or survive.
const TO_NETFRONT: [(&str, RawFields); 21] = [
    ("send the page after the pool", transmit(PAGES, 60, Offload::None)),
    ("send the last page of all", transmit(u16::MAX, 60, Offload::None)),
    ("send past the end of the pool", transmit(PAGES - 1, u16::MAX, Offload::None)),
    ("send no bytes", transmit(0, 0, Offload::None)),
    ("send less than a header", transmit(0, 1, Offload::None)),
    ("send the longest frame", transmit(0, u16::MAX, Offload::None)),
    ("send it again while it is on its way", transmit(0, u16::MAX, Offload::None)),
    ("send a page in the midst of it", transmit(3, 60, Offload::None)),
    ("have a checksum made of nothing", transmit(20, 0, Offload::Checksum)),
    ("have a checksum made that is not in the frame", transmit(20, 14, Offload::Checksum)),
    ("have a frame cut that is too short", transmit(21, 60, Offload::Segments(1))),
    ("have a frame cut into single bytes", transmit(22, u16::MAX, Offload::Segments(1))),
    ("have a frame cut into the largest segments", transmit(40, 9_000, Offload::Segments(u16::MAX))),
    ("have a frame cut into no segments", transmit(44, 9_000, Offload::Segments(0))),
    ("give a page back that is not ours", receive(0, 1)),
    ("give all pages back", receive(0, PAGES)),
    ("give a page after the pool", receive(PAGES, 1)),
    ("give pages past the pool", receive(PAGES - 1, 2)),
    ("give the most pages", receive(0, u16::MAX)),
    ("give pages where the ends meet", receive(u16::MAX, u16::MAX)),
    ("give no page", receive(0, 0)),
];

const FIRST: ConnectionId = ConnectionId(0);
const LAST: ConnectionId = ConnectionId(MAX_CONNECTIONS as u16 - 1);
const NONE: ConnectionId = ConnectionId(u16::MAX);

const fn accepted(connection: ConnectionId) -> Reply {
    accepted_of(connection, SourceId(0))
}

const fn accepted_of(connection: ConnectionId, source: SourceId) -> Reply {
    Reply::Accepted { connection, address: [10, 0, 0, 1], port: 1, local_port: 80, source }
}

const fn received(connection: ConnectionId, length: u32, sent: u32) -> Reply {
    Reply::Received { connection, length, sent, constant: sent }
}

const fn network(address: [u8; 4], constant: u64) -> Reply {
    Reply::Network { address, constant }
}

/// Messages that http must refuse or survive.
const TO_HTTP: [(&str, Reply); 26] = [
    ("bytes of a connection that was not accepted", received(FIRST, 1, 0)),
    ("bytes taken of a connection that was not accepted", Reply::Sent { connection: FIRST, length: 1, constant: 1 }),
    ("the end of a connection that was not accepted", Reply::Closed { connection: FIRST }),
    ("half of a connection that was not accepted", Reply::PeerClosed { connection: FIRST }),
    ("a network with a site larger than memory", network([10, 0, 0, 1], u64::MAX)),
    ("a connection", accepted(FIRST)),
    ("the same connection again", accepted(FIRST)),
    ("the last connection", accepted(LAST)),
    ("a connection that there is not", accepted(NONE)),
    ("a connection of an address that there is not", accepted_of(ConnectionId(1), SourceId(u16::MAX))),
    ("a connection of the last address", accepted_of(ConnectionId(1), SourceId(MAX_CONNECTIONS as u16 - 1))),
    ("no bytes", received(FIRST, 0, 0)),
    ("more bytes than a ring holds", received(FIRST, u32::MAX, 0)),
    ("bytes taken that were not sent", Reply::Sent { connection: FIRST, length: u32::MAX, constant: 0 }),
    ("constant bytes taken that were not sent", Reply::Sent { connection: LAST, length: 0, constant: u32::MAX }),
    ("bytes, and taken that were not sent", received(FIRST, 1, u32::MAX)),
    ("bytes of the last connection", received(LAST, 4096, 0)),
    ("the end of a connection", Reply::Closed { connection: FIRST }),
    ("the end of it again", Reply::Closed { connection: FIRST }),
    ("bytes after the end", received(FIRST, 1, 0)),
    ("the end of a connection that there is not", Reply::Closed { connection: NONE }),
    ("no connections left", Reply::Pressure { free: 0 }),
    ("the most connections left", Reply::Pressure { free: u16::MAX }),
    ("the network is gone", network([0; 4], 0)),
    ("the network is gone again", network([0; 4], u64::MAX)),
    ("a network of all ones", network([255; 4], 1)),
];

/// Messages that only end the link. tcpip may send them, so they come last, and the image must
/// survive them.
const AT_LAST: [(&str, RawFields); 4] = [
    ("close the link", CLOSE),
    ("close it again", CLOSE),
    ("send on the closed link", transmit(60, 60, Offload::None)),
    ("close it once more", CLOSE),
];

fn message(number: usize) -> Option<(&'static str, usize, Bytes)> {
    let (to_http, to_control) = (TO_NETFRONT.len(), TO_NETFRONT.len() + TO_HTTP.len());
    let at_last = to_control + 1;
    if let Some((name, request)) = TO_NETFRONT.get(number) {
        Some((name, NET, request.bytes()))
    } else if let Some((name, reply)) = TO_HTTP.get(number - to_http) {
        Some((name, SOCKET, bytes(reply)))
    } else if number == to_control {
        Some(("say that all is quiet, unasked", CONTROL, bytes(&Quiet::Quiet)))
    } else {
        let (name, request) = AT_LAST.get(number - at_last)?;
        Some((name, NET, request.bytes()))
    }
}

impl<S: System + 'static, M: Memory + 'static> Role for Caps<S, M> {
    console_and_clock!();

    const RIGHTS: &'static [Operation] = &[
        Operation::ConsoleWrite,
        Operation::ClockNow,
        Operation::EntropyDraw,
        Operation::QueueNotify,
        Operation::RegionFind,
    ];

    fn saved_words(&self) -> (&M, usize) {
        (&self.net.requests.producer, IN_QUEUE)
    }

    fn queues(&self) -> ArrayVec<RawQueue<'_, M>, 4> {
        let net = [RawQueue::client(&self.net)].into_iter();
        net.chain(self.socket_clients.iter().map(RawQueue::server).take(1))
            .chain(self.control_clients.iter().map(RawQueue::server).take(1))
            .collect()
    }

    fn attempts() -> &'static [RoleAttempt<Self>] {
        &[
            ("write a received frame", |caps| {
                caps.rx_pool.store(0, 0);
                Some("the receive pool was written")
            }),
            ("write what an application sends", |caps| {
                caps.stream_out.store(0, 0);
                Some("the stream from http was written")
            }),
            ("write the command line", |caps| {
                probe::write(caps.command_line.as_ptr() as u64, 0);
                Some("the command line was written")
            }),
            ("write the site", |caps| write_constant(caps.site, "the site was written")),
            ("fill what an application receives with what nobody sent", |caps| {
                (0..caps.stream_in.len()).step_by(4).for_each(|at| caps.stream_in.store(at, u32::MAX));
                None
            }),
        ]
    }

    fn message(&self, number: usize) -> Option<RawMessage> {
        let (name, queue, bytes) = message(number)?;
        let pause = if name == AT_LAST[0].0 { PAUSE } else { Duration::ZERO };
        Some(RawMessage { name, queue, bytes, pause })
    }

    fn check_reply(&self, queue: usize, reply: &[u8], _: Option<usize>) -> Result<(), Outcome> {
        match (queue, Link::from_bytes(reply)) {
            (NET, Ok(Link::Transmitted { page: TxPage(PAGES..) } | Link::Received { page: RxPage(PAGES..), .. })) => {
                Err(Outcome::Breach("a page outside of the pools came back"))
            }
            _ => Ok(()),
        }
    }
}

#[cfg(test)]
mod tests {
    use core::num::NonZeroU16;

    use cloister_interfaces::PageRun;
    use cloister_interfaces::net::{self, Request, RxRun};

    use super::*;

    #[test]
    fn requests_to_netfront_are_what_they_say() {
        let decode = |fields: RawFields| Request::from_bytes(&fields.bytes()[..Request::SIZE]);
        for (offload, expected) in [
            (Offload::None, net::Offload::None),
            (Offload::Checksum, net::Offload::Checksum),
            (Offload::Segments(1), net::Offload::Segments(NonZeroU16::MIN)),
        ] {
            let request = Request::Transmit { page: TxPage(1), length: 2, offload: expected };
            assert_eq!(decode(transmit(1, 2, offload)), Ok(request));
        }
        assert_eq!(decode(receive(4, 5)), Ok(Request::Receive { pages: RxRun(PageRun::new(4, 5).expect("a run")) }));
        assert_eq!(decode(CLOSE), Ok(Request::Close));
        let all = TO_NETFRONT.iter().chain(&AT_LAST);
        let malformed = all.filter(|(_, fields)| decode(*fields).is_err()).map(|(name, _)| *name);
        assert_eq!(
            malformed.collect::<std::vec::Vec<_>>(),
            ["have a frame cut into no segments", "give pages where the ends meet", "give no page"]
        );
    }

    #[test]
    fn every_message_has_a_number_and_closing_comes_last() {
        let messages: std::vec::Vec<_> = (0..).map_while(message).collect();
        assert_eq!(messages.len(), TO_NETFRONT.len() + TO_HTTP.len() + 1 + AT_LAST.len());
        assert_eq!(messages.iter().filter(|(_, queue, _)| *queue == SOCKET).count(), TO_HTTP.len());
        assert_eq!(messages.last().map(|(name, ..)| *name), AT_LAST.last().map(|(name, _)| *name));
        assert_eq!(messages.iter().filter(|(name, ..)| *name == AT_LAST[0].0).count(), 1, "one pause");
    }
}
