//! A simulated network back end: the other side of netif (Xen `io/netif.h`) and of its handshake.
//! It is honest, and as strict about the front end as Linux's: where Linux gives up the device,
//! this one fails the test.

mod frame;
mod ring;

use std::collections::VecDeque;

use cloister_caps::PAGE_SIZE;
use cloister_caps::xen::netif::tx_flag::{CSUM_BLANK, DATA_VALIDATED, EXTRA_INFO, MORE_DATA};
use cloister_caps::xen::netif::{self, EXTRA_TYPE_GSO, GSO_TYPE_TCPV4, rx_flag};
use cloister_interfaces::Memory;

use crate::memory::SharedMemory;
use crate::xenstored::Xenstored;

pub use frame::Frame;
pub use ring::BackRing;

const TX_SLOT: usize = size_of::<netif::TxRequest>();
const RX_SLOT: usize = size_of::<netif::RxRequest>();
/// The largest number of slots with bytes in a frame (`XEN_NETBK_LEGACY_SLOTS_MAX`).
const MOST_SLOTS: u32 = 18;
/// Finds the memory that a grant reference names: a region and the offset of the page in it.
pub type PageOf<'a> = &'a dyn Fn(u32) -> Option<(SharedMemory, usize)>;

/// An established connection.
pub struct Connection {
    /// The ring of frames from the guest.
    pub tx: BackRing,
    /// The ring of frames to the guest.
    pub rx: BackRing,
    /// The guest's event channels: for the first ring, and for the second.
    pub ports: (u32, u32),
    /// The features of the guest: frames of several slots, uncut frames, frames without checksums.
    takes: [bool; 3],
    /// The responses to requests to send that are not yet written: the id, and `true` if an extra
    /// info follows.
    unanswered: Vec<(u16, bool)>,
}

/// The violation of a hostile back end with the next frame.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Violation {
    /// Answers a request to send twice.
    SentTwice,
    /// Answers a request to send that was never made.
    SentUnknown,
    /// Answers an extra info that was never sent.
    SentExtra,
    /// Names another buffer for a received frame.
    ReceivedElsewhere,
    /// Gives it bytes outside of its page.
    ReceivedBeyond,
    /// Never ends it.
    ReceivedEndless,
    /// Gives it a flag of no feature.
    ReceivedFlag,
    /// Gives it an extra info of a type that was not negotiated.
    ReceivedExtra,
    /// Gives it segments of no bytes.
    ReceivedSegments,
    /// Puts an extra info in the middle of it.
    ReceivedExtraLate,
}

/// The back end.
pub struct Netback {
    domain: u16,
    guest: u16,
    /// The nodes that it offers.
    pub features: Vec<(String, String)>,
    /// The connection, while there is one.
    pub connection: Option<Connection>,
    /// The frames that the guest sent.
    pub sent: Vec<Frame>,
    /// The frames for the guest that wait for a buffer.
    pub waiting: VecDeque<Frame>,
    /// The guest's ports that events were sent to.
    pub events: Vec<u32>,
    /// The length of the longest frame that was copied to the guest, in bytes.
    pub longest: usize,
    /// While set, requests to send stay on the ring.
    pub hold_tx: bool,
    /// While set, the guest's frames are sent, but their pages are not returned.
    pub keep_pages: bool,
    /// If set, pages are returned in reverse order.
    pub backwards: bool,
    /// The violation with the next frame.
    pub violation: Option<Violation>,
    /// While set, the guest's states are not read.
    pub ignores_states: bool,
    /// If set, wrong keys make the back end close, as Linux's does (`xenbus_dev_fatal`). Otherwise
    /// they fail the test. For scripts in which another party has written them.
    pub forgiving: bool,
}

impl Netback {
    /// Creates back end `domain` for the first interface of `guest`, with all features of Linux's
    /// that the front end may use.
    #[must_use]
    pub fn new(domain: u16, guest: u16) -> Self {
        let offer = |name: &str| (name.to_string(), "1".to_string());
        Netback {
            domain,
            guest,
            features: ["feature-rx-copy", "feature-split-event-channels", "feature-sg", "feature-gso-tcpv4"]
                .map(offer)
                .into(),
            connection: None,
            sent: Vec::new(),
            waiting: VecDeque::new(),
            events: Vec::new(),
            longest: 0,
            hold_tx: false,
            keep_pages: false,
            backwards: false,
            violation: None,
            ignores_states: false,
            forgiving: false,
        }
    }

    /// Returns the back end's directory.
    #[must_use]
    pub fn directory(&self) -> String {
        format!("/local/domain/{}/backend/vif/{}/0", self.domain, self.guest)
    }

