//! Makes and ends a connection: device nodes, the back end's `XenbusState`, grants, ports, keys.
//!
//! A pure state machine. [`Handshake::command`] returns the next command. Its result goes to
//! [`Handshake::store_answered`], [`Handshake::grants_answered`] or [`Handshake::ports_opened`].
//! One command is under way at a time.

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
/// The token of the watch on the device's `backend` node: the device appears, changes or goes.
pub const DEVICE_TOKEN: u16 = 1;
/// The token of the watch on the back end's `state` node.
pub const BACKEND_TOKEN: u16 = 2;
/// The index of the grant rule of the ring pages.
pub const RINGS: usize = 0;
/// The index of the grant rule of the rx-pool, which the back end fills.
pub const RX: usize = 1;
/// The index of the grant rule of the tx-pool, which the back end sends from.
pub const TX: usize = 2;

/// The length of the largest IP packet that is sent, in bytes. It fits one page. Longer frames are
/// only unsplit TCP segments.
const MTU: u16 = 1500;
/// The time that another service has to answer a request.
const ANSWER_TIME: Duration = Duration::from_secs(15);
/// The time between two reads of an awaited state, besides the reads for its watch.
const POLL: Duration = Duration::from_secs(5);
/// The time that the back end has to offer a connection, and then to connect. Hotplug scripts take
/// seconds.
const CONNECT_TIME: Duration = Duration::from_secs(60);
/// The time that the back end has to close.
const CLOSE_TIME: Duration = Duration::from_secs(5);
/// The time between two requests to end the grants of pages that a back end still maps. The grant
/// manager also reports when they are free, but it may have been restarted since.
const STILL_MAPPED_POLL: Duration = Duration::from_secs(300);
/// The pause before a missing device is looked for again, unless the watch fires before.
const ABSENT_TIME: Duration = Duration::from_secs(30);
/// The time after which a connection resets the count of failures.
const STABLE_TIME: Duration = Duration::from_secs(60);
/// The number of times that the keys are published again after a conflict of transactions.
const MAX_CONFLICTS: u8 = 16;
/// The largest number of keys that the front end publishes.
const MAX_KEYS: usize = 9;
/// The number of notes that are remembered, so that each is logged once: more than one attempt at a
/// connection makes.
const MAX_LOGGED_NOTES: usize = 12;

/// A command of the handshake to the service.
#[derive(Clone, PartialEq, Eq, Debug)]
#[expect(clippy::large_enum_variant, reason = "there is no heap, and only one exists at a time")]
pub enum Command {
    /// Send to the XenStore service. The answer goes to [`Handshake::store_answered`].
    Store(Action),
    /// Send to the grant manager. The answer goes to [`Handshake::grants_answered`].
    Grants(grants::Request),
    /// Open one port or two. The result goes to [`Handshake::ports_opened`].
    OpenPorts {
        /// The domain of the back end.
        peer: DomId,
        /// The receive ring has a port of its own.
        split: bool,
    },
    /// Empty the rings. Nobody else maps them.
    ResetRings,
    /// Post the pages of the rx-pool.
    Start {
        /// The grant reference of page 0 of the rx-pool.
        rx: GrantRef,
        /// The grant reference of page 0 of the tx-pool.
        tx: GrantRef,
        /// The offloads of the back end for frames to send.
        offloads: Offloads,
    },
    /// Stop using the rings, and close the ports. The connection ends.
    Stop,
}

/// A line for the log.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Note {
    /// A node's name, and a text about it. The name is empty if the text is about no node.
    About(&'static str, &'static str),
    /// The device's back end is in this domain, which the policy does not allow.
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
    // From here on the connection is being ended.
    Stop,
    Abort,
    Report,
    Closing,
    AwaitClosing,
    EndAll(usize),
    Closed,
    Stopped,
}

/// The result of reading the back end's state.
enum StateRead {
    State(XenbusState),
    /// There is no such node, or access is denied.
    Gone,
    /// The node could not be read, or its value is not a state.
    Nothing,
}

/// The state machine.
pub struct Handshake {
    rules: [GrantAllowance; 3],
    step: Step,
    /// A command is under way and has no answer yet.
    waiting: bool,
    /// The back end's state must be read again.
    stale: bool,
    /// The device's `backend` node has changed since it was read.
    device_changed: bool,
    /// The command under way reads the device's `backend` node, to verify it.
    verifying: bool,
    /// The time at which the step has taken too long, or a pause ends.
    step_deadline: Option<Instant>,
    /// The time at which a state is read again even if its watch has not fired.
    next_poll: Option<Instant>,
    /// The watch on the device's `backend` node is set.
    device_watched: bool,
    /// The path of the watch on a back end's state.
    backend_watch: Option<Path>,
    peer: DomId,
    backend: Path,
    mac: [u8; 6],
    mtu: u16,
    split: bool,
    /// The back end takes frames of several slots.
    scatter_gather: bool,
    /// The back end splits TCP segments.
    segmentation: bool,
    /// Received frames may take several slots, be unsplit, and lack their checksums.
    receive_offloads: bool,
    ports: (EvtchnPort, EvtchnPort),
    references: [GrantRef; 3],
    /// The rules under which pages may be granted. An earlier run of the service may have left
    /// grants, so at first all rules.
    granted: [bool; 3],
    /// The number of pages of each rule that a back end still maps.
    still_mapped: [u16; 3],
    /// Pages were still mapped when they were to be granted again. The device may have changed by
    /// the time they are free.
    waited_for_pages: bool,
    conflicts: u8,
    in_transaction: bool,
    /// The back end may have seen a state of this front end beyond `Initialising`.
    published: bool,
    /// The back end's directory is gone, or no longer belongs to the device.
    backend_gone: bool,
    /// The device changed while a connection was being ended.
    changed_while_ending: bool,
    /// The service closes for good.
    stopping: bool,
    /// The number of failures in a row, which sets the pause.
    failures: u32,
    up_since: Option<Instant>,
    /// The violation to write to the device's error node.
    report: Option<&'static str>,
    notes: ArrayVec<Note, 8>,
    /// The notes that were logged since the last connection, or since the device last changed.
    logged: ArrayVec<Note, MAX_LOGGED_NOTES>,
}

