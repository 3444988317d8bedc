//! The way to a connection and back: device nodes, the back end's `XenbusState`, grants, ports, keys.
//!
//! A pure state machine. [`Handshake::command`] says what is to be done next; what came of it goes into
//! [`Handshake::answered`], [`Handshake::granted`] or [`Handshake::ports`]. One thing is under way at a time.

use core::fmt::Write;
use core::time::Duration;

use arrayvec::{ArrayString, ArrayVec};
use cloister_caps::{DomId, EvtchnPort, GrantRef};
use cloister_interfaces::rules::Granted;
use cloister_interfaces::store::{Action, Failure, Path, Value};
use cloister_interfaces::{Instant, grants};

use crate::keys::{self, State};

/// The device's directory, relative to the domain's.
const DEVICE: &str = "device/vif/0";
/// Token of the watch on the device's `backend` node: the device appears or goes.
pub const OWN: u16 = 1;
/// Token of the watch on the back end's `state`.
pub const BACKEND: u16 = 2;
/// Indices of the three grants.
pub const RINGS: usize = 0;
/// The pages that the back end fills.
pub const RX: usize = 1;
/// The pages that the back end sends.
pub const TX: usize = 2;

/// The largest IP packet: without `feature-sg` the back end uses no larger one.
const MTU: u16 = 1500;
/// How long another service may take over a request.
const ANSWER_TIME: Duration = Duration::from_secs(15);
/// How often a state that is waited for is read, beside the watch.
const POLL: Duration = Duration::from_secs(5);
/// How long the back end may take to offer a connection, and to make it; hotplug scripts take seconds.
const CONNECT_TIME: Duration = Duration::from_secs(60);
/// How long the back end may take to let go.
const CLOSE_TIME: Duration = Duration::from_secs(5);
/// How long a device that is not there is not looked for, unless the watch tells of it.
const ABSENT_TIME: Duration = Duration::from_secs(30);
/// A connection that lasted this long makes earlier failures forgotten.
const STABLE_TIME: Duration = Duration::from_secs(60);
/// How often the keys are published anew after a conflict.
const ATTEMPTS: u8 = 16;
/// Keys that the front end publishes at most.
const KEYS: usize = 8;

/// What is to be done.
#[derive(Clone, PartialEq, Eq, Debug)]
#[expect(clippy::large_enum_variant, reason = "there is no heap, and only one exists at a time")]
pub enum Command {
    /// Ask the XenStore service; goes to [`Handshake::answered`].
    Store(Action),
    /// Ask the grant manager; goes to [`Handshake::granted`].
    Grants(grants::Request),
    /// Open both ports, or one; goes to [`Handshake::ports`].
    Ports {
        /// The back end.
        peer: DomId,
        /// Whether the ring of received frames has a port of its own.
        split: bool,
    },
    /// Empty the rings: no one else maps them.
    ResetRings,
    /// Post the receive buffers.
    Start {
        /// Reference of page 0 of the rx-pool.
        rx: GrantRef,
        /// Reference of page 0 of the tx-pool.
        tx: GrantRef,
    },
    /// The connection ends: look at the rings no more, close the ports.
    Stop,
}

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Step {
    Rest,
    WatchOwn,
    BackendId,
    Backend,
    Mac,
    Mtu,
    Online,
    OwnState,
    Unwatch,
    WatchBackend,
    Initialise,
    AwaitInit,
    RxCopy,
    Split,
    EndOld(usize),
    AwaitFree,
    ResetRings,
    Issue(usize),
    Ports,
    Start,
    Begin,
    Key(usize),
    Commit,
    Connect,
    AwaitConnected,
    Running,
    // From here on the connection is being taken down.
    Stop,
    Abort,
    Report,
    Closing,
    AwaitClosing,
    EndAll(usize),
    Closed,
    Stopped,
}

/// What reading the back end's state came to.
enum Seen {
    State(State),
    Gone,
    Nothing,
}

