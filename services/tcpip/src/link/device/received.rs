//! Frames that came: whose pages they are, and how they are copied out of the pool.

use cloister_caps::PAGE_SIZE;
use cloister_interfaces::net::Request;
use cloister_interfaces::socket::Ring;
use cloister_interfaces::{Memory, System};
use smoltcp::wire::Ipv4Cidr;

use super::{DEFAULT_PEER_MSS, LinkDevice};
use crate::link::frame::{
    self, FrameKind, MAX_HEADERS, classify, has_valid_checksum, has_valid_headers, has_valid_ip_header, mss_option,
    sack_blocks,
};
use crate::link::rx_part::RxPart;
use crate::refusals::Refusal;
use crate::segment::{Range, Segment};

/// Bytes of a received frame that are copied before anything is known of it: all headers.
const HEAD: usize = 256;
const _: () = assert!(MAX_HEADERS + 40 <= HEAD, "with all the options that IPv4 has");

impl<S: System, M: Memory> LinkDevice<S, M> {
    pub(super) fn part_received(&mut self, part: RxPart) -> Result<(), Refusal> {
        let taken = self.take_pages(part);
        if taken.is_ok() && !self.skipping {
            self.received.push_back(part);
            self.complete_frames += usize::from(!part.more);
            return Ok(());
        }
        // What has come of the frame, and what still comes, is of no use without the part that is missing.
        while let Some(part) = self.received.pop_back_if(|part| part.more) {
            self.return_pages(part);
        }
        if taken.is_ok() {
            self.return_pages(part);
        }
        self.skipping = part.more;
        taken
    }

