//! The fields of a segment, and values at the limits of each.

use crate::packet::{ACK, ADDRESS, FIN, PSH, Packet, RST, SYN, URG};

/// The required effect of a wrong value. If a segment has several, the last of these holds.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub enum Outcome {
    /// The effect that TCP defines: only the invariants are checked.
    Open,
    /// The connection does not change, and nothing is sent.
    Silent,
    /// The connection does not change. The sender may get an answer.
    Harmless,
}
use Outcome::{Harmless, Open, Silent};

type Change = (Outcome, fn(&mut Packet));

/// A field, and its wrong values.
pub struct Field {
    pub name: &'static str,
    pub changes: &'static [Change],
}

macro_rules! field {
    ($name:literal, $place:ident: $($outcome:ident $value:expr),+ $(,)?) => {
        Field { name: $name, changes: &[$(($outcome, |packet| packet.$place = $value)),+] }
    };
}
/// A field whose values are relative to the right one.
macro_rules! relative {
    ($name:literal, $place:ident: $($outcome:ident $value:expr),+ $(,)?) => {
        Field { name: $name, changes: &[$(($outcome, |packet| packet.$place = packet.$place.wrapping_add($value))),+] }
    };
}

/// Every field. `ip length` and those after it up to `ports` have the same effect in all states
/// except the one that accepts any peer.
pub const FIELDS: [Field; 25] = [
    field!("ethernet destination", eth_to: Silent [2, 0, 0, 0, 0, 2], Silent [0; 6], Open [0xFF; 6], Open [1, 0, 0x5E, 0, 0, 1]),
    field!("ethernet source", eth_from: Open [0; 6], Open [0xFF; 6], Open [2, 0, 0, 0, 0, 1]),
    field!("ethernet type", eth_type: Silent 0, Silent 0x0806, Silent 0x86DD, Silent 0x8100, Silent 0xFFFF),
    field!("ip version", version: Silent 0, Silent 5, Silent 6, Silent 15),
    field!("ip header length", ihl: Silent 0, Silent 4, Silent 6, Silent 15),
    Field {
        name: "ip length",
        changes: &[
            (Silent, |packet| packet.total_length = Some(0)),
            (Silent, |packet| packet.total_length = Some(19)),
            (Silent, |packet| packet.total_length = Some(20)),
            (Silent, |packet| packet.total_length = Some(39)),
            (Silent, |packet| packet.longer = 1),
            (Silent, |packet| packet.total_length = Some(u16::MAX)),
        ],
    },
    field!("ip identification", id: Open 0, Open u16::MAX),
    field!("ip fragment", fragment: Open 0, Open 0x2000, Open 0x2001, Open 0x0001, Open 0x1FFF, Open 0x3FFF, Open 0x8000),
    field!("ip time to live", ttl: Open 0, Open 1, Open 255),
    field!("ip protocol", protocol: Harmless 0, Harmless 1, Harmless 2, Harmless 17, Harmless 255),
    field!("ip checksum", ip_checksum: Silent Some(1), Silent Some(0x8000)),
    field!("ip source", from: Harmless 0, Harmless 0x7F00_0001, Harmless 0xE000_0001, Harmless u32::MAX, Harmless 0x0A00_00FF, Harmless ADDRESS),
    field!("ip destination", to: Harmless 0, Harmless 0x0A00_0003, Harmless 0xE000_0001, Harmless 0x7F00_0001),
    field!("source port", from_port: Open 0, Open 1, Open u16::MAX),
    field!("destination port", to_port: Harmless 0, Harmless 81, Harmless u16::MAX),
    relative!("sequence number", seq: Open 1, Open u32::MAX, Open 2047, Open 2048, Open 2049, Open 0x7FFF_FFFF, Open 0x8000_0000, Open 0u32.wrapping_sub(2048)),
    relative!("acknowledgement", ack: Open 1, Open u32::MAX, Open 4096, Open 0u32.wrapping_sub(4096), Open 0x7FFF_FFFF, Open 0x8000_0000),
    field!("data offset", offset: Silent Some(0), Silent Some(4), Silent Some(15)),
    field!("flags", flags:
        Open 0, Open FIN, Open SYN, Open RST, Open PSH, Open ACK, Open URG, Open FIN | ACK, Open SYN | ACK, Open RST | ACK, Open SYN | FIN,
        Open SYN | RST, Open FIN | RST, Open SYN | FIN | ACK, Open SYN | FIN | RST | ACK, Open PSH | URG | ACK, Open 0x3F, Open 0xFF),
    field!("window", window: Open 0, Open 1, Open u16::MAX),
    field!("checksum", checksum: Silent Some(1), Silent Some(0x8000)),
    field!("urgent pointer", urgent: Open 1, Open u16::MAX),
    Field {
        name: "options",
        changes: &[
            (Open, |packet| packet.options = vec![0; 4]),
            (Open, |packet| packet.options = vec![1, 1, 1, 1]),
            (Open, |packet| packet.options = vec![2, 4, 0, 0]),
            (Open, |packet| packet.options = vec![2, 4, 0xFF, 0xFF]),
            (Open, |packet| packet.options = vec![2, 0, 0, 0]),
            (Open, |packet| packet.options = vec![2, 1, 0, 0]),
            (Open, |packet| packet.options = vec![2, 5, 0, 0]),
            (Open, |packet| packet.options = vec![1, 1, 1, 2]),
            (Open, |packet| packet.options = vec![3, 3, 15, 1]),
            (Open, |packet| packet.options = vec![4, 2, 3, 3]),
            (Open, |packet| packet.options = vec![5, 10, 0, 0, 0, 0, 0xFF, 0xFF, 0xFF, 0xFF, 1, 1]),
            (Open, |packet| packet.options = vec![8, 10, 0xFF, 0xFF, 0xFF, 0xFF, 0, 0, 0, 0, 1, 1]),
            (Open, |packet| packet.options = vec![0xFE, 0xFF, 1, 1]),
        ],
    },
    Field {
        name: "payload",
        changes: &[
            (Open, |packet| packet.payload.clear()),
            (Open, |packet| packet.payload = vec![b'x'; 1]),
            (Open, |packet| packet.payload = vec![b'x'; 1400]),
        ],
    },
    Field {
        name: "frame length",
        changes: &[
            (Silent, |packet| packet.cut = 1),
            (Silent, |packet| packet.cut = 21),
            (Open, |packet| packet.padding = 1),
            (Open, |packet| packet.padding = 46),
        ],
    },
];

/// The three fields that drive TCP's state machine. All their combinations are tried in every
/// state.
pub const CORE: [&str; 3] = ["sequence number", "acknowledgement", "flags"];
