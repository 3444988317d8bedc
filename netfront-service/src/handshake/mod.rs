//! Makes and ends a connection: device nodes, the back end's `XenbusState`, grants, ports, keys.
//!
//! A pure state machine. [`Handshake::command`] returns the next command. Its result goes to
//! [`Handshake::store_answered`], [`Handshake::grants_answered`] or [`Handshake::ports_opened`].
//! One command is under way at a time.
//!
//! A `Phase` carries the data that exists in it: a back end only after its node was read, grant
//! references only after the pages were granted. So no step can use a value that is not there yet,
//! or one of an earlier connection.

mod answer;
mod command;
mod phase;

use core::fmt;
use core::time::Duration;

use arrayvec::ArrayVec;
use cloister_caps::{DomId, GrantRef};
use cloister_interfaces::net::Offloads;
use cloister_interfaces::rules::GrantPermission;
use cloister_interfaces::store::{Action, Value};
use cloister_interfaces::{Instant, grants};

use crate::keys::Backend;
use crate::ring::Violation;
pub use phase::BackEndConnection;
use phase::{
    Area, Closing, ClosingStep, Connecting, ConnectionStep, Grants, Negotiating, NegotiationStep, Next, PerArea, Phase,
    Publication, PublicationStep, Watches,
};

/// The token of the watch on the device's `backend` node: the device appears, changes or goes.
pub const DEVICE_TOKEN: u16 = 1;
/// The token of the watch on the back end's `state` node.
pub const BACKEND_TOKEN: u16 = 2;

/// The length of the largest IP packet that is sent, in bytes. It fits one page. Longer frames are
/// only unsplit TCP segments.
const MTU: u16 = 1500;
/// The time between two reads of an awaited state, besides the reads for its watch.
const POLL: Duration = Duration::from_secs(5);
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
    /// A text, and the name of the node that it is about, or the words before it, if any.
    About(Option<&'static str>, &'static str),
    /// The device's back end is in this domain, which the policy does not allow.
    NotAllowed(DomId),
}

impl fmt::Display for Note {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Note::About(None, text) => f.write_str(text),
            Note::About(Some(node), text) => write!(f, "{node}: {text}"),
            Note::NotAllowed(domain) => write!(
                f,
                "backend-id: domain {} is not a back end that the policy allows; use one that its [domains] names, or \
                 build the image with this number there",
                domain.0
            ),
        }
    }
}

/// The progress of the step's command.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum CommandState {
    /// None is needed until a watch fires, or until the time of the next poll.
    Idle,
    /// It is the next command.
    Due,
    /// It has no answer yet. If `outdated`, a watch has fired since: a state must be read again.
    Waiting { outdated: bool },
    /// Like `Waiting`, but the device's `backend` node is being read, to verify it. The step's own
    /// command follows.
    Verifying,
}

impl CommandState {
    /// Returns `true` if a command has no answer yet.
    fn is_under_way(self) -> bool {
        matches!(self, CommandState::Waiting { .. } | CommandState::Verifying)
    }
}

/// The state machine.
#[derive(Clone, Debug)]
pub struct Handshake {
    rules: PerArea<GrantPermission>,
    /// Received frames may take several slots, be unsplit, and lack their checksums.
    receive_offloads: bool,
    phase: Phase,
    command_state: CommandState,
    /// The time at which the step has taken too long, or a pause ends.
    step_deadline: Option<Instant>,
    /// The time at which a state is read again even if its watch has not fired.
    next_poll: Option<Instant>,
    watches: Watches,
    /// The device's `backend` node has changed since it was read.
    device_changed: bool,
    grants: PerArea<Grants>,
    /// The number of failures in a row, which sets the pause.
    failures: u32,
    /// The back end that was used last. Failures of another one do not count against it.
    last_backend: Option<Backend>,
    notes: ArrayVec<Note, 8>,
    /// The notes that were logged since the last connection, or since the device last changed.
    logged: ArrayVec<Note, MAX_LOGGED_NOTES>,
}

