//! A TCP segment in its frame, every field of which can be wrong.

/// The peer's and the image's addresses.
pub const PEER_MAC: [u8; 6] = [2, 0, 0, 0, 0, 9];
pub const MAC: [u8; 6] = [2, 0, 0, 0, 0, 1];
pub const PEER: u32 = 0x0A00_0001;
pub const ADDRESS: u32 = 0x0A00_0002;

pub const FIN: u8 = 1;
pub const SYN: u8 = 2;
pub const RST: u8 = 4;
pub const PSH: u8 = 8;
pub const ACK: u8 = 16;
pub const URG: u8 = 32;

/// The fields of the frame. A length or a checksum that is `None` is the right one. For a checksum,
/// `Some` is the difference from the right one.
#[derive(Clone, Debug)]
pub struct Packet {
    pub eth_to: [u8; 6],
    pub eth_from: [u8; 6],
    pub eth_type: u16,
    pub version: u8,
    pub ihl: u8,
    pub total_length: Option<u16>,
    /// The number of bytes by which it exceeds the right length.
    pub longer: u16,
    pub id: u16,
    pub fragment: u16,
    pub ttl: u8,
    pub protocol: u8,
    pub ip_checksum: Option<u16>,
    pub from: u32,
    pub to: u32,
    pub from_port: u16,
    pub to_port: u16,
    pub seq: u32,
    pub ack: u32,
    pub offset: Option<u8>,
    pub flags: u8,
    pub window: u16,
    pub checksum: Option<u16>,
    pub urgent: u16,
    pub options: Vec<u8>,
    pub payload: Vec<u8>,
    /// The number of bytes cut off the end of the frame, or added to it.
    pub cut: usize,
    pub padding: usize,
}

impl Packet {
    pub fn new(from_port: u16, to_port: u16, seq: u32, ack: u32, flags: u8, payload: &[u8]) -> Self {
        Packet {
            eth_to: MAC,
            eth_from: PEER_MAC,
            eth_type: 0x0800,
            version: 4,
            ihl: 5,
            total_length: None,
            longer: 0,
            id: 7,
            fragment: 0x4000,
            ttl: 64,
            protocol: 6,
            ip_checksum: None,
            from: PEER,
            to: ADDRESS,
            from_port,
            to_port,
            seq,
            ack,
            offset: None,
            flags,
            window: 4096,
            checksum: None,
            urgent: 0,
            options: Vec::new(),
            payload: payload.to_vec(),
            cut: 0,
            padding: 0,
        }
    }

    fn tcp(&self) -> Vec<u8> {
        let mut tcp = Vec::with_capacity(64);
        tcp.extend(self.from_port.to_be_bytes());
        tcp.extend(self.to_port.to_be_bytes());
        tcp.extend(self.seq.to_be_bytes());
        tcp.extend(self.ack.to_be_bytes());
        tcp.push(self.offset.unwrap_or(5 + self.options.len() as u8 / 4) << 4);
        tcp.push(self.flags);
        tcp.extend(self.window.to_be_bytes());
        tcp.extend([0, 0]);
        tcp.extend(self.urgent.to_be_bytes());
        tcp.extend(&self.options);
        tcp.extend(&self.payload);
        let pseudo = [
            &self.from.to_be_bytes()[..],
            &self.to.to_be_bytes(),
            &[0, self.protocol],
            &(tcp.len() as u16).to_be_bytes(),
            &tcp,
        ]
        .concat();
        let sum = checksum(&pseudo).wrapping_add(self.checksum.unwrap_or(0));
        tcp[16..18].copy_from_slice(&sum.to_be_bytes());
        tcp
    }

    pub fn frame(&self) -> Vec<u8> {
        let tcp = self.tcp();
        let mut frame = Vec::with_capacity(96);
        frame.extend(self.eth_to);
        frame.extend(self.eth_from);
        frame.extend(self.eth_type.to_be_bytes());
        frame.extend([self.version << 4 | self.ihl, 0]);
        frame.extend(self.total_length.unwrap_or(20 + tcp.len() as u16 + self.longer).to_be_bytes());
        frame.extend(self.id.to_be_bytes());
        frame.extend(self.fragment.to_be_bytes());
        frame.extend([self.ttl, self.protocol, 0, 0]);
        frame.extend(self.from.to_be_bytes());
        frame.extend(self.to.to_be_bytes());
        let sum = checksum(&frame[14..34]).wrapping_add(self.ip_checksum.unwrap_or(0));
        frame[24..26].copy_from_slice(&sum.to_be_bytes());
        frame.extend(tcp);
        frame.truncate(frame.len() - self.cut);
        frame.resize(frame.len() + self.padding, 0);
        frame
    }
}

/// Returns the Internet checksum (RFC 1071).
pub fn checksum(bytes: &[u8]) -> u16 {
    let words = bytes.chunks(2).map(|pair| u32::from(pair[0]) << 8 | u32::from(pair.get(1).copied().unwrap_or(0)));
    let sum = words.sum::<u32>();
    let folded = (sum & 0xFFFF) + (sum >> 16);
    !((folded & 0xFFFF) + (folded >> 16)) as u16
}

/// A segment from the image: the fields that matter to its peer.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Answer {
    pub to_port: u16,
    pub flags: u8,
    pub seq: u32,
    pub ack: u32,
    pub length: usize,
}

/// Parses a frame of the image. Returns `None` if it is no TCP segment.
///
/// # Panics
/// It is not well-formed.
pub fn answer(frame: &[u8]) -> Option<Answer> {
    let word = |at: usize| u16::from_be_bytes([frame[at], frame[at + 1]]);
    let long = |at: usize| u32::from(word(at)) << 16 | u32::from(word(at + 2));
    assert!(frame.len() >= 34 && frame[6..12] == MAC, "a frame of the image");
    if word(12) != 0x0800 {
        assert_eq!(word(12), 0x0806, "the image speaks IPv4 and ARP");
        return None;
    }
    assert_eq!((frame[14], checksum(&frame[14..34])), (0x45, 0));
    let end = 14 + usize::from(word(16));
    assert!(end <= frame.len());
    if frame[23] != 6 {
        return None;
    }
    let tcp = &frame[34..end];
    let pseudo = [&frame[26..34], &[0, 6], &(tcp.len() as u16).to_be_bytes(), tcp].concat();
    assert_eq!(checksum(&pseudo), 0, "a segment of the image");
    let header = usize::from(tcp[12] >> 4) * 4;
    let length = tcp.len().checked_sub(header).expect("the header is in the segment");
    Some(Answer { to_port: word(36), flags: tcp[13], seq: long(38), ack: long(42), length })
}
