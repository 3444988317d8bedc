//! Frames that came: whose pages they are, and how they are copied out of the pool.

use cloister_caps::PAGE_SIZE;
use cloister_interfaces::net::Request;
use cloister_interfaces::socket::Ring;
use cloister_interfaces::{Memory, System};
use smoltcp::wire::Ipv4Cidr;

use super::{UNANNOUNCED, Wire};
use crate::link::frame::{
    self, FrameKind, LONGEST_HEADERS, classify, has_sound_header, is_intact, is_sound, largest_segment, selected,
};
use crate::link::rx_part::Part;
use crate::refusals::Refusal;
use crate::segment::{Range, Segment};

/// Bytes of a received frame that are copied before anything is known of it: all headers.
const FIRST: usize = 256;
const _: () = assert!(LONGEST_HEADERS + 40 <= FIRST, "with all the options that IPv4 has");

impl<S: System, M: Memory> Wire<S, M> {
    pub(super) fn came(&mut self, part: Part) -> Result<(), Refusal> {
        let taken = self.take(part);
        if taken.is_ok() && !self.skipping {
            self.received.push_back(part);
            self.whole += usize::from(!part.more);
            return Ok(());
        }
        // What has come of the frame, and what still comes, is of no use without the part that is missing.
        while let Some(part) = self.received.pop_back_if(|part| part.more) {
            self.give_back(part);
        }
        if taken.is_ok() {
            self.give_back(part);
        }
        self.skipping = part.more;
        taken
    }

    /// Takes over the pages of a part.
    fn take(&mut self, part: Part) -> Result<(), Refusal> {
        if usize::from(part.offset) >= PAGE_SIZE || part.length == 0 {
            return Err(Refusal::LinkLength);
        }
        let first = usize::from(part.page);
        let pages = self.held.get_mut(first..first + usize::from(part.pages())).ok_or(Refusal::LinkPage)?;
        if !self.up || pages.contains(&true) {
            return Err(Refusal::LinkPage);
        }
        // Mostly it is one, and cheaper without a call.
        match pages {
            [page] => *page = true,
            pages => pages.fill(true),
        }
        Ok(())
    }

    /// The pages of a part are needed no more.
    fn give_back(&mut self, part: Part) {
        let (page, count) = (part.page, part.pages());
        self.owed += usize::from(count);
        match self.returns.back_mut() {
            Some((first, length)) if *first + *length == page => *length += count,
            _ => self.returns.push_back((page, count)),
        }
    }

    /// Gives netfront the pages that are needed no more, as far as the queue has room.
    pub(super) fn give_back_all(&mut self) {
        while let Some((page, count)) = self.returns.front().copied() {
            if self.out.net.requests.push(&Request::Receive { page, count }).is_err() {
                return;
            }
            self.returns.pop_front();
            self.owed -= usize::from(count);
            if let Some(pages) = self.held.get_mut(usize::from(page)..usize::from(page) + usize::from(count)) {
                pages.fill(false);
            }
        }
    }

    /// Readies the next frame for the stack, which takes it by [`Device::receive`]; answers what it is to a host with the
    /// addresses `mac` and `own`.
    pub fn next_frame(&mut self, mac: [u8; 6], own: Option<Ipv4Cidr>) -> Option<FrameKind> {
        self.pass_over();
        while self.whole > 0 {
            self.whole -= 1;
            let Some((length, checked)) = self.begin_frame() else { continue };
            if !checked {
                self.copy_rest();
            }
            let frame = self.frame.get(..length)?;
            let kind = classify(frame, own);
            let wanted = match kind {
                FrameKind::Segment { .. } => is_sound(frame, mac),
                FrameKind::Arp => true,
                FrameKind::Other => has_sound_header(frame),
                FrameKind::Unwanted => false,
            };
            if wanted && (checked || is_intact(frame)) {
                self.loaded = length;
                if let FrameKind::Segment(Segment { start: true, .. }) = kind {
                    self.note_announced();
                }
                return Some(kind);
            }
            self.pass_over();
        }
        None
    }

    /// Takes note of how long segments may be for the sender of the SYN that was readied. The stack is to make them as long as it
    /// can, if the link cuts them.
    #[cold]
    fn note_announced(&mut self) {
        let largest = self.frame.get_mut(..self.loaded).and_then(largest_segment);
        self.announced = largest.as_ref().map_or(UNANNOUNCED, |largest| u16::from_be_bytes(**largest));
        if let (Some(largest), Some(_)) = (largest, self.longest) {
            *largest = u16::MAX.to_be_bytes();
        }
    }

    /// What the segment that was readied says that its sender has.
    pub fn selected(&self) -> [Option<Range>; 3] {
        selected(self.frame.get(..self.loaded).unwrap_or_default())
    }

