//! The queues between a role and a peer, below their types: an attacker can write their pages.

use core::fmt;

use cloister_caps::Operation;
use cloister_caps::abi::SYSTEM_CALL_INVOKE;
use cloister_interfaces::message::MAX_MESSAGE;
use cloister_interfaces::queue::{HEAD, MESSAGE_EVENT, QueueEnd, SLOTS, SPACE_EVENT, TAIL};
use cloister_interfaces::{Interface, Memory, Message, System};
use cloister_probe as probe;

use crate::bindings::{Client, Server};
use crate::outcome::{AttemptState, Outcome};

/// The number of notifications in a storm.
const STORM: u32 = 20_000;

/// The bytes of a message, whatever its size.
pub(crate) type Bytes = [u8; MAX_MESSAGE];

/// Returns the bytes of a message.
pub(crate) fn bytes<T: Message>(message: &T) -> Bytes {
    let mut bytes = [0; MAX_MESSAGE];
    if let Some(target) = bytes.get_mut(..T::SIZE) {
        message.to_bytes(target);
    }
    bytes
}

/// A message as its first two bytes and the words after them, so that the fields can have values
/// that the message's type excludes.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) struct RawFields(pub u8, pub u8, pub [u16; 4]);

impl RawFields {
    /// Returns the bytes of the message.
    pub(crate) fn bytes(self) -> Bytes {
        let mut bytes = [0; MAX_MESSAGE];
        let words = self.2.into_iter().flat_map(u16::to_le_bytes);
        for (byte, value) in bytes.iter_mut().zip([self.0, self.1].into_iter().chain(words)) {
            *byte = value;
        }
        bytes
    }
}

/// What an attacker at one end of a queue can do to it.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum QueueAttack {
    /// Send a message that repeats this byte.
    Fill(u8),
    /// Fill every slot with such a message.
    Full(u8),
    /// Advance our `head` by this number.
    Head(u32),
    /// Advance our `tail` by this number.
    Tail(u32),
    /// Set the index at which we ask for a notification of space.
    SpaceEvent(u32),
    /// Set the index at which we ask for a notification of messages.
    MessageEvent(u32),
    /// Write the peer's `tail`.
    PeerTail,
    /// Write the peer's `head`.
    PeerHead,
    /// Write the peer's first message.
    PeerMessage,
    /// Notify the peer [`STORM`] times.
    Storm,
}

impl QueueAttack {
    /// All attacks. Those that fault come last.
    pub(crate) const ALL: [QueueAttack; 21] = [
        QueueAttack::Fill(0),
        QueueAttack::Fill(1),
        QueueAttack::Fill(0x7F),
        QueueAttack::Fill(0xFF),
        QueueAttack::Full(0),
        QueueAttack::Full(0xFF),
        QueueAttack::Head(1),
        QueueAttack::Head(0x1_0000),
        QueueAttack::Head(1 << 31),
        QueueAttack::Head(u32::MAX),
        QueueAttack::Tail(1),
        QueueAttack::Tail(1 << 31),
        QueueAttack::Tail(u32::MAX),
        QueueAttack::SpaceEvent(0),
        QueueAttack::SpaceEvent(u32::MAX),
        QueueAttack::MessageEvent(0),
        QueueAttack::MessageEvent(u32::MAX),
        QueueAttack::Storm,
        QueueAttack::PeerTail,
        QueueAttack::PeerHead,
        QueueAttack::PeerMessage,
    ];
}

impl fmt::Display for QueueAttack {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            QueueAttack::Fill(byte) => write!(f, "a message of bytes {byte:#x}"),
            QueueAttack::Full(byte) => write!(f, "all slots filled with bytes {byte:#x}"),
            QueueAttack::Head(by) => write!(f, "head moved by {by:#x}"),
            QueueAttack::Tail(by) => write!(f, "tail moved by {by:#x}"),
            QueueAttack::SpaceEvent(index) => write!(f, "space event {index:#x}"),
            QueueAttack::MessageEvent(index) => write!(f, "message event {index:#x}"),
            QueueAttack::PeerTail => write!(f, "write the peer's tail"),
            QueueAttack::PeerHead => write!(f, "write the peer's head"),
            QueueAttack::PeerMessage => write!(f, "write the peer's message"),
            QueueAttack::Storm => write!(f, "a storm of wake-ups"),
        }
    }
}

/// The two queues of an interface.
pub(crate) struct RawQueue<'a, M> {
    /// The interface's name.
    pub name: &'static str,
    outbound: &'a QueueEnd<M>,
    outbound_size: usize,
    inbound: &'a QueueEnd<M>,
    inbound_size: usize,
}

