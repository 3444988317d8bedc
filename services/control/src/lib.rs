//! The control service: carries out the commands of the toolstack to the domain, which come by
//! XenStore's `control/shutdown` (Xen `misc/xenstore-paths.pandoc`). It has the only right in the
//! image to end the domain.
//!
//! The service acknowledges a command by emptying the node. Then it asks tcpip to close every
//! connection, and gives it some time, before it invokes power-off or reboot.
#![cfg_attr(not(test), no_std)]
#![forbid(unsafe_code)]

use core::time::Duration;

use cloister_interfaces::capability::{Clock, Console, Power};
use cloister_interfaces::control::{Control, Request as ControlRequest};
use cloister_interfaces::log::Excerpt;
use cloister_interfaces::store::{Action, PathLiteral, Reply, Request, Store, StoreError, Value};
use cloister_interfaces::{Client, Instant, Memory, Notifications, Service, System};

/// The node that carries the toolstack's command.
const SHUTDOWN: PathLiteral = PathLiteral::new("control/shutdown");
/// The time that tcpip has to close its connections.
const QUIESCE_TIME: Duration = Duration::from_secs(10);
/// The time that the XenStore service has to answer a request before the step is given up.
const ANSWER_TIME: Duration = Duration::from_secs(15);
/// The pause after a failure, and after more than [`MAX_CONFLICTS`] conflicts in a row.
const RETRY_PAUSE: Duration = Duration::from_secs(5);
/// The number of conflicts of transactions in a row that are retried without a pause.
const MAX_CONFLICTS: u8 = 16;
/// The largest number of steps in one pass, each with at most one message of each queue.
const MAX_STEPS: usize = 32;

/// The capabilities that the policy gives the service.
pub struct Caps<S, M> {
    /// Logs the commands.
    pub console: Console<S>,
    /// Measures timeouts.
    pub clock: Clock<S>,
    /// Powers off and reboots.
    pub power: Power<S>,
    /// The queue to the XenStore service.
    pub store: Client<Store, S, M>,
    /// The queue to tcpip.
    pub control: Client<Control, S, M>,
}

/// A way to end the domain.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum PowerAction {
    PowerOff,
    Reboot,
}

/// A command of the toolstack.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Command {
    /// The node is empty: there is no command.
    None,
    Power(PowerAction),
    /// Suspend, which is not supported. The command stays in the node, so the toolstack gives up
    /// and the domain goes on.
    Suspend,
    Unknown,
}

impl Command {
    fn parse(text: &[u8]) -> Command {
        match text {
            b"" => Command::None,
            b"poweroff" | b"halt" => Command::Power(PowerAction::PowerOff),
            b"reboot" => Command::Power(PowerAction::Reboot),
            b"suspend" => Command::Suspend,
            _ => Command::Unknown,
        }
    }
}

/// A feature of the domain that the toolstack is told of. It does no harm if its node cannot be
/// written.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Feature {
    PowerOff,
    Reboot,
    Suspend,
}

impl Feature {
    /// Returns the node of the feature, and the digit in it: 1 if the domain has the feature.
    fn node(self) -> (PathLiteral, u8) {
        const POWER_OFF: PathLiteral = PathLiteral::new("control/feature-poweroff");
        const REBOOT: PathLiteral = PathLiteral::new("control/feature-reboot");
        const SUSPEND: PathLiteral = PathLiteral::new("control/feature-suspend");
        match self {
            Feature::PowerOff => (POWER_OFF, b'1'),
            Feature::Reboot => (REBOOT, b'1'),
            Feature::Suspend => (SUSPEND, b'0'),
        }
    }

    /// Returns the step after its node was written.
    fn next_step(self) -> Step {
        match self {
            Feature::PowerOff => Step::Feature(Feature::Reboot),
            Feature::Reboot => Step::Feature(Feature::Suspend),
            Feature::Suspend => Step::Watch,
        }
    }
}

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Step {
    /// Writes the node of a feature.
    Feature(Feature),
    Watch,
    Idle,
    /// The transaction that reads a command and acknowledges it.
    Begin,
    Read,
    Acknowledge(Command),
    Commit(Command),
    /// Ends a transaction without effect.
    Abort(AfterAbort),
    /// The pause after a failure, until this time.
    Pause(Instant),
    /// tcpip must be asked to close its connections. The domain ends at `end_at` in any case.
    Quiesce {
        action: PowerAction,
        end_at: Instant,
    },
    /// tcpip was asked, and is closing its connections.
    Quiescing {
        action: PowerAction,
        end_at: Instant,
    },
    /// tcpip has closed its connections: the domain can end.
    Quiet(PowerAction),
    /// The kernel refused to end the domain.
    Refused,
}

