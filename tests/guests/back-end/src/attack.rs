//! What a script does to a connection.

use core::fmt;
use core::time::Duration;

use cloister_interfaces::{Instant, Memory, System};

use crate::leak::{self, Found};
use crate::link::{Answers, Link};
use crate::ring::{Back, REQ_EVENT, REQ_PROD, RSP_EVENT, RSP_PROD, SLOTS};
use crate::script::{Attack, Id, Move, Ring, Script, Storm, Words};

/// How long the front end may take to answer the first echo request, and one after the attack.
const WARM_TIME: Duration = Duration::from_secs(20);
const AFTER_TIME: Duration = Duration::from_secs(4);
/// How often an attack that is not restless is looked at.
const LOOK: Duration = Duration::from_millis(10);
/// Between two questions, outside of an attack.
const PACE: Duration = Duration::from_millis(50);
/// Echo requests under way when throughput is measured, and their bytes.
const WINDOW: u32 = 48;
const MEASURED: usize = 1_400;
/// How long all echo requests may be without an answer before they are taken to be lost.
const LOSS_TIME: Duration = Duration::from_millis(200);
/// Rounds of an attack in one call.
const ROUNDS: u32 = 256;
/// Events that a storm sends in one round.
const BURST: u32 = 8;
/// Between two nodes that are written.
const NODE_PACE: Duration = Duration::from_millis(150);

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Stage {
    /// Until the front end answers an echo request.
    Warm,
    Act,
    /// Whether it still answers.
    After,
    Done,
}

/// A node to be written, or removed.
pub type Node = (&'static str, Option<&'static str>);

/// A script under way.
pub struct Run {
    /// The script.
    pub script: &'static Script,
    stage: Stage,
    /// When the stage ends.
    until: Instant,
    /// When the next question is due.
    next: Instant,
    /// When it wants to go on.
    wake: Instant,
    /// Answers before the attack, at its end, and after it.
    echoes: [u32; 3],
    /// What was done: slots, words or events.
    acts: u64,
    /// Nodes written.
    nodes: usize,
    asked: u32,
    /// How often all that was asked was lost.
    lost: u32,
    random: u64,
    found: Option<Found>,
    began: Instant,
    took: Duration,
}

impl Run {
    /// The script, before anything is done.
    pub fn new(script: &'static Script, now: Instant) -> Self {
        Run {
            script,
            stage: Stage::Warm,
            until: now + WARM_TIME,
            next: now,
            wake: now,
            echoes: [0; 3],
            acts: 0,
            nodes: 0,
            asked: 0,
            lost: 0,
            random: now.0 | 1,
            found: None,
            began: now,
            took: Duration::ZERO,
        }
    }

    /// Whether the script is over.
    pub fn is_done(&self) -> bool {
        self.stage == Stage::Done
    }

    /// The front end has gone.
    pub fn end(&mut self) {
        self.stage = Stage::Done;
    }

    /// When there is something to do again.
    pub fn deadline(&self) -> Instant {
        self.wake
    }

    fn rest(&self, now: Instant) -> Instant {
        let restless = matches!(
            self.script.attack,
            Attack::Flip(..) | Attack::Payload(_) | Attack::Flood(_) | Attack::Storm(_) | Attack::Measure(..)
        );
        if self.stage == Stage::Act && restless { Instant::START } else { now + LOOK }
    }

    /// Goes on; answers a node to be written.
    pub fn step<S: System, M: Memory>(&mut self, link: &mut Link<S, M>, now: Instant) -> Option<Node> {
        let node = self.go_on(link, now);
        self.wake = self.rest(now);
        node
    }

    fn go_on<S: System, M: Memory>(&mut self, link: &mut Link<S, M>, now: Instant) -> Option<Node> {
        match self.stage {
            Stage::Warm => {
                link.serve(Answers::All);
                self.ask(link, now);
                if link.echoes > 0 || now >= self.until {
                    self.echoes[0] = link.echoes;
                    self.begin(now);
                }
            }
            Stage::Act => {
                let node = self.act(link, now);
                if now >= self.until {
                    (self.echoes[1], self.took) = (link.echoes, now.since(self.began));
                    self.stage = Stage::After;
                    self.until = now + AFTER_TIME;
                    link.kick();
                }
                return node;
            }
            Stage::After => {
                link.serve(Answers::All);
                self.ask(link, now);
                self.echoes[2] = link.echoes.wrapping_sub(self.echoes[1]);
                // What was under way when the attack ended is no answer to what came after.
                if self.echoes[2] > WINDOW || (self.echoes[2] > 2 && self.asked == 0) || now >= self.until {
                    self.stage = Stage::Done;
                }
            }
            Stage::Done => {
                link.serve(Answers::All);
            }
        }
        None
    }

