//! netfront with a hostile back end: on the rings, and in the nodes of the handshake.

use arbitrary::Arbitrary;
use cloister_caps::PAGE_SIZE;
use cloister_caps::xen::ring::{FIRST_SLOT, REQ_EVENT, REQ_PROD, RSP_PROD};
use cloister_interfaces::Memory;
use cloister_sim::netback::Frame;

use super::{Bench, Hostile};
use crate::host::Pause;
use crate::script::{Bytes, Claim, Trace, World};

/// The queue depth, `true` if the back end offers split event channels, and `true` if the link is
/// up before the script begins.
#[derive(Arbitrary, Debug)]
pub struct Setup {
    depth: u8,
    split: bool,
    up: bool,
}

fn bench(hostile: Hostile, setup: &Setup, trace: &Trace) -> Bench {
    let mut bench = Bench::new(hostile, setup.depth, trace);
    if !setup.split {
        let split = format!("{}/feature-split-event-channels", bench.back.directory());
        bench.back.features.retain(|(name, _)| name != "feature-split-event-channels");
        bench.daemon.delete(&split);
    }
    if setup.up {
        bench.settle();
    }
    bench
}

/// A number in a response.
#[derive(Arbitrary, Clone, Copy, Debug)]
pub enum Number {
    /// The right one.
    Right,
    /// Another.
    Other(u16),
}

/// A step on the rings, or of the other parties.
#[derive(Arbitrary, Debug)]
pub enum RingStep {
    /// This number of responses to sent frames.
    Sent(Number, i8, u8),
    /// Valid responses to this number of slots, including extra infos.
    Answered(u8),
    /// A valid frame of this number of slots, with or without segmentation. Only the first
    /// `written` slots may be written.
    Long {
        slots: u8,
        segment: Option<u16>,
        checked: bool,
        last: u8,
        written: u8,
    },
    /// An extra info in the next slot.
    Extra {
        kind: u8,
        flags: u8,
        size: u16,
        segments: u8,
        rest: [u8; 3],
    },
    /// A response with a frame.
    Frame {
        id: Number,
        offset: u16,
        flags: u16,
        status: i16,
    },
    /// A valid frame.
    Honest(u8),
    /// The producer's index of a ring.
    Produced(bool, Claim),
    /// The index at which the front end must send an event.
    Event(bool, Claim),
    /// Any bytes in a ring's page.
    Page(u16, Bytes),
    /// Bytes in the pages of received frames.
    Data(u8, Bytes),
    /// Words that change while they are read.
    Lie(Bytes),
    /// tcpip sends a frame, and gives a page back.
    Traffic(u8, u8),
    /// tcpip sends a frame that the link must cut.
    Cut {
        page: u8,
        length: u16,
        segment: u16,
    },
    /// An event storm: the front end runs this number of times without work.
    Storm(u8),
    /// Every party runs.
    Settle,
    /// The back end's state.
    State(u8),
    Pass(Pause),
}

/// The target: netfront against a back end that is hostile on the rings.
pub struct Rings(Bench);

impl Rings {
    /// Writes a response into the next slot of a ring, and publishes it.
    fn respond(&mut self, base: usize, slot: usize, response: &[u8]) {
        let rings = &self.0.rings;
        let index = rings.load(base + RSP_PROD);
        rings.write(base + FIRST_SLOT + (index % 256) as usize * slot, response);
        rings.store(base + RSP_PROD, index.wrapping_add(1));
    }

    /// Responds to this number of sent slots.
    fn answer(&mut self, count: u8) {
        let rings = self.0.rings.clone();
        let mut extra = false;
        for _ in 0..count {
            let index = rings.load(RSP_PROD);
            if index == rings.load(REQ_PROD) {
                return;
            }
            let at = FIRST_SLOT + (index % 256) as usize * 12;
            let (flags, id) = (rings.bytes(at + 6, 1)[0], rings.bytes(at + 8, 2));
            let status: i16 = if extra { 1 } else { 0 };
            self.respond(0, 12, &[&id[..], &status.to_le_bytes()].concat());
            extra = !extra && flags & 8 != 0;
        }
    }

    /// Writes the first `written` slots of a frame of `slots`.
    fn write_long_frame(&mut self, slots: u16, segment: Option<u16>, checked: bool, last: u8, written: usize) {
        let rings = self.0.rings.clone();
        let mut layout: Vec<Option<[u16; 3]>> = Vec::new();
        for slot in 0..slots {
            let more = if slot + 1 < slots { 4 } else { 0 };
            let first = if slot > 0 { 0 } else { u16::from(checked) * 3 + u16::from(segment.is_some()) * 8 };
            layout.push(Some([0, first | more, if more > 0 { 4096 } else { 60 + u16::from(last) }]));
            if slot == 0 && segment.is_some() {
                layout.push(None);
            }
        }
        for slot in layout.into_iter().take(written) {
            let id = (rings.load(PAGE_SIZE + RSP_PROD) % 256) as u16;
            let bytes = match slot {
                Some([offset, flags, length]) => [id, offset, flags, length].map(u16::to_le_bytes).concat(),
                None => [[1, 0], segment.unwrap_or_default().to_le_bytes(), [1, 0], [0, 0]].concat(),
            };
            self.respond(PAGE_SIZE, 8, &bytes);
        }
    }

