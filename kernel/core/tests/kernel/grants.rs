//! Tests grants: of which page, to which peer, and how often at a time.

use cloister_caps::{Operation, Status};

use crate::machine::{Bench, narrow, shipped, tables};

fn issue(bench: &mut Bench, rule: &str, page: u64, peer: u64) -> Status {
    bench.status("grant-manager", rule, Operation::GrantIssue, [page, peer, 0, 0])
}

/// Issues a grant. The arguments are the page, the peer, the peer's reference, and the number of
/// further pages.
fn issue_range(bench: &mut Bench, rule: &str, arguments: [u64; 4]) -> Status {
    bench.status("grant-manager", rule, Operation::GrantIssue, arguments)
}

fn end(bench: &mut Bench, rule: &str, page: u64) -> Status {
    bench.status("grant-manager", rule, Operation::GrantEnd, [page, 0, 0, 0])
}

#[test]
fn a_page_is_granted_once_at_a_time() {
    let mut bench = Bench::new(&narrow());
    assert_eq!(end(&mut bench, "rx-pages", 5), Status::WrongState, "it was never granted");
    for _ in 0..3 {
        let answer = bench.invoke("grant-manager", "rx-pages", Operation::GrantIssue, [5, 3, 0, 0]);
        // ring-pages has the references 8 and 9.
        assert_eq!((answer.status, answer.words), (Status::Done, [15, 0]));
        assert_eq!(issue(&mut bench, "rx-pages", 5, 3), Status::WrongState);
        assert_eq!(issue(&mut bench, "rx-pages", 5, 4), Status::WrongState, "to another peer neither");
        assert_eq!(end(&mut bench, "rx-pages", 4), Status::WrongState, "the page beside it was not granted");
        assert_eq!(end(&mut bench, "rx-pages", 5), Status::Done);
        assert_eq!(end(&mut bench, "rx-pages", 5), Status::WrongState);
        assert!(bench.machine.granted.is_empty());
    }
}

#[test]
fn a_page_in_use_stays_granted_until_the_peer_lets_go() {
    let mut bench = Bench::new(&shipped());
    assert_eq!(issue(&mut bench, "tx-pages", 127, 0), Status::Done);
    bench.machine.in_use.insert(265);
    for _ in 0..3 {
        assert_eq!(end(&mut bench, "tx-pages", 127), Status::InUse);
        assert_eq!(issue(&mut bench, "tx-pages", 127, 0), Status::WrongState);
        assert_eq!(bench.machine.granted.len(), 1);
    }
    bench.machine.in_use.clear();
    assert_eq!(end(&mut bench, "tx-pages", 127), Status::Done);
    assert_eq!(issue(&mut bench, "tx-pages", 127, 9), Status::Done);
}

#[test]
fn pages_and_peers_outside_of_the_rule_are_not_granted() {
    let mut bench = Bench::new(&narrow());
    for (rule, pages) in [("ring-pages", 2), ("rx-pages", 128), ("tx-pages", 128)] {
        for page in [pages, pages + 1, 1 << 16, 1 << 32, u64::MAX] {
            assert_eq!(issue(&mut bench, rule, page, 3), Status::NotPermitted, "{rule} {page}");
            assert_eq!(end(&mut bench, rule, page), Status::NotPermitted, "{rule} {page}");
        }
        for peer in [0, 2, 10, 0x7FF0, 0x7FF1, 0xFFFF, 1 << 16 | 3, 1 << 32 | 3, u64::MAX] {
            assert_eq!(issue(&mut bench, rule, 0, peer), Status::NotPermitted, "{rule} {peer}");
        }
        for peer in 3..=9 {
            assert_eq!(issue(&mut bench, rule, pages - 1, peer), Status::Done);
            assert_eq!(end(&mut bench, rule, pages - 1), Status::Done);
        }
    }
    assert!(bench.machine.granted.is_empty());
}

