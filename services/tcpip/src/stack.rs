//! The service: one pass over the link, the stack and the applications for every notification or deadline.

mod applications;
mod interfaces;
mod notices;

use alloc::boxed::Box;
use alloc::vec::Vec;
use core::time::Duration;

use arrayvec::ArrayVec;
use cloister_interfaces::capability::{Clock, Console, Entropy};
use cloister_interfaces::socket::{Connection, Layout, Socket};
use cloister_interfaces::{Instant, Memory, Notifications, Server, Service, System};
use smoltcp::iface::{Interface, PollResult, SocketSet};
use smoltcp::wire::{EthernetAddress, HardwareAddress};

use crate::address::{Address, Change};
use crate::capabilities::Caps;
use crate::config;
use crate::echo::Echo;
use crate::link::arp;
use crate::link::device::{BLOCKED, Event, Wire};
use crate::link::frame::FrameKind;
use crate::quiesce::Quiesce;
use crate::refusals::{Refusal, RefusalLog};
use crate::segment::Segment;
use crate::tcp::app_stream::Streams;
use crate::tcp::connection::Stage;
use crate::tcp::connections::Flows;
use crate::tcp::isn::Numbers;
use crate::tcp::limits::CLIENTS;
use crate::tcp::opening::Opening;
use crate::tcp::receive::Received;
use crate::tcp::transmit::Attended;
use crate::time::{own_time, stack_time};
use notices::News;

/// Messages taken from one queue in a pass.
const MESSAGES: u32 = 256;
/// Frames parsed in a pass.
const FRAMES: u32 = 128;
/// Connections attended to in a pass.
const ATTENTION: usize = 256;
/// Frames of what is no connection's that are sent at once: the fragments of a packet, and a few more.
const OTHERS: u32 = 16;
/// How long an acknowledgement waits for the application to look at what came: mostly it answers at once.
const ANSWER: Duration = Duration::from_millis(10);
/// The service's state.
pub struct Stack<S, M: Memory> {
    console: Console<S>,
    clock: Clock<S>,
    entropy: Entropy<S>,
    refusals: RefusalLog,
    wire: Wire<S, M>,
    interface: Option<Box<Interface>>,
    flows: Flows,
    numbers: Numbers,
    /// The sockets that are no connection's.
    others: SocketSet<'static>,
    /// When they want to be polled, if not before.
    others_at: Option<Instant>,
    address: Address,
    echo: Option<Echo>,
    clients: ArrayVec<Server<Socket, S, M>, CLIENTS>,
    news: [News; CLIENTS],
    quiesce: Quiesce<S, M>,
    stream_in: M,
    stream_out: M,
    site: &'static [u8],
    deadline: Option<Instant>,
}

/// Bytes that connections may take of the heap. The policy gives tcpip five bytes of heap for two of the stream-out
/// region, and no less than 256 KiB; 128 KiB of it are for what does not grow with the connections: the frame that is
/// parsed, reassembly, the interface. `tests/heap.rs` measures that they are enough.
fn socket_budget(stream_out: usize) -> usize {
    (stream_out / 2 * 5).max(256 * 1024) - 128 * 1024
}

