//! Operations, and the hypercalls that the kernel makes for each.

use cloister_caps::Operation;
use cloister_caps::rights::Kind;

use super::vocabulary::Object;

macro_rules! ops {
    ($($(#[$doc:meta])* $name:ident = $word:literal, $unit:literal;)*) => {
        /// An operation on an object.
        #[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
        pub(crate) enum Op {
            $($(#[$doc])* $name,)*
        }

        impl Op {
            /// Every operation.
            pub(crate) const ALL: &'static [Op] = &[$(Op::$name,)*];

            /// Returns the word for it in questions, assertions and reports.
            pub(crate) fn word(self) -> &'static str {
                match self { $(Op::$name => $word,)* }
            }

            /// Returns the unit of its amount; empty if it has no amount.
            pub(crate) fn unit(self, object: Object) -> &'static str {
                // Only reads and writes of memory are counted in pages.
                if matches!(self, Op::Read | Op::Write) && !matches!(object, Object::Region(_)) {
                    return "";
                }
                match self { $(Op::$name => $unit,)* }
            }
        }
    };
}

ops! {
    /// Read memory, a path, or facts.
    Read = "read", "pages";
    /// Write memory, a path, or the console.
    Write = "write", "pages";
    /// Watch a path.
    Watch = "watch", "";
    /// Have memory that the boot promises.
    Claim = "claim", "pages";
    /// Have a weight in sharing the memory that is left.
    Weigh = "weigh", "parts";
    /// Find the old content of a region after a restart.
    Keep = "keep", "";
    /// Have memory that is the boot module.
    FromModule = "from-module", "";
    /// Have memory that is the command line.
    FromCommandLine = "from-command-line", "";
    /// Have memory that is the XenStore ring.
    FromXenStoreRing = "from-xenstore-ring", "";
    /// Read the monotonic clock.
    Now = "now", "";
    /// Read the wall clock.
    Wall = "wall", "";
    /// Draw random bits.
    Draw = "draw", "";
    /// Power the domain off.
    Off = "off", "";
    /// Reboot the domain.
    Reboot = "reboot", "";
    /// Allocate an event channel.
    Open = "open", "";
    /// Send an event.
    Send = "send", "";
    /// Be woken by the peer's events.
    Receive = "receive", "";
    /// Close an event channel.
    Close = "close", "";
    /// Let the peer of a grant use its pages.
    Issue = "issue", "pages";
    /// End the peer's use.
    End = "end", "pages";
    /// Send requests to the server.
    Request = "request", "messages";
    /// Answer the client.
    Reply = "reply", "messages";
    /// Stop the image, by a fault past the restart limit.
    Stop = "stop", "";
    /// Use processor time: the budget in proportion to the period.
    Run = "run", "millionths of the processor";
    /// Use processor time without a pause.
    Hold = "hold", "µs";
    /// Come before services of a lower priority.
    Precede = "precede", "priority";
    /// Be restarted after a fault.
    Restart = "restart", "restarts";
    /// Have a stack.
    Stack = "stack", "pages";
    /// Execute a program.
    Execute = "execute", "";
    /// Leave predictions of branches to the service that runs next.
    Share = "share", "";
    /// Start the image on a processor with a weakness.
    StartWith = "start-with", "";
    /// Choose which domain of an entry is the peer.
    Pin = "pin", "";
    /// Have the kernel write a line to the console, by a refused call or a fault.
    Log = "log", "";
}

impl Op {
    /// Returns the operation of this word.
    pub(crate) fn parse(word: &str) -> Option<Op> {
        Op::ALL.iter().copied().find(|op| op.word() == word)
    }

    /// Returns `true` if objects of this kind have the operation.
    pub(crate) fn applies_to(self, object: Object) -> bool {
        match object {
            Object::Console => matches!(self, Op::Write | Op::Log),
            Object::Clock => matches!(self, Op::Now | Op::Wall),
            Object::Entropy => self == Op::Draw,
            Object::Power => matches!(self, Op::Off | Op::Reboot),
            Object::Info => self == Op::Read,
            Object::Image => self == Op::Stop,
            Object::Itself => matches!(self, Op::Run | Op::Hold | Op::Precede | Op::Restart | Op::Stack),
            Object::Region(_) => matches!(
                self,
                Op::Read
                    | Op::Write
                    | Op::Claim
                    | Op::Weigh
                    | Op::Keep
                    | Op::FromModule
                    | Op::FromCommandLine
                    | Op::FromXenStoreRing
            ),
            Object::Port(_) => matches!(self, Op::Open | Op::Send | Op::Receive | Op::Close),
            Object::Grant(_) => matches!(self, Op::Issue | Op::End),
            Object::Queue(_) => matches!(self, Op::Request | Op::Reply),
            Object::Path(..) | Object::AnyPath => matches!(self, Op::Read | Op::Write | Op::Watch),
            Object::Program(_) => self == Op::Execute,
            Object::Predictors => self == Op::Share,
            Object::Weakness(_) => self == Op::StartWith,
            Object::Domain(_) => self == Op::Pin,
        }
    }

    /// Returns the kernel's operation, with the kind of its object, if it is one.
    pub(crate) fn invocation(self, object: Object) -> Option<(Kind, Operation)> {
        match (object, self) {
            (Object::Console, Op::Write) => Some((Kind::Console, Operation::ConsoleWrite)),
            (Object::Clock, Op::Now) => Some((Kind::Clock, Operation::ClockNow)),
            (Object::Clock, Op::Wall) => Some((Kind::Clock, Operation::ClockWall)),
            (Object::Entropy, Op::Draw) => Some((Kind::Entropy, Operation::EntropyDraw)),
            (Object::Power, Op::Off) => Some((Kind::Power, Operation::PowerOff)),
            (Object::Power, Op::Reboot) => Some((Kind::Power, Operation::PowerReboot)),
            (Object::Info, Op::Read) => Some((Kind::Info, Operation::InfoRead)),
            (Object::Port(_), Op::Open) => Some((Kind::Port, Operation::PortOpen)),
            (Object::Port(_), Op::Send) => Some((Kind::Port, Operation::PortSend)),
            (Object::Port(_), Op::Close) => Some((Kind::Port, Operation::PortClose)),
            (Object::Grant(_), Op::Issue) => Some((Kind::Grant, Operation::GrantIssue)),
            (Object::Grant(_), Op::End) => Some((Kind::Grant, Operation::GrantEnd)),
            _ => None,
        }
    }
}

macro_rules! hypercalls {
    ($($name:ident = $word:literal;)*) => {
        /// A hypercall that the kernel makes for an operation of a service.
        #[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
        pub(crate) enum Hypercall { $(#[doc = $word] $name,)* }

        impl Hypercall {
            /// Every such hypercall.
            pub(crate) const ALL: &'static [Hypercall] = &[$(Hypercall::$name,)*];

            /// Returns its name in Xen's public headers.
            pub(crate) fn name(self) -> &'static str {
                match self { $(Hypercall::$name => $word,)* }
            }
        }
    };
}

hypercalls! {
    AllocUnbound = "EVTCHNOP_alloc_unbound";
    Close = "EVTCHNOP_close";
    Send = "EVTCHNOP_send";
    Unmask = "EVTCHNOP_unmask";
    Shutdown = "SCHEDOP_shutdown";
    Yield = "SCHEDOP_yield";
    SetTimer = "set_timer_op";
}

impl Hypercall {
    /// Returns the hypercalls that an operation can cause.
    ///
    /// Grants cause none: the kernel writes the grant table, which is its own memory.
    pub(crate) fn of(object: Object, op: Op) -> &'static [Hypercall] {
        match (object, op) {
            (Object::Console, Op::Write | Op::Log) => &[Hypercall::Send],
            // Before the end, the kernel gives the console daemon time to read the last lines.
            (Object::Power, Op::Off | Op::Reboot) | (Object::Image, Op::Stop) => {
                &[Hypercall::Shutdown, Hypercall::Yield]
            }
            // A new channel is unmasked. So is one whose event its owner has seen, when the owner
            // waits.
            (Object::Port(_), Op::Open) => &[Hypercall::AllocUnbound, Hypercall::Unmask],
            (Object::Port(_), Op::Send) => &[Hypercall::Send],
            (Object::Port(_), Op::Receive) => &[Hypercall::Unmask],
            (Object::Port(_), Op::Close) => &[Hypercall::Close],
            // Every running service can wait for a deadline.
            (Object::Itself, Op::Run) => &[Hypercall::SetTimer],
            _ => &[],
        }
    }
}