    fn ask<S: System, M: Memory>(&mut self, link: &mut Link<S, M>, now: Instant) {
        if now >= self.next {
            link.ask(56);
            self.next = now + PACE;
        }
    }

    fn begin(&mut self, now: Instant) {
        let time = match self.script.attack {
            Attack::Silent(ms) | Attack::Half(ms) | Attack::Flip(_, _, ms) | Attack::Payload(ms) => ms,
            Attack::Flood(ms) | Attack::Storm(ms) | Attack::Measure(_, ms) | Attack::Wait(ms) => ms,
            Attack::Nodes(nodes) => (nodes.len() as u64 + 1) * NODE_PACE.as_millis() as u64,
            // Until the front end has looked; an honest publication would set it right.
            Attack::Producer(..) => 1_500,
            // Two requests must be there to be answered.
            Attack::Tx(..) => 4_000,
            _ => 0,
        };
        self.stage = Stage::Act;
        self.began = now;
        self.until = now + Duration::from_millis(time);
        self.next = now;
    }

    fn random(&mut self) -> u32 {
        // xorshift64 (Marsaglia)
        self.random ^= self.random << 13;
        self.random ^= self.random >> 7;
        self.random ^= self.random << 17;
        (self.random >> 16) as u32
    }

    fn act<S: System, M: Memory>(&mut self, link: &mut Link<S, M>, now: Instant) -> Option<Node> {
        match self.script.attack {
            Attack::Nothing | Attack::Keep(_) => {}
            Attack::Wait(_) => {
                link.serve(Answers::All);
                self.ask(link, now);
            }
            Attack::Tx(id, status) => self.lie_of_sent(link, id, status, now),
            Attack::Rx { id, offset, flags, status, times } => {
                self.lie_of_buffers(link, id, [offset, flags], status, times);
            }
            Attack::Extra(kind, flags, rest, times) => self.extras(link, kind, flags, rest, times),
            Attack::Producer(ring, to) => producer(link, ring, to),
            Attack::Silent(_) => {
                link.serve(Answers::None);
                self.ask(link, now);
            }
            Attack::Half(_) => {
                link.serve(Answers::Half);
                self.ask(link, now);
            }
            Attack::Flip(ring, words, _) => self.flip(link, ring, words, now),
            Attack::Payload(_) => self.payload(link, now),
            Attack::Flood(_) => self.flood(link),
            Attack::Storm(_) => {
                link.serve(Answers::All);
                self.ask(link, now);
                self.storm(link, Storm::Peer, 4 * ROUNDS);
            }
            Attack::Measure(storm, _) => self.measure(link, storm, now),
            Attack::Nodes(nodes) => {
                link.serve(Answers::All);
                if now >= self.next {
                    self.next = now + NODE_PACE;
                    self.nodes += 1;
                    return nodes.get(self.nodes - 1).copied();
                }
            }
            Attack::HangUp => link.hang_up(),
            Attack::Dump => self.found = Some(leak::search(link)),
        }
        None
    }

    /// Lets two requests to send come, and answers them.
    fn lie_of_sent<S: System, M: Memory>(&mut self, link: &mut Link<S, M>, id: Id, status: i16, now: Instant) {
        if now < self.until && link.tx.waiting() < 2 {
            return self.ask(link, now);
        }
        self.until = now;
        let mut before = None;
        while let Some(sent) = link.take_sent() {
            link.look(&sent);
            let _ = link.take_extras(&sent);
            let lie = match id {
                Id::Right => sent.id,
                Id::Again => before.unwrap_or(sent.id),
                Id::Plus(more) => sent.id.wrapping_add(more),
                Id::Exact(id) => id,
            };
            before = Some(sent.id);
            link.answer_sent(lie, status);
            self.acts += 1;
        }
        link.tx.publish();
        link.kick();
    }

