//! The service's main loop: each pass serves the link, smoltcp's sockets and the applications once.

mod applications;
mod claim;
mod interfaces;
mod notices;

use alloc::boxed::Box;
use alloc::vec::Vec;
use core::fmt;
use core::time::Duration;

use arrayvec::ArrayVec;
use cloister_interfaces::capability::{Clock, Console, Entropy};
use cloister_interfaces::rules::ClientIndex;
use cloister_interfaces::socket::{ConnectionId, Layout, Socket};
use cloister_interfaces::{Instant, Memory, Notifications, Server, Service, System};
use smoltcp::iface::{Interface, PollResult, SocketSet};
use smoltcp::wire::{EthernetAddress, HardwareAddress};

use crate::address::{Address, Change};
use crate::capabilities::Caps;
use crate::clients::CLIENTS;
use crate::config;
use crate::echo::Echo;
use crate::link::arp;
use crate::link::device::{Event, LinkDevice, QUEUE_RETRY};
use crate::link::frame::FrameKind;
use crate::link::neighbours::{MAX_NEIGHBOURS, MIN_NEIGHBOURS, Neighbours};
use crate::log::{Logs, State, Violation};
use crate::quiesce::Quiesce;
use crate::segment::Segment;
use crate::tcp::app_stream::Streams;
use crate::tcp::connection::Stage;
use crate::tcp::connections::Connections;
use crate::tcp::isn::IsnGenerator;
use crate::tcp::opening::Opening;
use crate::tcp::receive::Received;
use crate::tcp::transmit::Progress;
use crate::time::{from_smoltcp, to_smoltcp};
use claim::Claim;
use notices::PendingNotices;

/// The largest number of messages taken from one queue in a pass.
const MAX_MESSAGES: u32 = 256;
/// The largest number of frames parsed in a pass.
const MAX_FRAMES: u32 = 128;
/// The largest number of connections served in a pass.
const MAX_SERVED_PER_PASS: usize = 256;
/// The largest number of frames sent at once for sockets that are no connection's: the fragments of
/// a packet, and a few more.
const MAX_OTHER_FRAMES: u32 = 16;
/// The time for which an acknowledgement is delayed for the application's answer, which usually
/// comes at once and carries it.
const ACK_DELAY: Duration = Duration::from_millis(10);

/// The state of the service.
pub struct Stack<S, M: Memory> {
    console: Console<S>,
    clock: Clock<S>,
    entropy: Entropy<S>,
    logs: Logs,
    device: LinkDevice<S, M>,
    interface: Option<Box<Interface>>,
    connections: Connections,
    numbers: IsnGenerator,
    /// The sockets that are no connection's: DHCP and the echo port.
    other_sockets: SocketSet<'static>,
    /// The time at which smoltcp wants them to be polled, if nothing happens before.
    other_sockets_at: Option<Instant>,
    address: Address,
    claim: Claim,
    echo: Option<Echo>,
    clients: ArrayVec<Server<Socket, S, M>, CLIENTS>,
    notices: [PendingNotices; CLIENTS],
    quiesce: Quiesce<S, M>,
    stream_in: M,
    stream_out: M,
    site: &'static [u8],
    deadline: Option<Instant>,
}

/// Returns how many bytes of the heap all sockets may take.
///
/// The policy gives tcpip five bytes of heap for two bytes of the stream-out region, and at least
/// 256 KiB. 166 KiB of that, or 128 KiB of a heap below 512 KiB, are for what does not grow with the connections: the frame buffer,
/// reassembly, the interface, the neighbours. `tests/heap.rs` measures that they are enough.
fn socket_budget(stream_out: usize) -> usize {
    heap(stream_out) - if is_small(stream_out) { 128 * 1024 } else { 166 * 1024 }
}

/// Returns the number of neighbours that are kept.
fn neighbour_count(stream_out: usize) -> usize {
    if is_small(stream_out) { MIN_NEIGHBOURS } else { MAX_NEIGHBOURS }
}

fn heap(stream_out: usize) -> usize {
    (stream_out / 2 * 5).max(256 * 1024)
}

