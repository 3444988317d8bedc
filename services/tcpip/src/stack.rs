//! The service: one pass over the link, the stack and the applications for every notification or deadline.

use alloc::boxed::Box;
use core::time::Duration;

use arrayvec::ArrayVec;
use cloister_interfaces::capability::{Clock, Console, Entropy};
use cloister_interfaces::socket::{Layout, Reply, Request, Socket};
use cloister_interfaces::{Instant, Memory, Notifications, Server, Service, System};
use smoltcp::iface::{Config, Interface, PollIngressSingleResult, PollResult};
use smoltcp::socket::tcp;
use smoltcp::time::Instant as StackInstant;
use smoltcp::wire::{EthernetAddress, HardwareAddress};

use crate::Caps;
use crate::address::{Address, Change};
use crate::config;
use crate::echo::Echo;
use crate::frame;
use crate::quiesce::Quiesce;
use crate::refusals::{Kind, Refusals};
use crate::slot::{Breach, Ring};
use crate::transport::Transport;
use crate::wire::{Event, Refused, Wire};

/// Messages taken from one queue in a pass.
const MESSAGES: u32 = 256;
/// Frames parsed in a pass.
const FRAMES: u32 = 64;
/// Rounds of sending in a pass; each sends at most one frame for each socket.
const ROUNDS: u32 = 64;
/// How long to wait for room in the queue to netfront.
const BLOCKED: Duration = Duration::from_millis(1);
/// The most applications.
const CLIENTS: usize = 4;

/// What an application has yet to be told about the network.
#[derive(Clone, Copy, Default)]
struct News {
    /// Everything that it has is void: it is to listen again.
    down: bool,
    /// The address.
    up: bool,
    /// The number of free connections that it was last told of.
    pressure: Option<u16>,
}

/// The service's state.
pub struct Stack<S, M: Memory> {
    console: Console<S>,
    clock: Clock<S>,
    entropy: Entropy<S>,
    refusals: Refusals,
    wire: Wire<S, M>,
    interface: Option<Box<Interface>>,
    transport: Transport,
    address: Address,
    echo: Option<Echo>,
    clients: ArrayVec<Server<Socket, S, M>, CLIENTS>,
    news: [News; CLIENTS],
    quiesce: Quiesce<S, M>,
    layout: Layout,
    stream_in: M,
    stream_out: M,
    deadline: Option<Instant>,
}

/// Bytes that sockets may take of the heap. The policy gives tcpip five bytes of heap for four of the stream-out
/// region, and no less than 256 KiB; 128 KiB of it are for what does not grow with the connections: the frame that is
/// parsed, reassembly, the interface.
fn socket_budget(stream_out: usize) -> usize {
    let heap = (stream_out / 4 * 5).max(256 * 1024);
    (heap - 128 * 1024).min(stream_out.max(128 * 1024))
}

fn stack_time(now: Instant) -> StackInstant {
    StackInstant::from_micros(i64::try_from(now.0 / 1000).unwrap_or(i64::MAX))
}

impl<S: System, M: Memory> Stack<S, M> {
    /// The service over its capabilities.
    pub fn new(caps: Caps<S, M>) -> Self {
        let layout = Layout::of(caps.stream_in.len(), caps.stream_out.len());
        let mut transport = Transport::new(layout, socket_budget(caps.stream_out.len()));
        let config = config::parse(caps.command_line, |refused| caps.console.line(format_args!("{refused}")));
        let address = Address::new(config.addressing, &mut transport.sockets);
        let echo = config.udp_echo.and_then(|port| Echo::new(port, &mut transport.sockets));
        Stack {
            refusals: Refusals::default(),
            console: caps.console,
            clock: caps.clock,
            entropy: caps.entropy,
            wire: Wire::new(caps.net, caps.rx_pool, caps.tx_pool),
            interface: None,
            transport,
            address,
            echo,
            clients: caps.socket_clients,
            news: [News { down: true, ..News::default() }; CLIENTS],
            quiesce: Quiesce::new(caps.control_clients),
            layout,
            stream_in: caps.stream_in,
            stream_out: caps.stream_out,
            deadline: Some(Instant::START),
        }
    }

    /// Takes what the link says. Answers whether more may be waiting.
    fn drain_link(&mut self, now: Instant) -> bool {
        let mut budget = MESSAGES;
        while let Some(event) = self.wire.next_event(&mut budget) {
            match event {
                Event::Up { mac, mtu } => self.link_up(mac, mtu, now),
                Event::Down => self.console.line(format_args!("link down")),
                Event::Refused(refused) => self.refusals.record(
                    &self.console,
                    match refused {
                        Refused::Message => Kind::LinkMessage,
                        Refused::Page => Kind::LinkPage,
                        Refused::Length => Kind::LinkLength,
                        Refused::Parameters => Kind::LinkParameters,
                    },
                ),
            }
        }
        budget == 0
    }

