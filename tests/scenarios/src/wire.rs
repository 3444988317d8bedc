//! Frames on the way between the image and the client, and the client's device.

use std::collections::VecDeque;

use cloister_interfaces::net::Offload;
use smoltcp::phy::{Device, DeviceCapabilities, Medium, RxToken, TxToken};
use smoltcp::time::Instant;
use smoltcp::wire::{IpAddress, IpProtocol, Ipv4Packet, TcpPacket, checksum};

/// The wire between the image and the client.
pub struct Wire {
    /// The size of the client's largest packet, in bytes.
    mtu: usize,
    /// Frames to the client.
    pub to_client: VecDeque<Vec<u8>>,
    /// Frames to the image.
    pub to_server: VecDeque<Vec<u8>>,
    /// One in this number of frames is lost, in either direction.
    pub lose_every: Option<u64>,
    sent: u64,
}

impl Default for Wire {
    fn default() -> Self {
        Self::of(1500)
    }
}

impl Wire {
    /// Creates a wire to a client with this MTU.
    #[must_use]
    pub fn of(mtu: usize) -> Self {
        Wire { mtu, to_client: VecDeque::new(), to_server: VecDeque::new(), lose_every: None, sent: 0 }
    }

    /// Returns `true` if the next frame arrives.
    pub fn keeps(&mut self) -> bool {
        self.sent += 1;
        self.lose_every.is_none_or(|every| !self.sent.is_multiple_of(every))
    }
}

/// Does the work that a front end leaves to the link, as Linux does it: cuts an IPv4 and TCP frame
/// into segments, and completes their checksums.
///
/// # Panics
/// The frame is not one that a front end can leave to the link.
#[must_use]
pub fn finish(frame: Vec<u8>, offload: Offload) -> Vec<Vec<u8>> {
    const ETHERNET: usize = 14;
    let size = match offload {
        Offload::None => return vec![frame],
        Offload::Checksum => usize::MAX,
        Offload::Segments(size) => usize::from(size.get()),
    };
    let packet = Ipv4Packet::new_checked(&frame[ETHERNET..]).expect("a packet");
    let (from, to) = (IpAddress::Ipv4(packet.src_addr()), IpAddress::Ipv4(packet.dst_addr()));
    let segment = TcpPacket::new_checked(packet.payload()).expect("a segment");
    let start = ETHERNET + usize::from(packet.header_len()) + usize::from(segment.header_len());
    let length = packet.total_len() - u16::from(packet.header_len());
    let sum = checksum::pseudo_header_v4(&packet.src_addr(), &packet.dst_addr(), IpProtocol::Tcp, u32::from(length));
    assert_eq!(segment.checksum(), sum, "the checksum field holds the sum of the pseudo-header");
    let (headers, data) = frame.split_at(start);
    assert!(size == usize::MAX || data.len() > size, "one segment is not to be cut");
    let parts: Vec<&[u8]> = if data.is_empty() { vec![data] } else { data.chunks(size).collect() };
    let last = parts.len() - 1;
    let cut = |(at, part): (usize, &&[u8])| {
        let mut frame = [headers, part].concat();
        let mut packet = Ipv4Packet::new_unchecked(&mut frame[ETHERNET..]);
        packet.set_total_len((headers.len() - ETHERNET + part.len()) as u16);
        packet.fill_checksum();
        let mut segment = TcpPacket::new_unchecked(packet.payload_mut());
        let sequence = segment.seq_number();
        segment.set_seq_number(sequence + at * size.min(data.len()));
        let (push, end) = (segment.psh() && at == last, segment.fin() && at == last);
        segment.set_psh(push);
        segment.set_fin(end);
        segment.fill_checksum(&from, &to);
        frame
    };
    parts.iter().enumerate().map(cut).collect()
}

/// Removes the next frame to the image, joined with the following frames that continue its data, up
/// to four full segments. A sender that leaves segmentation to its link sends such frames.
///
/// # Panics
/// Never: a frame that is no whole segment stays alone.
#[must_use]
pub fn join(frames: &mut VecDeque<Vec<u8>>) -> Option<Vec<u8>> {
    const ETHERNET: usize = 14;
    const MOST: usize = 4 * 1460;
    let mut frame = frames.pop_front()?;
    while let (Some((start, _, next)), Some(other)) = (data(&frame), frames.front()) {
        let follows = data(other).is_some_and(|(from, first, end)| from == start && first == next && end != next);
        // Addresses and ports, and the fields of the header before the window, except the sequence
        // number.
        let same = frame[26..38] == other[26..38] && frame[42..47] == other[42..47];
        if !follows || !same || frame.len() + other.len() - 2 * start > MOST {
            break;
        }
        let other = frames.pop_front().unwrap_or_default();
        frame.extend_from_slice(&other[start..]);
        let length = frame.len() - ETHERNET;
        let mut packet = Ipv4Packet::new_unchecked(&mut frame[ETHERNET..]);
        packet.set_total_len(length as u16);
        packet.fill_checksum();
        let (from, to) = (packet.src_addr().into(), packet.dst_addr().into());
        let mut segment = TcpPacket::new_unchecked(packet.payload_mut());
        segment.set_psh(true);
        segment.fill_checksum(&from, &to);
    }
    Some(frame)
}

/// Returns the offset of a segment's data in its frame, and its first sequence number and the one
/// after its last. Returns `None` if it is not a plain segment.
fn data(frame: &[u8]) -> Option<(usize, i32, i32)> {
    let packet = Ipv4Packet::new_checked(frame.get(14..)?).ok()?;
    if frame[12..14] != [8, 0] || packet.next_header() != IpProtocol::Tcp {
        return None;
    }
    let segment = TcpPacket::new_checked(packet.payload()).ok()?;
    let plain = segment.ack() && !segment.syn() && !segment.fin() && !segment.rst();
    let start = 14 + usize::from(packet.header_len()) + usize::from(segment.header_len());
    let first = segment.seq_number().0;
    plain.then(|| (start, first, first.wrapping_add(segment.payload().len() as i32)))
}

/// A frame that the client received.
pub struct Received(Vec<u8>);

impl RxToken for Received {
    fn consume<R, F: FnOnce(&[u8]) -> R>(self, f: F) -> R {
        f(&self.0)
    }
}

/// Sends the client's next frame.
pub struct Sending<'a>(&'a mut Wire);

impl TxToken for Sending<'_> {
    fn consume<R, F: FnOnce(&mut [u8]) -> R>(self, length: usize, f: F) -> R {
        let mut frame = vec![0; length];
        let result = f(&mut frame);
        if self.0.keeps() {
            self.0.to_server.push_back(frame);
        }
        result
    }
}

impl Device for Wire {
    type RxToken<'a> = Received;
    type TxToken<'a> = Sending<'a>;
    fn receive(&mut self, _: Instant) -> Option<(Received, Sending<'_>)> {
        let frame = self.to_client.pop_front()?;
        Some((Received(frame), Sending(self)))
    }
    fn transmit(&mut self, _: Instant) -> Option<Sending<'_>> {
        Some(Sending(self))
    }
    fn capabilities(&self) -> DeviceCapabilities {
        let mut capabilities = DeviceCapabilities::default();
        capabilities.medium = Medium::Ethernet;
        capabilities.max_transmission_unit = self.mtu + 14;
        capabilities
    }
}
