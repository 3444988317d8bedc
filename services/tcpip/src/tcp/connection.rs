//! One connection: its socket, its loss recovery, and its stream to the application.

use core::num::NonZeroU16;

use cloister_interfaces::Instant;
use cloister_interfaces::rules::ClientIndex;
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

/// The time for which a peer may acknowledge nothing before it counts as gone.
pub(super) const SILENCE_LIMIT: smoltcp::time::Duration = smoltcp::time::Duration::from_secs(60);
/// The same for a peer whose window is closed. smoltcp asks it for a window at least once a minute,
/// and it answers.
const ZERO_WINDOW_LIMIT: smoltcp::time::Duration = smoltcp::time::Duration::from_secs(180);

/// The stage of a connection's socket.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Stage {
    /// No peer has it.
    Unused,
    /// A SYN was received, and is being answered.
    HalfOpen {
        /// The time at which the connection is given up.
        until: Instant,
    },
    /// The application has it.
    Open,
    /// The application has closed it. Data, a FIN or a reset is still to be delivered.
    Lingering {
        /// The time at which the connection is reset, or released if it was reset.
        until: Instant,
    },
    /// As before, but everything was delivered. It stays so that no old segment reaches a new
    /// connection, unless its place is needed.
    Delivered {
        /// The time at which the connection is released.
        until: Instant,
    },
}

impl Stage {
    /// Returns `true` if the peer has the connection, and not everything was delivered.
    pub fn is_busy(self) -> bool {
        matches!(self, Stage::HalfOpen { .. } | Stage::Open | Stage::Lingering { .. })
    }
}

/// One connection.
pub struct Connection {
    /// Its socket, alone in a set. `None` until it is needed for the first time.
    pub set: Option<SocketSet<'static>>,
    pub(super) handle: SocketHandle,
    /// The stage of its socket.
    pub stage: Stage,
    /// The application that listens to its port.
    pub(super) client: ClientIndex,
    /// It is in the queue of ready connections.
    pub(super) ready: bool,
    /// The deadlines once its application has closed it.
    pub(super) closing: Option<Closing>,
    /// Its stream to the application.
    pub stream: Option<AppStream>,
    /// The state of the bytes in flight.
    pub recovery: Recovery,
    /// The MSS of the peer.
    pub peer_mss: NonZeroU16,
    /// The sequence number of the first byte of the peer's stream.
    pub first_seq: u32,
    /// The sequence number after the peer's FIN, once it was received.
    pub(super) peer_end: Option<u32>,
    /// The sequence number after our FIN, once both were acknowledged.
    pub(super) our_end: Option<u32>,
    /// In TIME-WAIT: the time before which only segments that prove to be the peer's are answered.
    pub quiet_until: Instant,
}

/// What happens to a segment that may be forged.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum SegmentAction {
    /// smoltcp gets it.
    Take,
    /// It is dropped.
    Drop,
    /// smoltcp gets an acknowledgement with these numbers instead, and answers it with what it
    /// expects.
    Challenge {
        /// The sequence number.
        seq: u32,
        /// The acknowledgement number.
        ack: u32,
    },
}

/// A time beyond all timers of a socket: smoltcp waits 60 s for an acknowledgement at most.
const BEYOND_TIMERS: smoltcp::time::Duration = smoltcp::time::Duration::from_secs(61);