    /// Returns the front end's directory.
    #[must_use]
    pub fn front_directory(&self) -> String {
        format!("/local/domain/{}/device/vif/0", self.guest)
    }

    /// Creates the device as the toolstack does, and offers a connection.
    pub fn create(&self, store: &mut Xenstored) {
        let (back, front) = (self.directory(), self.front_directory());
        for (name, value) in [("online", "1"), ("frontend", front.as_str()), ("hotplug-status", "connected")] {
            store.set(&format!("{back}/{name}"), value);
        }
        for (name, value) in &self.features {
            store.set(&format!("{back}/{name}"), value);
        }
        let id = self.domain.to_string();
        for (name, value) in [
            ("backend-id", id.as_str()),
            ("state", "1"),
            ("mac", "00:16:3e:11:22:33"),
            ("mtu", "1500"),
            ("handle", "0"),
        ] {
            store.set(&format!("{front}/{name}"), value);
        }
        store.set(&format!("{back}/state"), "2");
        store.set(&format!("{front}/backend"), back);
    }

    /// Removes the device as the toolstack does.
    pub fn destroy(&mut self, store: &mut Xenstored) {
        self.connection = None;
        store.delete(&self.directory());
        store.delete(&self.front_directory());
    }

    /// Sets the back end's state.
    pub fn set_state(&self, store: &mut Xenstored, state: &str) {
        store.set(&format!("{}/state", self.directory()), state);
    }

    /// Follows the guest's states and moves frames. Returns `true` if anything changed.
    pub fn run(&mut self, store: &mut Xenstored, page_of: PageOf<'_>) -> bool {
        let followed = !self.ignores_states && self.follow(store, page_of);
        followed | self.receive_from_guest(page_of) | self.send_to_guest(page_of)
    }

    fn follow(&mut self, store: &mut Xenstored, page_of: PageOf<'_>) -> bool {
        let front = store.text(&format!("{}/state", self.front_directory()));
        let own = store.text(&format!("{}/state", self.directory()));
        let (Some(front), Some(own)) = (front, own) else { return false };
        let next = match (front.as_str(), own.as_str()) {
            // As `set_backend_state` of Linux's netback: through Closing and Closed to InitWait.
            ("1", "4" | "5" | "6") => "2",
            ("4", "2") => "4",
            ("5", "2" | "4") => "5",
            ("6", "2" | "4" | "5") => "6",
            _ => return false,
        };
        self.connection = if next == "4" { self.connect(store, page_of) } else { None };
        self.set_state(store, if next == "4" && self.connection.is_none() { "5" } else { next });
        true
    }

    fn offers(&self, feature: &str) -> bool {
        self.features.iter().any(|(name, value)| name == feature && value == "1")
    }

    /// Returns the connection that the guest's keys describe, or `None` if they describe none.
    fn connect(&self, store: &Xenstored, page_of: PageOf<'_>) -> Option<Connection> {
        let fatal = |what: &str| assert!(self.forgiving, "fatal: {what}");
        let key = |name: &str| store.text(&format!("{}/{name}", self.front_directory()));
        let number = |name: &str| key(name).and_then(|text| text.parse::<u32>().ok());
        if key("request-rx-copy").as_deref() != Some("1") {
            fatal("a front end must have frames copied");
            return None;
        }
        let ring = |name: &str, slot| {
            let page = number(name).and_then(page_of);
            if page.is_none() {
                fatal(&format!("{name} names no granted page"));
            }
            page.map(|page| BackRing::new(page, slot))
        };
        let split = self.offers("feature-split-event-channels");
        let ports = match (split, number("event-channel-tx"), number("event-channel-rx"), number("event-channel")) {
            (true, Some(tx), Some(rx), _) => (tx, rx),
            (_, _, _, Some(both)) => (both, both),
            _ => {
                fatal("no event channel");
                return None;
            }
        };
        let takes = |name: &str| number(name) == Some(1);
        let takes = [takes("feature-sg"), takes("feature-gso-tcpv4"), !takes("feature-no-csum-offload")];
        assert!(takes[0] || !takes[1], "uncut frames take several slots");
        let (tx, rx) = (ring("tx-ring-ref", TX_SLOT)?, ring("rx-ring-ref", RX_SLOT)?);
        Some(Connection { tx, rx, ports, takes, unanswered: Vec::new() })
    }