    /// The link has come up, for the first time or again. Connections outlive it; what was learnt of neighbours
    /// does not.
    fn link_up(&mut self, mac: [u8; 6], mtu: u16, now: Instant) {
        let address = EthernetAddress(mac);
        self.console.line(format_args!("link up: {address}, MTU {mtu}"));
        let mut settings = Config::new(HardwareAddress::Ethernet(address));
        // Without randomness sequence numbers can be guessed; the network still works, and the kernel has logged it.
        settings.random_seed = self.entropy.draw().map_or(now.0, |[seed, _]| seed);
        let mut interface = Box::new(Interface::new(settings, &mut self.wire, stack_time(now)));
        let change = self.address.raised(&mut self.transport.sockets);
        self.address.apply(&mut interface);
        self.interface = Some(interface);
        match change {
            Some(change) => self.address_changed(change, now),
            None => self.announce(),
        }
    }

    fn address_changed(&mut self, change: Change, now: Instant) {
        match change {
            Change::Refused => return self.refusals.record(&self.console, Kind::Lease),
            Change::Lost => self.console.line(format_args!("address lost")),
            Change::Gained(lease) => match lease.gateway {
                Some(gateway) => self.console.line(format_args!("address {}, gateway {gateway}", lease.address)),
                None => self.console.line(format_args!("address {}, no gateway", lease.address)),
            },
        }
        let up = matches!(change, Change::Gained(_));
        for client in 0..self.clients.len() {
            // With another address, connections cannot go on.
            if self.transport.has_connections(client as u8) || !up {
                self.void(client, now);
            }
            if let Some(news) = self.news.get_mut(client) {
                news.up = up;
            }
        }
        if let Some(interface) = &mut self.interface {
            self.address.apply(interface);
        }
        self.announce();
    }

    /// Tells the neighbours which station has our address.
    fn announce(&mut self) {
        let (Some(interface), Some(lease)) = (&self.interface, self.address.current) else { return };
        let HardwareAddress::Ethernet(mac) = interface.hardware_addr();
        self.wire.send(&frame::announcement(mac.0, lease.address.address().octets()));
    }

    /// Makes all that a client has void; it will listen again when it is told.
    fn void(&mut self, client: usize, now: Instant) {
        self.transport.forget(client as u8, now);
        if let Some(news) = self.news.get_mut(client) {
            *news = News { down: true, up: false, pressure: None };
        }
    }

    /// Parses received frames. Answers whether some are left.
    fn ingress(&mut self, now: Instant) -> bool {
        let Some(interface) = &mut self.interface else { return false };
        self.wire.listening = self.transport.is_listening();
        for _ in 0..FRAMES {
            let result = interface.poll_ingress_single(stack_time(now), &mut self.wire, &mut self.transport.sockets);
            if result == PollIngressSingleResult::None {
                return false;
            }
            if core::mem::take(&mut self.wire.attempt) {
                self.transport.accept(now);
                self.wire.listening = self.transport.is_listening();
            }
        }
        self.wire.has_frames() && self.wire.can_send()
    }

    /// Sends what the sockets have. Answers whether more is left.
    fn egress(&mut self, now: Instant) -> bool {
        let Some(interface) = &mut self.interface else { return false };
        for _ in 0..ROUNDS {
            let result = interface.poll_egress(stack_time(now), &mut self.wire, &mut self.transport.sockets);
            if result == PollResult::None || !self.wire.can_send() {
                return false;
            }
        }
        true
    }

    /// Takes what the applications ask. Answers whether more may be waiting.
    fn drain_clients(&mut self, now: Instant) -> bool {
        let mut more = false;
        for client in 0..self.clients.len() {
            let mut budget = MESSAGES;
            while budget > 0 {
                let Some(request) = self.clients.get_mut(client).and_then(|server| server.requests.pop()) else {
                    break;
                };
                match request {
                    Ok(request) => self.asked(client, request, now),
                    Err(_) => self.refusals.record(&self.console, Kind::Message),
                }
                budget -= 1;
            }
            more |= budget == 0;
        }
        more
    }

    fn asked(&mut self, client: usize, request: Request, now: Instant) {
        let connection = match request {
            Request::Listen { port } => return self.listen(client, port, now),
            Request::Send { connection, .. }
            | Request::Consumed { connection, .. }
            | Request::Close { connection }
            | Request::Abort { connection } => usize::from(connection.0),
        };
        let slot = self.transport.slots.get_mut(connection).and_then(Option::as_mut);
        let Some(slot) = slot.filter(|slot| usize::from(slot.client) == client) else {
            // What was on its way when everything became void is no breach.
            if !self.news.get(client).is_some_and(|news| news.down) && self.transport.listens(client as u8) {
                self.refusals.record(&self.console, Kind::Connection);
            }
            return;
        };
        let outcome = slot.asked(request, self.layout.ring_out);
        let end = outcome.is_err() || matches!(request, Request::Abort { .. });
        if let Some(handle) = if end { slot.part() } else { None } {
            self.transport.abort(handle, now);
        }
        match outcome {
            Ok(()) => {}
            Err(Breach::Send) => self.refusals.record(&self.console, Kind::Send),
            Err(Breach::Consumed) => self.refusals.record(&self.console, Kind::Consumed),
        }
    }