    /// Responds to the next frame that was sent.
    fn respond_to_sent(&mut self, id: Number, status: i8) {
        let rings = self.0.rings.clone();
        let at = FIRST_SLOT + (rings.load(RSP_PROD) % 256) as usize * 12 + 8;
        let right = u16::from_le_bytes([rings.bytes(at, 1)[0], rings.bytes(at + 1, 1)[0]]);
        let id = match id {
            Number::Right => right,
            Number::Other(id) => id,
        };
        self.respond(0, 12, &[id.to_le_bytes(), i16::from(status).to_le_bytes()].concat());
    }

    fn act(&mut self, step: RingStep) {
        let rings = self.0.rings.clone();
        let base = |rx: bool| if rx { PAGE_SIZE } else { 0 };
        match step {
            RingStep::Sent(id, status, count) => (0..count % 32).for_each(|_| self.respond_to_sent(id, status)),
            RingStep::Frame { id, offset, flags, status } => {
                let id = match id {
                    Number::Right => (rings.load(PAGE_SIZE + RSP_PROD) % 256) as u16,
                    Number::Other(id) => id,
                };
                let fields = [id.to_le_bytes(), offset.to_le_bytes(), flags.to_le_bytes(), status.to_le_bytes()];
                self.respond(PAGE_SIZE, 8, &fields.concat());
            }
            RingStep::Honest(length) => {
                let id = (rings.load(PAGE_SIZE + RSP_PROD) % 256) as u16;
                let fields = [id.to_le_bytes(), [0; 2], [0; 2], (60 + u16::from(length)).to_le_bytes()];
                self.respond(PAGE_SIZE, 8, &fields.concat());
            }
            RingStep::Produced(rx, claim) => {
                let honest = rings.load(base(rx) + RSP_PROD);
                rings.store(base(rx) + RSP_PROD, claim.of(honest));
            }
            RingStep::Event(rx, claim) => {
                let honest = rings.load(base(rx));
                rings.store(base(rx) + REQ_EVENT, claim.of(honest));
            }
            RingStep::Page(at, Bytes(bytes)) => rings.write(usize::from(at) % (2 * PAGE_SIZE), &bytes),
            RingStep::Data(page, Bytes(bytes)) => {
                self.0.rx_pool.write(usize::from(page) % usize::from(super::PAGES) * PAGE_SIZE, &bytes);
            }
            RingStep::Lie(Bytes(bytes)) => self.0.host.script.lie(&bytes),
            RingStep::Answered(count) => self.answer(count % 64),
            RingStep::Long { slots, segment, checked, last, written } => {
                let slots = 1 + u16::from(slots % 20);
                let whole = usize::from(slots) + 1;
                // Mostly all slots.
                let written = if written < 192 { whole } else { usize::from(written) % whole };
                self.write_long_frame(slots, segment, checked, last, written);
            }
            RingStep::Extra { kind, flags, size, segments, rest } => {
                let ([s0, s1], [r0, r1, r2]) = (size.to_le_bytes(), rest);
                self.respond(PAGE_SIZE, 8, &[kind, flags, s0, s1, segments, r0, r1, r2]);
            }
            RingStep::Cut { page, length, segment } => self.0.transmit_long(page.into(), length, segment),
            RingStep::Traffic(page, length) => self.0.traffic(page.into(), length.into()),
            RingStep::Storm(times) => (0..times).for_each(|_| self.0.host.call(self.0.service.as_mut())),
            RingStep::Settle => self.0.turns(40),
            RingStep::State(state) => self.0.back.set_state(&mut self.0.daemon, &(state % 9).to_string()),
            RingStep::Pass(pause) => self.0.host.pass(pause.nanoseconds()),
        }
    }
}

impl World for Rings {
    type Setup = Setup;
    type Step = RingStep;

    fn new(setup: Setup, trace: &Trace) -> Self {
        let mut bench = bench(Hostile::Rings, &setup, trace);
        // The honest half makes the connection. It does not read what the hostile half writes.
        bench.back.hold_tx = true;
        Rings(bench)
    }

    fn step(&mut self, step: RingStep) {
        self.act(step);
        self.0.turn();
        self.0.tcpip.received.clear();
    }

    fn honest(mut self) {
        self.0.works();
    }
}

/// A node of the handshake.
#[derive(Arbitrary, Clone, Copy, Debug)]
pub enum Node {
    Front(u8),
    Back(u8),
}

/// A step in the nodes, or of a back end that is honest on the rings.
#[derive(Arbitrary, Debug)]
pub enum NodeStep {
    /// A node is written or removed.
    Set(Node, Value),
    Remove(Node),
    /// The device is removed, or created again.
    Destroy,
    Create,
    /// The back end ignores the front end's state, or not.
    Deaf(bool),
    Hold(bool),
    /// This number of commits fail.
    Conflicts(u8),
    /// The back end keeps the pages of a rule mapped or not, or the rule's grants are refused or
    /// not.
    KeepMapped(u8, bool),
    Refused(u8, bool),
    Traffic(u8, u8),
    Frames(u8),
    /// Every party runs many times.
    Settle,
    Pass(Pause),
}

