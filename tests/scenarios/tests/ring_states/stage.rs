//! Brings netfront to a state, with the honest half of the back end and the knowledge of tcpip.

use std::collections::{BTreeMap, BTreeSet};
use std::num::NonZeroU16;

use cloister_caps::PAGE_SIZE;
use cloister_interfaces::Memory;
use cloister_interfaces::net::{Offload, Reply, Request, RxPage, TxPage};

use crate::fields::{self, Attack, Ids, Indices, RSP_PROD, Ring};
use crate::model::{self, EXTRA, Effect, Expect, MORE, Model, PRODUCER};
use crate::world::{World, return_pages};

/// The depth of a queue that is never full here, and of one that is.
const DEEP: u32 = 512;
const SHALLOW: u32 = 4;
/// The bytes of a segment.
const SEGMENT: NonZeroU16 = NonZeroU16::new(1448).unwrap();
/// A valid extra info.
const INFO: [u8; 8] = [1, 0, 0xA8, 5, 1, 0, 0, 0];

/// A state of the rings and of the connection.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum State {
    /// Nothing has been sent or received.
    Idle,
    /// One frame to send has no response, and tcpip has one received frame.
    One,
    /// Half of the pages are in flight.
    Half,
    /// Every slot of both rings is in use.
    Full,
    /// As `Full`, and frames wait for room.
    Waiting,
    /// The indices of the rings have wrapped.
    Round,
    /// A sent frame is half answered, and the first slot of a received one has arrived.
    Chain,
    /// An extra info is the next slot, and slots with bytes follow it.
    Extra,
    /// An extra info is the next and last slot.
    LastExtra,
    /// As `Half`, with a back end that cuts nothing and takes one slot a frame.
    Plain,
    /// As `Half`, with one event channel for both rings.
    OneChannel,
    /// tcpip takes no messages.
    QueueFull,
    /// The front end has published the rings, and the back end has not said that it is connected.
    Connecting,
    /// The back end has said that it closes, which the front end has not read.
    Closing,
    /// tcpip has requested the end while frames have no response.
    Draining,
    /// The front end closes, and waits for the back end, which still has the rings.
    AwaitClosing,
    /// The back end keeps the rings mapped; the front end waits for them.
    RingsMapped,
    /// The connection has ended, and the next attempt is due.
    Down,
}

pub const STATES: [State; 18] = [
    State::Idle,
    State::One,
    State::Half,
    State::Full,
    State::Waiting,
    State::Round,
    State::Chain,
    State::Extra,
    State::LastExtra,
    State::Plain,
    State::OneChannel,
    State::QueueFull,
    State::Connecting,
    State::Closing,
    State::Draining,
    State::AwaitClosing,
    State::RingsMapped,
    State::Down,
];

/// A frame that tcpip has submitted.
#[derive(Clone, Copy)]
struct Frame {
    pages: u16,
    extra: bool,
}

pub struct Stage {
    pub state: State,
    pub world: World,
    pub model: Model,
    pages: u16,
    /// By their first pages.
    frames: BTreeMap<u16, Frame>,
    /// The submitted frames for which the ring had no room, in order.
    waiting: Vec<u16>,
    /// The received pages that tcpip has.
    held: BTreeSet<u16>,
    up: bool,
    /// Since the last check: received frames, and sent ones that came back.
    pub received: usize,
    pub transmitted: usize,
    pub downs: usize,
    /// Received frames that wait for room in tcpip's queue.
    pub pending: usize,
}

impl State {
    /// `true` if the front end reads the rings.
    pub fn reads_rings(self) -> bool {
        !matches!(self, State::AwaitClosing | State::RingsMapped | State::Down)
    }

    fn pages(self) -> u16 {
        match self {
            State::Full | State::Waiting => 256,
            State::Round => 128,
            _ => 16,
        }
    }

    pub fn reach(self) -> Stage {
        let depth = if self == State::QueueFull { SHALLOW } else { DEEP };
        let mut stage = Stage {
            state: self,
            world: World::sized(depth, self.pages()),
            model: Model::new(),
            pages: self.pages(),
            frames: BTreeMap::new(),
            waiting: Vec::new(),
            held: BTreeSet::new(),
            up: false,
            received: 0,
            transmitted: 0,
            downs: 0,
            pending: 0,
        };
        let lacks = match self {
            State::Plain => ["feature-sg", "feature-gso-tcpv4"].as_slice(),
            State::OneChannel => &["feature-split-event-channels"],
            _ => &[],
        };
        let world = &mut stage.world;
        world.back.features.retain(|(name, _)| !lacks.contains(&name.as_str()));
        world.back.ignores_states = self == State::Connecting;
        world.back.create(&mut world.daemon);
        stage.run();
        assert_eq!(stage.up, self != State::Connecting, "{}", stage.world.system.console());
        stage.enter();
        // From now on, only the hostile half uses the rings.
        stage.world.back.connection = None;
        stage.world.back.hold_tx = false;
        stage.take();
        stage.downs = 0;
        stage
    }
}

