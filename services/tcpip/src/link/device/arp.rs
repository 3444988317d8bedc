//! ARP messages that come.

use cloister_interfaces::{Instant, Memory, System};

use super::LinkDevice;
use crate::address::Lease;
use crate::link::arp::{Arp, BROADCAST, Station};

impl<S: System, M: Memory> LinkDevice<S, M> {
    /// A turn begins at this time.
    pub fn set_time(&mut self, now: Instant) {
        self.transmitter.neighbours.set_time(now);
    }

    /// Forgets all neighbours: the host is on another link, or has another address.
    pub fn set_lease(&mut self, lease: Option<Lease>) {
        self.transmitter.neighbours.set_lease(lease);
        for (_, parked) in self.transmitter.parked.drain(..) {
            self.transmitter.free.give_back(parked.page, 1);
        }
    }

    /// Takes note of the message of ARP that was readied, for a host with this address, and answers
    /// it.
    pub fn handle_arp(&mut self, own: Option<[u8; 4]>) {
        let frame = self.frame.get(..self.frame_length).unwrap_or_default();
        let ours = frame.starts_with(&BROADCAST) || frame.starts_with(&self.transmitter.mac);
        let message = Arp::parse(frame).filter(|message| ours && message.from.is_possible());
        self.discard_frame();
        let (Some(Arp { is_request, from, to }), Some(own)) = (message, own) else { return };
        let asks_for_us = is_request && to.address == own;
        self.transmitter.neighbours.learn(from, asks_for_us);
        self.transmitter.send_parked(from.address);
        if asks_for_us {
            let answer = Arp { is_request: false, from: Station { mac: self.transmitter.mac, address: own }, to: from };
            self.send(&answer.frame(from.mac));
        }
    }

    /// Returns `true` if the DHCP client has sent something since this was last asked.
    pub fn take_dhcp_sent(&mut self) -> bool {
        core::mem::take(&mut self.transmitter.dhcp_sent)
    }
}
