//! Moves frames between tcpip and the rings, and drives the handshake.

use core::time::Duration;

use cloister_caps::{DomId, EvtchnPort, Status};
use cloister_interfaces::capability::{Clock, Console, Port};
use cloister_interfaces::grants::Grants;
use cloister_interfaces::net::{Net, Reply, Request};
use cloister_interfaces::store::{self, Store};
use cloister_interfaces::{Client, Instant, Memory, Notifications, Server, Service, System};

use crate::capabilities::Caps;
use crate::handshake::{Command, Handshake};
use crate::request::RequestViolation;
use crate::ring::Violation;
use crate::rx::Receive;
use crate::traffic::{Logged, PassResult, Traffic};
use crate::tx::Transmit;

/// The back end may deliver long TCP segments unsplit, and frames without a checksum.
const RECEIVE_OFFLOADS: bool = true;

/// The largest number of requests that are taken in one pass.
const MAX_REQUESTS: u32 = 512;
/// The largest number of steps of the handshake in one pass.
const MAX_STEPS: usize = 64;
/// The time that frames have to leave before the connection is closed on request.
const DRAIN_TIME: Duration = Duration::from_millis(500);

/// The progress of a close that tcpip requested.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum CloseState {
    Open,
    /// Frames on the ring may still leave until this time.
    Draining(Instant),
    Closing,
    Closed,
}

/// The use of the rings, and what tcpip knows of it.
#[expect(clippy::large_enum_variant, reason = "there is no heap, and only one exists")]
enum Link {
    /// The rings are not in use.
    Down {
        /// tcpip was not yet told that the last connection ended.
        report_due: bool,
    },
    /// The rings are in use. tcpip was not yet told, so no frame is moved.
    Connected {
        /// It was not even told that the connection before this one ended.
        report_due: bool,
    },
    /// tcpip was told that the link is up.
    Up(Traffic),
}

/// The ports that are open.
#[derive(Clone, Copy, PartialEq, Eq)]
enum OpenPorts {
    /// This run of the service has opened none, but an earlier one may have.
    Unknown,
    None,
    /// The one for frames to send, or for both directions.
    Tx,
    /// That one, and the one for received frames.
    TxAndRx,
}

/// The service.
pub struct Netfront<S, M> {
    console: Console<S>,
    clock: Clock<S>,
    net: Option<Server<Net, S, M>>,
    store: Client<Store, S, M>,
    grants: Client<Grants, S, M>,
    tx_events: Port<S>,
    rx_events: Port<S>,
    open_ports: OpenPorts,
    handshake: Handshake,
    transmit: Transmit<M>,
    receive: Receive<M>,
    /// The id of the XenStore request that has no answer yet.
    pending_request: Option<u16>,
    next_id: u16,
    link: Link,
    close: CloseState,
    /// The pass ended at a limit: the next begins at once.
    work_left: bool,
}

impl<S: System, M: Memory> Netfront<S, M> {
    /// Creates the service. It has not looked at the device yet.
    pub fn new(caps: Caps<S, M>) -> Self {
        let rules = [caps.ring_pages, caps.rx_pages, caps.tx_pages];
        let mut clients = caps.net_clients;
        let net = if clients.is_empty() { None } else { Some(clients.swap_remove(0)) };
        Netfront {
            console: caps.console,
            clock: caps.clock,
            net,
            store: caps.store,
            grants: caps.grants,
            tx_events: caps.tx_events,
            rx_events: caps.rx_events,
            open_ports: OpenPorts::Unknown,
            handshake: Handshake::new(rules, RECEIVE_OFFLOADS),
            transmit: Transmit::new(caps.rings.clone(), caps.tx_pages.pages),
            receive: Receive::new(caps.rings, caps.rx_pages.pages, RECEIVE_OFFLOADS),
            pending_request: None,
            next_id: 0,
            link: Link::Down { report_due: false },
            close: CloseState::Open,
            work_left: false,
        }
    }

