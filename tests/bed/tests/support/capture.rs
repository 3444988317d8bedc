//! Reads what `tcpdump` has recorded at the image's interface: the connections of one client.

use std::collections::BTreeMap;
use std::time::Duration;

/// The length of the header of a capture, of a packet in it, and of an Ethernet frame
/// (`pcap-savefile(5)`).
const FILE_HEADER: usize = 24;
const PACKET_HEADER: usize = 16;
const ETHERNET: usize = 14;
/// The number of the format with microseconds, in this machine's byte order.
const MAGIC: u32 = 0xa1b2_c3d4;
const SYN: u8 = 2;
const RST: u8 = 4;
const ACK: u8 = 16;

/// A connection, as the interface saw it.
#[derive(Clone, Debug, Default)]
pub struct Connection {
    /// The number of the client's SYNs.
    pub syns: usize,
    /// The server reset it.
    pub reset: bool,
    /// The time from the first SYN to the answer to it, and to the last byte that the server sent.
    pub answered: Option<Duration>,
    pub served: Option<Duration>,
    /// The segments, one a line, for a person to read.
    pub text: String,
}

/// Returns the connections that `client` has opened, in order. Connections that began before the
/// capture are left out.
///
/// # Panics
/// `capture` is no capture of Ethernet frames with IPv4 headers.
pub fn connections(capture: &[u8], client: [u8; 4]) -> Vec<Connection> {
    let number = |at: usize| u32::from_le_bytes(capture[at..at + 4].try_into().expect("four bytes"));
    assert_eq!(number(0), MAGIC, "a capture");
    let (mut all, mut of_port) = (Vec::<(Duration, u32, Connection)>::new(), BTreeMap::new());
    let mut at = FILE_HEADER;
    while at + PACKET_HEADER <= capture.len() {
        let time = Duration::from_secs(number(at).into()) + Duration::from_micros(number(at + 4).into());
        let start = at + PACKET_HEADER;
        at = start + number(at + 8) as usize;
        let Some(segment) = capture.get(start..at).and_then(Segment::read) else { continue };
        let own = segment.from == client;
        if own && segment.flags & SYN != 0 {
            let known = of_port.get(&segment.port).is_some_and(|index: &usize| all[*index].1 == segment.seq);
            if !known {
                of_port.insert(segment.port, all.len());
                all.push((time, segment.seq, Connection::default()));
            }
        }
        let Some((began, _, connection)) = of_port.get(&segment.port).map(|index| &mut all[*index]) else { continue };
        let since = time.saturating_sub(*began);
        connection.text += &format!("{since:?} {} {segment:?}\n", if own { '>' } else { '<' });
        if own {
            connection.syns += usize::from(segment.flags & SYN != 0);
            continue;
        }
        connection.reset |= segment.flags & RST != 0;
        if segment.flags & (SYN | ACK) == SYN | ACK {
            connection.answered.get_or_insert(since);
        }
        if segment.data > 0 {
            connection.served = Some(since);
        }
    }
    all.into_iter().map(|(.., connection)| connection).collect()
}

/// A TCP segment.
#[derive(Debug)]
struct Segment {
    from: [u8; 4],
    /// The port that is not 80.
    port: u16,
    seq: u32,
    flags: u8,
    /// The number of its bytes of data.
    data: usize,
}

impl Segment {
    /// Reads the headers of a frame. Returns `None` if it is no TCP segment to or from port 80.
    fn read(frame: &[u8]) -> Option<Self> {
        let word = |at: usize| Some(u16::from_be_bytes(frame.get(at..at + 2)?.try_into().ok()?));
        if word(ETHERNET - 2)? != 0x800 || *frame.get(ETHERNET + 9)? != 6 {
            return None;
        }
        let header = usize::from(frame.get(ETHERNET)? & 15) * 4;
        let tcp = ETHERNET + header;
        let ports = (word(tcp)?, word(tcp + 2)?);
        let seq = u32::from_be_bytes(frame.get(tcp + 4..tcp + 8)?.try_into().ok()?);
        let headers = header + usize::from(frame.get(tcp + 12)? >> 4) * 4;
        Some(Segment {
            from: frame.get(ETHERNET + 12..ETHERNET + 16)?.try_into().ok()?,
            port: if ports.0 == 80 { ports.1 } else { ports.0 },
            seq,
            flags: *frame.get(tcp + 13)?,
            data: usize::from(word(ETHERNET + 2)?).checked_sub(headers)?,
        })
    }
}
