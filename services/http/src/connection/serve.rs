//! Serving requests: reading them from the in ring, and writing responses to the out ring.

use cloister_interfaces::socket::{Connection as Index, Layout};
use cloister_interfaces::{Instant, Memory};

use super::{Connection, REQUESTS, Rest, SMALL, State, World};
use crate::head::Content;
use crate::page;
use crate::request;
use crate::response::{Answer, CONTINUE, Response, Sink, refuse, respond, sunk};

impl Connection {
    /// Its patience has ended.
    pub fn expire<M: Memory>(&mut self, index: usize, world: &mut World<'_, M>) {
        match self.state {
            State::Open if self.idle_since().is_some() && self.available > 0 => {
                let response = refuse(408, world.context.date, world.head);
                if !self.begin(index, world.head.as_bytes(), response, world) {
                    self.abort();
                }
            }
            State::Open if self.is_quiet() => self.close(),
            State::Lingering if self.is_sent() => self.close(),
            _ => self.abort(),
        }
    }

    /// Goes on as far as the rings allow. Answers whether there is more to do at once.
    pub fn pump<M: Memory>(&mut self, index: usize, world: &mut World<'_, M>) -> bool {
        for _ in 0..REQUESTS {
            if matches!(self.state, State::Lingering) {
                self.throw_away(u64::MAX);
                if self.peer_closed {
                    self.close();
                }
            }
            if !matches!(self.state, State::Open) {
                return false;
            }
            self.send_content(index, world);
            let more = if self.close { self.watched && !self.is_sent() } else { self.constant > 0 };
            if self.content != Rest::Nothing || more {
                return false;
            }
            if self.close {
                self.finish(world.now);
                continue;
            }
            self.discard -= self.throw_away(self.discard);
            let got_on = match self.sink {
                _ if self.discard > 0 => false,
                Some(sink) => self.answer_sink(index, sink, world),
                None => self.serve(index, world),
            };
            if !got_on {
                if self.peer_closed && matches!(self.state, State::Open) && self.is_sent() {
                    self.close();
                }
                return false;
            }
        }
        true
    }

    /// The last response is written.
    fn finish(&mut self, now: Instant) {
        self.since = now;
        if self.linger && !self.peer_closed {
            self.state = State::Lingering;
        } else {
            self.close();
        }
    }

    fn throw_away(&mut self, most: u64) -> u64 {
        let count = u64::from(self.available).min(most) as u32;
        self.available -= count;
        self.consumed += count;
        self.read = self.read.wrapping_add(count);
        u64::from(count)
    }

    /// Answers the request whose body has come. Answers whether there was room.
    fn answer_sink<M: Memory>(&mut self, index: usize, sink: Sink, world: &mut World<'_, M>) -> bool {
        let response = sunk(sink, world.context.date, world.head);
        let begun = self.begin(index, world.head.as_bytes(), response, world);
        if begun {
            self.sink = None;
        }
        begun
    }

    /// Answers the next request, if it is whole and there is room. Answers whether it did.
    fn serve<M: Memory>(&mut self, index: usize, world: &mut World<'_, M>) -> bool {
        if self.available == 0 {
            return false;
        }
        let count = self.copy_in(index, world);
        let scratch = core::mem::take(&mut world.scratch);
        let bytes = scratch.get(..count).unwrap_or_default();
        if let Some((head, response)) = world.memo.find(bytes, world.second) {
            let begun = self.begin(index, head, response, world);
            if begun {
                self.throw_away(count as u64);
            }
            world.scratch = scratch;
            return begun;
        }
        let now = |response, length| Some((Answer::Now(response), length));
        let answer = match request::parse(bytes) {
            Ok(Some((request, length))) => Some((respond(&request, &world.context, world.head), length as u64)),
            Ok(None) if count == scratch.len() => {
                let line_ended = bytes.contains(&b'\n');
                let status = if line_ended { 431 } else { 414 };
                now(refuse(status, world.context.date, world.head), 0)
            }
            Ok(None) => None,
            Err(status) => now(refuse(status, world.context.date, world.head), 0),
        };
        if let Some((Answer::Now(response), length)) = answer
            && length == count as u64
        {
            world.memo.keep(bytes, world.second, world.head, response);
        }
        world.scratch = scratch;
        let (begun, length) = match answer {
            None => return false,
            Some((Answer::Now(response), length)) => {
                (self.begin(index, world.head.as_bytes(), response, world), length)
            }
            Some((Answer::Sink(sink), length)) => (self.begin_sink(index, sink, world), length),
        };
        if begun {
            self.throw_away(length);
        }
        begun
    }