#[test]
fn every_page_of_every_rule_has_a_reference_of_its_own() {
    let mut bench = Bench::new(&shipped());
    for (rule, pages) in [("ring-pages", 2), ("rx-pages", 128), ("tx-pages", 128)] {
        for page in 0..pages {
            assert_eq!(issue(&mut bench, rule, page, 0), Status::Done);
        }
    }
    let frames: std::collections::BTreeSet<u64> = bench.machine.granted.values().map(|(frame, _, _)| *frame).collect();
    assert_eq!((bench.machine.granted.len(), frames.len()), (258, 258));
    let readable = bench.machine.granted.values().filter(|(_, _, writable)| !writable).count();
    assert_eq!(readable, 128, "what is sent is granted for reading");
}

/// A rule reaches no further than the pages that its region has.
#[test]
fn a_region_smaller_than_its_rule_grants_only_its_own_pages() {
    let tables = tables(&shipped());
    let mut placements = Bench::of(tables).kernel.placements().to_owned();
    let region = tables.grants().iter().find(|rule| tables.name(rule.name) == "rx-pages").unwrap().region;
    placements[region] = placements[region].shortened(3);
    let mut bench = Bench::at(tables, placements);
    assert_eq!(issue(&mut bench, "rx-pages", 2, 0), Status::Done);
    assert_eq!(issue(&mut bench, "rx-pages", 3, 0), Status::BadArgument);
    assert_eq!(bench.machine.granted.len(), 1);
    for (first, further) in [(0, 3), (1, 2), (1, 126), (2, 1), (3, 1)] {
        assert_eq!(issue_range(&mut bench, "rx-pages", [first, 0, 0, further]), Status::BadArgument);
    }
    assert_eq!(bench.machine.granted.len(), 1);
    assert_eq!(issue_range(&mut bench, "rx-pages", [0, 0, 0, 1]), Status::Done);
    assert_eq!(bench.machine.granted.len(), 3);
}

#[test]
fn a_range_is_granted_by_one_call_and_each_page_ended_by_itself() {
    let mut bench = Bench::new(&narrow());
    for (rule, first, further, reference) in
        [("rx-pages", 5, 9, 15), ("rx-pages", 0, 127, 10), ("ring-pages", 0, 1, 8), ("tx-pages", 60, 67, 198)]
    {
        let answer = bench.invoke("grant-manager", rule, Operation::GrantIssue, [first, 3, 0, further]);
        assert_eq!((answer.status, answer.words), (Status::Done, [u64::from(reference), 0]));
        // The machine checks that each reference is of its frame.
        let granted: Vec<u32> = bench.machine.granted.keys().copied().collect();
        assert_eq!(granted, (reference..=reference + further as u32).collect::<Vec<_>>(), "{rule}");
        for page in first..=first + further {
            assert_eq!(issue(&mut bench, rule, page, 3), Status::WrongState);
            assert_eq!(end(&mut bench, rule, page), Status::Done);
        }
        assert!(bench.machine.granted.is_empty());
    }
}

#[test]
fn a_range_with_a_page_that_is_in_use_is_refused_as_a_whole() {
    let mut bench = Bench::new(&narrow());
    bench.machine.back_end = true;
    for (taken, theirs) in [(10, 0), (14, 0), (19, 0), (10, 77), (14, 77), (19, 77)] {
        assert_eq!(issue_range(&mut bench, "rx-pages", [taken, 3, theirs, 0]), Status::Done);
        let before = (bench.machine.granted.clone(), bench.machine.mapped.clone());
        assert_eq!(issue_range(&mut bench, "rx-pages", [10, 3, 0, 9]), Status::WrongState, "{taken}");
        assert_eq!((&bench.machine.granted, &bench.machine.mapped), (&before.0, &before.1), "{taken}");
        for page in (10..20).filter(|page| *page != taken) {
            assert_eq!(end(&mut bench, "rx-pages", page), Status::WrongState, "{taken} {page}");
        }
        assert_eq!(end(&mut bench, "rx-pages", taken), Status::Done);
        assert_eq!(issue_range(&mut bench, "rx-pages", [10, 3, 0, 9]), Status::Done);
        assert!((10..20).all(|page| end(&mut bench, "rx-pages", page) == Status::Done));
    }
}

