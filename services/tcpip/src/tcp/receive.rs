//! A connection receives a segment.

use cloister_interfaces::socket::Ring;
use cloister_interfaces::{Instant, Memory, System};
use smoltcp::iface::Interface;
use smoltcp::socket::tcp::State;

use super::connection::{Connection, SegmentAction};
use super::opening::Opening;
use crate::link::device::LinkDevice;
use crate::segment::{Range, Segment};
use crate::time::to_smoltcp;

/// The result of receiving a segment.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Received {
    /// The connection has something to do.
    Taken,
    /// There is nothing to do.
    Dropped,
}

impl Connection {
    /// Receives the segment in the device's current frame.
    ///
    /// `opening` says how the connection opens, if this is its first segment. `stream_in` is the
    /// memory of the rings to the application, and this connection's ring.
    #[inline]
    pub fn receive<S: System, M: Memory>(
        &mut self,
        segment: &Segment,
        opening: Option<Opening>,
        (interface, device): (&mut Interface, &mut LinkDevice<S, M>),
        stream_in: (&M, Ring),
        now: Instant,
    ) -> Received {
        let selected = segment.options.then(|| device.sack_blocks());
        let blocks = selected.as_ref().map_or(&[][..], |blocks| blocks);
        if self.is_beyond_end(segment) {
            device.discard_frame();
            return Received::Dropped;
        }
        if !segment.flags.is_plain() && opening.is_none() {
            match self.check_suspect(segment) {
                SegmentAction::Take => {}
                SegmentAction::Drop => {
                    device.discard_frame();
                    return Received::Dropped;
                }
                SegmentAction::Challenge { seq, ack } => {
                    self.challenge(interface, device, seq, ack, now);
                    return Received::Dropped;
                }
            }
        }
        if self.recovery.is_duplicate_ack(segment) {
            self.recovery.on_duplicate_ack(blocks, now);
            device.discard_frame();
            return Received::Taken;
        }
        self.parse(segment, opening, (interface, device), stream_in, blocks, now)
    }

    /// Lets smoltcp parse the segment, and records what it changed. Data that the socket takes next
    /// are copied straight to the application's ring.
    #[inline]
    fn parse<S: System, M: Memory>(
        &mut self,
        segment: &Segment,
        opening: Option<Opening>,
        (interface, device): (&mut Interface, &mut LinkDevice<S, M>),
        (stream_in, ring): (&M, Ring),
        blocks: &[Option<Range>],
        now: Instant,
    ) -> Received {
        let peer_mss = self.peer_mss;
        let Some(socket) = self.socket() else { return Received::Dropped };
        let before = (socket.send_queue(), socket.state());
        device.begin_turn(Some(peer_mss));
        let direct = if device.has_uncopied() { self.ring_position(segment, ring) } else { None };
        if let Some(position) = direct {
            device.copy_to_ring(segment.offset, segment.data, stream_in, ring, position);
        }
        match (&mut self.set, opening) {
            (Some(set), None) => drop(interface.poll_ingress_single(to_smoltcp(now), device, set)),
            (Some(set), Some(opening)) => opening.parse(device, set, now),
            _ => {}
        }
        if let (Some(_), Some((stream, socket))) = (direct, self.stream_and_socket()) {
            stream.accept_direct(socket, segment.data);
        }
        let Some(socket) = self.socket() else { return Received::Dropped };
        let after = (socket.send_queue(), socket.state());
        // What we sent was acknowledged, so it reaches the peer.
        if after.0 < before.0 || before.1 == State::SynReceived && after.1 == State::Established {
            device.record_progress(segment.key.address());
        }
        self.parsed(segment, before, after, blocks, device.link_mss() as u32, now);
        if let Some(built) = device.take_built() {
            self.recovery.on_sent(built, now);
        }
        Received::Taken
    }

    /// Records what the segment changed. `before` and `after` are the length of the socket's send
    /// queue, and its state.
    #[inline]
    fn parsed(
        &mut self,
        segment: &Segment,
        before: (usize, State),
        after: (usize, State),
        blocks: &[Option<Range>],
        mss: u32,
        now: Instant,
    ) {
        self.record_ends(segment, after.1);
        let shut = self.recovery.is_window_closed();
        self.recovery.on_received(segment, before != after, blocks, mss, now);
        if self.recovery.is_window_closed() != shut {
            self.update_silence_limit();
        }
    }

    /// Lets smoltcp parse an acknowledgement with these numbers in place of the segment. smoltcp
    /// answers it with what it expects.
    #[cold]
    fn challenge<S: System, M: Memory>(
        &mut self,
        interface: &mut Interface,
        device: &mut LinkDevice<S, M>,
        seq: u32,
        ack: u32,
        now: Instant,
    ) {
        let Connection { set: Some(set), recovery, peer_mss, .. } = self else { return };
        device.reduce_to_ack(seq, ack);
        device.begin_turn(Some(*peer_mss));
        interface.poll_ingress_single(to_smoltcp(now), device, set);
        if let Some(built) = device.take_built() {
            recovery.on_sent(built, now);
        }
    }
}
