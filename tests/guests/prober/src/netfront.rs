//! The role of netfront, once an attacker controls it.

use core::time::Duration;

use arrayvec::{ArrayString, ArrayVec};
use cloister_caps::abi::SYSTEM_CALL_WAIT;
use cloister_caps::{DomId, EvtchnPort, Operation};
use cloister_interfaces::capability::{Clock, Console, Port};
use cloister_interfaces::grants::{Grants, Reply as Granting};
use cloister_interfaces::net::{Net, Offloads};
use cloister_interfaces::rules::GrantPermission;
use cloister_interfaces::store::{Action, Path, Reply as Stored, Request as Ask, Store, StoreError, Value};
use cloister_interfaces::{Memory, Message, Service, System};
use cloister_probe as probe;

use crate::bindings::{Client, Server};
use crate::campaign::{Campaign, IN_QUEUE, RawMessage, Role, RoleAttempt, console_and_clock};
use crate::outcome::Outcome;
use crate::raw_queue::{Bytes, RawFields, RawQueue, bytes};

/// The capabilities that the policy gives netfront.
pub struct Caps<S, M> {
    /// The console.
    pub console: Console<S>,
    /// The clock.
    pub clock: Clock<S>,
    /// tcpip.
    pub net_clients: ArrayVec<Server<Net, S, M>, 4>,
    /// The XenStore service.
    pub store: Client<Store, S, M>,
    /// The grant manager.
    pub grants: Client<Grants, S, M>,
    /// The ring pages.
    pub rings: M,
    /// An event channel.
    pub tx_events: Port<S>,
    /// Another.
    pub rx_events: Port<S>,
    /// The grant of the ring pages.
    pub ring_pages: GrantPermission,
    /// The grant of the receive pool.
    pub rx_pages: GrantPermission,
    /// The grant of the transmit pool.
    pub tx_pages: GrantPermission,
}

/// Makes the prober in this role.
pub fn service<S: System + 'static, M: Memory + 'static>(caps: Caps<S, M>) -> impl Service {
    Campaign::new(caps)
}

/// The indices of the queues.
const GRANTS: usize = 0;
const STORE: usize = 1;
const NET: usize = 2;

/// Domain numbers that no peer can have, among them those that Xen gives a meaning
/// (`DOMID_FIRST_RESERVED` and on).
const NO_DOMAINS: [DomId; 5] = [DomId(0x7FF0), DomId(0x7FF1), DomId(0x7FF2), DomId(0x8000), DomId(u16::MAX)];
const PEER: DomId = DomId(0);
/// The number of the one request to XenStore that the policy allows.
const READ_PEER: u16 = u16::MAX;

const fn issue(rule: u8, first: u16, count: u16, peer: DomId) -> RawFields {
    RawFields(1, rule, [first, count, peer.0, 0])
}

const fn end(rule: u8) -> RawFields {
    RawFields(2, rule, [0; 4])
}

/// Requests to the grant manager, each with `true` if the policy allows it. It must refuse the
/// others, or not answer those that are malformed. Rules 0 to 2 are the rings, the receive pool and
/// the transmit pool.
const TO_GRANTS: [(&str, RawFields, bool); 24] = [
    ("grant by a rule that there is not", issue(3, 0, 1, PEER), false),
    ("grant by the last rule", issue(u8::MAX, 0, 1, PEER), false),
    ("grant the page after the rings", issue(0, 2, 1, PEER), false),
    ("grant more than the rings", issue(0, 0, 3, PEER), false),
    ("grant past the rings", issue(0, 1, 2, PEER), false),
    ("grant the page after the receive pool", issue(1, 128, 1, PEER), false),
    ("grant past the receive pool", issue(1, 127, 2, PEER), false),
    ("grant more than the transmit pool", issue(2, 0, 129, PEER), false),
    ("grant the most pages", issue(2, 0, u16::MAX, PEER), false),
    ("grant where the ends meet", issue(2, u16::MAX, u16::MAX, PEER), false),
    ("grant from the last page to the first", issue(2, u16::MAX, 2, PEER), false),
    ("grant no page", issue(0, 0, 0, PEER), false),
    ("grant to oneself", issue(0, 0, 1, NO_DOMAINS[0]), false),
    ("grant to the I/O domain", issue(0, 0, 1, NO_DOMAINS[1]), false),
    ("grant to Xen", issue(0, 0, 1, NO_DOMAINS[2]), false),
    ("grant to a domain that cannot be", issue(0, 0, 1, NO_DOMAINS[3]), false),
    ("grant to the last domain", issue(0, 0, 1, NO_DOMAINS[4]), false),
    ("grant the rings, as allowed", issue(0, 0, 2, PEER), true),
    ("grant them again", issue(0, 0, 2, PEER), false),
    ("grant one of them to another domain", issue(0, 0, 1, DomId(5)), false),
    ("end the grants, as allowed", end(0), true),
    ("end them again", end(0), true),
    ("end what was not granted", end(2), true),
    ("end by a rule that there is not", end(3), false),
];

