//! Packs a folder into the archive that the guest serves.

use std::fs::File;
use std::io::BufWriter;
use std::path::Path;

use anyhow::{Context, Result, bail};
use cloister_cpio::Archive;
use tempfile::NamedTempFile;

/// Packs a folder's files into a cpio archive, in a temporary file that is removed with the value.
///
/// Names are sorted, so the same folder gives the same archive.
pub fn pack(folder: &Path) -> Result<NamedTempFile> {
    if !folder.is_dir() {
        bail!("--site {}: there is no such folder", folder.display());
    }
    let scratch = cloister_bed::bed_dir();
    std::fs::create_dir_all(&scratch).with_context(|| scratch.display().to_string())?;
    let file = NamedTempFile::with_prefix_in("site-", &scratch).with_context(|| scratch.display().to_string())?;
    let mut archive = Archive::new(BufWriter::new(file.as_file()));
    add(&mut archive, folder, "")?;
    archive.finish()?;
    Ok(file)
}

fn add(archive: &mut Archive<BufWriter<&File>>, folder: &Path, prefix: &str) -> Result<()> {
    let entries = std::fs::read_dir(folder).with_context(|| folder.display().to_string())?;
    let mut paths = entries.map(|entry| Ok(entry?.path())).collect::<Result<Vec<_>>>()?;
    paths.sort();
    for path in paths {
        let file_name = path.file_name().and_then(|name| name.to_str());
        let Some(file_name) = file_name else { bail!("{}: the name is not UTF-8", path.display()) };
        let name = format!("{prefix}{file_name}");
        // Links are followed: the guest's server knows only files.
        if path.is_dir() {
            archive.folder(&name)?;
            add(archive, &path, &format!("{name}/"))?;
        } else {
            let content = std::fs::read(&path).with_context(|| path.display().to_string())?;
            archive.file(&name, 0o644, &content).with_context(|| path.display().to_string())?;
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_folder_becomes_an_archive_in_order_of_names() {
        let folder = tempfile::tempdir().expect("folder");
        std::fs::create_dir(folder.path().join("sub")).expect("sub");
        std::fs::write(folder.path().join("sub/b.txt"), "B").expect("b");
        std::fs::write(folder.path().join("index.html"), "A").expect("a");
        let packed = pack(folder.path()).expect("pack");
        let bytes = std::fs::read(packed.path()).expect("read");
        let at = |name: &str| bytes.windows(name.len()).position(|w| w == name.as_bytes());
        assert!(at("index.html\0") < at("sub/b.txt\0") && at("sub/b.txt\0") < at("TRAILER!!!"));
        assert!(at("index.html\0").is_some());
    }

    #[test]
    fn a_missing_folder_is_named() {
        assert!(pack(Path::new("/nonexistent/site")).expect_err("absent").to_string().contains("/nonexistent/site"));
    }
}
