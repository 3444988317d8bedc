//! Tests a program in place of a service that attempts what its policy does not allow.

use cloister_caps::tables::Tables;
use cloister_caps::{Operation, Slot};
use cloister_interfaces::{Instant, Memory, Notifications, Service, System};
use cloister_scenarios::image::{DRIVER_DOMAIN, driver_domain_policy, shipped_policy};
use cloister_scenarios::{Image, Network, Options};
use cloister_sim::program::{Kernel, SharedRegion};

/// A program that calls a function whenever it runs.
struct Intruder {
    act: fn(),
    /// It always wants to run.
    restless: bool,
}

impl Service for Intruder {
    fn notified(&mut self, _: Notifications) {
        (self.act)();
    }
    fn deadline(&self) -> Option<Instant> {
        self.restless.then_some(Instant::START)
    }
}

/// Returns the slot of a region of http.
fn slot_of(region: &str) -> Slot {
    let policy = cloister_policy::parse("the policy", &shipped_policy()).unwrap();
    let blob = policy.tables().unwrap();
    let tables = Tables::parse(&blob).unwrap();
    let found = tables
        .capabilities()
        .iter()
        .find(|capability| tables.service_name(capability.service) == "http" && tables.name(capability.name) == region);
    Slot(found.unwrap().slot)
}

fn try_everything() {
    for slot in 0..70 {
        for operation in Operation::ALL {
            for arguments in [[0; 4], [1, 0, 0, 0], [u64::MAX; 4]] {
                let _ = Kernel.invoke(Slot(slot), *operation, arguments);
            }
        }
    }
}

#[test]
fn the_other_services_run_on_during_every_attempt() {
    let mut image = Image::new(Options::default());
    image.machine.install("http", || Box::new(Intruder { act: try_everything, restless: true }));
    assert!(image.until(60, |image| image.console().contains("tcpip: address 10.0.0.2/24")));
    assert_eq!(image.pings(20, 56), 20);
    assert_eq!(image.ended(), None);
    assert!(image.machine.kernel().refusals() > 1000);
    let line =
        "refused: service=http operation=off object=slot:0 missing=\"no rule gives http a capability in this slot\"";
    assert!(image.console().contains(line), "{}", image.console());
    assert_eq!(image.machine.xen().grants.active().count(), 258, "it ended no grant, and made none");
    image.store().set("/local/domain/5/control/shutdown", "poweroff");
    assert!(image.until(30, |image| image.ended().is_some()), "{}", image.console());
}

/// Tries to open channels with several domains, to have pages granted to them, and to pin them.
fn try_every_domain() {
    for slot in 0..70 {
        for operation in [Operation::PortOpen, Operation::GrantIssue, Operation::DomainPin] {
            for domain in [0, 1, 5, 11, 12, 13, 14, 32_751] {
                let _ = Kernel.invoke(Slot(slot), operation, [domain, 0, 0, 0]);
                let _ = Kernel.invoke(Slot(slot), operation, [0, domain, 0, 0]);
            }
        }
    }
}

/// The policy allows two domains. Neither xenstore, which nobody asks for the number, has pinned one
/// of them, nor can who opens the ports or issues the grants.
#[test]
fn a_service_in_the_place_of_the_driver_or_the_grant_manager_chooses_no_peer() {
    for service in ["netfront", "grant-manager"] {
        let mut image =
            Image::new(Options { policy: driver_domain_policy(), backend: DRIVER_DOMAIN, ..Options::default() });
        image.machine.install(service, || Box::new(Intruder { act: try_every_domain, restless: false }));
        image.until(5, |_| false);
        if service == "netfront" {
            assert_eq!(image.peers(), [].into(), "{}", image.console());
        } else {
            // The driver has asked: the one domain is that which the toolstack chose.
            assert!(image.peers().iter().all(|peer| *peer == DRIVER_DOMAIN), "{:?}", image.peers());
        }
        assert!(image.machine.kernel().refusals() > 1000, "{}", image.machine.kernel().refusals());
        assert_eq!(image.ended(), None);
    }
}

fn write_what_is_read() {
    let region = SharedRegion::new(Kernel, slot_of("stream-in"));
    assert_eq!(region.load(0), 0);
    region.store(0, 1);
}

#[test]
#[should_panic(expected = "write fault: stream-in is mapped for reading")]
fn what_it_maps_for_reading_it_cannot_write() {
    let mut image = Image::new(Options::default());
    image.machine.install("http", || Box::new(Intruder { act: write_what_is_read, restless: false }));
    image.until(1, |_| false);
}

fn write_the_others_index() {
    SharedRegion::new(Kernel, slot_of("socket.requests.consumer")).write(0, &[1]);
}

#[test]
#[should_panic(expected = "write fault: socket.requests.consumer is mapped for reading")]
fn an_index_of_the_other_side_of_a_queue_it_cannot_write() {
    let mut image = Image::new(Options::default());
    image.machine.install("http", || Box::new(Intruder { act: write_the_others_index, restless: false }));
    image.until(1, |_| false);
}
