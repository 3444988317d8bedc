//! Builds archives, as a site that the toolstack gives to the image.

use cloister_cpio::Archive;

/// The time at which the files of a site were changed, in seconds since 1970.
const MODIFIED: u32 = 1_700_000_000;

/// Returns a cpio archive ("newc") of regular files.
#[must_use]
pub fn cpio(files: &[(&str, &[u8])]) -> Vec<u8> {
    let mut archive = Archive::modified(Vec::new(), MODIFIED);
    for (name, data) in files {
        archive.file(name, 0o644, data).expect("memory can be written");
    }
    archive.finish().expect("memory can be written")
}
