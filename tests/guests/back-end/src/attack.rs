//! Runs a script on a connection.

use core::fmt;
use core::time::Duration;

use cloister_caps::xen::netif::{TX_SLOTS as SLOTS, rx_flag};
use cloister_caps::xen::ring::{REQ_EVENT, REQ_PROD, RSP_EVENT, RSP_PROD};
use cloister_interfaces::{Instant, Memory, System};

use crate::leak::{self, Leaks};
use crate::link::{Answers, Link};
use crate::ring::BackRing;
use crate::script::{Attack, ProducerShift, ResponseId, Ring, RingPart, Script, Storm};

/// The time in which the front end must answer the first echo request, and one after the attack.
const WARM_UP_TIME: Duration = Duration::from_secs(20);
const CHECK_TIME: Duration = Duration::from_secs(4);
/// The interval between steps, unless the attack repeats as fast as possible.
const POLL: Duration = Duration::from_millis(10);
/// The interval between two echo requests, outside of an attack.
const PACE: Duration = Duration::from_millis(50);
/// The number of unanswered echo requests when throughput is measured, and their size in bytes.
const WINDOW: u32 = 48;
const MEASURED: usize = 1_400;
/// The time without any answer after which all echo requests count as lost.
const LOSS_TIME: Duration = Duration::from_millis(200);
/// The rounds of an attack in one step.
const ROUNDS: u32 = 256;
/// The events that a storm sends in one round.
const BURST: u32 = 8;
/// The interval between two nodes that are written.
const NODE_PACE: Duration = Duration::from_millis(150);

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Stage {
    /// Until the front end answers an echo request.
    WarmUp,
    Attack,
    /// Until the front end answers, or the time for an answer is over.
    Check,
    Done,
}

/// The name of a node, and the value to write, or `None` to remove it.
pub type Node = (&'static str, Option<&'static str>);

/// A script that runs.
pub struct ScriptRun {
    /// The script.
    pub script: &'static Script,
    stage: Stage,
    /// The end of the stage.
    until: Instant,
    /// The time of the next echo request.
    next: Instant,
    /// The time of the next step.
    wake: Instant,
    /// The number of answers before the attack, at its end, and after it.
    echoes: [u32; 3],
    /// The number of slots, words or events that were written or sent.
    actions: u64,
    /// The number of nodes that were written.
    nodes: usize,
    requested: u32,
    /// The number of times that all echo requests were lost.
    lost: u32,
    random: u64,
    leaks: Option<Leaks>,
    began: Instant,
    took: Duration,
}

impl ScriptRun {
    /// Starts a script.
    pub fn new(script: &'static Script, now: Instant) -> Self {
        ScriptRun {
            script,
            stage: Stage::WarmUp,
            until: now + WARM_UP_TIME,
            next: now,
            wake: now,
            echoes: [0; 3],
            actions: 0,
            nodes: 0,
            requested: 0,
            lost: 0,
            random: now.0 | 1,
            leaks: None,
            began: now,
            took: Duration::ZERO,
        }
    }

    /// Returns `true` if the script has ended.
    pub fn is_done(&self) -> bool {
        self.stage == Stage::Done
    }

    /// Ends the script, because the front end is gone.
    pub fn end(&mut self) {
        self.stage = Stage::Done;
    }

    /// Returns the time of the next step.
    pub fn deadline(&self) -> Instant {
        self.wake
    }

    fn next_wake(&self, now: Instant) -> Instant {
        let continuous = matches!(
            self.script.attack,
            Attack::Rewrite(..) | Attack::Payload(_) | Attack::Flood(_) | Attack::Storm(_) | Attack::Measure(..)
        );
        if self.stage == Stage::Attack && continuous { Instant::START } else { now + POLL }
    }

    /// Makes a step. Returns a node that has to be written.
    pub fn step<S: System, M: Memory>(&mut self, link: &mut Link<S, M>, now: Instant) -> Option<Node> {
        let node = self.advance(link, now);
        self.wake = self.next_wake(now);
        node
    }

