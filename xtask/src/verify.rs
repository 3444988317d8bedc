//! The built images under `cloister-policy verify`: those that ship hold. Those with the prober, whose program is made of
//! what a program must not have, do not; neither does that of all services in one program.

use std::path::Path;

use anyhow::{Context, Result, anyhow, bail};
use cloister_policy::verify::{Against, verify};

use crate::{clamped_code, image};

/// The crates of programs that must not hold, and what must be found in them, among much else.
const REFUSED: [(&str, &[&str]); 3] = [
    ("cloister-prober-storm", &["`mov ds`", "`mov es`", "`mov fs`", "`mov gs`"]),
    ("cloister-prober", &["`vmcall`", "`wrpkru`", "`wrmsr`", "`mov cr3`", "`out`", "an address of the kernel"]),
    ("cloister-fused", &["it is code of cloister_tcpip", "it is code of cloister_http"]),
];

/// Verifies the image that was built of a policy.
pub fn check_image(policy: &Path) -> Result<()> {
    let folder = image::folder(policy)?;
    let elf = folder.join("cloister.elf");
    let file = std::fs::read(&elf).with_context(|| elf.display().to_string())?;
    let text = std::fs::read_to_string(policy).with_context(|| policy.display().to_string())?;
    clamped_code::check(&folder.join("kernel.elf"))?;
    let symbols = symbols(policy, &folder)?;
    let verdict = verify(&file, &Against { policy: Some(&text), symbols: &symbols, ..Against::default() })?;
    let refused = REFUSED.iter().find(|(program, _)| text.contains(program));
    if refused.is_none() && !verdict.holds() {
        bail!("{}\n{}", elf.display(), verdict.text());
    }
    if refused.is_none() && (verdict.inventory.sbom.is_none() || verdict.inventory.unsafe_uses.is_none()) {
        bail!("{} carries no inventories", elf.display());
    }
    if policy.file_name().is_some_and(|name| name == "default.toml") {
        has_one_form(&file)?;
    }
    let said = verdict.text();
    let marks = refused.iter().flat_map(|(program, marks)| marks.iter().map(move |mark| (program, mark)));
    match marks.into_iter().find(|(_, mark)| !said.contains(*mark)) {
        Some((program, mark)) => bail!("{mark} is not found in {program} of {}\n{said}", elf.display()),
        None => Ok(()),
    }
}

/// Every byte of the headers of an image, and of what lies between them and its first segment, has one value: any other
/// is refused, and not by the seal alone.
fn has_one_form(file: &[u8]) -> Result<()> {
    const NOTE: usize = 20;
    let number = |at: usize| file.get(at..at + 8).and_then(|bytes| bytes.try_into().ok()).map_or(0, u64::from_le_bytes);
    // The offset of the first segment, which the note is at the start of, and that of the section headers.
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
            bail!("the byte at {at:#x} of the image can be another, and the image verifies");
        }
        changed[at] = file[at];
    }
    Ok(())
}

/// The programs' own ELF files.
fn symbols(policy: &Path, folder: &Path) -> Result<Vec<(String, Vec<u8>)>> {
    let policy = cloister_policy::load(policy).map_err(|report| anyhow!("{}", report.render(false)))?;
    let read = |name: &str| {
        let path = folder.join(format!("{name}.elf"));
        Ok((name.to_owned(), std::fs::read(&path).with_context(|| path.display().to_string())?))
    };
    policy.services().map(|service| read(service.name())).collect()
}
