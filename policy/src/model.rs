//! A policy as it was written: each value has a checked type and the position in the file.

use std::collections::HashMap;

use cloister_caps::rights::{Kind, Rights};
use cloister_caps::tables::{Access, AfterLimit, Isolation};
use cloister_caps::weakness::Weaknesses;

use crate::diagnostic::{Span, Spanned};

/// The entries of one section of the file, in the order of their names.
pub(crate) struct Section<T> {
    /// Every name that the section defines, including those of malformed entries.
    ///
    /// Because of those, a mistake in an entry is not reported again at each use of its name.
    pub names: Vec<Spanned<String>>,
    /// The entries without a mistake.
    pub items: Vec<Named<T>>,
    /// Each name in `names`, with its position in `items` if the entry is well formed.
    positions: HashMap<String, Option<usize>>,
}

/// An entry.
pub(crate) struct Named<T> {
    /// Its name.
    pub name: Spanned<String>,
    /// Its content.
    pub body: T,
}

impl<T> Section<T> {
    pub(crate) fn new(names: Vec<Spanned<String>>, items: Vec<Named<T>>) -> Self {
        let mut positions: HashMap<String, Option<usize>> =
            names.iter().map(|name| (name.value.clone(), None)).collect();
        positions.extend(items.iter().enumerate().map(|(index, item)| (item.name.value.clone(), Some(index))));
        Section { names, items, positions }
    }

    /// Returns the entry of this name, if it is well formed.
    pub(crate) fn get(&self, name: &str) -> Option<&Named<T>> {
        self.items.get(self.index(name)?)
    }

    /// Returns the position of the entry of this name, if it is well formed.
    pub(crate) fn index(&self, name: &str) -> Option<usize> {
        self.positions.get(name).copied().flatten()
    }

    /// Returns `true` if the section defines the name.
    pub(crate) fn defines(&self, name: &str) -> bool {
        self.positions.contains_key(name)
    }

    /// Returns `true` if no entry is malformed. Only then does the absence of an entry prove
    /// anything.
    pub(crate) fn is_complete(&self) -> bool {
        self.names.len() == self.items.len()
    }
}

/// A policy.
pub(crate) struct Policy {
    /// The image as a whole.
    pub image: Image,
    /// Other domains that the image shares memory or events with.
    pub domains: Section<Domain>,
    /// The services.
    pub services: Section<Service>,
    /// The regions.
    pub regions: Section<Region>,
    /// The queues.
    pub queues: Section<Queue>,
    /// The event channels.
    pub ports: Section<Port>,
    /// The grant rules.
    pub grants: Section<Grant>,
    /// The paths that each client of the XenStore service may reach, by the client's name.
    pub xenstore: Section<Vec<PathRight>>,
    /// The assertions, in the order of their names.
    pub assertions: Section<Assertion>,
}

impl Policy {
    /// Returns the domains of which `service` says the peer, with their positions, in the order of
    /// the names.
    pub(crate) fn pinned<'a>(&'a self, service: &'a str) -> impl Iterator<Item = (usize, &'a Named<Domain>, &'a Pin)> {
        let domains = self.domains.items.iter().enumerate();
        let pinned = domains.filter_map(|(position, item)| Some((position, item, item.body.pin.as_ref()?)));
        pinned.filter(move |(_, _, pin)| pin.by.value == service)
    }

    /// Returns the names of the queues of `interface` that `service` serves, in the order of the
    /// names.
    pub(crate) fn served<'a>(&'a self, service: &'a str, interface: &'a str) -> impl Iterator<Item = &'a str> {
        let queues = self.queues.items.iter();
        let served =
            queues.filter(move |queue| queue.body.to.value == service && queue.body.interface.value == interface);
        served.map(|queue| queue.name.value.as_str())
    }
}

/// The image as a whole: its name, and what it demands of the processor.
#[derive(Default)]
pub(crate) struct Image {
    pub name: String,
    /// `true` if the predictors of the processor are flushed when another service runs.
    pub strict: bool,
    /// The weaknesses of the processor with which the image does not boot.
    pub refused: Weaknesses,
    /// The position of the section's header.
    pub span: Span,
}