#[test]
fn a_range_that_the_rule_does_not_cover_is_refused_as_a_whole() {
    let mut bench = Bench::new(&narrow());
    const WIDE: u64 = 1 << 32;
    for (first, further) in [
        (0, 128),
        (1, 127),
        (127, 1),
        (128, 1),
        (0, WIDE),
        (5, WIDE),
        (5, WIDE - 5),
        (WIDE, 1),
        (WIDE - 1, 1),
        (0, u64::MAX),
        // The sums of these wrap to pages of the rule.
        (5, u64::MAX),
        (5, u64::MAX - 4),
        (u64::MAX, 1),
        (u64::MAX, u64::MAX),
        (1 << 63, 1 << 63),
    ] {
        for theirs in [0, 77] {
            let arguments = [first, 3, theirs, further];
            assert_eq!(issue_range(&mut bench, "rx-pages", arguments), Status::NotPermitted, "{arguments:?}");
        }
    }
    assert_eq!(issue_range(&mut bench, "ring-pages", [0, 3, 0, 2]), Status::NotPermitted, "the next rule's reference");
    for peer in [0, 2, 10, 1 << 16 | 3, u64::MAX] {
        assert_eq!(issue_range(&mut bench, "rx-pages", [0, peer, 0, 9]), Status::NotPermitted);
    }
    assert!(bench.machine.granted.is_empty());
    assert_eq!(issue_range(&mut bench, "rx-pages", [0, 3, 0, 127]), Status::Done);
}

#[test]
fn one_call_maps_one_page_of_a_peer() {
    for back_end in [false, true] {
        let mut bench = Bench::new(&narrow());
        bench.machine.back_end = back_end;
        for (rule, theirs, further) in
            [("rx-pages", 77, 1), ("rx-pages", 1 << 32, 1), ("rx-pages", 77, 122), ("tx-pages", 77, 1)]
        {
            assert_eq!(issue_range(&mut bench, rule, [5, 3, theirs, further]), Status::BadArgument);
        }
        assert!(bench.machine.mapped.is_empty() && bench.machine.granted.is_empty());
        assert_eq!(end(&mut bench, "rx-pages", 5), Status::WrongState);
    }
}

#[test]
fn a_restart_forgets_no_grant() {
    let restarts = crate::machine::with("restart = { limit = 0,", "restart = { limit = 1,");
    let mut bench = Bench::new(&restarts);
    assert_eq!(issue(&mut bench, "rx-pages", 0, 0), Status::Done);
    let manager = bench.service("grant-manager");
    bench.kernel.fault(&mut bench.machine, manager);
    assert_eq!(issue(&mut bench, "rx-pages", 0, 0), Status::WrongState);
    assert_eq!(end(&mut bench, "rx-pages", 0), Status::Done);
}