impl<'a, M: Memory> RawQueue<'a, M> {
    /// Returns the queues of a client.
    pub(crate) fn client<I: Interface, S: System>(client: &'a Client<I, S, M>) -> Self {
        RawQueue {
            name: I::NAME,
            outbound: &client.requests,
            outbound_size: I::Request::SIZE,
            inbound: &client.replies,
            inbound_size: I::Reply::SIZE,
        }
    }

    /// Returns the queues of a server.
    pub(crate) fn server<I: Interface, S: System>(server: &'a Server<I, S, M>) -> Self {
        RawQueue {
            name: I::NAME,
            outbound: &server.replies,
            outbound_size: I::Reply::SIZE,
            inbound: &server.requests,
            inbound_size: I::Request::SIZE,
        }
    }

    /// Writes a message to the queue, even if it has no room, and notifies the peer.
    pub(crate) fn send(&self, bytes: &Bytes) {
        self.put(bytes);
        self.notify();
    }

    fn put(&self, bytes: &Bytes) {
        let page = &self.outbound.producer;
        let head = page.load(HEAD);
        let slot = (head & (self.outbound.depth - 1)) as usize;
        page.write(SLOTS + slot * self.outbound_size, bytes.get(..self.outbound_size).unwrap_or_default());
        page.store(HEAD, head.wrapping_add(1));
    }

    fn notify(&self) {
        for slot in [self.outbound.slot, self.inbound.slot] {
            let _ =
                probe::system_call(SYSTEM_CALL_INVOKE, [u64::from(slot.0), Operation::QueueNotify as u64, 0, 0, 0, 0]);
        }
    }

    /// Returns `true` if the peer has consumed all that was sent.
    pub(crate) fn is_consumed(&self) -> bool {
        self.outbound.consumer.load(TAIL) == self.outbound.producer.load(HEAD)
    }

    /// Passes each message that the peer sent to `each`, and sets the indices of this end right
    /// again after an attack.
    pub(crate) fn take_replies(&self, mut each: impl FnMut(&[u8])) {
        let (page, own) = (&self.inbound.producer, &self.inbound.consumer);
        let (head, tail) = (page.load(HEAD), own.load(TAIL));
        let count = head.wrapping_sub(tail);
        for index in (0..count).take(if count > self.inbound.depth { 0 } else { count as usize }) {
            let slot = (tail.wrapping_add(index) & (self.inbound.depth - 1)) as usize;
            let mut bytes = [0; MAX_MESSAGE];
            if let Some(message) = bytes.get_mut(..self.inbound_size) {
                page.read(SLOTS + slot * self.inbound_size, message);
                each(message);
            }
        }
        if count > 0 {
            own.store(TAIL, head);
            own.store(MESSAGE_EVENT, head.wrapping_add(1));
            self.notify();
        }
    }

    /// Makes an attack.
    pub(crate) fn attack(&self, attack: QueueAttack) -> AttemptState {
        let (own_head, own_tail) = (&self.outbound.producer, &self.inbound.consumer);
        match attack {
            QueueAttack::Fill(byte) => self.put(&[byte; MAX_MESSAGE]),
            QueueAttack::Full(byte) => (0..self.outbound.depth).for_each(|_| self.put(&[byte; MAX_MESSAGE])),
            QueueAttack::Head(by) => own_head.store(HEAD, own_head.load(HEAD).wrapping_add(by)),
            QueueAttack::Tail(by) => own_tail.store(TAIL, own_tail.load(TAIL).wrapping_add(by)),
            QueueAttack::SpaceEvent(index) => own_head.store(SPACE_EVENT, index),
            QueueAttack::MessageEvent(index) => own_tail.store(MESSAGE_EVENT, index),
            QueueAttack::PeerTail => self.outbound.consumer.store(TAIL, 0),
            QueueAttack::PeerHead => self.inbound.producer.store(HEAD, 0),
            QueueAttack::PeerMessage => self.inbound.producer.store(SLOTS, 0),
            QueueAttack::Storm => (0..STORM / 2).for_each(|_| self.notify()),
        }
        if matches!(attack, QueueAttack::PeerTail | QueueAttack::PeerHead | QueueAttack::PeerMessage) {
            return AttemptState::Ended(Outcome::Breach("a page of the peer was written"));
        }
        self.notify();
        AttemptState::AwaitingPeer
    }
}
