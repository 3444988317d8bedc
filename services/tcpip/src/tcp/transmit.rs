//! A connection's turn to send.

use cloister_interfaces::{Instant, Memory, System};
use smoltcp::iface::{Interface, PollResult};
use smoltcp::time::{Duration as StackDuration, Instant as StackInstant};

use super::connection::{Connection, Stage};
use crate::link::device::{LinkDevice, QUEUE_RETRY};
use crate::time::{from_smoltcp, to_smoltcp};

/// The largest number of frames that a connection sends in a turn.
const MAX_FRAMES: u32 = 8;
/// A connection enters TIME-WAIT without its socket only if smoltcp has nothing to do for it for
/// this long.
const IDLE: StackDuration = StackDuration::from_millis(10);
/// The time at which to try again if smoltcp has something to send, but does not send it.
const RETRY: StackDuration = StackDuration::from_millis(1);

/// The work that a served connection has left.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Progress {
    /// It has nothing to do.
    Done,
    /// It has more to do at once.
    Again,
    /// It has more to do once the link or its application has room.
    Blocked,
}

/// The result of a turn.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Turn {
    /// The work that the connection has left.
    pub outcome: Progress,
    /// The time at which it must be served again at the latest.
    pub wake: Option<Instant>,
    /// It only waits in TIME-WAIT, and needs no socket.
    pub can_enter_time_wait: bool,
}

impl Turn {
    const NOTHING: Turn = Turn { outcome: Progress::Done, wake: None, can_enter_time_wait: false };
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
        let Some((queued, capacity)) = self.socket().map(|socket| (socket.send_queue(), socket.send_capacity())) else {
            return Turn::NOTHING;
        };
        if stage == Stage::Unused {
            return Turn::NOTHING;
        }
        if self.recovery.has_data_in_flight() && device.can_send() && self.recovery.begin_round(mss, now) {
            self.rewind(interface, time);
        }
        let (outcome, at) = self.send(interface, device, (queued, capacity), now);
        let repeat = self.recovery.deadline(mss).filter(|_| outcome == Progress::Done && device.is_up());
        let repeat = repeat.map(|at| if at > now + QUEUE_RETRY || device.can_send() { at } else { now + QUEUE_RETRY });
        let smoltcp_at = at.filter(|_| outcome != Progress::Again).map(from_smoltcp);
        let wake = Instant::earlier(Instant::earlier(smoltcp_at, until), repeat);
        let can_enter_time_wait = matches!(stage, Stage::Delivered { .. })
            && outcome == Progress::Done
            && at.is_none_or(|at| at > time + IDLE);
        Turn { outcome, wake, can_enter_time_wait }
    }

    /// Lets smoltcp build frames while there is something to send, and room. The socket's send
    /// buffer holds `queued` bytes and has room for `capacity`. Also returns when smoltcp wants to
    /// be polled again.
    #[inline]
    fn send<S: System, M: Memory>(
        &mut self,
        interface: &mut Interface,
        device: &mut LinkDevice<S, M>,
        (queued, capacity): (usize, usize),
        now: Instant,
    ) -> (Progress, Option<StackInstant>) {
        let time = to_smoltcp(now);
        let Connection { set: Some(set), recovery, stream, stage, peer_mss, .. } = self else {
            return (Progress::Done, None);
        };
        // More data follows. Every frame has a cost, so each should be as long as possible.
        let more = stream.as_ref().is_some_and(|stream| !stream.is_drained());
        let enough = if more { device.max_payload().min(capacity / 4) } else { 0 };
        let mut at = None;
        for turn in 0..MAX_FRAMES {
            if !recovery.has_unsent(queued as u32) {
                // Recovery watches over what is in flight. Only smoltcp knows of a FIN, or anything
                // else, that is due.
                let followed = turn > 0 && *stage == Stage::Open && recovery.is_caught_up();
                at = if followed { None } else { interface.poll_at(time, set) };
                if at.is_none_or(|at| at > time) {
                    return (Progress::Done, at);
                }
            }
            if recovery.is_full() || recovery.holds_back(queued as u32, enough as u32) {
                // Waits for an acknowledgement or a timeout.
                return (Progress::Done, None);
            }
            if !device.can_send_segment(queued) {
                return (Progress::Blocked, None);
            }
            device.begin_turn(Some(*peer_mss));
            if let Some(ranges) = recovery.send_ranges() {
                device.send_only(ranges);
            }
            let polled = interface.poll_egress(time, device, set);
            if let Some(built) = device.take_built() {
                recovery.on_sent(built, now);
            }
            if polled == PollResult::None {
                // smoltcp cannot send now, usually because the window is closed.
                return (Progress::Done, interface.poll_at(time, set).map(|at| at.max(time + RETRY)));
            }
        }
        (Progress::Again, at)
    }
}
