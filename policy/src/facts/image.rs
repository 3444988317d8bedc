//! The relations of an image: its policy's, and what the verifier reads in the file.

use super::policy::facts_of_policy;
use super::{Facts, Value, number, text};
use crate::diagnostic::Report;
use crate::printable::hexadecimal;
use crate::sound::analyse_text;
use crate::verify::{Severity, Verdict, table_facts};

macro_rules! row {
    ($($value:expr),* $(,)?) => { vec![$(Value::from($value)),*] };
}

/// Returns the facts of a file of which this is the verdict, and of the policy in it.
///
/// If the verdict has errors, so has what the relations say; they contain the errors, too.
///
/// # Errors
/// The policy in the file is not sound.
pub fn facts_of_image(file: &[u8], verdict: &Verdict) -> Result<Facts, Report> {
    let mut facts = if verdict.policy.is_empty() {
        Facts { relations: Vec::new() }
    } else {
        facts_of_policy(&analyse_text("the policy in the image", &verdict.policy)?)
    };
    let hashes = [&verdict.image_hash, &verdict.policy_hash, &verdict.tables_hash].map(|hash| hexadecimal(hash));
    let rows = vec![hashes.into_iter().map(Value::from).collect()];
    facts.relation("image_file", &[text("sha256"), text("policy_sha256"), text("tables_sha256")], rows);
    let programs = verdict.programs.iter();
    let rows = programs.map(|program| row![&program.name, hexadecimal(&program.hash), program.bytes, program.text]);
    let columns = &[text("name"), text("sha256"), number("bytes"), number("text_bytes")];
    facts.relation("program", columns, rows.collect());
    let components = verdict.inventory.components.iter();
    let rows = components.map(|component| row![&component.name, &component.version]).collect();
    facts.relation("component", &[text("crate"), text("version")], rows);
    unsafe_code(verdict, &mut facts);
    let rows = verdict
        .hits
        .iter()
        .map(|hit| row![&hit.service, format!("{:#x}", hit.address), &hit.mnemonic, hit.compiled, hit.refused]);
    let columns = &[text("service"), text("address"), text("mnemonic"), text("compiled"), text("refused")];
    facts.relation("instruction", columns, rows.collect());
    let rows = table_facts(file).into_iter().map(|row| row.into_iter().map(Value::from).collect());
    let columns = &[text("section"), text("name"), text("field"), text("value")];
    facts.relation("table_fact", columns, rows.collect());
    let rows = verdict.findings.iter().map(|finding| {
        let severity = if finding.severity == Severity::Error { "error" } else { "notice" };
        row![severity, finding.about, &finding.message]
    });
    facts.relation("finding", &[text("severity"), text("about"), text("message")], rows.collect());
    Ok(facts)
}

fn unsafe_code(verdict: &Verdict, facts: &mut Facts) {
    let uses = verdict.inventory.unsafe_uses.iter().flatten();
    let rows = uses.map(|item| {
        let [blocks, functions, traits, implementations] = item.counts;
        row![&item.name, &item.version, item.forbids, blocks, functions, traits, implementations]
    });
    let columns = &[
        text("crate"),
        text("version"),
        text("forbids"),
        number("blocks"),
        number("functions"),
        number("traits"),
        number("implementations"),
    ];
    facts.relation("unsafe_code", columns, rows.collect());
}