/// An operation on a path.
#[derive(Clone, Copy)]
enum Verb {
    Read,
    Write,
    Remove,
    List,
    Watch,
    Unwatch,
}

/// Operations on paths that the policy does not give netfront.
const TO_STORE: [(&str, Verb, &str); 46] = [
    ("read everything", Verb::Read, "/"),
    ("read nothing", Verb::Read, ""),
    ("read its name", Verb::Read, "name"),
    ("read its memory", Verb::Read, "memory/target"),
    ("read the toolstack's command", Verb::Read, "control/shutdown"),
    ("read another device", Verb::Read, "device/vif/1/mac"),
    ("read the device of a like name", Verb::Read, "device/vif/00/mac"),
    ("read what begins alike", Verb::Read, "device/vif/0x"),
    ("read above its device", Verb::Read, "device/vif"),
    ("read by two slashes", Verb::Read, "device//vif/0"),
    ("read by a slash at the end", Verb::Read, "device/vif/0/"),
    ("read by dots", Verb::Read, "device/vif/0/../1/mac"),
    ("read by a NUL", Verb::Read, "device/vif/0\0/../1"),
    ("read what it may write only", Verb::Read, "error/device/vif/0"),
    ("read another domain's name", Verb::Read, "/local/domain/0/name"),
    ("read another's back end", Verb::Read, "/local/domain/0/backend/vif/0/0/state"),
    ("read a path of stars", Verb::Read, "/local/domain/*/backend/vif/{self}/0"),
    ("read the toolstack's own", Verb::Read, "/tool/xenstored"),
    ("list everything", Verb::List, "/"),
    ("list the domains", Verb::List, "/local/domain"),
    ("write the toolstack's command", Verb::Write, "control/shutdown"),
    ("write its memory", Verb::Write, "memory/target"),
    ("write another device", Verb::Write, "device/vif/1/state"),
    ("name another back end", Verb::Write, "device/vif/0/backend"),
    ("put its back end in another domain", Verb::Write, "device/vif/0/backend-id"),
    ("take another address", Verb::Write, "device/vif/0/mac"),
    ("write its number", Verb::Write, "device/vif/0/handle"),
    ("write its directory", Verb::Write, "device/vif/0"),
    ("ask for queues", Verb::Write, "device/vif/0/multi-queue-num-queues"),
    ("write what begins as a node of its own", Verb::Write, "device/vif/0/state-"),
    ("make a node below one of its own", Verb::Write, "device/vif/0/state/0"),
    ("make a node below its error", Verb::Write, "error/device/vif/0/error/0"),
    ("read the directory of its device", Verb::Read, "device/vif/0"),
    ("watch its device", Verb::Watch, "device/vif/0"),
    ("watch what it may read only", Verb::Watch, "device/vif/0/mac"),
    ("remove a node of its own", Verb::Remove, "device/vif/0/state"),
    ("remove its device", Verb::Remove, "device/vif/0"),
    ("remove the name of its back end", Verb::Remove, "device/vif/0/backend"),
    ("write beside its errors", Verb::Write, "error/device/vif/0"),
    ("write its back end", Verb::Write, "/local/domain/0/backend/vif/1/0/state"),
    ("write into another domain", Verb::Write, "/local/domain/0/data/x"),
    ("remove its devices", Verb::Remove, "device"),
    ("remove the toolstack's command", Verb::Remove, "control"),
    ("watch all domains", Verb::Watch, "@introduceDomain"),
    ("watch the toolstack's command", Verb::Watch, "control/shutdown"),
    ("end another's watch", Verb::Unwatch, "control/shutdown"),
];

