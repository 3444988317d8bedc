//! The applications' side of the service: their requests, and what they are notified of.

use cloister_interfaces::rules::ClientIndex;
use cloister_interfaces::socket::{ConnectionId, Reply, Request};
use cloister_interfaces::{Instant, Memory, System};

use super::notices::PendingNotices;
use super::{MAX_MESSAGES, Stack};
use crate::log::{Refusal, Violation};

impl<S: System, M: Memory> Stack<S, M> {
    /// Voids everything that a client has. It listens again once it is notified of that.
    pub(super) fn void_client(&mut self, client: ClientIndex, now: Instant) {
        self.connections.forget_client(client, now);
        if let Some(notices) = self.notices.get_mut(client.index()) {
            *notices = PendingNotices { down: true, ..PendingNotices::default() };
        }
    }

    /// Notifies a connection's application of what is new. Returns `true` if the queue had room for
    /// all of it.
    pub(super) fn notify_of(&mut self, id: ConnectionId, now: Instant) -> bool {
        let Some(stream) = self.connections.get(id).and_then(|connection| connection.stream.as_mut()) else {
            return true;
        };
        let client = stream.client;
        let (Some(server), Some(notices)) =
            (self.clients.get_mut(client.index()), self.notices.get_mut(client.index()))
        else {
            return true;
        };
        notices.must_notify |= stream.notify(id, server, now);
        let all = !stream.has_pending();
        if stream.is_free() {
            self.connections.free_index(id);
        }
        all
    }

    /// Handles the requests of the applications. Returns `true` if more may be waiting.
    pub(super) fn drain_clients(&mut self, now: Instant) -> bool {
        let mut more = false;
        for client in ClientIndex::first(self.clients.len()) {
            let mut budget = MAX_MESSAGES;
            while budget > 0 {
                let Some(request) = self.clients.get_mut(client.index()).and_then(|server| server.requests.pop())
                else {
                    break;
                };
                match request {
                    Ok(request) => self.on_request(client, request, now),
                    Err(malformed) => {
                        self.logs.violation(&self.console, now, client, Violation::Message(malformed));
                    }
                }
                budget -= 1;
            }
            more |= budget == 0;
        }
        more
    }

    fn on_request(&mut self, client: ClientIndex, request: Request, now: Instant) {
        let id = match request {
            Request::Listen { port } => return self.listen(client, port, now),
            Request::Send { connection, .. }
            | Request::Consumed { connection, .. }
            | Request::Close { connection }
            | Request::Abort { connection } => connection,
        };
        let ring_out = self.connections.layout().ring_out(id).size;
        let stream = self.connections.get(id).and_then(|connection| connection.stream.as_mut());
        let Some(stream) = stream.filter(|stream| stream.client == client) else {
            // A request that was sent before its sender learnt that everything is void is no
            // violation.
            if !self.notices.get(client.index()).is_some_and(|notices| notices.down) && self.connections.listens(client)
            {
                self.logs.violation(&self.console, now, client, Violation::Connection);
            }
            return;
        };
        let outcome = stream.on_request(request, ring_out, self.site.len(), now);
        if (outcome.is_err() || matches!(request, Request::Abort { .. })) && !stream.is_detached() {
            stream.detach();
            self.connections.abort(id, now);
        }
        self.connections.mark_ready(id);
        if let Err(violation) = outcome {
            self.logs.violation(&self.console, now, client, violation);
        }
    }

    fn listen(&mut self, client: ClientIndex, port: u16, now: Instant) {
        if self.quiesce.is_requested() {
            return;
        }
        let surplus = self.connections.has_all_ports(client);
        if self.connections.port_owner(port) == Some(client) {
            // The application has restarted: everything that it had is void.
            self.void_client(client, now);
        } else if self.connections.listen(client, port) {
            if let Some(notices) = self.notices.get_mut(client.index()) {
                notices.up = self.address.current.is_some();
            }
            if surplus {
                self.logs.refusal(&self.console, now, client, Refusal::PortCount);
            }
        } else {
            self.logs.refusal(&self.console, now, client, Refusal::Port);
        }
    }

    /// Notifies the applications of the network's state and of a shortage of connections.
    pub(super) fn notify_network(&mut self) {
        let free = self.connections.free_count();
        let scarce = free < self.connections.low_mark();
        let constant = self.site.len() as u64;
        let clients = ClientIndex::first(self.clients.len());
        for ((client, server), notices) in clients.zip(&mut self.clients).zip(&mut self.notices) {
            if notices.down {
                notices.must_notify = true;
                notices.down = server.replies.push(&Reply::Network { address: [0; 4], constant }).is_err();
            }
            let address = self.address.current.map(|lease| lease.address.address().octets());
            let listens = self.connections.listens(client);
            if let (true, false, Some(address)) = (notices.up && listens, notices.down, address) {
                notices.must_notify = true;
                notices.up = server.replies.push(&Reply::Network { address, constant }).is_err();
            }
            let pressure = scarce.then_some(free as u16);
            if pressure.is_some() && pressure != notices.pressure && listens {
                notices.must_notify = true;
                if server.replies.push(&Reply::Pressure { free: free as u16 }).is_ok() {
                    notices.pressure = pressure;
                }
            } else {
                notices.pressure = pressure;
            }
        }
    }
}
