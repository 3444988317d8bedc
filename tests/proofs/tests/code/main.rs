//! Ties the definitions of the theorems to the code: at thousands of points, the value that z3
//! computes is the one that the code gives.
#![forbid(unsafe_code)]

mod grants;
mod pages;
mod queue;

use cloister_proofs::Theory;

/// Checks that every term is true. Each says what the code has computed.
fn check(theory: &str, terms: Vec<String>) {
    let theory = Theory::parse(theory).unwrap_or_else(|error| panic!("{error}"));
    let wrong = theory.false_ones(&terms).unwrap_or_else(|error| panic!("{error}"));
    assert!(
        wrong.is_empty(),
        "the code computes something else, at {} points: {:?}",
        wrong.len(),
        &wrong[..wrong.len().min(5)]
    );
    println!("{} points", terms.len());
}