/// Returns `true` if the heap has no room for all neighbours beside as many connections.
fn is_small(stream_out: usize) -> bool {
    heap(stream_out) < 512 * 1024
}

impl<S: System, M: Memory> Stack<S, M> {
    /// Creates the service from its capabilities.
    pub fn new(caps: Caps<S, M>) -> Self {
        let layout = Layout::of(caps.stream_in.len(), caps.stream_out.len());
        // Without randomness a peer can fill one chain of the hash table, and guess sequence
        // numbers. The kernel has logged the refusal.
        let random = caps.entropy.draw().map_or(0, |[random, _]| random);
        let connections = Connections::new(layout, socket_budget(caps.stream_out.len()), M::buffer, random);
        let secret = caps.entropy.draw().unwrap_or_else(|_| {
            caps.console.line(format_args!("no entropy: sequence numbers can be guessed"));
            [caps.clock.now().0, 0]
        });
        let neighbours = Neighbours::new(neighbour_count(caps.stream_out.len()), random);
        let config = config::parse(caps.command_line, |option| caps.console.line(format_args!("{option}")));
        let mut other_sockets = SocketSet::new(Vec::new());
        let address = Address::new(config.addressing, &mut other_sockets);
        let echo = config.udp_echo.and_then(|port| Echo::new(port, &mut other_sockets));
        Stack {
            logs: Logs::new(),
            console: caps.console,
            clock: caps.clock,
            entropy: caps.entropy,
            device: LinkDevice::new(caps.net, caps.rx_pool, caps.tx_pool, config.offload, neighbours),
            interface: None,
            connections,
            numbers: IsnGenerator::new(secret),
            other_sockets,
            other_sockets_at: Some(Instant::START),
            address,
            claim: Claim::default(),
            echo,
            clients: caps.socket_clients,
            notices: [PendingNotices { down: true, ..PendingNotices::default() }; CLIENTS],
            quiesce: Quiesce::new(caps.control_clients),
            stream_in: caps.stream_in,
            stream_out: caps.stream_out,
            site: caps.site,
            deadline: Some(Instant::START),
        }
    }

    /// Handles the messages of netfront. Returns `true` if more may be waiting.
    fn drain_link(&mut self, now: Instant) -> bool {
        let mut budget = MAX_MESSAGES;
        while let Some(event) = self.device.next_event(&mut budget) {
            match event {
                Event::Up { mac, mtu } => {
                    self.link_up(mac, mtu, now);
                    self.connections.mark_all_ready();
                }
                Event::Down => self.logs.state(&self.console, now, State::LinkDown, format_args!("link down")),
                Event::Violation(kind) => self.logs.violation(&self.console, now, ClientIndex::default(), kind),
            }
        }
        budget == 0
    }

    /// Handles a link that has come up, for the first time or again. Connections outlive the link,
    /// but what was learnt about the hosts on it does not.
    fn link_up(&mut self, mac: [u8; 6], mtu: u16, now: Instant) {
        let line = format_args!("link up: {}, MTU {mtu}", EthernetAddress(mac));
        self.logs.state(&self.console, now, State::LinkUp, line);
        let change = self.address.link_up(&mut self.other_sockets);
        self.other_sockets_at = Some(now);
        self.recreate_interface(mac, now);
        match change {
            Some(change) => self.address_changed(change, now),
            None => self.use_address(now),
        }
    }

    #[cold]
    fn address_changed(&mut self, change: Change, now: Instant) {
        let mut log = |state, line: fmt::Arguments<'_>| self.logs.state(&self.console, now, state, line);
        match change {
            Change::Impossible => {
                return self.logs.violation(&self.console, now, ClientIndex::default(), Violation::Lease);
            }
            Change::Lost => log(State::AddressLost, format_args!("address lost")),
            Change::Gained(lease) => match lease.gateway {
                Some(gateway) => log(State::Address, format_args!("address {}, gateway {gateway}", lease.address)),
                None => log(State::Address, format_args!("address {}, no gateway", lease.address)),
            },
        }
        self.connections.time_wait.clear();
        let up = matches!(change, Change::Gained(_));
        for client in ClientIndex::first(self.clients.len()) {
            // Connections cannot go on with another address.
            if self.connections.has_connections(client) || !up {
                self.void_client(client, now);
            }
            if let Some(notices) = self.notices.get_mut(client.index()) {
                notices.up = up;
            }
        }
        self.use_address(now);
    }