impl<S: System, M: Memory> Stack<S, M> {
    /// The service over its capabilities.
    pub fn new(caps: Caps<S, M>) -> Self {
        let layout = Layout::of(caps.stream_in.len(), caps.stream_out.len());
        // Without randomness a peer can make one chain of all connections, and guess numbers; the kernel has logged it.
        let random = caps.entropy.draw().map_or(0, |[random, _]| random);
        let flows = Flows::new(layout, socket_budget(caps.stream_out.len()), M::buffer, random);
        let secret = caps.entropy.draw().unwrap_or_else(|_| {
            caps.console.line(format_args!("no entropy: sequence numbers can be guessed"));
            [caps.clock.now().0, 0]
        });
        let config = config::parse(caps.command_line, |refused| caps.console.line(format_args!("{refused}")));
        let mut others = SocketSet::new(Vec::new());
        let address = Address::new(config.addressing, &mut others);
        let echo = config.udp_echo.and_then(|port| Echo::new(port, &mut others));
        Stack {
            refusals: RefusalLog::default(),
            console: caps.console,
            clock: caps.clock,
            entropy: caps.entropy,
            wire: Wire::new(caps.net, caps.rx_pool, caps.tx_pool, config.offload, random),
            interface: None,
            flows,
            numbers: Numbers::new(secret),
            others,
            others_at: Some(Instant::START),
            address,
            echo,
            clients: caps.socket_clients,
            news: [News { down: true, ..News::default() }; CLIENTS],
            quiesce: Quiesce::new(caps.control_clients),
            stream_in: caps.stream_in,
            stream_out: caps.stream_out,
            site: caps.site,
            deadline: Some(Instant::START),
        }
    }

    /// Takes what the link says. Answers whether more may be waiting.
    fn drain_link(&mut self, now: Instant) -> bool {
        let mut budget = MESSAGES;
        while let Some(event) = self.wire.next_event(&mut budget) {
            match event {
                Event::Up { mac, mtu } => {
                    self.link_up(mac, mtu, now);
                    self.flows.mark_all();
                }
                Event::Down => self.console.line(format_args!("link down")),
                Event::Refused(kind) => self.refusals.record(&self.console, kind),
            }
        }
        budget == 0
    }

    /// The link has come up, for the first time or again. Connections outlive it; what was learnt of neighbours
    /// does not.
    fn link_up(&mut self, mac: [u8; 6], mtu: u16, now: Instant) {
        self.console.line(format_args!("link up: {}, MTU {mtu}", EthernetAddress(mac)));
        let change = self.address.raised(&mut self.others);
        self.others_at = Some(now);
        self.remake(mac, now);
        match change {
            Some(change) => self.address_changed(change, now),
            None => self.use_address(),
        }
    }

    #[cold]
    fn address_changed(&mut self, change: Change, now: Instant) {
        match change {
            Change::Refused => return self.refusals.record(&self.console, Refusal::Lease),
            Change::Lost => self.console.line(format_args!("address lost")),
            Change::Gained(lease) => match lease.gateway {
                Some(gateway) => self.console.line(format_args!("address {}, gateway {gateway}", lease.address)),
                None => self.console.line(format_args!("address {}, no gateway", lease.address)),
            },
        }
        self.flows.time_wait.clear();
        let up = matches!(change, Change::Gained(_));
        for client in 0..self.clients.len() {
            // With another address, connections cannot go on.
            if self.flows.has_connections(client as u8) || !up {
                self.void(client, now);
            }
            if let Some(news) = self.news.get_mut(client) {
                news.up = up;
            }
        }
        self.use_address();
    }

    /// Gives the address to the interface and to the neighbours' table, and tells the neighbours.
    #[cold]
    fn use_address(&mut self) {
        self.apply_address();
        self.wire.join(self.address.current);
        self.announce();
    }

    /// Tells the neighbours which station has our address.
    #[cold]
    fn announce(&mut self) {
        let (Some(interface), Some(lease)) = (&self.interface, self.address.current) else { return };
        let HardwareAddress::Ethernet(mac) = interface.hardware_addr();
        self.wire.send(&arp::announcement(mac.0, lease.address.address().octets()));
    }

    /// Parses received frames. Answers whether some are left that could be.
    fn ingress(&mut self, now: Instant) -> bool {
        let mac = self.interface.as_ref().map_or([0; 6], |interface| {
            let HardwareAddress::Ethernet(mac) = interface.hardware_addr();
            mac.0
        });
        let own = self.address.current.map(|lease| lease.address);
        for _ in 0..FRAMES {
            // Without room for the answer a frame waits: an echo request is not lost to a busy link.
            if !self.wire.can_send() {
                return false;
            }
            match self.wire.next_frame(mac, own) {
                None => return false,
                Some(FrameKind::Segment(segment)) => self.segment(&segment, now),
                Some(FrameKind::Arp) => self.wire.hear(own.map(|own| own.address().octets())),
                Some(_) => {
                    self.parse(now);
                    self.poll_others(now);
                }
            }
        }
        self.wire.has_frames()
    }

