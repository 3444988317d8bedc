//! Moves frames between tcpip and the rings, and drives the handshake.

use core::time::Duration;

use arrayvec::ArrayVec;
use cloister_caps::{DomId, EvtchnPort, Status};
use cloister_interfaces::capability::{Clock, Console, Port};
use cloister_interfaces::grants::Grants;
use cloister_interfaces::net::{Net, Reply, Request};
use cloister_interfaces::queue::Sender;
use cloister_interfaces::store::{self, Store};
use cloister_interfaces::{Client, Instant, Memory, Notifications, Server, Service, System};

use crate::handshake::{Command, Handshake};
use crate::pace::Pace;
use crate::ring::{Anomaly, Refusal, Violation};
use crate::rx::{Frame, MAX_SLOTS, Part, Receive};
use crate::tx::Transmit;
use crate::{Caps, RECEIVE_OFFLOADS};

/// The largest number of requests that are taken in one pass.
const MAX_REQUESTS: u32 = 512;
/// The largest number of frames that are moved in one pass.
const MAX_FRAMES: usize = 512;
/// The time after which the connection counts as stalled if the back end holds frames and gives
/// none back. A back end that has disabled the device (`xenvif_fatal_tx_err` of Linux's netback)
/// does not report it.
const STALL_TIME: Duration = Duration::from_secs(60);
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

