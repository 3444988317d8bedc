//! Valid frames, and frames with any field changed.

use arbitrary::Arbitrary;

use crate::script::{Bytes, Claim, Word};

/// Flags of a TCP segment (RFC 9293).
pub struct Flags;
impl Flags {
    pub const SYN: u8 = 2;
    pub const ACK: u8 = 16;
}

const OUR_ADDRESS: [u8; 4] = [10, 0, 0, 1];
const PEER_ADDRESS: [u8; 4] = [10, 0, 0, 2];
/// The link's hardware address.
pub const MAC: [u8; 6] = [2, 0, 0, 0, 0, 1];
/// The hardware address of the peer.
const PEER_MAC: [u8; 6] = [2, 0, 0, 0, 0, 9];

fn sum(bytes: &[u8], start: u32) -> u16 {
    let mut total = start;
    for pair in bytes.chunks(2) {
        total += u32::from(u16::from_be_bytes([pair[0], pair.get(1).copied().unwrap_or(0)]));
    }
    while total > 0xFFFF {
        total = (total & 0xFFFF) + (total >> 16);
    }
    !(total as u16)
}

/// Returns an Ethernet frame to tcpip.
fn ethernet(kind: u16, payload: &[u8]) -> Vec<u8> {
    [&MAC[..], &PEER_MAC, &kind.to_be_bytes(), payload].concat()
}

/// Returns an ARP request for tcpip's address.
pub fn arp() -> Vec<u8> {
    let mut frame = ethernet(0x806, &[0, 1, 8, 0, 6, 4, 0, 1]);
    frame[..6].fill(0xFF);
    [&frame[..], &PEER_MAC, &OUR_ADDRESS, &[0; 6], &PEER_ADDRESS].concat()
}

/// The fields of an IPv4 packet that may be changed.
#[derive(Arbitrary, Clone, Debug, Default)]
pub struct Ip {
    /// Changes of the header, such as of length, version or fragment: the offset of a byte and its
    /// value.
    pub changes: Vec<(u8, u8)>,
    /// `true` if the checksum stays wrong after the changes.
    pub bad_checksum: bool,
    pub from: Option<[u8; 4]>,
    pub to: Option<[u8; 4]>,
    pub options: u8,
}

fn ip(fields: &Ip, protocol: u8, payload: &[u8]) -> Vec<u8> {
    let options = usize::from(fields.options % 11) * 4;
    let length = 20 + options + payload.len();
    let mut header = vec![0x45 + (options / 4) as u8, 0];
    header.extend((length as u16).to_be_bytes());
    header.extend([0, 1, 0x40, 0, 64, protocol, 0, 0]);
    header.extend(fields.from.unwrap_or(OUR_ADDRESS));
    header.extend(fields.to.unwrap_or(PEER_ADDRESS));
    header.resize(20 + options, 1);
    for (at, value) in fields.changes.iter().take(4) {
        let at = usize::from(*at) % header.len();
        header[at] = *value;
    }
    if !fields.bad_checksum {
        header[10..12].fill(0);
        let check = sum(&header, 0);
        header[10..12].copy_from_slice(&check.to_be_bytes());
    }
    ethernet(0x800, &[&header[..], payload].concat())
}

fn pseudo(fields: &Ip, protocol: u8, payload: &[u8]) -> u32 {
    let (from, to) = (fields.from.unwrap_or(OUR_ADDRESS), fields.to.unwrap_or(PEER_ADDRESS));
    let words = [&from[..], &to, &[0, protocol], &(payload.len() as u16).to_be_bytes()].concat();
    u32::from(!sum(&words, 0))
}

/// A TCP segment.
#[derive(Clone, Debug)]
pub struct Segment {
    pub ip: Ip,
    pub from: u16,
    pub to: u16,
    pub sequence: u32,
    pub acknowledged: u32,
    pub flags: u8,
    pub window: u16,
    pub options: Vec<u8>,
    pub data: Vec<u8>,
    pub bad_checksum: bool,
}

impl Default for Segment {
    fn default() -> Self {
        Segment {
            ip: Ip::default(),
            from: 40_000,
            to: 80,
            sequence: 0,
            acknowledged: 0,
            flags: 0,
            window: 8192,
            options: Vec::new(),
            data: Vec::new(),
            bad_checksum: false,
        }
    }
}

/// Returns the frame of a segment.
pub fn tcp(segment: &Segment) -> Vec<u8> {
    let mut options = segment.options.clone();
    options.truncate(40);
    options.resize(options.len().next_multiple_of(4), 0);
    let mut bytes = [segment.from.to_be_bytes(), segment.to.to_be_bytes()].concat();
    bytes.extend(segment.sequence.to_be_bytes());
    bytes.extend(segment.acknowledged.to_be_bytes());
    bytes.extend([((5 + options.len() / 4) as u8) << 4, segment.flags]);
    bytes.extend(segment.window.to_be_bytes());
    bytes.extend([0; 4]);
    bytes.extend(options);
    bytes.extend(&segment.data);
    let check = sum(&bytes, pseudo(&segment.ip, 6, &bytes)).wrapping_add(u16::from(segment.bad_checksum));
    bytes[16..18].copy_from_slice(&check.to_be_bytes());
    ip(&segment.ip, 6, &bytes)
}

