//! States the protocol a second time (Xen `io/netif.h`), as far as a response can violate it: what
//! the front end must do with the bytes that the back end wrote.

use std::collections::BTreeMap;

use cloister_caps::PAGE_SIZE;

pub const PRODUCER: &str = "more responses than requests";
pub const ID: &str = "not outstanding";
pub const BOUNDS: &str = "outside its page";
pub const FEATURES: &str = "not negotiated";
pub const SLOTS: &str = "too many slots";

pub const CHECKED: u16 = 3;
pub const MORE: u16 = 4;
pub const EXTRA: u16 = 8;
/// `NETIF_RSP_NULL`.
pub const NULL: i16 = 1;
/// The largest number of slots with bytes in a frame.
const MOST_SLOTS: usize = 18;
/// The length of Ethernet's header, and that of the longest frame with a VLAN tag.
const LENGTHS: std::ops::RangeInclusive<usize> = 14..=18 + 0xFFFF;

/// The expected result of a write.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub enum Effect {
    /// It changes nothing.
    Ignored,
    /// It is accepted as a response, or as several.
    Accepted,
    /// The connection ends, and the log says why.
    Violation,
}

/// The next slot of the receive ring.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Expect {
    Start,
    More,
    /// The extra info; `true` if slots with bytes follow it.
    Extra(bool),
}

/// The requests of the front end, and the answers so far.
#[derive(Clone, Debug)]
pub struct Model {
    /// The slots on the transmit ring that have no response, by the frame's id.
    pub sent: BTreeMap<u16, u16>,
    /// Extra infos among them.
    pub extras: u32,
    pub expect: Expect,
    /// The slots with bytes, and the bytes, of the incoming frame.
    chain: usize,
    length: usize,
    bad: bool,
    /// Pages on their way to tcpip, and complete frames.
    pub frames: usize,
    /// Sent frames that are answered.
    pub done: usize,
}

impl Model {
    pub fn new() -> Self {
        Model {
            sent: BTreeMap::new(),
            extras: 0,
            expect: Expect::Start,
            chain: 0,
            length: 0,
            bad: false,
            frames: 0,
            done: 0,
        }
    }

    /// Takes a response on the transmit ring. Returns its violation of the protocol, if any.
    pub fn sent(&mut self, id: u16, status: i16) -> Vec<&'static str> {
        let left = if status == NULL { Some(&mut self.extras) } else { None };
        if let Some(left) = left {
            let Some(less) = left.checked_sub(1) else { return vec![ID] };
            *left = less;
            return Vec::new();
        }
        let Some(unanswered) = self.sent.get_mut(&id).filter(|unanswered| **unanswered > 0) else { return vec![ID] };
        *unanswered -= 1;
        if *unanswered == 0 {
            self.sent.remove(&id);
            self.done += 1;
        }
        Vec::new()
    }

    /// Takes a response on the receive ring.
    pub fn received(&mut self, index: u32, slot: [u8; 8]) -> Vec<&'static str> {
        let half = |at: usize| u16::from_le_bytes([slot[at], slot[at + 1]]);
        if let Expect::Extra(more) = self.expect {
            let [kind, flags, _, _, segments, _, _, _] = slot;
            if (kind, flags, segments, half(6)) != (1, 0, 1, 0) || half(2) == 0 {
                return vec![FEATURES];
            }
            self.expect = if more { Expect::More } else { Expect::Start };
            self.complete();
            return Vec::new();
        }
        let (id, offset, flags, status) = (half(0), half(2), half(4), half(6) as i16);
        let mut wrong = Vec::new();
        if u32::from(id) != index % 256 {
            wrong.push(ID);
        }
        let allowed = if self.expect == Expect::Start { CHECKED | MORE | EXTRA } else { CHECKED | MORE };
        if flags & !allowed != 0 {
            wrong.push(FEATURES);
        }
        if self.chain == MOST_SLOTS {
            wrong.push(SLOTS);
        }
        if status > 0 && usize::from(offset) + status as usize > PAGE_SIZE {
            wrong.push(BOUNDS);
        }
        if !wrong.is_empty() {
            return wrong;
        }
        self.chain += 1;
        self.length += usize::try_from(status).unwrap_or(0);
        self.bad |= status <= 0;
        let more = flags & MORE != 0;
        self.expect = match (flags & EXTRA != 0, more) {
            (true, more) => Expect::Extra(more),
            (false, true) => Expect::More,
            (false, false) => Expect::Start,
        };
        self.complete();
        wrong
    }

    /// Returns `true` if the incoming frame has the most possible slots, and announced another:
    /// nothing valid can follow.
    pub fn must_end(&self) -> bool {
        self.chain == MOST_SLOTS && self.expect == Expect::More
    }

    fn complete(&mut self) {
        if self.expect == Expect::Start {
            self.frames += usize::from(!self.bad && LENGTHS.contains(&self.length));
            (self.chain, self.length, self.bad) = (0, 0, false);
        }
    }
}
