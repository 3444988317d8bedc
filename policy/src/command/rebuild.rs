use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use cloister_policy::release::{Release, hash_of};
use cloister_policy::verify::Finding;
use cloister_policy::{printable, sign};

use super::outcome::{Outcome, Status};
use super::sign::{beside, read_release};
use crate::file;

/// Build the image of a release once more, from the sources at its commit, and compare it with the
/// manifest
///
/// Clones the repository into a new folder, checks out the commit, runs `cargo xtask build` there,
/// and compares every hash. Needs git, rustup and, for crates that are not yet downloaded, a
/// network. The commit's own code runs on this machine: build scripts, procedural macros, xtask.
#[derive(clap::Args)]
pub struct Arguments {
    /// The manifest of the release
    release: PathBuf,
    /// The repository: a folder or a URL; by default that of the current folder
    #[arg(long, value_name = "REPOSITORY")]
    source: Option<PathBuf>,
    /// The policy file of the release; by default `policy.toml` beside the manifest
    #[arg(long, value_name = "FILE")]
    policy: Option<PathBuf>,
    /// The public key with which the manifest must be signed; checked before anything is built
    #[arg(long, value_name = "KEY")]
    key: Option<PathBuf>,
    /// The folder to make for sources and results; by default a temporary one, which is removed
    #[arg(long, value_name = "DIR")]
    into: Option<PathBuf>,
}

/// What is compared.
struct Job {
    release: Release,
    commit: String,
    policy: Vec<u8>,
}

impl Arguments {
    pub fn run(self) -> Outcome {
        match self.rebuild() {
            Ok(outcome) => outcome,
            Err(problem) => Outcome::unusable_lines(problem),
        }
    }

    fn rebuild(&self) -> Result<Outcome, String> {
        let job = self.job()?;
        let source = self.source.clone().map_or_else(repository, Ok)?;
        let scratch;
        let folder = match &self.into {
            Some(folder) => {
                std::fs::create_dir(folder).map_err(|error| format!("--into {}: {error}", folder.display()))?;
                folder
            }
            None => {
                scratch = tempfile::Builder::new().prefix("cloister-rebuild-").tempdir().map_err(|e| e.to_string())?;
                scratch.path()
            }
        };
        let folder = std::path::absolute(folder).map_err(|error| error.to_string())?;
        let findings = job.build(&source, &folder)?;
        let Job { release, commit, .. } = &job;
        if findings.is_empty() {
            let image = cloister_policy::hexadecimal(&release.hashes.image);
            return Ok(Outcome::holds(format!("rebuilt: commit {commit} gives the same image, sha256 {image}\n")));
        }
        let mut output: String = findings.iter().map(|finding| format!("{finding}\n")).collect();
        output += &format!("refused: commit {commit} gives another image\n");
        Ok(Outcome { status: Status::Refused, ..Outcome::holds(output) })
    }

    /// Reads what is to be built.
    fn job(&self) -> Result<Job, String> {
        let name = self.release.display();
        let (text, release) = read_release(&self.release)?;
        if let Some(key) = &self.key {
            let signature = file::read_text(&beside(&self.release), sign::MAX_FILE)?;
            let key = file::read_text(key, sign::MAX_FILE)?;
            sign::check(&hash_of(text.as_bytes()), &signature, &key).map_err(|error| format!("{name}: {error}"))?;
        }
        let Some(commit) = release.sources.commit.clone() else {
            return Err(format!("{name} names no commit: it was built from sources with changes, or without git"));
        };
        let path = self.policy.clone().unwrap_or_else(|| self.release.with_file_name("policy.toml"));
        let policy = file::read_policy(&path)?.into_bytes();
        if let Some(finding) = release.compare_policy_file(&hash_of(&policy)) {
            return Err(format!("{}: {}", path.display(), finding.message));
        }
        Ok(Job { release, commit, policy })
    }
}

impl Job {
    /// Builds the image in `folder`, and returns where it differs from the manifest.
    fn build(&self, source: &Path, folder: &Path) -> Result<Vec<Finding>, String> {
        let (sources, policy) = (folder.join("sources"), folder.join("policy.toml"));
        let git = |arguments: &[&str], last: &Path| {
            let mut command = Command::new("git");
            command.args(["-c", "core.hooksPath=/dev/null", "-c", "advice.detachedHead=false"]).args(arguments);
            run(command.arg(last))
        };
        let from = source.to_str().ok_or("the name of the repository is not UTF-8")?;
        git(&["clone", "--quiet", "--no-checkout", "--", from], &sources)?;
        let at = sources.to_str().ok_or("the name of the folder is not UTF-8")?;
        git(&["-C", at, "checkout", "--quiet", "--detach"], Path::new(&self.commit))?;
        let lock = file::read(&sources.join("Cargo.lock"), cloister_policy::verify::MAX_LOCK)?;
        // Without the same crates, a build would take minutes to show a difference that is known.
        if let Some(finding) = self.release.compare_lock(&hash_of(&lock)) {
            return Ok(vec![finding]);
        }
        std::fs::write(&policy, &self.policy).map_err(|error| format!("{}: {error}", policy.display()))?;
        let mut command = Command::new("cargo");
        command.args(["xtask", "build", "--policy"]).arg(&policy).current_dir(&sources);
        // The clone has its own target folder and its own choice of a compiler.
        for name in
            ["CARGO_TARGET_DIR", "CLOISTER_WORKSPACE", "RUSTUP_TOOLCHAIN", "RUSTFLAGS", "CARGO_ENCODED_RUSTFLAGS"]
        {
            command.env_remove(name);
        }
        run(&mut command)?;
        let (_, built) = read_release(&sources.join("target/image/policy/release.toml"))?;
        let mut findings = self.release.compare(&built.hashes);
        let [wanted, found] = [&self.release, &built].map(|release| &release.sources.toolchain);
        if wanted != found {
            findings.insert(0, Finding::error("release", format!("the compiler is {found}; the release has {wanted}")));
        }
        Ok(findings)
    }
}

/// Returns the repository of the current folder.
fn repository() -> Result<PathBuf, String> {
    let output = Command::new("git").args(["rev-parse", "--show-toplevel"]).output();
    let output = output.map_err(|error| format!("git cannot be run: {error}"))?;
    if !output.status.success() {
        return Err("the current folder belongs to no repository: name one with --source".to_owned());
    }
    Ok(PathBuf::from(String::from_utf8_lossy(&output.stdout).trim_end()))
}

/// Runs a command, whose progress goes to standard error.
fn run(command: &mut Command) -> Result<(), String> {
    let shown = format!("{:?}", command.get_program());
    let output = command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::piped()).output();
    let output = output.map_err(|error| format!("{shown} cannot be run: {error}"))?;
    if output.status.success() {
        return Ok(());
    }
    let words: Vec<String> = command.get_args().map(|word| word.to_string_lossy().into_owned()).collect();
    let text = String::from_utf8_lossy(&output.stderr);
    Err(format!("{shown} {} failed ({})\n{}", printable(&words.join(" ")), output.status, text.trim_end()))
}