impl Image {
    pub(crate) const ISOLATION: [(&'static str, bool); 2] =
        [(Isolation::Standard.name(), false), (Isolation::Strict.name(), true)];

    pub(crate) fn isolation(&self) -> Isolation {
        if self.strict { Isolation::Strict } else { Isolation::Standard }
    }
}

/// An assertion, which the compiler proves.
pub(crate) struct Assertion {
    /// The threat that it answers.
    pub why: String,
    /// The condition that must hold.
    pub claim: Claim,
    /// `true` if it may be about something that the policy does not have.
    pub allow_vacuous: bool,
}

/// The claim of an assertion. The prover resolves the names.
#[derive(Clone)]
pub(crate) enum Claim {
    /// A subject cannot cause an operation, even by taking over this many services, unless one of
    /// `unless` helps.
    CannotCause { from: Spanned<String>, to: Spanned<String>, takeovers: u32, unless: Vec<Spanned<String>> },
    /// The bytes of the regions cannot reach a subject, even by taking over this many services,
    /// unless one of `unless` helps.
    NoLeak { regions: Vec<Spanned<String>>, to: Spanned<String>, takeovers: u32, unless: Vec<Spanned<String>> },
    /// Only one service, and the subjects `besides`, map the regions, or write them.
    Exclusive {
        owner: Spanned<String>,
        regions: Vec<Spanned<String>>,
        access: Spanned<Exclusive>,
        besides: Vec<Spanned<String>>,
    },
    /// An amount has an upper bound.
    AtMost { what: Spanned<Measure>, service: Option<Spanned<String>>, limit: u32 },
    /// Only these subjects can cause an operation, even if another takes over this many services,
    /// unless one of `unless` helps; or, `directly`, only they can do it themselves.
    Only {
        who: Vec<Spanned<String>>,
        may: Spanned<String>,
        takeovers: u32,
        directly: bool,
        unless: Vec<Spanned<String>>,
    },
    /// The services have nothing in common: no memory, queue, server, client, peer or path.
    ShareNothing { between: Vec<Spanned<String>> },
}

/// The access that only one service has.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Exclusive {
    /// Reading and writing.
    Map,
    /// Writing.
    Write,
}

impl Exclusive {
    pub(crate) const WORDS: [(&'static str, Exclusive); 2] = [("map", Exclusive::Map), ("write", Exclusive::Write)];

    pub(crate) fn word(self) -> &'static str {
        if self == Exclusive::Map { "map" } else { "write" }
    }
}

/// An amount that has an upper bound.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Measure {
    /// Grant rules.
    Grants,
    /// Pages that grant rules cover.
    GrantedPages,
    /// Pages that other domains may write.
    WritablePages,
    /// Pages that the boot promises: fixed regions, minima of shares, stacks.
    Pages,
    /// Hundredths of the processor.
    CpuPercent,
    /// Event channels.
    Ports,
    /// Restarts of a service after a fault.
    Restarts,
}

impl Measure {
    pub(crate) const WORDS: [(&'static str, Measure); 7] = [
        ("grants", Measure::Grants),
        ("granted-pages", Measure::GrantedPages),
        ("peer-writable-pages", Measure::WritablePages),
        ("pages", Measure::Pages),
        ("cpu-percent", Measure::CpuPercent),
        ("ports", Measure::Ports),
        ("restarts", Measure::Restarts),
    ];

    pub(crate) fn word(self) -> &'static str {
        Self::WORDS.iter().find(|(_, measure)| *measure == self).map_or("", |(word, _)| word)
    }
}

/// An entry of `[domains]`: an inclusive range of domain ids.
pub(crate) struct Domain {
    pub first: u16,
    pub last: u16,
    pub pin: Option<Pin>,
}

/// The rule that one domain of an entry at a time is the peer.
pub(crate) struct Pin {
    /// The service that says which.
    pub by: Spanned<String>,
    /// The XenStore node whose value it says, relative to the domain's own directory.
    pub node: Spanned<String>,
    /// The key in the file.
    pub span: Span,
}

/// A service.
pub(crate) struct Service {
    pub program: Spanned<String>,
    /// SHA-256 of the program as `verify` prints it: the image must carry this one.
    pub program_hash: Option<[u8; 32]>,
    pub priority: u8,
    pub budget_us: Spanned<u32>,
    pub period_us: Spanned<u32>,
    pub stack_pages: Spanned<u32>,
    pub restart_limit: u16,
    pub after_limit: AfterLimit,
    /// Those of console, clock, entropy, power and info that it holds, in the order of
    /// [`HOLDABLE`].
    pub held: Vec<HeldCapability>,
}

/// A capability that names an object of which the image has only one.
pub(crate) struct HeldCapability {
    pub kind: Kind,
    pub rights: Rights,
    pub span: Span,
}

/// The kinds of capability that a service's own entry can give.
pub(crate) const HOLDABLE: [Kind; 5] = [Kind::Console, Kind::Clock, Kind::Entropy, Kind::Power, Kind::Info];

/// A region of memory.
pub(crate) struct Region {
    pub source: Spanned<Source>,
    pub map: Vec<MapEntry>,
    pub keep: Option<Span>,
}

/// The source of a region's memory.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Source {
    /// A fixed number of pages.
    Fixed { pages: u32 },
    /// A share of the memory that no fixed region takes; the bounds are in pages.
    Share { weight: u32, minimum: u32, maximum: u32 },
    /// The boot module.
    Module,
    /// The command line.
    CommandLine,
    /// The XenStore ring.
    XenStoreRing,
}

