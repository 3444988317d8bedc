//! Received frames: who owns their pages, and how they are copied out of the pool.
//!
//! The *current frame* is the one that [`LinkDevice::next_frame`] returned last. smoltcp takes it
//! through `Device::receive`. Only its first bytes may have been copied so far.

use cloister_interfaces::net::{Request, RxRun};
use cloister_interfaces::socket::Ring;
use cloister_interfaces::{Memory, PageRun, System};
use smoltcp::wire::Ipv4Cidr;

use super::{DEFAULT_PEER_MSS, LinkDevice};
use crate::link::frame::{
    self, FrameKind, MAX_HEADERS, classify, has_valid_checksum, has_valid_headers, has_valid_ip_header, mss_option,
    sack_blocks,
};
use crate::link::rx_part::RxPart;
use crate::log::Violation;
use crate::segment::{Range, Segment};

/// The number of bytes of a received frame that are copied before anything is known about it: all
/// headers.
const HEAD: usize = 256;
const _: () = assert!(MAX_HEADERS + 40 <= HEAD, "with all the options that IPv4 has");

impl<S: System, M: Memory> LinkDevice<S, M> {
    pub(super) fn part_received(&mut self, part: RxPart) -> Result<(), Violation> {
        let taken = self.take_pages(part);
        if taken.is_ok() && !self.skipping {
            self.received.push_back(part);
            self.complete_frames += usize::from(!part.more);
            return Ok(());
        }
        // Without this part, the others of its frame are of no use.
        self.drop_incomplete();
        if taken.is_ok() {
            self.return_pages(part);
        }
        self.skipping = part.more;
        taken
    }

    /// Handles a message that does not decode. It may have been a part of the frame that is being
    /// received, so the rest of that frame is skipped.
    #[cold]
    pub(super) fn malformed_received(&mut self) {
        self.skipping |= self.drop_incomplete();
    }

    /// Returns the pages of the frame whose last part is missing. Returns `true` if there is one.
    fn drop_incomplete(&mut self) -> bool {
        let mut found = false;
        while let Some(part) = self.received.pop_back_if(|part| part.more) {
            self.return_pages(part);
            found = true;
        }
        found
    }

    /// Takes over the pages of a part, if the message is possible.
    fn take_pages(&mut self, part: RxPart) -> Result<(), Violation> {
        let first = usize::from(part.page.0);
        let pages = self.owned.get_mut(first..first + usize::from(part.pages())).ok_or(Violation::LinkPage)?;
        if !self.up || pages.contains(&true) {
            return Err(Violation::LinkPage);
        }
        // Usually it is one page. A call to `fill` would cost more.
        match pages {
            [page] => *page = true,
            pages => pages.fill(true),
        }
        Ok(())
    }

    /// Marks the pages of a part to be returned.
    fn return_pages(&mut self, part: RxPart) {
        let (page, count) = (part.page, part.pages());
        self.returned_pages += usize::from(count);
        match self.returned.back_mut() {
            Some((first, length)) if first.0 + *length == page.0 => *length += count,
            _ => self.returned.push_back((page, count)),
        }
    }

    /// Returns pages to netfront, as far as the queue has room.
    pub(super) fn flush_returned(&mut self) {
        while let Some((page, count)) = self.returned.front().copied() {
            // The list only has pages of the pool, so they are always a run.
            if let Some(run) = PageRun::new(page.0, count)
                && self.transmitter.net.requests.push(&Request::Receive { pages: RxRun(run) }).is_err()
            {
                return;
            }
            self.returned.pop_front();
            self.returned_pages -= usize::from(count);
            if let Some(pages) = self.owned.get_mut(usize::from(page.0)..usize::from(page.0) + usize::from(count)) {
                pages.fill(false);
            }
        }
    }

