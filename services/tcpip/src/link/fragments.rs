//! Fragmentation of packets that are longer than the link's MTU (RFC 791, 3.2). TCP segments never
//! are. It is for long echo replies, mostly.

use smoltcp::wire::{IpProtocol, Ipv4Packet};

use super::frame::{ETHERNET_HEADER, MAX_REASSEMBLED};

/// The length of an IPv4 header that smoltcp writes: without options.
const HEADER: usize = 20;
/// The number of bytes in a frame before the data of its packet.
const BEFORE: usize = ETHERNET_HEADER + HEADER;

/// The part of a packet's data that goes into one fragment.
///
/// # Holding one proves
/// `from..to` lies inside the data of the packet that [`fragments`] was called for, and `from` is a
/// multiple of 8.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Fragment {
    from: usize,
    to: usize,
    last: bool,
}

/// Returns the fragments of the packet in a frame of `length` bytes, for a link that carries frames
/// of `whole` bytes.
pub fn fragments(length: usize, whole: usize) -> impl Iterator<Item = Fragment> {
    let data = length.saturating_sub(BEFORE);
    // The offset of a fragment is counted in units of 8 bytes.
    let step = (whole.saturating_sub(BEFORE) / 8 * 8).max(8);
    (0..data).step_by(step).map(move |from| {
        let to = (from + step).min(data);
        Fragment { from, to, last: to == data }
    })
}

impl Fragment {
    /// Returns the length of the fragment's frame.
    pub fn length(&self) -> usize {
        BEFORE + self.to - self.from
    }

    /// Writes the fragment to `space` as a frame: the headers of `frame`, which holds the whole
    /// packet, the identification `number` that all its fragments share, and the fragment's data.
    pub fn write(&self, frame: &[u8], number: u16, space: &mut [u8]) {
        let bytes = frame.get(..BEFORE).zip(frame.get(BEFORE + self.from..BEFORE + self.to));
        let (Some((headers, data)), Some((head, tail))) = (bytes, space.split_at_mut_checked(BEFORE)) else { return };
        if tail.len() != data.len() {
            return;
        }
        head.copy_from_slice(headers);
        tail.copy_from_slice(data);
        let Some(mut packet) = space.get_mut(ETHERNET_HEADER..).map(Ipv4Packet::new_unchecked) else { return };
        packet.set_total_len((HEADER + data.len()) as u16);
        packet.set_ident(number);
        packet.set_dont_frag(false);
        packet.set_more_frags(!self.last);
        packet.set_frag_offset(self.from as u16);
        packet.fill_checksum();
    }
}

/// Returns a frame to `mac` with the fragment of packet `number` that reaches as far as any that is
/// accepted.
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
    packet.set_frag_offset((MAX_REASSEMBLED - 8) as u16);
    packet.set_next_header(IpProtocol::Icmp);
    frame
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn fragments_reassemble_to_the_packet(length in BEFORE + 1..9000_usize, whole in BEFORE + 8..1600_usize) {
            let frame: Vec<u8> = (0..length).map(|index| if index == ETHERNET_HEADER { 0x45 } else { index as u8 }).collect();
            let (mut data, mut more) = (Vec::<u8>::new(), true);
            for fragment in fragments(length, whole) {
                let mut space = vec![0; fragment.length()];
                prop_assert!(space.len() <= whole && more);
                fragment.write(&frame, 77, &mut space);
                let packet = Ipv4Packet::new_checked(&space[ETHERNET_HEADER..]).unwrap();
                prop_assert!(packet.verify_checksum() && !packet.dont_frag());
                prop_assert_eq!((packet.ident(), usize::from(packet.frag_offset())), (77, data.len()));
                data.extend(packet.payload());
                more = packet.more_frags();
            }
            prop_assert!(!more);
            prop_assert_eq!(&data, &frame[BEFORE..]);
        }
    }
}
