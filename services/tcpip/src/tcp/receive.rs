//! What a connection does with a segment from its peer.

use cloister_interfaces::socket::Ring;
use cloister_interfaces::{Instant, Memory, System};
use smoltcp::iface::Interface;
use smoltcp::socket::tcp::State;

use super::connection::{Flow, Verdict};
use super::opening::Opening;
use crate::link::device::Wire;
use crate::segment::{Range, Segment};
use crate::time::stack_time;

/// What became of a segment.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Received {
    /// The connection has something to do.
    Taken,
    /// Nothing.
    Dropped,
}

impl Flow {
    /// Takes the segment that the device holds. `opening` says how the connection begins, if this is its first segment;
    /// `stream_in` is the memory of the rings to the application, and this connection's ring.
    #[inline]
    pub fn receive<S: System, M: Memory>(
        &mut self,
        segment: &Segment,
        opening: Option<Opening>,
        (interface, wire): (&mut Interface, &mut Wire<S, M>),
        stream_in: (&M, Ring),
        now: Instant,
    ) -> Received {
        let selected = segment.options.then(|| wire.selected());
        let blocks = selected.as_ref().map_or(&[][..], |blocks| blocks);
        if self.is_beyond_end(segment) {
            wire.pass_over();
            return Received::Dropped;
        }
        if !segment.plain && opening.is_none() {
            match self.doubt(segment) {
                Verdict::Take => {}
                Verdict::Drop => {
                    wire.pass_over();
                    return Received::Dropped;
                }
                Verdict::Challenge { seq, ack } => {
                    self.challenge(interface, wire, seq, ack, now);
                    return Received::Dropped;
                }
            }
        }
        if self.recovery.repeats(segment) {
            self.recovery.repeated(blocks, now);
            wire.pass_over();
            return Received::Taken;
        }
        self.parse(segment, opening, (interface, wire), stream_in, blocks, now)
    }

    /// Has the stack parse the segment, and follows what it changed. Data that the socket takes next go straight to the
    /// application's ring.
    #[inline]
    fn parse<S: System, M: Memory>(
        &mut self,
        segment: &Segment,
        opening: Option<Opening>,
        (interface, wire): (&mut Interface, &mut Wire<S, M>),
        (stream_in, ring): (&M, Ring),
        blocks: &[Option<Range>],
        now: Instant,
    ) -> Received {
        let largest = self.largest;
        let Some(socket) = self.socket() else { return Received::Dropped };
        let before = (socket.send_queue(), socket.state());
        wire.begin(Some(largest));
        let placed = if wire.is_pending() { self.place(segment, ring) } else { None };
        if let Some(position) = placed {
            wire.deliver(segment.offset, segment.data, stream_in, ring, position);
        }
        match (&mut self.set, opening) {
            (Some(set), None) => drop(interface.poll_ingress_single(stack_time(now), wire, set)),
            (Some(set), Some(opening)) => opening.parse(wire, set, now),
            _ => {}
        }
        if let (Some(_), Some((slot, socket))) = (placed, self.parts()) {
            slot.placed(socket, segment.data);
        }
        let Some(socket) = self.socket() else { return Received::Dropped };
        let after = (socket.send_queue(), socket.state());
        self.parsed(segment, before, after, blocks, wire.largest_segment() as u32, now);
        if let Some(made) = wire.made() {
            self.recovery.sent(made, now);
        }
        Received::Taken
    }

    /// Follows what the segment changed: the bytes that the socket has to send, and its state, before and after.
    #[inline]
    fn parsed(
        &mut self,
        segment: &Segment,
        before: (usize, State),
        after: (usize, State),
        blocks: &[Option<Range>],
        whole: u32,
        now: Instant,
    ) {
        self.note_end(segment, after.1);
        let shut = self.recovery.is_shut();
        self.recovery.took(segment, before != after, blocks, whole, now);
        if self.recovery.is_shut() != shut {
            self.limit_silence();
        }
    }

    /// Has the stack parse an acknowledgement with these numbers in the place of the segment that
    /// was readied, so that it answers what it expects of the peer.
    #[cold]
    fn challenge<S: System, M: Memory>(
        &mut self,
        interface: &mut Interface,
        wire: &mut Wire<S, M>,
        seq: u32,
        ack: u32,
        now: Instant,
    ) {
        let Flow { set: Some(set), recovery, largest, .. } = self else { return };
        wire.reduce(seq, ack);
        wire.begin(Some(*largest));
        interface.poll_ingress_single(stack_time(now), wire, set);
        if let Some(made) = wire.made() {
            recovery.sent(made, now);
        }
    }
}
