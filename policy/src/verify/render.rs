//! Renders a verdict for people and for programs.

use std::collections::BTreeMap;
use std::fmt::Write;

use serde_json::{Value, json};

use super::verdict::{COUNTS, Finding, Severity, Shown, Unaligned, Verdict};
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

/// What a verdict without errors shows by the file alone.
const ALONE: &str = "the form of the file, its tables, its rules and the bounds of its programs are those of the policy \
    that it carries";

impl Shown {
    /// Returns a sentence for each thing that was shown.
    fn shown(&self) -> Vec<String> {
        let mut all = vec![ALONE.to_owned()];
        if !self.pinned.is_empty() {
            all.push(format!("the code of {} is what the policy pins", self.pinned.join(", ")));
        }
        for (shown, sentence) in [
            (self.release, "each part of the image is the one that the manifest names"),
            (self.lock, "the inventories list crates of the lock file, with its versions and checksums"),
            (self.judged, "cargo-deny refuses no crate of the lock file by the given rules"),
            (self.configuration, "the guest's configuration gives the image what it needs, and no other device"),
        ] {
            all.extend(shown.then(|| sentence.to_owned()));
        }
        all
    }

    /// Returns a sentence for the most important thing that was not shown.
    fn not_shown(&self) -> String {
        match (self.release, self.signed) {
            (true, true) => "that the programs were compiled from the sources of the release; `cargo policy rebuild` \
                compiles them again"
                .to_owned(),
            (true, false) => "who wrote the manifest; --key KEY checks its signature".to_owned(),
            (false, _) if self.pinned.is_empty() => "that the code of the kernel and of the services is the code that \
                was reviewed; --release FILE --key KEY compares them with a signed release"
                .to_owned(),
            (false, _) => "that the code of the kernel, and of each service that the policy does not pin, is the code \
                that was reviewed; --release FILE --key KEY compares them with a signed release"
                .to_owned(),
        }
    }

    /// Returns the same for programs: what was shown, and what was not.
    fn words(&self) -> [Vec<&'static str>; 2] {
        let all = [
            (true, "policy"),
            (!self.pinned.is_empty(), "pinned programs"),
            (self.release, "parts of the release"),
            (self.signed, "signer of the release"),
            (self.lock, "crates of the lock file"),
            (self.judged, "rules for crates"),
            (self.configuration, "configuration of the guest"),
        ];
        let not = match (self.release, self.signed) {
            (true, true) => vec!["sources of the programs"],
            (true, false) => vec!["author of the manifest"],
            (false, _) => vec!["code of the kernel", "code of the services"],
        };
        [all.into_iter().filter_map(|(shown, word)| shown.then_some(word)).collect(), not]
    }
}

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
        0 => {
            let shown = &verdict.shown;
            shown.shown().iter().try_for_each(|sentence| writeln!(out, "shown: {sentence}"))?;
            writeln!(out, "not shown: {}", shown.not_shown())?;
            if shown.signed { writeln!(out, "verified: the release that the given key signed") } else { Ok(()) }
        }
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
    let [shown, not_shown] = verdict.shown.words();
    json!({
        "holds": verdict.holds(),
        "shown": if verdict.holds() { shown } else { Vec::new() },
        "not-shown": not_shown,
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
