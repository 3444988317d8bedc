//! Renders a verdict for people and for programs.

use std::collections::BTreeMap;
use std::fmt::Write;

use serde_json::{Value, json};

use super::verdict::{COUNTS, Finding, Severity, Unaligned, Verdict};
use crate::printable::{hexadecimal, printable};

/// Returns a notice for each service with the instructions that only unaligned execution would
/// reach.
pub(super) fn unaligned(found: &[Unaligned]) -> Vec<Finding> {
    let mut counts: BTreeMap<&str, BTreeMap<&str, (u64, u64)>> = BTreeMap::new();
    for item in found {
        counts.entry(&item.service).or_default().insert(&item.mnemonic, (item.count, item.first));
    }
    counts
        .into_iter()
        .map(|(service, mnemonics)| {
            let list: Vec<String> = mnemonics
                .iter()
                .map(|(mnemonic, (count, first))| match mnemonic {
                    &"syscall" => format!("syscall {count} (from {first:#x}; no more authority than the stub's)"),
                    _ => format!("{mnemonic} {count}"),
                })
                .collect();
            Finding::notice(
                "code",
                format!("{service}: in the middle of instructions, useless in ring 3: {}", list.join(", ")),
            )
        })
        .collect()
}

/// The lists of what a verdict without errors shows, and of what it does not show.
const HOLDS: &str = "verified: the form of the file, its tables, its rules and the bounds of its programs are those of the policy \
    that it carries";
const NOT_SHOWN: &str = "not shown: that the code of the kernel and of the services is the code that was reviewed; compare the \
    hashes of the programs with those of the release";

/// The same for programs.
const NOT_SHOWN_JSON: [&str; 2] = ["code of the kernel", "code of the services"];

impl Verdict {
    /// Returns the verdict as text for people.
    #[must_use]
    pub fn text(&self) -> String {
        let mut out = String::new();
        // Writing to a `String` never fails.
        let _ = write_text(self, &mut out);
        out
    }

    /// Returns the verdict for programs; `docs/verify.md` describes it.
    #[must_use]
    pub fn json(&self) -> Value {
        json(self)
    }
}

fn write_text(verdict: &Verdict, out: &mut String) -> std::fmt::Result {
    writeln!(out, "image     sha256 {}", hexadecimal(&verdict.image_hash))?;
    writeln!(out, "policy    sha256 {}", hexadecimal(&verdict.policy_hash))?;
    writeln!(out, "tables    sha256 {}", hexadecimal(&verdict.tables_hash))?;
    for part in &verdict.programs {
        let (bytes, text) = (part.bytes / 1024, part.text / 1024);
        writeln!(
            out,
            "program   {:<16} sha256 {}  {bytes} KiB, {text} KiB text",
            printable(&part.name),
            hexadecimal(&part.hash)
        )?;
    }
    writeln!(out, "facts     {} of the tables compared with the policy, both ways", verdict.facts)?;
    if verdict.inventory.sbom.is_some() {
        writeln!(out, "sbom      {} components; --sbom FILE writes it", verdict.inventory.components.len())?;
    }
    for item in verdict.inventory.unsafe_uses.iter().flatten() {
        let [blocks, functions, traits, implementations] = item.counts;
        let uses = match (item.forbids, item.counts) {
            (true, [0, 0, 0, 0]) => "forbidden".to_owned(),
            (false, [0, 0, 0, 0]) => "none".to_owned(),
            _ => format!("{blocks} blocks, {functions} functions, {traits} traits, {implementations} implementations"),
        };
        writeln!(out, "unsafe    {:<28} {uses}", format!("{} {}", item.name, item.version))?;
    }
    for finding in &verdict.findings {
        writeln!(out, "{finding}")?;
    }
    let errors = verdict.findings.iter().filter(|finding| finding.severity == Severity::Error).count();
    match errors {
        0 => writeln!(out, "{HOLDS}\n{NOT_SHOWN}"),
        1 => writeln!(out, "refused: 1 error"),
        _ => writeln!(out, "refused: {errors} errors"),
    }
}

fn json(verdict: &Verdict) -> Value {
    let findings: Vec<Value> = verdict
        .findings
        .iter()
        .map(|finding| {
            let severity = if finding.severity == Severity::Error { "error" } else { "notice" };
            json!({ "severity": severity, "about": finding.about, "message": finding.message })
        })
        .collect();
    let programs: Vec<Value> = verdict
        .programs
        .iter()
        .map(|part| json!({ "name": part.name, "sha256": hexadecimal(&part.hash), "bytes": part.bytes, "text": part.text }))
        .collect();
    let hits: Vec<Value> = verdict
        .hits
        .iter()
        .map(|hit| {
            json!({
                "service": hit.service, "address": format!("{:#x}", hit.address), "mnemonic": hit.mnemonic,
                "compiled": hit.compiled, "refused": hit.refused,
            })
        })
        .collect();
    let unsafe_uses: Vec<Value> = verdict
        .inventory
        .unsafe_uses
        .iter()
        .flatten()
        .map(|item| {
            let mut value = json!({ "name": item.name, "crate-version": item.version, "forbids": item.forbids });
            for (name, count) in COUNTS.iter().zip(item.counts) {
                value[*name] = json!(count);
            }
            value
        })
        .collect();
    let components: Vec<&str> = verdict.inventory.components.iter().map(|item| item.name.as_str()).collect();
    json!({
        "holds": verdict.holds(),
        "not-shown": NOT_SHOWN_JSON,
        "image-sha256": hexadecimal(&verdict.image_hash),
        "policy-sha256": hexadecimal(&verdict.policy_hash),
        "tables-sha256": hexadecimal(&verdict.tables_hash),
        "facts": verdict.facts,
        "programs": programs,
        "findings": findings,
        "instructions": hits,
        "unsafe": unsafe_uses,
        "sbom-components": components,
    })
}