    fn listen(&mut self, client: usize, port: u16, now: Instant) {
        if self.quiesce.is_asked() {
            return;
        }
        if self.transport.owner(port) == Some(client as u8) {
            // The application was started anew: what it had is void.
            self.void(client, now);
        } else if self.transport.listen(client as u8, port) {
            if let Some(news) = self.news.get_mut(client) {
                news.up = self.address.current.is_some();
            }
        } else {
            self.refusals.record(&self.console, Kind::Listen);
        }
    }

    /// Moves bytes between sockets and rings, and tells the applications.
    fn pump(&mut self, now: Instant) {
        let Layout { ring_in, ring_out, .. } = self.layout;
        for index in 0..self.transport.slots.len() {
            let Some(slot) = self.transport.slots.get_mut(index).and_then(Option::as_mut) else { continue };
            let mut gone = None;
            if let Some(handle) = slot.handle {
                let socket = self.transport.sockets.get_mut::<tcp::Socket<'_>>(handle);
                let stream_in = Ring { memory: &self.stream_in, base: index * ring_in, size: ring_in };
                let stream_out = Ring { memory: &self.stream_out, base: index * ring_out, size: ring_out };
                slot.pump(socket, &stream_in, &stream_out);
                let idle = self.quiesce.is_asked() && socket.send_queue() == 0 && socket.recv_queue() == 0;
                if slot.is_drained() && (slot.closing || idle) {
                    socket.close();
                    gone = slot.part();
                } else if socket.state() == tcp::State::Closed {
                    gone = slot.part();
                }
            }
            if let Some(server) = self.clients.get_mut(usize::from(slot.client)) {
                slot.tell(index as u16, server);
            }
            if let Some(handle) = gone {
                self.transport.linger(handle, now);
            }
            self.transport.free_slot(index);
        }
    }

    /// Tells the applications about the network and about pressure.
    fn tell(&mut self) {
        let free = self.transport.free();
        let scarce = free < self.transport.scarce();
        for ((client, server), news) in self.clients.iter_mut().enumerate().zip(&mut self.news) {
            if news.down && server.replies.push(&Reply::Network { address: [0; 4] }).is_ok() {
                news.down = false;
            }
            let address = self.address.current.map(|lease| lease.address.address().octets());
            let listens = self.transport.listens(client as u8);
            if let (true, false, Some(address)) = (news.up && listens, news.down, address)
                && server.replies.push(&Reply::Network { address }).is_ok()
            {
                news.up = false;
            }
            let told = scarce.then_some(free as u16);
            if told.is_some() && told != news.pressure && listens {
                if server.replies.push(&Reply::Pressure { free: free as u16 }).is_ok() {
                    news.pressure = told;
                }
            } else {
                news.pressure = told;
            }
        }
    }

    fn flush(&mut self) {
        self.wire.flush();
        for server in &mut self.clients {
            server.requests.release();
            server.replies.flush();
        }
        self.quiesce.flush();
    }

    fn next_deadline(&mut self, now: Instant, more: bool) -> Option<Instant> {
        if more {
            return Some(now);
        }
        let blocked = self.wire.is_blocked().then_some(now + BLOCKED);
        let own = self.transport.deadline().into_iter().chain(self.quiesce.deadline()).chain(blocked).min();
        // A stack that cannot send has nothing to do until a notification says that it can.
        let stack = match &mut self.interface {
            Some(interface) if self.wire.can_send() => interface
                .poll_at(stack_time(now), &self.transport.sockets)
                .map(|at| Instant(u64::try_from(at.total_micros()).unwrap_or(0).saturating_mul(1000))),
            _ => None,
        };
        own.into_iter().chain(stack).min()
    }

    fn poll_address(&mut self, now: Instant) {
        while let Some(change) = self.address.poll(&mut self.transport.sockets) {
            self.address_changed(change, now);
        }
    }
}

impl<S: System, M: Memory> Service for Stack<S, M> {
    fn notified(&mut self, _notifications: Notifications) {
        // Looking at an empty queue costs one read, so every pass looks at all: no notification can be missed.
        let now = self.clock.now();
        let mut more = self.drain_link(now);
        more |= self.drain_clients(now);
        if !self.quiesce.drain() {
            self.refusals.record(&self.console, Kind::Control);
        }
        self.transport.accept(now);
        more |= self.ingress(now);
        self.poll_address(now);
        self.transport.accept(now);
        if let Some(echo) = &self.echo {
            echo.pump(&mut self.transport.sockets);
        }
        self.pump(now);
        more |= self.egress(now);
        // What was sent made room, and may have ended connections.
        self.pump(now);
        self.transport.tend(now);
        self.quiesce.advance(now, &mut self.transport, &mut self.wire);
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
        for stream_out in (64 * 1024..1 << 26).step_by(4096) {
            let heap = (stream_out / 4 * 5).max(256 * 1024);
            assert!(socket_budget(stream_out) + 128 * 1024 <= heap, "{stream_out}");
            assert!(socket_budget(stream_out) >= 128 * 1024);
        }
    }
}
