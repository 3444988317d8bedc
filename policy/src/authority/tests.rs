//! The work of a search, and paths that meet.

use std::fmt::Write;

use proptest::prelude::*;

use super::catalogue::{Input, PROGRAMS, effects, program};
use super::paths::{Tree, absolute, in_directory, overlap};
use super::reach::MAX_PATHS;
use super::{Node, Op};
use crate::analyse_text;

/// Returns a policy of 32 services in which everything is connected: 16 chains of a driver and an
/// application, all with the same domain, the same servers, and paths that meet.
fn dense() -> String {
    let mut out = String::from("format = 2\n[image]\nname = \"dense\"\n[domains.d]\nids = \"0-9\"\n");
    for service in 0..32 {
        let program = match service {
            0 => "cloister-grant-manager",
            1 => "cloister-xenstore",
            2..17 => "cloister-netfront",
            _ => "cloister-tcpip",
        };
        let _ = write!(
            out,
            "[services.s{service}]\nprogram = \"{program}\"\npriority = 1\ncpu = {{ budget_us = 1, period_us = 1000 }}\n\
             stack = \"4K\"\nrestart = {{ limit = 0, then = \"stop-image\" }}\npower = [\"off\"]\n\
             [regions.r{service}]\npages = 1\nmap = {{ s{service} = \"read-write\", s{} = \"read\" }}\n",
            (service + 1) % 32
        );
        let mut queue = |to: usize, interface: &str| {
            let _ = write!(
                out,
                "[queues.q{service}-{to}]\nfrom = \"s{service}\"\nto = \"s{to}\"\ninterface = \"{interface}\"\ndepth = 2\n"
            );
        };
        match service {
            0 | 1 => continue,
            2..17 => {
                queue(0, "grants");
                queue(1, "store");
            }
            _ => queue(service - 15, "net"),
        }
        if service < 17 {
            let _ = write!(
                out,
                "[ports.p{service}]\nservice = \"s{service}\"\npeer = \"d\"\nrights = [\"open\", \"send\"]\n\
                 [grants.r{service}-pages]\nregion = \"r{service}\"\npeer = \"d\"\naccess = \"read-write\"\npages = 1\n\
                 lifetime = \"session\"\nheld-by = \"s0\"\non-behalf-of = \"s{service}\"\n\
                 [xenstore.s{service}]\n\"/local/domain/*/data\" = [\"read\", \"write\"]\n\"data/{service}\" = [\"write\"]\n"
            );
        }
    }
    out + "[regions.ring]\nkind = \"xenstore-ring\"\nmap = { s1 = \"read-write\" }\n"
}

/// The number of steps that a search looks at does not grow with the number of takeovers beyond the
/// number of steps that there are, and paths are listed up to a bound.
#[test]
fn the_work_of_a_search_is_bounded_by_the_steps_of_the_policy() {
    let policy = analyse_text("dense.toml", &dense()).unwrap_or_else(|report| panic!("{report}"));
    let authority = policy.authority();
    let mut most = 0;
    for subject in authority.subjects() {
        for takeovers in [0, 1, 2, 3, u32::MAX] {
            let reach = authority.reach(*subject, takeovers, &[]);
            most = most.max(reach.work);
            assert!(reach.work <= authority.step_count(), "{subject:?} {takeovers}");
            let nodes = reach.order.len();
            assert!(nodes <= 35 + 2 * 45 + 32, "{nodes} nodes");
            let ways = authority.ways(&reach, &|(_, op)| op == Op::Off);
            assert!(ways.len() <= MAX_PATHS, "{}", ways.len());
        }
    }
    // 32 services, 45 queues, and for each driver a domain and the other drivers' paths.
    assert!(authority.step_count() < 10_000 && most > 500, "{} steps, {most} looked at", authority.step_count());
    assert!(matches!(authority.reach(authority.subjects()[0], 0, &[]).order[0].0, Node::All(_)));
}

/// Each interface has a row for both directions, and each program of the catalogue is one of ours.
#[test]
fn the_catalogue_has_every_interface_and_no_program_that_is_not_there() {
    for (interface, _, _) in cloister_interfaces::CATALOG {
        let asked = effects(Input::Asked(interface));
        assert!(
            !asked.asks.is_empty() || asked.outside || asked.paths,
            "requests of {interface} make a program do nothing"
        );
        assert_eq!(effects(Input::Told(interface)).asks.is_empty(), *interface == "control", "{interface}");
    }
    let root = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("..");
    for known in PROGRAMS {
        let folder = known.name.trim_start_matches("cloister-");
        let folder = if folder == "netfront" { "netfront-service".into() } else { format!("services/{folder}") };
        let manifest = std::fs::read_to_string(root.join(&folder).join("Cargo.toml")).unwrap();
        assert!(manifest.contains(&format!("name = \"{}\"", known.name)), "{folder}");
        // The queue ends of its capabilities are those of the catalogue.
        let file = |name: &str| std::fs::read_to_string(root.join(&folder).join("src").join(name));
        let sources = file("capabilities.rs").or_else(|_| file("lib.rs")).unwrap();
        let caps = sources.split("pub struct Caps").nth(1).and_then(|text| text.split("\n}").next()).unwrap();
        for (interface, _, _) in cloister_interfaces::CATALOG {
            let asks = caps.contains(&format!("pub {interface}: Client<"));
            let serves = caps.contains(&format!("pub {interface}_clients:"));
            let found = (asks, serves);
            assert_eq!(
                found,
                (known.asks.contains(interface), known.serves.contains(interface)),
                "{folder} {interface}"
            );
        }
    }
    assert!(program("cloister-htttp").is_none());
}

const WORDS: [&str; 7] = ["*", "{self}", "0", "7", "data", "local", "domain"];

proptest! {
    /// The tree finds the rules that meet a path one by one.
    #[test]
    fn the_tree_finds_every_path_that_meets(
        rules in prop::collection::vec(prop::collection::vec(0..WORDS.len(), 1..5), 0..12),
        path in prop::collection::vec(0..WORDS.len(), 1..5),
    ) {
        let text = |path: &Vec<usize>| {
            let words: Vec<&str> = path.iter().map(|word| WORDS[*word]).collect();
            let end = if path.iter().sum::<usize>().is_multiple_of(2) { "/**" } else { "" };
            let start = if path.len().is_multiple_of(2) { "/" } else { "" };
            format!("{start}{}{end}", words.join("/"))
        };
        let mut tree = Tree::default();
        for (number, rule) in rules.iter().enumerate() {
            tree.insert(&text(rule), (number, 0));
        }
        let mut found = tree.overlapping(&text(&path));
        found.sort_unstable();
        let meets = |rule: &(usize, &Vec<usize>)| overlap(&text(rule.1), &text(&path));
        let expected: Vec<(usize, usize)> = rules.iter().enumerate().filter(meets).map(|(number, _)| (number, 0)).collect();
        prop_assert_eq!(found, expected, "{}", absolute(&text(&path)));
    }
}

#[test]
fn a_directory_is_that_of_the_ids() {
    for (path, ids, inside) in [
        ("/local/domain/3/backend", (0, 3), true),
        ("/local/domain/4/backend", (0, 3), false),
        ("/local/domain/*/backend", (9, 9), true),
        ("/local/domain/**", (9, 9), true),
        ("/local/**", (9, 9), true),
        ("/local/domain", (9, 9), false),
        ("/tool", (9, 9), false),
        ("data", (0, 9), false),
        ("/local/domain/{self}/data", (0, 9), false),
    ] {
        assert_eq!(in_directory(path, ids), inside, "{path} {ids:?}");
    }
}
