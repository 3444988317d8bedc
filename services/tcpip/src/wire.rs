//! The link as smoltcp's device: frames in pages of two pools, descriptors over the `net` queue.
//!
//! The pools are shared with another domain. A received frame is copied out before anything looks at it, and its
//! page goes back at once; a frame to send is built here and copied in when it is complete.

use alloc::collections::VecDeque;
use alloc::vec;
use alloc::vec::Vec;

use cloister_caps::PAGE_SIZE;
use cloister_interfaces::net::{Net, Reply, Request, Work};
use cloister_interfaces::{Client, Memory, Own, System};
use smoltcp::phy::{Device, DeviceCapabilities, Medium};
use smoltcp::time::Instant;

use crate::frame::{ETHERNET_HEADER, oversized_fragment, starts_connection};

/// The most pages of a pool that are used.
const MAX_PAGES: usize = 1024;

/// What the link did, that the stack must know.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Event {
    /// It is up.
    Up {
        /// The interface's address.
        mac: [u8; 6],
        /// The largest IP packet in bytes.
        mtu: u16,
    },
    /// It is down.
    Down,
    /// netfront said something that cannot be.
    Refused(Refused),
}

/// What netfront may not say.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Refused {
    /// A message that does not decode.
    Message,
    /// A page that it does not hold, or that is outside the pool.
    Page,
    /// A frame that leaves its page.
    Length,
    /// An address that is not one station's, or an MTU that IPv4 cannot use.
    Parameters,
}

struct Received {
    page: u16,
    offset: u16,
    length: u16,
}

/// The sending half.
struct Outbound<S, M: Memory> {
    net: Client<Net, S, M>,
    pool: M::Own,
    free: Vec<u16>,
    sent: Vec<bool>,
    frame: Vec<u8>,
}

/// The link.
pub struct Wire<S, M: Memory> {
    out: Outbound<S, M>,
    pool: M,
    /// Pages of the rx-pool that are ours: received, and not given back yet.
    held: Vec<bool>,
    received: VecDeque<Received>,
    /// Pages that could not be given back yet, the queue being full.
    returns: VecDeque<u16>,
    frame: Vec<u8>,
    mtu: u16,
    up: bool,
    /// Whether a listener is free; without one, a connection attempt is dropped, so that the peer tries again
    /// rather than be refused.
    pub listening: bool,
    /// A connection attempt was handed to the stack since this was last cleared.
    pub attempt: bool,
}

impl<S: System, M: Memory> Wire<S, M> {
    /// The link over these capabilities; down.
    pub fn new(net: Client<Net, S, M>, rx_pool: M, tx_pool: M::Own) -> Self {
        let pages = |bytes: usize| (bytes / PAGE_SIZE).min(MAX_PAGES);
        let (rx, tx) = (pages(rx_pool.len()), pages(tx_pool.size()));
        Wire {
            out: Outbound {
                net,
                pool: tx_pool,
                free: (0..tx as u16).collect(),
                sent: vec![false; tx],
                frame: vec![0; PAGE_SIZE],
            },
            pool: rx_pool,
            held: vec![false; rx],
            received: VecDeque::with_capacity(rx),
            returns: VecDeque::with_capacity(rx),
            frame: vec![0; PAGE_SIZE],
            mtu: 1500,
            up: false,
            listening: false,
            attempt: false,
        }
    }

    /// Whether the backend is connected.
    pub fn is_up(&self) -> bool {
        self.up
    }

    /// Whether a frame could be sent now. If not, a notification says when.
    pub fn can_send(&self) -> bool {
        self.up && !self.out.free.is_empty() && self.out.net.requests.room() > 0
    }

    /// Whether the queue to netfront is full. Only a failed push asks to be woken, so this is to be looked at again.
    pub fn is_blocked(&self) -> bool {
        self.up && self.out.net.requests.room() == 0
    }

    /// Whether frames wait to be parsed.
    pub fn has_frames(&self) -> bool {
        !self.received.is_empty()
    }

    /// Takes up to `budget` messages; answers the first event among them, `None` if there is nothing more.
    pub fn next_event(&mut self, budget: &mut u32) -> Option<Event> {
        while *budget > 0 {
            *budget -= 1;
            let event = match self.out.net.replies.pop()? {
                Ok(Reply::Up { mac, mtu, .. }) => Some(self.raised(mac, mtu)),
                Ok(Reply::Down) => {
                    self.reset();
                    Some(Event::Down)
                }
                Ok(Reply::Received { page, offset, length, .. }) => self.came(page, offset, length).err(),
                Ok(Reply::Transmitted { page }) => self.left(page).err(),
                Err(_) => Some(Event::Refused(Refused::Message)),
            };
            if event.is_some() {
                return event;
            }
        }
        None
    }

    fn raised(&mut self, mac: [u8; 6], mtu: u16) -> Event {
        // 68: the least that every IPv4 link carries (RFC 791); less would leave no room for TCP.
        let fits = usize::from(mtu) >= 128 && usize::from(mtu) + ETHERNET_HEADER <= PAGE_SIZE;
        if mac[0] & 1 != 0 || mac == [0; 6] || !fits {
            return Event::Refused(Refused::Parameters);
        }
        self.reset();
        self.up = true;
        self.mtu = mtu;
        Event::Up { mac, mtu }
    }

