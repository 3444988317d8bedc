//! The control service: what the toolstack asks of the domain by XenStore's `control/shutdown` (Xen
//! `misc/xenstore-paths.pandoc`), and the only right in the image to end it.
//!
//! A command is acknowledged by emptying the node; then tcpip is asked to close every connection, and given some
//! time for it, before the kernel is told to power off or to reboot.
#![cfg_attr(not(test), no_std)]
#![forbid(unsafe_code)]

use core::time::Duration;

use cloister_interfaces::capability::{Clock, Console, Power};
use cloister_interfaces::control::{Control, Request as ControlRequest};
use cloister_interfaces::store::{Action, Failure, Path, Reply, Request, Store, Value};
use cloister_interfaces::{Client, Instant, Memory, Notifications, Service, System};

/// The node that carries the toolstack's command.
const SHUTDOWN: &str = "control/shutdown";
/// What the domain can do, as the toolstack reads it. A node that does not exist or cannot be written is no harm.
const FEATURES: [(&str, &[u8]); 3] =
    [("control/feature-poweroff", b"1"), ("control/feature-reboot", b"1"), ("control/feature-suspend", b"0")];
/// How long tcpip may take to close its connections.
const QUIESCE_TIME: Duration = Duration::from_secs(10);
/// How long the XenStore service may take over a request before it is asked anew.
const ANSWER_TIME: Duration = Duration::from_secs(15);
/// The pause after a failure, and after the commits of [`MAX_CONFLICTS`] transactions in a row failed.
const RETRY_PAUSE: Duration = Duration::from_secs(5);
const MAX_CONFLICTS: u8 = 16;
/// Messages taken, and steps made, in one call.
const MAX_STEPS: usize = 32;

/// What the policy gives the service.
pub struct Caps<S, M> {
    /// For the commands that came.
    pub console: Console<S>,
    /// For time-outs.
    pub clock: Clock<S>,
    /// To power off and to reboot.
    pub power: Power<S>,
    /// The XenStore service.
    pub store: Client<Store, S, M>,
    /// tcpip.
    pub control: Client<Control, S, M>,
}

/// A command that ends the domain.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum PowerAction {
    PowerOff,
    Reboot,
}

/// What a command means.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Command {
    /// The node is empty: nothing is asked.
    None,
    Power(PowerAction),
    /// Not supported. It is left in the node, so that the toolstack gives up and the domain goes on.
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

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Step {
    Feature(usize),
    Watch,
    Idle,
    /// The transaction that reads a command and acknowledges it.
    Begin,
    Read,
    Acknowledge(Command),
    Commit(Command),
    Abort,
    /// After a failure, until then.
    Pause(Instant),
    /// tcpip is to be told.
    Quiesce(PowerAction),
    /// tcpip was told.
    Quiescing(PowerAction),
    /// The kernel was told, and refused.
    Refused,
}

/// The service.
struct Controller<S, M> {
    console: Console<S>,
    clock: Clock<S>,
    power: Power<S>,
    store: Client<Store, S, M>,
    control: Client<Control, S, M>,
    step: Step,
    watching: bool,
    /// The node may have changed since it was last read.
    changed: bool,
    conflicts: u8,
    /// Pause after the transaction is given up.
    pause_after_abort: bool,
    next_id: u16,
    /// The request that has no answer yet, and when it is given up.
    pending_request: Option<(u16, Instant)>,
    /// When the domain ends, whether or not tcpip is quiet.
    end_at: Instant,
    quiet: bool,
    /// A suspend request was logged and stands in the node.
    suspend_logged: bool,
    work_left: bool,
}