    fn advance<S: System, M: Memory>(&mut self, link: &mut Link<S, M>, now: Instant) -> Option<Node> {
        match self.stage {
            Stage::WarmUp => {
                link.serve(Answers::All);
                self.ping(link, now);
                if link.echoes > 0 || now >= self.until {
                    self.echoes[0] = link.echoes;
                    self.begin(now);
                }
            }
            Stage::Attack => {
                let node = self.act(link, now);
                if now >= self.until {
                    (self.echoes[1], self.took) = (link.echoes, now.since(self.began));
                    self.stage = Stage::Check;
                    self.until = now + CHECK_TIME;
                    link.notify_peer();
                }
                return node;
            }
            Stage::Check => {
                link.serve(Answers::All);
                self.ping(link, now);
                self.echoes[2] = link.echoes.wrapping_sub(self.echoes[1]);
                // Up to `WINDOW` answers may be to requests from before the end of the attack.
                if self.echoes[2] > WINDOW || (self.echoes[2] > 2 && self.requested == 0) || now >= self.until {
                    self.stage = Stage::Done;
                }
            }
            Stage::Done => {
                link.serve(Answers::All);
            }
        }
        None
    }

    fn ping<S: System, M: Memory>(&mut self, link: &mut Link<S, M>, now: Instant) {
        if now >= self.next {
            link.ping(56);
            self.next = now + PACE;
        }
    }