#[test]
fn a_back_end_maps_a_peers_page_in_place_of_its_own() {
    let mut bench = Bench::new(&narrow());
    let map = |bench: &mut Bench, rule: &str, page, peer, theirs| {
        bench.status("grant-manager", rule, Operation::GrantIssue, [page, peer, theirs, 0])
    };
    assert_eq!(map(&mut bench, "rx-pages", 5, 3, 77), Status::Unavailable, "this is no back end's kernel");
    assert_eq!(end(&mut bench, "rx-pages", 5), Status::WrongState);
    bench.machine.back_end = true;
    for (page, peer, theirs, expected) in [
        (128, 3, 77, Status::NotPermitted),
        (5, 10, 77, Status::NotPermitted),
        (5, 3, 1 << 32, Status::Unavailable),
        (5, 3, 1 << 32 | 77, Status::Unavailable),
    ] {
        assert_eq!(map(&mut bench, "rx-pages", page, peer, theirs), expected);
    }
    bench.machine.in_use.insert(78);
    assert_eq!(map(&mut bench, "rx-pages", 5, 3, 78), Status::Unavailable, "the peer grants no such page");
    for _ in 0..2 {
        assert_eq!(map(&mut bench, "rx-pages", 5, 3, 77), Status::Done);
        let own = map(&mut bench, "tx-pages", 0, 3, 77);
        assert_eq!(own, Status::NotPermitted, "tcpip writes that region, and the rule is for reading");
        let (_, peer, theirs, writable) = bench.machine.mapped[&15];
        assert_eq!((peer, theirs, writable), (3, 77, true));
        for theirs in [0, 77, 79] {
            assert_eq!(map(&mut bench, "rx-pages", 5, 3, theirs), Status::WrongState, "the page is shared already");
        }
        assert_eq!(end(&mut bench, "rx-pages", 5), Status::Done);
        assert!(bench.machine.mapped.is_empty() && bench.machine.granted.is_empty());
        assert_eq!(end(&mut bench, "rx-pages", 5), Status::WrongState);
    }
    assert_eq!(issue(&mut bench, "rx-pages", 5, 3), Status::Done, "ours again");
    assert_eq!(end(&mut bench, "rx-pages", 5), Status::Done, "as what it is now: granted, not mapped");
    assert!(bench.machine.granted.is_empty());
}

#[test]
fn each_of_two_mapped_pages_is_unmapped_by_itself() {
    let mut bench = Bench::new(&narrow());
    bench.machine.back_end = true;
    for (page, theirs) in [(5, 77), (6, 78)] {
        assert_eq!(
            bench.status("grant-manager", "rx-pages", Operation::GrantIssue, [page, 3, theirs, 0]),
            Status::Done
        );
    }
    for (page, left) in [(5, 1), (6, 0)] {
        assert_eq!(end(&mut bench, "rx-pages", page), Status::Done);
        assert_eq!(bench.machine.mapped.len(), left);
    }
}

#[test]
fn a_page_mapped_for_reading_cannot_be_written() {
    let path = concat!(env!("CARGO_MANIFEST_DIR"), "/../../tests/guests/back-end.toml");
    let mut bench = Bench::new(&std::fs::read_to_string(path).unwrap());
    bench.machine.back_end = true;
    for (rule, writable) in [("peer-read-pages", false), ("peer-written-pages", true)] {
        assert_eq!(bench.status("back-end", rule, Operation::GrantIssue, [9, 1, 77, 0]), Status::Done);
        let (reference, mapped) = bench.machine.mapped.pop_first().unwrap();
        assert_eq!((mapped.1, mapped.2, mapped.3), (1, 77, writable), "{reference}");
        bench.machine.mapped.insert(reference, mapped);
        assert_eq!(bench.status("back-end", rule, Operation::GrantEnd, [9, 0, 0, 0]), Status::Done);
    }
}

#[test]
fn a_page_that_a_peer_could_write_is_cleared_when_its_grant_ends() {
    let mut bench = Bench::new(&shipped());
    for (rule, cleared) in [("rx-pages", 1), ("ring-pages", 1), ("tx-pages", 0)] {
        assert_eq!(issue(&mut bench, rule, 1, 3), Status::Done);
        let (reference, (frame, ..)) = bench.machine.granted.first_key_value().map(|(a, b)| (*a, *b)).unwrap();
        bench.machine.in_use.insert(reference);
        assert_eq!(end(&mut bench, rule, 1), Status::InUse);
        assert!(bench.machine.cleared.is_empty(), "the peer still uses it");
        bench.machine.in_use.clear();
        assert_eq!(end(&mut bench, rule, 1), Status::Done);
        assert_eq!(std::mem::take(&mut bench.machine.cleared), vec![frame; cleared], "{rule}");
    }
}