    fn lie_of_buffers<S: System, M: Memory>(
        &mut self,
        link: &mut Link<S, M>,
        id: Id,
        [offset, flags]: [u16; 2],
        status: i16,
        times: u32,
    ) {
        let mut done = 0;
        while done < times.min(2 * SLOTS) {
            let Some((right, _)) = link.take_buffer() else { break };
            let lie = match id {
                Id::Right => right,
                Id::Again => right.wrapping_sub(1),
                Id::Plus(more) => right.wrapping_add(more),
                Id::Exact(id) => id,
            };
            link.answer_buffer(lie, offset, flags, status);
            done += 1;
        }
        self.acts += u64::from(done);
        link.publish_buffers();
        link.kick();
    }

    fn extras<S: System, M: Memory>(&mut self, link: &mut Link<S, M>, kind: u8, flags: u8, rest: [u8; 6], times: u32) {
        let Some((id, _)) = link.take_buffer() else { return };
        link.answer_buffer(id, 0, 8, 60);
        let [a, b, c, d, e, f] = rest;
        for _ in 0..times.min(2 * SLOTS) {
            if link.take_buffer().is_none() {
                break;
            }
            link.rx.answer(&[kind, flags, a, b, c, d, e, f]);
            self.acts += 1;
        }
        link.publish_buffers();
        link.kick();
    }

    fn flip<S: System, M: Memory>(&mut self, link: &mut Link<S, M>, ring: Ring, words: Words, now: Instant) {
        if words != Words::Responses && words != Words::Page {
            // So that the front end has a reason to look.
            self.ask(link, now);
        }
        match words {
            Words::Responses => return self.double_fetch(link),
            Words::Page => return self.whole_pages(link),
            Words::Slots | Words::Events => link.serve(Answers::All),
            Words::Producer => {}
        }
        for round in 0..ROUNDS {
            let (value, index) = (self.random(), self.random());
            let back = if ring == Ring::Tx { &link.tx } else { &link.rx };
            match words {
                Words::Producer => {
                    let near = back.word(REQ_PROD).wrapping_sub(value % 8);
                    back.set_word(RSP_PROD, if value & 0x100 == 0 { near } else { value });
                }
                Words::Events => {
                    back.set_word(RSP_EVENT, value);
                    back.set_word(REQ_EVENT, index);
                }
                _ => back
                    .scribble(index, &[value.to_le_bytes(), index.to_le_bytes(), value.to_le_bytes()].concat_array()),
            }
            if round % 32 == 0 {
                link.kick();
            }
        }
        self.acts += u64::from(ROUNDS);
    }

    /// Answers buffers with frames at the start or at the end of their page, and exchanges offset and length without end:
    /// whoever reads them apart may get the offset of the one and the length of the other.
    fn double_fetch<S: System, M: Memory>(&mut self, link: &mut Link<S, M>) {
        link.serve(Answers::All);
        let first = link.rx.next();
        for _ in 0..8 {
            let Some((id, _)) = link.take_buffer() else { break };
            link.answer_buffer(id, 0, 0, 4096);
        }
        let last = link.rx.next();
        link.rx.publish();
        link.kick();
        for round in 0..ROUNDS {
            let mut index = first;
            while index != last {
                let id = ((index % SLOTS) as u16).to_le_bytes();
                let (offset, length) = if round % 2 == 0 { (4036_u16, 60_u16) } else { (0, 4096) };
                let ([o0, o1], [l0, l1]) = (offset.to_le_bytes(), length.to_le_bytes());
                link.rx.scribble(index, &[id[0], id[1], o0, o1, 0, 0, l0, l1]);
                index = index.wrapping_add(1);
                self.acts += 1;
            }
        }
    }

    fn whole_pages<S: System, M: Memory>(&mut self, link: &mut Link<S, M>) {
        let memory = link.written.memory().clone();
        for _ in 0..ROUNDS {
            let (at, value) = (self.random() % 2048, self.random());
            memory.store(at as usize * 4, value);
            self.acts += 1;
        }
        link.kick();
    }

