//! A queue to a peer and back, below its types: the pages as they are, for who means ill.

use core::fmt;

use cloister_caps::Operation;
use cloister_caps::abi::SYSTEM_CALL_INVOKE;
use cloister_interfaces::message::MAX_MESSAGE;
use cloister_interfaces::queue::{HEAD, MESSAGE_EVENT, QueueEnd, SLOTS, SPACE_EVENT, TAIL};
use cloister_interfaces::{Client, Interface, Memory, Message, Server, System};
use cloister_probe as probe;

use crate::siege::{Made, Outcome};

/// Wake-ups of a storm.
const STORM: u32 = 20_000;

/// The bytes of a message, whatever its size.
pub(crate) type Bytes = [u8; MAX_MESSAGE];

/// The bytes of a message that means something.
pub(crate) fn bytes<T: Message>(message: &T) -> Bytes {
    let mut bytes = [0; MAX_MESSAGE];
    if let Some(place) = bytes.get_mut(..T::SIZE) {
        message.to_bytes(place);
    }
    bytes
}

/// What can be done to a queue by one of its ends.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Trick {
    /// A message of this byte alone.
    Fill(u8),
    /// Every slot filled with a message of this byte.
    Full(u8),
    /// Our `head` moved by so much.
    Head(u32),
    /// Our `tail` moved by so much.
    Tail(u32),
    /// The index by which we ask to be told of space.
    SpaceEvent(u32),
    /// The index by which we ask to be told of messages.
    MessageEvent(u32),
    /// The peer's `tail` written.
    PeerTail,
    /// The peer's `head` written.
    PeerHead,
    /// The peer's first message written.
    PeerMessage,
    /// As many wake-ups as can be.
    Storm,
}

impl Trick {
    /// Every trick; those that end the service come last.
    pub(crate) const ALL: [Trick; 21] = [
        Trick::Fill(0),
        Trick::Fill(1),
        Trick::Fill(0x7F),
        Trick::Fill(0xFF),
        Trick::Full(0),
        Trick::Full(0xFF),
        Trick::Head(1),
        Trick::Head(0x1_0000),
        Trick::Head(1 << 31),
        Trick::Head(u32::MAX),
        Trick::Tail(1),
        Trick::Tail(1 << 31),
        Trick::Tail(u32::MAX),
        Trick::SpaceEvent(0),
        Trick::SpaceEvent(u32::MAX),
        Trick::MessageEvent(0),
        Trick::MessageEvent(u32::MAX),
        Trick::Storm,
        Trick::PeerTail,
        Trick::PeerHead,
        Trick::PeerMessage,
    ];
}

impl fmt::Display for Trick {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Trick::Fill(byte) => write!(f, "a message of bytes {byte:#x}"),
            Trick::Full(byte) => write!(f, "all slots filled with bytes {byte:#x}"),
            Trick::Head(by) => write!(f, "head moved by {by:#x}"),
            Trick::Tail(by) => write!(f, "tail moved by {by:#x}"),
            Trick::SpaceEvent(index) => write!(f, "space event {index:#x}"),
            Trick::MessageEvent(index) => write!(f, "message event {index:#x}"),
            Trick::PeerTail => write!(f, "write the peer's tail"),
            Trick::PeerHead => write!(f, "write the peer's head"),
            Trick::PeerMessage => write!(f, "write the peer's message"),
            Trick::Storm => write!(f, "a storm of wake-ups"),
        }
    }
}

/// The two queues of an interface.
pub(crate) struct Line<'a, M> {
    /// The interface's name.
    pub name: &'static str,
    outward: &'a QueueEnd<M>,
    outward_size: usize,
    inward: &'a QueueEnd<M>,
    inward_size: usize,
}