    /// Acknowledges the segment that was readied, of a connection that has this end.
    pub fn acknowledge(&mut self, sent: u32, taken: u32) {
        let frame = self.frame.get(..self.loaded).unwrap_or_default();
        if let Some(answer) = frame::acknowledgement(frame, sent, taken) {
            self.send(&answer);
        }
    }

    /// Makes of the segment that was readied an acknowledgement of `ack` with the number `seq` and
    /// without data: the stack is to say what it expects instead.
    pub fn reduce(&mut self, seq: u32, ack: u32) {
        let reduced = frame::reduce(&mut self.frame, self.loaded, seq, ack);
        self.pass_over();
        self.loaded = reduced.unwrap_or(0);
    }

    /// Readies a frame that did not come over the link.
    pub fn ready(&mut self, frame: &[u8]) {
        self.pass_over();
        if let Some(space) = self.frame.get_mut(..frame.len()) {
            space.copy_from_slice(frame);
            self.loaded = frame.len();
        }
    }

    /// The frame that was readied is not for the stack.
    pub fn pass_over(&mut self) {
        self.loaded = 0;
        if self.is_pending() {
            self.finish(|_, _, _| {});
        }
    }

    /// Whether the frame that was readied has bytes that were not copied yet.
    pub fn is_pending(&self) -> bool {
        self.pending > 0
    }

    /// Copies `count` bytes from `offset` in the frame that was readied to `ring`, at `position` in the stream. The stack takes the
    /// frame without them: what it finds in their place has no meaning.
    pub fn deliver(&mut self, offset: usize, count: usize, to: &M, ring: Ring, position: u32) {
        // What was copied already is not read again.
        let known = FIRST.saturating_sub(offset).min(count);
        let (place, before) = ring.span(position, known);
        let bytes = self.frame.get(offset..offset + known).unwrap_or_default();
        let (first, second) = bytes.split_at_checked(before).unwrap_or_default();
        to.write(place, first);
        to.write(ring.base, second);
        let (offset, count, position) = (offset + known, count - known, position.wrapping_add(known as u32));
        self.finish(|pool, at, (from, length)| {
            // What of this part is before those bytes, and what is of them.
            let skipped = offset.saturating_sub(at).min(length);
            let first = (at + skipped).saturating_sub(offset);
            let length = (length - skipped).min(count.saturating_sub(first));
            let (place, before) = ring.span(position.wrapping_add(first as u32), length);
            pool.copy(from + skipped, before, to, place);
            pool.copy(from + skipped + before, length - before, to, ring.base);
        });
    }

    /// Copies what was not copied yet of the frame that was readied.
    pub(super) fn copy_rest(&mut self) {
        let mut frame = core::mem::take(&mut self.frame);
        self.finish(|pool, at, (from, length)| {
            let skipped = FIRST.saturating_sub(at).min(length);
            if let Some(space) = frame.get_mut(at + skipped..at + length) {
                pool.read(from + skipped, space);
            }
        });
        self.frame = frame;
    }

    /// Gives the pages of the frame that was readied back, after `act` was shown the pool, where in the frame each part is, and
    /// where in the pool, and how long.
    fn finish(&mut self, mut act: impl FnMut(&M, usize, (usize, usize))) {
        let mut at = 0;
        while self.pending > 0 {
            self.pending -= 1;
            let Some(part) = self.received.pop_front() else { return };
            let length = usize::from(part.length);
            act(&self.pool, at, (part.start(), length));
            at += length;
            self.give_back(part);
        }
    }

    /// Copies the first bytes of the next frame to `self.frame`; the others are pending. Answers its length, and whether it was
    /// checked; nothing if it is too long.
    fn begin_frame(&mut self) -> Option<(usize, bool)> {
        if let Some(part) = self.received.pop_front_if(|part| !part.more && usize::from(part.length) <= FIRST) {
            // Most are short.
            let length = usize::from(part.length);
            self.pool.read(part.start(), self.frame.get_mut(..length)?);
            self.give_back(part);
            return Some((length, part.checked));
        }
        let (mut length, mut checked) = (0, true);
        for part in &self.received {
            let count = usize::from(part.length).min(FIRST.saturating_sub(length));
            if let Some(space) = self.frame.get_mut(length..length + count).filter(|space| !space.is_empty()) {
                self.pool.read(part.start(), space);
            }
            length += usize::from(part.length);
            checked &= part.checked;
            self.pending += 1;
            if !part.more {
                break;
            }
        }
        if length > FIRST && length <= self.frame.len() {
            return Some((length, checked));
        }
        self.finish(|_, _, _| {});
        (length <= self.frame.len()).then_some((length, checked))
    }
}
