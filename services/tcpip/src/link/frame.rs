//! Checks of received frames before smoltcp parses them, and edits of frames that it built.

use smoltcp::phy::ChecksumCapabilities;
use smoltcp::wire::{
    IpAddress, IpProtocol, Ipv4Address, Ipv4Cidr, Ipv4Packet, Ipv4Repr, TcpPacket, TcpRepr, TcpSeqNumber, UdpPacket,
};

use super::arp::UNRESOLVED;
use crate::config::Usable;
use crate::segment::{Segment, TcpFlags};
use crate::table::Key;

/// The length of an Ethernet header.
pub const ETHERNET_HEADER: usize = 14;
/// The length of the IPv4 and TCP headers of a segment without options.
pub const SEGMENT_HEADERS: usize = 20 + 20;
/// The largest length of all headers of a segment that smoltcp builds.
pub const MAX_HEADERS: usize = ETHERNET_HEADER + SEGMENT_HEADERS + 40;
/// The largest IPv4 packet that is accepted, except for TCP segments, whole or in fragments.
/// Without a limit, a single fragment could make smoltcp allocate 64 KiB of heap for the packet
/// that it reassembles.
pub const MAX_REASSEMBLED: usize = 4096;

/// The classification of a received frame.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum FrameKind {
    /// A TCP segment to our address.
    Segment(Segment),
    /// An ARP message.
    Arp,
    /// Something else that smoltcp may know.
    Other,
    /// Something that is not for us.
    Unwanted,
}

/// Classifies `frame` for a host with the address `own`. smoltcp still checks all of it.
pub fn classify(frame: &[u8], own: Option<Ipv4Cidr>) -> FrameKind {
    const TCP: u8 = 6;
    match frame.get(12..ETHERNET_HEADER) {
        Some([0x08, 0x06]) => return FrameKind::Arp,
        Some([0x08, 0x00]) => {}
        _ => return FrameKind::Unwanted,
    }
    let packet = frame.get(ETHERNET_HEADER..).unwrap_or_default();
    let Some([version, _, l0, l1, _, _, f0, f1, _, protocol, _, _, s0, s1, s2, s3, to @ ..]) =
        packet.first_chunk::<20>()
    else {
        return FrameKind::Unwanted;
    };
    let total = usize::from(u16::from_be_bytes([*l0, *l1]));
    let fragment = u16::from_be_bytes([*f0, *f1]) & 0x3fff;
    if *protocol != TCP {
        let offset = usize::from(fragment & 0x1fff) * 8;
        let fits = offset + total <= MAX_REASSEMBLED;
        let ours = own.is_some_and(|own| own.address().octets() == *to) || is_to_dhcp_client(packet);
        return if ours && fits { FrameKind::Other } else { FrameKind::Unwanted };
    }
    let header = usize::from(version & 0x0f) * 4;
    let segment = packet.get(header..).and_then(<[u8]>::first_chunk::<20>);
    let (Some(segment), 0, Some(own)) = (segment, fragment, own.filter(|own| own.address().octets() == *to)) else {
        return FrameKind::Unwanted;
    };
    let [p0, p1, d0, d1, q0, q1, q2, q3, a0, a1, a2, a3, length, flags, w0, w1, ..] = *segment;
    let port = u16::from_be_bytes([d0, d1]);
    // The header's length is in units of 4 bytes, in the upper four bits. Written as a sum of both
    // nibbles, the compiled code contains the bytes of `vmcall`, which `cargo policy verify` finds.
    let headers = header + usize::from(length >> 2 & 0x3c);
    let flags = TcpFlags::from_bits_retain(flags);
    let from = [*s0, *s1, *s2, *s3];
    if flags.opens() && !can_be_peer(Ipv4Address::from(from), own) {
        return FrameKind::Unwanted;
    }
    FrameKind::Segment(Segment {
        key: Key::new(from, u16::from_be_bytes([p0, p1]), port),
        port,
        flags,
        options: length >> 4 > 5,
        data: total.saturating_sub(headers),
        offset: ETHERNET_HEADER + headers,
        seq: u32::from_be_bytes([q0, q1, q2, q3]),
        ack: u32::from_be_bytes([a0, a1, a2, a3]),
        window: u16::from_be_bytes([w0, w1]),
    })
}

/// Returns `true` if the IPv4 packet `packet` is for the DHCP client. Nothing else that goes to all
/// hosts of a network is accepted (RFC 1122, 3.2.2.6 and 3.3.6).
#[inline(never)] // Rarely called.
fn is_to_dhcp_client(packet: &[u8]) -> bool {
    const UDP: u8 = 17;
    let datagram = packet.first().and_then(|first| packet.get(usize::from(first & 0x0f) * 4..)).unwrap_or_default();
    packet.get(9) == Some(&UDP) && datagram.get(2..4) == Some(&[0, 68])
}

/// Returns `true` if a connection can come from this address: it is a unicast address of another
/// host (RFC 9293, MUST-63).
fn can_be_peer(from: Ipv4Address, own: Ipv4Cidr) -> bool {
    from.is_usable() && from != own.address() && own.broadcast() != Some(from)
}

