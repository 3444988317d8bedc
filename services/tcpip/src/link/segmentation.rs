//! Repeating a part of a segment: smoltcp builds the whole segment again, and only the ranges that
//! were lost are sent, each as a frame.

use arrayvec::ArrayVec;
use smoltcp::wire::{IpAddress, Ipv4Packet, TcpPacket};

use super::frame::ETHERNET_HEADER;
use crate::segment::{BuiltSegment, SendRanges, TcpFlags};

/// The length of an IPv4 header that smoltcp writes: without options.
const IPV4_HEADER: usize = 20;

/// Returns what `frame` carries, if smoltcp built it for a connection.
pub fn outgoing(frame: &[u8]) -> Option<BuiltSegment> {
    const TCP: u8 = 6;
    let (packet, segment) = frame.get(ETHERNET_HEADER..)?.split_first_chunk::<IPV4_HEADER>()?;
    let [q0, q1, q2, q3, a0, a1, a2, a3, offset, flags] = *segment.get(4..)?.first_chunk()?;
    if frame.get(12..ETHERNET_HEADER) != Some(&[0x08, 0x00]) || packet[9] != TCP {
        return None;
    }
    let headers = IPV4_HEADER + usize::from(offset >> 4) * 4;
    let data = usize::from(u16::from_be_bytes([packet[2], packet[3]])).saturating_sub(headers) as u32;
    Some(BuiltSegment {
        flags: TcpFlags::from_bits_retain(flags),
        seq: u32::from_be_bytes([q0, q1, q2, q3]),
        ack: u32::from_be_bytes([a0, a1, a2, a3]),
        data,
    })
}

/// A part of a segment: bytes `from..to` of its data.
///
/// # Holding one proves
/// `from` and `to` lie inside the data of the segment that [`selected_parts`] was called for.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct SegmentPart {
    from: usize,
    to: usize,
    /// It ends where the segment ends, and has all its flags.
    last: bool,
}

/// Returns the parts of `segment` that must be sent.
pub fn selected_parts(segment: BuiltSegment, wanted: &SendRanges) -> ArrayVec<SegmentPart, { SendRanges::MAX }> {
    let (from, data) = (segment.seq.wrapping_sub(wanted.base), segment.data as usize);
    // An empty segment or a keep-alive probe is sent as it is.
    if segment.length() == 0 || from > i32::MAX as u32 {
        return [SegmentPart { from: 0, to: data, last: true }].into_iter().collect();
    }
    let end = from + segment.length();
    let cut = |range: &(u32, u32)| {
        let (first, last) = (range.0.max(from), range.1.min(end));
        (first < last).then(|| SegmentPart {
            from: ((first - from) as usize).min(data),
            to: ((last - from) as usize).min(data),
            last: last == end,
        })
    };
    wanted.ranges.iter().filter_map(cut).collect()
}

impl SegmentPart {
    /// Returns the offset of the part's first byte in the data of the segment.
    pub fn start(&self) -> usize {
        self.from
    }

    /// Returns the number of the part's bytes.
    pub fn data(&self) -> usize {
        self.to - self.from
    }

