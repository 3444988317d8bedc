//! The sets of pages of netfront and of the grant manager.

use cloister_interfaces::PageRun;
use cloister_netfront::pages::PageSet;
use cloister_proofs::{bits, manager_pages};
use cloister_sim::seed::{Random, seed};

const NETFRONT: &str = include_str!("../../theorems/netfront-pages.smt2");
const MANAGER: &str = include_str!("../../theorems/manager-pages.smt2");

/// Returns a random set of netfront's, its words, and their terms.
fn random_set(random: &mut Random) -> (PageSet, [u64; 4], String) {
    let words: [u64; 4] = std::array::from_fn(|_| match random.below(4) {
        0 => 0,
        1 => u64::MAX,
        2 => u64::MAX << random.below(64),
        _ => random.word() | random.word(),
    });
    let mut set = PageSet::default();
    (0..256).for_each(|page: u16| set.set(page, words[usize::from(page / 64)] >> (page % 64) & 1 == 1));
    let terms = words.map(|word| bits(word, 64)).join(" ");
    (set, words, terms)
}

/// Returns a page near the ends of words and of the pool, or any.
fn page(random: &mut Random) -> u16 {
    let ends = [0, 1, 62, 63, 64, 127, 128, 191, 192, 193, 254, 255, 256, 257, 320, 1023, 1024, u16::MAX];
    match random.below(4) {
        0 => random.word() as u16,
        1 => *random.pick(&ends),
        _ => random.below(260) as u16,
    }
}

fn short(value: u16) -> String {
    bits(value.into(), 16)
}

fn is(holds: bool, term: String) -> String {
    if holds { term } else { format!("(not {term})") }
}

#[test]
fn netfronts_sets_are_those_of_the_theorems() {
    let (mut random, mut terms) = (Random(seed() ^ 0x20), Vec::new());
    for _ in 0..2_000 {
        let (set, words, four) = random_set(&mut random);
        let (first, count) = (page(&mut random), *random.pick(&[0, 1, 2, 17, 31, 62, 63]));
        let run = format!("{} {}", short(first), short(count));
        terms.push(is(set.contains_any(first, count), format!("(contains-any {four} {run})")));
        terms.push(is(set.contains_all(first, count), format!("(contains-all {four} {run})")));
        let length = set.run_length(first);
        let word = words.get(usize::from(first / 64)).copied().unwrap_or_default();
        terms.push(format!("(is-run-length {} {} {})", bits(word, 64), short(first), short(length)));
        let (mut changed, member) = (set, random.below(2) == 0);
        changed.set_all(first, count, member);
        let near = first.wrapping_add(random.below(70) as u16).wrapping_sub(3);
        for page in [near, page(&mut random)] {
            let after = format!("(after-set-all {} {} {run} {member})", set.contains(page), short(page));
            terms.push(is(changed.contains(page), after));
        }
    }
    crate::check(NETFRONT, terms);
}

/// Every run of every page, without a solver: the sets that they leave are the runs.
#[test]
fn every_run_of_netfronts_sets_is_its_pages() {
    let all = PageSet::first(256);
    for first in 0..=u16::MAX {
        for count in 0..64 {
            let (mut added, mut removed) = (PageSet::default(), all);
            added.set_all(first, count, true);
            removed.set_all(first, count, false);
            if first >= 256 {
                assert!(added == PageSet::default() && removed == all, "{first} {count}");
                continue;
            }
            let (mut expected, mut others) = (PageSet::default(), all);
            for page in first..first + count {
                expected.set(page, true);
                others.set(page, false);
            }
            assert!(added == expected && removed == others, "{first} {count}");
        }
    }
}

/// Returns `true` if the set has the page, without any function that works on ranges.
fn has(set: &manager_pages::PageSet, page: u16) -> bool {
    let mut without = set.clone();
    without.set(page, false);
    without.count() < set.count()
}

#[test]
fn the_managers_sets_are_those_of_the_theorems() {
    let (mut random, mut terms) = (Random(seed() ^ 0x21), Vec::new());
    for _ in 0..2_000 {
        let first = page(&mut random);
        let most = u32::from(u16::MAX) + 1 - u32::from(first);
        let count =
            (1 + random.below(*random.clone().pick(&[3, 70, 2_000, 70_000])) as u32).min(most).min(0xFFFF) as u16;
        let run = PageRun::new(first, count).expect("a run");
        let mut set = manager_pages::PageSet::new();
        set.set_all(run, true);
        let last = run.last();
        for page in [first, last, first.wrapping_sub(1), last.wrapping_add(1), page(&mut random)] {
            let term = format!("(member {} {} {})", short(first), short(count), short(page));
            terms.push(is(has(&set, page), term));
            let mut one = manager_pages::PageSet::new();
            one.set(page, true);
            let term = format!("(member {} {} {})", short(first), short(count), short(page));
            terms.push(is(one.contains_any(run), term));
        }
    }
    crate::check(MANAGER, terms);
}

/// Every run of the grant manager's sets, without a solver.
#[test]
fn every_run_of_the_managers_sets_is_its_pages() {
    for first in 0..manager_pages::MAX_PAGES {
        for end in first + 1..=manager_pages::MAX_PAGES {
            let run = PageRun::new(first, end - first).expect("a run");
            let mut set = manager_pages::PageSet::new();
            set.set_all(run, true);
            assert!(set.count() == end - first && set.first_from(0) == Some(first), "{first} to {end}");
            // It has as many pages as the run, and none is left without those of the run.
            run.iter().for_each(|page| set.set(page, false));
            assert!(set.count() == 0 && !set.contains_any(run), "{first} to {end}");
        }
    }
}
