//! The state of a link that is up: frames on their way to tcpip, pace, and checks of the back end.

use core::time::Duration;

use arrayvec::ArrayVec;
use bitflags::bitflags;
use cloister_interfaces::capability::Console;
use cloister_interfaces::net::Reply;
use cloister_interfaces::queue::Sender;
use cloister_interfaces::{Instant, Memory, System};

use crate::pace::Pace;
use crate::ring::{Anomaly, Violation};
use crate::rx::{Frame, MAX_SLOTS, Part, Receive};
use crate::tx::Transmit;

/// The largest number of frames that are moved in one pass.
const MAX_FRAMES: usize = 512;
/// The time after which the connection counts as stalled if the back end holds frames and gives
/// none back. A back end that has disabled the device (`xenvif_fatal_tx_err` of Linux's netback)
/// does not report it.
const STALL_TIME: Duration = Duration::from_secs(60);

/// The state of a connection that is up.
///
/// # Holding one proves
/// tcpip was told that this connection is up, and not of its end. So the requests that it sends are
/// for this connection.
pub struct Traffic {
    /// The receive ring has a port of its own.
    pub split: bool,
    /// Replies about one frame that found the queue full. Nothing more is taken from the rings
    /// until they are sent, so no other page is ever in between.
    unsent: ArrayVec<Reply, MAX_SLOTS>,
    /// Decides between events and polling.
    pub pace: Pace,
    /// The time of the next check for a stalled back end.
    next_stall_check: Option<Instant>,
    /// The back end gave a frame back since the last check.
    progress: bool,
    logged: Logged,
}

bitflags! {
    /// The notes that are logged once a connection.
    #[derive(Clone, Copy)]
    pub struct Logged: u8 {
        /// An [`Anomaly`]: the values of those are the bits.
        const ANOMALIES = 0b1111;
        /// A [`RequestViolation`](crate::request::RequestViolation).
        const REQUEST_VIOLATION = 16;
        /// The beginning of polling.
        const POLLING = 32;
    }
}

/// The result of moving frames.
pub struct PassResult {
    /// There was work.
    pub found: bool,
    /// The pass ended at the largest number of frames.
    pub at_limit: bool,
}

impl Traffic {
    /// Creates the state of a connection on which no frame was moved yet.
    pub fn new(split: bool) -> Self {
        Traffic {
            split,
            unsent: ArrayVec::new(),
            pace: Pace::default(),
            next_stall_check: None,
            progress: false,
            logged: Logged::empty(),
        }
    }

    /// Moves received frames, and the pages of sent frames, to tcpip.
    ///
    /// # Errors
    /// The back end broke the protocol.
    pub fn move_frames<S: System, M: Memory>(
        &mut self,
        replies: &mut Sender<Reply, S, M>,
        transmit: &mut Transmit<M>,
        receive: &mut Receive<M>,
        eager: bool,
    ) -> Result<PassResult, Violation> {
        let unsent = &mut self.unsent;
        let sent = unsent.iter().take_while(|reply| replies.push(reply).is_ok()).count();
        unsent.drain(..sent);
        let mut found = !unsent.is_empty();
        for _ in 0..MAX_FRAMES {
            if !unsent.is_empty() {
                return Ok(PassResult { found, at_limit: false });
            }
            if let Some(page) = transmit.reap()? {
                self.progress = true;
                send_or_keep(replies, unsent, Reply::Transmitted { page });
            } else if let Some(Frame { parts, checked }) = receive.next_frame()? {
                let mut left = parts.len();
                for Part { page, offset, length } in parts.iter().copied() {
                    left -= 1;
                    let (more, checked) = (left > 0, *checked);
                    send_or_keep(replies, unsent, Reply::Received { page, offset, length, more, checked });
                }
            } else if !(transmit.arm(eager)? | receive.arm()?) {
                return Ok(PassResult { found, at_limit: false });
            } else {
                continue;
            }
            found = true;
        }
        Ok(PassResult { found, at_limit: true })
    }

    /// Marks a note as logged. Returns `true` if it was not.
    pub fn mark_logged(&mut self, note: Logged) -> bool {
        let first = !self.logged.contains(note);
        self.logged.insert(note);
        first
    }

    /// Logs each anomaly of the back end, once a connection.
    pub fn log_anomalies<S: System>(&mut self, anomalies: u8, console: &Console<S>) {
        let new = anomalies & !self.logged.bits();
        for anomaly in Anomaly::ALL.into_iter().filter(|anomaly| new & *anomaly as u8 != 0) {
            console.line(format_args!("{} (logged once per connection)", anomaly.text()));
        }
        self.logged |= Logged::from_bits_retain(new);
    }

    /// Returns the time of the next check for a stalled back end.
    pub fn next_stall_check(&self) -> Option<Instant> {
        self.next_stall_check
    }

    /// Returns the time if the back end has held frames for an interval of [`STALL_TIME`] and given
    /// none back. `now` is the time if the caller knows it. `clock` is read only to begin an
    /// interval.
    pub fn stall_time(
        &mut self,
        in_flight: bool,
        now: Option<Instant>,
        clock: impl FnOnce() -> Instant,
    ) -> Option<Instant> {
        if let (Some(look), Some(now)) = (self.next_stall_check, now)
            && now >= look
        {
            self.next_stall_check = None;
            if in_flight && !self.progress && self.unsent.is_empty() {
                return Some(now);
            }
        }
        if in_flight && self.next_stall_check.is_none() {
            self.next_stall_check = Some(now.unwrap_or_else(clock) + STALL_TIME);
            self.progress = false;
        }
        None
    }
}

/// Sends a reply, or appends it to the unsent ones if there are any or if the queue is full.
pub fn send_or_keep<S: System, M: Memory>(
    replies: &mut Sender<Reply, S, M>,
    unsent: &mut ArrayVec<Reply, MAX_SLOTS>,
    reply: Reply,
) {
    if !unsent.is_empty() || replies.push(&reply).is_err() {
        // There is room: nothing is taken from the rings while a reply is unsent, so the unsent
        // ones are the parts of one frame.
        let _ = unsent.try_push(reply);
    }
}
