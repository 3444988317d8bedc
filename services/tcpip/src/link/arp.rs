//! ARP messages about IPv4 over Ethernet (RFC 826).

/// The destination in a frame from smoltcp until the link address of its next hop is written there.
pub const UNRESOLVED: [u8; 6] = [0; 6];
/// The destination of a frame to all hosts on the link.
pub const BROADCAST: [u8; 6] = [0xff; 6];

/// A host on the link, as ARP describes it.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct ArpHost {
    /// Its link address (MAC address).
    pub mac: [u8; 6],
    /// Its IPv4 address.
    pub address: [u8; 4],
}

impl ArpHost {
    /// Returns `true` if its link address can be that of one host.
    pub fn is_possible(&self) -> bool {
        self.mac[0] & 1 == 0 && self.mac != UNRESOLVED
    }
}

/// An ARP message.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Arp {
    /// It is a request; otherwise a reply.
    pub is_request: bool,
    /// The sender.
    pub from: ArpHost,
    /// The host that it is for. A request asks for its link address.
    pub to: ArpHost,
}

impl Arp {
    /// Parses the message in `frame`.
    pub fn parse(frame: &[u8]) -> Option<Self> {
        let [0x08, 0x06, 0, 1, 0x08, 0x00, 6, 4, 0, operation @ (1 | 2), body @ ..] = frame.get(12..42)? else {
            return None;
        };
        let arp_host = |at: usize| {
            let (mac, address) = body.get(at..at + 10)?.split_first_chunk()?;
            Some(ArpHost { mac: *mac, address: *address.first_chunk()? })
        };
        Some(Arp { is_request: *operation == 1, from: arp_host(0)?, to: arp_host(10)? })
    }

    /// Returns the frame that carries the message to the link address `mac`.
    pub fn frame(&self, mac: [u8; 6]) -> [u8; 42] {
        let mut frame = [0; 42];
        let operation = if self.is_request { 1 } else { 2 };
        let fields: [&[u8]; 7] = [
            &mac,
            &self.from.mac,
            &[0x08, 0x06, 0, 1, 0x08, 0x00, 6, 4, 0, operation],
            &self.from.mac,
            &self.from.address,
            &self.to.mac,
            &self.to.address,
        ];
        for (place, byte) in frame.iter_mut().zip(fields.into_iter().flatten()) {
            *place = *byte;
        }
        frame
    }
}

/// Returns the frame of a request for our own address from us. It tells hosts and switches on the
/// link where the address is now (RFC 5227, 3).
pub fn announcement(mac: [u8; 6], address: [u8; 4]) -> [u8; 42] {
    let to = ArpHost { mac: UNRESOLVED, address };
    Arp { is_request: true, from: ArpHost { mac, address }, to }.frame(BROADCAST)
}

#[cfg(test)]
mod tests {
    use smoltcp::wire::{ArpOperation, ArpPacket, ArpRepr, EthernetFrame, EthernetProtocol};

    use super::*;

    #[test]
    fn the_announcement_is_an_arp_request_for_ourselves() {
        let bytes = announcement([2, 3, 4, 5, 6, 7], [10, 0, 0, 9]);
        let frame = EthernetFrame::new_checked(&bytes[..]).unwrap();
        assert!(frame.dst_addr().is_broadcast());
        assert_eq!(frame.ethertype(), EthernetProtocol::Arp);
        let ArpRepr::EthernetIpv4 { operation, source_protocol_addr, target_protocol_addr, .. } =
            ArpRepr::parse(&ArpPacket::new_checked(frame.payload()).unwrap()).unwrap()
        else {
            panic!("not ARP over Ethernet");
        };
        assert_eq!((operation, source_protocol_addr), (ArpOperation::Request, target_protocol_addr));
    }
}
