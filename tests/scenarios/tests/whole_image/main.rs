//! Tests the whole shipped image on a simulated machine, from its start to its end.
#![forbid(unsafe_code)]

mod back_end;
mod ending;
mod intruder;
mod play;
mod restart;

use cloister_scenarios::dhcp::Dhcp;
use cloister_scenarios::image::fused_policy;
use cloister_scenarios::{Image, Network, Options};
use cloister_sim::archive::cpio;
use smoltcp::wire::Ipv4Address;

/// Returns an image that serves.
fn serving(options: Options) -> Image {
    let mut image = Image::new(options);
    image.listens(1);
    image
}

fn pattern(length: usize) -> Vec<u8> {
    (0..length).map(|at| (at * 31 + at / 251) as u8).collect()
}

fn site() -> Vec<u8> {
    cpio(&[("index.html", b"<p>hello"), ("one", b"1"), ("large", &pattern(1_000_000))])
}

/// Checks that nothing was refused, which means that the policy gives every service all that it
/// uses.
fn assert_no_refusals(image: &Image) {
    assert_eq!(image.machine.kernel().refusals(), 0, "{}", image.console());
}

#[test]
fn the_built_in_page_shows_the_policy_that_is_enforced() {
    let mut image = serving(Options::default());
    let (head, body) = image.get("/");
    assert!(head.starts_with("HTTP/1.1 200 OK\r\n"), "{head}");
    let hash = cloister_policy::hexadecimal(&image.policy.hash());
    assert!(String::from_utf8(body).unwrap().contains(&hash));
    // The wall clock is virtual, too: an hour of June 2025.
    assert!(head.contains("Date: Sun, 15 Jun 2025 15:06:"), "{head}");
    assert_no_refusals(&image);
}

#[test]
fn a_site_is_served_from_the_module() {
    let mut image = serving(Options { site: site(), ..Options::default() });
    assert_eq!(image.get("/").1, b"<p>hello");
    assert!(image.get("/large").1 == pattern(1_000_000));
    assert!(image.get("/none").0.starts_with("HTTP/1.1 404 "));
    assert_no_refusals(&image);
}

#[test]
fn the_fused_build_serves_the_same_site() {
    let mut image = serving(Options { policy: fused_policy(), site: site(), ..Options::default() });
    assert_eq!(image.get("/").1, b"<p>hello");
    assert!(image.get("/large").1 == pattern(1_000_000));
    assert!(image.get("/none").0.starts_with("HTTP/1.1 404 "));
    assert_eq!(image.pings(100, 56), 100);
    assert_no_refusals(&image);
}

#[test]
fn a_thousand_pings_are_answered() {
    let mut image = serving(Options::default());
    assert_eq!(image.pings(1000, 56), 1000);
    assert_eq!(image.pings(10, 1472), 10);
    assert_no_refusals(&image);
}

#[test]
fn an_address_is_leased() {
    let mut image = Image::new(Options { command_line: "", ..Options::default() });
    let mut dhcp = Dhcp::new(&mut image.client, Ipv4Address::new(10, 0, 0, 2));
    let listens = |image: &mut Image| {
        dhcp.serve(&mut image.client);
        image.console().contains("listening on port 80")
    };
    assert!(image.until(60, listens), "{}", image.console());
    assert!(image.console().contains("address 10.0.0.2/24, gateway 10.0.0.1"), "{}", image.console());
    assert!(image.get("/").0.starts_with("HTTP/1.1 200 "));
    assert_no_refusals(&image);
}

#[test]
fn a_small_guest_serves() {
    let mut image = serving(Options { memory: 7 << 20, site: site(), ..Options::default() });
    assert_eq!(image.get("/one").1, b"1");
    assert_no_refusals(&image);
}

/// Returns a hash of all events of a typical run, with their times.
fn trace(seed: u64) -> (u64, u64) {
    let mut image = serving(Options { seed, site: site(), ..Options::default() });
    assert_eq!(image.get("/one").1, b"1");
    assert_eq!(image.pings(20, 56), 20);
    image.machine.xen().trace()
}

#[test]
fn the_same_seed_gives_the_same_run_and_another_seed_another() {
    let first = trace(7);
    assert_eq!(trace(7), first);
    assert_ne!(trace(8), first);
}

#[test]
fn the_image_works_whatever_the_order_of_events() {
    for seed in 100..120 {
        let mut image = serving(Options { seed, site: site(), ..Options::default() });
        assert_eq!(image.get("/one").1, b"1", "seed {seed}");
        image.close_back_end();
        assert!(image.until(60, |image| image.front_state().as_deref() == Some("4")), "seed {seed}");
        assert_eq!(image.get("/one").1, b"1", "seed {seed}");
        image.store().set("/local/domain/5/control/shutdown", "poweroff");
        assert!(image.until(30, |image| image.ended().is_some()), "seed {seed}: {}", image.console());
        assert_no_refusals(&image);
    }
}

#[test]
fn nothing_runs_while_nothing_happens() {
    let mut image = serving(Options::default());
    image.get("/");
    // Connections in TIME-WAIT have ended, and the handshake's last check is over.
    image.until(60, |_| false);
    let before = image.machine.xen().trace().1;
    image.until(600, |_| false);
    let after = image.machine.xen().trace().1;
    assert!(after - before < 10, "{} things happened", after - before);
}