    /// All pages are where they were at the start.
    fn reset(&mut self) {
        self.up = false;
        self.held.fill(false);
        self.received.clear();
        self.returns.clear();
        self.out.sent.fill(false);
        self.out.free.clear();
        self.out.free.extend(0..self.out.sent.len() as u16);
    }

    fn came(&mut self, page: u16, offset: u16, length: u16) -> Result<(), Event> {
        let held = self.held.get_mut(usize::from(page)).ok_or(Event::Refused(Refused::Page))?;
        if *held || !self.up {
            return Err(Event::Refused(Refused::Page));
        }
        *held = true;
        if usize::from(offset) + usize::from(length) > PAGE_SIZE {
            self.give_back(page);
            return Err(Event::Refused(Refused::Length));
        }
        self.received.push_back(Received { page, offset, length });
        Ok(())
    }

    fn left(&mut self, page: u16) -> Result<(), Event> {
        match self.out.sent.get_mut(usize::from(page)) {
            Some(sent) if *sent => *sent = false,
            _ => return Err(Event::Refused(Refused::Page)),
        }
        self.out.free.push(page);
        Ok(())
    }

    fn give_back(&mut self, page: u16) {
        self.returns.push_back(page);
        self.give_back_all();
    }

    /// Gives back the pages for which the queue had no room.
    pub fn give_back_all(&mut self) {
        while let Some(page) = self.returns.front().copied() {
            if self.out.net.requests.push(&Request::Receive { page, count: 1 }).is_err() {
                return;
            }
            self.returns.pop_front();
            if let Some(held) = self.held.get_mut(usize::from(page)) {
                *held = false;
            }
        }
    }

    /// Sends a frame that the stack did not make.
    pub fn send(&mut self, frame: &[u8]) {
        if self.up {
            self.out.send(frame.len(), |space| space.copy_from_slice(frame));
        }
    }

    /// Asks netfront to disconnect. Answers whether the queue had room.
    pub fn close(&mut self) -> bool {
        self.out.net.requests.push(&Request::Close).is_ok()
    }

    /// Publishes what was asked.
    pub fn flush(&mut self) {
        self.out.net.requests.flush();
        self.out.net.replies.release();
    }

    /// The next frame worth parsing, in `self.frame`.
    fn next_frame(&mut self) -> Option<usize> {
        while let Some(Received { page, offset, length }) = self.received.pop_front() {
            let length = usize::from(length);
            if let Some(frame) = self.frame.get_mut(..length) {
                self.pool.read(usize::from(page) * PAGE_SIZE + usize::from(offset), frame);
            }
            self.give_back(page);
            let frame = self.frame.get(..length)?;
            let attempt = starts_connection(frame);
            if oversized_fragment(frame) || attempt && !self.listening {
                continue;
            }
            self.attempt |= attempt;
            return Some(length);
        }
        None
    }
}

impl<S: System, M: Memory> Outbound<S, M> {
    fn send<R>(&mut self, length: usize, fill: impl FnOnce(&mut [u8]) -> R) -> R {
        // A frame longer than a page cannot be: the stack keeps to the MTU. It would be cut short.
        let length = length.min(self.frame.len());
        let frame = &mut self.frame[..length];
        let result = fill(frame);
        // Without a page the frame is lost, as on any link; its sender looked first with `can_send`.
        if let Some(page) = self.free.pop() {
            self.pool.edit(usize::from(page) * PAGE_SIZE, length, |space| space.copy_from_slice(frame));
            let request = Request::Transmit { page, length: length as u16, work: Work::Nothing };
            let pushed = self.net.requests.push(&request).is_ok();
            match self.sent.get_mut(usize::from(page)) {
                Some(sent) if pushed => *sent = true,
                _ => self.free.push(page),
            }
        }
        result
    }
}

/// A received frame, copied.
pub struct RxToken<'a>(&'a [u8]);

impl smoltcp::phy::RxToken for RxToken<'_> {
    fn consume<R, F: FnOnce(&[u8]) -> R>(self, f: F) -> R {
        f(self.0)
    }
}

/// Leave to send one frame.
pub struct TxToken<'a, S, M: Memory>(&'a mut Outbound<S, M>);

impl<S: System, M: Memory> smoltcp::phy::TxToken for TxToken<'_, S, M> {
    fn consume<R, F: FnOnce(&mut [u8]) -> R>(self, length: usize, f: F) -> R {
        self.0.send(length, f)
    }
}

impl<S: System, M: Memory> Device for Wire<S, M> {
    type RxToken<'a>
        = RxToken<'a>
    where
        Self: 'a;
    type TxToken<'a>
        = TxToken<'a, S, M>
    where
        Self: 'a;

    fn receive(&mut self, _timestamp: Instant) -> Option<(Self::RxToken<'_>, Self::TxToken<'_>)> {
        // Without room for the answer the frame waits: an echo request is not lost to a busy link.
        if !self.can_send() {
            return None;
        }
        let length = self.next_frame()?;
        Some((RxToken(self.frame.get(..length)?), TxToken(&mut self.out)))
    }

    fn transmit(&mut self, _timestamp: Instant) -> Option<Self::TxToken<'_>> {
        self.can_send().then_some(TxToken(&mut self.out))
    }

    fn capabilities(&self) -> DeviceCapabilities {
        let mut capabilities = DeviceCapabilities::default();
        capabilities.medium = Medium::Ethernet;
        capabilities.max_transmission_unit = usize::from(self.mtu) + ETHERNET_HEADER;
        capabilities
    }
}
