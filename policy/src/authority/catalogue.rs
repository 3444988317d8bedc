//! The catalogue of programs and interfaces: what others can make a program do that follows its
//! interfaces.
//!
//! A program that is not in it does whatever anyone wants who can pass data to it. docs/policy.md
//! has the same tables in words.

/// A program of this project, with the interfaces of the queues that it may have.
pub(crate) struct Program {
    /// The name of its crate.
    pub name: &'static str,
    /// The interfaces that it serves.
    pub serves: &'static [&'static str],
    /// The interfaces of which it is a client.
    pub asks: &'static [&'static str],
}

/// Every program whose behaviour the tables below describe.
pub(crate) const PROGRAMS: &[Program] = &[
    Program { name: "cloister-control", serves: &[], asks: &["control", "store"] },
    Program { name: "cloister-grant-manager", serves: &["grants"], asks: &[] },
    Program { name: "cloister-http", serves: &[], asks: &["socket"] },
    Program { name: "cloister-netfront", serves: &["net"], asks: &["grants", "store"] },
    Program { name: "cloister-tcpip", serves: &["control", "socket"], asks: &["net"] },
    Program { name: "cloister-xenstore", serves: &["store"], asks: &[] },
];

/// Returns the program of this name.
pub(crate) fn program(name: &str) -> Option<&'static Program> {
    PROGRAMS.iter().find(|program| program.name == name)
}

/// The way in which data comes to a program that follows its interfaces.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Input<'a> {
    /// Requests of a client.
    Asked(&'a str),
    /// Replies and events of its server.
    Told(&'a str),
    /// Memory that others write, and event channels to other domains.
    Fed,
}

/// What the sender of an input can make a program do.
#[derive(Clone, Copy, Default)]
pub(crate) struct Effects {
    /// End the domain, with its capability.
    pub power: bool,
    /// Use its channels to other domains: `send` and `close`, or everything.
    pub ports: Ports,
    /// Send on its channel to the XenStore daemon.
    pub daemon: bool,
    /// Issue and end grants that it holds.
    pub grants: Grants,
    /// Have the grants on its behalf ended, by their holder.
    pub ends: bool,
    /// Read, write and watch the paths of the client that asks.
    pub paths: bool,
    /// Set the pins that it sets.
    pub pins: bool,
    /// Make requests, by these interfaces.
    pub asks: &'static [&'static str],
    /// Answer clients, by these interfaces.
    pub tells: &'static [&'static str],
    /// Pass data on by memory, and to other domains by event channels and paths.
    pub outside: bool,
}

/// The operations on a channel to another domain.
#[derive(Clone, Copy, Default, PartialEq, Eq)]
pub(crate) enum Ports {
    /// None.
    #[default]
    None,
    /// `send` and `close`.
    Close,
    /// All that the service may do.
    All,
}

/// The grants of a holder.
#[derive(Clone, Copy, Default, PartialEq, Eq)]
pub(crate) enum Grants {
    /// None.
    #[default]
    None,
    /// Those on behalf of the client that asks.
    OfClient,
    /// All that it holds.
    All,
}

/// Every interface.
const ALL: &[&str] = &["control", "grants", "net", "socket", "store"];

/// Returns what an input can make a program of the catalogue do.
///
/// Writing lines to its console is always possible: refusals and violations are logged. A program
/// does nothing on an input that has no row.
pub(crate) fn effects(input: Input<'_>) -> Effects {
    let none = Effects::default();
    match input {
        // The grant manager knows its clients by their queues, and each client's rules.
        Input::Asked("grants") => Effects { grants: Grants::OfClient, asks: &["grants"], ..none },
        // The same for paths. What it reads from the daemon is not the client's to choose.
        Input::Asked("store") => Effects { paths: true, daemon: true, asks: &["store"], ..none },
        // One request ends the driver's connection; so does the driver itself if no frame that it was
        // asked to send comes back for 60 s. Only the store makes it connect again.
        Input::Asked("net") => {
            Effects { ports: Ports::Close, ends: true, asks: &["net", "store"], tells: &["net"], outside: true, ..none }
        }
        // Bytes of a connection, and its end, become frames; room that they take and give is what
        // other applications see, and the end of the last one what control waits for.
        Input::Asked("socket") => {
            Effects { asks: &["net", "socket"], tells: &["control", "socket"], outside: true, ..none }
        }
        // tcpip ends its connections, which peers and applications see.
        Input::Asked("control") => Effects { asks: &["net"], tells: &["control", "socket"], outside: true, ..none },
        // Values are the commands of the toolstack and the parameters of devices: whoever says them
        // powers off, names the back end, and makes netfront connect and end its connection.
        Input::Told("store") => Effects {
            power: true,
            ports: Ports::All,
            grants: Grants::All,
            asks: &["control", "grants", "store"],
            tells: &["net"],
            outside: true,
            ..none
        },
        // Each answer takes netfront a step further in its handshake, and names references that it
        // publishes.
        Input::Told("grants") => Effects {
            ports: Ports::All,
            grants: Grants::All,
            asks: &["grants", "store"],
            tells: &["net"],
            outside: true,
            ..none
        },
        // Frames: tcpip answers them, and applications get what they carry. The end of the last
        // connection, or of the driver's, is what control waits for.
        Input::Told("net") => Effects { asks: &["net"], tells: &["control", "socket"], outside: true, ..none },
        // Bytes of connections: http answers them.
        Input::Told("socket") => Effects { asks: &["socket"], ..none },
        // tcpip says that it is done. Without a command of the toolstack, control does nothing then.
        Input::Told("control") => none,
        Input::Fed => Effects {
            power: true,
            ports: Ports::All,
            daemon: true,
            grants: Grants::All,
            pins: true,
            asks: ALL,
            tells: ALL,
            outside: true,
            ..none
        },
        Input::Asked(_) | Input::Told(_) => none,
    }
}

/// A direction of a queue.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Direction {
    /// From the client to the server.
    Request,
    /// From the server to the client.
    Answer,
}

/// Returns `true` if the messages of an interface carry bytes that a party beyond the sender
/// chose, so that an attack, or a secret, passes through a sender that follows its interfaces.
///
/// The others carry numbers of pages, lengths and states, which the sender makes itself. Answers of
/// `net` say the hardware address that the store named.
pub(crate) fn carries_bytes(interface: &str, direction: Direction) -> bool {
    match interface {
        "control" | "grants" => false,
        "net" => direction == Direction::Answer,
        _ => true,
    }
}

impl Input<'_> {
    /// Returns `true` if bytes of the attacker's choice may go on from the input to what the program
    /// sends. What netfront says to the store when it ends a connection is fixed.
    pub(crate) fn brings_bytes(self) -> bool {
        self != Input::Asked("net")
    }
}