impl Connection {
    /// Returns a connection without peer and socket.
    pub fn unused() -> Self {
        Connection {
            set: None,
            handle: SocketHandle::default(),
            stage: Stage::Unused,
            client: ClientIndex(0),
            ready: false,
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

    /// Records the ends of the streams, if `segment`, which brought the socket to `state`, was the
    /// last of one.
    pub fn record_ends(&mut self, segment: &Segment, state: State) {
        if self.peer_end.is_none() && matches!(state, State::CloseWait | State::Closing | State::TimeWait) {
            self.peer_end = Some(segment.seq.wrapping_add(segment.data as u32).wrapping_add(1));
        }
        if self.our_end.is_none() && state == State::TimeWait {
            self.our_end = Some(segment.ack);
        }
    }

    /// Returns the sequence number that the peer's next byte has.
    fn next_expected(&mut self) -> u32 {
        let (answered, start, end) = (self.recovery.last_ack_sent(), self.first_seq, self.peer_end);
        let taken = self.stream.as_ref().map_or(Some(0), AppStream::taken_from_socket);
        let queued = self.socket().map_or(0, |socket| socket.recv_queue() as u32);
        match (end, self.stage, taken) {
            (Some(end), ..) => end,
            (None, Stage::HalfOpen { .. } | Stage::Open, Some(taken)) => start.wrapping_add(taken).wrapping_add(queued),
            // Discarded bytes are not counted, but acknowledged at once.
            _ => answered,
        }
    }

    /// Decides about a reset or a SYN, which may be forged. Only somebody who has seen our numbers
    /// can end the connection with one (RFC 5961, 3.2 and 4.2).
    #[inline(never)] // Rarely called.
    pub fn check_suspect(&mut self, segment: &Segment) -> SegmentAction {
        /// Farther than anything that was ever sent.
        const NEVER_SENT: u32 = 1 << 30;
        let next = self.next_expected();
        let (oldest, answered) = (self.recovery.oldest_unacked(), self.recovery.last_ack_sent());
        let Some(socket) = self.socket().filter(|_| segment.flags.has_rst() || segment.flags.has_syn()) else {
            return SegmentAction::Take;
        };
        let room = (socket.recv_capacity() - socket.recv_queue()) as u32;
        let ack = match socket.state() {
            State::Closed | State::Listen | State::SynSent => return SegmentAction::Take,
            // In this state smoltcp answers only an acknowledgement of its SYN, and only after that
            // was sent. It would answer a SYN with an ACK, which no connecting peer sends, with a
            // reset.
            State::SynReceived if !segment.flags.has_rst() && !segment.flags.opens() => return SegmentAction::Drop,
            State::SynReceived if !segment.flags.has_rst() => return SegmentAction::Take,
            State::SynReceived if answered == next => Some(oldest),
            State::SynReceived => None,
            _ => Some(oldest.wrapping_add(NEVER_SENT)),
        };
        let distance = segment.seq.wrapping_sub(next);
        match ack {
            _ if segment.flags.has_rst() && distance == 0 => SegmentAction::Take,
            // smoltcp limits how often it answers, for each connection by itself.
            Some(ack) if !segment.flags.has_rst() || distance < room => {
                SegmentAction::Challenge { seq: next.wrapping_sub(1), ack }
            }
            _ => SegmentAction::Drop,
        }
    }

    /// Returns the ends of both streams, in TIME-WAIT.
    pub fn ends(&self) -> Option<StreamEnds> {
        Some(StreamEnds { ours: self.our_end?, peers: self.peer_end? })
    }

    /// Returns `true` if `segment` has data after the end of the peer's stream. It has to be
    /// ignored (RFC 9293, 3.10.7.4), but smoltcp would deliver it.
    pub fn is_beyond_end(&self, segment: &Segment) -> bool {
        let after = |end: u32| segment.seq.wrapping_add(segment.data as u32).wrapping_sub(end) as i32;
        segment.data > 0 && self.peer_end.is_some_and(|end| after(end) > 0)
    }

    /// Makes the socket repeat everything from the oldest byte that was not acknowledged.
    ///
    /// smoltcp does so when its retransmission timer expires. So it is shown a time at which the
    /// timer has expired, and a device that sends nothing.
    pub fn rewind(&mut self, interface: &mut Interface, now: StackInstant) {
        let Some(socket) = self.socket() else { return };
        socket.set_timeout(None);
        if let Some(set) = &mut self.set {
            interface.poll_egress(now + BEYOND_TIMERS, &mut NullDevice, set);
        }
        self.update_silence_limit();
    }

    /// Sets how long the peer may be silent, by whether its window is closed.
    pub fn update_silence_limit(&mut self) {
        let limit = if self.recovery.is_window_closed() { ZERO_WINDOW_LIMIT } else { SILENCE_LIMIT };
        if let Some(socket) = self.socket() {
            socket.set_timeout(Some(limit));
        }
    }

    /// Returns the stream and its socket.
    pub fn stream_and_socket(&mut self) -> Option<(&mut AppStream, &mut Socket<'static>)> {
        let handle = self.handle;
        Some((self.stream.as_mut()?, self.set.as_mut()?.get_mut(handle)))
    }

    /// Returns where in the in ring the bytes of `segment` belong, if the socket will take them
    /// next. Then they need not pass through the socket's buffer.
    pub fn ring_position(&mut self, segment: &Segment, ring: Ring) -> Option<u32> {
        let position = segment.seq.wrapping_sub(self.first_seq);
        let (stream, socket) = self.stream_and_socket().filter(|_| segment.flags.is_plain())?;
        stream.ring_position(socket, position, segment.data, ring)
    }

    /// Returns when the present stage ends at the latest.
    pub fn stage_deadline(&self) -> Option<Instant> {
        match self.stage {
            Stage::Unused => None,
            Stage::Open => self.closing.map(|closing| closing.until),
            Stage::HalfOpen { until } | Stage::Lingering { until } | Stage::Delivered { until } => Some(until),
        }
    }

    /// Returns when its peer or its application last did something.
    pub(super) fn last_used(&self) -> Instant {
        match (&self.closing, &self.stream) {
            (Some(closing), _) => closing.last_used(),
            (None, Some(stream)) => stream.last_report(),
            (None, None) => Instant::START,
        }
    }

    /// Returns the deadlines of a connection that its application has closed, extended by what its
    /// peer has taken.
    pub(super) fn update_closing(&mut self, now: Instant) -> Closing {
        let queued = self.socket().map_or(0, |socket| socket.send_queue() as u64);
        let left = queued + self.stream.as_ref().map_or(0, AppStream::bytes_left);
        let closing = self.closing.get_or_insert(Closing::new(left, now));
        closing.update(left, now);
        *closing
    }

    /// Returns the socket of the connection.
    #[inline]
    pub fn socket(&mut self) -> Option<&mut Socket<'static>> {
        let handle = self.handle;
        self.set.as_mut().map(|set| set.get_mut(handle))
    }
}
