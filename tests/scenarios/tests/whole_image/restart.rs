//! Tests services that fault. The shipped policy stops the image. Under one that allows restarts,
//! the services start again.

use cloister_scenarios::image::shipped_policy;
use cloister_scenarios::{Network, Options};
use cloister_sim::hypervisor::End;

use crate::{serving, site};

#[test]
fn the_shipped_policy_stops_the_image() {
    let image = serving(Options::default());
    image.machine.fault("http");
    assert_eq!(image.ended(), Some(End::Crash));
}

/// Returns the shipped policy, except that every service may be restarted.
fn with_restarts() -> String {
    let text = shipped_policy();
    let changed = text.replace("restart = { limit = 0,", "restart = { limit = 3,");
    assert_ne!(text, changed);
    changed
}

fn restarted(service: &str) {
    let mut image = serving(Options { policy: with_restarts(), site: site(), ..Options::default() });
    for _ in 0..3 {
        assert_eq!(image.get("/one").1, b"1", "{service}");
        image.machine.fault(service);
        image.until(90, |_| false);
    }
    assert_eq!(image.get("/one").1, b"1", "{service}: {}", image.console());
    image.machine.fault(service);
    assert_eq!(image.ended(), Some(End::Crash), "three restarts were allowed");
}

#[test]
fn control_starts_again() {
    restarted("control");
}

#[test]
fn grant_manager_starts_again() {
    restarted("grant-manager");
}

#[test]
fn http_starts_again() {
    restarted("http");
}

#[test]
fn netfront_starts_again() {
    restarted("netfront");
}

#[test]
fn xenstore_starts_again() {
    restarted("xenstore");
}

/// Peers are not notified of a restart (SECURITY.md): netfront assumes that tcpip still has its
/// pages, and http that the port is open.
#[test]
fn tcpip_starts_again_with_the_next_connection_of_the_link_and_a_new_application() {
    let mut image = serving(Options { policy: with_restarts(), site: site(), ..Options::default() });
    image.machine.fault("tcpip");
    image.until(10, |_| false);
    image.close_back_end();
    image.machine.fault("http");
    image.listens(2);
    assert_eq!(image.get("/one").1, b"1");
}

/// Returns the shipped policy, except that every service is stopped when it faults.
fn with_stops() -> String {
    let text = shipped_policy();
    let changed = text.replace("then = \"stop-image\" }", "then = \"stop-service\" }");
    assert_ne!(text, changed);
    changed
}

/// The back end keeps the rings mapped until it ends the connection. The pools are no longer
/// granted at once.
#[test]
fn a_stopped_grant_manager_leaves_no_page_but_those_that_are_in_use() {
    let mut image = serving(Options { policy: with_stops(), site: site(), ..Options::default() });
    assert_eq!(image.get("/one").1, b"1");
    assert!(image.machine.xen().grants.active().count() > 200);
    image.machine.fault("grant-manager");
    assert_eq!(image.ended(), None);
    assert_eq!(image.machine.xen().grants.active().count(), 2, "the rings");
    image.until(5, |_| false);
    assert_eq!(image.machine.xen().grants.active().count(), 2);
    image.close_back_end();
    image.until(5, |_| false);
    assert_eq!(image.machine.xen().grants.active().count(), 0, "{}", image.console());
    assert!(
        image.console().contains("stopped: grant-manager: its restart rule allows no more; pages in use by peers: 2")
    );
    assert!(image.console().contains("stopped: peers use no page of a stopped service any more"));
    assert_eq!(image.ended(), None);
}

/// The other services go on without the one that is stopped, and can be shut down.
#[test]
fn without_any_one_service_the_others_run_on() {
    for service in ["netfront", "tcpip", "http", "grant-manager"] {
        let mut image = serving(Options { policy: with_stops(), site: site(), ..Options::default() });
        image.machine.fault(service);
        image.until(30, |_| false);
        assert_eq!(image.ended(), None, "{service}: {}", image.console());
        let node = image.store().own("control/shutdown");
        image.store().set(&node, "poweroff");
        image.until(30, |_| false);
        assert_eq!(image.ended(), Some(End::PowerOff), "{service}: {}", image.console());
    }
}
