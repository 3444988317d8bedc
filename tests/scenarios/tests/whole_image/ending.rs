//! Tests the end of a guest that the toolstack requests.

use cloister_scenarios::{Image, Network, Options};
use cloister_sim::hypervisor::End;
use smoltcp::socket::tcp;

use crate::{assert_no_refusals, pattern, serving, site};

const SHUTDOWN: &str = "/local/domain/5/control/shutdown";

fn ends(command: &str) -> Image {
    let mut image = serving(Options { site: site(), ..Options::default() });
    let (idle, busy) = (image.connect(), image.connect());
    image.send(busy, b"GET /large HTTP/1.1\r\nHost: a\r\n\r\n");
    assert!(image.until(5, |image| image.socket(busy).can_recv()));
    assert_eq!(image.socket(idle).state(), tcp::State::Established);
    image.store().set(SHUTDOWN, command);
    // The command is acknowledged at once, long before the end.
    assert!(image.until(1, |image| image.store().text(SHUTDOWN).as_deref() == Some("")));
    assert_eq!((image.ended(), image.front_state().as_deref()), (None, Some("4")));
    assert!(image.until(1, |image| image.console().contains("closing connections")));
    image.run(10);
    let late = image.connect();
    assert!(image.until(1, |image| image.socket(late).state() == tcp::State::Closed), "nothing new is accepted");
    let (_, body) = image.response(busy, false);
    assert!(body == pattern(1_000_000), "a response under way is finished");
    for handle in [idle, busy] {
        // Closed, not reset.
        let closed = |image: &mut Image| image.socket(handle).state() == tcp::State::CloseWait;
        assert!(image.until(1, closed), "{}", image.socket(handle).state());
        image.socket(handle).close();
    }
    assert!(image.until(15, |image| image.ended().is_some()), "{}", image.console());
    assert_eq!(image.front_state().as_deref(), Some("6"), "{}", image.console());
    assert!(image.netback().connection.is_none());
    let xen = image.machine.xen();
    assert_eq!(xen.grants.active().count(), 0, "every page was taken back");
    assert_eq!(xen.events.allocated(), 0, "every port was closed");
    drop(xen);
    assert_no_refusals(&image);
    image
}

#[test]
fn the_image_powers_off_in_order() {
    let image = ends("poweroff");
    assert_eq!(image.ended(), Some(End::PowerOff));
    assert!(image.console().contains("control: the toolstack asks to power off; closing connections"));
    assert!(!image.console().contains("not closed in time"), "{}", image.console());
}

#[test]
fn the_image_reboots_in_order() {
    assert_eq!(ends("reboot").ended(), Some(End::Reboot));
}

#[test]
fn an_unsupported_command_is_not_acknowledged() {
    let mut image = serving(Options::default());
    image.store().set(SHUTDOWN, "suspend");
    image.until(30, |_| false);
    assert_eq!(image.store().text(SHUTDOWN).as_deref(), Some("suspend"));
    assert_eq!(image.ended(), None);
    assert!(image.get("/").0.starts_with("HTTP/1.1 200 "));
    assert_no_refusals(&image);
}

#[test]
fn the_image_ends_without_a_device_too() {
    let mut image = Image::without_device(Options::default());
    image.until(5, |_| false);
    image.store().set(SHUTDOWN, "poweroff");
    assert!(image.until(15, |image| image.ended().is_some()), "{}", image.console());
    assert_eq!(image.ended(), Some(End::PowerOff));
    assert_no_refusals(&image);
}