    /// Gives the current address to the interface and to the table of neighbours, and announces it.
    #[cold]
    fn use_address(&mut self, now: Instant) {
        self.apply_address();
        self.device.set_lease(self.address.current);
        self.announce();
        self.claim.begin(now);
    }

    /// Announces our address and MAC address to the hosts on the link.
    #[cold]
    fn announce(&mut self) {
        let (Some(interface), Some(lease)) = (&self.interface, self.address.current) else { return };
        let HardwareAddress::Ethernet(mac) = interface.hardware_addr();
        self.device.send(&arp::announcement(mac.0, lease.address.address().octets()));
    }

    /// Answers a host with the link address `mac`, which claims our address: says so, and announces
    /// that the address is ours. The address stays in use, as for a server it should.
    #[cold]
    fn dispute(&mut self, mac: [u8; 6], now: Instant) {
        if let Some(lease) = self.address.current.filter(|_| self.claim.may_defend(now)) {
            let line = format_args!(
                "address {} is claimed by {}, too: give one of the two another",
                lease.address.address(),
                EthernetAddress(mac)
            );
            self.logs.state(&self.console, now, State::AddressClaimed, line);
            self.announce();
        }
    }

    /// Parses received frames. Returns `true` if more could be parsed at once.
    fn receive_frames(&mut self, now: Instant) -> bool {
        let mac = self.device.mac();
        let own = self.address.current.map(|lease| lease.address);
        for _ in 0..MAX_FRAMES {
            // A frame waits while there is no room for its answer, so that a busy link loses no
            // echo requests.
            if !self.device.can_send() {
                return false;
            }
            match self.device.next_frame(mac, own) {
                None => return false,
                Some(FrameKind::Segment(segment)) => self.handle_segment(&segment, now),
                Some(FrameKind::Arp) => {
                    if let Some(claimant) = self.device.handle_arp(own.map(|own| own.address().octets())) {
                        self.dispute(claimant, now);
                    }
                }
                Some(_) => {
                    self.parse(now);
                    self.poll_other_sockets(now);
                }
            }
        }
        self.device.has_frames()
    }

    /// Lets smoltcp parse a frame that is for no connection.
    fn parse(&mut self, now: Instant) {
        self.device.begin_turn(None);
        if let Some(interface) = &mut self.interface {
            interface.poll_ingress_single(to_smoltcp(now), &mut self.device, &mut self.other_sockets);
        }
    }

    /// Passes a segment to its connection.
    fn handle_segment(&mut self, segment: &Segment, now: Instant) {
        let Some((id, opening)) = self.connection_of(segment, now) else { return };
        let ring = self.connections.layout().ring_in(id);
        let (Some(interface), Some(connection)) = (&mut self.interface, self.connections.get(id)) else { return };
        let stack = (&mut **interface, &mut self.device);
        if connection.receive(segment, opening, stack, (&self.stream_in, ring), now) == Received::Taken {
            if opening.is_none() && matches!(connection.stage, Stage::HalfOpen { .. }) {
                // It may be complete now, and then gives way to no SYN that follows in this pass.
                self.connections.update_stage(id, now);
            }
            self.connections.mark_ready(id);
        }
    }

