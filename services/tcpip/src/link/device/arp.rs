//! Received ARP messages.

use cloister_interfaces::{Instant, Memory, System};

use super::LinkDevice;
use crate::address::Lease;
use crate::link::arp::{Arp, ArpHost, BROADCAST};

impl<S: System, M: Memory> LinkDevice<S, M> {
    /// Sets the time of this pass. Drops the frames that have waited too long for a link address.
    pub fn set_time(&mut self, now: Instant) {
        self.transmitter.neighbours.set_time(now);
        if !self.transmitter.parked.is_empty() {
            self.transmitter.drop_late();
        }
    }

    /// Records that the peer at `from` acknowledged what we sent to it.
    #[inline]
    pub fn record_progress(&mut self, from: [u8; 4]) {
        self.transmitter.neighbours.record_progress(from);
    }

    /// Forgets all neighbours, because the link or our address is another one.
    pub fn set_lease(&mut self, lease: Option<Lease>) {
        self.transmitter.neighbours.set_lease(lease);
        for (_, parked) in self.transmitter.parked.drain(..) {
            self.transmitter.free.give_back(parked.page, 1);
        }
    }

    /// Handles the ARP message in the current frame. Answers it if it is a request for `own`.
    /// Returns the link address of another host that has the address `own` (RFC 5227, 2.4).
    pub fn handle_arp(&mut self, own: Option<[u8; 4]>) -> Option<[u8; 6]> {
        let frame = self.frame.get(..self.frame_length).unwrap_or_default();
        let mac = self.transmitter.mac;
        let ours = frame.starts_with(&BROADCAST) || frame.starts_with(&mac);
        let message = Arp::parse(frame).filter(|message| ours && message.from.is_possible() && message.from.mac != mac);
        self.discard_frame();
        let (Arp { is_request, from, to }, own) = (message?, own?);
        let is_request_for_us = is_request && to.address == own;
        self.transmitter.neighbours.learn(from, is_request_for_us);
        self.transmitter.send_parked(from.address);
        if is_request_for_us {
            let answer = Arp { is_request: false, from: ArpHost { mac, address: own }, to: from };
            self.send(&answer.frame(from.mac));
        }
        (from.address == own).then_some(from.mac)
    }

    /// Returns `true` if the DHCP client has sent a message since the last call.
    pub fn take_dhcp_sent(&mut self) -> bool {
        core::mem::take(&mut self.transmitter.dhcp_sent)
    }
}
