//! Proves every theorem for all inputs, and holds the page that lists them to the files.
#![forbid(unsafe_code)]

use std::path::Path;

use cloister_proofs::{ProofError, Theory};

const QUEUE: &str = include_str!("../theorems/queue.smt2");
const NETFRONT_PAGES: &str = include_str!("../theorems/netfront-pages.smt2");
const MANAGER_PAGES: &str = include_str!("../theorems/manager-pages.smt2");
const GRANTS: &str = include_str!("../theorems/grants.smt2");
const README: &str = include_str!("../README.md");

/// Proves the theorems of a file, and checks that the page lists them as they are.
fn prove(text: &str, count: usize) {
    let theory = Theory::parse(text).unwrap_or_else(|error| panic!("{error}"));
    assert_eq!(theory.theorems.len(), count);
    for theorem in &theory.theorems {
        theory.prove(theorem).unwrap_or_else(|error| panic!("{error}"));
        assert!(README.contains(&format!("`{}`", theorem.name)), "README.md does not list {}", theorem.name);
        assert!(README.contains(&theorem.conclusion), "README.md lists another {}", theorem.name);
    }
}

#[test]
fn the_indices_of_a_queue() {
    prove(QUEUE, 10);
}

#[test]
fn the_page_sets_of_netfront() {
    prove(NETFRONT_PAGES, 4);
}

#[test]
fn the_page_sets_of_the_grant_manager() {
    prove(MANAGER_PAGES, 2);
}

#[test]
fn the_ranges_and_peers_of_grants() {
    prove(GRANTS, 6);
}

#[test]
fn every_file_of_theorems_is_proved() {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("theorems");
    assert_eq!(std::fs::read_dir(folder).unwrap().count(), 4);
}

#[test]
fn a_false_theorem_is_refuted_with_values() {
    let text = "(declare-const x (_ BitVec 8))\n; theorem it-grows\n(push)\n(assert true)\n(check-sat)\n\
                (assert (not (bvult x (bvadd x #x01))))\n(check-sat)\n(pop)\n";
    let theory = Theory::parse(text).unwrap();
    let Err(ProofError::False { model, .. }) = theory.prove(&theory.theorems[0]) else { panic!("it is false") };
    assert!(model.contains("#xff"), "{model}");
    let vacuous = Theory::parse(&text.replace("(assert true)", "(assert (bvult x x))")).unwrap();
    assert!(matches!(vacuous.prove(&vacuous.theorems[0]), Err(ProofError::EmptyPremise(_))));
    let strange = text.replace("(check-sat)\n(pop)", "(pop)");
    assert!(matches!(Theory::parse(&strange), Err(ProofError::Form(_))));
    let wrong = Theory::parse(&text.replace("bvult x", "bvult y")).unwrap();
    assert!(matches!(wrong.prove(&wrong.theorems[0]), Err(ProofError::Output { .. })));
}