/// Returns the ranges of sequence numbers in the SACK option of the segment in `frame`, which is
/// complete.
pub fn sack_blocks(frame: &[u8]) -> [Option<(u32, u32)>; 3] {
    let packet = ipv4(frame).and_then(|packet| Ipv4Packet::new_checked(packet).ok());
    let segment = packet.as_ref().and_then(|packet| TcpPacket::new_checked(packet.payload()).ok());
    segment.and_then(|segment| segment.selective_ack_ranges().ok()).unwrap_or_default()
}

/// Returns the value of the MSS option of the segment in `frame`. Only a SYN has one (RFC 9293,
/// 3.7.1).
pub fn mss_option(frame: &mut [u8]) -> Option<&mut [u8; 2]> {
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

/// Returns `true` if the TCP or UDP checksum of `frame` is correct, or if it has none.
///
/// Returns `false` for a fragment of a TCP or UDP packet: no peer that we want sends those, and the
/// checksum can be verified only when the packet is complete.
pub fn has_valid_checksum(frame: &[u8]) -> bool {
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

/// Returns `true` if the IPv4 header of `frame` is valid, or if it has none. smoltcp does not
/// verify its checksum again.
pub fn has_valid_ip_header(frame: &[u8]) -> bool {
    ipv4(frame).is_none_or(|packet| Ipv4Packet::new_checked(packet).is_ok_and(|packet| packet.verify_checksum()))
}

/// Returns `true` if the segment in `frame` is to the link address `mac`, and its IPv4 header and
/// its lengths are valid.
///
/// smoltcp checks most of that, too. But before it does, the segment's connection is looked up, and
/// a SYN may have ended another connection to get its place.
pub fn has_valid_headers(frame: &[u8], mac: [u8; 6]) -> bool {
    let packet = ipv4(frame).and_then(|packet| Ipv4Packet::new_checked(packet).ok());
    frame.starts_with(&mac)
        && packet.is_some_and(|packet| {
            packet.version() == 4 && packet.verify_checksum() && TcpPacket::new_checked(packet.payload()).is_ok()
        })
}

/// Writes the sum of the pseudo-header into the checksum field of a TCP segment that smoltcp built.
/// The link does the rest. Returns `false` if `frame` holds no TCP segment.
pub fn write_partial_checksum(frame: &mut [u8]) -> bool {
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
    // The 16-bit words of the pseudo-header (RFC 9293, 3.1): addresses, protocol, length.
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

/// The length of a frame with an acknowledgement and nothing else.
pub const ACK_FRAME: usize = ETHERNET_HEADER + 40;

/// Returns the frame that answers the segment in `frame` with an acknowledgement: sequence number
/// `sent`, acknowledgement number `taken`. Returns `None` if `frame` holds no segment that smoltcp
/// would accept.
pub fn ack_for(frame: &[u8], sent: u32, taken: u32) -> Option<[u8; ACK_FRAME]> {
    let asked = Ipv4Packet::new_checked(ipv4(frame)?).ok()?;
    let segment = TcpPacket::new_checked(asked.payload()).ok()?;
    let (from, to) = (asked.dst_addr(), asked.src_addr());
    TcpRepr::parse(&segment, &to.into(), &from.into(), &ChecksumCapabilities::ignored()).ok()?;
    let mut answer = [0; ACK_FRAME];
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

/// Returns the IPv4 destination of a frame from smoltcp whose link address is not written yet.
/// Returns `None` for any other frame.
pub fn unresolved_destination(frame: &[u8]) -> Option<[u8; 4]> {
    let to = frame.get(30..34).filter(|_| frame.starts_with(&UNRESOLVED))?;
    to.first_chunk().copied()
}

/// Returns `true` if `frame` is a message of the DHCP client.
pub fn is_from_dhcp_client(frame: &[u8]) -> bool {
    const UDP: u8 = 17;
    frame.get(12..ETHERNET_HEADER) == Some(&[0x08, 0x00])
        && frame.get(23) == Some(&UDP)
        && frame.get(34..36) == Some(&[0, 68])
}

/// Turns the segment in the first `length` bytes of `frame` into an acknowledgement of `ack` with
/// the sequence number `seq`, and nothing else. Returns its length.
pub fn reduce_to_ack(frame: &mut [u8], length: usize, seq: u32, ack: u32) -> Option<usize> {
    let packet = frame.get_mut(ETHERNET_HEADER..length)?;
    let header = usize::from(*packet.first()? & 0x0f) * 4;
    packet.get_mut(2..4)?.copy_from_slice(&(header as u16 + 20).to_be_bytes());
    let segment = packet.get_mut(header..header + 20)?;
    segment.get_mut(4..8)?.copy_from_slice(&seq.to_be_bytes());
    segment.get_mut(8..12)?.copy_from_slice(&ack.to_be_bytes());
    segment.get_mut(12..14)?.copy_from_slice(&[0x50, TcpFlags::ACK.bits()]);
    Some(ETHERNET_HEADER + header + 20)
}

#[cfg(test)]
mod tests;
