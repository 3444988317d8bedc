//! Finds the images that `cargo xtask build` has made.

use std::path::PathBuf;

use crate::{BedError, target_dir};

/// Returns the path of a policy's image. `policy` is the name of the policy's file without `.toml`.
pub fn image(policy: &str) -> Result<PathBuf, BedError> {
    let path = target_dir().join("image").join(policy).join("cloister.elf");
    match path.is_file() {
        true => Ok(path),
        false => {
            let folder = if policy == "default" { "policy" } else { "tests/guests" };
            Err(BedError::Distribution(format!(
                "{} is not there: run `cargo xtask build --policy {folder}/{policy}.toml`, or the tests with `cargo xtask test --xen`",
                path.display()
            )))
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_image_that_was_not_built_says_how_to_build_it() {
        let error = image("no-such-guest").expect_err("not built").to_string();
        assert!(error.contains("cargo xtask build --policy tests/guests/no-such-guest.toml"), "{error}");
    }
}