    /// Handles the replies of the XenStore service and of the grant manager.
    fn handle_replies(&mut self, now: Instant) {
        for _ in 0..MAX_STEPS {
            let (answer, reply) = (self.store.replies.pop(), self.grants.replies.pop());
            if answer.is_none() && reply.is_none() {
                return;
            }
            match answer {
                Some(Ok(store::Reply::Answer { id, result })) if self.pending_request == Some(id) => {
                    self.pending_request = None;
                    if result == Err(store::StoreError::InUse) && self.open_ports == OpenPorts::Unknown {
                        // They may be what is in use. The handshake ends the connection now.
                        self.open_ports = OpenPorts::TxAndRx;
                    }
                    self.handshake.store_answered(result, now);
                }
                Some(Ok(store::Reply::Changed { token })) => self.handshake.watch_fired(token, now),
                // The answer to a request that was given up.
                Some(Ok(store::Reply::Answer { .. })) | None => {}
                Some(Err(malformed)) => self.console.line(format_args!("violation by xenstore: {malformed}")),
            }
            match reply {
                Some(Ok(reply)) => self.handshake.grants_answered(reply, now),
                Some(Err(malformed)) => self.console.line(format_args!("violation by grant-manager: {malformed}")),
                None => {}
            }
        }
        self.work_left = true;
    }

    /// Carries out the commands of the handshake.
    fn drive(&mut self, now: Instant) {
        self.handshake.tick(now);
        for _ in 0..MAX_STEPS {
            let command = self.handshake.command(now);
            for note in self.handshake.take_notes() {
                self.console.line(format_args!("{note}"));
            }
            let Some(command) = command else { break };
            // One command is under way at a time: an answer to an earlier request comes too late.
            self.pending_request = None;
            let sent = match command {
                Command::Store(action) => {
                    self.next_id = self.next_id.wrapping_add(1);
                    let sent = self.store.requests.send(&store::Request { id: self.next_id, action }).is_ok();
                    self.pending_request = sent.then_some(self.next_id);
                    sent
                }
                Command::Grants(request) => self.grants.requests.send(&request).is_ok(),
                Command::OpenPorts { peer, split } => {
                    let ports = self.open_ports(peer, split);
                    self.handshake.ports_opened(ports, now);
                    true
                }
                Command::ResetRings => {
                    self.transmit.reset();
                    self.receive.reset();
                    true
                }
                Command::Start { rx, tx, offloads } => {
                    self.transmit.start(tx, offloads);
                    self.receive.start(rx);
                    // No event: the back end is not connected yet, and reads the ring when it is.
                    self.receive.publish();
                    true
                }
                Command::Stop => {
                    self.stop();
                    true
                }
            };
            if !sent {
                self.handshake.command_unsent();
                break;
            }
        }
    }

    /// Opens the port for both directions, or two ports if `split`. Returns their numbers: for
    /// frames to send and for received ones.
    fn open_ports(&mut self, peer: DomId, split: bool) -> Option<(EvtchnPort, EvtchnPort)> {
        let tx = open_port(&self.tx_events, peer)?;
        self.open_ports = OpenPorts::Tx;
        if !split {
            return Some((tx, tx));
        }
        let rx = open_port(&self.rx_events, peer)?;
        self.open_ports = OpenPorts::TxAndRx;
        Some((tx, rx))
    }

    /// Ends the use of the rings, and closes the ports.
    fn stop(&mut self) {
        let report_due = match self.link {
            Link::Down { report_due } | Link::Connected { report_due } => report_due,
            Link::Up(_) => {
                let (sent, received) = (self.transmit.dropped, self.receive.dropped);
                if (sent, received) != (0, 0) {
                    self.console.line(format_args!(
                        "dropped on this connection: {sent} transmit slots, {received} received frames"
                    ));
                }
                // If tcpip requested the close, it is told when the close is complete.
                self.close == CloseState::Open
            }
        };
        self.link = Link::Down { report_due };
        // A port that cannot be closed now is closed before it is opened again.
        if matches!(self.open_ports, OpenPorts::Tx | OpenPorts::TxAndRx) {
            let _ = self.tx_events.close();
            if self.open_ports == OpenPorts::TxAndRx {
                let _ = self.rx_events.close();
            }
            self.open_ports = OpenPorts::None;
        }
    }