fn value(text: &str) -> Value {
    text.bytes().take(cloister_interfaces::store::MAX_VALUE).collect()
}

impl Handshake {
    /// Creates the state machine, which has not looked at the device yet. `rules` are those of the
    /// ring pages, the rx-pool and the tx-pool. If `receive_offloads`, the back end may leave
    /// received frames unsplit and without checksums.
    pub fn new(rules: [GrantPermission; 3], receive_offloads: bool) -> Self {
        Handshake {
            rules: PerArea(rules),
            receive_offloads,
            phase: Phase::WatchingDevice,
            command_state: CommandState::Due,
            step_deadline: None,
            next_poll: None,
            watches: Watches::None,
            device_changed: false,
            // An earlier run of the service may have left grants.
            grants: PerArea([Grants::Possible; 3]),
            failures: 0,
            last_backend: None,
            notes: ArrayVec::new(),
            logged: ArrayVec::new(),
        }
    }

    /// Returns the connection, if there is one.
    pub fn connection(&self) -> Option<&BackEndConnection> {
        match &self.phase {
            Phase::Up(connection) => Some(connection),
            _ => None,
        }
    }

    /// Returns `true` if there is a connection.
    pub fn is_up(&self) -> bool {
        self.connection().is_some()
    }

    /// Returns `true` if the connection was closed for good.
    pub fn is_stopped(&self) -> bool {
        matches!(self.phase, Phase::Stopped)
    }

    /// Takes the lines for the log.
    pub fn take_notes(&mut self) -> ArrayVec<Note, 8> {
        core::mem::take(&mut self.notes)
    }

    /// Returns the next time at which [`Self::tick`] has work.
    pub fn deadline(&self) -> Option<Instant> {
        let poll = self.next_poll.filter(|_| !self.command_state.is_under_way());
        Instant::earlier(self.step_deadline, poll)
    }

    fn note(&mut self, text: &'static str) {
        self.log(Note::About(None, text));
    }

