//! A verdict for people and for programs.

use std::collections::BTreeMap;
use std::fmt::Write;

use serde_json::{Value, json};

use super::attached::COUNTS;
use super::{Finding, Hit, Severity, Verdict};

pub(super) fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

/// A notice for each service and instruction that only unaligned execution would reach.
pub(super) fn unaligned(hits: &[Hit]) -> Vec<Finding> {
    let mut counts: BTreeMap<&str, BTreeMap<&str, (usize, u64)>> = BTreeMap::new();
    for hit in hits.iter().filter(|hit| !hit.refused && !hit.compiled) {
        let of_service = counts.entry(&hit.service).or_default();
        of_service.entry(&hit.mnemonic).or_insert((0, hit.address)).0 += 1;
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
                format!("{service}: in the middle of instructions, of no use in ring 3: {}", list.join(", ")),
            )
        })
        .collect()
}

pub(super) fn text(verdict: &Verdict) -> String {
    let mut out = String::new();
    // Writing to a `String` never fails.
    let _ = write_text(verdict, &mut out);
    out
}

fn write_text(verdict: &Verdict, out: &mut String) -> std::fmt::Result {
    writeln!(out, "image     sha256 {}", hex(&verdict.image_hash))?;
    writeln!(out, "policy    sha256 {}", hex(&verdict.policy_hash))?;
    for part in &verdict.parts {
        let (bytes, text) = (part.bytes / 1024, part.text / 1024);
        writeln!(out, "program   {:<16} sha256 {}  {bytes} KiB, {text} KiB text", part.name, hex(&part.hash))?;
    }
    writeln!(out, "tables    {} facts compared with the policy, both ways", verdict.facts)?;
    if verdict.inventory.sbom.is_some() {
        writeln!(out, "sbom      {} components; --sbom FILE writes it", verdict.inventory.components.len())?;
    }
    for item in &verdict.inventory.unsafe_uses {
        let [blocks, functions, traits, implementations] = item.counts;
        let what = match (item.forbids, item.counts.iter().sum::<u64>()) {
            (true, 0) => "forbidden".to_owned(),
            (false, 0) => "none".to_owned(),
            _ => format!("{blocks} blocks, {functions} functions, {traits} traits, {implementations} implementations"),
        };
        writeln!(out, "unsafe    {:<28} {what}", format!("{} {}", item.name, item.version))?;
    }
    for finding in &verdict.findings {
        writeln!(out, "{finding}")?;
    }
    let errors = verdict.findings.iter().filter(|finding| finding.severity == Severity::Error).count();
    match errors {
        0 => writeln!(out, "verified: the image is the policy that it carries"),
        1 => writeln!(out, "refused: 1 error"),
        _ => writeln!(out, "refused: {errors} errors"),
    }
}

pub(super) fn json(verdict: &Verdict) -> Value {
    let findings: Vec<Value> = verdict
        .findings
        .iter()
        .map(|finding| {
            let severity = if finding.severity == Severity::Error { "error" } else { "notice" };
            json!({ "severity": severity, "about": finding.about, "message": finding.message })
        })
        .collect();
    let parts: Vec<Value> = verdict
        .parts
        .iter()
        .map(|part| json!({ "name": part.name, "sha256": hex(&part.hash), "bytes": part.bytes, "text": part.text }))
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
        .map(|item| {
            let mut value = json!({ "name": item.name, "crate-version": item.version, "forbids": item.forbids });
            for (name, count) in COUNTS.iter().zip(item.counts) {
                value[*name] = json!(count);
            }
            value
        })
        .collect();
    json!({
        "holds": verdict.holds(),
        "image-sha256": hex(&verdict.image_hash),
        "policy-sha256": hex(&verdict.policy_hash),
        "facts": verdict.facts,
        "programs": parts,
        "findings": findings,
        "instructions": hits,
        "unsafe": unsafe_uses,
        "sbom-components": verdict.inventory.components,
    })
}