    /// Makes the next received frame that is for us the current frame. `mac` and `own` are our
    /// addresses.
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
                if let FrameKind::Segment(Segment { flags, .. }) = kind
                    && flags.opens()
                {
                    self.read_peer_mss();
                }
                return Some(kind);
            }
            self.discard_frame();
        }
        None
    }

    /// Reads the MSS that the SYN in the current frame announces. If the link splits segments,
    /// raises it for smoltcp, which then builds segments as long as it can.
    #[cold]
    fn read_peer_mss(&mut self) {
        let largest = self.frame.get_mut(..self.frame_length).and_then(mss_option);
        self.announced_mss = largest.as_ref().map_or(DEFAULT_PEER_MSS, |largest| u16::from_be_bytes(**largest));
        if let (Some(largest), Some(_)) = (largest, self.max_offload_frame) {
            *largest = u16::MAX.to_be_bytes();
        }
    }

    /// Returns the ranges in the SACK option of the current frame.
    pub fn sack_blocks(&self) -> [Option<Range>; 3] {
        sack_blocks(self.frame.get(..self.frame_length).unwrap_or_default())
    }

    /// Answers the segment in the current frame with an acknowledgement.
    pub fn send_ack(&mut self, sent: u32, taken: u32) {
        let frame = self.frame.get(..self.frame_length).unwrap_or_default();
        if let Some(answer) = frame::ack_for(frame, sent, taken) {
            self.send(&answer);
        }
    }

    /// Replaces the segment in the current frame by an acknowledgement of `ack` with the sequence
    /// number `seq` and no data. smoltcp then answers with what it expects.
    pub fn reduce_to_ack(&mut self, seq: u32, ack: u32) {
        let reduced = frame::reduce_to_ack(&mut self.frame, self.frame_length, seq, ack);
        self.discard_frame();
        self.frame_length = reduced.unwrap_or(0);
    }

    /// Makes a frame that did not come over the link the current frame.
    pub fn inject_frame(&mut self, frame: &[u8]) {
        self.discard_frame();
        if let Some(space) = self.frame.get_mut(..frame.len()) {
            space.copy_from_slice(frame);
            self.frame_length = frame.len();
        }
    }

    /// Drops the current frame.
    pub fn discard_frame(&mut self) {
        self.frame_length = 0;
        if self.has_uncopied() {
            self.finish_frame(|_, _, _| {});
        }
    }

    /// Returns `true` if bytes of the current frame have not been copied yet.
    pub fn has_uncopied(&self) -> bool {
        self.uncopied_parts > 0
    }

    /// Copies `count` bytes from `offset` in the current frame to `ring`, at `position` of the
    /// stream. smoltcp takes the frame without them: the bytes that it sees in their place have no
    /// meaning.
    pub fn copy_to_ring(&mut self, offset: usize, count: usize, to: &M, ring: Ring, position: u32) {
        // What was copied before is not read from the pool again.
        let known = HEAD.saturating_sub(offset).min(count);
        let (place, before) = ring.span(position, known);
        let bytes = self.frame.get(offset..offset + known).unwrap_or_default();
        let (first, second) = bytes.split_at_checked(before).unwrap_or_default();
        to.write(place, first);
        to.write(ring.base, second);
        let (offset, count, position) = (offset + known, count - known, position.wrapping_add(known as u32));
        self.finish_frame(|pool, at, (from, length)| {
            // The bytes of this part before the range, and the bytes inside it.
            let skipped = offset.saturating_sub(at).min(length);
            let first = (at + skipped).saturating_sub(offset);
            let length = (length - skipped).min(count.saturating_sub(first));
            let (place, before) = ring.span(position.wrapping_add(first as u32), length);
            pool.copy(from + skipped, before, to, place);
            pool.copy(from + skipped + before, length - before, to, ring.base);
        });
    }

    /// Copies the rest of the current frame.
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

    /// Returns the pages of the current frame. Before that, calls `act` for each part with the
    /// pool, the part's offset in the frame, and its offset in the pool and length.
    fn finish_frame(&mut self, mut act: impl FnMut(&M, usize, (usize, usize))) {
        let mut at = 0;
        while self.uncopied_parts > 0 {
            self.uncopied_parts -= 1;
            let Some(part) = self.received.pop_front() else { return };
            let length = usize::from(part.length.get());
            act(&self.pool, at, (part.start(), length));
            at += length;
            self.return_pages(part);
        }
    }

    /// Copies the first bytes of the next frame to `self.frame`. Returns its length, and whether
    /// its checksum is vouched for. Returns `None` if it is too long.
    fn copy_head(&mut self) -> Option<(usize, bool)> {
        if let Some(part) = self.received.pop_front_if(|part| !part.more && usize::from(part.length.get()) <= HEAD) {
            // Most frames are short.
            let length = usize::from(part.length.get());
            self.pool.read(part.start(), self.frame.get_mut(..length)?);
            self.return_pages(part);
            return Some((length, part.checked));
        }
        let (mut length, mut checked) = (0, true);
        for part in &self.received {
            let count = usize::from(part.length.get()).min(HEAD.saturating_sub(length));
            if let Some(space) = self.frame.get_mut(length..length + count).filter(|space| !space.is_empty()) {
                self.pool.read(part.start(), space);
            }
            length += usize::from(part.length.get());
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
