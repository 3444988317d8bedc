//! The committed corpora: the scripts that reach most, few and small.

use std::path::Path;
use std::process::Command;

use anyhow::{Context, Result};

use super::{folder, tools};

/// The most scripts of a corpus, and bytes of them together. `tests/fuzz/tests/replay.rs` checks it.
const MOST: (usize, u64) = (100, 200_000);

/// Merges what was found into the committed corpus of a target; answers how many scripts it then has, and bytes.
pub fn minimize(target: &str, program: &Path) -> Result<(usize, u64)> {
    let (found, committed) = (tools::scratch("corpus").join(target), folder("corpus").join(target));
    let merged = tools::scratch("merged").join(target);
    let _ = std::fs::remove_dir_all(&merged);
    for folder in [&merged, &found, &committed] {
        std::fs::create_dir_all(folder).with_context(|| folder.display().to_string())?;
    }
    let mut merge = Command::new(program);
    // By places reached, not by how often: that is what keeps a corpus small.
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
        if kept.0 == MOST.0 || kept.1 + length > MOST.1 {
            break;
        }
        let name = path.file_name().context("a script has a name")?;
        std::fs::copy(&path, committed.join(name))?;
        kept = (kept.0 + 1, kept.1 + length);
    }
    Ok(kept)
}
