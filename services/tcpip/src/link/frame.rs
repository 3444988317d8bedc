//! What tcpip must know of a frame before the stack parses it, and do to one that the stack made.

use smoltcp::phy::ChecksumCapabilities;
use smoltcp::wire::{
    IpAddress, IpProtocol, Ipv4Address, Ipv4Cidr, Ipv4Packet, Ipv4Repr, TcpPacket, TcpRepr, TcpSeqNumber, UdpPacket,
};

use crate::config::Usable;
use crate::table::Key;

/// Bytes of an Ethernet header.
pub const ETHERNET_HEADER: usize = 14;
/// The largest IPv4 packet that is taken, if it is no segment, whole or in fragments. Without a
/// limit the stack would take 64 KiB of heap for each packet that it reassembles if a single
/// fragment said so.
pub const LARGEST_REASSEMBLED: usize = 4096;

/// A TCP segment to our address, as its headers say.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Segment {
    /// Its connection.
    pub key: Key,
    /// The port that it is to.
    pub port: u16,
    /// It starts a connection: a SYN without an ACK.
    pub start: bool,
    /// It has a SYN, whatever else.
    pub syn: bool,
    /// It is a reset.
    pub reset: bool,
    /// It has no flag but ACK, except perhaps PSH.
    pub plain: bool,
    /// It has options.
    pub options: bool,
    /// Bytes of data.
    pub data: usize,
    /// The offset of the data in the frame.
    pub offset: usize,
    /// Its sequence number.
    pub seq: u32,
    /// What it acknowledges, if it is plain.
    pub ack: u32,
    /// The window that it announces, not scaled.
    pub window: u16,
}

/// What a frame is to us.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Kind {
    /// A TCP segment to our address.
    Segment(Segment),
    /// A message of ARP.
    Arp,
    /// Something else that the stack may know what to do with.
    Other,
    /// Nothing that we want.
    Unwanted,
}

const SYN: u8 = 0x02;
const RST: u8 = 0x04;
const PSH: u8 = 0x08;
const ACK: u8 = 0x10;

/// What `frame` is to a host with the address `own`. The stack still checks all of it.
pub fn classify(frame: &[u8], own: Option<Ipv4Cidr>) -> Kind {
    const TCP: u8 = 6;
    match frame.get(12..ETHERNET_HEADER) {
        Some([0x08, 0x06]) => return Kind::Arp,
        Some([0x08, 0x00]) => {}
        _ => return Kind::Unwanted,
    }
    let packet = frame.get(ETHERNET_HEADER..).unwrap_or_default();
    let Some([version, _, l0, l1, _, _, f0, f1, _, protocol, _, _, s0, s1, s2, s3, to @ ..]) =
        packet.first_chunk::<20>()
    else {
        return Kind::Unwanted;
    };
    let total = usize::from(u16::from_be_bytes([*l0, *l1]));
    let fragment = u16::from_be_bytes([*f0, *f1]) & 0x3fff;
    if *protocol != TCP {
        let offset = usize::from(fragment & 0x1fff) * 8;
        let fits = offset + total <= LARGEST_REASSEMBLED;
        let ours = own.is_some_and(|own| own.address().octets() == *to) || is_to_dhcp_client(packet);
        return if ours && fits { Kind::Other } else { Kind::Unwanted };
    }
    let header = usize::from(version & 0x0f) * 4;
    let segment = packet.get(header..).and_then(<[u8]>::first_chunk::<20>);
    let (Some(segment), 0, Some(own)) = (segment, fragment, own.filter(|own| own.address().octets() == *to)) else {
        return Kind::Unwanted;
    };
    let [p0, p1, d0, d1, q0, q1, q2, q3, a0, a1, a2, a3, length, flags, w0, w1, ..] = *segment;
    let port = u16::from_be_bytes([d0, d1]);
    let headers = header + usize::from(length >> 4) * 4;
    let start = flags & (SYN | ACK) == SYN;
    let from = [*s0, *s1, *s2, *s3];
    if start && !can_connect(Ipv4Address::from(from), own) {
        return Kind::Unwanted;
    }
    Kind::Segment(Segment {
        key: Key::new(from, u16::from_be_bytes([p0, p1]), port),
        port,
        start,
        syn: flags & SYN != 0,
        reset: flags & RST != 0,
        plain: flags & !PSH == ACK,
        options: length >> 4 > 5,
        data: total.saturating_sub(headers),
        offset: ETHERNET_HEADER + headers,
        seq: u32::from_be_bytes([q0, q1, q2, q3]),
        ack: u32::from_be_bytes([a0, a1, a2, a3]),
        window: u16::from_be_bytes([w0, w1]),
    })
}

