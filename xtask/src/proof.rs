//! The built images under `cloister-policy verify`: those that ship hold, and those with the prober, whose program is
//! made of what a program must not have, do not.

use std::path::Path;

use anyhow::{Context, Result, anyhow, bail};
use cloister_policy::verify::{Against, verify};

use crate::image;

/// The crate of the hostile program.
const PROBER: &str = "cloister-prober";
/// What must be found in it, among much else.
const IN_PROBER: [&str; 6] = ["`vmcall`", "`wrpkru`", "`wrmsr`", "`mov cr3`", "`out`", "an address of the kernel"];

/// Verifies the image that was built of a policy.
pub fn prove(policy: &Path) -> Result<()> {
    let folder = image::folder(policy)?;
    let elf = folder.join("cloister.elf");
    let file = std::fs::read(&elf).with_context(|| elf.display().to_string())?;
    let text = std::fs::read_to_string(policy).with_context(|| policy.display().to_string())?;
    let symbols = symbols(policy, &folder)?;
    let verdict = verify(&file, &Against { policy: Some(&text), symbols: &symbols, ..Against::default() })?;
    let hostile = text.contains(PROBER);
    if !hostile && !verdict.holds() {
        bail!("{}\n{}", elf.display(), verdict.text());
    }
    if !hostile && (verdict.inventory.components.is_empty() || verdict.inventory.unsafe_uses.is_empty()) {
        bail!("{} carries no inventories", elf.display());
    }
    let said = verdict.text();
    match IN_PROBER.iter().find(|mark| hostile && !said.contains(*mark)) {
        Some(mark) => bail!("{} is not found in the prober of {}\n{said}", mark, elf.display()),
        None => Ok(()),
    }
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
