//! Frames whose segmentation or checksums are left to others, and the code that completes them, as
//! Linux does after its netback.

/// A frame, and the work that is left to do.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct Frame {
    /// Its bytes.
    pub bytes: Vec<u8>,
    /// `true` if its TCP or UDP checksum field holds only the sum of the pseudo-header.
    pub blank: bool,
    /// The payload size of the TCP segments that it must be cut into, in bytes.
    pub segment: Option<u16>,
}

impl From<Vec<u8>> for Frame {
    fn from(bytes: Vec<u8>) -> Self {
        Frame { bytes, blank: false, segment: None }
    }
}

const ETHERNET: usize = 14;
const TCP: u8 = 6;
const FIN: u8 = 0x01;
const PUSH: u8 = 0x08;
const UDP: u8 = 17;

fn be16(bytes: &[u8], at: usize) -> u16 {
    u16::from_be_bytes([bytes[at], bytes[at + 1]])
}

fn set_be16(bytes: &mut [u8], at: usize, value: u16) {
    bytes[at..at + 2].copy_from_slice(&value.to_be_bytes());
}

/// Returns the ones' complement sum of `bytes` (RFC 1071), added to `sum`.
fn add(sum: u16, bytes: &[u8]) -> u16 {
    let words = bytes.chunks(2).map(|pair| u64::from(u16::from_be_bytes([pair[0], pair.get(1).copied().unwrap_or(0)])));
    let mut sum = u64::from(sum) + words.sum::<u64>();
    while sum > 0xFFFF {
        sum = (sum & 0xFFFF) + (sum >> 16);
    }
    sum as u16
}

/// Returns the offsets of the transport header of an IPv4 frame and of its checksum, and the sum of
/// its pseudo-header.
fn transport(frame: &[u8]) -> (usize, usize, u16) {
    assert_eq!(be16(frame, 12), 0x0800, "only IPv4 frames are worked on");
    let header = ETHERNET + usize::from(frame[ETHERNET] & 15) * 4;
    let length = usize::from(be16(frame, ETHERNET + 2)) + ETHERNET - header;
    let protocol = frame[ETHERNET + 9];
    let field = match protocol {
        TCP => 16,
        UDP => 6,
        other => panic!("a checksum of protocol {other} is left out"),
    };
    let pseudo = add(u16::from(protocol), &(length as u16).to_be_bytes());
    (header, header + field, add(pseudo, &frame[ETHERNET + 12..ETHERNET + 20]))
}

/// Completes the checksum of a frame.
fn complete(frame: &mut [u8]) {
    let (header, field, pseudo) = transport(frame);
    let end = ETHERNET + usize::from(be16(frame, ETHERNET + 2));
    set_be16(frame, field, 0);
    let sum = !add(pseudo, &frame[header..end]);
    set_be16(frame, field, if sum == 0 { 0xFFFF } else { sum });
}

/// Replaces the checksum of a frame by the sum of the pseudo-header.
fn blank(frame: &mut [u8]) {
    let (_, field, pseudo) = transport(frame);
    set_be16(frame, field, pseudo);
}

impl Frame {
    /// Wraps a whole TCP or UDP frame without its checksum. It must be cut if `segment` says so.
    #[must_use]
    pub fn unfinished(mut bytes: Vec<u8>, segment: Option<u16>) -> Self {
        blank(&mut bytes);
        Frame { bytes, blank: true, segment }
    }

    /// Returns the frames with consecutive TCP segments merged, as Linux does on receipt.
    #[must_use]
    pub fn merged(frames: impl IntoIterator<Item = Vec<u8>>) -> Vec<Self> {
        let mut merged: Vec<Frame> = Vec::new();
        for frame in frames {
            if !merged.last_mut().is_some_and(|last| last.append(&frame)) {
                merged.push(frame.into());
            }
        }
        merged
    }

    /// Adds the payload of the TCP segment that follows this one. Returns `true` if it follows and
    /// there is room.
    fn append(&mut self, next: &[u8]) -> bool {
        let (Some((headers, payload)), Some((next_headers, more))) = (tcp_headers(&self.bytes), tcp_headers(next))
        else {
            return false;
        };
        let size = self.segment.map_or(payload.len(), usize::from);
        let sequence = |frame: &[u8]| u32::from_be_bytes([frame[38], frame[39], frame[40], frame[41]]);
        // Addresses and ports; the acknowledgement, the flags except push, the window, options.
        let alike = |frame: &[u8], headers: usize| {
            let flags = frame[47] & !PUSH;
            [&frame[..14], &frame[26..38], &frame[42..47], &[flags], &frame[48..50], &frame[52..headers]].concat()
        };
        let fits = self.bytes.len() + more.len() <= 0xFFFF && more.len() <= size && payload.len().is_multiple_of(size);
        let follows = sequence(next) == sequence(&self.bytes).wrapping_add(payload.len() as u32);
        if !fits || !follows || alike(&self.bytes, headers) != alike(next, next_headers) {
            return false;
        }
        let mut bytes = [&self.bytes[..], more].concat();
        let length = bytes.len() - ETHERNET;
        set_be16(&mut bytes, ETHERNET + 2, length as u16);
        set_be16(&mut bytes, ETHERNET + 10, 0);
        let sum = !add(0, &bytes[ETHERNET..34]);
        set_be16(&mut bytes, ETHERNET + 10, sum);
        bytes[47] |= next[47] & PUSH;
        *self = Frame::unfinished(bytes, Some(size as u16));
        true
    }

