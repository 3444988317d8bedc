//! Checks what a service says of its peers, on a console that takes lines or drops them.

use cloister_caps::Slot;
use cloister_interfaces::Instant;
use cloister_interfaces::capability::Console;
use cloister_interfaces::log::{Excerpt, Peer, PeerLog};
use cloister_sim::Recorder;

const REFILL: u64 = 100_000_000;
const BURST: usize = 16;

struct Bench {
    system: Recorder,
    console: Console<Recorder>,
    log: PeerLog,
}

impl Bench {
    fn new() -> Bench {
        let system = Recorder::new();
        let console = Console::new(system.clone(), Slot(0));
        Bench { system, console, log: PeerLog::new(Peer::Named("peer")) }
    }

    fn add(&mut self, now: u64, kind: usize, text: &str) {
        self.log.add(&self.console, Instant(now), kind, format_args!("{text}"));
    }

    fn catch_up(&mut self, now: u64) {
        self.log.catch_up(&self.console, Instant(now), &|kind, f| write!(f, "late {kind}"));
    }

    /// Returns the lines since the last call.
    fn lines(&mut self) -> Vec<String> {
        self.system.take_console().lines().map(String::from).collect()
    }
}

#[test]
fn the_first_of_each_kind_is_printed_whatever_came_before() {
    let mut bench = Bench::new();
    (0..400).for_each(|_| bench.add(0, 0, "flood"));
    assert_eq!(bench.lines(), vec!["flood"; BURST]);
    for kind in 1..PeerLog::KINDS {
        bench.add(0, kind, &format!("deed {kind}"));
        assert_eq!(bench.lines(), [format!("deed {kind}")]);
        bench.add(0, kind, "again");
        assert!(bench.lines().is_empty());
    }
}

#[test]
fn what_is_left_out_is_counted_once_there_is_credit() {
    let mut bench = Bench::new();
    assert_eq!(bench.log.deadline(), None);
    (0..BURST + 3).for_each(|_| bench.add(5, 0, "x"));
    assert_eq!(bench.log.deadline(), Some(Instant(5 + REFILL)));
    assert_eq!(bench.lines().len(), BURST);
    bench.catch_up(4 + REFILL);
    assert!(bench.lines().is_empty());
    bench.catch_up(5 + REFILL);
    assert_eq!(bench.lines(), ["3 more lines about peer"]);
    assert_eq!(bench.log.deadline(), None);
    bench.catch_up(9 * REFILL);
    assert!(bench.lines().is_empty(), "nothing is counted twice");
    // Before the next line, if there is one before.
    (0..2 * BURST).for_each(|_| bench.add(9 * REFILL, 0, "x"));
    bench.lines();
    bench.add(10 * REFILL, 0, "next");
    assert_eq!(bench.lines().last().map(String::as_str), Some("next"));
}

/// However long a flood lasts: what is printed and what is counted are all of it.
#[test]
fn a_flood_is_printed_at_a_rate_and_counted() {
    let mut bench = Bench::new();
    let (mut printed, mut counted) = (0, 0);
    for step in 0..10_000_u64 {
        let now = step * REFILL / 100;
        bench.add(now, 0, "x");
        bench.catch_up(now);
        for line in bench.lines() {
            match line.strip_suffix(" more lines about peer") {
                Some(count) => counted += count.parse::<usize>().unwrap(),
                None => printed += 1,
            }
        }
    }
    assert!((100..=100 + BURST).contains(&printed), "{printed}");
    bench.catch_up(1000 * REFILL);
    let last = bench.lines().concat();
    counted += last.strip_suffix(" more lines about peer").map_or(0, |count| count.parse().unwrap());
    assert_eq!(printed + counted, 10_000);
}

/// A console that drops lines says so, and gets the first ones again when it takes lines.
#[test]
fn a_first_line_that_was_dropped_comes_again() {
    let mut bench = Bench::new();
    bench.system.drop_lines(true);
    (0..5).for_each(|_| bench.add(0, 3, "three"));
    bench.add(0, 7, "seven");
    bench.catch_up(REFILL);
    assert_eq!(bench.log.deadline(), Some(Instant(2 * REFILL)), "not at once");
    bench.lines();
    bench.system.drop_lines(false);
    bench.catch_up(2 * REFILL);
    assert_eq!(bench.lines(), ["late 3", "late 7", "4 more lines about peer"]);
    assert_eq!(bench.log.deadline(), None);
}

#[test]
fn what_is_said_once_is_not_counted() {
    let mut bench = Bench::new();
    for _ in 0..100 {
        bench.log.add_first(&bench.console, Instant(0), 1, format_args!("once"));
    }
    assert_eq!((bench.lines(), bench.log.deadline()), (vec!["once".to_string()], None));
}

#[test]
fn an_excerpt_is_short_and_printable() {
    assert_eq!(Excerpt(b"device/vif/0").to_string(), "device/vif/0");
    assert_eq!(Excerpt(&[b'a'; 64]).to_string(), "a".repeat(64));
    assert_eq!(Excerpt(&[b'a'; 65]).to_string(), format!("{}...", "a".repeat(64)));
    assert_eq!(Excerpt(b"\n\x1b[2J\xff\\").to_string(), "\\n\\x1b[2J\\xff\\\\");
    for byte in 0..=u8::MAX {
        for length in 0..200 {
            let shown = Excerpt(&vec![byte; length]).to_string();
            assert!(shown.len() <= Excerpt::LENGTH + 3 && shown.bytes().all(|byte| matches!(byte, b' '..=b'~')));
        }
    }
}
