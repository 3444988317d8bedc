//! smoltcp's interface, and the frames that are made for it to parse.

use alloc::boxed::Box;
use alloc::vec::Vec;

use cloister_interfaces::socket::ConnectionId;
use cloister_interfaces::{Instant, Memory, System};
use smoltcp::iface::SocketSet;
use smoltcp::time::Instant as StackInstant;
use smoltcp::wire::{EthernetAddress, HardwareAddress, Ipv4Address};

use super::Stack;
use crate::link::arp::{Arp, ArpHost, UNRESOLVED};
use crate::link::fragments::furthest_fragment;
use crate::segment::Segment;
use crate::table::Key;
use crate::tcp::opening::{Opening, interface};
use crate::tcp::time_wait::{Answer, StreamEnds};

/// Later than any time that smoltcp is shown.
const FAR_FUTURE: StackInstant = StackInstant::from_micros_const(i64::MAX / 2);
/// So long ago that whatever smoltcp is shown with this time has expired.
const FAR_PAST: StackInstant = StackInstant::from_micros_const(i64::MIN / 2);
/// The number of packets that smoltcp reassembles at once.
const REASSEMBLED: u16 = smoltcp::config::REASSEMBLY_BUFFER_COUNT as u16;

impl<S: System, M: Memory> Stack<S, M> {
    /// Creates smoltcp's interface, with a random generator of which nobody has seen a number. It
    /// has no address yet.
    #[cold]
    pub(super) fn recreate_interface(&mut self, mac: [u8; 6], now: Instant) {
        // Without randomness the numbers of DHCP's transactions can be guessed. The network still
        // works.
        let seed = self.entropy.draw().map_or(now.0, |[seed, _]| seed);
        // The old interface is dropped first, so that the heap never holds two.
        self.interface = None;
        self.interface = Some(Box::new(interface(&mut self.device, mac, seed, now)));
        self.reserve_reassembly(mac);
    }

    /// Makes smoltcp allocate all memory that reassembly will ever need.
    ///
    /// smoltcp keeps the buffer of each packet that it reassembles. So it is shown, for each, the
    /// fragment that reaches furthest, and allocates nothing later.
    fn reserve_reassembly(&mut self, mac: [u8; 6]) {
        let Some(interface) = &mut self.interface else { return };
        for number in 0..REASSEMBLED {
            self.device.inject_frame(&furthest_fragment(mac, number));
            interface.poll_ingress_single(FAR_PAST, &mut self.device, &mut SocketSet::new(Vec::new()));
        }
    }

    /// Gives the current address to the interface.
    ///
    /// smoltcp sends all packets through one next hop, and knows an invalid link address for it.
    /// [`LinkDevice`](crate::link::device::LinkDevice) writes the correct one. smoltcp learns the
    /// invalid one from an ARP message, at such a time that it never expires.
    pub(super) fn apply_address(&mut self) {
        let Some(interface) = &mut self.interface else { return };
        self.address.apply(interface);
        let Some(lease) = self.address.current else { return };
        let HardwareAddress::Ethernet(EthernetAddress(mac)) = interface.hardware_addr();
        let address = lease.address.address().octets();
        let hop = Arp { is_request: false, from: ArpHost { mac: UNRESOLVED, address }, to: ArpHost { mac, address } };
        self.device.inject_frame(&hop.frame(mac));
        interface.poll_ingress_single(FAR_FUTURE, &mut self.device, &mut SocketSet::new(Vec::new()));
    }

    /// Answers a segment for a connection in TIME-WAIT: `ended`, which still has its socket, or one
    /// of which only the numbers are left.
    ///
    /// Returns `None` if the segment is done with. Otherwise a new connection may open; if it
    /// replaces one in TIME-WAIT, the inner value is the end of our old stream.
    #[inline(never)] // Cold: only segments without a connection in use come here.
    pub(super) fn answer_time_wait(
        &mut self,
        ended: Option<(ConnectionId, StreamEnds)>,
        segment: &Segment,
        now: Instant,
    ) -> Option<Option<u32>> {
        let answer = match ended {
            Some((id, end)) => Some(end.answer(segment, &mut self.connections.get(id)?.quiet_until, now)),
            None => self.connections.time_wait.lookup(segment, now),
        };
        match answer {
            None => Some(None),
            Some(Answer::Renew(end)) => {
                if let Some((id, _)) = ended {
                    self.connections.release(id);
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

    /// Returns how a connection opens whose predecessor's stream, if there was one, ended at
    /// `last`.
    pub(super) fn opening(&self, key: Key, last: Option<u32>, now: Instant) -> Opening {
        let own = self.address.current.map(|lease| lease.address.address()).unwrap_or(Ipv4Address::UNSPECIFIED);
        let number = self.numbers.initial(own.octets(), key, last, now);
        Opening { own, mac: self.device.mac(), number }
    }
}
