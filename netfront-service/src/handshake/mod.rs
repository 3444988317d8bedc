//! The way to a connection and back: device nodes, the back end's `XenbusState`, grants, ports, keys.
//!
//! A pure state machine. [`Handshake::command`] says what is to be done next; what came of it goes into
//! [`Handshake::answered`], [`Handshake::granted`] or [`Handshake::ports`]. One thing is under way at a time.

mod answer;
mod command;

use core::fmt;
use core::time::Duration;

use arrayvec::ArrayVec;
use cloister_caps::{DomId, EvtchnPort, GrantRef};
use cloister_interfaces::net::Offloads;
use cloister_interfaces::rules::GrantAllowance;
use cloister_interfaces::store::{Action, Path, Value};
use cloister_interfaces::{Instant, grants};

use crate::keys::XenbusState;

/// The device's directory, relative to the domain's.
const DEVICE: &str = "device/vif/0";
/// Token of the watch on the device's `backend` node: the device appears or goes.
pub const DEVICE_TOKEN: u16 = 1;
/// Token of the watch on the back end's `state`.
pub const BACKEND_TOKEN: u16 = 2;
/// Indices of the three grants.
pub const RINGS: usize = 0;
/// The pages that the back end fills.
pub const RX: usize = 1;
/// The pages that the back end sends.
pub const TX: usize = 2;

/// The largest IP packet that is sent; it fits one page. Larger ones only come from the network as uncut TCP segments.
const MTU: u16 = 1500;
/// How long another service may take over a request.
const ANSWER_TIME: Duration = Duration::from_secs(15);
/// How often a state that is waited for is read, beside the watch.
const POLL: Duration = Duration::from_secs(5);
/// How long the back end may take to offer a connection, and to make it; hotplug scripts take seconds.
const CONNECT_TIME: Duration = Duration::from_secs(60);
/// How long the back end may take to let go.
const CLOSE_TIME: Duration = Duration::from_secs(5);
/// How often the grant manager is asked for pages that a back end holds, though it tells when they are free: it may have
/// been restarted since.
const STILL_MAPPED_POLL: Duration = Duration::from_secs(300);
/// How long a device that is not there is not looked for, unless the watch tells of it.
const ABSENT_TIME: Duration = Duration::from_secs(30);
/// A connection that lasted this long makes earlier failures forgotten.
const STABLE_TIME: Duration = Duration::from_secs(60);
/// How often the keys are published anew after a conflict.
const MAX_CONFLICTS: u8 = 16;
/// Keys that the front end publishes at most.
const MAX_KEYS: usize = 9;
/// Notes that are remembered, so that each is told once: more than one attempt at a connection makes.
const MAX_LOGGED_NOTES: usize = 12;

/// What is to be done.
#[derive(Clone, PartialEq, Eq, Debug)]
#[expect(clippy::large_enum_variant, reason = "there is no heap, and only one exists at a time")]
pub enum Command {
    /// Ask the XenStore service; goes to [`Handshake::answered`].
    Store(Action),
    /// Ask the grant manager; goes to [`Handshake::granted`].
    Grants(grants::Request),
    /// Open both ports, or one; goes to [`Handshake::ports`].
    OpenPorts {
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
        /// What the back end does for frames that are sent.
        offloads: Offloads,
    },
    /// The connection ends: look at the rings no more, close the ports.
    Stop,
}

/// What the log should say.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Note {
    /// Something of a node, or of none if its name is empty.
    About(&'static str, &'static str),
    /// The device has a back end in a domain that the policy does not allow.
    NotAllowed(DomId),
}

