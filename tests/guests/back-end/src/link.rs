//! A connection with a front end: rings and event channels. It moves frames as an honest back end
//! does.

use arrayvec::ArrayVec;
use cloister_caps::xen::netif::{EXTRA_FLAG_MORE, RxRequest, RxResponse, TxRequest, status, tx_flag};
use cloister_caps::{DomId, EvtchnPort, GrantRef, PAGE_SIZE};
use cloister_interfaces::capability::{Grant, Port};
use cloister_interfaces::{Memory, System};

use crate::pages::{ForeignPages, count_nonzero};
use crate::ring::BackRing;
use crate::wire::{self, LONGEST, Received};

/// The number of pages of the writable region that are rings.
const RINGS: usize = 2;
/// The size of a slot of either ring, in bytes.
const TX_SLOT: usize = size_of::<TxRequest>();
const RX_SLOT: usize = size_of::<RxRequest>();
/// The number of bytes of a frame that are inspected.
const HEAD: usize = 64;

/// The values that the front end publishes.
#[derive(Clone, Copy, Default, Debug)]
pub struct Keys {
    /// `tx-ring-ref`.
    pub tx_ring: u32,
    /// `rx-ring-ref`.
    pub rx_ring: u32,
    /// `event-channel-tx`, or `event-channel`.
    pub tx_port: u32,
    /// `event-channel-rx`; 0 if there is one channel.
    pub rx_port: u32,
}

/// The frames of the front end that are answered.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Answers {
    /// Each.
    All,
    /// Every other.
    Half,
    /// None. They stay on the ring.
    None,
}

/// A request to send.
#[derive(Clone, Copy, Debug)]
pub struct SentFrame {
    /// The page.
    pub reference: GrantRef,
    /// The offset of the frame in the page.
    pub offset: u16,
    /// `NETTXF_*`.
    pub flags: u16,
    /// The id that the response repeats.
    pub id: u16,
    /// The size in bytes.
    pub size: u16,
}

/// The capabilities for a connection: see [`crate::Caps`].
pub struct Ends<S, M> {
    pub peer_written: M,
    pub peer_read: M,
    pub grant_rules: ArrayVec<Grant<S>, 2>,
    pub tx_events: Port<S>,
    pub rx_events: Port<S>,
    pub spare_events: Port<S>,
}

/// The connection.
pub struct Link<S, M> {
    /// The ring of frames from the front end.
    pub tx: BackRing<M>,
    /// The ring of frames to it.
    pub rx: BackRing<M>,
    /// The pages that we may write: rings and receive buffers.
    pub written: ForeignPages<S, M>,
    /// The pages that we may read: frames.
    pub read: ForeignPages<S, M>,
    tx_events: Port<S>,
    rx_events: Port<S>,
    spare_events: Port<S>,
    split: bool,
    /// `true` if the channels may be open.
    bound: bool,
    /// The front end's domain.
    pub peer: DomId,
    /// Its hardware address, once it is known.
    pub mac: Option<[u8; 6]>,
    /// The number of answers to echo requests.
    pub echoes: u32,
    /// The number of frames from the front end.
    pub frames: u32,
    skip_next: bool,
    /// The references of the two rings.
    pub rings: [GrantRef; 2],
    /// `true` if the pages of frames are searched for data beside the frame.
    pub search: bool,
    /// The number of bytes other than 0 beside frames.
    pub beyond: u32,
}

