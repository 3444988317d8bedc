//! Reads files of unknown size and content.

use std::fs::File;
use std::io::Read;
use std::path::Path;

/// The size of the largest policy file, in bytes, as for `cloister_policy::load`.
const MAX_POLICY: u64 = 256 << 10;

/// Reads a file of at most `limit` bytes.
pub fn read(path: &Path, limit: u64) -> Result<Vec<u8>, String> {
    let name = path.display();
    let file = File::open(path).map_err(|error| format!("cannot open {name}: {error}"))?;
    let too_large = || format!("{name} has more than {limit} bytes, which no file of its kind has");
    let length = file.metadata().map_or(0, |about| about.len());
    if length > limit {
        return Err(too_large());
    }
    let mut bytes = Vec::with_capacity(usize::try_from(length).unwrap_or(0).saturating_add(1));
    // A file may grow, or have no known size: one byte more than allowed shows that it is too
    // large.
    file.take(limit + 1).read_to_end(&mut bytes).map_err(|error| format!("cannot read {name}: {error}"))?;
    if bytes.len() as u64 > limit {
        return Err(too_large());
    }
    Ok(bytes)
}

/// Reads a file of text.
pub fn read_text(path: &Path, limit: u64) -> Result<String, String> {
    String::from_utf8(read(path, limit)?).map_err(|_| format!("{} is not text", path.display()))
}

/// Reads a policy file.
pub fn read_policy(path: &Path) -> Result<String, String> {
    read_text(path, MAX_POLICY)
}
