//! Subjects, objects and rules: the terms that the whole module shares.

use cloister_caps::weakness::Weakness;

/// A subject: it can do something. Services and domains are given by their position in the policy.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub(crate) enum Subject {
    /// A service of the image.
    Service(usize),
    /// Another domain, an entry of `[domains]`.
    Domain(usize),
    /// The XenStore daemon.
    XenStoreDaemon,
    /// The toolstack, which creates the domain and provides the boot module and the command line.
    Toolstack,
}

/// An object: something can be done to it.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub(crate) enum Object {
    /// The guest's console.
    Console,
    /// The clocks.
    Clock,
    /// The generator of random bits.
    Entropy,
    /// The power state of the domain.
    Power,
    /// Facts about the image.
    Info,
    /// The image as a whole.
    Image,
    /// The service itself: its processor time, stack and restarts.
    Itself,
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
    /// Every node of XenStore, also those that no entry names.
    AnyPath,
    /// The program of a service.
    Program(usize),
    /// What the processor remembers to predict branches and returns.
    Predictors,
    /// A weakness of the processor.
    Weakness(Weakness),
    /// An entry of `[domains]`: the choice of the one that is the peer.
    Domain(usize),
}

/// A rule of the policy, as a step of a path.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub(crate) enum Rule {
    /// The entry of a service.
    Service(usize),
    /// One of its capabilities: the positions of both.
    HeldCapability(usize, usize),
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
    /// The isolation of the image.
    Isolation,
    /// That the image boots with this weakness.
    NotRefused(Weakness),
    /// The pin of an entry of `[domains]`.
    Pin(usize),
    /// A queue, as the way of an answer: from the server to the client.
    Answer(usize),
    /// A region by which a service passes data to another: the region, and the positions of the
    /// writer and of the reader in its `map`.
    Shared(usize, usize, usize),
    /// A path that one service writes and another reads: a path rule of each.
    Relay((usize, usize), (usize, usize)),
    /// A path that a service writes and a domain may read: the domain, and the path rule.
    Published(usize, (usize, usize)),
    /// A path that a service reads and a domain may write, because it is in the domain's own
    /// directory: the domain, and the path rule.
    Directory(usize, (usize, usize)),
    /// That a service's lines, and the kernel's about it, are on the console.
    Log(usize),
    /// That the toolstack may let a domain read the console.
    ConsoleReader(usize),
}
