//! Keeps the committed corpora: few and small scripts that reach the most code.

use std::path::Path;
use std::process::Command;

use anyhow::{Context, Result};

use super::tools::{self, folder};

/// The largest number of scripts in a corpus, and of their bytes together.
/// `tests/fuzz/tests/replay.rs` checks it.
const LIMIT: (usize, u64) = (100, 200_000);

/// Merges what was found into the committed corpus of a target. Returns the numbers of its scripts
/// and bytes.
pub fn minimize(target: &str, program: &Path) -> Result<(usize, u64)> {
    let (found, committed) = (tools::scratch("corpus").join(target), folder("corpus").join(target));
    let merged = tools::scratch("merged").join(target);
    let _ = std::fs::remove_dir_all(&merged);
    for folder in [&merged, &found, &committed] {
        std::fs::create_dir_all(folder).with_context(|| folder.display().to_string())?;
    }
    let mut merge = Command::new(program);
    // By places reached, not by how often they are reached, which keeps a corpus small.
    merge.args(["-merge=1", "-use_counters=0", "-max_len=4096"]).arg(&merged).arg(&committed).arg(&found);
    tools::quiet(&mut merge)?;
    let mut scripts = Vec::new();
    for entry in std::fs::read_dir(&merged)? {
        let entry = entry?;
        scripts.push((entry.metadata()?.len(), entry.path()));
    }
    scripts.sort();
    for entry in std::fs::read_dir(&committed)? {
        std::fs::remove_file(entry?.path())?;
    }
    let mut kept = (0, 0);
    for (length, path) in scripts {
        if kept.0 == LIMIT.0 || kept.1 + length > LIMIT.1 {
            break;
        }
        let name = path.file_name().context("a script has a name")?;
        std::fs::copy(&path, committed.join(name))?;
        kept = (kept.0 + 1, kept.1 + length);
    }
    Ok(kept)
}