/// Returns the numbers of a frame of tcpip, if it is a TCP segment: its destination port, the
/// sequence number after it, and the number that it acknowledges.
pub fn numbers(frame: &[u8]) -> Option<(u16, u32, u32)> {
    if frame.get(12..14)? != [8, 0] || *frame.get(23)? != 6 {
        return None;
    }
    let header = usize::from(frame[14] & 15) * 4;
    let length = usize::from(u16::from_be_bytes([frame[16], frame[17]]));
    assert!(header >= 20 && length + 14 <= frame.len() && sum(&frame[14..14 + header], 0) == 0, "a bad IPv4 header");
    let tcp = &frame[14 + header..14 + length];
    let word = |at: usize| u32::from_be_bytes([tcp[at], tcp[at + 1], tcp[at + 2], tcp[at + 3]]);
    let data = tcp.len() - usize::from(tcp[12] >> 4) * 4;
    let counted = u32::from(tcp[13] & 1 != 0) + u32::from(tcp[13] & 2 != 0) + data as u32;
    Some((u16::from_be_bytes([tcp[2], tcp[3]]), word(4).wrapping_add(counted), word(8)))
}

/// A frame of a script.
#[derive(Arbitrary, Debug)]
pub enum Frame {
    Arp {
        changes: Vec<(u8, u8)>,
    },
    /// A segment of a connection from one of a few ports, with numbers relative to the right ones.
    Tcp {
        ip: Ip,
        from: u8,
        to: Option<u16>,
        sequence: Claim,
        acknowledged: Claim,
        flags: u8,
        window: Word,
        options: Bytes,
        data: u8,
        bad_checksum: bool,
    },
    Udp {
        ip: Ip,
        from: Word,
        to: Word,
        length: Option<Word>,
        data: Bytes,
        sum: Option<u16>,
    },
    /// An answer to a DHCP request, with these options.
    Dhcp {
        kind: u8,
        options: Bytes,
        transaction: Option<u32>,
    },
    Icmp {
        ip: Ip,
        kind: u8,
        code: u8,
        data: Bytes,
    },
    Ip {
        ip: Ip,
        protocol: u8,
        data: Bytes,
    },
    Any(Bytes),
}

fn udp(fields: &Ip, ports: [u16; 2], length: Option<u16>, data: &[u8], check: Option<u16>) -> Vec<u8> {
    let mut bytes = [ports[0].to_be_bytes(), ports[1].to_be_bytes()].concat();
    bytes.extend(length.unwrap_or(8 + data.len() as u16).to_be_bytes());
    bytes.extend([0; 2]);
    bytes.extend(data);
    let check = check.unwrap_or_else(|| sum(&bytes, pseudo(fields, 17, &bytes)));
    bytes[6..8].copy_from_slice(&check.to_be_bytes());
    ip(fields, 17, &bytes)
}

impl Frame {
    /// Returns the bytes of the frame. `last` has the numbers of each connection.
    pub fn bytes(&self, last: &std::collections::BTreeMap<u16, (u32, u32)>) -> Vec<u8> {
        match self {
            Frame::Arp { changes } => {
                let mut frame = arp();
                for (at, value) in changes {
                    let at = usize::from(*at) % frame.len();
                    frame[at] = *value;
                }
                frame
            }
            Frame::Tcp { ip, from, to, sequence, acknowledged, flags, window, options, data, bad_checksum } => {
                let from = 40_000 + u16::from(from % 6);
                let (next, expected) = last.get(&from).copied().unwrap_or_default();
                tcp(&Segment {
                    ip: ip.clone(),
                    from,
                    to: to.unwrap_or(80),
                    sequence: sequence.of(expected),
                    acknowledged: acknowledged.of(next),
                    flags: *flags,
                    window: window.0.wrapping_mul(100),
                    options: options.0.clone(),
                    data: vec![b'G'; usize::from(*data) * 4],
                    bad_checksum: *bad_checksum,
                })
            }
            Frame::Udp { ip, from, to, length, data, sum } => {
                udp(ip, [from.0, to.0], length.map(|length| length.0), &data.0, *sum)
            }
            Frame::Dhcp { kind, options, transaction } => {
                let mut message = vec![2, 1, 6, 0];
                message.extend(transaction.unwrap_or(0).to_be_bytes());
                message.extend([0; 8]);
                message.extend(PEER_ADDRESS);
                message.extend(OUR_ADDRESS);
                message.extend([0; 4]);
                message.extend(MAC);
                message.resize(236, 0);
                message.extend([0x63, 0x82, 0x53, 0x63, 53, 1, *kind, 54, 4, 10, 0, 0, 1]);
                message.extend(&options.0);
                let fields = Ip { to: Some([255; 4]), ..Ip::default() };
                udp(&fields, [67, 68], None, &message, None)
            }
            Frame::Icmp { ip: fields, kind, code, data } => {
                let mut bytes = vec![*kind, *code, 0, 0];
                bytes.extend(&data.0);
                let check = sum(&bytes, 0);
                bytes[2..4].copy_from_slice(&check.to_be_bytes());
                ip(fields, 1, &bytes)
            }
            Frame::Ip { ip: fields, protocol, data } => ip(fields, *protocol, &data.0),
            Frame::Any(Bytes(bytes)) => bytes.clone(),
        }
    }
}
