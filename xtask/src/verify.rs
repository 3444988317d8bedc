//! Runs `cloister-policy verify` on built images.
//!
//! Images of services as they ship must verify. Two kinds must be refused: those with the prober,
//! whose program consists of code that a program must not contain, and the fused build.

use std::path::Path;

use anyhow::{Context, Result, anyhow, bail};
use cloister_policy::release::Release;
use cloister_policy::verify::{Against, verify};

use crate::{clamped_code, dist, image, workspace};

/// Programs that `verify` must refuse, by their crates, and findings that it must report, among
/// others.
const REFUSED: [(&str, &[&str]); 4] = [
    ("cloister-prober-storm", &["`mov ds`", "`mov es`", "`mov fs`", "`mov gs`"]),
    // It does nothing that a program must not do, but it is no crate of that name.
    ("cloister-prober-witness", &["the SBOM does not list the program cloister-prober-witness"]),
    ("cloister-prober", &["`vmcall`", "`wrpkru`", "`wrmsr`", "`mov cr3`", "`out`", "an address of the kernel"]),
    ("cloister-fused", &["it is code of cloister_tcpip", "it is code of cloister_http"]),
];

/// Checks that `verify` gives the expected verdict on the image of a policy.
///
/// # Errors
/// The image is not built, is accepted and must not be, or is refused and must not be.
pub fn check_image(policy: &Path) -> Result<()> {
    let folder = image::folder(policy)?;
    let elf = folder.join("cloister.elf");
    let file = std::fs::read(&elf).with_context(|| elf.display().to_string())?;
    let text = std::fs::read_to_string(policy).with_context(|| policy.display().to_string())?;
    clamped_code::check(&folder.join("kernel.elf"))?;
    let symbols = symbols(policy, &folder)?;
    let release = folder.join("release.toml");
    let release = std::fs::read_to_string(&release).with_context(|| release.display().to_string())?;
    let release = Release::parse(&release).context("release.toml")?;
    let lock = std::fs::read_to_string(workspace::root().join("Cargo.lock")).context("Cargo.lock")?;
    let default = policy.file_name().is_some_and(|name| name == "default.toml");
    let configuration = default.then(|| dist::config(None));
    let verdict = verify(
        &file,
        &Against {
            policy: Some(&text),
            symbols: &symbols,
            release: Some(&release),
            lock: Some(&lock),
            configuration: configuration.as_deref(),
            ..Against::default()
        },
    )?;
    if !verdict.shown.release || !verdict.shown.lock || verdict.shown.configuration != default {
        bail!("{} is not the release of its own manifest\n{}", elf.display(), verdict.text());
    }
    let refused = REFUSED.iter().find(|(program, _)| text.contains(program));
    if refused.is_none() && !verdict.holds() {
        bail!("{}\n{}", elf.display(), verdict.text());
    }
    if refused.is_none() && (verdict.inventory.sbom.is_none() || verdict.inventory.unsafe_uses.is_none()) {
        bail!("{} carries no inventories", elf.display());
    }
    if default {
        has_one_form(&file)?;
    }
    let text_of_verdict = verdict.text();
    let expected =
        refused.iter().flat_map(|(program, findings)| findings.iter().map(move |finding| (program, finding)));
    match expected.into_iter().find(|(_, finding)| !text_of_verdict.contains(*finding)) {
        Some((program, finding)) => {
            bail!("{finding} is not found in {program} of {}\n{text_of_verdict}", elf.display())
        }
        None => Ok(()),
    }
}

/// Checks that no byte of the image's headers can have another value.
///
/// Each byte of the headers, and of what lies between them and the first segment, is changed in
/// turn. `verify` must refuse each change, and not by the seal alone.
fn has_one_form(file: &[u8]) -> Result<()> {
    const NOTE: usize = 20;
    let number = |at: usize| file.get(at..at + 8).and_then(|bytes| bytes.try_into().ok()).map_or(0, u64::from_le_bytes);
    // The offsets of the first segment, which begins with the note, and of the section headers.
    let (first, sections) = (number(64 + 56 + 8) as usize, number(40) as usize);
    let mut changed = file.to_vec();
    for at in (0..first + NOTE).chain(sections..file.len()) {
        changed[at] ^= 1 << (at % 8);
        let refused = verify(&changed, &Against::default()).map_or(true, |verdict| {
            verdict
                .findings
                .iter()
                .any(|finding| finding.is_error() && !finding.message.contains("do not match its seal"))
        });
        if !refused {
            bail!("the image verifies with another value in the byte at {at:#x}");
        }
        changed[at] = file[at];
    }
    Ok(())
}

/// Returns the ELF file of each service's program, by the service's name.
fn symbols(policy: &Path, folder: &Path) -> Result<Vec<(String, Vec<u8>)>> {
    let policy = cloister_policy::load(policy).map_err(|report| anyhow!("{}", report.render(false)))?;
    let read = |name: &str| {
        let path = folder.join(format!("{name}.elf"));
        Ok((name.to_owned(), std::fs::read(&path).with_context(|| path.display().to_string())?))
    };
    policy.services().map(|service| read(service.name())).collect()
}