/// What follows an aborted transaction.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum AfterAbort {
    /// Nothing: the node has no command to carry out.
    Idle,
    /// A pause: a step failed.
    Pause,
}

/// The node, as far as the service knows it.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Node {
    /// It is not watched yet.
    Unwatched,
    /// It may have changed since it was last read.
    Changed,
    /// It was read since it last changed.
    Read,
}

/// The service.
struct Controller<S, M> {
    console: Console<S>,
    clock: Clock<S>,
    power: Power<S>,
    store: Client<Store, S, M>,
    control: Client<Control, S, M>,
    step: Step,
    node: Node,
    conflicts: u8,
    next_id: u16,
    /// The id of the request that has no answer yet, and the time at which it is given up.
    pending_request: Option<(u16, Instant)>,
    /// The suspend command that is in the node was logged.
    suspend_logged: bool,
    /// The pass ended at a limit: the next begins at once.
    work_left: bool,
}

/// Creates the service.
pub fn service<S: System + 'static, M: Memory + 'static>(caps: Caps<S, M>) -> impl Service {
    Controller::new(caps)
}

impl<S: System, M: Memory> Controller<S, M> {
    fn new(caps: Caps<S, M>) -> Self {
        Controller {
            console: caps.console,
            clock: caps.clock,
            power: caps.power,
            store: caps.store,
            control: caps.control,
            step: Step::Feature(Feature::PowerOff),
            node: Node::Unwatched,
            conflicts: 0,
            next_id: 0,
            pending_request: None,
            suspend_logged: false,
            work_left: false,
        }
    }

    /// Handles a message of tcpip and one of the XenStore service. Returns `true` if there was any.
    fn handle_replies(&mut self, now: Instant) -> bool {
        let reply = self.control.replies.pop();
        // The interface has one reply. Repeated ones mean the same as one, and one that nobody
        // asked for means nothing.
        if let (Some(Ok(_)), Step::Quiescing { action, .. }) = (&reply, self.step) {
            self.step = Step::Quiet(action);
        }
        match self.store.replies.pop() {
            None => return reply.is_some(),
            Some(Ok(Reply::Changed { .. })) => self.note_change(),
            Some(Ok(Reply::Answer { id, result })) => {
                if self.pending_request.is_some_and(|(pending, _)| pending == id) {
                    self.pending_request = None;
                    self.handle_answer(result, now);
                }
            }
            Some(Err(malformed)) => self.console.line(format_args!("violation by xenstore: {malformed}")),
        }
        true
    }

    fn handle_answer(&mut self, result: Result<Value, StoreError>, now: Instant) {
        self.step = match (self.step, result) {
            (Step::Feature(feature), _) => feature.next_step(),
            // `Other` is a watch that an earlier run of this service has left.
            (Step::Watch, Ok(_) | Err(StoreError::Other)) => {
                self.node = Node::Changed;
                Step::Idle
            }
            (Step::Begin, Ok(_)) => Step::Read,
            (Step::Read, Ok(text)) => self.handle_command(&text),
            (Step::Read, Err(StoreError::NotFound)) => Step::Abort(AfterAbort::Idle),
            (Step::Acknowledge(command), Ok(_)) => Step::Commit(command),
            (Step::Commit(command), Ok(_)) => {
                self.conflicts = 0;
                match command {
                    Command::Power(action) => self.begin_quiesce(action, now),
                    _ => Step::Idle,
                }
            }
            (Step::Commit(_), Err(StoreError::Again)) if self.conflicts < MAX_CONFLICTS => {
                self.conflicts += 1;
                Step::Begin
            }
            (Step::Abort(AfterAbort::Pause), _) => Step::Pause(now + RETRY_PAUSE),
            (Step::Abort(AfterAbort::Idle), _) => Step::Idle,
            (step, _) => self.handle_failure(step, now),
        };
    }

    /// Notes that the node must be read again. Before it is watched, it is not read.
    fn note_change(&mut self) {
        if self.node != Node::Unwatched {
            self.node = Node::Changed;
        }
    }

    fn handle_failure(&mut self, step: Step, now: Instant) -> Step {
        self.console.line(format_args!("a step failed in XenStore; trying again"));
        self.conflicts = 0;
        self.note_change();
        match step {
            // If a transaction cannot begin, an earlier run of this service may have left one open.
            Step::Begin | Step::Read | Step::Acknowledge(_) => Step::Abort(AfterAbort::Pause),
            _ => Step::Pause(now + RETRY_PAUSE),
        }
    }

