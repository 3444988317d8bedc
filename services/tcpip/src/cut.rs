//! What is wanted of a segment that the stack builds once more, as frames of their own.

use arrayvec::ArrayVec;
use smoltcp::wire::{IpAddress, Ipv4Packet, TcpPacket};

use crate::frame::ETHERNET_HEADER;
use crate::recovery::{Outgoing, Wanted};

/// Bytes of an IPv4 header as the stack makes it: without options.
const IPV4_HEADER: usize = 20;

/// What `frame` carries, if the stack made it for a connection.
pub fn outgoing(frame: &[u8]) -> Option<Outgoing> {
    const FIN: u8 = 0x01;
    const SYN: u8 = 0x02;
    const TCP: u8 = 6;
    let (packet, segment) = frame.get(ETHERNET_HEADER..)?.split_first_chunk::<IPV4_HEADER>()?;
    let [q0, q1, q2, q3, a0, a1, a2, a3, offset, flags] = *segment.get(4..)?.first_chunk()?;
    if frame.get(12..ETHERNET_HEADER) != Some(&[0x08, 0x00]) || packet[9] != TCP {
        return None;
    }
    let headers = IPV4_HEADER + usize::from(offset >> 4) * 4;
    let data = usize::from(u16::from_be_bytes([packet[2], packet[3]])).saturating_sub(headers) as u32;
    Some(Outgoing {
        seq: u32::from_be_bytes([q0, q1, q2, q3]),
        ack: u32::from_be_bytes([a0, a1, a2, a3]),
        data,
        length: if flags & SYN == 0 { data + u32::from(flags & FIN) } else { 0 },
    })
}

/// A part of a segment: which of its bytes of data, from the one up to the other.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Part {
    from: usize,
    to: usize,
    /// It ends where the segment does, with all its flags.
    last: bool,
}

/// The parts of `segment` that are wanted.
pub fn parts(segment: Outgoing, wanted: &Wanted) -> ArrayVec<Part, { Wanted::MOST }> {
    let (from, data) = (segment.seq.wrapping_sub(wanted.base), segment.data as usize);
    // What takes nothing of the sequence, or asks whether the peer is there, is sent as it is.
    if segment.length == 0 || from > i32::MAX as u32 {
        return [Part { from: 0, to: data, last: true }].into_iter().collect();
    }
    let end = from + segment.length;
    let cut = |range: &(u32, u32)| {
        let (first, last) = (range.0.max(from), range.1.min(end));
        (first < last).then(|| Part {
            from: ((first - from) as usize).min(data),
            to: ((last - from) as usize).min(data),
            last: last == end,
        })
    };
    wanted.ranges.iter().filter_map(cut).collect()
}

impl Part {
    /// Its first byte of data.
    pub fn start(&self) -> usize {
        self.from
    }

    /// Bytes of its data.
    pub fn data(&self) -> usize {
        self.to - self.from
    }

    /// Writes it to `space`, as a frame of its own: the headers of `frame`, in which its segment is, and its data. `summed` has
    /// its TCP checksum made.
    pub fn write(&self, frame: &[u8], headers: usize, space: &mut [u8], summed: bool) {
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
        if summed {
            segment.fill_checksum(&from, &to);
        }
    }
}