/// What is written and must be on the console, although refusals came before that are more than it
/// takes. `tests/bed/tests/compromised.rs` looks for it, and for the deeds against the grant manager
/// and tcpip.
const HIDDEN_DEED: &str = "control/hidden-deed";
/// The peer of a grant that must be refused on the console in the same way.
const HIDDEN_PEER: DomId = DomId(6);

const MAC: [u8; 6] = [0, 0x16, 0x3E, 1, 2, 3];

const fn up([a, b, c, d, e, f]: [u8; 6], mtu: u16) -> RawFields {
    let mac = [u16::from_le_bytes([a, b]), u16::from_le_bytes([c, d]), u16::from_le_bytes([e, f])];
    RawFields(1, Offloads::all().bits(), [mac[0], mac[1], mac[2], mtu])
}

const DOWN: RawFields = RawFields(2, 0, [0; 4]);

const fn received(page: u16, offset: u16, length: u16, more: bool) -> RawFields {
    /// The checksum need not be verified.
    const CHECKED: u8 = 2;
    RawFields(3, CHECKED | more as u8, [page, offset, length, 0])
}

const fn transmitted(page: u16) -> RawFields {
    RawFields(4, 0, [page, 0, 0, 0])
}

/// Messages that tcpip must refuse or survive.
const TO_TCPIP: [(&str, RawFields); 20] = [
    ("a frame before there is a link", received(0, 0, 60, false)),
    ("a page taken before there is a link", transmitted(0)),
    ("a link without a size", up(MAC, 0)),
    ("a link of the largest size", up(MAC, u16::MAX)),
    ("a link with the address of all", up([0xFF; 6], 1500)),
    ("a link", up(MAC, 1500)),
    ("the link again", up(MAC, 1500)),
    ("a frame after the pool", received(128, 0, 60, false)),
    ("a frame in the last page of all", received(u16::MAX, 0, 60, false)),
    ("a frame past its page", received(0, 4095, 60, false)),
    ("a frame past the pool", received(127, 4095, 2, false)),
    ("a frame that starts after its page", received(1, 4096, 60, false)),
    ("the longest frame", received(2, 0, u16::MAX, false)),
    ("an empty frame", received(20, 0, 0, false)),
    ("a frame in pages that are tcpip's", received(0, 0, 60, false)),
    ("a frame that goes on", received(21, 0, 60, true)),
    ("a frame that goes on and on", received(22, 0, u16::MAX, true)),
    ("a page that was not sent", transmitted(5)),
    ("a page after the pool, sent", transmitted(u16::MAX)),
    ("no link", DOWN),
];

fn ask(id: u16, verb: Verb, path: &str) -> Ask {
    let path = ArrayString::from(path).unwrap_or_else(|_| Path::new());
    let action = match verb {
        Verb::Read => Action::Read(path),
        Verb::Write => Action::Write(path, Value::from_iter(*b"poweroff")),
        Verb::Remove => Action::Remove(path),
        Verb::List => Action::List(path),
        Verb::Watch => Action::Watch(path, id),
        Verb::Unwatch => Action::Unwatch(path, id),
    };
    Ask { id, action }
}

fn message(number: usize) -> Option<(&'static str, usize, Bytes)> {
    let (to_store, to_tcpip) = (TO_GRANTS.len(), TO_GRANTS.len() + TO_STORE.len());
    if let Some((name, request, _)) = TO_GRANTS.get(number) {
        Some((name, GRANTS, request.bytes()))
    } else if let Some((name, verb, path)) = TO_STORE.get(number - to_store) {
        Some((name, STORE, bytes(&ask(number as u16, *verb, path))))
    } else {
        let (name, reply) = TO_TCPIP.get(number - to_tcpip)?;
        Some((name, NET, reply.bytes()))
    }
}

impl<S: System + 'static, M: Memory + 'static> Caps<S, M> {
    /// Sends messages through a queue in turns, and lets its other end run after each.
    fn flood(&self, queue: usize, turns: usize, send: impl Fn(&RawQueue<'_, M>)) {
        let queues = self.queues();
        let Some(queue) = queues.get(queue) else { return };
        for _ in 0..turns {
            send(queue);
            let until = self.clock.now() + Duration::from_millis(1);
            let _ = probe::system_call(SYSTEM_CALL_WAIT, [until.0, 0, 0, 0, 0, 0]);
            queue.take_replies(|_| ());
        }
    }
}

/// Returns the breach if a channel can be opened with one of the domains.
fn opens<S: System>(port: &Port<S>, peers: &[DomId]) -> Option<&'static str> {
    let opened = peers.iter().any(|peer| port.open(*peer).is_ok());
    opened.then_some("a channel was opened with no domain")
}

