//! Tests back ends that leave, come back, and keep pages that are no longer granted.

use cloister_scenarios::image::{DRIVER_DOMAIN, OTHER_DRIVER_DOMAIN, driver_domain_policy, shipped_policy};
use cloister_scenarios::{Image, Network, Options};

use crate::{assert_no_refusals, serving, site};

fn connected(image: &mut Image) -> bool {
    image.front_state().as_deref() == Some("4") && image.netback().connection.is_some()
}

#[test]
fn a_back_end_closes_and_comes_back() {
    let mut image = serving(Options { site: site(), ..Options::default() });
    let kept = image.connect();
    image.send(kept, b"GET /one HTTP/1.1\r\nHost: a\r\n\r\n");
    assert_eq!(image.response(kept, false).1, b"1");
    for _ in 0..3 {
        image.close_back_end();
        assert!(image.until(30, |image| image.front_state().as_deref() == Some("6")), "{}", image.console());
        assert!(image.until(60, connected), "{}", image.console());
        assert_eq!(image.get("/one").1, b"1");
    }
    // A TCP connection outlives that of the link.
    image.send(kept, b"GET /one HTTP/1.1\r\nHost: a\r\n\r\n");
    assert_eq!(image.response(kept, false).1, b"1");
    assert_no_refusals(&image);
}

#[test]
fn the_device_is_removed_and_created_again() {
    let mut image = serving(Options { site: site(), ..Options::default() });
    image.remove_device();
    assert!(image.until(60, |image| image.console().contains("no network device")), "{}", image.console());
    assert_eq!(image.machine.xen().grants.active().count(), 0);
    image.create_device();
    assert!(image.until(60, connected), "{}", image.console());
    assert_eq!(image.get("/one").1, b"1");
    assert_no_refusals(&image);
}

#[test]
fn a_device_that_comes_late_is_used() {
    let mut image = Image::without_device(Options { site: site(), ..Options::default() });
    image.until(100, |_| false);
    image.create_device();
    assert!(image.until(5, connected), "{}", image.console());
    image.listens(1);
    assert_eq!(image.get("/one").1, b"1");
    assert_no_refusals(&image);
}

#[test]
fn a_driver_domain_may_be_the_back_end() {
    let policy = driver_domain_policy();
    let mut image = serving(Options { policy, backend: DRIVER_DOMAIN, site: site(), ..Options::default() });
    assert_eq!(image.get("/one").1, b"1");
    let peers: Vec<u16> = image.machine.xen().grants.active().map(|(_, _, peer, _)| peer.0).collect();
    assert_eq!((peers.len(), peers.iter().all(|peer| *peer == DRIVER_DOMAIN)), (258, true));
    assert_no_refusals(&image);
}

/// Runs until the device is connected, and checks at each step that nothing is shared with two
/// domains.
fn connects_with_one_peer_at_a_time(image: &mut Image, seconds: u64) -> bool {
    image.until(seconds, |image| {
        let peers = image.peers();
        assert!(peers.len() <= 1, "shared with {peers:?}\n{}", image.console());
        connected(image)
    })
}

#[test]
fn a_device_moves_to_another_back_end_that_the_policy_allows() {
    let options =
        Options { policy: driver_domain_policy(), backend: DRIVER_DOMAIN, site: site(), ..Options::default() };
    let mut image = serving(options);
    for domain in [OTHER_DRIVER_DOMAIN, DRIVER_DOMAIN, OTHER_DRIVER_DOMAIN] {
        image.move_device(domain);
        assert!(connects_with_one_peer_at_a_time(&mut image, 60), "{}", image.console());
        assert_eq!((image.peers(), image.machine.xen().grants.active().count()), ([domain].into(), 258));
        assert_eq!(image.get("/one").1, b"1");
    }
    // The ports and grants were ended before the number was read again.
    assert!(!image.console().contains("still in use"), "{}", image.console());
    assert_no_refusals(&image);
}

#[test]
fn another_back_end_gets_nothing_while_the_earlier_one_keeps_pages() {
    let options =
        Options { policy: driver_domain_policy(), backend: DRIVER_DOMAIN, site: site(), ..Options::default() };
    let mut image = serving(options);
    image.keep_mappings(true);
    image.move_device(OTHER_DRIVER_DOMAIN);
    let waits = |image: &mut Image| image.console().contains("netfront: backend-id: the device has another back end");
    assert!(image.until(90, waits), "{}", image.console());
    assert!(!connects_with_one_peer_at_a_time(&mut image, 120));
    assert_eq!((image.peers(), image.machine.xen().grants.active().count()), ([DRIVER_DOMAIN].into(), 2));
    image.release_earlier();
    assert!(connects_with_one_peer_at_a_time(&mut image, 120), "{}", image.console());
    assert_eq!((image.peers(), image.get("/one").1.as_slice()), ([OTHER_DRIVER_DOMAIN].into(), &b"1"[..]));
    assert_no_refusals(&image);
}

/// The new run knows nothing of the ports and grants that the earlier one has left.
#[test]
fn a_device_moves_while_netfront_starts_again() {
    let policy = driver_domain_policy().replace("restart = { limit = 0,", "restart = { limit = 3,");
    let mut image = serving(Options { policy, backend: DRIVER_DOMAIN, site: site(), ..Options::default() });
    image.machine.fault("netfront");
    image.move_device(OTHER_DRIVER_DOMAIN);
    assert!(connects_with_one_peer_at_a_time(&mut image, 60), "{}", image.console());
    assert_eq!((image.peers(), image.get("/one").1.as_slice()), ([OTHER_DRIVER_DOMAIN].into(), &b"1"[..]));
    assert_no_refusals(&image);
}

