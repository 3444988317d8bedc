//! Has cargo-deny judge the crates of a lock file: licences, bans, sources, advisories.

use std::path::Path;
use std::process::{Command, Stdio};

/// The lines of a report that are kept: a table of advisories alone may have thousands.
const MAX_LINES: usize = 200;

/// Runs cargo-deny offline on the workspace of a lock file, with the rules of `rules`. Returns its
/// report if it refuses a crate.
///
/// # Errors
/// cargo-deny cannot be run, or cannot judge: without the sources that the lock file belongs to, or
/// without the folder of advisories that the rules name (`db-path`).
pub fn judge(lock: &Path, rules: &Path) -> Result<Option<String>, String> {
    let absolute = |path: &Path| std::path::absolute(path).map_err(|error| format!("{}: {error}", path.display()));
    let (lock, rules) = (absolute(lock)?, absolute(rules)?);
    let manifest = lock.with_file_name("Cargo.toml");
    if !manifest.is_file() || lock.file_name().is_none_or(|name| name != "Cargo.lock") {
        let name = lock.display();
        return Err(format!("--deny needs the sources of the image: {name} is not the Cargo.lock of a workspace"));
    }
    let mut command = Command::new(std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into()));
    command
        .args(["deny", "--offline", "--locked", "--color", "never", "--log-level", "error", "--manifest-path"])
        .arg(&manifest);
    // Before 0.20, `--config` was an option of `check`.
    command.arg("--config").arg(&rules).args(["check", "--hide-inclusion-graph"]);
    let output = command.stdin(Stdio::null()).output().map_err(|error| format!("cargo cannot be run: {error}"))?;
    let text = String::from_utf8_lossy(&output.stderr) + String::from_utf8_lossy(&output.stdout);
    let lines: Vec<&str> = text.lines().filter(|line| !line.trim().is_empty()).take(MAX_LINES).collect();
    let report = if lines.is_empty() { "it says nothing".to_owned() } else { lines.join("\n") };
    match output.status.code() {
        Some(0) => Ok(None),
        // The sum of the kinds of checks that failed: advisories 1, bans 2, licences 4, sources 8.
        Some(1..=15) if report.contains("error[") => Ok(Some(report)),
        _ if report.contains("no such command") => {
            Err("cargo-deny is not installed: `cargo install cargo-deny --locked` installs it".to_owned())
        }
        _ if report.contains("unexpected argument") => {
            Err("this cargo-deny is older than 0.20: `cargo install cargo-deny --locked` installs a new one".to_owned())
        }
        _ => Err(format!("cargo-deny did not judge the crates ({}): {report}", output.status)),
    }
}
