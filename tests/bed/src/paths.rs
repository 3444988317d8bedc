//! The paths of the bed's files.

use std::path::PathBuf;

/// Returns Cargo's target folder: `CARGO_TARGET_DIR`, else `target` in the workspace.
pub fn target_dir() -> PathBuf {
    match std::env::var_os("CARGO_TARGET_DIR") {
        Some(dir) if !dir.is_empty() => PathBuf::from(dir),
        _ => {
            let workspace = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("../..");
            workspace.canonicalize().unwrap_or(workspace).join("target")
        }
    }
}

/// Returns the bed's folder: caches in `cache/`, one folder for each run in `runs/`.
pub fn bed_dir() -> PathBuf {
    target_dir().join("bed")
}