impl<S: System, M: Memory> Link<S, M> {
    /// Creates a link without a connection. Returns `None` if a rule is missing.
    pub fn new(ends: Ends<S, M>) -> Option<Self> {
        let Ends { mut grant_rules, peer_written: written, peer_read, tx_events, rx_events, spare_events } = ends;
        // In the order of the rules' names.
        let written_rule = grant_rules.pop()?;
        let read_rule = grant_rules.pop()?;
        Some(Link {
            tx: BackRing::new(written.clone(), 0, TX_SLOT),
            rx: BackRing::new(written.clone(), PAGE_SIZE, RX_SLOT),
            written: ForeignPages::new(written_rule, written, RINGS),
            read: ForeignPages::new(read_rule, peer_read, 0),
            tx_events,
            rx_events,
            spare_events,
            split: false,
            bound: false,
            peer: DomId(0),
            mac: None,
            echoes: 0,
            frames: 0,
            skip_next: false,
            rings: [GrantRef(0); 2],
            search: false,
            beyond: 0,
        })
    }

    /// Maps the rings and binds the channels.
    ///
    /// # Errors
    /// Describes what could not be mapped or bound.
    pub fn connect(&mut self, peer: DomId, keys: Keys) -> Result<(), &'static str> {
        self.disconnect();
        self.peer = peer;
        self.split = keys.rx_port != 0;
        (self.mac, self.echoes, self.frames, self.beyond) = (None, 0, 0, 0);
        self.rings = [GrantRef(keys.tx_ring), GrantRef(keys.rx_ring)];
        self.tx.reset();
        self.rx.reset();
        for (page, reference) in self.rings.into_iter().enumerate() {
            if !self.written.map(page, peer, reference) {
                return Err("a ring cannot be mapped");
            }
        }
        self.bound = true;
        let bound = self.tx_events.bind(peer, EvtchnPort(keys.tx_port)).is_ok()
            && (!self.split || self.rx_events.bind(peer, EvtchnPort(keys.rx_port)).is_ok());
        // The measurement also works without it.
        let _ = self.spare_events.open(peer);
        if bound { Ok(()) } else { Err("an event channel cannot be bound") }
    }

    /// Closes the channels.
    pub fn hang_up(&mut self) {
        if core::mem::take(&mut self.bound) {
            let _ = (self.tx_events.close(), self.rx_events.close(), self.spare_events.close());
        }
    }

    /// Closes the channels and unmaps all pages.
    pub fn disconnect(&mut self) {
        self.hang_up();
        self.written.unmap();
        self.read.unmap();
    }

    /// Sends events on both channels.
    pub fn notify_peer(&self) {
        self.tx_events.send();
        if self.split {
            self.rx_events.send();
        }
    }

    /// Sends an event on a channel that no other domain has bound.
    pub fn notify_nobody(&self) {
        self.spare_events.send();
    }

    /// Consumes the next request to send.
    pub fn take_sent(&mut self) -> Option<SentFrame> {
        let mut slot = [0; TX_SLOT];
        if !self.tx.take(&mut slot) {
            return None;
        }
        let [g0, g1, g2, g3, o0, o1, f0, f1, i0, i1, s0, s1] = slot;
        let sent = SentFrame {
            reference: GrantRef(u32::from_le_bytes([g0, g1, g2, g3])),
            offset: u16::from_le_bytes([o0, o1]),
            flags: u16::from_le_bytes([f0, f1]),
            id: u16::from_le_bytes([i0, i1]),
            size: u16::from_le_bytes([s0, s1]),
        };
        Some(sent)
    }

    /// Consumes the slots with extra information that follow a request. Returns their number.
    pub fn take_extras(&mut self, sent: &SentFrame) -> u32 {
        let mut extras = 0;
        let mut more = sent.flags & tx_flag::EXTRA_INFO != 0;
        let mut slot = [0; TX_SLOT];
        while more && self.tx.take(&mut slot) {
            extras += 1;
            more = slot[1] & EXTRA_FLAG_MORE != 0;
        }
        extras
    }

    /// Answers a request to send.
    pub fn answer_sent(&mut self, id: u16, status: i16) {
        let ([i0, i1], [s0, s1]) = (id.to_le_bytes(), status.to_le_bytes());
        self.tx.answer(&[i0, i1, s0, s1]);
    }

    /// Reads a frame of the front end, and replies to an ARP request.
    pub fn inspect(&mut self, sent: &SentFrame) {
        self.frames = self.frames.wrapping_add(1);
        let mut head = [0; HEAD];
        let length = usize::from(sent.size).min(HEAD).min(PAGE_SIZE.saturating_sub(usize::from(sent.offset)));
        let Some(page) = self.read.at(self.peer, sent.reference) else { return };
        self.read.memory().read(page + usize::from(sent.offset), &mut head[..length]);
        if self.search {
            let mut bytes = [0; PAGE_SIZE];
            self.read.memory().read(page, &mut bytes);
            let start = usize::from(sent.offset).min(PAGE_SIZE);
            let end = (start + usize::from(sent.size)).min(PAGE_SIZE);
            self.beyond += count_nonzero(&bytes[..start]) + count_nonzero(&bytes[end..]);
        }
        match wire::classify(&head[..length]) {
            Received::ArpReply(mac) => self.mac = Some(mac),
            Received::EchoReply => self.echoes = self.echoes.wrapping_add(1),
            Received::ArpRequest(mac) => {
                let mut frame = [0; LONGEST];
                let length = wire::arp(&mut frame, Some(mac));
                self.deliver(&frame[..length]);
            }
            Received::Other => {}
        }
    }

    /// Consumes the frames of the front end, and answers the requests.
    pub fn serve(&mut self, answers: Answers) {
        if answers == Answers::None {
            return;
        }
        while let Some(sent) = self.take_sent() {
            self.inspect(&sent);
            let extras = self.take_extras(&sent);
            self.skip_next = !self.skip_next;
            if answers == Answers::All || self.skip_next {
                self.answer_sent(sent.id, status::OKAY);
                (0..extras).for_each(|_| self.answer_sent(0, status::NULL));
            }
        }
        if self.tx.publish() {
            self.tx_events.send();
        }
    }

    /// Consumes the next receive buffer. Returns its id, and the offset of its page in the writable
    /// region.
    pub fn take_buffer(&mut self) -> Option<(u16, usize)> {
        let mut slot = [0; RX_SLOT];
        if !self.rx.take(&mut slot) {
            return None;
        }
        let [i0, i1, _, _, g0, g1, g2, g3] = slot;
        let reference = GrantRef(u32::from_le_bytes([g0, g1, g2, g3]));
        Some((u16::from_le_bytes([i0, i1]), self.written.at(self.peer, reference)?))
    }

    /// Answers a receive buffer.
    pub fn answer_buffer(&mut self, id: u16, offset: u16, flags: u16, status: i16) {
        let fields = [id.to_le_bytes(), offset.to_le_bytes(), flags.to_le_bytes(), status.to_le_bytes()];
        let mut slot = [0; size_of::<RxResponse>()];
        slot.iter_mut().zip(fields.as_flattened()).for_each(|(target, byte)| *target = *byte);
        self.rx.answer(&slot);
    }

    /// Publishes the answers to receive buffers.
    pub fn publish_buffers(&mut self) {
        if self.rx.publish() {
            if self.split { self.rx_events.send() } else { self.tx_events.send() }
        }
    }

    /// Sends a frame to the front end. Returns `true` if there was a buffer for it.
    pub fn deliver(&mut self, frame: &[u8]) -> bool {
        let Some((id, page)) = self.take_buffer() else { return false };
        self.written.memory().write(page, frame);
        self.answer_buffer(id, 0, 0, frame.len() as i16);
        self.publish_buffers();
        true
    }

    /// Sends an echo request, or an ARP request if the front end's address is not known. Returns
    /// `true` if there was a buffer for it.
    pub fn ping(&mut self, data: usize) -> bool {
        let mut frame = [0; LONGEST];
        let length = match self.mac {
            Some(mac) => wire::echo(&mut frame, mac, data, 0x5a),
            None => wire::arp(&mut frame, None),
        };
        self.deliver(&frame[..length])
    }
}
