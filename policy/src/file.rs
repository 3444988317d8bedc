//! Reading files of which nothing is known, not even their size.

use std::fs::File;
use std::io::Read;
use std::path::Path;

/// The largest policy file: `cloister_policy::load` reads no larger one.
const MAX_POLICY: u64 = 256 << 10;

/// Reads a file of at most `limit` bytes.
pub fn read(path: &Path, limit: u64) -> Result<Vec<u8>, String> {
    let name = path.display();
    let file = File::open(path).map_err(|error| format!("cannot open {name}: {error}"))?;
    let mut bytes = Vec::new();
    // One byte more than allowed shows that the file is too large, whatever its size.
    file.take(limit + 1).read_to_end(&mut bytes).map_err(|error| format!("cannot read {name}: {error}"))?;
    if bytes.len() as u64 > limit {
        return Err(format!("{name} has more than {limit} bytes, which no file of its kind has"));
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
