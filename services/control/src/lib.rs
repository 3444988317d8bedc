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
const QUIET_TIME: Duration = Duration::from_secs(10);
/// How long the XenStore service may take over a request before it is asked anew.
const ANSWER_TIME: Duration = Duration::from_secs(15);
/// The pause after a failure, and after the commits of [`CONFLICTS`] transactions in a row failed.
const PAUSE: Duration = Duration::from_secs(5);
const CONFLICTS: u8 = 16;
/// Messages taken, and steps made, in one call.
const STEPS: usize = 32;

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
enum End {
    PowerOff,
    Reboot,
}

/// What a command means.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Command {
    /// The node is empty: nothing is asked.
    None,
    End(End),
    /// Not supported. It is left in the node, so that the toolstack gives up and the domain goes on.
    Suspend,
    Unknown,
}

impl Command {
    fn parse(text: &[u8]) -> Command {
        match text {
            b"" => Command::None,
            b"poweroff" | b"halt" => Command::End(End::PowerOff),
            b"reboot" => Command::End(End::Reboot),
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
    Quiesce(End),
    /// tcpip was told.
    Quieting(End),
    /// The kernel was told, and refused.
    Over,
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
    pause: bool,
    next_id: u16,
    /// The request that has no answer yet, and when it is given up.
    asked: Option<(u16, Instant)>,
    /// When the domain ends, whether or not tcpip is quiet.
    end_at: Instant,
    quiet: bool,
    /// A suspend request was logged and stands in the node.
    suspend_seen: bool,
    left_over: bool,
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
            pause: false,
            next_id: 0,
            asked: None,
            end_at: Instant::START,
            quiet: false,
            suspend_seen: false,
            left_over: false,
        }
    }

    /// Takes what the others said; whether there was anything.
    fn hear(&mut self, now: Instant) -> bool {
        let reply = self.control.replies.pop();
        // The interface has one reply, and more than one of it says no more than one.
        self.quiet |= matches!(reply, Some(Ok(_)));
        match self.store.replies.pop() {
            None => return reply.is_some(),
            Some(Ok(Reply::Changed { .. })) => self.changed = true,
            Some(Ok(Reply::Answer { id, result })) => {
                if self.asked.is_some_and(|(asked, _)| asked == id) {
                    self.asked = None;
                    self.answered(result, now);
                }
            }
            Some(Err(_)) => self.console.line(format_args!("malformed message from xenstore")),
        }
        true
    }

    fn answered(&mut self, result: Result<Value, Failure>, now: Instant) {
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
            (Step::Read, Ok(text)) => self.command(&text),
            (Step::Read, Err(Failure::NotFound)) => Step::Abort,
            (Step::Acknowledge(command), Ok(_)) => Step::Commit(command),
            (Step::Commit(command), Ok(_)) => {
                self.conflicts = 0;
                match command {
                    Command::End(end) => self.ending(end, now),
                    _ => Step::Idle,
                }
            }
            (Step::Commit(_), Err(Failure::Again)) if self.conflicts < CONFLICTS => {
                self.conflicts += 1;
                Step::Begin
            }
            (Step::Abort, _) if core::mem::take(&mut self.pause) => Step::Pause(now + PAUSE),
            (Step::Abort, _) => Step::Idle,
            (step, _) => self.failed(step, now),
        };
    }

    fn failed(&mut self, step: Step, now: Instant) -> Step {
        self.console.line(format_args!("XenStore refused a step; trying again"));
        self.conflicts = 0;
        self.changed = true;
        match step {
            // A transaction that cannot begin may be one that a former self of this service has left open.
            Step::Begin | Step::Read | Step::Acknowledge(_) => {
                self.pause = true;
                Step::Abort
            }
            _ => Step::Pause(now + PAUSE),
        }
    }

    fn command(&mut self, text: &[u8]) -> Step {
        let command = Command::parse(text);
        let suspend = command == Command::Suspend;
        match command {
            Command::None => {}
            Command::Suspend if self.suspend_seen => {}
            Command::Suspend => self.console.line(format_args!("suspend is not supported; not acknowledged")),
            Command::Unknown => {
                let shown = text.escape_ascii();
                self.console.line(format_args!("unknown command {shown}"));
            }
            Command::End(_) => {}
        }
        self.suspend_seen = suspend;
        match command {
            Command::None | Command::Suspend => Step::Abort,
            command => Step::Acknowledge(command),
        }
    }

    fn ending(&mut self, end: End, now: Instant) -> Step {
        let word = if end == End::Reboot { "reboot" } else { "power off" };
        self.console.line(format_args!("the toolstack asks to {word}; closing connections"));
        self.end_at = now + QUIET_TIME;
        self.quiet = false;
        Step::Quiesce(end)
    }

    /// Makes the next step; whether there was one to make.
    fn advance(&mut self, now: Instant) -> bool {
        match self.step {
            Step::Quiesce(end) if now < self.end_at => {
                if self.control.requests.send(&ControlRequest::Quiesce).is_err() {
                    return false;
                }
                self.step = Step::Quieting(end);
                return true;
            }
            Step::Quiesce(end) | Step::Quieting(end) => {
                if self.quiet || now >= self.end_at {
                    self.finish(end);
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
            Step::Idle | Step::Pause(_) | Step::Over => return false,
            _ => {}
        }
        if let Some((_, limit)) = self.asked {
            if now >= limit {
                self.asked = None;
                self.step = self.failed(self.step, now);
            }
            return now >= limit;
        }
        self.ask(now)
    }

    fn ask(&mut self, now: Instant) -> bool {
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
            Step::Idle | Step::Pause(_) | Step::Quiesce(_) | Step::Quieting(_) | Step::Over => return false,
        };
        self.next_id = self.next_id.wrapping_add(1);
        // With the queue full, this service is notified when there is room.
        if self.store.requests.send(&Request { id: self.next_id, action }).is_ok() {
            self.asked = Some((self.next_id, now + ANSWER_TIME));
        }
        false
    }

    fn finish(&mut self, end: End) {
        if !self.quiet {
            self.console.line(format_args!("connections are not closed in time; ending all the same"));
        }
        self.step = Step::Over;
        match end {
            End::PowerOff => self.power.off(),
            End::Reboot => self.power.reboot(),
        }
        self.console.line(format_args!("the kernel refused to end the domain"));
    }
}

impl<S: System, M: Memory> Service for Controller<S, M> {
    fn notified(&mut self, _: Notifications) {
        let now = self.clock.now();
        self.left_over = true;
        for _ in 0..STEPS {
            let heard = self.hear(now);
            if !self.advance(now) && !heard {
                self.left_over = false;
                break;
            }
        }
    }

    fn deadline(&self) -> Option<Instant> {
        if self.left_over {
            return Some(Instant::START);
        }
        match self.step {
            Step::Pause(until) => Some(until),
            Step::Quiesce(_) | Step::Quieting(_) => Some(self.end_at),
            _ => self.asked.map(|(_, limit)| limit),
        }
    }
}

#[cfg(test)]
mod tests;
