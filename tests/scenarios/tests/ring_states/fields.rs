//! The back end's writes: each field of a response, of an extra info and of a ring's header, with
//! the values at which a check may be wrong.

use cloister_caps::PAGE_SIZE;
use cloister_caps::xen::ring::FIRST_SLOT;
pub use cloister_caps::xen::ring::{REQ_EVENT, REQ_PROD, RSP_EVENT, RSP_PROD};
use cloister_interfaces::Memory;
use cloister_sim::SharedMemory;

use crate::model::{EXTRA, MORE};

/// A ring.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Ring {
    Tx,
    Rx,
}

impl Ring {
    pub fn base(self) -> usize {
        if self == Ring::Rx { PAGE_SIZE } else { 0 }
    }

    pub fn slot(self, index: u32) -> usize {
        let size = if self == Ring::Rx { 8 } else { 12 };
        self.base() + FIRST_SLOT + (index % 256) as usize * size
    }
}

/// A ring as its back end sees it.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Indices {
    /// The numbers of requests and of responses.
    pub made: u32,
    pub answered: u32,
    pub req_event: u32,
    pub rsp_event: u32,
}

impl Indices {
    pub fn of(rings: &SharedMemory, ring: Ring) -> Self {
        let word = |at| rings.load(ring.base() + at);
        Indices {
            made: word(REQ_PROD),
            answered: word(RSP_PROD),
            req_event: word(REQ_EVENT),
            rsp_event: word(RSP_EVENT),
        }
    }

    fn word(&self, at: usize) -> u32 {
        match at {
            REQ_PROD => self.made,
            REQ_EVENT => self.req_event,
            RSP_PROD => self.answered,
            _ => self.rsp_event,
        }
    }
}

/// The ids that have a meaning in a state.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Ids {
    /// The first and the last id of the sent frames that have no response.
    pub first: u16,
    pub last: u16,
    /// The id of an answered frame, and the page of no frame so far.
    pub answered: u16,
    pub unused: u16,
    /// The second page of a long frame, or the value of `unused`.
    pub inside: u16,
    pub pages: u16,
}

/// A write.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Attack {
    /// A word of a header, at this offset.
    Word(Ring, usize, u32),
    /// A response on the transmit ring.
    Sent { id: u16, status: i16 },
    /// A response on the receive ring.
    Received { id: u16, offset: u16, flags: u16, status: i16 },
    /// An extra info: type, flags, size, type of segments, padding, features.
    Extra { kind: u8, flags: u8, size: u16, segments: u8, padding: u8, features: u16 },
    /// This number of slots of a frame. All but the last announce another; the last does if the
    /// frame has no end.
    Chain { slots: u32, status: i16, endless: bool },
}

fn respond(rings: &SharedMemory, ring: Ring, bytes: &[u8]) {
    let index = rings.load(ring.base() + RSP_PROD);
    rings.write(ring.slot(index), bytes);
    rings.store(ring.base() + RSP_PROD, index.wrapping_add(1));
}

/// Returns the write of a response to a sent frame.
pub fn sent(rings: &SharedMemory, id: u16, status: i16) {
    respond(rings, Ring::Tx, &[id.to_le_bytes(), status.to_le_bytes()].concat());
}

/// Returns the write of a response with the id `id`, or the right one.
pub fn received(rings: &SharedMemory, id: Option<u16>, offset: u16, flags: u16, status: i16) {
    let id = id.unwrap_or((rings.load(Ring::Rx.base() + RSP_PROD) % 256) as u16);
    let fields = [id.to_le_bytes(), offset.to_le_bytes(), flags.to_le_bytes(), status.to_le_bytes()];
    respond(rings, Ring::Rx, &fields.concat());
}

/// Returns the write of an extra info.
pub fn extra(rings: &SharedMemory, slot: [u8; 8]) {
    respond(rings, Ring::Rx, &slot);
}

impl Attack {
    /// Writes it. In the state `after_extra` the next slot is an extra info; in others one is
    /// announced first.
    pub fn write(self, rings: &SharedMemory, after_extra: bool) {
        match self {
            Attack::Word(ring, at, value) => rings.store(ring.base() + at, value),
            Attack::Sent { id, status } => sent(rings, id, status),
            Attack::Received { id, offset, flags, status } => received(rings, Some(id), offset, flags, status),
            Attack::Extra { kind, flags, size, segments, padding, features } => {
                if !after_extra {
                    received(rings, None, 0, EXTRA | MORE, 60);
                }
                let ([s0, s1], [f0, f1]) = (size.to_le_bytes(), features.to_le_bytes());
                extra(rings, [kind, flags, s0, s1, segments, padding, f0, f1]);
                if !after_extra {
                    received(rings, None, 0, 0, 60);
                }
            }
            Attack::Chain { slots, status, endless } => {
                for slot in 0..slots {
                    received(rings, None, 0, if endless || slot + 1 < slots { MORE } else { 0 }, status);
                }
            }
        }
    }
}

/// The values of one field, each as a change to an honest write.
type Values<T> = Vec<Box<dyn Fn(&mut T)>>;

fn values<T: 'static, V: Copy + 'static>(values: &[V], set: fn(&mut T, V)) -> Values<T> {
    let change = |value: &V| -> Box<dyn Fn(&mut T)> {
        let value = *value;
        Box::new(move |of| set(of, value))
    };
    values.iter().map(change).collect()
}