/// Returns `true` if the IPv4 packet `packet` is to the DHCP client: of all that goes to every host
/// of a network, only that is wanted (RFC 1122, 3.2.2.6 and 3.3.6).
#[inline(never)] // Seldom.
fn is_to_dhcp_client(packet: &[u8]) -> bool {
    const UDP: u8 = 17;
    let datagram = packet.first().and_then(|first| packet.get(usize::from(first & 0x0f) * 4..)).unwrap_or_default();
    packet.get(9) == Some(&UDP) && datagram.get(2..4) == Some(&[0, 68])
}

/// Whether a connection can come from this address: one of another host's (RFC 9293, MUST-63).
fn can_connect(from: Ipv4Address, own: Ipv4Cidr) -> bool {
    from.is_usable() && from != own.address() && own.broadcast() != Some(from)
}

/// What the segment in `frame`, which is whole, says that its sender has: blocks of sequence numbers.
pub fn selected(frame: &[u8]) -> [Option<(u32, u32)>; 3] {
    let packet = ipv4(frame).and_then(|packet| Ipv4Packet::new_checked(packet).ok());
    let segment = packet.as_ref().and_then(|packet| TcpPacket::new_checked(packet.payload()).ok());
    segment.and_then(|segment| segment.selective_ack_ranges().ok()).unwrap_or_default()
}

/// Where the segment in `frame` says how long segments its sender takes: only a SYN does (RFC 9293, 3.7.1).
pub fn largest_segment(frame: &mut [u8]) -> Option<&mut [u8; 2]> {
    const END: u8 = 0;
    const NOTHING: u8 = 1;
    const LARGEST: u8 = 2;
    let segment = ETHERNET_HEADER + usize::from(frame.get(ETHERNET_HEADER)? & 0x0f) * 4;
    let end = segment + usize::from(frame.get(segment + 12)? >> 4) * 4;
    let mut at = segment + 20;
    while at < end {
        match (*frame.get(at)?, frame.get(at + 1).copied()) {
            (END, _) => return None,
            (NOTHING, _) => at += 1,
            (LARGEST, Some(4)) if at + 4 <= end => return frame.get_mut(at + 2..)?.first_chunk_mut(),
            (_, Some(length @ 2..)) => at += usize::from(length),
            _ => return None,
        }
    }
    None
}

/// Whether the TCP or UDP checksum of `frame` is right, if it has one. A fragment of a TCP or UDP packet is not: nobody
/// whose packets we want makes such, and its checksum is known only when it is whole.
pub fn is_intact(frame: &[u8]) -> bool {
    let Some(packet) = ipv4(frame).and_then(|packet| Ipv4Packet::new_checked(packet).ok()) else { return true };
    let (from, to) = (IpAddress::Ipv4(packet.src_addr()), IpAddress::Ipv4(packet.dst_addr()));
    let fragment = packet.more_frags() || packet.frag_offset() > 0;
    let payload = packet.payload();
    match packet.next_header() {
        IpProtocol::Tcp | IpProtocol::Udp if fragment => false,
        IpProtocol::Tcp => TcpPacket::new_checked(payload).is_ok_and(|segment| segment.verify_checksum(&from, &to)),
        IpProtocol::Udp => UdpPacket::new_checked(payload).is_ok_and(|datagram| datagram.verify_checksum(&from, &to)),
        _ => true,
    }
}