    fn begin(&mut self, now: Instant) {
        let time = match self.script.attack {
            Attack::Silent(ms) | Attack::Half(ms) | Attack::Rewrite(_, _, ms) | Attack::Payload(ms) => ms,
            Attack::Flood(ms) | Attack::Storm(ms) | Attack::Measure(_, ms) | Attack::Wait(ms) => ms,
            Attack::Nodes(nodes) => (nodes.len() as u64 + 1) * NODE_PACE.as_millis() as u64,
            // Long enough for the front end to read it. An honest publication would correct the
            // index.
            Attack::Producer(..) => 1_500,
            // Long enough for two requests to arrive.
            Attack::Tx(..) => 4_000,
            _ => 0,
        };
        self.stage = Stage::Attack;
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
                self.ping(link, now);
            }
            Attack::Tx(id, status) => self.answer_sent_wrongly(link, id, status, now),
            Attack::Rx { id, offset, flags, status, times } => {
                self.answer_buffers_wrongly(link, id, [offset, flags], status, times);
            }
            Attack::Extra(kind, flags, rest, times) => self.extras(link, kind, flags, rest, times),
            Attack::Producer(ring, shift) => shift_producer(link, ring, shift),
            Attack::Silent(_) => {
                link.serve(Answers::None);
                self.ping(link, now);
            }
            Attack::Half(_) => {
                link.serve(Answers::Half);
                self.ping(link, now);
            }
            Attack::Rewrite(ring, words, _) => self.rewrite(link, ring, words, now),
            Attack::Payload(_) => self.payload(link, now),
            Attack::Flood(_) => self.flood(link),
            Attack::Storm(_) => {
                link.serve(Answers::All);
                self.ping(link, now);
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
            Attack::Dump => self.leaks = Some(leak::search(link)),
        }
        None
    }

    /// Waits for two requests to send, and answers them wrongly.
    fn answer_sent_wrongly<S: System, M: Memory>(
        &mut self,
        link: &mut Link<S, M>,
        id: ResponseId,
        status: i16,
        now: Instant,
    ) {
        if now < self.until && link.tx.waiting() < 2 {
            return self.ping(link, now);
        }
        self.until = now;
        let mut before = None;
        while let Some(sent) = link.take_sent() {
            link.inspect(&sent);
            let _ = link.take_extras(&sent);
            let id = match id {
                ResponseId::Correct => sent.id,
                ResponseId::Previous => before.unwrap_or(sent.id),
                ResponseId::Plus(more) => sent.id.wrapping_add(more),
                ResponseId::Exact(id) => id,
            };
            before = Some(sent.id);
            link.answer_sent(id, status);
            self.actions += 1;
        }
        link.tx.publish();
        link.notify_peer();
    }

    fn answer_buffers_wrongly<S: System, M: Memory>(
        &mut self,
        link: &mut Link<S, M>,
        id: ResponseId,
        [offset, flags]: [u16; 2],
        status: i16,
        times: u32,
    ) {
        let mut done = 0;
        while done < times.min(2 * SLOTS) {
            let Some((right, _)) = link.take_buffer() else { break };
            let id = match id {
                ResponseId::Correct => right,
                ResponseId::Previous => right.wrapping_sub(1),
                ResponseId::Plus(more) => right.wrapping_add(more),
                ResponseId::Exact(id) => id,
            };
            link.answer_buffer(id, offset, flags, status);
            done += 1;
        }
        self.actions += u64::from(done);
        link.publish_buffers();
        link.notify_peer();
    }

    fn extras<S: System, M: Memory>(&mut self, link: &mut Link<S, M>, kind: u8, flags: u8, rest: [u8; 6], times: u32) {
        let Some((id, _)) = link.take_buffer() else { return };
        link.answer_buffer(id, 0, rx_flag::EXTRA_INFO, 60);
        let [a, b, c, d, e, f] = rest;
        for _ in 0..times.min(2 * SLOTS) {
            if link.take_buffer().is_none() {
                break;
            }
            link.rx.answer(&[kind, flags, a, b, c, d, e, f]);
            self.actions += 1;
        }
        link.publish_buffers();
        link.notify_peer();
    }

    fn rewrite<S: System, M: Memory>(&mut self, link: &mut Link<S, M>, ring: Ring, words: RingPart, now: Instant) {
        if words != RingPart::Responses && words != RingPart::Page {
            // Gives the front end a reason to read the ring.
            self.ping(link, now);
        }
        match words {
            RingPart::Responses => return self.double_fetch(link),
            RingPart::Page => return self.rewrite_pages(link),
            RingPart::Slots | RingPart::Events => link.serve(Answers::All),
            RingPart::Producer => {}
        }
        for round in 0..ROUNDS {
            let (value, index) = (self.random(), self.random());
            let back = if ring == Ring::Tx { &link.tx } else { &link.rx };
            match words {
                RingPart::Producer => {
                    let near = back.word(REQ_PROD).wrapping_sub(value % 8);
                    back.set_word(RSP_PROD, if value & 0x100 == 0 { near } else { value });
                }
                RingPart::Events => {
                    back.set_word(RSP_EVENT, value);
                    back.set_word(REQ_EVENT, index);
                }
                _ => back.overwrite_slot(
                    index,
                    &[value.to_le_bytes(), index.to_le_bytes(), value.to_le_bytes()].concat_array(),
                ),
            }
            if round % 32 == 0 {
                link.notify_peer();
            }
        }
        self.actions += u64::from(ROUNDS);
    }

    /// Answers buffers with frames at the start or at the end of their page, and exchanges offset
    /// and length again and again. A front end that reads them separately may get the offset of one
    /// and the length of the other.
    fn double_fetch<S: System, M: Memory>(&mut self, link: &mut Link<S, M>) {
        link.serve(Answers::All);
        let first = link.rx.next();
        for _ in 0..8 {
            let Some((id, _)) = link.take_buffer() else { break };
            link.answer_buffer(id, 0, 0, 4096);
        }
        let last = link.rx.next();
        link.rx.publish();
        link.notify_peer();
        for round in 0..ROUNDS {
            let mut index = first;
            while index != last {
                let id = ((index % SLOTS) as u16).to_le_bytes();
                let (offset, length) = if round % 2 == 0 { (4036_u16, 60_u16) } else { (0, 4096) };
                let ([o0, o1], [l0, l1]) = (offset.to_le_bytes(), length.to_le_bytes());
                link.rx.overwrite_slot(index, &[id[0], id[1], o0, o1, 0, 0, l0, l1]);
                index = index.wrapping_add(1);
                self.actions += 1;
            }
        }
    }

    fn rewrite_pages<S: System, M: Memory>(&mut self, link: &mut Link<S, M>) {
        let memory = link.written.memory().clone();
        for _ in 0..ROUNDS {
            let (at, value) = (self.random() % 2048, self.random());
            memory.store(at as usize * 4, value);
            self.actions += 1;
        }
        link.notify_peer();
    }

    fn payload<S: System, M: Memory>(&mut self, link: &mut Link<S, M>, now: Instant) {
        link.serve(Answers::All);
        self.ping(link, now);
        link.ping(600);
        let memory = link.written.memory().clone();
        for _ in 0..ROUNDS {
            let (value, which) = (self.random(), self.random());
            let count = link.written.mapped().count().max(1);
            let Some((page, _)) = link.written.mapped().nth(which as usize % count) else { return };
            // Mostly in the headers.
            memory.store(page + (value as usize >> 8) % 16 * 4, value);
            self.actions += 1;
        }
    }

    fn flood<S: System, M: Memory>(&mut self, link: &mut Link<S, M>) {
        link.serve(Answers::All);
        for _ in 0..ROUNDS {
            let mut frame = [0; 128];
            for bytes in frame.chunks_exact_mut(4) {
                bytes.copy_from_slice(&self.random().to_le_bytes());
            }
            // To the front end's address, of a type that it knows.
            if let (Some(target), Some(mac)) = (frame.get_mut(..6), link.mac) {
                target.copy_from_slice(&mac);
            }
            let kind = [[8, 0, 0x45], [8, 6, 0], [0x86, 0xdd, 0x60], [8, 0, 0x4f]][self.random() as usize % 4];
            frame[12..15].copy_from_slice(&kind);
            let length = 14 + self.random() as usize % 114;
            if !link.deliver(&frame[..length]) {
                break;
            }
            self.actions += 1;
        }
    }

    fn storm<S: System, M: Memory>(&mut self, link: &Link<S, M>, storm: Storm, events: u32) {
        for _ in 0..events {
            match storm {
                Storm::None => return,
                // As many as `notify_peer` sends.
                Storm::Nobody => (0..2).for_each(|_| link.notify_nobody()),
                Storm::Peer => link.notify_peer(),
            }
            self.actions += 2;
        }
    }

    fn measure<S: System, M: Memory>(&mut self, link: &mut Link<S, M>, storm: Storm, now: Instant) {
        let before = link.echoes;
        link.serve(Answers::All);
        let answered = link.echoes.wrapping_sub(self.echoes[0]);
        if link.echoes != before {
            self.next = now + LOSS_TIME;
        } else if now >= self.next {
            // All requests without an answer are lost.
            (self.requested, self.next) = (answered, now + LOSS_TIME);
            self.lost += 1;
        }
        while self.requested.wrapping_sub(answered) < WINDOW && link.ping(MEASURED) {
            self.requested = self.requested.wrapping_add(1);
        }
        self.storm(link, storm, BURST);
    }
}

