//! Serving requests: reading them from the in ring, and writing responses to the out ring.

use cloister_interfaces::socket::{ConnectionId, Layout};
use cloister_interfaces::{Instant, Memory};

use super::{Closed, Connection, MAX_REQUESTS, MAX_UNWATCHED, Remaining, Reports, State, Workspace};
use crate::head::Content;
use crate::page;
use crate::request::{self, Unparsed};
use crate::response::{AfterResponse, Answer, CONTINUE, Response, Sink, refuse, respond, respond_to_sink};

impl Connection {
    /// Ends a connection whose deadline has passed, with a response if it was sending a request.
    pub fn expire<M: Memory>(&mut self, index: usize, workspace: &mut Workspace<'_, M>) {
        match self.state {
            State::Open if self.idle_since().is_some() && self.available > 0 => {
                let response = refuse(408, workspace.context.date, workspace.head);
                if !self.start_response(index, workspace.head.as_bytes(), response, workspace) {
                    self.abort();
                }
            }
            State::Open if self.sink.is_some() => {
                self.sink = None;
                let response = refuse(408, workspace.context.date, workspace.head);
                if !self.start_response(index, workspace.head.as_bytes(), response, workspace) {
                    self.abort();
                }
            }
            State::Open if self.is_response_done() => self.close(),
            State::Discarding if self.is_sent() => self.close(),
            _ => self.abort(),
        }
    }

    /// Serves requests, as far as the rings allow. Returns `true` if more could be done at once.
    pub fn pump<M: Memory>(&mut self, index: usize, workspace: &mut Workspace<'_, M>) -> bool {
        for _ in 0..MAX_REQUESTS {
            if matches!(self.state, State::Discarding) {
                self.consume(u64::MAX);
                if self.closed != Closed::Nothing {
                    self.close();
                }
            }
            if !matches!(self.state, State::Open) {
                return false;
            }
            self.send_content(index, workspace);
            let ends = self.after_response.ends();
            let more = if ends { self.reports == Reports::Watched && !self.is_sent() } else { self.constant > 0 };
            if self.remaining != Remaining::Nothing || more {
                return false;
            }
            if ends {
                self.finish(workspace.now);
                continue;
            }
            self.body_left -= self.consume(self.body_left);
            let got_on = match self.sink {
                _ if self.body_left > 0 => false,
                Some(sink) => self.answer_sink(index, sink, workspace),
                None => self.serve(index, workspace),
            };
            if !got_on {
                if self.closed != Closed::Nothing && matches!(self.state, State::Open) && self.is_sent() {
                    self.close();
                }
                return false;
            }
        }
        true
    }

    /// Ends the connection after its last response.
    fn finish(&mut self, now: Instant) {
        self.last_progress = now;
        if self.after_response == AfterResponse::DiscardAndClose && self.closed == Closed::Nothing {
            self.state = State::Discarding;
        } else {
            self.close();
        }
    }

    fn consume(&mut self, most: u64) -> u64 {
        let count = u64::from(self.available).min(most) as u32;
        self.available -= count;
        self.unreported_consumed += count;
        self.in_position = self.in_position.wrapping_add(count);
        u64::from(count)
    }

    /// Answers a request whose body is complete. Returns `false` if there was no room.
    fn answer_sink<M: Memory>(&mut self, index: usize, sink: Sink, workspace: &mut Workspace<'_, M>) -> bool {
        let response = respond_to_sink(sink, workspace.context.date, workspace.head);
        let begun = self.start_response(index, workspace.head.as_bytes(), response, workspace);
        if begun {
            self.sink = None;
        }
        begun
    }

    /// Answers the next request. Returns `false` if it is not complete, or if there was no room.
    fn serve<M: Memory>(&mut self, index: usize, workspace: &mut Workspace<'_, M>) -> bool {
        if self.available == 0 {
            return false;
        }
        let count = self.copy_request(index, workspace);
        self.serve_copied(index, count, workspace)
    }

    /// Answers the request in the first `count` bytes of the buffer for parsing.
    fn serve_copied<M: Memory>(&mut self, index: usize, count: usize, workspace: &mut Workspace<'_, M>) -> bool {
        let scratch = core::mem::take(&mut workspace.scratch);
        let bytes = scratch.get(..count).unwrap_or_default();
        if let Some((head, response)) = workspace.cache.find(bytes, workspace.second) {
            let begun = self.start_response(index, head, response, workspace);
            if begun {
                self.consume(count as u64);
            }
            workspace.scratch = scratch;
            return begun;
        }
        let now = |response, length| Some((Answer::Now(response), length));
        let answer = match request::parse(bytes) {
            Ok(Some((request, length))) => Some((respond(&request, &workspace.context, workspace.head), length as u64)),
            Ok(None) if count == scratch.len() => {
                let line_ended = bytes.contains(&b'\n');
                let status = if line_ended { 431 } else { 414 };
                now(refuse(status, workspace.context.date, workspace.head), 0)
            }
            Ok(None) => None,
            Err(Unparsed::LaterVersion(digit)) => {
                if let Some(digit) = scratch.get_mut(digit) {
                    *digit = b'1';
                }
                workspace.scratch = scratch;
                return self.serve_copied(index, count, workspace);
            }
            Err(Unparsed::Refused(status)) => now(refuse(status, workspace.context.date, workspace.head), 0),
        };
        if let Some((Answer::Now(response), length)) = answer
            && length == count as u64
        {
            workspace.cache.keep(bytes, workspace.second, workspace.head, response);
        }
        workspace.scratch = scratch;
        let (begun, length) = match answer {
            None => return false,
            Some((Answer::Now(response), length)) => {
                (self.start_response(index, workspace.head.as_bytes(), response, workspace), length)
            }
            Some((Answer::Sink(sink), length)) => (self.start_sink(index, sink, workspace), length),
        };
        if begun {
            self.consume(length);
        }
        begun
    }