/// Whether the IPv4 header of `frame`, if it has one, is right. The stack does not look at its checksum again.
pub fn has_sound_header(frame: &[u8]) -> bool {
    ipv4(frame).is_none_or(|packet| Ipv4Packet::new_checked(packet).is_ok_and(|packet| packet.verify_checksum()))
}

/// Whether the segment in `frame` is for the host `mac` on the link, and its IPv4 header and lengths are right. The stack
/// looks at most of that too, but by then its connection has been looked for, and an attempt at a new one has ended an old one.
pub fn is_sound(frame: &[u8], mac: [u8; 6]) -> bool {
    let packet = ipv4(frame).and_then(|packet| Ipv4Packet::new_checked(packet).ok());
    frame.starts_with(&mac)
        && packet.is_some_and(|packet| {
            packet.version() == 4 && packet.verify_checksum() && TcpPacket::new_checked(packet.payload()).is_ok()
        })
}

/// Puts the sum of the pseudo-header into the checksum field of a TCP segment that the stack made without: the link does
/// the rest. Answers whether `frame` is one.
pub fn prepare_checksum(frame: &mut [u8]) -> bool {
    const CHECKSUM: core::ops::Range<usize> = 16..18;
    const TCP: u32 = 6;
    if frame.get(12..ETHERNET_HEADER) != Some(&[0x08, 0x00]) {
        return false;
    }
    let Some(mut packet) = frame.get_mut(ETHERNET_HEADER..).map(Ipv4Packet::new_unchecked) else { return false };
    if packet.check_len().is_err() || packet.next_header() != IpProtocol::Tcp {
        return false;
    }
    let length = packet.total_len() - u16::from(packet.header_len());
    // The words of the pseudo-header (RFC 9293, 3.1): the addresses, the protocol, the length.
    let words = |address: Ipv4Address| {
        let bits = address.to_bits();
        (bits >> 16) + (bits & 0xffff)
    };
    let sum = words(packet.src_addr()) + words(packet.dst_addr()) + TCP + u32::from(length);
    let sum = (sum >> 16) + (sum & 0xffff);
    let sum = ((sum >> 16) + sum) as u16;
    let field = packet.payload_mut().get_mut(CHECKSUM);
    field.is_some_and(|field| {
        field.copy_from_slice(&sum.to_be_bytes());
        true
    })
}

fn ipv4(frame: &[u8]) -> Option<&[u8]> {
    (frame.get(12..ETHERNET_HEADER)? == [0x08, 0x00]).then(|| frame.get(ETHERNET_HEADER..))?
}

/// Bytes of a segment that only acknowledges, with its headers.
pub const ACKNOWLEDGEMENT: usize = ETHERNET_HEADER + 40;

/// An acknowledgement of `taken`, after all up to `sent` was, that answers the segment in `frame`; none if it is no segment
/// that the stack would take.
pub fn acknowledgement(frame: &[u8], sent: u32, taken: u32) -> Option<[u8; ACKNOWLEDGEMENT]> {
    let asked = Ipv4Packet::new_checked(ipv4(frame)?).ok()?;
    let segment = TcpPacket::new_checked(asked.payload()).ok()?;
    let (from, to) = (asked.dst_addr(), asked.src_addr());
    TcpRepr::parse(&segment, &to.into(), &from.into(), &ChecksumCapabilities::ignored()).ok()?;
    let mut answer = [0; ACKNOWLEDGEMENT];
    answer[..6].copy_from_slice(frame.get(6..12)?);
    answer[6..12].copy_from_slice(frame.get(..6)?);
    answer[12..ETHERNET_HEADER].copy_from_slice(&[0x08, 0x00]);
    let mut packet = Ipv4Packet::new_unchecked(&mut answer[ETHERNET_HEADER..]);
    Ipv4Repr { src_addr: from, dst_addr: to, next_header: IpProtocol::Tcp, payload_len: 20, hop_limit: 64 }
        .emit(&mut packet, &ChecksumCapabilities::default());
    let mut made = TcpPacket::new_unchecked(packet.payload_mut());
    made.set_src_port(segment.dst_port());
    made.set_dst_port(segment.src_port());
    made.set_seq_number(TcpSeqNumber(sent as i32));
    made.set_ack_number(TcpSeqNumber(taken as i32));
    made.clear_flags();
    made.set_ack(true);
    made.set_header_len(20);
    made.fill_checksum(&from.into(), &to.into());
    Some(answer)
}

