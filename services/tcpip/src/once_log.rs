//! The log of violations and refusals. Each kind is logged once, so that a peer that repeats itself
//! does not fill the console.

use core::fmt;

use cloister_interfaces::capability::Console;
use cloister_interfaces::{Malformed, System};

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
    /// Returns the bit of its kind.
    fn bit(self) -> u16 {
        1 << match self {
            Violation::LinkMessage(_) => 0,
            Violation::LinkPage => 1,
            Violation::LinkParameters => 2,
            Violation::Lease => 3,
            Violation::Message(_) => 4,
            Violation::Connection => 5,
            Violation::Send => 6,
            Violation::Constant => 7,
            Violation::Consumed => 8,
            Violation::Control(_) => 9,
        }
    }
}

impl fmt::Display for Violation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let what = match self {
            Violation::LinkMessage(malformed) => return write!(f, "netfront: {malformed}"),
            Violation::Message(malformed) => return write!(f, "an application: {malformed}"),
            Violation::Control(malformed) => return write!(f, "control: {malformed}"),
            Violation::LinkPage => "netfront: a page that it does not hold",
            Violation::LinkParameters => "netfront: an impossible address or MTU",
            Violation::Lease => "the DHCP server: an address that no host can have",
            Violation::Connection => "an application: a connection that it does not have",
            Violation::Send => "an application: more bytes to send than its ring holds",
            Violation::Constant => "an application: constant bytes that do not exist",
            Violation::Consumed => "an application: more bytes consumed than received",
        };
        f.write_str(what)
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
    pub fn violation<S: System>(&mut self, console: &Console<S>, violation: Violation) {
        if self.violations & violation.bit() == 0 {
            self.violations |= violation.bit();
            console.line(format_args!("violation by {violation} (logged once)"));
        }
    }

    /// Logs a refused request of an application on `console`, if it is the first of its kind.
    #[cold]
    pub fn refusal<S: System>(&mut self, console: &Console<S>, refusal: Refusal) {
        let bit = 1 << refusal as u32;
        if self.refusals & bit == 0 {
            self.refusals |= bit;
            console.line(format_args!("refused an application: {} (logged once)", refusal.text()));
        }
    }
}
