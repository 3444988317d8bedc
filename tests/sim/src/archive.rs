//! Builds archives, as a site that the toolstack gives to the image.

/// Returns a cpio archive ("newc") of regular files.
#[must_use]
pub fn cpio(files: &[(&str, &[u8])]) -> Vec<u8> {
    let mut archive = Vec::new();
    for (name, data) in files.iter().copied().chain([("TRAILER!!!", &b""[..])]) {
        let mut header = String::from("070701");
        for field in [1, 0o100_644, 0, 0, 1, 1_700_000_000, data.len(), 0, 0, 0, 0, name.len() + 1, 0] {
            header.push_str(&format!("{field:08x}"));
        }
        archive.extend(header.bytes().chain(name.bytes()).chain([0]));
        archive.resize(archive.len().next_multiple_of(4), 0);
        archive.extend_from_slice(data);
        archive.resize(archive.len().next_multiple_of(4), 0);
    }
    archive
}
