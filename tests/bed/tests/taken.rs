//! Services that were taken over, on real Xen: under the policy that ships, code that only attempts what it must not be
//! able to do stands in the place of tcpip, of netfront, of http. Every attempt is contained, the log names the service,
//! and the rest of the image goes on.
#![forbid(unsafe_code)]

mod support;

use std::collections::BTreeMap;
use std::ops::Range;
use std::time::{Duration, Instant};

use cloister_bed::guest::State;
use cloister_bed::{Bed, Config, Guest};
use support::{guest, ping, processor_share};

/// How long the attempts of one place may take, faults and restarts included.
const ALL: Duration = Duration::from_secs(300);
/// The fewest attempts that count as an attack.
const ATTEMPTS: usize = 100;

/// A place and the part of the processor that it may use: the policy gives 80, 60 and 70 %, and a slow machine is given room.
const PLACES: [(&str, Range<f64>); 3] = [("tcpip", 0.1..0.95), ("netfront", 0.1..0.75), ("http", 0.1..0.85)];

struct Arena {
    bed: Bed,
    place: &'static str,
    guest: Guest,
}

impl Arena {
    fn console(&self) -> String {
        std::fs::read_to_string(self.bed.guest_log(&self.guest.name)).unwrap_or_default()
    }

    fn wait_for(&self, mark: &str) {
        let mark = format!("{}: {mark}", self.place);
        let said = || self.console().lines().any(|line| line.starts_with(&mark));
        self.bed.wait_for_guest(&self.guest, &mark, ALL, &said).unwrap_or_else(|error| panic!("{error}"));
    }

    /// The state of the network device, as the front end writes it.
    fn state(&self) -> String {
        let read = format!("xenstore-read /local/domain/$(xl domid {})/device/vif/0/state", self.guest.name);
        self.bed.dom0(&read, ALL).expect("dom0 answers").stdout.trim().to_owned()
    }

    /// What must hold while the attempts are made, or when they are over and the place spins.
    fn others_go_on(&self) {
        match self.place {
            "tcpip" => {
                self.wait_for("a pause of");
                assert_eq!(self.state(), "4", "netfront stays connected with a tcpip that was taken over");
                self.wait_for("done:");
            }
            "http" => {
                self.wait_for("done:");
                assert_eq!(self.state(), "4");
                assert_eq!(ping(&self.bed, 20, "0.05"), (20, 20), "tcpip answers beside an http that was taken over");
            }
            _ => self.wait_for("done:"),
        }
    }

    /// The toolstack's command comes through XenStore and control while the place spins.
    fn ends_in_good_order(&self) {
        let began = Instant::now();
        self.bed.shutdown_guest(&self.guest.name).unwrap_or_else(|error| panic!("{error}"));
        println!("{}: shut down in {:.1} s", self.place, began.elapsed().as_secs_f32());
        assert!(matches!(self.bed.state(&self.guest.name), Ok(State::Gone)));
        assert!(self.console().contains("cloister: power off by control"), "{}", self.console());
    }

    /// What the console must say and must not say.
    fn check(&self) {
        let console = self.console();
        let breaches: Vec<&str> = console.lines().filter(|line| line.contains("BREACH")).collect();
        assert!(breaches.is_empty(), "{breaches:#?}");
        let outcomes = outcomes(&console, self.place);
        let mut counts = BTreeMap::new();
        outcomes.values().for_each(|outcome| *counts.entry(*outcome).or_insert(0) += 1);
        println!("{}: {} attempts: {counts:?}", self.place, outcomes.len());
        let done = console.lines().find(|line| line.contains(": done: ")).unwrap_or_default();
        println!("{done}");
        assert!(done.trim_end().ends_with(", 0 breaches"), "{done}");
        // Kept by the place itself: on a loaded machine the console loses lines, and says so.
        let numbers: Vec<usize> = done.split([' ', ',', ';']).filter_map(|word| word.parse().ok()).collect();
        let [made, faulted, refused, taken_in, without_effect, ..] = numbers[..] else { panic!("{done}") };
        // The last is to spin, which has no outcome.
        assert_eq!(made - 1, faulted + refused + taken_in + without_effect, "{done}");
        assert!(outcomes.len() >= ATTEMPTS, "{} outcomes", outcomes.len());
        self.attributed(&console);
    }

    /// Each fault, restart and refusal names the place; nobody else's does.
    fn attributed(&self, console: &str) {
        let named = |mark: &str| {
            let own = format!("{mark}{} ", self.place);
            let (own, others): (Vec<&str>, Vec<&str>) =
                console.lines().filter(|line| line.starts_with(mark)).partition(|line| line.starts_with(&own));
            assert!(!own.is_empty(), "no {mark}{}", self.place);
            assert!(others.is_empty(), "{others:#?}");
            own.len()
        };
        let (faults, restarts) = (named("fault: "), named("restart: "));
        let refusals = named("refused: service=");
        println!("{}: {faults} faults, {restarts} restarts, {refusals} refusals shown", self.place);
        for mark in ["cloister: fatal", "stopped: ", "panicked"] {
            assert!(!console.contains(mark), "{mark}\n{console}");
        }
    }
}

/// What came of each attempt, by its number.
fn outcomes<'a>(console: &'a str, place: &str) -> BTreeMap<usize, &'a str> {
    const OUTCOMES: [&str; 4] = ["faulted", "refused", "no effect", "taken in, no effect"];
    let prefix = format!("{place}: attempt ");
    let parse = |line: &'a str| {
        let (number, outcome) = line.trim_end().strip_prefix(&prefix)?.split_once(": ")?;
        OUTCOMES.contains(&outcome).then_some((number.parse().ok()?, outcome))
    };
    console.lines().filter_map(parse).collect()
}

#[test]
fn whoever_takes_a_service_over_has_its_place_and_no_more() {
    let mut progress = |text: &str| println!("taken: {text}");
    let first = guest("compromised-tcpip");
    let mut bed =
        Bed::start(&Config::for_guest("taken", &first), &mut progress).unwrap_or_else(|error| panic!("{error}"));
    for (place, processor) in PLACES {
        let began = Instant::now();
        let name = format!("compromised-{place}");
        let guest = Guest { memory: 24, ..guest(&name) };
        let guest = Guest { name, ..guest };
        bed.create(&guest, &mut progress).unwrap_or_else(|error| panic!("{error}"));
        let arena = Arena { bed, place, guest };
        arena.others_go_on();
        let share = processor_share(&arena.bed, &arena.guest.name, place);
        println!("{place}: uses {:.0} % of the processor when it spins", share * 100.0);
        assert!(processor.contains(&share), "{place}: {share}");
        arena.ends_in_good_order();
        arena.check();
        println!("{place}: {:.0} s", began.elapsed().as_secs_f32());
        bed = arena.bed;
    }
    bed.finish(&[]);
}