/// Returns every write with one wrong field, and with two.
fn combine<T: Copy>(honest: T, fields: &[Values<T>]) -> [Vec<T>; 2] {
    let with = |changes: &[&dyn Fn(&mut T)]| {
        let mut whole = honest;
        changes.iter().for_each(|change| change(&mut whole));
        whole
    };
    let (mut one, mut two) = (Vec::new(), Vec::new());
    for (place, first) in fields.iter().enumerate() {
        for a in first {
            one.push(with(&[a]));
            two.extend(fields[place + 1..].iter().flatten().map(|b| with(&[a, b])));
        }
    }
    [one, two]
}

/// Returns the values of an index: relative to the written one and to the number of requests, and
/// at the boundaries of its 32 bits.
fn indices(stands: u32, now: Indices) -> [u32; 16] {
    let more = |by: u32| stands.wrapping_add(by);
    [
        0,
        1,
        stands,
        more(1),
        more(u32::MAX),
        now.made,
        now.made.wrapping_add(1),
        now.made.wrapping_sub(1),
        more(256),
        more(257),
        more(0u32.wrapping_sub(256)),
        more(1 << 31),
        more((1 << 31) - 1),
        i32::MAX as u32,
        i32::MIN as u32,
        u32::MAX,
    ]
}

/// Returns every attack of a state: with one wrong field, and with two.
pub fn attacks(tx: Indices, rx: Indices, ids: Ids) -> [Vec<Attack>; 2] {
    let mut words = Vec::new();
    for (ring, now) in [(Ring::Tx, tx), (Ring::Rx, rx)] {
        for at in [REQ_PROD, REQ_EVENT, RSP_PROD, RSP_EVENT] {
            words.extend(indices(now.word(at), now).map(|value| Attack::Word(ring, at, value)));
        }
    }
    for slots in [1, 2, 3, 17, 18, 19, 20] {
        for (status, endless) in [(60, false), (60, true), (4096, false), (4096, true), (-1, false), (-1, true)] {
            words.push(Attack::Chain { slots, status, endless });
        }
    }
    let [sent_one, sent_two] = sent_responses(ids);
    let [received_one, received_two] = received_responses(rx);
    let [extra_one, extra_two] = extra_infos();
    [[words, sent_one, received_one, extra_one].concat(), [sent_two, received_two, extra_two].concat()]
}

fn sent_responses(ids: Ids) -> [Vec<Attack>; 2] {
    let Ids { first, last, answered, unused, inside, pages } = ids;
    let fields = vec![
        values(
            &[
                first,
                last,
                answered,
                unused,
                inside,
                0,
                1,
                pages - 1,
                pages,
                pages + 1,
                255,
                256,
                0x7FFF,
                0x8000,
                0xFFFF,
            ],
            |(id, _): &mut (u16, i16), value| *id = value,
        ),
        values(&[0, 1, 2, 255, 256, i16::MAX, -1, -2, -3, i16::MIN], |(_, status), value| *status = value),
    ];
    combine((first, 0), &fields).map(|all| all.into_iter().map(|(id, status)| Attack::Sent { id, status }).collect())
}

fn received_responses(rx: Indices) -> [Vec<Attack>; 2] {
    type Response = (u16, u16, u16, i16);
    let right = (rx.answered % 256) as u16;
    let flags: Vec<u16> = (0..16).map(|bit| 1 << bit).chain([0, 3, MORE | EXTRA, 15, 16 | 15, u16::MAX]).collect();
    let fields = vec![
        values(
            &[
                0,
                1,
                right ^ 1,
                right.wrapping_add(1),
                right.wrapping_sub(1),
                right + 256,
                (rx.made % 256) as u16,
                255,
                256,
                0x7FFF,
                0x8000,
                0xFFFF,
            ],
            |(id, ..): &mut Response, value| *id = value,
        ),
        values(&[0, 1, 2048, 4035, 4036, 4037, 4095, 4096, 4097, 0x7FFF, 0x8000, 0xFFFF], |(_, offset, ..), value| {
            *offset = value;
        }),
        values(&flags, |(_, _, flags, _), value| *flags = value),
        values(
            &[0, 1, 13, 14, 60, 61, 1514, 2048, 2049, 4095, 4096, 4097, i16::MAX, -1, -2, i16::MIN],
            |(.., status), value| *status = value,
        ),
    ];
    combine((right, 0, 0, 60), &fields).map(|all| {
        all.into_iter().map(|(id, offset, flags, status)| Attack::Received { id, offset, flags, status }).collect()
    })
}

fn extra_infos() -> [Vec<Attack>; 2] {
    #[derive(Clone, Copy)]
    struct Info(u8, u8, u16, u8, u8, u16);
    let bits: Vec<u8> = (0..8).map(|bit| 1 << bit).chain([0, 255]).collect();
    let fields = vec![
        values(&[0, 1, 2, 3, 4, 5, 127, 128, 255], |info: &mut Info, value| info.0 = value),
        values(&bits, |info, value| info.1 = value),
        values(&[0, 1, 2, 1448, 4096, i16::MAX as u16, 0x8000, u16::MAX], |info, value| info.2 = value),
        values(&[0, 1, 2, 3, 128, 255], |info, value| info.3 = value),
        values(&[0, 1, 255], |info, value| info.4 = value),
        values(&[0, 1, 256, 0x8000, u16::MAX], |info, value| info.5 = value),
    ];
    combine(Info(1, 0, 1448, 1, 0, 0), &fields).map(|all| {
        all.into_iter()
            .map(|Info(kind, flags, size, segments, padding, features)| Attack::Extra {
                kind,
                flags,
                size,
                segments,
                padding,
                features,
            })
            .collect()
    })
}