/// The service.
pub struct Netfront<S, M> {
    console: Console<S>,
    clock: Clock<S>,
    net: Option<Server<Net, S, M>>,
    store: Client<Store, S, M>,
    grants: Client<Grants, S, M>,
    tx_events: Port<S>,
    rx_events: Port<S>,
    tx_open: bool,
    rx_open: bool,
    handshake: Handshake,
    transmit: Transmit<M>,
    receive: Receive<M>,
    /// The id of the XenStore request that has no answer yet.
    pending_request: Option<u16>,
    next_id: u16,
    /// The rings are in use.
    up: bool,
    /// tcpip was told that this connection is up. Then `pending_down` is false.
    up_reported: bool,
    /// tcpip was not yet told that the last connection ended.
    pending_down: bool,
    /// Replies about one frame that found the queue full. Nothing more is taken from the rings
    /// until they are sent, so no other page is ever in between.
    unsent: ArrayVec<Reply, MAX_SLOTS>,
    /// A refusal was logged in this connection.
    refusal_logged: bool,
    /// The anomalies that were logged in this connection, one bit each.
    logged_anomalies: u8,
    close: CloseState,
    /// Decides between events and polling.
    pace: Pace,
    /// Polling was logged in this connection.
    pace_logged: bool,
    /// The time of the next check for a stalled back end.
    next_stall_check: Option<Instant>,
    /// The back end gave a frame back since the last check.
    progress: bool,
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
            tx_open: false,
            rx_open: false,
            handshake: Handshake::new(rules, RECEIVE_OFFLOADS),
            transmit: Transmit::new(caps.rings.clone(), caps.tx_pages.pages),
            receive: Receive::new(caps.rings, caps.rx_pages.pages, RECEIVE_OFFLOADS),
            pending_request: None,
            next_id: 0,
            up: false,
            up_reported: false,
            pending_down: false,
            unsent: ArrayVec::new(),
            refusal_logged: false,
            logged_anomalies: 0,
            close: CloseState::Open,
            pace: Pace::default(),
            pace_logged: false,
            next_stall_check: None,
            progress: false,
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
                    self.handshake.store_answered(result, now);
                }
                Some(Ok(store::Reply::Changed { token })) => self.handshake.watch_fired(token, now),
                // The answer to a request that was given up.
                Some(Ok(store::Reply::Answer { .. })) | None => {}
                Some(Err(_)) => self.console.line(format_args!("malformed message from xenstore")),
            }
            match reply {
                Some(Ok(reply)) => self.handshake.grants_answered(reply, now),
                Some(Err(_)) => self.console.line(format_args!("malformed message from grant-manager")),
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
        self.tx_open = true;
        if !split {
            return Some((tx, tx));
        }
        let rx = open_port(&self.rx_events, peer)?;
        self.rx_open = true;
        Some((tx, rx))
    }

    /// Ends the use of the rings, and closes the ports.
    fn stop(&mut self) {
        let (sent, received) = (self.transmit.dropped, self.receive.dropped);
        if core::mem::take(&mut self.up) && (sent, received) != (0, 0) {
            self.console.line(format_args!("lost by this back end: {sent} slots to send, {received} received frames"));
        }
        self.unsent.clear();
        self.next_stall_check = None;
        self.pace = Pace::default();
        // If tcpip requested the close, it is told when the close is complete.
        let reported = core::mem::take(&mut self.up_reported);
        self.pending_down |= reported && self.close == CloseState::Open;
        for (port, open) in [(&self.tx_events, &mut self.tx_open), (&self.rx_events, &mut self.rx_open)] {
            if core::mem::take(open) {
                // A port that cannot be closed now is closed before it is opened again.
                let _ = port.close();
            }
        }
    }

    /// Begins to use the rings, and logs the connection.
    fn connected(&mut self) {
        self.up = true;
        (self.refusal_logged, self.pace_logged, self.logged_anomalies) = (false, false, 0);
        let ([a, b, c, d, e, f], mtu) = self.handshake.identity();
        let split = if self.handshake.is_split() { "split" } else { "one" };
        self.console.line(format_args!(
            "connected, {a:02x}:{b:02x}:{c:02x}:{d:02x}:{e:02x}:{f:02x}, mtu {mtu}, {split} event channel"
        ));
        // The back end may have read the ring before the pages were posted.
        if self.handshake.is_split() { self.rx_events.send() } else { self.tx_events.send() }
    }

    /// Tells tcpip that the link went up or down, if it does not know yet.
    fn report_link(&mut self) {
        let Some(net) = self.net.as_mut() else { return };
        if self.close == CloseState::Closing && self.handshake.is_stopped() {
            self.close = CloseState::Closed;
            self.pending_down = true;
        }
        if self.pending_down && net.replies.push(&Reply::Down).is_ok() {
            self.pending_down = false;
        }
        if self.up && !self.up_reported && !self.pending_down {
            let ((mac, mtu), offloads) = (self.handshake.identity(), self.handshake.offloads());
            self.up_reported = net.replies.push(&Reply::Up { mac, mtu, offloads }).is_ok();
        }
    }

    /// Handles the requests of tcpip. Requests that it sent before it learnt that the link went
    /// down are void.
    fn handle_requests(&mut self) {
        let Some(net) = self.net.as_mut() else { return };
        let (transmit, receive, up_reported) = (&mut self.transmit, &mut self.receive, self.up_reported);
        let (mut close, mut refused) = (false, None);
        let taken = net.requests.pop_each(MAX_REQUESTS, |request| {
            let refusal = match request {
                Ok(Request::Close) => {
                    close = true;
                    return;
                }
                _ if !up_reported => return,
                Ok(Request::Transmit { page, length, offload }) => transmit.submit(page, length, offload).err(),
                Ok(Request::Receive { page, count }) => receive.take_back(page, count).err(),
                Err(_) => {
                    refused = refused.or(Some("a malformed message"));
                    return;
                }
            };
            let what = refusal.map(|refusal| match refusal {
                Refusal::Page => "a page that is not in the pool",
                Refusal::Owner => "a page that is not its own",
                Refusal::Length => "a frame of impossible length",
                Refusal::Offload => "an offload that the link has not offered",
            });
            refused = refused.or(what);
        });
        self.work_left |= taken == MAX_REQUESTS;
        if close {
            self.begin_close();
        }
        if let Some(what) = refused {
            self.log_refusal(what);
        }
    }

    /// Logs a denied request of tcpip, the first of each connection.
    fn log_refusal(&mut self, what: &str) {
        if !core::mem::replace(&mut self.refusal_logged, true) {
            self.console.line(format_args!("refused tcpip: {what} (told once a connection)"));
        }
    }

    /// Logs each anomaly of the back end, once a connection.
    fn log_anomalies(&mut self) {
        let new = (self.transmit.anomalies | self.receive.anomalies) & !self.logged_anomalies;
        for anomaly in Anomaly::ALL.into_iter().filter(|anomaly| new & *anomaly as u8 != 0) {
            self.console.line(format_args!("{} (told once a connection)", anomaly.text()));
        }
        self.logged_anomalies |= new;
    }

    fn begin_close(&mut self) {
        match self.close {
            CloseState::Open => self.close = CloseState::Draining(self.clock.now() + DRAIN_TIME),
            CloseState::Closed => self.pending_down = true,
            CloseState::Draining(_) | CloseState::Closing => {}
        }
    }

    fn advance_close(&mut self, now: Option<Instant>) {
        let CloseState::Draining(until) = self.close else { return };
        let now = now.unwrap_or_else(|| self.clock.now());
        if !self.up || self.transmit.pages_in_flight() == 0 || now >= until {
            self.close = CloseState::Closing;
            self.handshake.close(now);
            self.drive(now);
        }
    }

    /// Moves received frames, and the pages of sent frames, to tcpip. Returns `true` if there was
    /// work.
    ///
    /// # Errors
    /// The back end broke the protocol.
    fn move_frames(&mut self) -> Result<bool, Violation> {
        let Some(net) = self.net.as_mut() else { return Ok(false) };
        let eager = self.close != CloseState::Open;
        let (replies, unsent) = (&mut net.replies, &mut self.unsent);
        let sent = unsent.iter().take_while(|reply| replies.push(reply).is_ok()).count();
        unsent.drain(..sent);
        let mut found = !unsent.is_empty();
        for _ in 0..MAX_FRAMES {
            if !unsent.is_empty() {
                return Ok(found);
            }
            if let Some(page) = self.transmit.reap()? {
                self.progress = true;
                send_or_keep(replies, unsent, Reply::Transmitted { page });
            } else if let Some(Frame { parts, checked }) = self.receive.next_frame()? {
                let mut left = parts.len();
                for Part { page, offset, length } in parts.iter().copied() {
                    left -= 1;
                    let (more, checked) = (left > 0, *checked);
                    send_or_keep(replies, unsent, Reply::Received { page, offset, length, more, checked });
                }
            } else if !(self.transmit.arm(eager)? | self.receive.arm()?) {
                return Ok(found);
            } else {
                continue;
            }
            found = true;
        }
        self.work_left = true;
        Ok(found)
    }

    /// Records whether an event came, and whether there was work.
    fn record_pace(&mut self, notifications: Notifications, found: bool, now: Option<Instant>) {
        let event = self.tx_events.is_notified(notifications) || self.rx_events.is_notified(notifications);
        let begins = self.pace.record_pass(event, found, now, || self.clock.now());
        if begins && !core::mem::replace(&mut self.pace_logged, true) {
            self.console.line(format_args!(
                "the back end sends events for nothing: its rings are looked at by the clock (told once a connection)"
            ));
        }
    }

    /// Checks at intervals of [`STALL_TIME`] that the back end gives frames back. Reads the clock
    /// only to begin an interval.
    fn watch_for_stall(&mut self, now: Option<Instant>) {
        let waits = self.transmit.pages_in_flight() > 0;
        if let (Some(look), Some(now)) = (self.next_stall_check, now)
            && now >= look
        {
            self.next_stall_check = None;
            if waits && !self.progress && self.unsent.is_empty() {
                self.handshake.stalled(now);
                return self.drive(now);
            }
        }
        if waits && self.next_stall_check.is_none() {
            self.next_stall_check = Some(now.unwrap_or_else(|| self.clock.now()) + STALL_TIME);
            self.progress = false;
        }
    }

    fn handle_violation(&mut self, violation: Violation) {
        let now = self.clock.now();
        self.handshake.violated(violation.text(), now);
        self.drive(now);
    }

    /// Returns `true` if this pass only moves frames. Then the time does not matter, and the clock
    /// is not read.
    fn only_moves_frames(&self, notifications: Notifications) -> bool {
        let steady = self.up_reported && self.close == CloseState::Open;
        // No notification: a deadline has passed.
        let due = notifications == Notifications::default();
        steady && !due && !self.store.is_notified(notifications) && !self.grants.is_notified(notifications)
    }

    /// Publishes the requests on both rings, and notifies the back end.
    fn publish(&mut self) {
        let (tx, rx) = (self.transmit.publish(), self.receive.publish());
        let split = self.handshake.is_split();
        if tx || (rx && !split) {
            self.tx_events.send();
        }
        if rx && split {
            self.rx_events.send();
        }
    }
}