/// Returns the path of the node `name` in a directory.
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
    /// Creates the state machine, which has not looked at the device yet. `rules` are those of the
    /// ring pages, the rx-pool and the tx-pool. If `receive_offloads`, the back end may leave
    /// received frames unsplit and without checksums.
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

    /// Returns `true` if there is a connection.
    pub fn is_up(&self) -> bool {
        self.step == Step::Running
    }

    /// Returns `true` if the connection was closed for good.
    pub fn is_stopped(&self) -> bool {
        self.step == Step::Stopped
    }

    /// Takes the lines for the log.
    pub fn take_notes(&mut self) -> ArrayVec<Note, 8> {
        core::mem::take(&mut self.notes)
    }

    /// Returns the next time at which [`Self::tick`] has work.
    pub fn deadline(&self) -> Option<Instant> {
        let poll = self.next_poll.filter(|_| !self.waiting);
        Instant::earlier(self.step_deadline, poll)
    }

    fn note(&mut self, text: &'static str) {
        self.note_about("", text);
    }

    fn note_about(&mut self, node: &'static str, text: &'static str) {
        self.log(Note::About(node, text));
    }

    /// Logs a note, unless it is remembered as logged. So a repeated failure is one line.
    fn log(&mut self, note: Note) {
        if self.logged.contains(&note) {
            return;
        }
        if self.logged.is_full() {
            self.logged.remove(0);
        }
        let _ = (self.logged.try_push(note), self.notes.try_push(note));
    }

    /// Enters a step, and sets its deadline.
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

    /// Starts over after a pause: at once if the device changed meanwhile. Stops instead if closing
    /// for good.
    fn pause(&mut self, pause: Duration, now: Instant) {
        if self.stopping {
            return self.enter(Step::Stopped, now);
        }
        self.enter(Step::Pause, now);
        let pause = if core::mem::take(&mut self.changed_while_ending) { Duration::ZERO } else { pause };
        self.step_deadline = Some(now + pause);
    }

    /// Starts over after a failure. The pause doubles with each failure, from 1 s to 30 s.
    fn retry(&mut self, now: Instant) {
        let pause = Duration::from_secs(1 << self.failures.min(5)).min(Duration::from_secs(30));
        self.failures = self.failures.saturating_add(1);
        self.pause(pause, now);
    }

    /// Waits for a device: there is none, or it is being removed.
    fn no_device(&mut self, now: Instant) {
        self.note("no network device; waiting for one");
        self.failures = 0;
        self.pause(ABSENT_TIME, now);
    }

    /// Ends the connection, as far as it was made, and then starts over.
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

    /// Ends the connection, because the back end broke the protocol of the rings.
    pub fn violated(&mut self, what: &'static str, now: Instant) {
        if !self.step.is_teardown() {
            self.report = Some(what);
            self.fail(what, now);
        }
    }

    /// Ends the connection, because the back end no longer takes part although it is connected.
    pub fn stalled(&mut self, now: Instant) {
        self.fail("the back end sends no frame and says nothing", now);
    }

    /// Ends the connection in good order and for good.
    pub fn close(&mut self, now: Instant) {
        self.stopping = true;
        match self.step {
            Step::Pause => self.enter(Step::Stopped, now),
            _ => self.fail("closing, as asked", now),
        }
    }

    /// Handles the event of the watch with this token.
    pub fn watch_fired(&mut self, token: u16, now: Instant) {
        // Only the toolstack writes this node, so no back end can end the pauses.
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

    /// Makes the last command due again, because it could not be sent.
    pub fn command_unsent(&mut self) {
        self.device_changed |= self.verifying;
        (self.waiting, self.verifying, self.stale) = (false, false, true);
    }

    /// Handles the deadlines that have passed.
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

    /// Enters the next step of the fixed order.
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

    /// Returns the interface's MAC address, and the length of the largest IP packet in bytes.
    pub fn identity(&self) -> ([u8; 6], u16) {
        (self.mac, self.mtu)
    }

    /// Returns `true` if the receive ring has a port of its own.
    pub fn is_split(&self) -> bool {
        self.split
    }

    /// Returns the offloads of the back end for frames to send. Every back end completes the
    /// checksums of IPv4 frames: there is no key for it.
    pub fn offloads(&self) -> Offloads {
        let long = self.scatter_gather && self.segmentation;
        if long { Offloads::CHECKSUM | Offloads::SEGMENTS } else { Offloads::CHECKSUM }
    }
}

impl Step {
    /// Returns `true` if the connection is being ended in this step.
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