/// A node's value.
#[derive(Arbitrary, Clone, Debug)]
pub enum Value {
    Number(u8),
    Word(u8),
    Bytes(Bytes),
}

impl Node {
    fn path(self, bench: &Bench) -> String {
        const FRONT: [&str; 8] =
            ["backend", "backend-id", "mac", "mtu", "state", "handle", "tx-ring-ref", "event-channel-tx"];
        const BACK: [&str; 10] = [
            "state",
            "online",
            "feature-rx-copy",
            "feature-split-event-channels",
            "feature-sg",
            "feature-gso-tcpv4",
            "feature-no-csum-offload",
            "frontend",
            "hotplug-status",
            "multi-queue-max-queues",
        ];
        match self {
            Node::Front(which) => {
                format!("{}/{}", bench.back.front_directory(), FRONT[usize::from(which) % FRONT.len()])
            }
            Node::Back(which) => format!("{}/{}", bench.back.directory(), BACK[usize::from(which) % BACK.len()]),
        }
    }
}

impl Value {
    fn bytes(self) -> Vec<u8> {
        const WORDS: [&str; 8] = [
            "/local/domain/0/backend/vif/7/0",
            "/local/domain/9/backend/vif/7/0",
            "00:16:3e:11:22:33",
            "ff:ff:ff:ff:ff:ff",
            "32752",
            "4294967297",
            " 4",
            "4\0",
        ];
        match self {
            Value::Number(number) => (number % 10).to_string().into_bytes(),
            Value::Word(which) => WORDS[usize::from(which) % WORDS.len()].into(),
            Value::Bytes(Bytes(bytes)) => bytes,
        }
    }
}

/// The target: netfront against hostile nodes.
pub struct Nodes(Bench);

impl World for Nodes {
    type Setup = Setup;
    type Step = NodeStep;

    fn new(setup: Setup, trace: &Trace) -> Self {
        let mut bench = bench(Hostile::Nodes, &setup, trace);
        // Any party may have written the nodes that it reads.
        bench.back.forgiving = true;
        Nodes(bench)
    }

    fn step(&mut self, step: NodeStep) {
        let bench = &mut self.0;
        if matches!(step, NodeStep::Set(..) | NodeStep::Remove(_) | NodeStep::Create) {
            // The honest back end does not see which party wrote, and must not use rings that it no
            // longer has.
            bench.back.connection = None;
        }
        match step {
            // A toolstack that writes the front end's nodes would make the honest back end fail. So
            // would a toolstack that sets the front end's state to connected.
            NodeStep::Set(Node::Front(which), ref value) if which % 8 == 4 && value.clone().bytes() == b"4" => {}
            NodeStep::Set(node, value) if !node.path(bench).contains("tx") => {
                let path = node.path(bench);
                bench.daemon.set(&path, value.bytes());
            }
            NodeStep::Set(..) => {}
            NodeStep::Remove(node) if !node.path(bench).contains("tx") => {
                let path = node.path(bench);
                bench.daemon.delete(&path);
            }
            NodeStep::Remove(_) => {}
            NodeStep::Destroy => bench.back.destroy(&mut bench.daemon),
            NodeStep::Create => bench.back.create(&mut bench.daemon),
            NodeStep::Deaf(ignores_states) => bench.back.ignores_states = ignores_states,
            NodeStep::Hold(hold) => bench.back.hold_tx = hold,
            NodeStep::Conflicts(more) => {
                bench.store.as_mut().into_iter().for_each(|store| store.conflicts += u32::from(more % 16));
            }
            NodeStep::KeepMapped(rule, keep) => {
                if let Some(grants) = bench.grants.as_mut() {
                    let rule = rule % 3;
                    match (keep, grants.held.contains(&rule)) {
                        (true, false) => grants.held.push(rule),
                        (false, true) => grants.release(rule),
                        _ => {}
                    }
                }
            }
            NodeStep::Refused(rule, refused) => {
                if let Some(grants) = bench.grants.as_mut() {
                    grants.refused.retain(|of| *of != rule % 3);
                    grants.refused.extend(refused.then_some(rule % 3));
                }
            }
            NodeStep::Traffic(page, length) => bench.traffic(page.into(), length.into()),
            NodeStep::Frames(count) => {
                bench.back.waiting.extend(std::iter::repeat_n(Frame::from(vec![9; 60]), usize::from(count) % 40));
            }
            NodeStep::Settle => bench.turns(60),
            NodeStep::Pass(pause) => bench.host.pass(pause.nanoseconds()),
        }
        bench.turn();
        bench.back.waiting.truncate(100);
        bench.back.sent.clear();
        bench.tcpip.received.clear();
        let actions = bench.store.as_mut().map(|store| std::mem::take(&mut store.actions)).unwrap_or_default();
        actions.iter().for_each(|action| bench.check(action));
    }

    fn honest(mut self) {
        self.0.works();
    }
}