    /// Takes over the pages of a part.
    fn take_pages(&mut self, part: RxPart) -> Result<(), Refusal> {
        if usize::from(part.offset) >= PAGE_SIZE || part.length == 0 {
            return Err(Refusal::LinkLength);
        }
        let first = usize::from(part.page);
        let pages = self.owned.get_mut(first..first + usize::from(part.pages())).ok_or(Refusal::LinkPage)?;
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
    fn return_pages(&mut self, part: RxPart) {
        let (page, count) = (part.page, part.pages());
        self.returned_pages += usize::from(count);
        match self.returned.back_mut() {
            Some((first, length)) if *first + *length == page => *length += count,
            _ => self.returned.push_back((page, count)),
        }
    }

    /// Gives netfront the pages that are needed no more, as far as the queue has room.
    pub(super) fn flush_returned(&mut self) {
        while let Some((page, count)) = self.returned.front().copied() {
            if self.transmitter.net.requests.push(&Request::Receive { page, count }).is_err() {
                return;
            }
            self.returned.pop_front();
            self.returned_pages -= usize::from(count);
            if let Some(pages) = self.owned.get_mut(usize::from(page)..usize::from(page) + usize::from(count)) {
                pages.fill(false);
            }
        }
    }

    /// Readies the next frame for the stack, which takes it by [`Device::receive`]; answers what it is to a host with the
    /// addresses `mac` and `own`.
    pub fn next_frame(&mut self, mac: [u8; 6], own: Option<Ipv4Cidr>) -> Option<FrameKind> {
        self.discard_frame();
        while self.complete_frames > 0 {
            self.complete_frames -= 1;
            let Some((length, checked)) = self.copy_head() else { continue };
            if !checked {
                self.copy_remaining();
            }
            let frame = self.frame.get(..length)?;
            let kind = classify(frame, own);
            let wanted = match kind {
                FrameKind::Segment { .. } => has_valid_headers(frame, mac),
                FrameKind::Arp => true,
                FrameKind::Other => has_valid_ip_header(frame),
                FrameKind::Unwanted => false,
            };
            if wanted && (checked || has_valid_checksum(frame)) {
                self.frame_length = length;
                if let FrameKind::Segment(Segment { opens: true, .. }) = kind {
                    self.read_peer_mss();
                }
                return Some(kind);
            }
            self.discard_frame();
        }
        None
    }

    /// Takes note of how long segments may be for the sender of the SYN that was readied. The stack is to make them as long as it
    /// can, if the link cuts them.
    #[cold]
    fn read_peer_mss(&mut self) {
        let largest = self.frame.get_mut(..self.frame_length).and_then(mss_option);
        self.announced_mss = largest.as_ref().map_or(DEFAULT_PEER_MSS, |largest| u16::from_be_bytes(**largest));
        if let (Some(largest), Some(_)) = (largest, self.max_offload_frame) {
            *largest = u16::MAX.to_be_bytes();
        }
    }

    /// What the segment that was readied says that its sender has.
    pub fn sack_blocks(&self) -> [Option<Range>; 3] {
        sack_blocks(self.frame.get(..self.frame_length).unwrap_or_default())
    }

    /// Acknowledges the segment that was readied, of a connection that has this end.
    pub fn send_ack(&mut self, sent: u32, taken: u32) {
        let frame = self.frame.get(..self.frame_length).unwrap_or_default();
        if let Some(answer) = frame::ack_for(frame, sent, taken) {
            self.send(&answer);
        }
    }

    /// Makes of the segment that was readied an acknowledgement of `ack` with the number `seq` and
    /// without data: the stack is to say what it expects instead.
    pub fn reduce_to_ack(&mut self, seq: u32, ack: u32) {
        let reduced = frame::reduce_to_ack(&mut self.frame, self.frame_length, seq, ack);
        self.discard_frame();
        self.frame_length = reduced.unwrap_or(0);
    }

    /// Readies a frame that did not come over the link.
    pub fn inject_frame(&mut self, frame: &[u8]) {
        self.discard_frame();
        if let Some(space) = self.frame.get_mut(..frame.len()) {
            space.copy_from_slice(frame);
            self.frame_length = frame.len();
        }
    }

    /// The frame that was readied is not for the stack.
    pub fn discard_frame(&mut self) {
        self.frame_length = 0;
        if self.has_uncopied() {
            self.finish_frame(|_, _, _| {});
        }
    }

    /// Whether the frame that was readied has bytes that were not copied yet.
    pub fn has_uncopied(&self) -> bool {
        self.uncopied_parts > 0
    }

    /// Copies `count` bytes from `offset` in the frame that was readied to `ring`, at `position` in the stream. The stack takes the
    /// frame without them: what it finds in their place has no meaning.
    pub fn copy_to_ring(&mut self, offset: usize, count: usize, to: &M, ring: Ring, position: u32) {
        // What was copied already is not read again.
        let known = HEAD.saturating_sub(offset).min(count);
        let (place, before) = ring.span(position, known);
        let bytes = self.frame.get(offset..offset + known).unwrap_or_default();
        let (first, second) = bytes.split_at_checked(before).unwrap_or_default();
        to.write(place, first);
        to.write(ring.base, second);
        let (offset, count, position) = (offset + known, count - known, position.wrapping_add(known as u32));
        self.finish_frame(|pool, at, (from, length)| {
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
    pub(super) fn copy_remaining(&mut self) {
        let mut frame = core::mem::take(&mut self.frame);
        self.finish_frame(|pool, at, (from, length)| {
            let skipped = HEAD.saturating_sub(at).min(length);
            if let Some(space) = frame.get_mut(at + skipped..at + length) {
                pool.read(from + skipped, space);
            }
        });
        self.frame = frame;
    }

    /// Gives the pages of the frame that was readied back, after `act` was shown the pool, where in the frame each part is, and
    /// where in the pool, and how long.
    fn finish_frame(&mut self, mut act: impl FnMut(&M, usize, (usize, usize))) {
        let mut at = 0;
        while self.uncopied_parts > 0 {
            self.uncopied_parts -= 1;
            let Some(part) = self.received.pop_front() else { return };
            let length = usize::from(part.length);
            act(&self.pool, at, (part.start(), length));
            at += length;
            self.return_pages(part);
        }
    }

    /// Copies the first bytes of the next frame to `self.frame`; the others are pending. Answers its length, and whether it was
    /// checked; nothing if it is too long.
    fn copy_head(&mut self) -> Option<(usize, bool)> {
        if let Some(part) = self.received.pop_front_if(|part| !part.more && usize::from(part.length) <= HEAD) {
            // Most are short.
            let length = usize::from(part.length);
            self.pool.read(part.start(), self.frame.get_mut(..length)?);
            self.return_pages(part);
            return Some((length, part.checked));
        }
        let (mut length, mut checked) = (0, true);
        for part in &self.received {
            let count = usize::from(part.length).min(HEAD.saturating_sub(length));
            if let Some(space) = self.frame.get_mut(length..length + count).filter(|space| !space.is_empty()) {
                self.pool.read(part.start(), space);
            }
            length += usize::from(part.length);
            checked &= part.checked;
            self.uncopied_parts += 1;
            if !part.more {
                break;
            }
        }
        if length > HEAD && length <= self.frame.len() {
            return Some((length, checked));
        }
        self.finish_frame(|_, _, _| {});
        (length <= self.frame.len()).then_some((length, checked))
    }
}