    /// Logs the command in the node. Returns the step that follows.
    fn handle_command(&mut self, text: &[u8]) -> Step {
        let command = Command::parse(text);
        let suspend = command == Command::Suspend;
        match command {
            Command::None => {}
            Command::Suspend if self.suspend_logged => {}
            Command::Suspend => self.console.line(format_args!("suspend is not supported; not acknowledged")),
            Command::Unknown => {
                self.console.line(format_args!("unknown command {}", Excerpt(text)));
            }
            Command::Power(_) => {}
        }
        self.suspend_logged = suspend;
        match command {
            Command::None | Command::Suspend => Step::Abort(AfterAbort::Idle),
            command => Step::Acknowledge(command),
        }
    }

    /// Starts the time that tcpip has to close its connections. Returns the step that follows.
    fn begin_quiesce(&mut self, action: PowerAction, now: Instant) -> Step {
        let word = if action == PowerAction::Reboot { "reboot" } else { "power off" };
        self.console.line(format_args!("the toolstack asks to {word}; closing connections"));
        Step::Quiesce { action, end_at: now + QUIESCE_TIME }
    }

    /// Makes the next step. Returns `true` if there was one to make.
    fn advance(&mut self, now: Instant) -> bool {
        match self.step {
            Step::Quiesce { action, end_at } | Step::Quiescing { action, end_at } if now >= end_at => {
                self.console.line(format_args!("connections are not closed in time; ending the domain anyway"));
                self.end_domain(action);
                return false;
            }
            Step::Quiesce { action, end_at } => {
                if self.control.requests.send(&ControlRequest::Quiesce).is_err() {
                    return false;
                }
                self.step = Step::Quiescing { action, end_at };
                return true;
            }
            Step::Quiet(action) => {
                self.end_domain(action);
                return false;
            }
            Step::Idle if self.node == Node::Changed => {
                self.node = Node::Read;
                self.step = Step::Begin;
                return true;
            }
            Step::Pause(until) if now >= until => {
                self.step = if self.node == Node::Unwatched { Step::Watch } else { Step::Idle };
                return true;
            }
            Step::Idle | Step::Pause(_) | Step::Quiescing { .. } | Step::Refused => return false,
            _ => {}
        }
        if let Some((_, until)) = self.pending_request {
            if now >= until {
                self.pending_request = None;
                self.step = self.handle_failure(self.step, now);
            }
            return now >= until;
        }
        self.send_request(now)
    }

    /// Sends the step's request to the XenStore service. Returns `false`: the next step waits for
    /// the answer.
    fn send_request(&mut self, now: Instant) -> bool {
        let action = match self.step {
            Step::Feature(feature) => {
                let (node, digit) = feature.node();
                Action::Write(node.into(), Value::from_iter([digit]))
            }
            Step::Watch => Action::Watch(SHUTDOWN.into(), 0),
            Step::Begin => Action::Begin,
            Step::Read => Action::Read(SHUTDOWN.into()),
            Step::Acknowledge(_) => Action::Write(SHUTDOWN.into(), Value::new()),
            Step::Commit(_) => Action::Commit,
            Step::Abort(_) => Action::Abort,
            Step::Idle
            | Step::Pause(_)
            | Step::Quiesce { .. }
            | Step::Quiescing { .. }
            | Step::Quiet(_)
            | Step::Refused => return false,
        };
        self.next_id = self.next_id.wrapping_add(1);
        // If the queue is full, this service is notified when there is room.
        if self.store.requests.send(&Request { id: self.next_id, action }).is_ok() {
            self.pending_request = Some((self.next_id, now + ANSWER_TIME));
        }
        false
    }

    /// Powers off or reboots. Returns only if the kernel refuses.
    fn end_domain(&mut self, action: PowerAction) {
        self.step = Step::Refused;
        match action {
            PowerAction::PowerOff => self.power.off(),
            PowerAction::Reboot => self.power.reboot(),
        }
        self.console.line(format_args!("the kernel refused to end the domain"));
    }
}

impl<S: System, M: Memory> Service for Controller<S, M> {
    fn notified(&mut self, _: Notifications) {
        let now = self.clock.now();
        self.work_left = true;
        for _ in 0..MAX_STEPS {
            let handled = self.handle_replies(now);
            if !self.advance(now) && !handled {
                self.work_left = false;
                break;
            }
        }
    }

    fn deadline(&self) -> Option<Instant> {
        if self.work_left {
            return Some(Instant::START);
        }
        match self.step {
            Step::Pause(until) => Some(until),
            Step::Quiesce { end_at, .. } | Step::Quiescing { end_at, .. } => Some(end_at),
            _ => self.pending_request.map(|(_, until)| until),
        }
    }
}

#[cfg(test)]
mod tests;
