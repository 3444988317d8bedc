//! A hostile service at the other end of a message interface. It writes anything into the pages
//! that it can write, and can become honest again like a restarted service.

use std::fmt::Debug;
use std::marker::PhantomData;

use arbitrary::{Arbitrary, Result, Unstructured};
use cloister_interfaces::{Memory, Message};
use cloister_sim::{ChannelMemory, QueueMemory};

use crate::host::Host;
use crate::script::{Bytes, Claim, Word};

// The words of a queue's pages, as in the table at the head of `cloister_interfaces::queue`.
const HEAD: usize = 0;
const SPACE_EVENT: usize = 4;
const SLOTS: usize = 64;
const TAIL: usize = 0;
const MESSAGE_EVENT: usize = 4;

/// A message of a script.
pub trait ScriptMessage<M>: Debug {
    /// Returns its bytes. They are cut, or filled up with zeros, to the size of a message.
    fn bytes(&self) -> Vec<u8>;
}

/// A message of any kind of the interface, found by trying, so that it still works when messages
/// get new fields.
#[derive(Clone)]
pub struct Any<M> {
    bytes: Vec<u8>,
    message: PhantomData<fn() -> M>,
}

impl<'a, M: Message> Arbitrary<'a> for Any<M> {
    fn arbitrary(input: &mut Unstructured<'a>) -> Result<Self> {
        // A tag, perhaps a byte beside it, and words. All bytes after the fields of this tag must
        // be zero, and so must the byte if the tag has two.
        let tag = input.int_in_range(0..=9)?;
        let words = (M::SIZE - 2) / 2;
        let beside = u8::arbitrary(input)? % 8;
        let mut bytes = vec![tag, beside];
        for _ in 0..words.min(8) {
            bytes.extend(Word::arbitrary(input)?.0.to_le_bytes());
        }
        bytes.resize(M::SIZE, 0);
        let mut trial = bytes.clone();
        for cut in (1..bytes.len()).rev() {
            for beside in [beside, 0] {
                trial[1] = beside;
                if M::from_bytes(&trial).is_ok() {
                    return Ok(Any { bytes: trial, message: PhantomData });
                }
            }
            trial[cut] = 0;
        }
        Ok(Any { bytes, message: PhantomData })
    }
}

impl<M: Message + Debug> Debug for Any<M> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match M::from_bytes(&self.bytes) {
            Ok(message) => message.fmt(f),
            Err(_) => write!(f, "malformed {:02x?}", self.bytes),
        }
    }
}

impl<M: Message + Debug> ScriptMessage<M> for Any<M> {
    fn bytes(&self) -> Vec<u8> {
        self.bytes.clone()
    }
}

/// A step of a hostile peer.
#[derive(Arbitrary, Debug)]
pub enum Act<T> {
    /// Sends a message.
    Send(T),
    /// Sends several messages at once.
    Repeat(u8, T),
    /// Sends bytes.
    Garbage(Bytes),
    /// Consumes all that was sent to it.
    Receive,
    /// Claims another number of sent messages.
    Head(Claim),
    /// Claims another number of consumed messages.
    Tail(Claim),
    /// Asks for a notification at other indices.
    Events(Claim, Claim),
    /// Changes words while they are read.
    Lie(Bytes),
    /// Restarts.
    Restart,
}

/// A peer that sends messages of type `O` and receives messages of type `I`.
pub struct Peer<O, I> {
    out: QueueMemory,
    inn: QueueMemory,
    head: u32,
    tail: u32,
    /// `true` if it claimed a wrong number of consumed messages, so that the contents of the queue
    /// are unknown.
    lied: bool,
    message: PhantomData<fn(O) -> I>,
}

impl<O: Message, I: Message + Debug> Peer<O, I> {
    fn new(out: &QueueMemory, inn: &QueueMemory) -> Self {
        let mut peer = Peer { out: out.clone(), inn: inn.clone(), head: 0, tail: 0, lied: false, message: PhantomData };
        peer.restart();
        peer
    }