/// The destination of a frame that the stack made, before that of its next hop is written there.
pub const UNRESOLVED: [u8; 6] = [0; 6];
/// The destination of a frame to all hosts on the link.
pub const EVERYONE: [u8; 6] = [0xff; 6];

/// Returns the IPv4 destination of a frame that the stack made for its next hop, and of no other.
pub fn unresolved(frame: &[u8]) -> Option<[u8; 4]> {
    let to = frame.get(30..34).filter(|_| frame.starts_with(&UNRESOLVED))?;
    to.first_chunk().copied()
}

/// Returns `true` if the stack made `frame` for its DHCP client.
pub fn is_from_dhcp_client(frame: &[u8]) -> bool {
    const UDP: u8 = 17;
    frame.get(12..ETHERNET_HEADER) == Some(&[0x08, 0x00])
        && frame.get(23) == Some(&UDP)
        && frame.get(34..36) == Some(&[0, 68])
}

/// A host on the link, as ARP names it.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Station {
    /// Its link address.
    pub mac: [u8; 6],
    /// Its IPv4 address.
    pub address: [u8; 4],
}

impl Station {
    /// Returns `true` if its link address can be that of one host.
    pub fn is_possible(&self) -> bool {
        self.mac[0] & 1 == 0 && self.mac != UNRESOLVED
    }
}

/// A message of ARP about IPv4 over Ethernet (RFC 826).
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Arp {
    /// It asks; otherwise it answers.
    pub asks: bool,
    /// The host that sent it.
    pub from: Station,
    /// The host that it is to, or whose link address it asks for.
    pub to: Station,
}

impl Arp {
    /// Returns the message in `frame`.
    pub fn parse(frame: &[u8]) -> Option<Self> {
        let [0x08, 0x06, 0, 1, 0x08, 0x00, 6, 4, 0, operation @ (1 | 2), body @ ..] = frame.get(12..42)? else {
            return None;
        };
        let station = |at: usize| {
            let (mac, address) = body.get(at..at + 10)?.split_first_chunk()?;
            Some(Station { mac: *mac, address: *address.first_chunk()? })
        };
        Some(Arp { asks: *operation == 1, from: station(0)?, to: station(10)? })
    }

