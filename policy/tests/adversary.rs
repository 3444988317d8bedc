//! Each assertion that a reviewer made hold although it is false is refused, with the way.

#[path = "common/adversary.rs"]
mod adversary;

use adversary::cases;
use cloister_policy::{analyse_text, parse};

#[test]
fn each_false_assertion_is_refused_and_no_other() {
    let mut wrong = Vec::new();
    for case in cases() {
        let sound = analyse_text(case.name, &case.text).unwrap_or_else(|report| panic!("{}: {report}", case.name));
        drop(sound);
        let found: Vec<String> = match parse(case.name, &case.text) {
            Ok(_) => Vec::new(),
            Err(report) => report.findings().map(|found| found.message).collect(),
        };
        let fits = found.len() == case.refused.len()
            && found.iter().zip(case.refused).all(|(found, expected)| found.starts_with(expected));
        if !fits {
            wrong.push(format!("{}: {found:#?}, expected {:#?}", case.name, case.refused));
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}
