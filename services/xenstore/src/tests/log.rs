//! What clients and the daemon do to have others' lines, or those of their own deeds, not seen.

use super::*;

/// The lines that the kernel lets through of a service at once (`console::line::Credit`, which the
/// service does not know).
const KERNEL_BURST: usize = 200;

/// Returns the lines that the kernel prints, if no time passes.
fn shown(world: &World) -> Vec<String> {
    world.system.console().lines().take(KERNEL_BURST).map(String::from).collect()
}

fn has(lines: &[String], what: &str) -> bool {
    lines.iter().any(|line| line.contains(what))
}

/// Each of these floods comes before a deed of another right, of another rule, of the node that pins
/// the peer, and of another client.
#[test]
fn a_flood_of_refused_paths_hides_no_deed() {
    for flood in [read("control/shutdown"), write("nowhere", "x"), Action::Watch(path("control"), 1)] {
        let mut world = World::new(0, 8);
        world.settle();
        for _ in 0..400 {
            assert_eq!(world.ask(1, flood.clone()), Err(StoreError::Policy));
        }
        for (client, deed) in [
            (1, write("/local/domain/0/backend/vif/7/0/state", "6")),
            (1, write("control/shutdown", "poweroff")),
            (0, write("device/vif/0/backend-id", "5")),
            (0, read("device/vif/0/mac")),
            (0, write("device/vif/0/mac", "0")),
        ] {
            assert_eq!(world.ask(client, deed), Err(StoreError::Policy));
        }
        let lines = shown(&world);
        for (client, deed) in [
            (1, "write /local/domain/0/backend/vif/7/0/state"),
            (1, "write control/shutdown"),
            (0, "write device/vif/0/backend-id"),
            (0, "read device/vif/0/mac"),
            (0, "write device/vif/0/mac"),
        ] {
            assert!(has(&lines, &format!("refused client {client}: no path rule lets it {deed}")), "{deed}: {lines:?}");
        }
        assert!(lines.len() < 40, "{}", lines.len());
    }
}

/// Messages that do not decode hide no deed, and what is left out is counted by client.
#[test]
fn what_is_left_out_is_counted_by_client() {
    let mut world = World::new(0, 8);
    world.settle();
    for _ in 0..400 {
        world.send(1, read("control/shutdown"));
        world.memory[1].requests.rewrite_last(&[0, 0, 99]);
        world.settle();
    }
    for _ in 0..20 {
        assert_eq!(world.ask(0, read("device/vif/0/mac")), Err(StoreError::Policy));
    }
    assert!(has(&shown(&world), "refused client 0: no path rule lets it read device/vif/0/mac"));
    let later = world.service.deadline().expect("a count is due").0;
    world.system.set_now(later);
    world.settle();
    let log = world.system.console();
    let counted = |client: &str| -> usize {
        let counts = log.lines().filter_map(|line| line.strip_suffix(&format!(" more lines about client {client}")));
        counts.map(|count| count.parse::<usize>().unwrap()).sum()
    };
    let printed = |start: &str| log.lines().filter(|line| line.starts_with(start)).count();
    assert_eq!(printed("violation by client 1: ") + counted("1"), 400);
    assert_eq!(printed("refused client 0: ") + counted("0"), 20);
}

/// What the console drops is said later, as far as it is known.
#[test]
fn a_refusal_that_the_console_drops_is_said_later() {
    let mut world = World::new(0, 8);
    world.settle();
    world.system.drop_lines(true);
    for (client, deed) in [
        (1, write("control/shutdown", "x")),
        (0, read("tool")),
        (1, read("tool")),
        (0, write("device/vif/0/backend-id", "5")),
    ] {
        assert_eq!(world.ask(client, deed), Err(StoreError::Policy));
    }
    world.system.drop_lines(false);
    world.system.set_now(2_000_000_000);
    world.settle();
    let log: Vec<String> = world.system.console().lines().map(String::from).collect();
    for what in [
        "refused client 1: no path rule lets it write something at control",
        "refused client 0: no path rule lets it read what no rule names",
        "refused client 1: no path rule lets it read what no rule names",
        "refused client 0: no path rule lets it write the node of a pin",
    ] {
        assert!(log.iter().any(|line| line == what), "{what}: {log:?}");
    }
}

/// The kernel breaks lines at 160 bytes (`LineBuffer::LENGTH`). No text of a client makes one of
/// xenstore's longer, so that a client cannot choose where a part begins.
#[test]
fn no_text_of_a_client_makes_a_line_long() {
    for byte in ["\u{1}", "a", "\\", "\u{7f}"] {
        for length in 0..=120 {
            let mut world = World::new(0, 8);
            world.settle();
            let forged = "refused client 0: no path rule lets it write control/shutdown";
            let text: String = byte.repeat(length).chars().chain(forged.chars()).take(120).collect();
            assert_eq!(world.ask(1, read(&text)), Err(StoreError::Policy));
            let log = world.system.console();
            assert!(log.lines().all(|line| line.len() <= 160), "{log}");
        }
    }
}

/// A daemon that answers what nobody asked hides no deed of a client.
#[test]
fn a_flood_of_the_daemon_hides_no_deed() {
    let mut world = World::new(0, 8);
    world.settle();
    world.daemon.silent = true;
    for _ in 0..1000 {
        inject(&world.ring, 2, 12_345, 0, b"");
        world.settle();
    }
    assert_eq!(world.ask(1, write("control/shutdown", "x")), Err(StoreError::Policy));
    assert!(has(&shown(&world), "write control/shutdown"));
}

#[test]
fn of_the_path_of_a_lost_watch_64_characters_are_shown() {
    let mut world = World::new(0, 8);
    world.settle();
    let chosen = "refused-client-0-no-path-rule-lets-it-write-control-shutdown-and-so-on-and-on-and-on";
    world.ask(1, Action::Watch(path(&format!("device/vif/0/{chosen}")), 9)).expect("a watch");
    world.daemon.offer_reconnection(true);
    world.daemon.quota.watches = 0;
    world.ring.store(2060, world.ring.load(2060).wrapping_add(5000));
    world.settle();
    world.daemon.reconnect();
    world.pass(1);
    let log = world.system.console();
    let line = log.lines().find(|line| line.starts_with("lost the watch")).unwrap_or_else(|| panic!("{log}"));
    assert!(!line.contains(chosen), "{line}");
}
