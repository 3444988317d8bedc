//! ARP messages that come.

use cloister_interfaces::{Instant, Memory, System};

use super::Wire;
use crate::address::Lease;
use crate::link::arp::{Arp, EVERYONE, Station};

impl<S: System, M: Memory> Wire<S, M> {
    /// A turn begins at this time.
    pub fn turn(&mut self, now: Instant) {
        self.out.neighbours.turn(now);
    }

    /// Forgets all neighbours: the host is on another link, or has another address.
    pub fn join(&mut self, lease: Option<Lease>) {
        self.out.neighbours.join(lease);
        for (_, parked) in self.out.parked.drain(..) {
            self.out.free.put(parked.page, 1);
        }
    }

    /// Takes note of the message of ARP that was readied, for a host with this address, and answers
    /// it.
    pub fn hear(&mut self, own: Option<[u8; 4]>) {
        let frame = self.frame.get(..self.loaded).unwrap_or_default();
        let ours = frame.starts_with(&EVERYONE) || frame.starts_with(&self.out.mac);
        let message = Arp::parse(frame).filter(|message| ours && message.from.is_possible());
        self.pass_over();
        let (Some(Arp { asks, from, to }), Some(own)) = (message, own) else { return };
        let asks_for_us = asks && to.address == own;
        self.out.neighbours.hear(from, asks_for_us);
        self.out.leave_parked(from.address);
        if asks_for_us {
            let answer = Arp { asks: false, from: Station { mac: self.out.mac, address: own }, to: from };
            self.send(&answer.frame(from.mac));
        }
    }

    /// Returns `true` if the DHCP client has sent something since this was last asked.
    pub fn has_leased(&mut self) -> bool {
        core::mem::take(&mut self.out.leased)
    }
}