impl<S: System + 'static, M: Memory + 'static> Role for Caps<S, M> {
    console_and_clock!();

    const RIGHTS: &'static [Operation] = &[
        Operation::ConsoleWrite,
        Operation::ClockNow,
        Operation::QueueNotify,
        Operation::RegionFind,
        Operation::PortOpen,
        Operation::PortSend,
        Operation::PortClose,
    ];

    fn saved_words(&self) -> (&M, usize) {
        (&self.grants.requests.producer, IN_QUEUE)
    }

    fn queues(&self) -> ArrayVec<RawQueue<'_, M>, 4> {
        let clients = [RawQueue::client(&self.grants), RawQueue::client(&self.store)].into_iter();
        clients.chain(self.net_clients.iter().map(RawQueue::server).take(1)).collect()
    }

    fn attempts() -> &'static [RoleAttempt<Self>] {
        &[
            ("open a channel before the back end is known", |caps| {
                let breach = opens(&caps.tx_events, &[PEER]);
                // From here on the peer is pinned, so that later attempts get as far as they can.
                let request = bytes(&ask(READ_PEER, Verb::Read, "device/vif/0/backend-id"));
                caps.queues().get(STORE).into_iter().for_each(|queue| queue.send(&request));
                breach
            }),
            ("close a channel", |caps| {
                // Close the channels that earlier attempts left open.
                let _ = (caps.tx_events.close(), caps.rx_events.close());
                let closed = caps.tx_events.close().is_ok();
                closed.then_some("a channel was closed that was not open")
            }),
            ("open a channel with oneself", |caps| opens(&caps.tx_events, &NO_DOMAINS[..1])),
            ("open a channel with Xen", |caps| opens(&caps.tx_events, &NO_DOMAINS[1..3])),
            ("open a channel with domains that cannot be", |caps| opens(&caps.rx_events, &NO_DOMAINS[3..])),
            ("bind another's channel", |caps| {
                let bound = (1..64).any(|port| caps.tx_events.bind(PEER, EvtchnPort(port)).is_ok());
                bound.then_some("another's channel was bound")
            }),
            ("open a channel twice", |caps| {
                let _ = caps.tx_events.open(PEER);
                caps.tx_events.open(PEER).is_ok().then_some("a channel was opened twice")
            }),
            ("send events without an end", |caps| {
                (0..20_000).for_each(|_| caps.tx_events.send());
                None
            }),
            ("open and close channels without an end", |caps| {
                for _ in 0..2_000 {
                    let _ = (caps.rx_events.open(PEER), caps.rx_events.close());
                }
                None
            }),
            ("fill the rings with what nobody asked for", |caps| {
                (0..caps.rings.len()).step_by(4).for_each(|at| caps.rings.store(at, u32::MAX));
                None
            }),
            ("hide a deed behind refusals of xenstore", |caps| {
                let flood = bytes(&ask(0, Verb::Read, "control/shutdown"));
                caps.flood(STORE, 50, |queue| (0..8).for_each(|_| queue.send(&flood)));
                caps.flood(STORE, 1, |queue| queue.send(&bytes(&ask(0, Verb::Write, HIDDEN_DEED))));
                None
            }),
            ("hide a deed behind refusals of the grant manager", |caps| {
                caps.flood(GRANTS, 50, |queue| (0..8).for_each(|_| queue.send(&issue(0, 2, 1, PEER).bytes())));
                caps.flood(GRANTS, 1, |queue| queue.send(&issue(1, 0, 1, HIDDEN_PEER).bytes()));
                None
            }),
            ("hide a deed behind changes of the link", |caps| {
                let changes = [up(MAC, 1500).bytes(), DOWN.bytes()];
                caps.flood(NET, 40, |queue| (0..16).for_each(|number| queue.send(&changes[number % 2])));
                caps.flood(NET, 1, |queue| {
                    for message in [up(MAC, 1500), received(128, 0, 60, false), DOWN] {
                        queue.send(&message.bytes());
                    }
                });
                None
            }),
        ]
    }

    fn message(&self, number: usize) -> Option<RawMessage> {
        let (name, queue, bytes) = message(number)?;
        Some(RawMessage { name, queue, bytes, pause: Duration::ZERO })
    }

    fn check_reply(&self, queue: usize, reply: &[u8], message: Option<usize>) -> Result<(), Outcome> {
        let allowed = message.and_then(|number| TO_GRANTS.get(number)).is_some_and(|(_, _, allowed)| *allowed);
        match queue {
            GRANTS => match Granting::from_bytes(reply) {
                Ok(Granting::Refused { .. }) => Err(Outcome::Refused),
                Ok(Granting::Issued { .. }) if !allowed => Err(Outcome::Breach("pages were granted")),
                _ => Ok(()),
            },
            STORE => match Stored::from_bytes(reply) {
                Ok(Stored::Answer { result: Err(StoreError::Policy), .. }) => Err(Outcome::Refused),
                Ok(Stored::Answer { id: READ_PEER, .. }) => Ok(()),
                Ok(Stored::Answer { .. }) => Err(Outcome::Breach("XenStore was asked")),
                Ok(Stored::Changed { .. }) => Err(Outcome::Breach("a watch reported another's node")),
                Err(_) => Ok(()),
            },
            _ => Ok(()),
        }
    }
}

