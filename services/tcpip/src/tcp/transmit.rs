//! A connection's turn to send.

use cloister_interfaces::{Instant, Memory, System};
use smoltcp::iface::{Interface, PollResult};
use smoltcp::time::{Duration as StackDuration, Instant as StackInstant};

use super::connection::{Connection, Stage};
use crate::link::device::{LinkDevice, QUEUE_RETRY};
use crate::time::{from_smoltcp, to_smoltcp};

/// Frames that a connection sends before another's turn.
const MAX_FRAMES: u32 = 8;
/// A connection is put to rest only if the stack wants nothing of it for so long.
const IDLE: StackDuration = StackDuration::from_millis(10);
/// How long to wait with a connection that has something to send, and does not.
const RETRY: StackDuration = StackDuration::from_millis(1);

/// What became of a connection that was attended to.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Progress {
    /// It has nothing more to do.
    Done,
    /// It has more to do at once.
    Again,
    /// It has more to do when the link or its application can take more.
    Blocked,
}

/// What a turn came to.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Turn {
    /// What the connection still has to do.
    pub outcome: Progress,
    /// When it is to be attended to at the latest.
    pub wake: Option<Instant>,
    /// It only waits in TIME-WAIT.
    pub rests: bool,
}

impl Turn {
    const NOTHING: Turn = Turn { outcome: Progress::Done, wake: None, rests: false };
}

impl Connection {
    /// Sends what the connection has to send.
    #[inline]
    pub fn transmit<S: System, M: Memory>(
        &mut self,
        interface: &mut Interface,
        device: &mut LinkDevice<S, M>,
        now: Instant,
    ) -> Turn {
        let time = to_smoltcp(now);
        let mss = device.link_mss() as u32;
        let (until, stage) = (self.stage_deadline(), self.stage);
        let Some((queued, most)) = self.socket().map(|socket| (socket.send_queue(), socket.send_capacity())) else {
            return Turn::NOTHING;
        };
        if stage == Stage::Unused {
            return Turn::NOTHING;
        }
        if self.recovery.has_data_in_flight() && device.can_send() && self.recovery.begin_round(mss, now) {
            self.rewind(interface, time);
        }
        let (outcome, at) = self.send(interface, device, (queued, most), now);
        let repeat = self.recovery.deadline(mss).filter(|_| outcome == Progress::Done && device.is_up());
        let repeat = repeat.map(|at| if at > now + QUEUE_RETRY || device.can_send() { at } else { now + QUEUE_RETRY });
        let wake =
            at.filter(|_| outcome != Progress::Again).map(from_smoltcp).into_iter().chain(until).chain(repeat).min();
        let rests = stage == Stage::Delivered && outcome == Progress::Done && at.is_none_or(|at| at > time + IDLE);
        Turn { outcome, wake, rests }
    }

    /// Lets the stack build frames while there is something to send, and room. `queued` of the `most` bytes that the socket's
    /// buffer has room for are there. Returns also when the stack wants to be polled again.
    #[inline]
    fn send<S: System, M: Memory>(
        &mut self,
        interface: &mut Interface,
        device: &mut LinkDevice<S, M>,
        (queued, most): (usize, usize),
        now: Instant,
    ) -> (Progress, Option<StackInstant>) {
        let time = to_smoltcp(now);
        let Connection { set: Some(set), recovery, stream, stage, peer_mss, .. } = self else {
            return (Progress::Done, None);
        };
        // The buffer is full, and more is to follow: each frame is to be as long as it can be, for all pay by the frame.
        let more = stream.as_ref().is_some_and(|stream| !stream.is_drained());
        let enough = if more { device.max_payload().min(most / 4) } else { 0 };
        let mut at = None;
        for turn in 0..MAX_FRAMES {
            if !recovery.has_unsent(queued as u32) {
                // What is on its way is looked after; an end that is to be sent, or anything else, the stack knows of.
                let followed = turn > 0 && *stage == Stage::Open && recovery.is_caught_up();
                at = if followed { None } else { interface.poll_at(time, set) };
                if at.is_none_or(|at| at > time) {
                    return (Progress::Done, at);
                }
            }
            if recovery.is_full() || recovery.defers(queued as u32, enough as u32) {
                // Until an acknowledgement comes, or should have.
                return (Progress::Done, None);
            }
            if !device.can_send_segment(queued) {
                return (Progress::Blocked, None);
            }
            device.begin_turn(Some(*peer_mss));
            if let Some(wanted) = recovery.send_ranges() {
                device.send_only(wanted);
            }
            let polled = interface.poll_egress(time, device, set);
            if let Some(made) = device.take_built() {
                recovery.on_sent(made, now);
            }
            if polled == PollResult::None {
                // It cannot now, whatever it waits for: a neighbour's address, or a window, mostly.
                return (Progress::Done, interface.poll_at(time, set).map(|at| at.max(time + RETRY)));
            }
        }
        (Progress::Again, at)
    }
}
