//! The kernel's answers to grants and ports, under policies of one rule.

use cloister_caps::tables::{Object, Tables};
use cloister_caps::{GrantRuleId, Operation, ServiceId, Status};
use cloister_kernel_core::claims::{Claims, Owner};
use cloister_kernel_core::memory::{FrameRange, FreeMemory};
use cloister_kernel_core::placement::{BootRegions, place_regions};
use cloister_kernel_core::{Answer, Kernel, Outcome};
use cloister_proofs::bits;
use cloister_sim::platform::CheckingPlatform;
use cloister_sim::seed::{Random, seed};

const THEORY: &str = include_str!("../../theorems/grants.smt2");
/// Pages of the rules before and after the one that is tried, so that their references are others.
const BEFORE: u32 = 37;
/// Pages of the rule: several words of references.
const PAGES: u32 = 200;

/// Returns a policy in which `manager` holds a grant rule between two others, and `driver` a port.
fn policy(ids: &str) -> String {
    let service = |name: &str| {
        format!(
            "[services.{name}]\nprogram = \"p\"\npriority = 5\nstack = \"4K\"\n\
             cpu = {{ budget_us = 1000, period_us = 10000 }}\nrestart = {{ limit = 0, then = \"stop-image\" }}\n"
        )
    };
    let rule = |name: &str, pages: u32| {
        format!(
            "[regions.{name}]\npages = {pages}\nmap = {{ driver = \"read-write\" }}\n\
             [grants.{name}-pages]\nregion = \"{name}\"\npeer = \"others\"\naccess = \"read\"\npages = {pages}\n\
             lifetime = \"session\"\nheld-by = \"manager\"\non-behalf-of = \"driver\"\n"
        )
    };
    format!(
        "format = 2\nimage = {{ name = \"ranges\" }}\n[domains.others]\nids = \"{ids}\"\n{}{}{}{}{}\
         [queues.grants]\nfrom = \"driver\"\nto = \"manager\"\ninterface = \"grants\"\ndepth = 8\n\
         [ports.events]\nservice = \"driver\"\npeer = \"others\"\nrights = [\"open\", \"send\", \"close\"]\n",
        service("driver"),
        service("manager"),
        rule("a-first", BEFORE),
        rule("b-tried", PAGES),
        rule("c-last", 70),
    )
}

/// A kernel after boot.
struct Bench {
    kernel: Kernel<'static>,
    machine: CheckingPlatform<'static>,
    tables: Tables<'static>,
}

impl Bench {
    fn of(tables: Tables<'static>) -> Bench {
        let mut free = FreeMemory::new();
        free.add(FrameRange { start: 0x400, end: 0x4000 });
        let ring = FrameRange { start: 0xF_EFFC, end: 0xF_EFFD };
        let xenstore = Claims::default().claim(Owner::XenStorePage, ring).expect("the only claim");
        let boot_regions = BootRegions { xenstore: Some(xenstore), ..BootRegions::default() };
        let placements = place_regions(&tables, &mut free, &boot_regions, 0).expect("room");
        let machine = CheckingPlatform::new(tables, placements);
        Bench { kernel: Kernel::new(tables, placements, 1_000, 32 << 20), machine, tables }
    }

    fn new(ids: &str) -> Bench {
        let policy = cloister_policy::parse("ranges", &policy(ids)).unwrap_or_else(|report| panic!("{report}"));
        Bench::of(Tables::parse(policy.tables().expect("tables").leak()).expect("tables"))
    }

    /// Returns the rule that is tried: its id, the service that holds it, and the slot.
    fn rule(&self) -> (GrantRuleId, ServiceId, u64) {
        let rules = self.tables.capabilities();
        let mut found = rules.iter().filter_map(|held| match held.object {
            Object::Grant(rule) if self.tables.grant(rule).count == PAGES => {
                Some((rule, held.service, held.slot.into()))
            }
            _ => None,
        });
        found.next().expect("the rule")
    }

    fn call(&mut self, service: ServiceId, arguments: [u64; 6]) -> Answer {
        match self.kernel.system_call(&mut self.machine, service, 1, &arguments) {
            Outcome::Answer(answer) => answer,
            other => panic!("{other:?}"),
        }
    }

    fn issue(&mut self, page: u64, peer: u64, further: u64) -> Answer {
        let (_, holder, slot) = self.rule();
        self.call(holder, [slot, Operation::GrantIssue as u64, page, peer, 0, further])
    }

    fn open(&mut self, peer: u64) -> Status {
        let ports = self.tables.capabilities();
        let held = ports.iter().find(|held| matches!(held.object, Object::Port(_))).expect("the port");
        let status = self.call(held.service, [held.slot.into(), Operation::PortOpen as u64, peer, 0, 0, 0]).status;
        self.call(held.service, [held.slot.into(), Operation::PortClose as u64, 0, 0, 0, 0]);
        status
    }
}

