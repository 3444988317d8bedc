//! A connection's turn to send.

use cloister_interfaces::{Instant, Memory, System};
use smoltcp::iface::{Interface, PollResult};
use smoltcp::time::{Duration as StackDuration, Instant as StackInstant};

use super::connection::{Flow, Stage};
use crate::link::device::{BLOCKED, Wire};
use crate::time::{own_time, stack_time};

/// Frames that a connection sends before another's turn.
const TURN: u32 = 8;
/// A connection is put to rest only if the stack wants nothing of it for so long.
const SOON: StackDuration = StackDuration::from_millis(10);
/// How long to wait with a connection that has something to send, and does not.
const STUCK: StackDuration = StackDuration::from_millis(1);

/// What became of a connection that was attended to.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Attended {
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
    pub outcome: Attended,
    /// When it is to be attended to at the latest.
    pub wake: Option<Instant>,
    /// It only waits in TIME-WAIT.
    pub rests: bool,
}

impl Turn {
    const NOTHING: Turn = Turn { outcome: Attended::Done, wake: None, rests: false };
}

impl Flow {
    /// Sends what the connection has to send.
    #[inline]
    pub fn transmit<S: System, M: Memory>(
        &mut self,
        interface: &mut Interface,
        wire: &mut Wire<S, M>,
        now: Instant,
    ) -> Turn {
        let time = stack_time(now);
        let whole = wire.largest_segment() as u32;
        let (until, stage) = (self.limit(), self.stage);
        let Some((queued, most)) = self.socket().map(|socket| (socket.send_queue(), socket.send_capacity())) else {
            return Turn::NOTHING;
        };
        if stage == Stage::Unused {
            return Turn::NOTHING;
        }
        if self.recovery.follows() && wire.can_send() && self.recovery.begins(whole, now) {
            self.go_back(interface, time);
        }
        let (outcome, at) = self.send(interface, wire, (queued, most), now);
        let repeat = self.recovery.deadline(whole).filter(|_| outcome == Attended::Done && wire.is_up());
        let repeat = repeat.map(|at| if at > now + BLOCKED || wire.can_send() { at } else { now + BLOCKED });
        let wake = at.filter(|_| outcome != Attended::Again).map(own_time).into_iter().chain(until).chain(repeat).min();
        let rests = stage == Stage::Delivered && outcome == Attended::Done && at.is_none_or(|at| at > time + SOON);
        Turn { outcome, wake, rests }
    }

    /// Lets the stack build frames while there is something to send, and room. `queued` of the `most` bytes that the socket's
    /// buffer has room for are there. Returns also when the stack wants to be polled again.
    #[inline]
    fn send<S: System, M: Memory>(
        &mut self,
        interface: &mut Interface,
        wire: &mut Wire<S, M>,
        (queued, most): (usize, usize),
        now: Instant,
    ) -> (Attended, Option<StackInstant>) {
        let time = stack_time(now);
        let Flow { set: Some(set), recovery, slot, stage, largest, .. } = self else { return (Attended::Done, None) };
        // The buffer is full, and more is to follow: each frame is to be as long as it can be, for all pay by the frame.
        let more = slot.as_ref().is_some_and(|slot| !slot.is_drained());
        let enough = if more { wire.longest_data().min(most / 4) } else { 0 };
        let mut at = None;
        for turn in 0..TURN {
            if !recovery.has_unsent(queued as u32) {
                // What is on its way is looked after; an end that is to be sent, or anything else, the stack knows of.
                let followed = turn > 0 && *stage == Stage::Open && recovery.is_ahead();
                at = if followed { None } else { interface.poll_at(time, set) };
                if at.is_none_or(|at| at > time) {
                    return (Attended::Done, at);
                }
            }
            if recovery.is_full() || recovery.defers(queued as u32, enough as u32) {
                // Until an acknowledgement comes, or should have.
                return (Attended::Done, None);
            }
            if !wire.can_send_segment(queued) {
                return (Attended::Blocked, None);
            }
            wire.begin(Some(*largest));
            if let Some(wanted) = recovery.wanted() {
                wire.want(wanted);
            }
            let polled = interface.poll_egress(time, wire, set);
            if let Some(made) = wire.made() {
                recovery.sent(made, now);
            }
            if polled == PollResult::None {
                // It cannot now, whatever it waits for: a neighbour's address, or a window, mostly.
                return (Attended::Done, interface.poll_at(time, set).map(|at| at.max(time + STUCK)));
            }
        }
        (Attended::Again, at)
    }
}