    /// Returns the connection that a segment is for, and how it opens if it is new.
    ///
    /// If there is none, the segment is answered or dropped here.
    #[inline]
    fn connection_of(&mut self, segment: &Segment, now: Instant) -> Option<(ConnectionId, Option<Opening>)> {
        let found = self.connections.find(segment.key);
        let ended = found.and_then(|id| Some((id, self.connections.get(id)?.ends()?)));
        if let Some(id) = found.filter(|_| ended.is_none()) {
            return Some((id, None));
        }
        let Some(last) = self.answer_time_wait(ended, segment, now) else {
            self.device.discard_frame();
            return None;
        };
        // smoltcp resets what is for no connection and no open port.
        if !segment.flags.opens() || self.connections.port_owner(segment.port).is_none() {
            self.parse(now);
            return None;
        }
        // A SYN without room for its connection is dropped, so that the peer tries again.
        let Some(id) = self.connections.open(segment, self.device.peer_mss(), now) else {
            self.device.discard_frame();
            return None;
        };
        Some((id, Some(self.opening(segment.key, last, now))))
    }

    /// Lets the sockets that are no connection's send, and smoltcp send fragments.
    fn poll_other_sockets(&mut self, now: Instant) {
        let Some(interface) = &mut self.interface else { return };
        let time = to_smoltcp(now);
        for _ in 0..MAX_OTHER_FRAMES {
            let at = interface.poll_at(time, &self.other_sockets);
            self.other_sockets_at = at.map(from_smoltcp);
            if at.is_none_or(|at| at > time) || !self.device.can_send() {
                return;
            }
            self.device.begin_turn(None);
            let polled = interface.poll_egress(time, &mut self.device, &mut self.other_sockets);
            if self.device.take_dhcp_sent() {
                // All hosts on the link see the number of this transaction. The next number must
                // not follow from it.
                self.other_sockets_at = interface.poll_at(time, &self.other_sockets).map(from_smoltcp);
                self.recreate_interface(self.device.mac(), now);
                return self.apply_address();
            }
            if polled == PollResult::None {
                // smoltcp cannot send now, for whatever reason.
                self.other_sockets_at =
                    interface.poll_at(time, &self.other_sockets).map(|at| from_smoltcp(at).max(now + QUEUE_RETRY));
                return;
            }
        }
    }

    /// Serves the connections that are ready. Returns `true` if any of them could go on at once.
    fn serve_connections(&mut self, now: Instant) -> bool {
        self.connections.mark_expired(now);
        let mut blocked = 0;
        for _ in 0..self.connections.ready_count().min(MAX_SERVED_PER_PASS) {
            let Some(id) = self.connections.next_ready() else { break };
            match self.serve(id, now) {
                Progress::Done => {}
                Progress::Again => self.connections.mark_ready(id),
                Progress::Blocked => {
                    blocked += 1;
                    self.connections.mark_ready(id);
                }
            }
        }
        self.connections.ready_count() > blocked
    }

    fn serve(&mut self, id: ConnectionId, now: Instant) -> Progress {
        self.connections.update_stage(id, now);
        let mut sent = Progress::Done;
        if !self.pump(id, now) {
            sent = self.transmit(id, now);
            self.connections.update_stage(id, now);
        }
        let notified = self.notify_of(id, now);
        if sent == Progress::Done && !notified { Progress::Blocked } else { sent }
    }

    /// Moves bytes between a connection's socket and its rings. Returns `true` if an
    /// acknowledgement is all that it could send, and may be delayed for the application's answer:
    /// one frame instead of two.
    fn pump(&mut self, id: ConnectionId, now: Instant) -> bool {
        let layout = *self.connections.layout();
        let Some(connection) = self.connections.get(id).filter(|connection| connection.stage == Stage::Open) else {
            return false;
        };
        let Some((stream, socket)) = connection.stream_and_socket() else { return false };
        let streams = Streams {
            stream_in: (&self.stream_in, layout.ring_in(id)),
            stream_out: (&self.stream_out, layout.ring_out(id)),
            constant: self.site,
        };
        stream.pump(socket, &streams);
        let queued = socket.send_queue();
        if stream.is_drained()
            && (stream.closing || self.quiesce.is_requested() && queued == 0 && socket.recv_queue() == 0)
        {
            socket.close();
            stream.detach();
            self.connections.start_lingering(id, now);
            return false;
        }
        let (ack_delayed, closing) = (stream.delays_ack() && queued == 0, stream.closing);
        let end = if closing { self.connections.keep_closing(id, now) } else { None };
        if end.is_some_and(|end| end <= now) {
            self.connections.reset(id, now);
            return false;
        }
        if let Some(at) = Instant::earlier(ack_delayed.then_some(now + ACK_DELAY), end) {
            self.connections.set_timer(id, at);
        }
        ack_delayed
    }

