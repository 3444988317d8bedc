//! The effective authority of a policy: who can do what to which object, directly or by asking others, and by
//! which rules. docs/policy.md, "Authority", states the semantics; this module is that page in code.
//!
//! [`closure`] lists every right by going forward from the rules; [`search`] answers one question by going back
//! from it, with the rules on the way. The two share no more than [`index`], and a property test compares them.

pub(crate) mod closure;
pub(crate) mod index;
pub(crate) mod names;
pub(crate) mod operation;
pub(crate) mod paths;
pub(crate) mod search;
pub(crate) mod target;

pub(crate) use index::Index;
pub(crate) use operation::{Hypercall, Op};

/// Who can do something. Services and domains by their position in the policy.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub(crate) enum Subject {
    /// A service of the image.
    Service(usize),
    /// Another domain, an entry of `[domains]`.
    Domain(usize),
    /// The XenStore daemon.
    XenStoreDaemon,
    /// What creates the domain: it gives the boot module and the command line.
    Toolstack,
}

/// To what something is done.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub(crate) enum Object {
    /// The guest's console.
    Console,
    /// The clocks.
    Clock,
    /// The random generator.
    Entropy,
    /// The domain's life.
    Power,
    /// Facts about the image.
    Info,
    /// The image as a whole.
    Image,
    /// The service itself: its processor time, stack and restarts.
    Own,
    /// An entry of `[regions]`.
    Region(usize),
    /// An entry of `[ports]`.
    Port(usize),
    /// An entry of `[grants]`.
    Grant(usize),
    /// An entry of `[queues]`.
    Queue(usize),
    /// A path of an entry of `[xenstore]`: the positions of both.
    Path(usize, usize),
    /// The program of a service.
    Program(usize),
}

/// The rule of the policy that a step of a path rests on.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub(crate) enum Rule {
    /// The entry of a service.
    Service(usize),
    /// One of its capabilities: the positions of both.
    Held(usize, usize),
    /// An entry of a region's `map`: the positions of both.
    Map(usize, usize),
    /// A region's entry.
    Region(usize),
    /// A queue.
    Queue(usize),
    /// A port.
    Port(usize),
    /// A grant.
    Grant(usize),
    /// A path: the positions of the client's entry and of the path.
    Path(usize, usize),
}

/// One right of the closure.
#[derive(Clone, Debug)]
pub(crate) struct Right {
    /// Who has it.
    pub subject: Subject,
    /// To what.
    pub object: Object,
    /// What it allows.
    pub op: Op,
    /// How much of it, in the unit of [`Op::unit`]; 1 where there is no more or less.
    pub amount: u64,
    /// The rules that give it, in the order in which it is exercised.
    pub path: Vec<Rule>,
}
