//! Has `cloister-policy verify --deny` judge the image that ships by cargo-deny itself.
//!
//! By the rules of this repository no crate is refused. By the same rules with a ban of a crate
//! that the image's SBOM lists, or with an advisory against it, the image is.

use std::path::{Path, PathBuf};
use std::process::{Command, Output};

use anyhow::{Context, Result, ensure};

use crate::fuzz::tools;
use crate::image::{self, DEFAULT_POLICY};
use crate::stages::Stages;
use crate::workspace;

/// The version of cargo-deny that is installed.
const CARGO_DENY: (&str, &str) = ("cargo-deny", "0.20.2");
/// The folder below `db-path` in which this version looks for its default database.
const DATABASE: &str = "advisory-db-3157b0e258782691";
/// A crate that the image links.
const LINKED: &str = "smoltcp";

/// Checks the three verdicts.
///
/// # Errors
/// cargo-deny cannot be installed, the image is not built, or a verdict is another.
pub fn check() -> Result<()> {
    let mut stages = Stages::new();
    let program = tools::ensure_tool(CARGO_DENY, &mut stages)?;
    stages.done();
    let judge = Judge { program, place: tempfile::tempdir().context("a temporary folder")? };
    // cargo-deny takes a database without advisories for a broken one.
    judge.advise_against(1, "a-crate-that-nobody-has")?;
    let rules = std::fs::read_to_string(workspace::root().join("deny.toml")).context("deny.toml")?;
    judge.says(&rules, 0, "shown: cargo-deny refuses no crate of the lock file")?;
    let begin = "\ndeny = [\n";
    ensure!(rules.matches(begin).count() == 1, "deny.toml has no list of bans");
    let banned = rules.replace(begin, &format!("{begin}    {{ crate = \"{LINKED}\" }},\n"));
    judge.says(&banned, 1, &format!("error: deny: error[banned]: crate '{LINKED} = "))?;
    judge.advise_against(2, LINKED)?;
    judge.says(&rules, 1, "error: deny: error[vulnerability]: An advisory of a test")
}

struct Judge {
    program: PathBuf,
    place: tempfile::TempDir,
}

impl Judge {
    fn database(&self) -> PathBuf {
        self.place.path().join("advisories")
    }

    /// Adds an advisory of this number against every version of a crate to the database, which is a
    /// repository.
    fn advise_against(&self, number: u32, name: &str) -> Result<()> {
        let database = self.database().join(DATABASE);
        let folder = database.join("crates").join(name);
        std::fs::create_dir_all(&folder).with_context(|| folder.display().to_string())?;
        let text = format!(
            "```toml\n[advisory]\nid = \"RUSTSEC-2026-{number:04}\"\npackage = \"{name}\"\ndate = \"2026-01-01\"\n\n\
             [versions]\npatched = []\n```\n\n# An advisory of a test\n\nIt concerns every version.\n"
        );
        std::fs::write(folder.join(format!("RUSTSEC-2026-{number:04}.md")), text).context("an advisory")?;
        let author = ["-c", "user.name=test", "-c", "user.email=test@localhost", "-c", "commit.gpgsign=false"];
        for arguments in [&["init", "--quiet"][..], &["add", "--all"], &["commit", "--quiet", "--message=advise"]] {
            let mut git = Command::new("git");
            git.arg("-C").arg(&database).args(author).args(arguments);
            succeeded(&git.output().context("git cannot be run")?)?;
        }
        Ok(())
    }

    /// Judges the image by these rules, and compares the exit status and a part of the output.
    fn says(&self, rules: &str, status: i32, expected: &str) -> Result<()> {
        let file = self.place.path().join("rules.toml");
        let path = format!("[advisories]\ndb-path = {:?}", self.database());
        std::fs::write(&file, rules.replace("[advisories]", &path)).context("rules.toml")?;
        let output = self.verify(&file)?;
        let text = String::from_utf8_lossy(&output.stdout) + String::from_utf8_lossy(&output.stderr);
        ensure!(
            output.status.code() == Some(status) && text.contains(expected),
            "verify --deny ends with {}, and not with {status} and \"{expected}\"\n{text}",
            output.status
        );
        Ok(())
    }

    fn verify(&self, rules: &Path) -> Result<Output> {
        let image = image::folder(Path::new(DEFAULT_POLICY))?.join("cloister.elf");
        let mut command = workspace::cargo();
        command.args(["run", "--quiet", "--package", "cloister-policy", "--bin", "cloister-policy", "--", "verify"]);
        command.arg(image).arg("--lock").arg(workspace::root().join("Cargo.lock")).arg("--deny").arg(rules);
        // cargo finds its subcommands there.
        let folder = self.program.parent().context("cargo-deny is in no folder")?.to_owned();
        let path = std::env::var_os("PATH").unwrap_or_default();
        let path = std::env::join_paths([folder].into_iter().chain(std::env::split_paths(&path)))?;
        command.env("PATH", path).output().context("cargo cannot be run")
    }
}

fn succeeded(output: &Output) -> Result<()> {
    ensure!(output.status.success(), "git: {}", String::from_utf8_lossy(&output.stderr));
    Ok(())
}