impl Stage {
    /// Runs every party until none does anything. tcpip takes its messages.
    pub fn run(&mut self) {
        loop {
            self.world.settle();
            if !self.handle_replies() {
                return;
            }
        }
    }

    /// Takes netfront's messages, and checks that no page is owned twice.
    fn handle_replies(&mut self) -> bool {
        let replies = self.world.replies();
        for reply in &replies {
            match *reply {
                Reply::Up { .. } | Reply::Down => {
                    self.up = *reply != Reply::Down;
                    self.downs += usize::from(!self.up);
                    self.frames.clear();
                    self.held.clear();
                }
                Reply::Transmitted { page: TxPage(page) } => {
                    assert!(self.frames.remove(&page).is_some(), "page {page} came back and was not sent");
                    self.transmitted += 1;
                }
                Reply::Received { page: RxPage(page), offset, length, more, .. } => {
                    let pages = (usize::from(offset.get()) + usize::from(length.get())).div_ceil(PAGE_SIZE) as u16;
                    for page in page..page + pages {
                        assert!(page < self.pages && self.held.insert(page), "{reply:?}: page {page} was given twice");
                    }
                    self.received += usize::from(!more);
                }
            }
        }
        !replies.is_empty()
    }

    /// Returns the received frames, and the sent ones that came back, since the last call.
    pub fn take(&mut self) -> (usize, usize) {
        (std::mem::take(&mut self.received), std::mem::take(&mut self.transmitted))
    }

    fn tx(&self) -> Indices {
        Indices::of(&self.world.rings, Ring::Tx)
    }

    fn rx(&self) -> Indices {
        Indices::of(&self.world.rings, Ring::Rx)
    }

    /// Submits a frame from tcpip, for the link to cut if it is longer than a page or if `cut`.
    fn send(&mut self, page: u16, length: u16, cut: bool) {
        let offload = if cut { Offload::Segments(SEGMENT) } else { Offload::None };
        self.frames.insert(page, Frame { pages: length.div_ceil(PAGE_SIZE as u16), extra: cut });
        self.waiting.push(page);
        self.world.ask(Request::Transmit { page: TxPage(page), length, offload });
    }

    /// Counts the frames that are on the ring by now as unanswered.
    fn placed(&mut self) {
        let mut room = self.tx().made.wrapping_sub(self.tx().answered);
        room -= self.model.sent.values().map(|slots| u32::from(*slots)).sum::<u32>() + self.model.extras;
        while room > 0 {
            let page = self.waiting.remove(0);
            let frame = self.frames[&page];
            self.model.sent.insert(page, frame.pages);
            self.model.extras += u32::from(frame.extra);
            room -= u32::from(frame.pages) + u32::from(frame.extra);
        }
    }

    /// Sends this number of frames that the back end leaves on the ring, and that of received ones
    /// that tcpip keeps.
    fn load(&mut self, frames: u16, received: u16) {
        self.world.back.hold_tx = true;
        for page in 0..frames {
            self.send(page, 60, false);
        }
        self.world.back.waiting.extend((0..received).map(|number| vec![number as u8; 60].into()));
        self.run();
        self.placed();
    }

    fn enter(&mut self) {
        let half = self.pages / 2;
        match self.state {
            State::Idle => {}
            State::One => self.load(1, 1),
            State::Half | State::Plain | State::OneChannel | State::Closing => self.load(half, half),
            State::Full => self.load(256, 0),
            State::Waiting => self.fill(),
            State::Round => self.go_round(),
            State::Chain => self.begin_chain(),
            State::Extra => self.announce(EXTRA | MORE),
            State::LastExtra => self.announce(EXTRA),
            State::QueueFull => self.fill_queue(),
            State::Connecting => {}
            State::Draining => {
                self.load(half, half);
                self.world.ask(Request::Close);
                self.run();
            }
            State::AwaitClosing | State::RingsMapped | State::Down => self.end(),
        }
        if self.state == State::Closing {
            self.world.back.set_state(&mut self.world.daemon, "5");
        }
    }