/// Under the policy that ships, only domain 0 is allowed, and under that of driver domains only
/// those.
#[test]
fn a_back_end_in_a_domain_that_the_policy_does_not_name_gets_nothing_and_is_logged() {
    for (policy, backend) in [(shipped_policy(), DRIVER_DOMAIN), (shipped_policy(), 1), (driver_domain_policy(), 0)] {
        let mut image = Image::new(Options { policy, backend, ..Options::default() });
        image.until(300, |_| false);
        let line = format!("netfront: backend-id: domain {backend} is not a back end that the policy allows");
        assert_eq!(image.console().matches(&line).count(), 1, "{}", image.console());
        let xen = image.machine.xen();
        assert_eq!((xen.grants.active().count(), xen.events.allocated()), (0, 0), "domain {backend}");
        drop(xen);
        // It did not get as far as a request that the grant manager or the kernel would refuse.
        assert_no_refusals(&image);
        image.store().set("/local/domain/5/control/shutdown", "poweroff");
        assert!(image.until(30, |image| image.ended().is_some()), "{}", image.console());
    }
}

/// With one event channel and with two, the policy allows writing every node that is published.
#[test]
fn every_published_node_may_be_written_under_the_policy_that_ships() {
    for split in [true, false] {
        let mut image = Image::without_device(Options::default());
        if !split {
            image.netback().features.retain(|(name, _)| name != "feature-split-event-channels");
        }
        image.create_device();
        image.listens(1);
        let channels: &[&str] = if split { &["event-channel-tx", "event-channel-rx"] } else { &["event-channel"] };
        let others = ["tx-ring-ref", "rx-ring-ref", "feature-rx-notify", "feature-no-csum-offload", "feature-sg"];
        for name in channels.iter().chain(&others).chain(&["request-rx-copy", "feature-gso-tcpv4"]) {
            let text = image.store().text(&format!("/local/domain/5/device/vif/0/{name}"));
            assert!(text.is_some_and(|text| text.parse::<u32>().is_ok()), "{name}");
        }
        for (name, can) in [("poweroff", "1"), ("reboot", "1"), ("suspend", "0")] {
            let text = image.store().text(&format!("/local/domain/5/control/feature-{name}"));
            assert_eq!(text.as_deref(), Some(can), "{name}");
        }
        let console = image.console();
        assert!(!console.contains("refused") && !console.contains("violation"), "{console}");
        assert_no_refusals(&image);
    }
}

#[test]
fn a_back_end_without_split_channels_gets_one() {
    let mut image = Image::without_device(Options { site: site(), ..Options::default() });
    image.netback().features.retain(|(name, _)| name != "feature-split-event-channels");
    image.create_device();
    image.listens(1);
    assert_eq!(image.machine.xen().events.allocated(), 1);
    assert_eq!(image.get("/one").1, b"1");
    assert_no_refusals(&image);
}

#[test]
fn the_back_end_cannot_write_pages_granted_for_reading() {
    let image = serving(Options::default());
    let standing: Vec<_> = image.machine.xen().grants.active().collect();
    let writable = standing.iter().filter(|(_, _, _, writable)| *writable).count();
    assert_eq!((standing.len(), writable), (258, 130), "rings and receive pages alone are written");
    for (reference, _, peer, writable) in standing {
        assert_eq!(image.machine.map(peer.0, reference.0, true).is_ok(), writable);
    }
}

#[test]
fn a_back_end_that_keeps_the_rings_is_waited_for() {
    let mut image = serving(Options { site: site(), ..Options::default() });
    image.keep_mappings(true);
    image.close_back_end();
    assert!(image.until(90, |image| image.console().contains("still maps pages")), "{}", image.console());
    image.until(60, |_| false);
    assert_eq!(image.machine.xen().grants.active().count(), 2, "what is not held was taken back");
    assert!(!connected(&mut image));
    image.keep_mappings(false);
    image.close_back_end();
    assert!(image.until(120, connected), "{}", image.console());
    assert_eq!(image.get("/one").1, b"1");
    assert_no_refusals(&image);
}

/// Sends enough requests at once to fill segments, and takes their answers.
fn burst(image: &mut Image) {
    const REQUESTS: usize = 240;
    let connection = image.connect();
    image.send(connection, &b"HEAD /one HTTP/1.1\r\nHost: a\r\n\r\n".repeat(REQUESTS));
    let mut answers = Vec::new();
    let answered = |image: &mut Image| {
        answers.extend(image.take(connection));
        String::from_utf8_lossy(&answers).matches("HTTP/1.1 200 OK\r\n").count() == REQUESTS
    };
    assert!(image.until(60, answered), "{}", image.console());
}

#[test]
fn uncut_frames_from_the_back_end_arrive() {
    let mut image = serving(Options { site: site(), ..Options::default() });
    burst(&mut image);
    assert!(image.netback().longest > 4096, "{}", image.netback().longest);
    assert_no_refusals(&image);
}

#[test]
fn a_back_end_without_segmentation_or_long_frames_serves_too() {
    for missing in ["feature-sg", "feature-gso-tcpv4"] {
        let mut image = Image::without_device(Options { site: site(), ..Options::default() });
        image.netback().features.retain(|(name, _)| name != missing);
        image.create_device();
        image.listens(1);
        burst(&mut image);
        assert_eq!(image.get("/large").1.len(), 1_000_000);
        assert_no_refusals(&image);
    }
}