impl fmt::Display for Note {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Note::About("", text) => f.write_str(text),
            Note::About(node, text) => write!(f, "{node}: {text}"),
            Note::NotAllowed(domain) => write!(
                f,
                "backend-id: domain {} is not a back end that the policy allows; use one that its [domains] names, or \
                 build the image with this number there",
                domain.0
            ),
        }
    }
}

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Step {
    Pause,
    WatchDevice,
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
    ScatterGather,
    Segmentation,
    EndOld(usize),
    AwaitFree,
    ResetRings,
    Issue(usize),
    Ports,
    Start,
    BeginTransaction,
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
enum StateRead {
    State(XenbusState),
    Gone,
    Nothing,
}

/// The state machine.
pub struct Handshake {
    rules: [GrantAllowance; 3],
    step: Step,
    /// A command is out and has not been answered.
    waiting: bool,
    /// The back end's state is to be read.
    stale: bool,
    /// The device's `backend` node has changed since it was read.
    device_changed: bool,
    /// The command that is out reads it.
    verifying: bool,
    /// When the step has taken too long.
    step_deadline: Option<Instant>,
    /// When a state is read again without having been told to.
    next_poll: Option<Instant>,
    device_watched: bool,
    backend_watch: Option<Path>,
    peer: DomId,
    backend: Path,
    mac: [u8; 6],
    mtu: u16,
    split: bool,
    /// The back end takes frames of several slots.
    scatter_gather: bool,
    /// It cuts TCP segments.
    segmentation: bool,
    /// Frames to be received may be of several slots, uncut, and without their checksums.
    receive_offloads: bool,
    ports: (EvtchnPort, EvtchnPort),
    references: [GrantRef; 3],
    /// Rules under which pages may be granted; all, for all that a new service knows.
    granted: [bool; 3],
    /// Pages that a back end does not let go.
    still_mapped: [u16; 3],
    /// Something was held when it was to be granted anew: by the time it is free, the device may be another.
    waited_for_pages: bool,
    conflicts: u8,
    in_transaction: bool,
    /// The back end may have seen a state of ours beyond `Initialising`.
    published: bool,
    /// The back end's directory is gone, or it is the device's no more.
    backend_gone: bool,
    /// The device was changed while a connection was taken down.
    changed_while_ending: bool,
    stopping: bool,
    failures: u32,
    up_since: Option<Instant>,
    report: Option<&'static str>,
    notes: ArrayVec<Note, 8>,
    /// What was told since the last connection, or since the device last changed.
    logged: ArrayVec<Note, MAX_LOGGED_NOTES>,
}

fn node(directory: &str, name: &str) -> Path {
    let mut path = Path::new();
    // `keys::backend_path` bounds the directory, so that every name fits.
    let _ = path.try_push_str(directory);
    let _ = path.try_push_str("/");
    let _ = path.try_push_str(name);
    path
}

fn value(text: &str) -> Value {
    text.bytes().take(cloister_interfaces::store::MAX_VALUE).collect()
}

impl Handshake {
    /// Before the first look at the device. `rules` are those of the ring pages, the rx-pool and the tx-pool;
    /// `receive_offloads` is whether the back end may leave received frames uncut and without checksums.
    pub fn new(rules: [GrantAllowance; 3], receive_offloads: bool) -> Self {
        Handshake {
            rules,
            step: Step::WatchDevice,
            waiting: false,
            stale: false,
            device_changed: false,
            verifying: false,
            step_deadline: None,
            next_poll: None,
            device_watched: false,
            backend_watch: None,
            peer: DomId(0),
            backend: Path::new(),
            mac: [0; 6],
            mtu: MTU,
            split: false,
            scatter_gather: false,
            segmentation: false,
            receive_offloads,
            ports: Default::default(),
            references: [GrantRef(0); 3],
            granted: [true; 3],
            still_mapped: [0; 3],
            waited_for_pages: false,
            conflicts: 0,
            in_transaction: false,
            published: false,
            backend_gone: false,
            changed_while_ending: false,
            stopping: false,
            failures: 0,
            up_since: None,
            report: None,
            notes: ArrayVec::new(),
            logged: ArrayVec::new(),
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
    pub fn take_notes(&mut self) -> ArrayVec<Note, 8> {
        core::mem::take(&mut self.notes)
    }

    /// The next time at which [`Self::tick`] has something to do.
    pub fn deadline(&self) -> Option<Instant> {
        let poll = self.next_poll.filter(|_| !self.waiting);
        self.step_deadline.into_iter().chain(poll).min()
    }

    fn note(&mut self, text: &'static str) {
        self.note_about("", text);
    }

    fn note_about(&mut self, node: &'static str, text: &'static str) {
        self.log(Note::About(node, text));
    }

    /// Tells something, if it was not told since the last connection: what goes on for ever is one line.
    fn log(&mut self, note: Note) {
        if self.logged.contains(&note) {
            return;
        }
        if self.logged.is_full() {
            self.logged.remove(0);
        }
        let _ = (self.logged.try_push(note), self.notes.try_push(note));
    }

    fn enter(&mut self, step: Step, now: Instant) {
        self.step = step;
        (self.waiting, self.verifying) = (false, false);
        self.stale = true;
        self.next_poll = None;
        self.step_deadline = match step {
            Step::AwaitInit | Step::AwaitConnected => Some(now + CONNECT_TIME),
            Step::AwaitClosing => Some(now + CLOSE_TIME),
            Step::AwaitFree => Some(now + STILL_MAPPED_POLL),
            Step::Running | Step::Stopped => None,
            _ => Some(now + ANSWER_TIME),
        };
    }

    fn pause(&mut self, pause: Duration, now: Instant) {
        if self.stopping {
            return self.enter(Step::Stopped, now);
        }
        self.enter(Step::Pause, now);
        let pause = if core::mem::take(&mut self.changed_while_ending) { Duration::ZERO } else { pause };
        self.step_deadline = Some(now + pause);
    }

    fn retry(&mut self, now: Instant) {
        let pause = Duration::from_secs(1 << self.failures.min(5)).min(Duration::from_secs(30));
        self.failures = self.failures.saturating_add(1);
        self.pause(pause, now);
    }

    /// The device is not there, or on its way out.
    fn no_device(&mut self, now: Instant) {
        self.note("no network device; waiting for one");
        self.failures = 0;
        self.pause(ABSENT_TIME, now);
    }

    /// Takes the connection down, or what there is of it, and then starts over.
    fn fail(&mut self, why: &'static str, now: Instant) {
        if self.step.is_teardown() {
            return;
        }
        self.note(why);
        if self.up_since.take().is_some_and(|since| now.since(since) >= STABLE_TIME) {
            self.failures = 0;
        }
        self.enter(Step::Stop, now);
    }

    /// The back end broke the protocol of the rings.
    pub fn violated(&mut self, what: &'static str, now: Instant) {
        if !self.step.is_teardown() {
            self.report = Some(what);
            self.fail(what, now);
        }
    }

    /// The back end takes no part any more, though it is connected.
    pub fn stalled(&mut self, now: Instant) {
        self.fail("the back end sends no frame and says nothing", now);
    }

    /// Disconnects in good order, for good.
    pub fn close(&mut self, now: Instant) {
        self.stopping = true;
        match self.step {
            Step::Pause => self.enter(Step::Stopped, now),
            _ => self.fail("closing, as asked", now),
        }
    }

    /// A watch fired.
    pub fn watch_fired(&mut self, token: u16, now: Instant) {
        // The node is the toolstack's to write: no back end can have this one ask without pause.
        if token == DEVICE_TOKEN && self.step == Step::Pause {
            self.enter(Step::WatchDevice, now);
        } else if token == DEVICE_TOKEN && self.step.is_teardown() {
            self.changed_while_ending = true;
        }
        if token == DEVICE_TOKEN {
            self.device_changed = true;
            self.logged.clear();
        }
        self.stale = true;
    }

    /// The command last given could not be sent; it is given again.
    pub fn command_unsent(&mut self) {
        self.device_changed |= self.verifying;
        (self.waiting, self.verifying, self.stale) = (false, false, true);
    }

    /// Lets time pass.
    pub fn tick(&mut self, now: Instant) {
        if !self.waiting && self.next_poll.is_some_and(|poll| now >= poll) {
            self.next_poll = None;
            self.stale = true;
        }
        if self.step_deadline.is_none_or(|deadline| now < deadline) {
            return;
        }
        match self.step {
            Step::Pause => self.enter(Step::WatchDevice, now),
            Step::AwaitInit => self.fail("the back end offers no connection", now),
            Step::AwaitConnected => self.fail("the back end does not connect", now),
            Step::Running => {
                self.command_unsent();
                (self.stale, self.step_deadline, self.next_poll) = (false, None, Some(now + POLL));
            }
            Step::AwaitFree => {
                self.granted = self.still_mapped.map(|pages| pages > 0);
                self.enter(Step::EndOld(0), now);
            }
            Step::AwaitClosing => {
                self.note("the back end does not close");
                self.after_closing(now);
            }
            step if step.is_teardown() => self.advance(now),
            _ => self.fail("no answer from a service", now),
        }
    }

    /// Goes to the next step of the fixed order.
    fn advance(&mut self, now: Instant) {
        let next = match self.step {
            Step::WatchDevice => Step::BackendId,
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
            Step::Split => Step::ScatterGather,
            Step::ScatterGather => Step::Segmentation,
            Step::Segmentation => Step::EndOld(0),
            Step::EndOld(index) => Step::EndOld(index + 1),
            Step::Issue(index) if index < TX => Step::Issue(index + 1),
            Step::Issue(_) => Step::Ports,
            Step::Ports => Step::Start,
            Step::Key(index) if index + 1 < self.keys().len() => Step::Key(index + 1),
            Step::BeginTransaction => Step::Key(0),
            Step::Key(_) => Step::Commit,
            Step::Commit => Step::Connect,
            Step::Connect => Step::AwaitConnected,
            Step::Abort => Step::Report,
            Step::Report => Step::Closing,
            Step::Closing if self.published && !self.backend_gone => Step::AwaitClosing,
            Step::Closing => Step::EndAll(0),
            Step::EndAll(index) if index < TX => Step::EndAll(index + 1),
            Step::EndAll(_) => Step::Closed,
            Step::Closed => return self.finish_ending(now),
            step => step,
        };
        self.enter(next, now);
    }

    fn finish_ending(&mut self, now: Instant) {
        (self.published, self.in_transaction, self.report) = (false, false, None);
        self.retry(now);
    }

    fn after_closing(&mut self, now: Instant) {
        self.enter(Step::EndAll(0), now);
    }

    /// The interface's address and the largest IP packet.
    pub fn identity(&self) -> ([u8; 6], u16) {
        (self.mac, self.mtu)
    }

    /// Whether the ring of received frames has a port of its own.
    pub fn is_split(&self) -> bool {
        self.split
    }

    /// What the back end does for frames that are sent. Checksums of IPv4 frames every one completes: there is no key for it.
    pub fn offloads(&self) -> Offloads {
        let long = self.scatter_gather && self.segmentation;
        if long { Offloads::CHECKSUM | Offloads::SEGMENTS } else { Offloads::CHECKSUM }
    }
}

impl Step {
    /// Whether the connection is being taken down.
    fn is_teardown(self) -> bool {
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

#[cfg(test)]
mod tests;