    /// Has the stack parse a frame that is no connection's.
    fn parse(&mut self, now: Instant) {
        self.wire.begin(None);
        if let Some(interface) = &mut self.interface {
            interface.poll_ingress_single(stack_time(now), &mut self.wire, &mut self.others);
        }
    }

    /// Gives a segment to its connection.
    fn segment(&mut self, segment: &Segment, now: Instant) {
        let Some((index, opening)) = self.connection_of(segment, now) else { return };
        let ring = self.flows.layout().ring_in(Connection(index));
        let (Some(interface), Some(flow)) = (&mut self.interface, self.flows.get(index)) else { return };
        let stack = (&mut **interface, &mut self.wire);
        if flow.receive(segment, opening, stack, (&self.stream_in, ring), now) == Received::Taken {
            self.flows.mark(index);
        }
    }

    /// Returns the connection that a segment is for, and how it begins if it is new. If there is none, the segment is answered
    /// or dropped here.
    #[inline]
    fn connection_of(&mut self, segment: &Segment, now: Instant) -> Option<(u16, Option<Opening>)> {
        let found = self.flows.find(segment.key);
        let ended = found.and_then(|index| Some((index, self.flows.get(index)?.end()?)));
        if let Some(index) = found.filter(|_| ended.is_none()) {
            return Some((index, None));
        }
        let Some(last) = self.waits(ended, segment, now) else {
            self.wire.pass_over();
            return None;
        };
        // The stack refuses what is for nobody.
        if !segment.start || self.flows.owner(segment.port).is_none() {
            self.parse(now);
            return None;
        }
        // Without room it is dropped, so that the peer tries again.
        let Some(index) = self.flows.open(segment, self.wire.announced(), now) else {
            self.wire.pass_over();
            return None;
        };
        Some((index, Some(self.opening(segment.key, last, now))))
    }

    /// Lets the sockets that are no connection's send, and fragments leave.
    fn poll_others(&mut self, now: Instant) {
        let Some(interface) = &mut self.interface else { return };
        let time = stack_time(now);
        for _ in 0..OTHERS {
            let at = interface.poll_at(time, &self.others);
            self.others_at = at.map(own_time);
            if at.is_none_or(|at| at > time) || !self.wire.can_send() {
                return;
            }
            self.wire.begin(None);
            let polled = interface.poll_egress(time, &mut self.wire, &mut self.others);
            if self.wire.has_leased() {
                // The number of the next transaction is not to follow from this one's, which all
                // hosts on the link see.
                self.others_at = interface.poll_at(time, &self.others).map(own_time);
                self.remake(self.wire.mac(), now);
                return self.apply_address();
            }
            if polled == PollResult::None {
                // It cannot now, whatever it waits for.
                self.others_at = interface.poll_at(time, &self.others).map(|at| own_time(at).max(now + BLOCKED));
                return;
            }
        }
    }

    /// Attends to the connections of which there is something new. Answers whether some are left that could go on.
    fn attend_all(&mut self, now: Instant) -> bool {
        self.flows.expire(now);
        let mut blocked = 0;
        for _ in 0..self.flows.waiting().min(ATTENTION) {
            let Some(index) = self.flows.next_ready() else { break };
            match self.attend(index, now) {
                Attended::Done => {}
                Attended::Again => self.flows.mark(index),
                Attended::Blocked => {
                    blocked += 1;
                    self.flows.mark(index);
                }
            }
        }
        self.flows.waiting() > blocked
    }

