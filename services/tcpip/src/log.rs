//! What the service says of its peers: netfront, the network, control and the applications, each in
//! a log of its own.
//!
//! Violations and refusals are logged once for each kind and peer, so that a peer that repeats
//! itself does not fill the console. States of the link and of the address are logged at a rate.

use core::fmt::{self, Display};

use cloister_interfaces::capability::Console;
use cloister_interfaces::log::{self, PeerLog};
use cloister_interfaces::rules::ClientIndex;
use cloister_interfaces::{Instant, Malformed, System};

use crate::clients::CLIENTS;

/// An act of a peer that its protocol excludes. What it is about is dropped.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Violation {
    /// netfront sent a message that does not decode.
    LinkMessage(Malformed),
    /// netfront named a page that it does not have.
    LinkPage,
    /// netfront announced an impossible MAC address or MTU.
    LinkParameters,
    /// The DHCP server offered an address that no host can have.
    Lease,
    /// An application sent a message that does not decode.
    Message(Malformed),
    /// An application named a connection that it does not have.
    Connection,
    /// An application sent more bytes than its ring holds.
    Send,
    /// An application sent constant bytes that do not exist.
    Constant,
    /// An application consumed more bytes than it received.
    Consumed,
    /// control sent a message that does not decode.
    Control(Malformed),
}

impl Violation {
    fn kind(self) -> Kind {
        match self {
            Violation::LinkMessage(_) => Kind::LinkMessage,
            Violation::LinkPage => Kind::LinkPage,
            Violation::LinkParameters => Kind::LinkParameters,
            Violation::Lease => Kind::Lease,
            Violation::Message(_) => Kind::Message,
            Violation::Connection => Kind::Connection,
            Violation::Send => Kind::Send,
            Violation::Constant => Kind::Constant,
            Violation::Consumed => Kind::Consumed,
            Violation::Control(_) => Kind::Control,
        }
    }

    fn malformed(self) -> Option<Malformed> {
        match self {
            Violation::LinkMessage(malformed) | Violation::Message(malformed) | Violation::Control(malformed) => {
                Some(malformed)
            }
            _ => None,
        }
    }
}

/// The reason why a request of an application, which it may make, is denied.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Refusal {
    /// Nobody can listen to port 0, and only one application to any other.
    Port,
    /// The application listens to as many ports as it may. To listen to another, it loses its
    /// oldest.
    PortCount,
}

/// A state of the network, for the log.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum State {
    /// netfront says that the link is up.
    LinkUp,
    /// netfront says that the link is down.
    LinkDown,
    /// There is an address.
    Address,
    /// There is none any more.
    AddressLost,
    /// Another host claims our address, too.
    AddressClaimed,
}

/// The kind of a line.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Kind {
    LinkMessage,
    LinkPage,
    LinkParameters,
    LinkUp,
    LinkDown,
    Lease,
    Address,
    AddressLost,
    AddressClaimed,
    Control,
    Message,
    Connection,
    Send,
    Constant,
    Consumed,
    Port,
    PortCount,
}

/// For each kind, in the order of their numbers, the peer that a line is about, and what the line
/// says without its details.
const TEXTS: [(Kind, Peer, &str); 17] = [
    (Kind::LinkMessage, Peer::Netfront, "a malformed message"),
    (Kind::LinkPage, Peer::Netfront, "a page that it does not hold"),
    (Kind::LinkParameters, Peer::Netfront, "an impossible address or MTU"),
    (Kind::LinkUp, Peer::Netfront, "link up"),
    (Kind::LinkDown, Peer::Netfront, "link down"),
    (Kind::Lease, Peer::Network, "an address that no host can have"),
    (Kind::Address, Peer::Network, "address"),
    (Kind::AddressLost, Peer::Network, "address lost"),
    (Kind::AddressClaimed, Peer::Network, "address claimed by another host, too"),
    (Kind::Control, Peer::Control, "a malformed message"),
    (Kind::Message, Peer::Application, "a malformed message"),
    (Kind::Connection, Peer::Application, "a connection that it does not have"),
    (Kind::Send, Peer::Application, "more bytes to send than its ring holds"),
    (Kind::Constant, Peer::Application, "constant bytes that do not exist"),
    (Kind::Consumed, Peer::Application, "more bytes consumed than received"),
    (Kind::Port, Peer::Application, "a port that is 0 or taken"),
    (Kind::PortCount, Peer::Application, "more ports than it may have: its oldest is closed"),
];

/// A peer, or any of the applications.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Peer {
    Netfront,
    Network,
    Control,
    Application,
}

impl Peer {
    fn name(self) -> &'static str {
        match self {
            Peer::Netfront => "netfront",
            Peer::Network => "the DHCP server",
            Peer::Control => "control",
            Peer::Application => "an application",
        }
    }
}

