//! The log of refusals. Each kind is logged once, so that a peer that repeats itself does not fill
//! the console.

use cloister_interfaces::System;
use cloister_interfaces::capability::Console;

/// The log of refusals.
#[derive(Default)]
pub struct RefusalLog {
    seen: u32,
}

/// The kind of a refusal.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Refusal {
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
    /// An application cannot listen to this port.
    Listen,
    /// An application listens to too many ports.
    Ports,
    /// A control message does not decode.
    Control,
}

impl Refusal {
    fn text(self) -> &'static str {
        match self {
            Refusal::LinkMessage => "the link's message does not decode",
            Refusal::LinkPage => "the link names a page that it does not hold",
            Refusal::LinkParameters => "the link's address or MTU is impossible",
            Refusal::Lease => "the DHCP server offers an impossible address",
            Refusal::Message => "an application's message does not decode",
            Refusal::Connection => "an application names a connection that it does not have",
            Refusal::Send => "an application sends more than its ring holds",
            Refusal::Constant => "an application sends constant bytes that do not exist",
            Refusal::Consumed => "an application consumed more than it received",
            Refusal::Listen => "an application asks for a port that is 0 or taken",
            Refusal::Ports => "an application listens to too many ports: its oldest is closed",
            Refusal::Control => "a control message does not decode",
        }
    }
}

impl RefusalLog {
    /// Logs a refusal on `console`, if it is the first of its kind.
    pub fn log<S: System>(&mut self, console: &Console<S>, kind: Refusal) {
        let bit = 1 << kind as u32;
        if self.seen & bit == 0 {
            self.seen |= bit;
            console.line(format_args!("refused: {} (logged once)", kind.text()));
        }
    }
}
