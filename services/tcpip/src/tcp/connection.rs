//! One connection: its socket, its recovery, and the connection as the application knows it.

use core::num::NonZeroU16;

use cloister_interfaces::Instant;
use cloister_interfaces::socket::Ring;
use smoltcp::iface::{Interface, SocketHandle, SocketSet};
use smoltcp::socket::tcp::{Socket, State};
use smoltcp::time::Instant as StackInstant;

use super::app_stream::AppStream;
use super::closing::Closing;
use super::recovery::Recovery;
use super::time_wait::StreamEnds;
use crate::link::null_device::NullDevice;
use crate::segment::Segment;

/// A peer that acknowledges nothing for this long is gone.
pub(super) const SILENCE: smoltcp::time::Duration = smoltcp::time::Duration::from_secs(60);
/// The same for one that takes nothing at present: it is asked for a window once in a minute at least, and answers.
const SILENCE_SHUT: smoltcp::time::Duration = smoltcp::time::Duration::from_secs(180);

/// What a connection's socket is at.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Stage {
    /// Nothing: no peer has it.
    Unused,
    /// A peer's SYN came, and is answered.
    HalfOpen,
    /// The application has it.
    Open,
    /// The application has given it up; data, a FIN or a reset is still on its way.
    Lingering,
    /// As before, but all was delivered: it waits so that what is old on the wire meets no new connection, unless its place
    /// is needed.
    Delivered,
}

/// One connection.
pub struct Connection {
    /// Its socket, alone in a set; none until it is first needed.
    pub set: Option<SocketSet<'static>>,
    pub(super) handle: SocketHandle,
    /// What its socket is at.
    pub stage: Stage,
    /// Whose port it is.
    pub(super) client: u8,
    /// It is in the queue of those that are to be attended to.
    pub(super) ready: bool,
    /// How long the stage may last, if it is not [`Stage::Open`].
    pub stage_until: Instant,
    /// How long it may go on, once its application has closed it.
    pub(super) closing: Option<Closing>,
    /// The connection as the application knows it.
    pub stream: Option<AppStream>,
    /// What is on its way to the peer.
    pub recovery: Recovery,
    /// Bytes of data in the longest segments that the peer takes.
    pub peer_mss: NonZeroU16,
    /// The sequence number of the first byte of the peer's stream.
    pub first_seq: u32,
    /// The sequence number after the peer's FIN, when that has come.
    pub(super) peer_end: Option<u32>,
    /// The sequence number after our FIN, when both have been acknowledged.
    pub(super) our_end: Option<u32>,
    /// Until when it answers its peer alone, in TIME-WAIT.
    pub quiet_until: Instant,
}

/// What becomes of a segment that may be forged.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Verdict {
    /// The stack gets it.
    Take,
    /// Nobody gets it.
    Drop,
    /// The stack gets one with these numbers instead, to which it answers what it expects.
    Challenge {
        /// The sequence number.
        seq: u32,
        /// What is acknowledged.
        ack: u32,
    },
}

/// Later than any timer of a socket: than the longest time that it waits for an acknowledgement.
const BEYOND_TIMERS: smoltcp::time::Duration = smoltcp::time::Duration::from_secs(61);

impl Connection {
    /// A connection that nobody has, without a socket.
    pub fn unused() -> Self {
        Connection {
            set: None,
            handle: SocketHandle::default(),
            stage: Stage::Unused,
            client: 0,
            ready: false,
            stage_until: Instant::START,
            closing: None,
            stream: None,
            recovery: Recovery::default(),
            peer_mss: NonZeroU16::MIN,
            first_seq: 0,
            peer_end: None,
            our_end: None,
            quiet_until: Instant::START,
        }
    }

    /// Takes note of the ends of the streams, if `segment`, which brought the socket to `state`, was the last of one.
    pub fn record_ends(&mut self, segment: &Segment, state: State) {
        if self.peer_end.is_none() && matches!(state, State::CloseWait | State::Closing | State::TimeWait) {
            self.peer_end = Some(segment.seq.wrapping_add(segment.data as u32).wrapping_add(1));
        }
        if self.our_end.is_none() && state == State::TimeWait {
            self.our_end = Some(segment.ack);
        }
    }

    /// Returns the number that the peer's next byte has.
    fn next_expected(&mut self) -> u32 {
        let (answered, start, end) = (self.recovery.last_ack_sent(), self.first_seq, self.peer_end);
        let taken = self.stream.as_ref().map_or(Some(0), AppStream::taken_from_socket);
        let queued = self.socket().map_or(0, |socket| socket.recv_queue() as u32);
        match (end, self.stage, taken) {
            (Some(end), ..) => end,
            (None, Stage::HalfOpen | Stage::Open, Some(taken)) => start.wrapping_add(taken).wrapping_add(queued),
            // What is thrown away is not counted, but acknowledged at once.
            _ => answered,
        }
    }