    /// Begins to receive a request's body. Returns `false` if there was no room to ask the peer for
    /// it.
    fn start_sink<M: Memory>(&mut self, index: usize, sink: Sink, workspace: &Workspace<'_, M>) -> bool {
        if sink.expects_continue {
            if self.room(workspace.layout, index) < CONTINUE.len() {
                return false;
            }
            self.write_out(index, CONTINUE, workspace);
        }
        self.body_left = sink.length;
        self.sink = Some(sink);
        self.last_progress = workspace.now;
        true
    }

    /// Copies the bytes in the in ring to the buffer for parsing. Returns their number.
    fn copy_request<M: Memory>(&self, index: usize, workspace: &mut Workspace<'_, M>) -> usize {
        let ring = workspace.layout.ring_in(ConnectionId(index as u16));
        let count = (self.available as usize).min(workspace.scratch.len());
        let (offset, before) = ring.span(self.in_position, count);
        let (first, second) = workspace.scratch.split_at_mut(before);
        workspace.stream_in.read(offset, first);
        workspace.stream_in.read(ring.base, second.get_mut(..count - before).unwrap_or_default());
        count
    }

    /// Starts a response with this head. Returns `false` if there was no room for the head.
    fn start_response<M: Memory>(
        &mut self,
        index: usize,
        head: &[u8],
        response: Response,
        workspace: &Workspace<'_, M>,
    ) -> bool {
        if self.room(workspace.layout, index) < head.len() {
            return false;
        }
        self.write_out(index, head, workspace);
        self.remaining = match response.content {
            Content::Nothing => Remaining::Nothing,
            Content::Bytes(bytes) => Remaining::Bytes(bytes),
            Content::Page(uptime) => Remaining::Page(uptime, 0),
        };
        let large = matches!(response.content, Content::Bytes(bytes) if bytes.len() > MAX_UNWATCHED);
        self.reports = if large { Reports::Watched } else { Reports::Usual };
        self.after_response = response.then;
        self.body_left = response.discard;
        self.served = true;
        self.last_progress = workspace.now;
        true
    }

    fn room(&self, layout: Layout, index: usize) -> usize {
        layout.ring_out(ConnectionId(index as u16)).size.saturating_sub(self.unsent as usize)
    }

    /// Writes as many of `bytes` to the out ring as there is room for. Returns their number. The
    /// caller waits until tcpip has sent bytes of the archive that come before.
    fn write_out<M: Memory>(&mut self, index: usize, bytes: &[u8], workspace: &Workspace<'_, M>) -> usize {
        let ring = workspace.layout.ring_out(ConnectionId(index as u16));
        let bytes = bytes.get(..self.room(workspace.layout, index)).unwrap_or(bytes);
        let (offset, before) = ring.span(self.out_position, bytes.len());
        let (first, second) = bytes.split_at_checked(before).unwrap_or((bytes, &[]));
        workspace.stream_out.write(offset, first);
        workspace.stream_out.write(ring.base, second);
        let count = bytes.len() as u32;
        self.out_position = self.out_position.wrapping_add(count);
        self.unsent += count;
        self.unannounced += count;
        self.end_quiet();
        bytes.len()
    }

    /// Lets tcpip send `bytes` from the archive, if it can: as many as fit one message. Returns
    /// their number.
    fn send_from_archive(&mut self, bytes: &[u8], constant: &[u8]) -> usize {
        let offset = bytes.as_ptr().addr().wrapping_sub(constant.as_ptr().addr());
        let (Some(rest), Ok(start)) = (constant.len().checked_sub(offset), u32::try_from(offset)) else { return 0 };
        if bytes.is_empty() || bytes.len() > rest {
            return 0;
        }
        self.constant = u32::try_from(bytes.len()).unwrap_or(u32::MAX);
        self.constant_start = Some(start);
        self.end_quiet();
        self.constant as usize
    }

    fn send_content<M: Memory>(&mut self, index: usize, workspace: &Workspace<'_, M>) {
        match self.remaining {
            Remaining::Nothing => {}
            Remaining::Bytes(_) if self.constant > 0 => {}
            Remaining::Bytes(bytes) => {
                let referred = self.send_from_archive(bytes, workspace.constant);
                let count = if referred > 0 { referred } else { self.write_out(index, bytes, workspace) };
                let rest = bytes.get(count..).unwrap_or_default();
                self.remaining = if rest.is_empty() { Remaining::Nothing } else { Remaining::Bytes(rest) };
            }
            Remaining::Page(uptime, at) => {
                let page = page::render(&workspace.context.policy, uptime);
                let rest = page.as_bytes().get(at as usize..).unwrap_or_default();
                let count = self.write_out(index, rest, workspace);
                let at = at + count as u32;
                self.remaining = if count == rest.len() { Remaining::Nothing } else { Remaining::Page(uptime, at) };
            }
        }
    }
}