    fn attend(&mut self, index: u16, now: Instant) -> Attended {
        self.flows.settle(index, now);
        let mut sent = Attended::Done;
        if !self.pump(index, now) {
            sent = self.egress(index, now);
            self.flows.settle(index, now);
        }
        let told = self.tell_about(index, now);
        if sent == Attended::Done && !told { Attended::Blocked } else { sent }
    }

    /// Moves bytes between a connection's socket and its rings. Answers whether all that it could send is an acknowledgement that
    /// may go with its application's answer: one frame instead of two.
    fn pump(&mut self, index: u16, now: Instant) -> bool {
        let (layout, connection) = (*self.flows.layout(), Connection(index));
        let Some(flow) = self.flows.get(index).filter(|flow| flow.stage == Stage::Open) else { return false };
        let Some((slot, socket)) = flow.parts() else { return false };
        let streams = Streams {
            stream_in: (&self.stream_in, layout.ring_in(connection)),
            stream_out: (&self.stream_out, layout.ring_out(connection)),
            constant: self.site,
        };
        slot.pump(socket, &streams);
        let queued = socket.send_queue();
        if slot.is_drained() && (slot.closing || self.quiesce.is_asked() && queued == 0 && socket.recv_queue() == 0) {
            socket.close();
            slot.part();
            self.flows.linger(index, now);
            return false;
        }
        let (awaits, closing) = (slot.awaits_answer() && queued == 0, slot.closing);
        let end = if closing { self.flows.give_up(index, now) } else { None };
        if end.is_some_and(|end| end <= now) {
            if let Some(slot) = self.flows.get(index).and_then(|flow| flow.slot.as_mut()) {
                slot.part();
            }
            self.flows.abort(index, now);
            return false;
        }
        if let Some(at) = awaits.then_some(now + ANSWER).into_iter().chain(end).min() {
            self.flows.wake(index, at);
        }
        awaits
    }

    /// Gives a connection its turn to send.
    fn egress(&mut self, index: u16, now: Instant) -> Attended {
        let (Some(interface), Some(flow)) = (&mut self.interface, self.flows.get(index)) else { return Attended::Done };
        let turn = flow.transmit(interface, &mut self.wire, now);
        if let Some(at) = turn.wake {
            self.flows.wake(index, at);
        }
        if turn.rests {
            self.flows.retire(index, now);
        }
        turn.outcome
    }

    fn flush(&mut self) {
        self.wire.flush();
        for (server, news) in self.clients.iter_mut().zip(&mut self.news) {
            server.requests.release();
            if core::mem::take(&mut news.wake) {
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
        let blocked = self.wire.is_blocked().then_some(now + BLOCKED);
        // Who cannot send has nothing to do until a notification says that it can.
        let others = self.others_at.filter(|_| self.wire.can_send());
        [self.flows.deadline(), self.quiesce.deadline(), blocked, others].into_iter().flatten().min()
    }

    fn poll_address(&mut self, now: Instant) {
        while let Some(change) = self.address.poll(&mut self.others) {
            self.address_changed(change, now);
        }
    }
}

impl<S: System, M: Memory> Service for Stack<S, M> {
    fn notified(&mut self, _notifications: Notifications) {
        // Looking at an empty queue costs one read, so every pass looks at all: no notification can be missed.
        let now = self.clock.now();
        self.wire.turn(now);
        let mut more = self.drain_link(now);
        more |= self.drain_clients(now);
        let asked = self.quiesce.is_asked();
        if !self.quiesce.drain() {
            self.refusals.record(&self.console, Refusal::Control);
        }
        if asked != self.quiesce.is_asked() {
            // What is idle ends.
            self.flows.mark_all();
        }
        more |= self.ingress(now);
        self.poll_address(now);
        if let Some(echo) = &self.echo
            && echo.pump(&mut self.others)
        {
            self.others_at = Some(now);
        }
        if self.others_at.is_some_and(|at| at <= now) {
            self.poll_others(now);
            self.poll_address(now);
        }
        more |= self.attend_all(now);
        self.quiesce.advance(now, &mut self.flows, &mut self.wire);
        self.tell();
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