    /// Writes the part to `space` as a frame: the first `headers` bytes of `frame`, which holds the
    /// segment, and the data of the part. With `with_checksum`, the TCP checksum is computed.
    pub fn write(&self, frame: &[u8], headers: usize, space: &mut [u8], with_checksum: bool) {
        let bytes = frame.get(..headers).zip(frame.get(headers + self.from..headers + self.to));
        let (Some((first, data)), Some((head, tail))) = (bytes, space.split_at_mut_checked(headers)) else { return };
        if tail.len() != data.len() {
            return;
        }
        head.copy_from_slice(first);
        tail.copy_from_slice(data);
        let Some(mut packet) = space.get_mut(ETHERNET_HEADER..).map(Ipv4Packet::new_unchecked) else { return };
        packet.set_total_len((headers - ETHERNET_HEADER + self.data()) as u16);
        packet.fill_checksum();
        let (from, to) = (IpAddress::Ipv4(packet.src_addr()), IpAddress::Ipv4(packet.dst_addr()));
        let mut segment = TcpPacket::new_unchecked(packet.payload_mut());
        let seq = segment.seq_number();
        segment.set_seq_number(seq + self.from);
        if !self.last {
            segment.set_psh(false);
            segment.set_fin(false);
        }
        if with_checksum {
            segment.fill_checksum(&from, &to);
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use smoltcp::wire::TcpSeqNumber;

    use super::*;

    const HEADERS: usize = ETHERNET_HEADER + IPV4_HEADER + 20;

    /// Returns a frame as smoltcp builds it, without checksums.
    fn frame(seq: u32, data: &[u8], fin: bool) -> Vec<u8> {
        let mut frame = vec![0; HEADERS];
        frame[12..14].copy_from_slice(&[0x08, 0x00]);
        frame.extend(data);
        let mut packet = Ipv4Packet::new_unchecked(&mut frame[ETHERNET_HEADER..]);
        packet.set_version(4);
        packet.set_header_len(20);
        packet.set_total_len((20 + 20 + data.len()) as u16);
        packet.set_next_header(smoltcp::wire::IpProtocol::Tcp);
        packet.set_src_addr([10, 0, 0, 2].into());
        packet.set_dst_addr([10, 0, 0, 1].into());
        let mut segment = TcpPacket::new_unchecked(packet.payload_mut());
        segment.set_header_len(20);
        segment.set_seq_number(TcpSeqNumber(seq as i32));
        segment.set_ack_number(TcpSeqNumber(77));
        segment.set_ack(true);
        segment.set_psh(true);
        segment.set_fin(fin);
        frame
    }

    #[test]
    fn the_contents_of_a_frame_are_read_from_its_headers() {
        let mut bytes = frame(5, b"abc", true);
        let built = outgoing(&bytes).unwrap();
        assert_eq!(
            built,
            BuiltSegment { flags: TcpFlags::FIN | TcpFlags::PSH | TcpFlags::ACK, seq: 5, ack: 77, data: 3 }
        );
        assert_eq!(built.length(), 4);
        bytes[47] = 0x12;
        assert_eq!(outgoing(&bytes).map(|built| (built.flags.has_syn(), built.length())), Some((true, 0)));
        bytes[23] = 17;
        assert_eq!(outgoing(&bytes), None);
        assert_eq!(outgoing(&frame(5, b"", false)[..40]), None);
    }

    #[test]
    fn empty_segments_and_probes_are_sent_as_they_are() {
        let wanted = SendRanges { base: 1000, ranges: [(500, u32::MAX)].into_iter().collect() };
        for (seq, data) in [(1100, &b""[..]), (999, b"\0")] {
            let built = outgoing(&frame(seq, data, false)).unwrap();
            assert_eq!(selected_parts(built, &wanted)[..], [SegmentPart { from: 0, to: data.len(), last: true }]);
        }
    }

    proptest! {
        #[test]
        fn parts_are_complete_segments_with_the_selected_bytes(
            base: u32, offset in 0u32..300, data in prop::collection::vec(any::<u8>(), 0..300), fin: bool,
            edges in prop::collection::btree_set(0u32..700, 0..16),
        ) {
            let edges: Vec<u32> = edges.into_iter().collect();
            let wanted = SendRanges { base, ranges: edges.chunks_exact(2).map(|pair| (pair[0], pair[1])).collect() };
            let bytes = frame(base.wrapping_add(offset), &data, fin);
            let built = outgoing(&bytes).unwrap();
            prop_assume!(built.length() > 0);
            let mut sent = vec![None; data.len() + usize::from(fin)];
            for part in selected_parts(built, &wanted) {
                let mut space = vec![0; HEADERS + part.data()];
                part.write(&bytes, HEADERS, &mut space, true);
                let packet = Ipv4Packet::new_checked(&space[ETHERNET_HEADER..]).unwrap();
                prop_assert!(packet.verify_checksum());
                let (from, to) = (IpAddress::Ipv4(packet.src_addr()), IpAddress::Ipv4(packet.dst_addr()));
                let segment = TcpPacket::new_checked(packet.payload()).unwrap();
                prop_assert!(segment.verify_checksum(&from, &to) && segment.ack_number() == TcpSeqNumber(77));
                let start = (segment.seq_number().0 as u32).wrapping_sub(built.seq) as usize;
                for (place, byte) in sent[start..].iter_mut().zip(segment.payload()) {
                    prop_assert_eq!(place.replace(*byte), None);
                }
                if segment.fin() {
                    prop_assert_eq!(start + segment.payload().len(), data.len());
                    sent[data.len()] = Some(0);
                }
            }
            for (at, (sent, byte)) in sent.iter().zip(data.iter().chain([&0])).enumerate() {
                let at = offset + at as u32;
                let expected = wanted.ranges.iter().any(|range| (range.0..range.1).contains(&at));
                prop_assert_eq!(*sent, expected.then_some(*byte), "{}", at);
            }
        }
    }
}
