//! Attacks on every interface of the image, decided by a fuzzer: on stable Rust, as plain functions
//! of bytes.
//!
//! The bytes are a [`script`]: the setup of the world, then what each party does, honest or
//! hostile, step by step. Each target runs the real code on `tests/sim`. Its invariants are checked
//! after every step. At the end the peers behave, and their requests must succeed.
//! `docs/fuzzing.md` says what each target defends against, and how to add one.
#![forbid(unsafe_code)]

mod archive;
mod boot;
mod control;
#[path = "../../../policy/tests/common/mod.rs"]
mod elf;
mod grant_manager;
mod host;
mod http;
mod kernel;
mod netfront;
mod peer;
mod policy;
pub mod script;
mod tcpip;
mod xenstore;

pub use script::Trace;
use script::run;

/// A target.
pub struct Target {
    /// The name of its program, of its corpus and of its crashes.
    pub name: &'static str,
    /// The interface under attack.
    pub interface: &'static str,
    /// The attacker and the attacked, in a line.
    pub attack: &'static str,
    run: fn(&[u8], &Trace),
}

const fn row(name: &'static str, interface: &'static str, attack: &'static str, run: fn(&[u8], &Trace)) -> Target {
    Target { name, interface, attack, run }
}

/// All targets.
#[rustfmt::skip]
pub const TARGETS: &[Target] = &[
    row("boot", "start info",
        "start info, memory map, modules and a command line of any content against the kernel's boot code",
        run::<boot::Boot>),
    row("control-control", "control",
        "a tcpip that says anything against the control service, which may end the domain",
        run::<control::HostileTcpip>),
    row("control-store", "store",
        "a XenStore service that says anything against the control service",
        run::<control::HostileStore>),
    row("grant-manager-grants", "grants",
        "a driver that says anything, and a domain that keeps pages, against the grant manager and its other client",
        run::<grant_manager::Clients>),
    row("http-archive", "boot module",
        "an archive that is damaged, or none, against http's reader",
        run::<archive::Archive>),
    row("http-request", "HTTP",
        "peers that send anything, in any pieces, against http",
        run::<http::HostilePeers>),
    row("http-socket", "socket",
        "a tcpip that says anything against http",
        run::<http::HostileTcpip>),
    row("kernel-calls", "system calls",
        "services that call the kernel with anything, under each policy of this repository",
        run::<kernel::Calls>),
    row("kernel-tables", "capability tables",
        "changed capability tables, and calls under those that the kernel accepts",
        run::<kernel::Changed>),
    row("netfront-grants", "grants",
        "a grant manager that says anything against netfront",
        run::<netfront::services::HostileGrants>),
    row("netfront-handshake", "XenBus nodes",
        "a toolstack and a back end whose nodes flip, vanish or hold anything, and pages kept, against netfront",
        run::<netfront::back_end::Nodes>),
    row("netfront-net", "net",
        "a tcpip that says anything against netfront",
        run::<netfront::services::HostileTcpip>),
    row("netfront-rings", "shared rings",
        "a back end that writes the rings while they are read against netfront",
        run::<netfront::back_end::Rings>),
    row("netfront-store", "store",
        "a XenStore service that says anything against netfront",
        run::<netfront::services::HostileStore>),
    row("policy-text", "policy files",
        "policy files that anybody wrote against the compiler, its formatter and its canonical form",
        run::<policy::Text>),
    row("policy-verify", "images",
        "changed image files, and their verification",
        run::<policy::Image>),
    row("tcpip-control", "control",
        "a control service that says anything against tcpip",
        run::<tcpip::parties::HostileControl>),
    row("tcpip-frames", "the wire",
        "frames of which any field is wrong, and which change while they are read, against tcpip",
        run::<tcpip::parties::HostileWire>),
    row("tcpip-net", "net",
        "a netfront that says anything against tcpip",
        run::<tcpip::parties::HostileLink>),
    row("tcpip-socket", "socket",
        "an application that asks for anything against tcpip",
        run::<tcpip::parties::HostileApplication>),
    row("xenstore-store", "store",
        "a client that asks for anything against the XenStore service and its other client",
        run::<xenstore::Clients>),
    row("xenstore-wire", "XenStore ring",
        "a daemon that answers anything against the XenStore service",
        run::<xenstore::Daemon>),
];

/// Returns the target of this name.
#[must_use]
pub fn target(name: &str) -> Option<&'static Target> {
    TARGETS.iter().find(|target| target.name == name)
}

/// Runs a script on the target of this name.
///
/// # Panics
/// An invariant does not hold, or there is no such target.
pub fn attack(name: &str, bytes: &[u8]) {
    let target = target(name).unwrap_or_else(|| panic!("there is no target {name}"));
    target.run(bytes, &Trace::quiet());
}

impl Target {
    /// Runs a script.
    ///
    /// # Panics
    /// An invariant does not hold.
    pub fn run(&self, bytes: &[u8], trace: &Trace) {
        (self.run)(bytes, trace);
    }
}