    fn receive_from_guest(&mut self, page_of: PageOf<'_>) -> bool {
        let features = (self.offers("feature-sg"), self.offers("feature-gso-tcpv4"));
        let Some(connection) = self.connection.as_mut().filter(|_| !self.hold_tx) else { return false };
        while connection.tx.waiting(1) > 0 {
            self.sent.extend(connection.frame_from_guest(features, page_of));
        }
        let mut moved = false;
        if !self.keep_pages {
            if self.backwards {
                connection.unanswered.reverse();
            }
            let mut unanswered = std::mem::take(&mut connection.unanswered).into_iter();
            while let Some((id, extra)) = unanswered.next() {
                let violation = self.violation.take_if(|violation| violation.is_about_sent());
                connection.give_back(id, extra, violation);
                moved = true;
                if violation.is_some() {
                    // With the other outstanding requests, this number of responses is possible.
                    (connection.unanswered, self.keep_pages) = (unanswered.collect(), true);
                    break;
                }
            }
        }
        if moved && connection.tx.publish() {
            self.events.push(connection.ports.0);
        }
        moved
    }

    fn send_to_guest(&mut self, page_of: PageOf<'_>) -> bool {
        let Some(connection) = self.connection.as_mut() else { return false };
        let mut moved = false;
        while let Some(frame) = self.waiting.pop_front() {
            let [several, uncut, blank] = connection.takes;
            if frame.segment.is_some() && !(several && uncut) || frame.blank && !blank {
                frame.packets().into_iter().rev().for_each(|packet| self.waiting.push_front(packet.into()));
                continue;
            }
            let slots = frame.bytes.len().div_ceil(PAGE_SIZE) as u32 + u32::from(frame.segment.is_some());
            let endless = if self.violation == Some(Violation::ReceivedEndless) { MOST_SLOTS + 1 } else { 0 };
            if connection.rx.waiting(slots.max(endless)) < slots.max(endless) {
                self.waiting.push_front(frame);
                break;
            }
            let violation = self.violation.take_if(|violation| !violation.is_about_sent());
            self.longest = self.longest.max(frame.bytes.len());
            connection.frame_to_guest(&frame, violation, page_of);
            moved = true;
        }
        if moved && connection.rx.publish() {
            self.events.push(connection.ports.1);
        }
        moved
    }
}

impl Violation {
    fn is_about_sent(self) -> bool {
        matches!(self, Violation::SentTwice | Violation::SentUnknown | Violation::SentExtra)
    }
}

/// A request to send.
struct Request {
    reference: u32,
    offset: usize,
    flags: u16,
    id: u16,
    size: usize,
}

impl Request {
    fn parse(bytes: &[u8]) -> Self {
        let half = |at: usize| u16::from_le_bytes([bytes[at], bytes[at + 1]]);
        let reference = u32::from_le_bytes([bytes[0], bytes[1], bytes[2], bytes[3]]);
        Request { reference, offset: usize::from(half(4)), flags: half(6), id: half(8), size: usize::from(half(10)) }
    }

    fn bytes(&self, page_of: PageOf<'_>) -> Option<Vec<u8>> {
        assert!(self.size > 0, "a slot without bytes crashes some back ends (XSA-448)");
        assert!(self.offset + self.size <= PAGE_SIZE, "fatal: a slot that crosses its page");
        page_of(self.reference).map(|(memory, at)| memory.bytes(at + self.offset, self.size))
    }
}

impl Connection {
    /// Consumes the slots of a frame, as `xenvif_tx_build_gops` and `xenvif_count_requests` of
    /// Linux do. Returns `None` if a page of it is not granted.
    fn frame_from_guest(&mut self, (several, uncut): (bool, bool), page_of: PageOf<'_>) -> Option<Frame> {
        let mut first = Request::parse(&self.tx.request());
        let mut frame = Frame { bytes: Vec::new(), blank: first.flags & CSUM_BLANK != 0, segment: None };
        assert_eq!(
            first.flags & !(CSUM_BLANK | DATA_VALIDATED | MORE_DATA | EXTRA_INFO),
            0,
            "a flag that there is not"
        );
        let sums = first.flags & (CSUM_BLANK | DATA_VALIDATED);
        assert!(sums == 0 || sums == CSUM_BLANK | DATA_VALIDATED, "a frame without its checksum has valid data");
        if first.flags & EXTRA_INFO != 0 {
            assert!(self.tx.waiting(1) == 1, "fatal: the extra info is missing");
            let extra = self.tx.request();
            assert_eq!(extra[..2], [EXTRA_TYPE_GSO, 0], "fatal: an extra info of another type, or more than one");
            assert_eq!(extra[4..8], [GSO_TYPE_TCPV4, 0, 0, 0], "fatal: another kind of segments");
            assert!(uncut && frame.blank, "uncut frames are not negotiated, or have a checksum");
            frame.segment = Some(u16::from_le_bytes([extra[2], extra[3]])).filter(|size| *size > 0);
            assert!(frame.segment.is_some(), "fatal: segments of no bytes");
        }
        self.unanswered.push((first.id, frame.segment.is_some()));
        let (mut rest, mut more) = (Vec::new(), first.flags & MORE_DATA != 0);
        while more {
            assert!(several, "frames of several slots are not negotiated");
            assert!(self.tx.waiting(1) == 1, "fatal: a slot of the frame is missing");
            assert!((rest.len() as u32) < MOST_SLOTS - 1, "a frame of too many slots");
            let next = Request::parse(&self.tx.request());
            assert_eq!(next.flags & !MORE_DATA, 0, "a flag in a slot that is not the first");
            assert!(next.size < first.size, "fatal: a slot longer than what is left of the frame");
            first.size -= next.size;
            more = next.flags & MORE_DATA != 0;
            self.unanswered.push((next.id, false));
            rest.push(next);
        }
        for slot in std::iter::once(&first).chain(&rest) {
            frame.bytes.extend(slot.bytes(page_of)?);
        }
        assert!(frame.bytes.len() >= 14, "a frame shorter than its header");
        Some(frame)
    }