/// Returns a number near one of the limits of a range, or any.
fn number(random: &mut Random, limit: u64) -> u64 {
    let limits = [0, limit, 1 << 32, 1 << 63, u64::MAX];
    match random.below(3) {
        0 => random.word(),
        1 => random.pick(&limits).wrapping_add(random.below(5) as u64).wrapping_sub(2),
        _ => random.below(limit as usize) as u64,
    }
}

#[test]
fn ranges_are_those_of_the_theorems() {
    let (mut random, mut terms) = (Random(seed() ^ 0x30), Vec::new());
    let fresh = Bench::new("0-32751");
    let first_ref = fresh.tables.grant(fresh.rule().0).first_ref;
    assert!(!first_ref.is_multiple_of(64), "the references begin within a word");
    let [count, of_rule] = [PAGES, first_ref].map(|value| bits(value.into(), 32));
    for _ in 0..1_500 {
        let (page, further) = (number(&mut random, PAGES.into()), number(&mut random, PAGES.into()));
        let mut bench = Bench::of(fresh.tables);
        let answer = bench.issue(page, 3, further);
        let [first, more] = [page, further].map(|value| bits(value, 64));
        let accepted = format!("(is-range {first} {more} {count})");
        if answer.status != Status::Done {
            assert!(bench.machine.granted.is_empty(), "a refusal grants nothing");
            terms.push(format!("(not {accepted})"));
            continue;
        }
        terms.push(accepted);
        terms.push(format!("(= (reference {first} {of_rule}) {})", bits(answer.words[0], 32)));
        let granted: Vec<u32> = bench.machine.granted.keys().copied().collect();
        assert_eq!(granted.len() as u64, further + 1);
        let last = granted.last().copied().expect("a page");
        let last_page = bits(page + further, 64);
        terms.push(format!("(= (reference {last_page} {of_rule}) {})", bits(last.into(), 32)));
        // Each single page can be granted now, unless it was.
        let reference = first_ref + random.below(PAGES as usize) as u32;
        let free = bench.issue((reference - first_ref).into(), 3, 0).status == Status::Done;
        let [one, from, to] = [reference, granted[0], last].map(|value| bits(value.into(), 32));
        let inside = format!("(is-in {one} {from} {to})");
        terms.push(if free { format!("(not {inside})") } else { inside });
    }
    crate::check(THEORY, terms);
}

/// Every range of the rule's pages, without a solver: all of its pages are taken, and no other.
#[test]
fn every_range_takes_its_pages_and_no_other() {
    let fresh = Bench::new("0-32751");
    let (_, holder, slot) = fresh.rule();
    let mut bench = Bench::of(fresh.tables);
    for first in 0..u64::from(PAGES) {
        for last in first..u64::from(PAGES) {
            assert_eq!(bench.issue(first, 3, last - first).status, Status::Done, "{first} to {last}");
            let around = [first.wrapping_sub(1), first, u64::midpoint(first, last), last, last + 1];
            for page in around.into_iter().filter(|page| *page < PAGES.into()) {
                let taken = bench.issue(page, 3, 0).status == Status::WrongState;
                assert_eq!(taken, (first..=last).contains(&page), "page {page} of {first} to {last}");
                if !taken {
                    bench.call(holder, [slot, Operation::GrantEnd as u64, page, 0, 0, 0]);
                }
            }
            for page in first..=last {
                let ended = bench.call(holder, [slot, Operation::GrantEnd as u64, page, 0, 0, 0]);
                assert_eq!(ended.status, Status::Done);
            }
            assert!(bench.machine.granted.is_empty());
            bench.machine.log.clear();
        }
    }
}

#[test]
fn peers_are_those_of_the_theorems() {
    let (mut random, mut terms) = (Random(seed() ^ 0x31), Vec::new());
    for (low, high) in [(0, 0), (0, 32_751), (3, 9), (32_751, 32_751), (1, 255)] {
        let mut bench = Bench::new(&format!("{low}-{high}"));
        let (_, holder, slot) = bench.rule();
        let mut try_peer = |peer: u64| {
            let issued = bench.issue(0, peer, 0).status == Status::Done;
            if issued {
                assert_eq!(bench.machine.granted.values().next().map(|(_, peer, _)| u64::from(*peer)), Some(peer));
                bench.call(holder, [slot, Operation::GrantEnd as u64, 0, 0, 0, 0]);
            }
            assert_eq!(bench.open(peer) == Status::Done, issued, "ports and grants have the same peers");
            bench.machine.log.clear();
            issued
        };
        // Every number of a domain, and more.
        for peer in 0..=0x1_0010 {
            assert_eq!(try_peer(peer), (low..=high).contains(&peer), "{peer} of {low} to {high}");
        }
        for _ in 0..200 {
            let peer = number(&mut random, 0x7FF0);
            let [low, high] = [low, high].map(|value| bits(value, 16));
            let allowed = format!("(is-allowed {} {low} {high})", bits(peer, 64));
            terms.push(if try_peer(peer) { allowed } else { format!("(not {allowed})") });
        }
    }
    crate::check(THEORY, terms);
}