/// The service.
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
            step: Step::Feature(0),
            watching: false,
            changed: false,
            conflicts: 0,
            pause_after_abort: false,
            next_id: 0,
            pending_request: None,
            end_at: Instant::START,
            quiet: false,
            suspend_logged: false,
            work_left: false,
        }
    }

    /// Takes what the others said; whether there was anything.
    fn handle_replies(&mut self, now: Instant) -> bool {
        let reply = self.control.replies.pop();
        // The interface has one reply, and more than one of it says no more than one.
        self.quiet |= matches!(reply, Some(Ok(_)));
        match self.store.replies.pop() {
            None => return reply.is_some(),
            Some(Ok(Reply::Changed { .. })) => self.changed = true,
            Some(Ok(Reply::Answer { id, result })) => {
                if self.pending_request.is_some_and(|(pending, _)| pending == id) {
                    self.pending_request = None;
                    self.handle_answer(result, now);
                }
            }
            Some(Err(_)) => self.console.line(format_args!("malformed message from xenstore")),
        }
        true
    }

    fn handle_answer(&mut self, result: Result<Value, Failure>, now: Instant) {
        self.step = match (self.step, result) {
            (Step::Feature(index), _) if index + 1 < FEATURES.len() => Step::Feature(index + 1),
            (Step::Feature(_), _) => Step::Watch,
            // `Other` is a watch that a former self of this service has left.
            (Step::Watch, Ok(_) | Err(Failure::Other)) => {
                self.watching = true;
                self.changed = true;
                Step::Idle
            }
            (Step::Begin, Ok(_)) => Step::Read,
            (Step::Read, Ok(text)) => self.handle_command(&text),
            (Step::Read, Err(Failure::NotFound)) => Step::Abort,
            (Step::Acknowledge(command), Ok(_)) => Step::Commit(command),
            (Step::Commit(command), Ok(_)) => {
                self.conflicts = 0;
                match command {
                    Command::Power(action) => self.begin_quiesce(action, now),
                    _ => Step::Idle,
                }
            }
            (Step::Commit(_), Err(Failure::Again)) if self.conflicts < MAX_CONFLICTS => {
                self.conflicts += 1;
                Step::Begin
            }
            (Step::Abort, _) if core::mem::take(&mut self.pause_after_abort) => Step::Pause(now + RETRY_PAUSE),
            (Step::Abort, _) => Step::Idle,
            (step, _) => self.handle_failure(step, now),
        };
    }

    fn handle_failure(&mut self, step: Step, now: Instant) -> Step {
        self.console.line(format_args!("XenStore refused a step; trying again"));
        self.conflicts = 0;
        self.changed = true;
        match step {
            // A transaction that cannot begin may be one that a former self of this service has left open.
            Step::Begin | Step::Read | Step::Acknowledge(_) => {
                self.pause_after_abort = true;
                Step::Abort
            }
            _ => Step::Pause(now + RETRY_PAUSE),
        }
    }

    fn handle_command(&mut self, text: &[u8]) -> Step {
        let command = Command::parse(text);
        let suspend = command == Command::Suspend;
        match command {
            Command::None => {}
            Command::Suspend if self.suspend_logged => {}
            Command::Suspend => self.console.line(format_args!("suspend is not supported; not acknowledged")),
            Command::Unknown => {
                let shown = text.escape_ascii();
                self.console.line(format_args!("unknown command {shown}"));
            }
            Command::Power(_) => {}
        }
        self.suspend_logged = suspend;
        match command {
            Command::None | Command::Suspend => Step::Abort,
            command => Step::Acknowledge(command),
        }
    }

    fn begin_quiesce(&mut self, action: PowerAction, now: Instant) -> Step {
        let word = if action == PowerAction::Reboot { "reboot" } else { "power off" };
        self.console.line(format_args!("the toolstack asks to {word}; closing connections"));
        self.end_at = now + QUIESCE_TIME;
        self.quiet = false;
        Step::Quiesce(action)
    }

    /// Makes the next step; whether there was one to make.
    fn advance(&mut self, now: Instant) -> bool {
        match self.step {
            Step::Quiesce(action) if now < self.end_at => {
                if self.control.requests.send(&ControlRequest::Quiesce).is_err() {
                    return false;
                }
                self.step = Step::Quiescing(action);
                return true;
            }
            Step::Quiesce(action) | Step::Quiescing(action) => {
                if self.quiet || now >= self.end_at {
                    self.end_domain(action);
                }
                return false;
            }
            Step::Idle if self.changed => {
                self.changed = false;
                self.step = Step::Begin;
                return true;
            }
            Step::Pause(until) if now >= until => {
                self.step = if self.watching { Step::Idle } else { Step::Watch };
                return true;
            }
            Step::Idle | Step::Pause(_) | Step::Refused => return false,
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

    fn send_request(&mut self, now: Instant) -> bool {
        let shutdown = || Path::from(SHUTDOWN).unwrap_or_default();
        let action = match self.step {
            Step::Feature(index) => {
                let (path, value) = FEATURES.get(index).copied().unwrap_or_default();
                Action::Write(Path::from(path).unwrap_or_default(), value.iter().copied().collect())
            }
            Step::Watch => Action::Watch(shutdown(), 0),
            Step::Begin => Action::Begin,
            Step::Read => Action::Read(shutdown()),
            Step::Acknowledge(_) => Action::Write(shutdown(), Value::new()),
            Step::Commit(_) => Action::Commit,
            Step::Abort => Action::Abort,
            Step::Idle | Step::Pause(_) | Step::Quiesce(_) | Step::Quiescing(_) | Step::Refused => return false,
        };
        self.next_id = self.next_id.wrapping_add(1);
        // With the queue full, this service is notified when there is room.
        if self.store.requests.send(&Request { id: self.next_id, action }).is_ok() {
            self.pending_request = Some((self.next_id, now + ANSWER_TIME));
        }
        false
    }

    fn end_domain(&mut self, action: PowerAction) {
        if !self.quiet {
            self.console.line(format_args!("connections are not closed in time; ending all the same"));
        }
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
            Step::Quiesce(_) | Step::Quiescing(_) => Some(self.end_at),
            _ => self.pending_request.map(|(_, until)| until),
        }
    }
}

#[cfg(test)]
mod tests;