    /// Returns the frame that carries the message to the station `mac`.
    pub fn frame(&self, mac: [u8; 6]) -> [u8; 42] {
        let mut frame = [0; 42];
        let operation = if self.asks { 1 } else { 2 };
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

/// The frame of a fragment, to the station `mac`, that reaches as far as any that is taken, of
/// packet `number`.
pub fn furthest_fragment(mac: [u8; 6], number: u16) -> [u8; ETHERNET_HEADER + 28] {
    let mut frame = [0; ETHERNET_HEADER + 28];
    frame[..6].copy_from_slice(&mac);
    frame[12] = 0x08;
    let mut packet = Ipv4Packet::new_unchecked(&mut frame[ETHERNET_HEADER..]);
    packet.set_version(4);
    packet.set_header_len(20);
    packet.set_total_len(28);
    packet.set_ident(number);
    packet.set_more_frags(true);
    packet.set_frag_offset((LARGEST_REASSEMBLED - 8) as u16);
    packet.set_next_header(IpProtocol::Icmp);
    frame
}

/// A request for our own address, from us: tells the neighbours (and switches) where it now is (RFC 5227, 3).
pub fn announcement(mac: [u8; 6], address: [u8; 4]) -> [u8; 42] {
    let to = Station { mac: UNRESOLVED, address };
    Arp { asks: true, from: Station { mac, address }, to }.frame(EVERYONE)
}

/// Makes of the segment in `frame`, of whose bytes `length` are its own, an acknowledgement of
/// `ack` with the number `seq` and nothing else. Returns its length.
pub fn reduce(frame: &mut [u8], length: usize, seq: u32, ack: u32) -> Option<usize> {
    let packet = frame.get_mut(ETHERNET_HEADER..length)?;
    let header = usize::from(*packet.first()? & 0x0f) * 4;
    packet.get_mut(2..4)?.copy_from_slice(&(header as u16 + 20).to_be_bytes());
    let segment = packet.get_mut(header..header + 20)?;
    segment.get_mut(4..8)?.copy_from_slice(&seq.to_be_bytes());
    segment.get_mut(8..12)?.copy_from_slice(&ack.to_be_bytes());
    segment.get_mut(12..14)?.copy_from_slice(&[0x50, ACK]);
    Some(ETHERNET_HEADER + header + 20)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use smoltcp::wire::{ArpOperation, ArpPacket, ArpRepr, EthernetFrame, EthernetProtocol};

    use super::*;

    fn tcp(flags: u8, words: u8) -> Vec<u8> {
        let mut frame = vec![0; ETHERNET_HEADER + usize::from(words) * 4 + 20];
        frame[12] = 8;
        frame[ETHERNET_HEADER] = 0x40 | words;
        frame[ETHERNET_HEADER + 9] = 6;
        frame[ETHERNET_HEADER + usize::from(words) * 4 + 13] = flags;
        frame
    }

    const OWN: Ipv4Cidr = Ipv4Cidr::new(Ipv4Address::new(10, 0, 0, 2), 24);

    fn starts(flags: u8, words: u8) -> Option<bool> {
        let mut frame = tcp(flags, words);
        frame[26..34].copy_from_slice(&[10, 0, 0, 1, 10, 0, 0, 2]);
        match classify(&frame, Some(OWN)) {
            Kind::Segment(segment) => Some(segment.start),
            _ => None,
        }
    }

    #[test]
    fn a_syn_is_known_by_its_flags_behind_any_options() {
        assert_eq!(starts(0x02, 5), Some(true));
        assert_eq!(starts(0xc2, 15), Some(true));
        assert_eq!(starts(0x12, 5), Some(false));
        assert_eq!(starts(0x10, 5), Some(false));
        let mut udp = tcp(0x02, 5);
        udp[ETHERNET_HEADER + 9] = 17;
        udp[30..34].copy_from_slice(&OWN.address().octets());
        assert_eq!(classify(&udp, Some(OWN)), Kind::Other);
    }

    #[test]
    fn an_acknowledgement_goes_back_where_the_segment_came_from() {
        let mut frame = segment();
        frame[..12].copy_from_slice(&[1, 1, 1, 1, 1, 1, 2, 2, 2, 2, 2, 2]);
        let tcp = ETHERNET_HEADER + 20;
        frame[tcp..tcp + 4].copy_from_slice(&[0x12, 0x34, 0, 80]);
        let answer = acknowledgement(&frame, 7, u32::MAX).expect("a segment");
        assert_eq!(answer[..12], [2, 2, 2, 2, 2, 2, 1, 1, 1, 1, 1, 1]);
        assert!(is_intact(&answer) && is_sound(&answer, [2; 6]));
        let Kind::Segment(said) = classify(&answer, Some(Ipv4Cidr::new(Ipv4Address::new(10, 0, 0, 1), 24))) else {
            panic!("{answer:?}")
        };
        let key = Key::new([10, 0, 0, 2], 80, 0x1234);
        assert_eq!((said.key, said.seq, said.ack, said.plain, said.data), (key, 7, u32::MAX, true, 0));
        frame[tcp + 12] = 0x40;
        assert_eq!(acknowledgement(&frame, 7, 9), None, "shorter than a header");
        assert_eq!(acknowledgement(&frame[..30], 7, 9), None);
        frame[12] = 0x86;
        assert_eq!(acknowledgement(&frame, 7, 9), None);
    }

    #[test]
    fn a_segment_is_known_by_its_addresses_and_ports() {
        let mut frame = segment();
        let tcp = ETHERNET_HEADER + 20;
        frame[tcp..tcp + 12].copy_from_slice(&[0x12, 0x34, 0, 80, 1, 2, 3, 4, 5, 6, 7, 8]);
        frame[tcp + 14] = 9;
        let expected = Segment {
            key: Key::new([10, 0, 0, 1], 0x1234, 80),
            port: 80,
            start: false,
            syn: false,
            reset: false,
            plain: true,
            options: false,
            data: 7,
            offset: 54,
            seq: 0x0102_0304,
            ack: 0x0506_0708,
            window: 0x0900,
        };
        assert_eq!(classify(&frame, Some(OWN)), Kind::Segment(expected));
        for own in [None, Some(Ipv4Cidr::new(Ipv4Address::new(10, 0, 0, 3), 24))] {
            assert_eq!(classify(&frame, own), Kind::Unwanted);
        }
        frame[20] = 0x20;
        assert_eq!(classify(&frame, Some(OWN)), Kind::Unwanted, "a fragment");
        frame[12] = 0x86;
        assert_eq!(classify(&frame, Some(OWN)), Kind::Unwanted, "no IPv4");
    }

    #[test]
    fn nobody_connects_from_an_address_that_is_no_other_host_s() {
        let mut frame = tcp(0x02, 5);
        frame[30..34].copy_from_slice(&OWN.address().octets());
        for (from, wanted) in [
            ([10, 0, 0, 1], true),
            ([8, 8, 8, 8], true),
            (OWN.address().octets(), false),
            ([10, 0, 0, 255], false),
            ([0, 0, 0, 0], false),
            ([127, 0, 0, 1], false),
            ([224, 0, 0, 1], false),
            ([255, 255, 255, 255], false),
        ] {
            frame[26..30].copy_from_slice(&from);
            assert_eq!(classify(&frame, Some(OWN)) != Kind::Unwanted, wanted, "{from:?}");
        }
    }

    #[test]
    fn only_fragments_that_reach_too_far_are_oversized() {
        let fragment = |units: u16, total: u16| {
            let mut frame = tcp(0, 5);
            frame[ETHERNET_HEADER + 9] = 1;
            frame[30..34].copy_from_slice(&OWN.address().octets());
            frame[ETHERNET_HEADER + 2..ETHERNET_HEADER + 4].copy_from_slice(&total.to_be_bytes());
            frame[ETHERNET_HEADER + 6..ETHERNET_HEADER + 8].copy_from_slice(&(0x2000 | units).to_be_bytes());
            classify(&frame, Some(OWN)) == Kind::Unwanted
        };
        assert!(!fragment(0, 1500));
        assert!(!fragment(320, 1500));
        assert!(fragment(0x1fff, 28));
        assert!(fragment(1000, 1500));
        // Those of a ping of 4,000 bytes are not, nor is any that ends there.
        assert!(!fragment(0x2000, 1500) && !fragment(370, 1068) && !fragment(0x2000 | 510, 16));
        // The first of many, and what is no fragment, are as long as the others may be.
        for word in [0x2000, 0, 0x4000] {
            assert!(!fragment(word, 4096));
            assert!(fragment(word, 4097) && fragment(word, 65_500));
        }
    }

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

    /// A whole TCP segment with a right checksum.
    fn segment() -> Vec<u8> {
        let mut frame = tcp(0x10, 5);
        frame.extend(*b"payload");
        let length = (frame.len() - ETHERNET_HEADER) as u16;
        let mut packet = Ipv4Packet::new_unchecked(&mut frame[ETHERNET_HEADER..]);
        packet.set_total_len(length);
        packet.set_src_addr([10, 0, 0, 1].into());
        packet.set_dst_addr([10, 0, 0, 2].into());
        let mut segment = TcpPacket::new_unchecked(packet.payload_mut());
        segment.set_header_len(20);
        segment.fill_checksum(&IpAddress::v4(10, 0, 0, 1), &IpAddress::v4(10, 0, 0, 2));
        frame
    }

    #[test]
    fn the_largest_segment_is_found_among_options_and_nowhere_else() {
        let with = |options: &[u8]| {
            let mut frame = tcp(0x02, 5);
            frame.truncate(ETHERNET_HEADER + 40);
            frame[ETHERNET_HEADER + 32] = (5 + options.len() as u8 / 4) << 4;
            frame.extend(options);
            largest_segment(&mut frame).map(|largest| u16::from_be_bytes(*largest))
        };
        assert_eq!(with(&[2, 4, 5, 0xb4]), Some(1460));
        assert_eq!(with(&[1, 3, 3, 7, 2, 4, 1, 0]), Some(256));
        assert_eq!(with(&[4, 2, 1, 1, 2, 4, 1, 0, 2, 4, 2, 0]), Some(256), "the first");
        for none in [
            &[][..],
            &[1; 4],
            &[0, 2, 4, 9],
            &[3, 0, 2, 4],
            &[2, 3, 1, 1],
            &[1, 1, 2, 4],
            &[1, 1, 1, 2],
            &[8, 40, 2, 4],
        ] {
            assert_eq!(with(none), None, "{none:?}");
        }
    }

    #[test]
    fn a_segment_is_intact_until_a_bit_of_it_changes() {
        let good = segment();
        assert!(is_intact(&good));
        for at in [26, 30, ETHERNET_HEADER + 20, good.len() - 1] {
            let mut bad = good.clone();
            bad[at] ^= 1;
            assert!(!is_intact(&bad), "{at}");
        }
        let mut fragment = good.clone();
        fragment[20] = 0x20;
        assert!(!is_intact(&fragment));
        fragment[23] = 1;
        assert!(is_intact(&fragment), "a fragment of a ping");
    }

    #[test]
    fn what_the_link_adds_to_a_prepared_checksum_makes_it_right() {
        let good = segment();
        let mut frame = good.clone();
        frame[50..52].fill(0);
        assert!(prepare_checksum(&mut frame));
        let sum = !smoltcp::wire::checksum::data(&frame[ETHERNET_HEADER + 20..]);
        frame[50..52].copy_from_slice(&sum.to_be_bytes());
        assert_eq!(frame, good);
        frame[23] = 17;
        assert!(!prepare_checksum(&mut frame));
    }

    proptest! {
        #[test]
        fn any_bytes_are_looked_at_without_a_panic(mut frame in prop::collection::vec(any::<u8>(), 0..100)) {
            if frame.len() > 13 { frame[12] = 8; frame[13] = 0; }
            let _ = (classify(&frame, Some(OWN)), is_intact(&frame), selected(&frame), largest_segment(&mut frame));
            prepare_checksum(&mut frame);
        }
    }

    /// A segment with any options becomes one that says only what it is told.
    #[test]
    fn a_reduced_segment_has_nothing_of_the_old_one_but_its_connection() {
        for words in [5, 7, 15] {
            let mut frame = tcp(0x16, words);
            let tcp = ETHERNET_HEADER + usize::from(words) * 4;
            frame[30..34].copy_from_slice(&OWN.address().octets());
            frame[tcp..tcp + 4].copy_from_slice(&[0x12, 0x34, 0, 80]);
            frame[tcp + 12] = 0x60;
            frame.extend([9; 60]);
            let whole = frame.len();
            let length = reduce(&mut frame, whole, 7, 9).expect("a segment");
            let Kind::Segment(made) = classify(&frame[..length], Some(OWN)) else { panic!("{frame:?}") };
            assert_eq!((made.key, made.seq, made.ack), (Key::new([0; 4], 0x1234, 80), 7, 9));
            assert!(made.plain && !made.options && made.data == 0);
            assert_eq!(reduce(&mut frame, tcp + 19, 7, 9), None, "it is cut off");
        }
    }
}