    /// Each frame takes two slots, and there are more frames than fit.
    fn fill(&mut self) {
        self.world.back.hold_tx = true;
        for page in 0..200 {
            self.send(page, 1000, true);
        }
        self.run();
        self.placed();
        assert_eq!((self.tx().made - self.tx().answered, self.waiting.len()), (256, 72));
    }

    fn go_round(&mut self) {
        for _ in 0..3 {
            for page in 0..120 {
                self.send(page, 60, false);
            }
            self.world.back.waiting.extend((0..120).map(|number| vec![number; 60].into()));
            self.run();
            self.world.storm();
            self.run();
            self.give_back();
        }
        self.waiting.clear();
        self.run();
        assert!(self.frames.is_empty() && self.tx().made > 300 && self.rx().made > 300);
        self.load(4, 4);
    }

    fn begin_chain(&mut self) {
        self.world.back.hold_tx = true;
        self.send(4, 3 * PAGE_SIZE as u16, true);
        self.send(9, 60, false);
        self.run();
        self.placed();
        self.world.back.connection = None;
        self.respond_sent(4, 0);
        self.respond_received(MORE, 4096);
        self.world.storm();
        self.run();
    }

    fn announce(&mut self, flags: u16) {
        self.world.back.hold_tx = true;
        self.send(4, 2 * PAGE_SIZE as u16, true);
        self.run();
        self.placed();
        self.world.back.connection = None;
        for _ in 0..2 {
            self.respond_sent(4, 0);
        }
        self.respond_received(flags, 1000);
        self.world.storm();
        self.run();
    }

    fn fill_queue(&mut self) {
        self.world.back.hold_tx = true;
        self.world.ask(Request::Transmit { page: TxPage(0), length: 60, offload: Offload::None });
        self.frames.insert(0, Frame { pages: 1, extra: false });
        self.waiting.push(0);
        self.run();
        self.placed();
        self.world.back.waiting.extend((0..6).map(|number| vec![number; 60].into()));
        self.world.settle();
        assert_eq!(self.rx().answered, 6);
        self.pending = 6;
    }

    fn end(&mut self) {
        if self.state == State::RingsMapped {
            self.world.grants.held = vec![0];
        }
        self.world.back.ignores_states = self.state == State::AwaitClosing;
        self.world.back.connection = None;
        self.world.rings.store(Ring::Rx.base() + RSP_PROD, u32::MAX / 2);
        self.world.storm();
        self.run();
        if self.state == State::RingsMapped {
            self.world.pass(1_100);
            self.run();
            assert!(self.world.system.console().contains("still maps pages"));
        }
        let own = if self.state == State::AwaitClosing { "5" } else { "6" };
        let own = if self.state == State::RingsMapped { "1" } else { own };
        assert_eq!((self.world.front("state").as_deref(), self.up), (Some(own), false));
    }

    fn respond_sent(&mut self, id: u16, status: i16) {
        fields::sent(&self.world.rings, id, status);
        assert_eq!(self.model.sent(id, status), Vec::<&str>::new());
    }

    fn respond_received(&mut self, flags: u16, status: i16) {
        let index = self.rx().answered;
        fields::received(&self.world.rings, None, 0, flags, status);
        let slot = self.world.rings.bytes(Ring::Rx.slot(index), 8);
        assert_eq!(self.model.received(index, slot.try_into().expect("eight bytes")), Vec::<&str>::new());
    }

    /// Gives back all pages that tcpip has received.
    fn give_back(&mut self) {
        for page in std::mem::take(&mut self.held) {
            self.world.ask(return_pages(RxPage(page), 1));
        }
    }

    /// Returns the ids that the hostile half can name.
    pub fn view(&self) -> (Indices, Indices, Ids) {
        let unused = self.pages - 2;
        let ids = Ids {
            first: self.model.sent.keys().next().copied().unwrap_or(0),
            last: self.model.sent.keys().last().copied().unwrap_or(0),
            answered: 5,
            unused,
            inside: if self.frames.values().any(|frame| frame.pages > 1) { 5 } else { unused },
            pages: self.pages,
        };
        (self.tx(), self.rx(), ids)
    }

