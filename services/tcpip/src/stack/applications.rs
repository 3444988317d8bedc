//! The applications' side: what they ask, and what they are told.

use cloister_interfaces::socket::{Reply, Request};
use cloister_interfaces::{Instant, Memory, System};

use super::notices::News;
use super::{MESSAGES, Stack};
use crate::refusals::Refusal;

impl<S: System, M: Memory> Stack<S, M> {
    /// Makes all that a client has void; it will listen again when it is told.
    pub(super) fn void(&mut self, client: usize, now: Instant) {
        self.flows.forget(client as u8, now);
        if let Some(news) = self.news.get_mut(client) {
            *news = News { down: true, ..News::default() };
        }
    }

    /// Tells a connection's application what it has not been told. Answers whether there was room for all of it.
    pub(super) fn tell_about(&mut self, index: u16, now: Instant) -> bool {
        let Some(slot) = self.flows.get(index).and_then(|flow| flow.slot.as_mut()) else { return true };
        let client = usize::from(slot.client);
        let (Some(server), Some(news)) = (self.clients.get_mut(client), self.news.get_mut(client)) else { return true };
        news.wake |= slot.tell(index, server, now);
        let all = !slot.owes();
        if slot.is_free() {
            self.flows.free_slot(index);
        }
        all
    }

    /// Takes what the applications ask. Answers whether more may be waiting.
    pub(super) fn drain_clients(&mut self, now: Instant) -> bool {
        let mut more = false;
        for client in 0..self.clients.len() {
            let mut budget = MESSAGES;
            while budget > 0 {
                let Some(request) = self.clients.get_mut(client).and_then(|server| server.requests.pop()) else {
                    break;
                };
                match request {
                    Ok(request) => self.asked(client, request, now),
                    Err(_) => self.refusals.record(&self.console, Refusal::Message),
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
            | Request::Abort { connection } => connection,
        };
        let ring_out = self.flows.layout().ring_out(connection).size;
        let index = connection.0;
        let slot = self.flows.get(index).and_then(|flow| flow.slot.as_mut());
        let Some(slot) = slot.filter(|slot| usize::from(slot.client) == client) else {
            // What was on its way when everything became void is no breach.
            if !self.news.get(client).is_some_and(|news| news.down) && self.flows.listens(client as u8) {
                self.refusals.record(&self.console, Refusal::Connection);
            }
            return;
        };
        let outcome = slot.asked(request, ring_out, self.site.len(), now);
        if (outcome.is_err() || matches!(request, Request::Abort { .. })) && !slot.is_over() {
            slot.part();
            self.flows.abort(index, now);
        }
        self.flows.mark(index);
        if let Err(refusal) = outcome {
            self.refusals.record(&self.console, refusal);
        }
    }

    fn listen(&mut self, client: usize, port: u16, now: Instant) {
        if self.quiesce.is_asked() {
            return;
        }
        let surplus = self.flows.has_all_ports(client as u8);
        if self.flows.owner(port) == Some(client as u8) {
            // The application was started anew: what it had is void.
            self.void(client, now);
        } else if self.flows.listen(client as u8, port) {
            if let Some(news) = self.news.get_mut(client) {
                news.up = self.address.current.is_some();
            }
            if surplus {
                self.refusals.record(&self.console, Refusal::Ports);
            }
        } else {
            self.refusals.record(&self.console, Refusal::Listen);
        }
    }

    /// Tells the applications about the network and about pressure.
    pub(super) fn tell(&mut self) {
        let free = self.flows.free();
        let scarce = free < self.flows.scarce();
        let constant = self.site.len() as u64;
        for ((client, server), news) in self.clients.iter_mut().enumerate().zip(&mut self.news) {
            if news.down {
                news.wake = true;
                news.down = server.replies.push(&Reply::Network { address: [0; 4], constant }).is_err();
            }
            let address = self.address.current.map(|lease| lease.address.address().octets());
            let listens = self.flows.listens(client as u8);
            if let (true, false, Some(address)) = (news.up && listens, news.down, address) {
                news.wake = true;
                news.up = server.replies.push(&Reply::Network { address, constant }).is_err();
            }
            let told = scarce.then_some(free as u16);
            if told.is_some() && told != news.pressure && listens {
                news.wake = true;
                if server.replies.push(&Reply::Pressure { free: free as u16 }).is_ok() {
                    news.pressure = told;
                }
            } else {
                news.pressure = told;
            }
        }
    }
}