/// The state machine.
pub struct Handshake {
    rules: [Granted; 3],
    step: Step,
    /// A command is out and has not been answered.
    waiting: bool,
    /// The back end's state is to be read.
    stale: bool,
    /// When the step has taken too long.
    limit: Option<Instant>,
    /// When a state is read again without having been told to.
    poll: Option<Instant>,
    own_watched: bool,
    watched: Option<Path>,
    peer: DomId,
    backend: Path,
    mac: [u8; 6],
    mtu: u16,
    split: bool,
    ports: (EvtchnPort, EvtchnPort),
    references: [GrantRef; 3],
    /// Rules under which pages may be granted; all, for all that a new service knows.
    granted: [bool; 3],
    /// Pages that a back end does not let go.
    held: [u16; 3],
    attempts: u8,
    transaction: bool,
    /// The back end may have seen a state of ours beyond `Initialising`.
    published: bool,
    /// The back end's directory is gone.
    gone: bool,
    /// The device is not there.
    absent: bool,
    stopping: bool,
    failures: u32,
    up_since: Option<Instant>,
    report: Option<&'static str>,
    notes: ArrayVec<&'static str, 8>,
}

fn node(directory: &str, name: &str) -> Path {
    let mut path = Path::new();
    // `keys::backend` bounds the directory, so that every name fits.
    let _ = path.try_push_str(directory);
    let _ = path.try_push_str("/");
    let _ = path.try_push_str(name);
    path
}

fn value(text: &str) -> Value {
    text.bytes().take(cloister_interfaces::store::MAX_VALUE).collect()
}

impl Handshake {
    /// Before the first look at the device. `rules` are those of the ring pages, the rx-pool and the tx-pool.
    pub fn new(rules: [Granted; 3]) -> Self {
        Handshake {
            rules,
            step: Step::WatchOwn,
            waiting: false,
            stale: false,
            limit: None,
            poll: None,
            own_watched: false,
            watched: None,
            peer: DomId(0),
            backend: Path::new(),
            mac: [0; 6],
            mtu: MTU,
            split: false,
            ports: Default::default(),
            references: [GrantRef(0); 3],
            granted: [true; 3],
            held: [0; 3],
            attempts: 0,
            transaction: false,
            published: false,
            gone: false,
            absent: false,
            stopping: false,
            failures: 0,
            up_since: None,
            report: None,
            notes: ArrayVec::new(),
        }
    }

    /// Whether the connection stands.
    pub fn is_up(&self) -> bool {
        self.step == Step::Running
    }

    /// Whether the connection was closed for good.
    pub fn is_stopped(&self) -> bool {
        self.step == Step::Stopped
    }