    /// Begins to use the rings, and logs the connection.
    fn begin_connection(&mut self) {
        let (Link::Down { report_due }, Some(connection)) = (&self.link, self.handshake.connection()) else { return };
        self.link = Link::Connected { report_due: *report_due };
        let ([a, b, c, d, e, f], mtu) = (connection.mac(), connection.mtu());
        let split = if connection.is_split() { "split" } else { "one" };
        self.console.line(format_args!(
            "connected, {a:02x}:{b:02x}:{c:02x}:{d:02x}:{e:02x}:{f:02x}, mtu {mtu}, {split} event channel"
        ));
        // The back end may have read the ring before the pages were posted.
        if connection.is_split() { self.rx_events.send() } else { self.tx_events.send() }
    }

    /// Returns `true` if tcpip was told that the link is up.
    fn is_up(&self) -> bool {
        matches!(self.link, Link::Up(_))
    }

    /// Tells tcpip that the link went up or down, if it does not know yet.
    fn report_link(&mut self) {
        if self.is_up() {
            return;
        }
        let Some(net) = self.net.as_mut() else { return };
        if self.close == CloseState::Closing && self.handshake.is_stopped() {
            self.close = CloseState::Closed;
            self.link = Link::Down { report_due: true };
        }
        if let Link::Down { report_due } | Link::Connected { report_due } = &mut self.link
            && *report_due
        {
            *report_due = net.replies.push(&Reply::Down).is_err();
        }
        if let (Link::Connected { report_due: false }, Some(connection)) = (&self.link, self.handshake.connection()) {
            let (mac, mtu, offloads) = (connection.mac(), connection.mtu(), connection.offloads());
            if net.replies.push(&Reply::Up { mac, mtu, offloads }).is_ok() {
                self.link = Link::Up(Traffic::new(connection.is_split()));
            }
        }
    }

    /// Handles the requests of tcpip. Requests that it sent before it learnt that the link went
    /// down are void.
    fn handle_requests(&mut self) {
        let Some(net) = self.net.as_mut() else { return };
        let (transmit, receive, is_up) = (&mut self.transmit, &mut self.receive, matches!(self.link, Link::Up(_)));
        let (mut close, mut violation) = (false, None);
        let taken = net.requests.pop_each(MAX_REQUESTS, |request| {
            let result = match request {
                Ok(Request::Close) => {
                    close = true;
                    return;
                }
                _ if !is_up => return,
                Ok(Request::Transmit { page, length, offload }) => transmit.submit(page, length, offload),
                Ok(Request::Receive { pages }) => receive.take_back(pages),
                Err(malformed) => Err(RequestViolation::Malformed(malformed)),
            };
            if let Err(first) = result {
                violation.get_or_insert(first);
            }
        });
        self.work_left |= taken == MAX_REQUESTS;
        if close {
            self.begin_close();
        }
        if let Some(violation) = violation {
            self.log_request_violation(violation);
        }
    }

    /// Logs a request by which tcpip broke the protocol, the first of each connection.
    fn log_request_violation(&mut self, violation: RequestViolation) {
        if let Link::Up(traffic) = &mut self.link
            && traffic.mark_logged(Logged::REQUEST_VIOLATION)
        {
            self.console.line(format_args!("violation by tcpip: {violation} (logged once per connection)"));
        }
    }

    fn begin_close(&mut self) {
        match self.close {
            CloseState::Open => self.close = CloseState::Draining(self.clock.now() + DRAIN_TIME),
            CloseState::Closed => self.link = Link::Down { report_due: true },
            CloseState::Draining(_) | CloseState::Closing => {}
        }
    }

    fn advance_close(&mut self, now: Option<Instant>) {
        let CloseState::Draining(until) = self.close else { return };
        let now = now.unwrap_or_else(|| self.clock.now());
        if !self.is_up() || self.transmit.pages_in_flight() == 0 || now >= until {
            self.close = CloseState::Closing;
            self.handshake.close(now);
            self.drive(now);
        }
    }