    /// Returns a peer at the client's end of an interface.
    pub fn client(memory: &ChannelMemory) -> Self {
        Self::new(&memory.requests, &memory.replies)
    }

    /// Returns a peer at the server's end of an interface.
    pub fn server(memory: &ChannelMemory) -> Self {
        Self::new(&memory.replies, &memory.requests)
    }

    /// Continues with the indices in the pages, as a restarted service does.
    pub fn restart(&mut self) {
        self.head = self.out.producer.load(HEAD);
        self.tail = self.inn.consumer.load(TAIL);
    }

    /// Sends bytes. Returns `true` if there was room.
    pub fn send_bytes(&mut self, bytes: &[u8]) -> bool {
        if self.head.wrapping_sub(self.out.consumer.load(TAIL)) >= self.out.depth {
            return false;
        }
        let mut slot = bytes.to_vec();
        slot.resize(O::SIZE, 0);
        self.out.producer.write(SLOTS + (self.head & (self.out.depth - 1)) as usize * O::SIZE, &slot);
        self.head = self.head.wrapping_add(1);
        self.out.producer.store(HEAD, self.head);
        true
    }

    /// Sends a message. Returns `true` if there was room.
    pub fn send(&mut self, message: &O) -> bool {
        let mut bytes = vec![0; O::SIZE];
        message.to_bytes(&mut bytes);
        self.send_bytes(&bytes)
    }

    /// Records that its words changed while they were read: the service may have consumed another
    /// number of messages than they say.
    pub fn record_lie(&mut self) {
        self.lied = true;
    }

    /// Makes the peer honest: it restarts, and ignores what was sent to it before.
    pub fn behave(&mut self, host: &Host) {
        host.script.lie(&[]);
        self.restart();
        self.receive();
        self.lied = false;
    }

    /// Consumes all that was sent to it.
    ///
    /// # Panics
    /// The service under attack sent a malformed message, or more than the queue holds, to a peer
    /// that has not lied.
    pub fn receive(&mut self) -> Vec<I> {
        let mut messages = Vec::new();
        let head = self.inn.producer.load(HEAD);
        let waiting = head.wrapping_sub(self.tail);
        assert!(self.lied || waiting <= self.inn.depth, "{waiting} messages in a queue of {}", self.inn.depth);
        if waiting > self.inn.depth {
            self.tail = head.wrapping_sub(self.inn.depth);
        }
        while self.tail != head {
            let at = SLOTS + (self.tail & (self.inn.depth - 1)) as usize * I::SIZE;
            match I::from_bytes(&self.inn.producer.bytes(at, I::SIZE)) {
                Ok(message) => messages.push(message),
                Err(_) => assert!(self.lied, "a service's messages are well-formed"),
            }
            self.tail = self.tail.wrapping_add(1);
        }
        self.inn.consumer.store(TAIL, self.tail);
        self.inn.consumer.store(MESSAGE_EVENT, self.tail.wrapping_add(1));
        messages
    }

    /// Makes a step of the script. Returns the messages that it received.
    pub fn act<T: ScriptMessage<O>>(&mut self, act: Act<T>, host: &Host) -> Vec<I> {
        match act {
            Act::Send(message) => drop(self.send_bytes(&message.bytes())),
            Act::Repeat(times, message) => {
                for _ in 0..times {
                    self.send_bytes(&message.bytes());
                }
            }
            Act::Garbage(Bytes(bytes)) => drop(self.send_bytes(&bytes)),
            Act::Receive => return self.receive(),
            Act::Head(claim) => self.out.producer.store(HEAD, claim.of(self.head)),
            Act::Tail(claim) => {
                self.inn.consumer.store(TAIL, claim.of(self.tail));
                self.lied = true;
            }
            Act::Events(message, space) => {
                self.inn.consumer.store(MESSAGE_EVENT, message.of(self.tail));
                self.out.producer.store(SPACE_EVENT, space.of(self.head));
            }
            Act::Lie(Bytes(bytes)) => {
                host.script.lie(&bytes);
                self.lied = true;
            }
            Act::Restart => self.restart(),
        }
        Vec::new()
    }
}