    /// What the log should say.
    pub fn take_notes(&mut self) -> ArrayVec<&'static str, 8> {
        core::mem::take(&mut self.notes)
    }

    /// The next time at which [`Self::tick`] has something to do.
    pub fn deadline(&self) -> Option<Instant> {
        let poll = self.poll.filter(|_| !self.waiting);
        self.limit.into_iter().chain(poll).min()
    }

    fn note(&mut self, text: &'static str) {
        let _ = self.notes.try_push(text);
    }

    fn go(&mut self, step: Step, now: Instant) {
        self.step = step;
        self.waiting = false;
        self.stale = true;
        self.poll = None;
        self.limit = match step {
            Step::AwaitInit | Step::AwaitConnected => Some(now + CONNECT_TIME),
            Step::AwaitClosing => Some(now + CLOSE_TIME),
            Step::Running | Step::AwaitFree | Step::Stopped => None,
            _ => Some(now + ANSWER_TIME),
        };
    }

    fn rest(&mut self, pause: Duration, now: Instant) {
        if self.stopping {
            return self.go(Step::Stopped, now);
        }
        self.go(Step::Rest, now);
        self.limit = Some(now + pause);
    }

    fn retry(&mut self, now: Instant) {
        let pause = Duration::from_secs(1 << self.failures.min(5)).min(Duration::from_secs(30));
        self.failures = self.failures.saturating_add(1);
        self.rest(pause, now);
    }

    /// The device is not there, or on its way out.
    fn missing(&mut self, now: Instant) {
        if !core::mem::replace(&mut self.absent, true) {
            self.note("no network device; waiting for one");
        }
        self.failures = 0;
        self.rest(ABSENT_TIME, now);
    }

    /// Takes the connection down, or what there is of it, and then starts over.
    fn fail(&mut self, why: &'static str, now: Instant) {
        if self.step.is_ending() {
            return;
        }
        self.note(why);
        if self.up_since.take().is_some_and(|since| now.since(since) >= STABLE_TIME) {
            self.failures = 0;
        }
        self.go(Step::Stop, now);
    }

    /// The back end broke the protocol of the rings.
    pub fn violated(&mut self, what: &'static str, now: Instant) {
        if !self.step.is_ending() {
            self.report = Some(what);
            self.fail(what, now);
        }
    }

    /// Disconnects in good order, for good.
    pub fn close(&mut self, now: Instant) {
        self.stopping = true;
        match self.step {
            Step::Rest => self.go(Step::Stopped, now),
            _ => self.fail("closing, as asked", now),
        }
    }

    /// A watch fired.
    pub fn changed(&mut self, token: u16, now: Instant) {
        if token == OWN && self.step == Step::Rest && self.absent {
            self.go(Step::WatchOwn, now);
        }
        self.stale = true;
    }

    /// The command last given could not be sent; it is given again.
    pub fn unsent(&mut self) {
        self.waiting = false;
    }

    /// Lets time pass.
    pub fn tick(&mut self, now: Instant) {
        if !self.waiting && self.poll.is_some_and(|poll| now >= poll) {
            self.poll = None;
            self.stale = true;
        }
        if self.limit.is_none_or(|limit| now < limit) {
            return;
        }
        match self.step {
            Step::Rest => self.go(Step::WatchOwn, now),
            Step::AwaitInit => self.fail("the back end offers no connection", now),
            Step::AwaitConnected => self.fail("the back end does not connect", now),
            Step::Running => (self.waiting, self.limit, self.poll) = (false, None, Some(now + POLL)),
            Step::AwaitClosing => {
                self.note("the back end does not close");
                self.after_closing(now);
            }
            step if step.is_ending() => self.advance(now),
            _ => self.fail("no answer from a service", now),
        }
    }

    /// What is to be done now, if anything is.
    pub fn command(&mut self, now: Instant) -> Option<Command> {
        // Every turn goes to another step, and none comes again without an answer.
        while !self.waiting {
            let command = match self.step {
                Step::Rest | Step::Stopped => return None,
                Step::WatchOwn if self.own_watched => {
                    self.go(Step::BackendId, now);
                    continue;
                }
                Step::Unwatch if self.watched.is_none_or(|path| path == node(&self.backend, "state")) => {
                    self.go(Step::WatchBackend, now);
                    continue;
                }
                Step::WatchBackend if self.watched.is_some() => {
                    self.go(Step::Initialise, now);
                    continue;
                }
                Step::EndOld(3) => {
                    if self.held != [0; 3] {
                        self.note("a former back end still holds pages; waiting for them");
                    }
                    self.go(Step::AwaitFree, now);
                    continue;
                }
                Step::EndOld(index) | Step::EndAll(index) if index < 3 && !self.is_granted(index) => {
                    self.advance(now);
                    continue;
                }
                Step::Abort | Step::Report | Step::Closing | Step::Closed if !self.due() => {
                    self.advance(now);
                    continue;
                }
                Step::AwaitFree if self.held != [0; 3] => return None,
                Step::AwaitFree => {
                    self.go(Step::ResetRings, now);
                    continue;
                }
                Step::AwaitInit | Step::AwaitConnected | Step::Running | Step::AwaitClosing if !self.stale => {
                    return None;
                }
                _ => self.make(now),
            };
            return Some(command);
        }
        None
    }

    fn is_granted(&self, index: usize) -> bool {
        self.granted.get(index).is_some_and(|granted| *granted)
    }

    /// Whether a step of the taking down has something to do.
    fn due(&self) -> bool {
        match self.step {
            Step::Abort => self.transaction,
            Step::Report => self.report.is_some() && !self.gone,
            Step::Closing | Step::Closed => self.published && !self.gone,
            _ => false,
        }
    }

    fn make(&mut self, now: Instant) -> Command {
        let state = |text: State| Command::Store(Action::Write(node(DEVICE, "state"), value(text.digit())));
        let own = |name| Command::Store(Action::Read(node(DEVICE, name)));
        let theirs = |name| Command::Store(Action::Read(node(&self.backend, name)));
        let (peer, split) = (self.peer, self.split);
        let command = match self.step {
            Step::WatchOwn => Command::Store(Action::Watch(node(DEVICE, "backend"), OWN)),
            Step::BackendId => own("backend-id"),
            Step::Backend => own("backend"),
            Step::Mac => own("mac"),
            Step::Mtu => own("mtu"),
            Step::OwnState => own("state"),
            Step::Online => theirs("online"),
            Step::RxCopy => theirs("feature-rx-copy"),
            Step::Split => theirs("feature-split-event-channels"),
            Step::Unwatch => Command::Store(Action::Unwatch(self.watched.unwrap_or_default(), BACKEND)),
            Step::WatchBackend => Command::Store(Action::Watch(node(&self.backend, "state"), BACKEND)),
            Step::Initialise => state(State::Initialising),
            Step::AwaitInit | Step::AwaitConnected | Step::Running | Step::AwaitClosing => {
                let read = theirs("state");
                self.stale = false;
                if self.step == Step::Running {
                    self.limit = Some(now + ANSWER_TIME);
                }
                read
            }
            Step::EndOld(index) | Step::EndAll(index) => {
                Command::Grants(grants::Request::End { rule: self.rule(index).rule })
            }
            Step::Issue(index) => {
                let Granted { rule, pages } = self.rule(index);
                self.set_granted(index, true);
                Command::Grants(grants::Request::Issue { rule, first: 0, count: pages, peer })
            }
            Step::Ports => Command::Ports { peer, split },
            Step::Begin => {
                self.transaction = true;
                Command::Store(Action::Begin)
            }
            Step::Key(index) => {
                let (name, text) = self.keys().into_iter().nth(index).unwrap_or_default();
                Command::Store(Action::Write(node(DEVICE, name), value(&text)))
            }
            Step::Commit => Command::Store(Action::Commit),
            Step::Connect => {
                self.published = true;
                state(State::Connected)
            }
            Step::Abort => Command::Store(Action::Abort),
            Step::Report => {
                let path = Path::from("error/device/vif/0/error").unwrap_or_default();
                Command::Store(Action::Write(path, value(self.report.unwrap_or_default())))
            }
            Step::Closing => state(State::Closing),
            Step::Closed => state(State::Closed),
            Step::ResetRings | Step::Start | Step::Stop | Step::Rest | Step::AwaitFree | Step::Stopped => {
                return self.at_once(now);
            }
        };
        self.waiting = true;
        command
    }

    /// The commands that have no answer.
    fn at_once(&mut self, now: Instant) -> Command {
        match self.step {
            Step::ResetRings => {
                self.go(Step::Issue(RINGS), now);
                Command::ResetRings
            }
            Step::Start => {
                self.attempts = 0;
                self.go(Step::Begin, now);
                let [_, rx, tx] = self.references;
                Command::Start { rx, tx }
            }
            _ => {
                self.go(Step::Abort, now);
                Command::Stop
            }
        }
    }

    fn rule(&self, index: usize) -> Granted {
        self.rules.get(index).copied().unwrap_or(Granted { rule: u8::MAX, pages: 0 })
    }

    fn set_granted(&mut self, index: usize, granted: bool) {
        if let Some(place) = self.granted.get_mut(index) {
            *place = granted;
        }
    }

    fn keys(&self) -> ArrayVec<(&'static str, ArrayString<10>), KEYS> {
        let number = |number: u32| {
            let mut text = ArrayString::new();
            // Ten digits hold every `u32`.
            let _ = write!(text, "{number}");
            text
        };
        let [rings, ..] = self.references;
        let (tx, rx) = (number(self.ports.0.0), number(self.ports.1.0));
        let mut keys = ArrayVec::new();
        keys.push(("tx-ring-ref", number(rings.0)));
        keys.push(("rx-ring-ref", number(rings.0.wrapping_add(1))));
        if self.split {
            keys.push(("event-channel-tx", tx));
            keys.push(("event-channel-rx", rx));
        } else {
            keys.push(("event-channel", tx));
        }
        // Frames are copied, buffers announced, checksums whole, and a frame is in one slot.
        for (name, on) in
            [("request-rx-copy", 1), ("feature-rx-notify", 1), ("feature-no-csum-offload", 1), ("feature-sg", 0)]
        {
            keys.push((name, number(on)));
        }
        keys
    }

    /// Goes to the next step of the fixed order.
    fn advance(&mut self, now: Instant) {
        let next = match self.step {
            Step::WatchOwn => Step::BackendId,
            Step::BackendId => Step::Backend,
            Step::Backend => Step::Mac,
            Step::Mac => Step::Mtu,
            Step::Mtu => Step::Online,
            Step::Online => Step::OwnState,
            Step::OwnState => Step::Unwatch,
            Step::Unwatch => Step::WatchBackend,
            Step::WatchBackend => Step::Initialise,
            Step::Initialise => Step::AwaitInit,
            Step::AwaitInit => Step::RxCopy,
            Step::RxCopy => Step::Split,
            Step::Split => Step::EndOld(0),
            Step::EndOld(index) => Step::EndOld(index + 1),
            Step::Issue(index) if index < TX => Step::Issue(index + 1),
            Step::Issue(_) => Step::Ports,
            Step::Ports => Step::Start,
            Step::Key(index) if index + 1 < self.keys().len() => Step::Key(index + 1),
            Step::Begin => Step::Key(0),
            Step::Key(_) => Step::Commit,
            Step::Commit => Step::Connect,
            Step::Connect => Step::AwaitConnected,
            Step::Abort => Step::Report,
            Step::Report => Step::Closing,
            Step::Closing if self.published && !self.gone => Step::AwaitClosing,
            Step::Closing => Step::EndAll(0),
            Step::EndAll(index) if index < TX => Step::EndAll(index + 1),
            Step::EndAll(_) => Step::Closed,
            Step::Closed => return self.ended(now),
            step => step,
        };
        self.go(next, now);
    }

    fn ended(&mut self, now: Instant) {
        (self.published, self.transaction, self.report) = (false, false, None);
        match (self.stopping, self.gone) {
            (true, _) => self.go(Step::Stopped, now),
            (_, true) => self.rest(Duration::from_secs(1), now),
            _ => self.retry(now),
        }
    }

    fn after_closing(&mut self, now: Instant) {
        self.go(Step::EndAll(0), now);
    }

    /// XenStore's answer.
    pub fn answered(&mut self, result: Result<Value, Failure>, now: Instant) {
        if !self.waiting {
            return;
        }
        self.waiting = false;
        match self.step {
            Step::BackendId | Step::Backend | Step::Mac | Step::Mtu | Step::Online | Step::OwnState => {
                self.device(result, now);
            }
            Step::AwaitInit | Step::AwaitConnected | Step::Running | Step::AwaitClosing => self.seen(result, now),
            Step::WatchOwn => {
                // `Other` is a watch that a former self of this service has left.
                self.own_watched = matches!(result, Ok(_) | Err(Failure::Other));
                if self.own_watched { self.advance(now) } else { self.retry(now) }
            }
            Step::Unwatch => {
                self.watched = None;
                self.advance(now);
            }
            Step::WatchBackend => match result {
                Ok(_) | Err(Failure::Other) => {
                    self.watched = Some(node(&self.backend, "state"));
                    self.advance(now);
                }
                Err(_) => self.fail("the back end cannot be watched", now),
            },
            Step::RxCopy if result.as_deref().ok().and_then(keys::flag) != Some(true) => {
                self.fail("the back end does not copy received frames", now);
            }
            Step::Split => {
                self.split = result.as_deref().ok().and_then(keys::flag) == Some(true);
                self.advance(now);
            }
            Step::Commit if result == Err(Failure::Again) && self.attempts < ATTEMPTS => {
                self.transaction = false;
                self.attempts += 1;
                self.go(Step::Begin, now);
            }
            Step::Commit if result.is_ok() => {
                self.transaction = false;
                self.advance(now);
            }
            // Whatever comes of it, the taking down goes on.
            step if step.is_ending() => self.advance(now),
            _ if result.is_ok() => self.advance(now),
            _ => self.fail("XenStore refused a step of the connection", now),
        }
    }

    /// A node of the device was read.
    fn device(&mut self, result: Result<Value, Failure>, now: Instant) {
        let missing = result == Err(Failure::NotFound);
        let optional = matches!(self.step, Step::Mtu | Step::Online | Step::OwnState);
        let bytes = match &result {
            Ok(bytes) => bytes.as_slice(),
            Err(Failure::NotFound) if optional => &[],
            Err(Failure::NotFound) => return self.missing(now),
            Err(_) => return self.retry(now),
        };
        let valid = match self.step {
            Step::BackendId => keys::domain(bytes).map(|peer| self.peer = peer).is_some(),
            Step::Backend => keys::backend(bytes, self.peer).map(|path| self.backend = path).is_some(),
            Step::Mac => keys::mac(bytes).map(|mac| self.mac = mac).is_some(),
            Step::Mtu => {
                self.mtu = keys::mtu(bytes).unwrap_or(MTU).min(MTU);
                missing || keys::mtu(bytes).is_some()
            }
            Step::Online if keys::flag(bytes) == Some(false) => return self.missing(now),
            Step::Online => true,
            _ => return self.own_state(keys::state(bytes), now),
        };
        if valid {
            return self.advance(now);
        }
        self.note("a node of the network device is not in form");
        self.retry(now);
    }

    /// Own state before the handshake: what a former self of this service left is closed first.
    fn own_state(&mut self, state: Option<State>, now: Instant) {
        self.absent = false;
        self.gone = false;
        match state {
            Some(State::Initialising | State::Unknown | State::Closed) | None => self.advance(now),
            Some(_) => {
                self.published = true;
                self.fail("closing a connection left open", now);
            }
        }
    }

    /// The back end's state was read.
    fn seen(&mut self, result: Result<Value, Failure>, now: Instant) {
        let seen = match result {
            Ok(bytes) => keys::state(&bytes).map_or(Seen::Nothing, Seen::State),
            Err(Failure::NotFound | Failure::Access) => Seen::Gone,
            Err(_) => Seen::Nothing,
        };
        let known = !matches!(seen, Seen::Nothing);
        if self.step == Step::Running {
            self.limit = None;
        }
        if self.step != Step::Running || !known {
            self.poll = Some(now + POLL);
        }
        if matches!(seen, Seen::Gone) {
            self.gone = true;
        }
        match (self.step, seen) {
            (Step::AwaitClosing, Seen::Gone | Seen::State(State::Closing | State::Closed)) => self.after_closing(now),
            (Step::AwaitClosing, _) => {}
            (_, Seen::Gone) => self.fail("the back end is gone", now),
            (Step::AwaitInit, Seen::State(State::InitWait)) => self.advance(now),
            (Step::AwaitConnected, Seen::State(State::Connected)) => {
                self.go(Step::Running, now);
                self.stale = false;
                self.up_since = Some(now);
            }
            (Step::AwaitConnected | Step::Running, Seen::State(State::Closing | State::Closed)) => {
                self.fail("the back end closes", now);
            }
            (
                Step::Running,
                Seen::State(State::Unknown | State::Initialising | State::InitWait | State::Initialised),
            ) => {
                self.fail("the back end has started over", now);
            }
            _ => {}
        }
    }

    /// The interface's address and the largest IP packet.
    pub fn identity(&self) -> ([u8; 6], u16) {
        (self.mac, self.mtu)
    }

    /// Whether the ring of received frames has a port of its own.
    pub fn is_split(&self) -> bool {
        self.split
    }

    /// The grant manager's answer.
    pub fn granted(&mut self, reply: grants::Reply, now: Instant) {
        let (grants::Reply::Issued { rule, .. } | grants::Reply::Refused { rule } | grants::Reply::Ended { rule, .. }) =
            reply;
        let Some(index) = self.rules.iter().position(|granted| granted.rule == rule) else { return };
        match (reply, self.step) {
            (grants::Reply::Issued { reference, count, .. }, Step::Issue(at)) if at == index && self.waiting => {
                if count != self.rule(index).pages {
                    return self.fail("the grant manager granted another number of pages", now);
                }
                if let Some(place) = self.references.get_mut(index) {
                    *place = reference;
                }
                self.advance(now);
            }
            (grants::Reply::Refused { .. }, Step::Issue(at)) if at == index && self.waiting => {
                self.set_granted(index, false);
                self.fail("the grant manager refused", now);
            }
            (grants::Reply::Ended { held, .. }, step) => {
                if let Some(place) = self.held.get_mut(index) {
                    *place = held;
                }
                if matches!(step, Step::EndOld(at) | Step::EndAll(at) if at == index && self.waiting) {
                    self.set_granted(index, false);
                    self.advance(now);
                }
            }
            // An answer to a request that was given up.
            _ => {}
        }
    }

    /// The ports were opened, for frames to send and, if it is split, for received ones; or they were not.
    pub fn ports(&mut self, ports: Option<(EvtchnPort, EvtchnPort)>, now: Instant) {
        if self.step != Step::Ports || !self.waiting {
            return;
        }
        match ports {
            Some(ports) => {
                self.ports = ports;
                self.advance(now);
            }
            None => self.fail("the event channels could not be opened", now),
        }
    }
}

impl Step {
    /// Whether the connection is being taken down.
    fn is_ending(self) -> bool {
        matches!(
            self,
            Step::Stop
                | Step::Abort
                | Step::Report
                | Step::Closing
                | Step::AwaitClosing
                | Step::EndAll(_)
                | Step::Closed
                | Step::Stopped
        )
    }
}