    fn payload<S: System, M: Memory>(&mut self, link: &mut Link<S, M>, now: Instant) {
        link.serve(Answers::All);
        self.ask(link, now);
        link.ask(600);
        let memory = link.written.memory().clone();
        for _ in 0..ROUNDS {
            let (value, which) = (self.random(), self.random());
            let count = link.written.mapped().count().max(1);
            let Some((page, _)) = link.written.mapped().nth(which as usize % count) else { return };
            // The headers most of all.
            memory.store(page + (value as usize >> 8) % 16 * 4, value);
            self.acts += 1;
        }
    }

    fn flood<S: System, M: Memory>(&mut self, link: &mut Link<S, M>) {
        link.serve(Answers::All);
        for _ in 0..ROUNDS {
            let mut frame = [0; 128];
            for bytes in frame.chunks_exact_mut(4) {
                bytes.copy_from_slice(&self.random().to_le_bytes());
            }
            // For the front end itself, of a type that it knows.
            if let (Some(place), Some(mac)) = (frame.get_mut(..6), link.mac) {
                place.copy_from_slice(&mac);
            }
            let kind = [[8, 0, 0x45], [8, 6, 0], [0x86, 0xdd, 0x60], [8, 0, 0x4f]][self.random() as usize % 4];
            frame[12..15].copy_from_slice(&kind);
            let length = 14 + self.random() as usize % 114;
            if !link.deliver(&frame[..length]) {
                break;
            }
            self.acts += 1;
        }
    }

    fn storm<S: System, M: Memory>(&mut self, link: &Link<S, M>, storm: Storm, events: u32) {
        for _ in 0..events {
            match storm {
                Storm::None => return,
                // As many as `kick` sends.
                Storm::Nobody => (0..2).for_each(|_| link.kick_nobody()),
                Storm::Peer => link.kick(),
            }
            self.acts += 2;
        }
    }

    fn measure<S: System, M: Memory>(&mut self, link: &mut Link<S, M>, storm: Storm, now: Instant) {
        let before = link.echoes;
        link.serve(Answers::All);
        let answered = link.echoes.wrapping_sub(self.echoes[0]);
        if link.echoes != before {
            self.next = now + LOSS_TIME;
        } else if now >= self.next {
            // What has no answer by now is lost.
            (self.asked, self.next) = (answered, now + LOSS_TIME);
            self.lost += 1;
        }
        while self.asked.wrapping_sub(answered) < WINDOW && link.ask(MEASURED) {
            self.asked = self.asked.wrapping_add(1);
        }
        self.storm(link, storm, BURST);
    }
}

/// Three words as bytes.
trait ConcatArray {
    fn concat_array(&self) -> [u8; 12];
}

impl ConcatArray for [[u8; 4]; 3] {
    fn concat_array(&self) -> [u8; 12] {
        let mut bytes = [0; 12];
        bytes.iter_mut().zip(self.as_flattened()).for_each(|(place, byte)| *place = *byte);
        bytes
    }
}

fn producer<S: System, M: Memory>(link: &Link<S, M>, ring: Ring, to: Move) {
    let back: &Back<M> = if ring == Ring::Tx { &link.tx } else { &link.rx };
    let value = match to {
        Move::Beyond(count) => back.word(REQ_PROD).wrapping_add(count),
        Move::Back(count) => back.next().wrapping_sub(count),
    };
    back.set_word(RSP_PROD, value);
    link.kick();
}

impl fmt::Display for Run {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if let Some(found) = &self.found {
            return found.fmt(f);
        }
        let [before, during, after] = self.echoes;
        let answers = if after > 0 { "answers" } else { "is gone" };
        write!(f, "{} acts, {before} and {during} echoes, {answers}", self.acts)?;
        if let Attack::Measure(..) = self.script.attack {
            let (ms, echoes) = (self.took.as_millis().max(1) as u64, u64::from(during.wrapping_sub(before)));
            let (echoes, events) = (echoes * 1_000 / ms, self.acts * 1_000 / ms);
            write!(f, "; {echoes} echoes/s, {events} events/s, {} losses", self.lost)?;
        }
        Ok(())
    }
}
