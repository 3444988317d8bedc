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
    /// The request of `net` that ends the connection of the driver.
    Closing(&'a str),
    /// Replies and events of its server.
    Told(&'a str),
    /// Memory and event channels that it shares with other domains.
    Fed,
}

/// What the sender of an input can make a program do.
#[derive(Clone, Copy, Default)]
pub(crate) struct Effects {
    /// End the domain, with its capability.
    pub power: bool,
    /// Use its channels to other domains: `send`, or everything.
    pub ports: Ports,
    /// Send on its channel to the XenStore daemon.
    pub daemon: bool,
    /// Issue and end grants that it holds.
    pub grants: Grants,
    /// Have the grants on its behalf ended.
    pub ends: bool,
    /// Read, write and watch the paths of the client that asks.
    pub paths: bool,
    /// Set the pins that it sets.
    pub pins: bool,
    /// Ask drivers to end their connections.
    pub closes: bool,
    /// Make requests, by these interfaces.
    pub asks: &'static [&'static str],
    /// Answer clients, by these interfaces.
    pub tells: &'static [&'static str],
    /// Pass data to other domains, by memory, event channels and paths.
    pub outside: bool,
}

/// The operations on a channel to another domain.
#[derive(Clone, Copy, Default, PartialEq, Eq)]
pub(crate) enum Ports {
    /// None.
    #[default]
    None,
    /// `send`.
    Send,
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
        // tcpip ends the driver's connection before the domain ends.
        Input::Closing("net") => {
            Effects { ports: Ports::Close, ends: true, asks: &["store"], tells: &["net"], outside: true, ..none }
        }
        // Requests carry page numbers and lengths. Only the store makes netfront connect.
        Input::Asked("net") => Effects { ports: Ports::Send, asks: &["net"], outside: true, ..none },
        // Bytes of a connection, and its end, become frames.
        Input::Asked("socket") => Effects { asks: &["net", "socket"], outside: true, ..none },
        // tcpip ends its connections, which peers and applications see.
        Input::Asked("control") => Effects { closes: true, asks: &["net"], tells: &["socket"], outside: true, ..none },
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
        // Frames: tcpip answers them, and applications get what they carry.
        Input::Told("net") => Effects { asks: &["net"], tells: &["socket"], outside: true, ..none },
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
            closes: true,
            asks: ALL,
            tells: ALL,
            outside: true,
            ..none
        },
        Input::Asked(_) | Input::Closing(_) | Input::Told(_) => none,
    }
}

/// Returns `true` if the messages of an interface carry bytes that a party beyond the sender
/// chose, so that an attack, or a secret, passes through a sender that follows its interfaces.
///
/// The others carry numbers of pages, lengths and states, which the sender makes itself.
pub(crate) fn carries_bytes(interface: &str) -> bool {
    !matches!(interface, "control" | "grants" | "net")
}
