//! All services of the image in one program and one address space. The cost of isolation is
//! measured against it (docs/decisions/0012-isolation-measured-against-a-fused-build.md): it has
//! none. No image that ships contains it.
//!
//! The services are those of `policy/default.toml`, unchanged, with the benchmarks' http (it
//! receives what is sent to `/sink`). The program calls them in the order of their priorities, as
//! the kernel would run them. Notifications between them stay in the program's own memory. The
//! kernel is called only for Xen and the machine: events, grants, the console, random bits, and
//! sleep.
#![cfg_attr(not(test), no_std)]
#![forbid(unsafe_code)]

extern crate alloc;

mod bound;
mod dispatch;
mod inside;
mod part;
mod rules;
mod service;
mod wiring;

use alloc::boxed::Box;

use arrayvec::ArrayVec;
use cloister_http::with_sink;
use cloister_interfaces::capability::{Clock, Console, Entropy, Grant, Info, Port, Power};
use cloister_interfaces::control::Control;
use cloister_interfaces::grants::Grants;
use cloister_interfaces::net::Net;
use cloister_interfaces::rules::GrantPermission;
use cloister_interfaces::socket::Socket;
use cloister_interfaces::store::Store;
use cloister_interfaces::{Memory, Notifications, Service, System};

use dispatch::{Fused, Member};
use wiring::Wiring;

pub use inside::{Inside, notify_slot};
pub use part::Part;
pub use service::SERVICES;

/// The capabilities of the program.
pub struct Caps<S, M: Memory> {
    /// Used by all services.
    pub console: Console<S>,
    /// Used by all services.
    pub clock: Clock<S>,
    /// For tcpip.
    pub entropy: Entropy<S>,
    /// For control.
    pub power: Power<S>,
    /// For http.
    pub info: Info<S>,
    /// The grant manager's rules.
    pub grant_rules: ArrayVec<Grant<S>, { cloister_grant_manager::MAX_RULES }>,
    /// For xenstore.
    pub xenstore_events: Port<S>,
    /// For netfront.
    pub tx_events: Port<S>,
    /// For netfront.
    pub rx_events: Port<S>,
    /// For netfront.
    pub ring_pages: GrantPermission,
    /// For netfront.
    pub rx_pages: GrantPermission,
    /// For netfront.
    pub tx_pages: GrantPermission,
    /// For xenstore.
    pub xenstore_ring: M,
    /// For netfront.
    pub rings: M,
    /// For tcpip.
    pub rx_pool: M,
    /// For tcpip.
    pub tx_pool: M::Exclusive,
    /// For tcpip and http.
    pub stream_in: M,
    /// For tcpip and http.
    pub stream_out: M,
    /// For tcpip.
    pub command_line: &'static [u8],
    /// For tcpip and http.
    pub site: &'static [u8],
    /// Memory for the queues between the services.
    pub queues: M,
}

/// Makes all services, as one. `caps` makes the capabilities, once for each service that needs one
/// of them, since none can be copied.
pub fn service<S, M>(inside: Inside<S>, caps: impl Fn() -> Caps<Inside<S>, Part<M>>) -> impl Service
where
    S: System + Copy + 'static,
    M: Memory + 'static,
{
    // Only the first `Caps` has the regions that the program alone writes.
    let own = caps();
    own.console.line(format_args!("all services in one program: for measurements"));
    let mut wiring = Wiring::new(inside, own.queues);
    let (control_store, store_of_control) = wiring.queue::<Store>(service::CONTROL, service::XENSTORE, 8);
    let (netfront_store, store_of_netfront) = wiring.queue::<Store>(service::NETFRONT, service::XENSTORE, 8);
    let (grants, grants_server) = wiring.queue::<Grants>(service::NETFRONT, service::GRANT_MANAGER, 16);
    let (net, net_server) = wiring.queue::<Net>(service::TCPIP, service::NETFRONT, 512);
    let (socket, socket_server) = wiring.queue::<Socket>(service::HTTP, service::TCPIP, 1024);
    let (shutdown, shutdown_server) = wiring.queue::<Control>(service::CONTROL, service::TCPIP, 8);
    let events =
        |ports: &[&Port<Inside<S>>]| ports.iter().fold(Notifications::default(), |all, port| all | port.notification());
    let xenstore_events = events(&[&own.xenstore_events]);
    let netfront_events = events(&[&own.tx_events, &own.rx_events]);
    let grant_rules = [own.ring_pages, own.rx_pages, own.tx_pages];

    let grant_manager = cloister_grant_manager::service(cloister_grant_manager::Caps {
        console: caps().console,
        clock: caps().clock,
        grant_rules: own.grant_rules,
        grants_clients: [grants_server].into_iter().collect(),
        rules: rules::grants(&grant_rules),
    });
    let xenstore = cloister_xenstore::service(cloister_xenstore::Caps {
        console: caps().console,
        clock: caps().clock,
        xenstore_ring: own.xenstore_ring,
        xenstore_events: own.xenstore_events,
        store_clients: [store_of_control, store_of_netfront].into_iter().collect(),
        // One program has every right itself: nobody else could pin a domain for it.
        pins: Default::default(),
        rules: rules::paths(),
    });
    let netfront = cloister_netfront::service(cloister_netfront::Caps {
        console: caps().console,
        clock: caps().clock,
        net_clients: [net_server].into_iter().collect(),
        store: netfront_store,
        grants,
        rings: own.rings,
        tx_events: own.tx_events,
        rx_events: own.rx_events,
        ring_pages: own.ring_pages,
        rx_pages: own.rx_pages,
        tx_pages: own.tx_pages,
    });
    let tcpip = cloister_tcpip::service(cloister_tcpip::Caps {
        console: caps().console,
        clock: caps().clock,
        entropy: own.entropy,
        net,
        socket_clients: [socket_server].into_iter().collect(),
        control_clients: [shutdown_server].into_iter().collect(),
        rx_pool: own.rx_pool,
        tx_pool: own.tx_pool,
        stream_in: own.stream_in.clone(),
        stream_out: own.stream_out.clone(),
        site: own.site,
        command_line: own.command_line,
    });
    let control = cloister_control::service(cloister_control::Caps {
        console: caps().console,
        clock: caps().clock,
        power: own.power,
        store: control_store,
        control: shutdown,
    });
    let http = with_sink::service(cloister_http::Caps {
        console: own.console,
        clock: caps().clock,
        info: own.info,
        socket,
        stream_in: own.stream_in,
        stream_out: own.stream_out,
        site: own.site,
    });
    let members: [Member; SERVICES] = [
        Member::new(Box::new(grant_manager), Notifications::default()),
        Member::new(Box::new(xenstore), xenstore_events),
        Member::new(Box::new(netfront), netfront_events),
        Member::new(Box::new(tcpip), Notifications::default()),
        Member::new(Box::new(control), Notifications::default()),
        Member::new(Box::new(http), Notifications::default()),
    ];
    Fused::new(members, own.clock, inside)
}
