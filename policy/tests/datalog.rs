//! The authority of a policy once more: the rules of docs/policy.md, "Authority", in Datalog, on
//! facts that are read from the TOML text. Nothing of the compiler computes it.

#[path = "common/adversary.rs"]
mod adversary;
#[path = "common/datalog/mod.rs"]
mod datalog;
#[allow(dead_code, reason = "pairs of policies are for other tests")]
#[path = "common/random.rs"]
mod random;

use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;

use cloister_policy::analyse_text;
use cloister_sim::seed::{Random, SEED, seed};
use proptest::strategy::{Strategy, ValueTree};
use proptest::test_runner::{Config, RngAlgorithm, TestRng, TestRunner};

/// The largest number of takeovers that is compared.
const TAKEOVERS: u32 = 3;
/// The number of random policies that are compared.
const CASES: usize = 10_000;

/// Returns what the compiler says, and what the rules say.
fn both(name: &str, text: &str) -> [BTreeMap<(String, String), u32>; 2] {
    let sound = analyse_text(name, text).unwrap_or_else(|report| panic!("{report}\n{text}"));
    let least = sound.within(TAKEOVERS).into_iter();
    [least.map(|found| ((found.subject, found.operation), found.takeovers)).collect(), datalog::within(text)]
}

/// Compares where the bytes of each region can end up.
fn agree_on_bytes(name: &str, text: &str) -> usize {
    let sound = analyse_text(name, text).unwrap_or_else(|report| panic!("{report}\n{text}"));
    let rules = datalog::leaks(text);
    let names: BTreeSet<(String, String)> = datalog::regions_and_subjects(text);
    for key in &names {
        let question = format!("can region:{} leak to {} with {TAKEOVERS} takeovers", key.0, key.1);
        let found = sound.explain(&question).unwrap_or_else(|unclear| panic!("{name}: {unclear}\n{text}"));
        let compiler = found.holds.then(|| u32::try_from(found.answers[0].takeovers.len()).unwrap());
        assert_eq!(compiler, rules.get(key).copied(), "{name}: {question}: {found}\n{text}");
    }
    names.len()
}

fn agree(name: &str, text: &str) -> usize {
    agree_on_bytes(name, text);
    let [compiler, rules] = both(name, text);
    if compiler != rules {
        let more: Vec<_> = compiler.iter().filter(|(key, least)| rules.get(*key) != Some(*least)).take(8).collect();
        let less: Vec<_> = rules.iter().filter(|(key, least)| compiler.get(*key) != Some(*least)).take(8).collect();
        panic!("{name}: the compiler says {more:?}, the rules say {less:?}\n{text}");
    }
    rules.len()
}

#[test]
fn compiler_and_rules_agree_on_every_policy_of_the_repository() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("..");
    let mut files: Vec<_> = ["policy/default.toml", "policy/src/init.toml", "policy/tests/good.toml"]
        .iter()
        .map(|file| root.join(file))
        .collect();
    for folder in ["tests/guests", "policy/tests/holes"] {
        let entries = std::fs::read_dir(root.join(folder)).unwrap().map(|entry| entry.unwrap().path());
        files.extend(entries.filter(|path| path.extension().is_some_and(|extension| extension == "toml")));
    }
    let mut compared = 0;
    for file in files {
        let text = std::fs::read_to_string(&file).unwrap();
        // A hole that is no sound policy has no closure.
        if analyse_text("policy", &text).is_ok() {
            compared += usize::from(agree(&file.display().to_string(), &text) > 0);
        }
    }
    assert!(compared >= 14, "{compared} policies");
    for case in adversary::cases() {
        agree(case.name, &case.text);
    }
}

/// Other policies with each commit.
#[test]
fn compiler_and_rules_agree_on_random_policies() {
    let seed = seed();
    let mut words = Random(seed);
    let bytes: Vec<u8> = (0..4).flat_map(|_| words.word().to_le_bytes()).collect();
    let rng = TestRng::from_seed(RngAlgorithm::ChaCha, &bytes);
    let mut runner = TestRunner::new_with_rng(Config::default(), rng);
    let mut compared = 0;
    for case in 0..CASES {
        let shape = random::shape().new_tree(&mut runner).unwrap().current();
        compared += agree(&format!("random policy {case} of {SEED}={seed:016x}"), &shape.plain());
    }
    assert!(compared > 50 * CASES, "{compared} operations of {CASES} policies");
}

/// The programs of the catalogue without any domain, through which everybody would reach everybody:
/// so each row of the page's table shows.
#[test]
fn compiler_and_rules_agree_where_no_domain_helps() {
    let mut text = String::from("format = 2\n[image]\nname = \"chain\"\n");
    for (name, held) in [
        ("control", "power = [\"off\"]\n"),
        ("grant-manager", ""),
        ("http", ""),
        ("netfront", "power = [\"reboot\"]\n"),
        ("tcpip", "entropy = [\"draw\"]\n"),
        ("xenstore", "info = [\"read\"]\n"),
    ] {
        text += &format!(
            "[services.{name}]\nprogram = \"cloister-{name}\"\npriority = 1\ncpu = {{ budget_us = 1, period_us = 1000 }}\n\
             stack = \"4K\"\nrestart = {{ limit = 0, then = \"stop-image\" }}\nconsole = [\"write\"]\n{held}"
        );
    }
    for (from, to, interface) in [
        ("http", "tcpip", "socket"),
        ("tcpip", "netfront", "net"),
        ("netfront", "xenstore", "store"),
        ("netfront", "grant-manager", "grants"),
        ("control", "xenstore", "store"),
        ("control", "tcpip", "control"),
    ] {
        text += &format!(
            "[queues.{from}-{to}]\nfrom = \"{from}\"\nto = \"{to}\"\ninterface = \"{interface}\"\ndepth = 2\n"
        );
    }
    text += "[xenstore.netfront]\n\"device/**\" = [\"read\"]\n\"error\" = [\"write\"]\n[xenstore.control]\n\"control/**\" = [\"read\", \"write\"]\n";
    assert!(agree("chain", &text) > 60);
}