#[cfg(test)]
mod tests {
    use core::num::NonZeroU16;

    use cloister_interfaces::grants::Request;
    use cloister_interfaces::net::{Reply, RxPage, TxPage};
    use cloister_interfaces::{PageOffset, PageRun};

    use super::*;

    #[test]
    fn messages_to_tcpip_are_what_they_say() {
        let decode = |fields: RawFields| Reply::from_bytes(&fields.bytes()[..Reply::SIZE]);
        assert_eq!(decode(up(MAC, 1500)), Ok(Reply::Up { mac: MAC, mtu: 1500, offloads: Offloads::all() }));
        assert_eq!(decode(DOWN), Ok(Reply::Down));
        for more in [false, true] {
            let (offset, length) = (PageOffset::ZERO, NonZeroU16::MIN);
            let reply = Reply::Received { page: RxPage(2), offset, length, more, checked: true };
            assert_eq!(decode(received(2, 0, 1, more)), Ok(reply));
        }
        assert_eq!(decode(transmitted(4)), Ok(Reply::Transmitted { page: TxPage(4) }));
        let malformed = TO_TCPIP.iter().filter(|(_, fields)| decode(*fields).is_err()).map(|(name, _)| *name);
        assert_eq!(malformed.collect::<std::vec::Vec<_>>(), ["a frame that starts after its page", "an empty frame"]);
    }

    #[test]
    fn requests_to_the_grant_manager_are_what_they_say() {
        let decode = |fields: RawFields| Request::from_bytes(&fields.bytes()[..Request::SIZE]);
        let pages = PageRun::new(2, 3).expect("a run");
        assert_eq!(decode(issue(1, 2, 3, DomId(4))), Ok(Request::Issue { rule: 1, pages, peer: DomId(4) }));
        assert_eq!(decode(end(5)), Ok(Request::End { rule: 5 }));
        let malformed = TO_GRANTS.iter().filter(|(_, fields, _)| decode(*fields).is_err()).map(|(name, ..)| *name);
        assert_eq!(
            malformed.collect::<std::vec::Vec<_>>(),
            ["grant where the ends meet", "grant from the last page to the first", "grant no page"]
        );
    }

    #[test]
    fn every_message_has_a_number_and_decodes_to_what_it_is_made_of() {
        let messages: std::vec::Vec<_> = (0..).map_while(message).collect();
        assert_eq!(messages.len(), TO_GRANTS.len() + TO_STORE.len() + TO_TCPIP.len());
        for (number, (_, verb, path)) in TO_STORE.iter().enumerate() {
            let (_, queue, bytes) = messages[TO_GRANTS.len() + number];
            assert_eq!(queue, STORE);
            let sent = Ask::from_bytes(&bytes[..Ask::SIZE]);
            // A path that is no path is for the bytes that follow its NUL to be a malformed message
            // or a refusal.
            assert!(sent.is_ok_and(|sent| sent == ask((TO_GRANTS.len() + number) as u16, *verb, path)), "{path:?}");
        }
    }
}