/// Sends a reply, or appends it to the unsent ones if there are any or if the queue is full.
pub fn send_or_keep<S: System, M: Memory>(
    replies: &mut Sender<Reply, S, M>,
    unsent: &mut ArrayVec<Reply, MAX_SLOTS>,
    reply: Reply,
) {
    if !unsent.is_empty() || replies.push(&reply).is_err() {
        // There is room: nothing is taken from the rings while a reply is unsent, so the unsent
        // ones are the parts of one frame.
        let _ = unsent.try_push(reply);
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
            if self.handshake.is_up() && !self.up {
                self.connected();
            }
        }
        self.handle_requests();
        self.report_link();
        if self.up_reported {
            match self.move_frames() {
                Ok(found) => {
                    self.publish();
                    self.record_pace(notifications, found, now);
                    self.log_anomalies();
                    self.watch_for_stall(now);
                }
                Err(violation) => self.handle_violation(violation),
            }
        }
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
        let of_rings = Instant::earlier(self.next_stall_check, self.pace.deadline());
        Instant::earlier(Instant::earlier(self.handshake.deadline(), drain), of_rings)
    }

    fn events_to_hold(&self) -> Notifications {
        if !self.pace.holds_events() {
            return Notifications::default();
        }
        self.tx_events.notification() | self.rx_events.notification()
    }
}