impl Source {
    /// Returns the word of the `kind` key, for the sources that have one.
    pub(crate) fn word(self) -> &'static str {
        match self {
            Source::Fixed { .. } => "fixed",
            Source::Share { .. } => "share",
            Source::Module => "module",
            Source::CommandLine => "command-line",
            Source::XenStoreRing => "xenstore-ring",
        }
    }
}

/// A service that maps a region.
pub(crate) struct MapEntry {
    pub service: Spanned<String>,
    pub how: Spanned<MapAccess>,
}

/// The access with which a service maps a region.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum MapAccess {
    /// Read only.
    Read,
    /// Read and write.
    ReadWrite,
    /// Read and write, as the memory of the program's allocator.
    Heap,
}

impl MapAccess {
    pub(crate) const WORDS: [(&'static str, MapAccess); 3] =
        [("read", MapAccess::Read), ("read-write", MapAccess::ReadWrite), ("heap", MapAccess::Heap)];

    pub(crate) fn word(self) -> &'static str {
        match self {
            MapAccess::Read => "read",
            MapAccess::ReadWrite => "read-write",
            MapAccess::Heap => "heap",
        }
    }

    pub(crate) fn writes(self) -> bool {
        self != MapAccess::Read
    }

    pub(crate) fn access(self) -> Access {
        if self.writes() { Access::ReadWrite } else { Access::Read }
    }
}

/// A pair of one-way queues: requests from the client, replies to it.
pub(crate) struct Queue {
    pub from: Spanned<String>,
    pub to: Spanned<String>,
    pub interface: Spanned<String>,
    pub depth: u16,
}

/// An event channel.
pub(crate) struct Port {
    pub service: Spanned<String>,
    pub peer: Peer,
    pub rights: Spanned<Rights>,
}

/// The other end of an event channel.
pub(crate) enum Peer {
    /// Domains of `[domains]`.
    Domain(Spanned<String>),
    /// The XenStore daemon, by the channel that the toolstack made.
    XenStore(Span),
}

/// A grant rule.
pub(crate) struct Grant {
    pub region: Spanned<String>,
    pub peer: Spanned<String>,
    pub access: Spanned<Access>,
    pub pages: Spanned<u32>,
    pub held_by: Spanned<String>,
    pub on_behalf_of: Spanned<String>,
}

/// A path rule: the rights of a client of the XenStore service to a node, or with `/**` at the end of
/// the path, to every node below it.
pub(crate) struct PathRight {
    pub path: Spanned<String>,
    pub read: bool,
    pub write: bool,
    pub watch: bool,
}