/// A line of this kind.
struct Line {
    kind: Kind,
    malformed: Option<Malformed>,
    /// The client, if it is about an application.
    client: ClientIndex,
}

impl Display for Line {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (_, peer, text) = TEXTS[self.kind as usize];
        let name = peer.name();
        match self.kind {
            Kind::LinkUp | Kind::LinkDown | Kind::Address | Kind::AddressLost | Kind::AddressClaimed => {
                return f.write_str(text);
            }
            Kind::Port | Kind::PortCount => write!(f, "refused {name}: {text}")?,
            _ => match self.malformed {
                Some(malformed) => write!(f, "violation by {name}: {malformed}")?,
                None => write!(f, "violation by {name}: {text}")?,
            },
        }
        match peer {
            Peer::Application => write!(f, " ({}, logged once)", self.client),
            _ => f.write_str(" (logged once)"),
        }
    }
}

/// The logs of all peers.
pub struct Logs {
    /// Those of netfront, of the network, of control, and of the applications.
    peers: [PeerLog; FIRST_APPLICATION + CLIENTS],
    /// The earliest deadline of them.
    due: Option<Instant>,
}

const FIRST_APPLICATION: usize = Peer::Application as usize;

impl Logs {
    /// Creates empty logs.
    pub fn new() -> Logs {
        let name = |index| match index {
            0 => log::Peer::Named("netfront and the link"),
            1 => log::Peer::Named("the address"),
            2 => log::Peer::Named("control"),
            client => log::Peer::Client(ClientIndex((client - FIRST_APPLICATION) as u8)),
        };
        Logs { peers: core::array::from_fn(|index| PeerLog::new(name(index))), due: None }
    }

    /// Logs a violation on `console`, if it is the first of its kind by its peer: by this client, if
    /// it is an application's.
    #[cold]
    pub fn violation<S: System>(
        &mut self,
        console: &Console<S>,
        now: Instant,
        client: ClientIndex,
        violation: Violation,
    ) {
        self.once(console, now, Line { kind: violation.kind(), malformed: violation.malformed(), client });
    }

    /// Logs a refused request of this application on `console`, if it is the first of its kind.
    #[cold]
    pub fn refusal<S: System>(&mut self, console: &Console<S>, now: Instant, client: ClientIndex, refusal: Refusal) {
        let kind = match refusal {
            Refusal::Port => Kind::Port,
            Refusal::PortCount => Kind::PortCount,
        };
        self.once(console, now, Line { kind, malformed: None, client });
    }

    /// Logs a state of the network on `console`, within a rate.
    #[cold]
    pub fn state<S: System>(&mut self, console: &Console<S>, now: Instant, state: State, line: fmt::Arguments<'_>) {
        let kind = match state {
            State::LinkUp => Kind::LinkUp,
            State::LinkDown => Kind::LinkDown,
            State::Address => Kind::Address,
            State::AddressLost => Kind::AddressLost,
            State::AddressClaimed => Kind::AddressClaimed,
        };
        let log = &mut self.peers[TEXTS[kind as usize].1 as usize];
        log.add(console, now, kind as usize, line);
        self.due = Instant::earlier(self.due, log.deadline());
    }

    #[inline(never)]
    fn once<S: System>(&mut self, console: &Console<S>, now: Instant, line: Line) {
        let index = match TEXTS[line.kind as usize].1 {
            Peer::Application => FIRST_APPLICATION + line.client.index(),
            other => other as usize,
        };
        let Some(log) = self.peers.get_mut(index) else { return };
        log.add_first(console, now, line.kind as usize, format_args!("{line}"));
        self.due = Instant::earlier(self.due, log.deadline());
    }

    /// Returns the time of the next [`Logs::catch_up`] that prints something.
    #[inline]
    pub fn deadline(&self) -> Option<Instant> {
        self.due
    }

    /// Prints, once that is due, what the console may have dropped and what was left out.
    #[cold]
    pub fn catch_up<S: System>(&mut self, console: &Console<S>, now: Instant) {
        self.due = None;
        for (index, log) in self.peers.iter_mut().enumerate() {
            let client = ClientIndex(index.saturating_sub(FIRST_APPLICATION) as u8);
            log.catch_up(console, now, &|number, f| match TEXTS.get(number) {
                Some((kind, ..)) => Line { kind: *kind, malformed: None, client }.fmt(f),
                None => Ok(()),
            });
            self.due = Instant::earlier(self.due, log.deadline());
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_texts_are_in_the_order_of_the_kinds() {
        for (number, (kind, ..)) in TEXTS.into_iter().enumerate() {
            assert_eq!(kind as usize, number);
        }
    }
}