    /// Decides what becomes of a segment that may be forged, so that the peer must have seen our
    /// numbers to end the connection: a reset, or a SYN (RFC 5961, 3.2 and 4.2).
    #[inline(never)] // Seldom.
    pub fn check_suspect(&mut self, segment: &Segment) -> Verdict {
        /// Beyond anything that was ever sent.
        const BEYOND_TIMERS: u32 = 1 << 30;
        let next = self.next_expected();
        let (oldest, answered) = (self.recovery.oldest_unacked(), self.recovery.last_ack_sent());
        let Some(socket) = self.socket().filter(|_| segment.reset || segment.syn) else { return Verdict::Take };
        let room = (socket.recv_capacity() - socket.recv_queue()) as u32;
        let ack = match socket.state() {
            State::Closed | State::Listen | State::SynSent => return Verdict::Take,
            // The stack answers nothing but an acknowledgement of its SYN, once that was sent; and
            // it would reset one that nobody sends who connects.
            State::SynReceived if !segment.reset && !segment.opens => return Verdict::Drop,
            State::SynReceived if !segment.reset => return Verdict::Take,
            State::SynReceived if answered == next => Some(oldest),
            State::SynReceived => None,
            _ => Some(oldest.wrapping_add(BEYOND_TIMERS)),
        };
        let distance = segment.seq.wrapping_sub(next);
        match ack {
            _ if segment.reset && distance == 0 => Verdict::Take,
            // The stack limits how often it answers, for each connection by itself.
            Some(ack) if !segment.reset || distance < room => Verdict::Challenge { seq: next.wrapping_sub(1), ack },
            _ => Verdict::Drop,
        }
    }

    /// Where both streams ended, in TIME-WAIT.
    pub fn ends(&self) -> Option<StreamEnds> {
        Some(StreamEnds { ours: self.our_end?, peers: self.peer_end? })
    }

    /// Whether `segment` has data after the end of the peer's stream. They are to be ignored (RFC 9293, 3.10.7.4); the stack
    /// would deliver them.
    pub fn is_beyond_end(&self, segment: &Segment) -> bool {
        let after = |end: u32| segment.seq.wrapping_add(segment.data as u32).wrapping_sub(end) as i32;
        segment.data > 0 && self.peer_end.is_some_and(|end| after(end) > 0)
    }

    /// Makes the socket go back: it sends anew what was not acknowledged, from the oldest byte on. It does so when its timer for
    /// repeats runs out, and so it is shown a clock on which that is the case, and a link that takes nothing.
    pub fn rewind(&mut self, interface: &mut Interface, now: StackInstant) {
        let Some(socket) = self.socket() else { return };
        socket.set_timeout(None);
        if let Some(set) = &mut self.set {
            interface.poll_egress(now + BEYOND_TIMERS, &mut NullDevice, set);
        }
        self.update_silence_limit();
    }

    /// Gives the peer as much time to be silent as it may need.
    pub fn update_silence_limit(&mut self) {
        let limit = if self.recovery.is_window_closed() { SILENCE_SHUT } else { SILENCE };
        if let Some(socket) = self.socket() {
            socket.set_timeout(Some(limit));
        }
    }

    /// The connection as the application knows it, and its socket.
    pub fn stream_and_socket(&mut self) -> Option<(&mut AppStream, &mut Socket<'static>)> {
        let handle = self.handle;
        Some((self.stream.as_mut()?, self.set.as_mut()?.get_mut(handle)))
    }

    /// Where in the in ring the bytes of `segment` belong, if the socket will take them next: then they need not pass through it.
    pub fn ring_position(&mut self, segment: &Segment, ring: Ring) -> Option<u32> {
        let position = segment.seq.wrapping_sub(self.first_seq);
        let (stream, socket) = self.stream_and_socket().filter(|_| segment.plain)?;
        stream.ring_position(socket, position, segment.data, ring)
    }

    /// When the present stage ends at the latest.
    pub fn stage_deadline(&self) -> Option<Instant> {
        match self.stage {
            Stage::Unused => None,
            Stage::Open => self.closing.map(|closing| closing.until),
            Stage::HalfOpen | Stage::Lingering | Stage::Delivered => Some(self.stage_until),
        }
    }

    /// How long it may go on, now that its application has closed it, by what its peer has taken.
    pub(super) fn update_closing(&mut self, now: Instant) -> Closing {
        let queued = self.socket().map_or(0, |socket| socket.send_queue() as u64);
        let left = queued + self.stream.as_ref().map_or(0, AppStream::bytes_left);
        let closing = self.closing.get_or_insert(Closing::new(left, now));
        closing.update(left, now);
        *closing
    }

    /// Its socket.
    pub fn socket(&mut self) -> Option<&mut Socket<'static>> {
        let handle = self.handle;
        self.set.as_mut().map(|set| set.get_mut(handle))
    }
}