    fn note_about(&mut self, node: &'static str, text: &'static str) {
        self.log(Note::About(Some(node), text));
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
    #[inline(never)] // Called often in the source but rarely at run time: inlining only adds size.
    fn enter(&mut self, phase: Phase, now: Instant) {
        self.step_deadline = phase.time_limit().map(|limit| now + limit);
        (self.phase, self.command_state, self.next_poll) = (phase, CommandState::Due, None);
    }

    /// Starts over after a pause.
    fn pause(&mut self, pause: Duration, now: Instant) {
        self.enter(Phase::Paused, now);
        self.step_deadline = Some(now + pause);
    }

    /// Counts a failure. Returns the pause after it, which doubles with each failure, from 1 s to
    /// 30 s.
    fn count_failure(&mut self) -> Duration {
        let pause = Duration::from_secs(1 << self.failures.min(5)).min(Duration::from_secs(30));
        self.failures = self.failures.saturating_add(1);
        pause
    }

    /// Starts over after a failure.
    fn retry(&mut self, now: Instant) {
        let pause = self.count_failure();
        self.pause(pause, now);
    }

    /// Waits for a device: there is none, or it is being removed.
    fn no_device(&mut self, now: Instant) {
        self.note("no network device; waiting for one");
        self.failures = 0;
        self.pause(ABSENT_TIME, now);
    }

    /// Ends the connection, as far as it was made, and then starts over. Returns what there is to
    /// undo, for the caller to amend. Does nothing if it is being ended already.
    fn fail(&mut self, why: &'static str, now: Instant) -> Option<&mut Closing> {
        self.end_connection(Note::About(None, why), now)
    }

    fn end_connection(&mut self, why: Note, now: Instant) -> Option<&mut Closing> {
        if self.phase.is_ending() {
            return None;
        }
        self.log(why);
        if self.connection().is_some_and(|connection| now.since(connection.since) >= STABLE_TIME) {
            self.failures = 0;
        }
        let closing = Closing {
            step: ClosingStep::Stop,
            open_transaction: self.has_open_transaction(),
            report: None,
            informed: self.informed_backend(),
            next: Next::Pause,
        };
        self.enter(Phase::Closing(closing), now);
        match &mut self.phase {
            Phase::Closing(closing) => Some(closing),
            _ => None,
        }
    }

    /// Returns `true` if a transaction of this connection may be open.
    fn has_open_transaction(&self) -> bool {
        match self.phase {
            Phase::Connecting(Connecting { step: ConnectionStep::Publish(_, step), .. }) => {
                step != PublicationStep::Begin || self.command_state.is_under_way()
            }
            _ => false,
        }
    }

    /// Returns the back end if it may have seen a state of this front end beyond `Initialising`.
    fn informed_backend(&self) -> Option<Backend> {
        let offer = match &self.phase {
            Phase::Up(BackEndConnection { offer, .. })
            | Phase::Connecting(Connecting { offer, step: ConnectionStep::AwaitConnected }) => offer,
            Phase::Connecting(Connecting { offer, step: ConnectionStep::Connect })
                if self.command_state.is_under_way() =>
            {
                offer
            }
            _ => return None,
        };
        Some(offer.device.backend)
    }

    /// Ends the connection, because the device or its back end is gone: nothing is written for it
    /// any more.
    fn fail_gone(&mut self, why: &'static str, now: Instant) {
        if let Some(closing) = self.fail(why, now) {
            closing.informed = None;
        }
    }

    /// Ends the connection, because the back end broke the protocol of the rings.
    pub fn violated(&mut self, violation: Violation, now: Instant) {
        if let Some(closing) =
            self.end_connection(Note::About(Some("violation by the back end"), violation.text()), now)
        {
            closing.report = Some(violation);
        }
    }

    /// Ends the connection, because the back end no longer takes part although it is connected.
    pub fn stalled(&mut self, now: Instant) {
        self.fail("the back end has returned no page for 60 s, and reports no error", now);
    }

    /// Ends the connection in good order and for good.
    pub fn close(&mut self, now: Instant) {
        if let Phase::Paused = self.phase {
            return self.enter(Phase::Stopped, now);
        }
        self.fail("closing at tcpip's request", now);
        if let Phase::Closing(closing) = &mut self.phase {
            closing.next = Next::Stop;
        }
    }

    /// Handles the event of the watch with this token.
    pub fn watch_fired(&mut self, token: u16, now: Instant) {
        if token == DEVICE_TOKEN {
            match &mut self.phase {
                // Only the toolstack writes this node, so no back end can end the pauses.
                Phase::Paused => self.enter(Phase::WatchingDevice, now),
                Phase::Closing(closing) if closing.next == Next::Pause => closing.next = Next::StartOver,
                _ => {}
            }
            self.device_changed = true;
            self.logged.clear();
        }
        self.command_state = match self.command_state {
            CommandState::Idle | CommandState::Due => CommandState::Due,
            CommandState::Waiting { .. } => CommandState::Waiting { outdated: true },
            CommandState::Verifying => CommandState::Verifying,
        };
    }

    /// Makes the last command due again, because it could not be sent.
    pub fn command_unsent(&mut self) {
        self.device_changed |= self.command_state == CommandState::Verifying;
        self.command_state = CommandState::Due;
    }

    /// Handles the deadlines that have passed.
    pub fn tick(&mut self, now: Instant) {
        if !self.command_state.is_under_way() && self.next_poll.is_some_and(|poll| now >= poll) {
            (self.command_state, self.next_poll) = (CommandState::Due, None);
        }
        if self.step_deadline.is_none_or(|deadline| now < deadline) {
            return;
        }
        match self.phase {
            Phase::Paused => self.enter(Phase::WatchingDevice, now),
            Phase::Up(_) => {
                self.command_unsent();
                (self.command_state, self.step_deadline, self.next_poll) = (CommandState::Idle, None, Some(now + POLL));
            }
            Phase::Connecting(connecting @ Connecting { step: ConnectionStep::AwaitFree, .. }) => {
                self.expect_grants_where_mapped();
                let step = ConnectionStep::EndEarlier { area: Area::Rings, waited: true };
                self.enter(connecting.at(step), now);
            }
            // The service has not carried it out yet.
            Phase::Closing(Closing { step: ClosingStep::Stop, .. }) => self.enter(self.phase, now),
            Phase::Closing(Closing { step, .. }) => {
                if step == ClosingStep::AwaitClosing {
                    self.note("the back end does not close");
                }
                self.advance(now);
            }
            Phase::Negotiating(Negotiating { step: NegotiationStep::AwaitInit, .. }) => {
                self.fail("the back end offers no connection", now);
            }
            Phase::Connecting(Connecting { step: ConnectionStep::AwaitConnected, .. }) => {
                self.fail("the back end does not connect", now);
            }
            _ => {
                self.fail("no answer from a service", now);
            }
        }
    }

    /// Returns `true` if a back end still maps pages of an earlier connection.
    fn are_pages_mapped(&self) -> bool {
        self.grants.0.iter().any(|grants| matches!(grants, Grants::Ended { still_mapped: 1.. }))
    }

    /// Marks grants whose pages are still mapped as possible, so that they are ended once more.
    fn expect_grants_where_mapped(&mut self) {
        for grants in &mut self.grants.0 {
            if matches!(grants, Grants::Ended { still_mapped: 1.. }) {
                *grants = Grants::Possible;
            }
        }
    }

    /// Enters the next step of the fixed order. Steps whose answer is a value are not left so: the
    /// next phase carries it.
    fn advance(&mut self, now: Instant) {
        let next = match self.phase {
            Phase::WatchingDevice => Phase::PROBE,
            Phase::Negotiating(negotiating) => negotiating.after_step(),
            Phase::Connecting(connecting) => self.after_connection_step(&connecting),
            Phase::Closing(closing) => match closing.after_step() {
                Some(step) => Phase::Closing(Closing { step, ..closing }),
                None => return self.finish_closing(closing.next, now),
            },
            phase => phase,
        };
        self.enter(next, now);
    }

    /// Returns the phase after this step.
    fn after_connection_step(&mut self, connecting: &Connecting) -> Phase {
        connecting.at(match connecting.step {
            ConnectionStep::EndEarlier { area, waited } => match area.next() {
                Some(area) => ConnectionStep::EndEarlier { area, waited },
                None => ConnectionStep::CheckFree { waited },
            },
            ConnectionStep::CheckFree { .. } if self.are_pages_mapped() => {
                self.note("an earlier back end still maps pages; waiting until it unmaps them");
                ConnectionStep::AwaitFree
            }
            // The device may have changed while pages were waited for.
            ConnectionStep::CheckFree { waited: true } | ConnectionStep::AwaitFree => return Phase::PROBE,
            ConnectionStep::CheckFree { waited: false } => ConnectionStep::ResetRings,
            ConnectionStep::ResetRings => ConnectionStep::GrantRings,
            ConnectionStep::Start(shared) => {
                ConnectionStep::Publish(Publication { shared, conflicts: 0 }, PublicationStep::Begin)
            }
            ConnectionStep::Publish(publication, step) => match step {
                PublicationStep::Begin => ConnectionStep::Publish(publication, PublicationStep::Key(0)),
                PublicationStep::Key(index)
                    if usize::from(index) + 1 < self.keys(connecting, &publication.shared).len() =>
                {
                    ConnectionStep::Publish(publication, PublicationStep::Key(index + 1))
                }
                PublicationStep::Key(_) => ConnectionStep::Publish(publication, PublicationStep::Commit),
                PublicationStep::Commit => ConnectionStep::Connect,
            },
            ConnectionStep::Connect => ConnectionStep::AwaitConnected,
            step => step,
        })
    }

    /// Starts over after a connection was ended, or stops.
    fn finish_closing(&mut self, next: Next, now: Instant) {
        match next {
            Next::Stop => self.enter(Phase::Stopped, now),
            Next::StartOver => {
                self.count_failure();
                self.pause(Duration::ZERO, now);
            }
            Next::Pause => self.retry(now),
        }
    }
}

#[cfg(test)]
mod tests;