    /// Moves frames while the link is up, and looks after the back end.
    fn serve_link(&mut self, notifications: Notifications, now: Option<Instant>) {
        let Link::Up(traffic) = &mut self.link else { return };
        let Some(net) = self.net.as_mut() else { return };
        let eager = self.close != CloseState::Open;
        let moved = traffic.move_frames(&mut net.replies, &mut self.transmit, &mut self.receive, eager);
        let PassResult { found, at_limit } = match moved {
            Ok(moved) => moved,
            Err(violation) => return self.handle_violation(violation),
        };
        self.work_left |= at_limit;
        let (tx, rx) = (self.transmit.publish(), self.receive.publish());
        if tx || (rx && !traffic.split) {
            self.tx_events.send();
        }
        if rx && traffic.split {
            self.rx_events.send();
        }
        let event = self.tx_events.is_notified(notifications) || self.rx_events.is_notified(notifications);
        let polls = traffic.pace.record_pass(event, found, now, || self.clock.now());
        if polls && traffic.mark_logged(Logged::POLLING) {
            self.console.line(format_args!(
                "the back end sends events for nothing: polling its rings (logged once per connection)"
            ));
        }
        traffic.log_anomalies(self.transmit.anomalies | self.receive.anomalies, &self.console);
        let in_flight = self.transmit.pages_in_flight() > 0;
        if let Some(now) = traffic.stall_time(in_flight, now, || self.clock.now()) {
            self.handshake.stalled(now);
            self.drive(now);
        }
    }

    fn handle_violation(&mut self, violation: Violation) {
        let now = self.clock.now();
        self.handshake.violated(violation, now);
        self.drive(now);
    }

    /// Returns `true` if this pass only moves frames. Then the time does not matter, and the clock
    /// is not read.
    fn only_moves_frames(&self, notifications: Notifications) -> bool {
        let steady = self.is_up() && self.close == CloseState::Open;
        // No notification: a deadline has passed.
        let due = notifications == Notifications::default();
        steady && !due && !self.store.is_notified(notifications) && !self.grants.is_notified(notifications)
    }
}

/// Opens a port. An earlier run of this service may have left it open; then it is closed first.
fn open_port<S: System>(port: &Port<S>, peer: DomId) -> Option<EvtchnPort> {
    match port.open(peer) {
        Err(fault) if fault.status() == Status::WrongState => {
            let _ = port.close();
            port.open(peer).ok()
        }
        answer => answer.ok(),
    }
}

impl<S: System, M: Memory> Service for Netfront<S, M> {
    fn notified(&mut self, notifications: Notifications) {
        self.work_left = false;
        let now = if self.only_moves_frames(notifications) { None } else { Some(self.clock.now()) };
        if let Some(now) = now {
            self.handle_replies(now);
            self.drive(now);
            self.begin_connection();
        }
        self.handle_requests();
        self.report_link();
        self.serve_link(notifications, now);
        self.advance_close(now);
        self.report_link();
        if let Some(net) = self.net.as_mut() {
            net.replies.flush();
        }
    }

    fn deadline(&self) -> Option<Instant> {
        if self.work_left {
            return Some(Instant::START);
        }
        let drain = match self.close {
            CloseState::Draining(until) => Some(until),
            _ => None,
        };
        let of_rings = match &self.link {
            Link::Up(traffic) => Instant::earlier(traffic.next_stall_check(), traffic.pace.deadline()),
            _ => None,
        };
        Instant::earlier(Instant::earlier(self.handshake.deadline(), drain), of_rings)
    }

    fn events_to_hold(&self) -> Notifications {
        match &self.link {
            Link::Up(traffic) if traffic.pace.holds_events() => {
                self.tx_events.notification() | self.rx_events.notification()
            }
            _ => Notifications::default(),
        }
    }
}

#[cfg(test)]
mod tests;
