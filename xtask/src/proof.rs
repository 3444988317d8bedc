//! The built images under `cloister-policy verify`: those that ship hold. Those with the prober, whose program is made of
//! what a program must not have, do not; neither does that of all services in one program.

use std::path::Path;

use anyhow::{Context, Result, anyhow, bail};
use cloister_policy::verify::{Against, verify};

use crate::image;

/// The crates of programs that must not hold, and what must be found in them, among much else.
const REFUSED: [(&str, &[&str]); 3] = [
    ("cloister-prober-storm", &["`mov ds`", "`mov es`", "`mov fs`", "`mov gs`"]),
    ("cloister-prober", &["`vmcall`", "`wrpkru`", "`wrmsr`", "`mov cr3`", "`out`", "an address of the kernel"]),
    ("cloister-fused", &["it is code of cloister_tcpip", "it is code of cloister_http"]),
];

/// Verifies the image that was built of a policy.
pub fn prove(policy: &Path) -> Result<()> {
    let folder = image::folder(policy)?;
    let elf = folder.join("cloister.elf");
    let file = std::fs::read(&elf).with_context(|| elf.display().to_string())?;
    let text = std::fs::read_to_string(policy).with_context(|| policy.display().to_string())?;
    let symbols = symbols(policy, &folder)?;
    let verdict = verify(&file, &Against { policy: Some(&text), symbols: &symbols, ..Against::default() })?;
    let refused = REFUSED.iter().find(|(program, _)| text.contains(program));
    if refused.is_none() && !verdict.holds() {
        bail!("{}\n{}", elf.display(), verdict.text());
    }
    if refused.is_none() && (verdict.inventory.components.is_empty() || verdict.inventory.unsafe_uses.is_empty()) {
        bail!("{} carries no inventories", elf.display());
    }
    let said = verdict.text();
    let marks = refused.iter().flat_map(|(program, marks)| marks.iter().map(move |mark| (program, mark)));
    match marks.into_iter().find(|(_, mark)| !said.contains(*mark)) {
        Some((program, mark)) => bail!("{mark} is not found in {program} of {}\n{said}", elf.display()),
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