/// Converts three words to bytes.
trait ConcatArray {
    fn concat_array(&self) -> [u8; 12];
}

impl ConcatArray for [[u8; 4]; 3] {
    fn concat_array(&self) -> [u8; 12] {
        let mut bytes = [0; 12];
        bytes.iter_mut().zip(self.as_flattened()).for_each(|(target, byte)| *target = *byte);
        bytes
    }
}

fn shift_producer<S: System, M: Memory>(link: &Link<S, M>, ring: Ring, shift: ProducerShift) {
    let back: &BackRing<M> = if ring == Ring::Tx { &link.tx } else { &link.rx };
    let value = match shift {
        ProducerShift::Beyond(count) => back.word(REQ_PROD).wrapping_add(count),
        ProducerShift::Back(count) => back.next().wrapping_sub(count),
    };
    back.set_word(RSP_PROD, value);
    link.notify_peer();
}

impl fmt::Display for ScriptRun {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if let Some(leaks) = &self.leaks {
            return leaks.fmt(f);
        }
        let [before, during, after] = self.echoes;
        let answers = if after > 0 { "answers" } else { "is gone" };
        write!(f, "{} acts, {before} and {during} echoes, {answers}", self.actions)?;
        if let Attack::Measure(..) = self.script.attack {
            let (ms, echoes) = (self.took.as_millis().max(1) as u64, u64::from(during.wrapping_sub(before)));
            let (echoes, events) = (echoes * 1_000 / ms, self.actions * 1_000 / ms);
            write!(f, "; {echoes} echoes/s, {events} events/s, {} losses", self.lost)?;
        }
        Ok(())
    }
}