impl<'a, M: Memory> Line<'a, M> {
    /// A client's.
    pub(crate) fn client<I: Interface, S: System>(client: &'a Client<I, S, M>) -> Self {
        Line {
            name: I::NAME,
            outward: client.requests.end(),
            outward_size: I::Request::SIZE,
            inward: client.replies.end(),
            inward_size: I::Reply::SIZE,
        }
    }

    /// A server's.
    pub(crate) fn server<I: Interface, S: System>(server: &'a Server<I, S, M>) -> Self {
        Line {
            name: I::NAME,
            outward: server.replies.end(),
            outward_size: I::Reply::SIZE,
            inward: server.requests.end(),
            inward_size: I::Request::SIZE,
        }
    }

    /// Puts a message in the queue, whether or not there is room, and wakes the peer.
    pub(crate) fn send(&self, bytes: &Bytes) {
        self.put(bytes);
        self.wake();
    }

    fn put(&self, bytes: &Bytes) {
        let page = &self.outward.producer;
        let head = page.load(HEAD);
        let slot = (head & (self.outward.depth - 1)) as usize;
        page.write(SLOTS + slot * self.outward_size, bytes.get(..self.outward_size).unwrap_or_default());
        page.store(HEAD, head.wrapping_add(1));
    }

    fn wake(&self) {
        for slot in [self.outward.slot, self.inward.slot] {
            let _ =
                probe::system_call(SYSTEM_CALL_INVOKE, [u64::from(slot.0), Operation::QueueNotify as u64, 0, 0, 0, 0]);
        }
    }

    /// Whether the peer has taken all that was sent.
    pub(crate) fn is_heard(&self) -> bool {
        self.outward.consumer.load(TAIL) == self.outward.producer.load(HEAD)
    }

    /// Shows each message that the peer sent; and forgets what was done to the indices of this end.
    pub(crate) fn hear(&self, mut each: impl FnMut(&[u8])) {
        let (page, own) = (&self.inward.producer, &self.inward.consumer);
        let (head, tail) = (page.load(HEAD), own.load(TAIL));
        let count = head.wrapping_sub(tail);
        for index in (0..count).take(if count > self.inward.depth { 0 } else { count as usize }) {
            let slot = (tail.wrapping_add(index) & (self.inward.depth - 1)) as usize;
            let mut bytes = [0; MAX_MESSAGE];
            if let Some(message) = bytes.get_mut(..self.inward_size) {
                page.read(SLOTS + slot * self.inward_size, message);
                each(message);
            }
        }
        if count > 0 {
            own.store(TAIL, head);
            own.store(MESSAGE_EVENT, head.wrapping_add(1));
            self.wake();
        }
    }

    /// Plays a trick.
    pub(crate) fn play(&self, trick: Trick) -> Made {
        let (own_head, own_tail) = (&self.outward.producer, &self.inward.consumer);
        match trick {
            Trick::Fill(byte) => self.put(&[byte; MAX_MESSAGE]),
            Trick::Full(byte) => (0..self.outward.depth).for_each(|_| self.put(&[byte; MAX_MESSAGE])),
            Trick::Head(by) => own_head.store(HEAD, own_head.load(HEAD).wrapping_add(by)),
            Trick::Tail(by) => own_tail.store(TAIL, own_tail.load(TAIL).wrapping_add(by)),
            Trick::SpaceEvent(index) => own_head.store(SPACE_EVENT, index),
            Trick::MessageEvent(index) => own_tail.store(MESSAGE_EVENT, index),
            Trick::PeerTail => self.outward.consumer.store(TAIL, 0),
            Trick::PeerHead => self.inward.producer.store(HEAD, 0),
            Trick::PeerMessage => self.inward.producer.store(SLOTS, 0),
            Trick::Storm => (0..STORM / 2).for_each(|_| self.wake()),
        }
        if matches!(trick, Trick::PeerTail | Trick::PeerHead | Trick::PeerMessage) {
            return Made::Over(Outcome::Breach("a page of the peer was written"));
        }
        self.wake();
        Made::Sent
    }
}