    /// Performs a write. Returns the expected result; for a violation, the broken rules of the
    /// protocol.
    pub fn attack(&mut self, attack: Attack) -> (Effect, Vec<&'static str>) {
        let before = [(Ring::Tx, self.tx()), (Ring::Rx, self.rx())];
        let after_extra = matches!(self.model.expect, Expect::Extra(_));
        attack.write(&self.world.rings, after_extra);
        let mut effect = Effect::Ignored;
        for (ring, before) in before {
            let claimed = Indices::of(&self.world.rings, ring).answered.wrapping_sub(before.answered);
            if claimed > before.made.wrapping_sub(before.answered) {
                return (Effect::Violation, vec![PRODUCER]);
            }
            for index in (0..claimed).map(|step| before.answered.wrapping_add(step)) {
                effect = Effect::Accepted;
                let bytes = self.world.rings.bytes(ring.slot(index), 8);
                let half = |at: usize| u16::from_le_bytes([bytes[at], bytes[at + 1]]);
                let wrong = match ring {
                    Ring::Tx => self.model.sent(half(0), half(2) as i16),
                    Ring::Rx => self.model.received(index, bytes.clone().try_into().expect("eight bytes")),
                };
                if !wrong.is_empty() {
                    return (Effect::Violation, wrong);
                }
            }
        }
        (effect, Vec::new())
    }

    /// Runs every party after the attack, until the front end has read the rings, if it reads them
    /// at all.
    pub fn look(&mut self) {
        self.world.storm();
        match self.state {
            State::Connecting => {
                self.run();
                self.world.back.set_state(&mut self.world.daemon, "4");
            }
            State::QueueFull => {
                let before = self.world.system.console().len();
                self.world.settle();
                assert_eq!(
                    self.world.system.console().len(),
                    before,
                    "nothing is looked at while tcpip does not listen"
                );
            }
            _ => {}
        }
        self.run();
    }

    /// Restores the words that the front end has no reason to write: the back end writes its own
    /// from now on.
    pub fn restore(&mut self, attack: Attack, tx: Indices, rx: Indices) {
        if let Attack::Word(ring, at @ fields::REQ_PROD, value) = attack
            && self.world.rings.load(ring.base() + at) == value
        {
            let made = if ring == Ring::Tx { tx.made } else { rx.made };
            self.world.rings.store(ring.base() + at, made);
        }
    }

    /// Answers every request of the front end correctly: each page comes to tcpip, and none twice.
    pub fn answer_all(&mut self) {
        if self.model.must_end() {
            return;
        }
        for _ in 0..600 {
            self.placed();
            while let Some((id, _)) = self.model.sent.first_key_value() {
                self.respond_sent(*id, 0);
            }
            while self.model.extras > 0 {
                self.respond_sent(0, model::NULL);
            }
            while self.rx().made != self.rx().answered {
                if let Expect::Extra(_) = self.model.expect {
                    fields::extra(&self.world.rings, INFO);
                    assert!(self.model.received(0, INFO).is_empty());
                } else {
                    self.respond_received(0, 60);
                }
            }
            self.world.storm();
            self.run();
            if self.frames.is_empty() && self.held.len() == usize::from(self.pages) {
                return;
            }
        }
        panic!("{} frames and {} pages are lost", self.frames.len(), usize::from(self.pages) - self.held.len());
    }

    /// Lets the back end behave, and checks that the link comes up and carries frames both ways, is
    /// closed, and leaves no grant.
    pub fn behave(&mut self) {
        let world = &mut self.world;
        world.back.ignores_states = false;
        if !world.grants.held.is_empty() {
            world.grants.release(0);
        }
        if self.up {
            world.back.set_state(&mut world.daemon, "5");
        }
        self.run();
        for _ in 0..8 {
            if self.up {
                break;
            }
            self.world.pass(1_100);
            self.run();
        }
        assert!(self.up, "the link does not come up: {}", self.world.system.console());
        let frame: Vec<u8> = (0..100).collect();
        self.take();
        self.frames.insert(3, Frame { pages: 1, extra: false });
        self.world.transmit(3, &frame);
        self.world.back.waiting.push_back(frame.clone().into());
        self.run();
        self.world.storm();
        self.run();
        assert_eq!(self.take(), (1, 1), "{}", self.world.system.console());
        assert_eq!(self.world.back.sent.last().map(|sent| &sent.bytes), Some(&frame));
        let page = self.held.first().copied().expect("a received page");
        assert_eq!(self.world.rx_pool.bytes(usize::from(page) * PAGE_SIZE, 100), frame);
        self.world.ask(Request::Close);
        self.run();
        self.ended();
    }

    /// Checks that the link was closed in order.
    pub fn ended(&mut self) {
        assert!(!self.up && self.world.grants.granted.is_empty(), "{}", self.world.system.console());
        assert_eq!(self.world.front("state").as_deref(), Some("6"));
        assert_eq!(self.world.service.deadline(), None);
    }
}