    /// Gives a connection its turn to send.
    fn transmit(&mut self, id: ConnectionId, now: Instant) -> Progress {
        let (Some(interface), Some(connection)) = (&mut self.interface, self.connections.get(id)) else {
            return Progress::Done;
        };
        let turn = connection.transmit(interface, &mut self.device, now);
        if let Some(at) = turn.wake {
            self.connections.set_timer(id, at);
        }
        if turn.can_enter_time_wait {
            self.connections.enter_time_wait(id, now);
        }
        turn.outcome
    }

    fn flush(&mut self) {
        self.device.flush();
        for (server, notices) in self.clients.iter_mut().zip(&mut self.notices) {
            server.requests.release();
            if core::mem::take(&mut notices.must_notify) {
                server.replies.flush();
            } else {
                server.replies.publish();
            }
        }
        self.quiesce.flush();
    }

    fn next_deadline(&self, now: Instant, more: bool) -> Option<Instant> {
        if more {
            return Some(now);
        }
        let blocked = self.device.is_blocked().then_some(now + QUEUE_RETRY);
        // While the link cannot send, these sockets have nothing to do until a notification.
        let other_sockets = self.other_sockets_at.filter(|_| self.device.can_send());
        let of_logs = Instant::earlier(self.quiesce.deadline(), self.logs.deadline());
        let of_peers = Instant::earlier(self.claim.deadline(), self.connections.deadline());
        let of_connections = Instant::earlier(of_peers, of_logs);
        Instant::earlier(of_connections, Instant::earlier(blocked, other_sockets))
    }

    fn poll_address(&mut self, now: Instant) {
        while let Some(change) = self.address.poll(&mut self.other_sockets) {
            self.address_changed(change, now);
        }
    }
}

impl<S: System, M: Memory> Service for Stack<S, M> {
    fn notified(&mut self, _notifications: Notifications) {
        // Every pass looks at all queues, whatever the notification: no notification can be missed,
        // and an empty queue costs one read.
        let now = self.clock.now();
        self.device.set_time(now);
        let mut more = self.drain_link(now);
        more |= self.drain_clients(now);
        let requested = self.quiesce.is_requested();
        if let Err(malformed) = self.quiesce.drain() {
            self.logs.violation(&self.console, now, ClientIndex::default(), Violation::Control(malformed));
        }
        if requested != self.quiesce.is_requested() {
            // Idle connections end now.
            self.connections.mark_all_ready();
        }
        more |= self.receive_frames(now);
        self.poll_address(now);
        if let Some(echo) = &self.echo
            && echo.pump(&mut self.other_sockets)
        {
            self.other_sockets_at = Some(now);
        }
        if self.other_sockets_at.is_some_and(|at| at <= now) {
            self.poll_other_sockets(now);
            self.poll_address(now);
        }
        if self.claim.take_due(now) {
            self.announce();
        }
        more |= self.serve_connections(now);
        self.quiesce.advance(now, &mut self.connections, &mut self.device);
        self.notify_network();
        if self.logs.deadline().is_some_and(|at| at <= now) {
            self.logs.catch_up(&self.console, now);
        }
        self.flush();
        self.deadline = self.next_deadline(now, more);
    }

    fn deadline(&self) -> Option<Instant> {
        self.deadline
    }
}

#[cfg(test)]
mod tests {
    use super::socket_budget;

    #[test]
    fn sockets_leave_room_in_the_smallest_heap_and_in_larger_ones() {
        for stream_out in (64 * 1024..1 << 26).step_by(if cfg!(miri) { 997 * 4096 } else { 4096 }) {
            let heap = (stream_out / 2 * 5).max(256 * 1024);
            assert!(socket_budget(stream_out) + 128 * 1024 <= heap, "{stream_out}");
            assert!(socket_budget(stream_out) >= 128 * 1024);
        }
    }
}
