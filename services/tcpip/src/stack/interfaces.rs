//! The stack's interfaces: the one for all that comes, and one for each SYN that opens a connection; and what the stack is
//! shown in the place of a segment.

use alloc::boxed::Box;
use alloc::vec::Vec;

use cloister_interfaces::{Instant, Memory, System};
use smoltcp::iface::SocketSet;
use smoltcp::time::Instant as StackInstant;
use smoltcp::wire::{EthernetAddress, HardwareAddress, Ipv4Address};

use super::Stack;
use crate::link::arp::{Arp, Station, UNRESOLVED};
use crate::link::fragments::furthest_fragment;
use crate::segment::Segment;
use crate::table::Key;
use crate::tcp::opening::{Opening, interface};
use crate::tcp::time_wait::{Answer, StreamEnds};

/// Later than the stack will ever be shown again.
const NEVER: StackInstant = StackInstant::from_micros_const(i64::MAX / 2);
/// So long ago that what the stack was shown then has no time left.
const LONG_AGO: StackInstant = StackInstant::from_micros_const(i64::MIN / 2);
/// Packets that the stack reassembles at once.
const REASSEMBLED: u16 = smoltcp::config::REASSEMBLY_BUFFER_COUNT as u16;

impl<S: System, M: Memory> Stack<S, M> {
    /// Makes the stack's interface, whose generator nobody has seen a number of. It has no address yet.
    #[cold]
    pub(super) fn recreate_interface(&mut self, mac: [u8; 6], now: Instant) {
        // Without randomness the numbers of DHCP's transactions can be guessed; the network still
        // works.
        let seed = self.entropy.draw().map_or(now.0, |[seed, _]| seed);
        // The old one goes first, so that the heap never holds two.
        self.interface = None;
        self.interface = Some(Box::new(interface(&mut self.device, mac, seed, now)));
        self.reserve_reassembly(mac);
    }

    /// Has the stack take all the memory now that reassembly will ever need, so that nothing that
    /// comes makes it take more: it keeps the buffer of each packet, and is shown of each the
    /// fragment that reaches furthest.
    fn reserve_reassembly(&mut self, mac: [u8; 6]) {
        let Some(interface) = &mut self.interface else { return };
        for number in 0..REASSEMBLED {
            self.device.inject_frame(&furthest_fragment(mac, number));
            interface.poll_ingress_single(LONG_AGO, &mut self.device, &mut SocketSet::new(Vec::new()));
        }
    }

    /// Gives the interface the address in use. All packets go through one next hop, of which the
    /// stack knows a link address that is none: [`LinkDevice`] finds the true one. The stack learns it as
    /// from a message of ARP, of a time such that it never ages.
    pub(super) fn apply_address(&mut self) {
        let Some(interface) = &mut self.interface else { return };
        self.address.apply(interface);
        let Some(lease) = self.address.current else { return };
        let HardwareAddress::Ethernet(EthernetAddress(mac)) = interface.hardware_addr();
        let address = lease.address.address().octets();
        let hop = Arp { is_request: false, from: Station { mac: UNRESOLVED, address }, to: Station { mac, address } };
        self.device.inject_frame(&hop.frame(mac));
        interface.poll_ingress_single(NEVER, &mut self.device, &mut SocketSet::new(Vec::new()));
    }

    /// Answers a segment for a connection in TIME-WAIT: `ended`, which has its socket still, or one
    /// of which only the numbers are left. For any other it returns where the connection before it
    /// ended, if that has just made room for it.
    #[inline(never)] // Only segments without a connection in use come here.
    pub(super) fn answer_time_wait(
        &mut self,
        ended: Option<(u16, StreamEnds)>,
        segment: &Segment,
        now: Instant,
    ) -> Option<Option<u32>> {
        let answer = match ended {
            Some((index, end)) => Some(end.answer(segment, &mut self.connections.get(index)?.quiet_until, now)),
            None => self.connections.time_wait.lookup(segment, now),
        };
        match answer {
            None => Some(None),
            Some(Answer::Renew(end)) => {
                if let Some((index, _)) = ended {
                    self.connections.release(index);
                }
                Some(Some(end.ours))
            }
            Some(Answer::Silence) => None,
            Some(Answer::Acknowledge(end)) => {
                self.device.send_ack(end.ours, end.peers);
                None
            }
        }
    }

    /// Returns how a connection begins that follows one whose numbers ended at `last`, if any.
    pub(super) fn opening(&self, key: Key, last: Option<u32>, now: Instant) -> Opening {
        let own = self.address.current.map(|lease| lease.address.address()).unwrap_or(Ipv4Address::UNSPECIFIED);
        let number = self.numbers.initial(own.octets(), key, last, now);
        Opening { own, mac: self.device.mac(), number }
    }
}