    /// Returns the frames that it is cut into, with their checksums.
    ///
    /// # Panics
    /// The checksum field does not hold the required value.
    #[must_use]
    pub fn packets(self) -> Vec<Vec<u8>> {
        let mut bytes = self.bytes;
        if self.blank {
            let (_, field, pseudo) = transport(&bytes);
            assert_eq!(be16(&bytes, field), pseudo, "a checksum is left out, but its field is not the pseudo-header's");
        }
        match self.segment {
            Some(size) => cut(&bytes, usize::from(size)),
            None if self.blank => {
                complete(&mut bytes);
                vec![bytes]
            }
            None => vec![bytes],
        }
    }
}

/// Returns the sizes of the headers and of the payload of a TCP segment that can be merged with
/// another: it has payload, an IPv4 header of 20 bytes, and no flags except acknowledge and push.
fn tcp_headers(frame: &[u8]) -> Option<(usize, &[u8])> {
    const ACK: u8 = 0x10;
    let plain = frame.len() > 54 && frame[12..15] == [8, 0, 0x45] && frame[23] == TCP && frame[47] & !PUSH == ACK;
    let headers = 34 + usize::from(frame.get(46).filter(|_| plain)? >> 4) * 4;
    let end = ETHERNET + usize::from(be16(frame, 16));
    (end == frame.len() && headers < end).then(|| (headers, &frame[headers..]))
}

/// Cuts a TCP frame into segments of `size` bytes of payload.
fn cut(frame: &[u8], size: usize) -> Vec<Vec<u8>> {
    assert_eq!(frame[ETHERNET + 9], TCP, "only TCP is cut");
    let (tcp, ..) = transport(frame);
    let headers = tcp + usize::from(frame[tcp + 12] >> 4) * 4;
    let end = ETHERNET + usize::from(be16(frame, ETHERNET + 2));
    assert_eq!(end, frame.len(), "a frame to be cut has no padding");
    let payloads: Vec<&[u8]> = frame[headers..end].chunks(size).collect();
    assert!(!payloads.is_empty(), "a frame to be cut has payload");
    let sequence = u32::from_be_bytes(frame[tcp + 4..tcp + 8].try_into().expect("four bytes"));
    let make = |(index, payload): (usize, &&[u8])| {
        let mut packet = [&frame[..headers], payload].concat();
        let length = packet.len() - ETHERNET;
        set_be16(&mut packet, ETHERNET + 2, length as u16);
        let id = be16(frame, ETHERNET + 4).wrapping_add(index as u16);
        set_be16(&mut packet, ETHERNET + 4, id);
        set_be16(&mut packet, ETHERNET + 10, 0);
        let sum = !add(0, &packet[ETHERNET..tcp]);
        set_be16(&mut packet, ETHERNET + 10, sum);
        let sequence = sequence.wrapping_add((index * size) as u32);
        packet[tcp + 4..tcp + 8].copy_from_slice(&sequence.to_be_bytes());
        if index + 1 < payloads.len() {
            packet[tcp + 13] &= !(FIN | PUSH);
        }
        complete(&mut packet);
        packet
    };
    payloads.iter().enumerate().map(make).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Returns a TCP frame with `length` bytes of payload and a correct checksum.
    fn tcp_frame(length: usize) -> Vec<u8> {
        let mut frame = vec![0; 54 + length];
        frame[12..14].copy_from_slice(&[8, 0]);
        frame[14] = 0x45;
        set_be16(&mut frame, 16, (40 + length) as u16);
        (frame[23], frame[26], frame[30]) = (TCP, 10, 11);
        (frame[46], frame[47]) = (0x50, 0x19);
        for (index, byte) in frame[54..].iter_mut().enumerate() {
            *byte = (index % 251) as u8;
        }
        complete(&mut frame);
        frame
    }

    fn is_right(frame: &[u8]) -> bool {
        let (tcp, _, pseudo) = transport(frame);
        add(pseudo, &frame[tcp..]) == 0xFFFF
    }

    #[test]
    fn a_checksum_that_was_left_out_is_completed() {
        let whole = tcp_frame(101);
        let frame = Frame::unfinished(whole.clone(), None);
        assert_ne!(frame.bytes, whole);
        assert_eq!(frame.packets(), [whole]);
    }

    #[test]
    fn segments_are_packets_of_their_own() {
        let whole = tcp_frame(2500);
        let packets = Frame::unfinished(whole.clone(), Some(1000)).packets();
        assert_eq!(packets.iter().map(Vec::len).collect::<Vec<_>>(), [1054, 1054, 554]);
        assert!(packets.iter().all(|packet| is_right(packet) && add(0, &packet[14..34]) == 0xFFFF));
        assert_eq!(packets.iter().flat_map(|packet| &packet[54..]).copied().collect::<Vec<_>>(), &whole[54..]);
        assert_eq!(packets.iter().map(|packet| packet[47]).collect::<Vec<_>>(), [0x10, 0x10, 0x19]);
        assert_eq!(packets.iter().map(|packet| be16(packet, 40)).collect::<Vec<_>>(), [0, 1000, 2000]);
    }

    #[test]
    fn cut_segments_are_joined() {
        let mut whole = tcp_frame(2500);
        whole[47] = 0x18;
        complete(&mut whole);
        let sum = !add(0, &whole[14..34]);
        set_be16(&mut whole, 24, sum);
        let packets = Frame::unfinished(whole.clone(), Some(1000)).packets();
        assert_eq!(Frame::merged(packets.clone()), [Frame::unfinished(whole, Some(1000))]);
        let gap = [packets[0].clone(), packets[2].clone()];
        assert_eq!(Frame::merged(gap.clone()), gap.map(Frame::from));
    }

    #[test]
    #[should_panic(expected = "not the pseudo-header's")]
    fn a_whole_checksum_is_not_one_that_was_left_out() {
        let _ = Frame { bytes: tcp_frame(10), blank: true, segment: None }.packets();
    }
}
