//! The log of violations and refusals. Each kind is logged once, so that a peer that repeats itself
//! does not fill the console.

use core::fmt;

use cloister_interfaces::System;
use cloister_interfaces::capability::Console;

/// The parties that send something to the service.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Peer {
    Netfront,
    DhcpServer,
    Application,
    Control,
}

impl fmt::Display for Peer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Peer::Netfront => "netfront",
            Peer::DhcpServer => "the DHCP server",
            Peer::Application => "an application",
            Peer::Control => "control",
        })
    }
}

/// An act of a peer that its protocol excludes. What it is about is dropped.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Violation {
    /// netfront sent a message that does not decode.
    LinkMessage,
    /// netfront named a page that it does not have.
    LinkPage,
    /// netfront announced an impossible MAC address or MTU.
    LinkParameters,
    /// The DHCP server offered an address that no host can have.
    Lease,
    /// An application sent a message that does not decode.
    Message,
    /// An application named a connection that it does not have.
    Connection,
    /// An application sent more bytes than its ring holds.
    Send,
    /// An application sent constant bytes that do not exist.
    Constant,
    /// An application consumed more bytes than it received.
    Consumed,
    /// A control message does not decode.
    Control,
}

impl Violation {
    /// Returns who broke the protocol, and by what.
    fn describe(self) -> (Peer, &'static str) {
        match self {
            Violation::LinkMessage => (Peer::Netfront, "a message that does not decode"),
            Violation::LinkPage => (Peer::Netfront, "a page that it does not hold"),
            Violation::LinkParameters => (Peer::Netfront, "an impossible address or MTU"),
            Violation::Lease => (Peer::DhcpServer, "an address that no host can have"),
            Violation::Message => (Peer::Application, "a message that does not decode"),
            Violation::Connection => (Peer::Application, "a connection that it does not have"),
            Violation::Send => (Peer::Application, "more bytes to send than its ring holds"),
            Violation::Constant => (Peer::Application, "constant bytes that do not exist"),
            Violation::Consumed => (Peer::Application, "more bytes consumed than received"),
            Violation::Control => (Peer::Control, "a message that does not decode"),
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

impl Refusal {
    fn text(self) -> &'static str {
        match self {
            Refusal::Port => "a port that is 0 or taken",
            Refusal::PortCount => "more ports than it may have: its oldest is closed",
        }
    }
}

/// The log of violations and refusals: one bit for each kind that was logged.
#[derive(Default)]
pub struct OnceLog {
    violations: u16,
    refusals: u8,
}

impl OnceLog {
    /// Logs a violation on `console`, if it is the first of its kind.
    #[cold]
    pub fn violation<S: System>(&mut self, console: &Console<S>, kind: Violation) {
        let bit = 1 << kind as u32;
        if self.violations & bit == 0 {
            self.violations |= bit;
            let (peer, what) = kind.describe();
            console.line(format_args!("violation by {peer}: {what} (logged once)"));
        }
    }

    /// Logs a refused request of an application on `console`, if it is the first of its kind.
    #[cold]
    pub fn refusal<S: System>(&mut self, console: &Console<S>, kind: Refusal) {
        let bit = 1 << kind as u32;
        if self.refusals & bit == 0 {
            self.refusals |= bit;
            console.line(format_args!("refused {}: {} (logged once)", Peer::Application, kind.text()));
        }
    }
}