    /// Answers a slot, as `make_tx_response` of Linux does: for an extra info it writes only the
    /// status.
    fn give_back(&mut self, id: u16, extra: bool, violation: Option<Violation>) {
        let response = |id: u16| [id.to_le_bytes(), 0i16.to_le_bytes()].concat();
        let null = 1i16.to_le_bytes();
        self.tx.respond(0, &response(id));
        if extra {
            self.tx.respond(2, &null);
        }
        match violation {
            Some(Violation::SentTwice) => self.tx.respond(0, &response(id)),
            Some(Violation::SentUnknown) => self.tx.respond(0, &response(id ^ 0x40)),
            Some(Violation::SentExtra) => self.tx.respond(2, &null),
            _ => {}
        }
    }

    /// Copies a frame into the guest's buffers, which have room for it.
    fn frame_to_guest(&mut self, frame: &Frame, violation: Option<Violation>, page_of: PageOf<'_>) {
        let mut chunks: Vec<&[u8]> = frame.bytes.chunks(PAGE_SIZE).collect();
        if violation == Some(Violation::ReceivedEndless) {
            chunks = vec![chunks[0]; MOST_SLOTS as usize + 1];
        }
        let last = chunks.len() - 1;
        for (index, chunk) in chunks.into_iter().enumerate() {
            let mut flags = if frame.blank && index == 0 { rx_flag::CSUM_BLANK | rx_flag::DATA_VALIDATED } else { 0 };
            if index < last || violation == Some(Violation::ReceivedEndless) {
                flags |= rx_flag::MORE_DATA;
            }
            let extra = match (index, violation) {
                (0, Some(Violation::ReceivedExtra)) => Some([EXTRA_TYPE_GSO + 1, 0, 1, 0, 1, 0, 0, 0]),
                (0, Some(Violation::ReceivedSegments)) => Some([EXTRA_TYPE_GSO, 0, 0, 0, 1, 0, 0, 0]),
                (1, Some(Violation::ReceivedExtraLate)) => Some([EXTRA_TYPE_GSO, 0, 1, 0, 1, 0, 0, 0]),
                (0, _) => frame.segment.map(|size| {
                    let [low, high] = size.to_le_bytes();
                    [EXTRA_TYPE_GSO, 0, low, high, GSO_TYPE_TCPV4, 0, 0, 0]
                }),
                _ => None,
            };
            if extra.is_some() {
                flags |= rx_flag::EXTRA_INFO;
            }
            self.slot_to_guest(chunk, flags, violation.filter(|_| index == 0), page_of);
            if let Some(extra) = extra {
                let _ = self.rx.request();
                self.rx.respond(0, &extra);
            }
        }
    }

    fn slot_to_guest(&mut self, chunk: &[u8], mut flags: u16, violation: Option<Violation>, page_of: PageOf<'_>) {
        let request = self.rx.request();
        let mut id = u16::from_le_bytes([request[0], request[1]]);
        assert_eq!(u32::from(id), self.rx.index() % 256, "response i answers request i");
        let reference = u32::from_le_bytes([request[4], request[5], request[6], request[7]]);
        let mut offset = 0u16;
        match violation {
            Some(Violation::ReceivedElsewhere) => id ^= 1,
            Some(Violation::ReceivedBeyond) => offset = PAGE_SIZE as u16 - 1,
            Some(Violation::ReceivedFlag) => flags |= 16,
            _ => {}
        }
        let status = match page_of(reference) {
            Some((memory, at)) => {
                memory.write(at, chunk);
                chunk.len() as i16
            }
            None => -1,
        };
        let fields = [id.to_le_bytes(), offset.to_le_bytes(), flags.to_le_bytes(), status.to_le_bytes()];
        self.rx.respond(0, &fields.concat());
    }
}