    /// Begins to take in a request's body. Answers whether there was room to ask for it.
    fn begin_sink<M: Memory>(&mut self, index: usize, sink: Sink, world: &World<'_, M>) -> bool {
        if sink.expects {
            if self.room(world.layout, index) < CONTINUE.len() {
                return false;
            }
            self.put(index, CONTINUE, world);
        }
        self.discard = sink.length;
        self.sink = Some(sink);
        self.since = world.now;
        true
    }

    /// Copies what stands in the in ring to the scratch buffer; answers how much.
    fn copy_in<M: Memory>(&self, index: usize, world: &mut World<'_, M>) -> usize {
        let ring = world.layout.ring_in(Index(index as u16));
        let count = (self.available as usize).min(world.scratch.len());
        let (offset, before) = ring.span(self.read, count);
        let (first, second) = world.scratch.split_at_mut(before);
        world.stream_in.read(offset, first);
        world.stream_in.read(ring.base, second.get_mut(..count - before).unwrap_or_default());
        count
    }

    /// Begins a response with this head. Answers whether there was room for it.
    fn begin<M: Memory>(&mut self, index: usize, head: &[u8], response: Response, world: &World<'_, M>) -> bool {
        if self.room(world.layout, index) < head.len() {
            return false;
        }
        self.put(index, head, world);
        self.content = match response.content {
            Content::Nothing => Rest::Nothing,
            Content::Bytes(bytes) => Rest::Bytes(bytes),
            Content::Page(uptime) => Rest::Page(uptime, 0),
        };
        self.watched = matches!(response.content, Content::Bytes(bytes) if bytes.len() > SMALL);
        (self.close, self.linger) = (response.close, response.linger);
        self.discard = response.discard;
        self.served = true;
        self.since = world.now;
        true
    }

    fn room(&self, layout: Layout, index: usize) -> usize {
        layout.ring_out(Index(index as u16)).size.saturating_sub(self.unsent as usize)
    }

    /// Puts as much of `bytes` into the out ring as it has room for; answers how much. Nothing goes before what tcpip sends
    /// of the archive.
    fn put<M: Memory>(&mut self, index: usize, bytes: &[u8], world: &World<'_, M>) -> usize {
        let ring = world.layout.ring_out(Index(index as u16));
        let bytes = bytes.get(..self.room(world.layout, index)).unwrap_or(bytes);
        let (offset, before) = ring.span(self.write, bytes.len());
        let (first, second) = bytes.split_at_checked(before).unwrap_or((bytes, &[]));
        world.stream_out.write(offset, first);
        world.stream_out.write(ring.base, second);
        let count = bytes.len() as u32;
        self.write = self.write.wrapping_add(count);
        self.unsent += count;
        self.written += count;
        self.quiet = false;
        bytes.len()
    }

    /// Has tcpip send of the archive, if it can: as much of `bytes` as one message says. Answers how much.
    fn refer(&mut self, bytes: &[u8], constant: &[u8]) -> usize {
        let offset = bytes.as_ptr().addr().wrapping_sub(constant.as_ptr().addr());
        let (Some(rest), Ok(start)) = (constant.len().checked_sub(offset), u32::try_from(offset)) else { return 0 };
        if bytes.is_empty() || bytes.len() > rest {
            return 0;
        }
        self.constant = u32::try_from(bytes.len()).unwrap_or(u32::MAX);
        self.announce = Some(start);
        self.quiet = false;
        self.constant as usize
    }

    fn send_content<M: Memory>(&mut self, index: usize, world: &World<'_, M>) {
        match self.content {
            Rest::Nothing => {}
            Rest::Bytes(_) if self.constant > 0 => {}
            Rest::Bytes(bytes) => {
                let referred = self.refer(bytes, world.constant);
                let count = if referred > 0 { referred } else { self.put(index, bytes, world) };
                let rest = bytes.get(count..).unwrap_or_default();
                self.content = if rest.is_empty() { Rest::Nothing } else { Rest::Bytes(rest) };
            }
            Rest::Page(uptime, at) => {
                let page = page::render(&world.context.policy, uptime);
                let rest = page.as_bytes().get(at as usize..).unwrap_or_default();
                let count = self.put(index, rest, world);
                let at = at + count as u32;
                self.content = if count == rest.len() { Rest::Nothing } else { Rest::Page(uptime, at) };
            }
        }
    }
}
