//! `build`: builds the bootable image of a policy, and prints a summary.

use std::fmt::Write;
use std::path::Path;
use std::process::ExitCode;

use anyhow::{Context, Result};
use clap::Args;
use cloister_policy::hexadecimal;

use crate::backend_domain::PolicyArguments;
use crate::image::{self, Image};
use crate::rebuild;
use crate::stages::Stages;

#[derive(Args)]
pub struct Arguments {
    #[command(flatten)]
    policy: PolicyArguments,
    /// Build once more, from a copy of the sources in another place, and compare the bytes
    #[arg(long)]
    twice: bool,
}

pub fn run(arguments: &Arguments) -> Result<ExitCode> {
    let mut stages = Stages::new();
    let image = image::build(&arguments.policy.file()?, &mut stages)?;
    if arguments.twice {
        stages.begin("building once more, elsewhere");
        rebuild::check(&image.policy)?;
    }
    stages.done();
    print!("{}", summary(&image)?);
    Ok(ExitCode::SUCCESS)
}

/// Returns a summary for people: the image's size, the policy and its hash, the hash
/// of the tables, the services.
fn summary(image: &Image) -> Result<String> {
    let size = |path: &Path| std::fs::metadata(path).map(|m| m.len()).with_context(|| path.display().to_string());
    let mut text = String::new();
    writeln!(text, "image    {} ({} KiB)", image.elf.display(), size(&image.elf)?.div_ceil(1024))?;
    writeln!(text, "policy   {}", image.policy.display())?;
    writeln!(text, "hash     {}", hexadecimal(&image.release.hashes.policy))?;
    writeln!(text, "tables   {}", hexadecimal(&image.release.hashes.tables))?;
    writeln!(text, "release  {}", image.folder.join("release.toml").display())?;
    writeln!(text, "services {}", image.services.join(" "))?;
    Ok(text)
}
