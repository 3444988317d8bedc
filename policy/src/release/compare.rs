//! Holds an image and its sources against a manifest.

use super::manifest::{Hash, Hashes, KERNEL, Release};
use crate::printable::hexadecimal;
use crate::verify::Finding;

const ABOUT: &str = "release";

impl Release {
    /// Returns where the parts of an image differ from those of the manifest, one finding for each
    /// part.
    #[must_use]
    pub fn compare(&self, found: &Hashes) -> Vec<Finding> {
        let wanted = &self.hashes;
        let mut findings = Vec::new();
        let mut check = |what: &str, wanted: Option<&Hash>, found: Option<&Hash>| {
            if wanted != found {
                let [wanted, found] =
                    [wanted, found].map(|hash| hash.map_or("none".to_owned(), |hash| hexadecimal(hash)));
                let message = format!("{what} is another: the manifest has {wanted}, the image {found}");
                findings.push(Finding::error(ABOUT, message));
            }
        };
        check("the policy", Some(&wanted.policy), Some(&found.policy));
        check("the capability tables", Some(&wanted.tables), Some(&found.tables));
        check("the SBOM", wanted.sbom.as_ref(), found.sbom.as_ref());
        check("the inventory of `unsafe`", wanted.unsafe_uses.as_ref(), found.unsafe_uses.as_ref());
        let has = |list: &Hashes, name: &str| list.programs.iter().any(|(known, _)| known == name);
        let more = found.programs.iter().filter(|(name, _)| !has(wanted, name));
        for (name, _) in wanted.programs.iter().chain(more) {
            let what = if name == KERNEL { "the kernel".to_owned() } else { format!("the program of {name}") };
            check(&what, wanted.program(name), found.program(name));
        }
        // Last: where a part differs, the whole does too.
        check("the file", Some(&wanted.image), Some(&found.image));
        findings
    }

    /// Returns how a lock file differs from that of the manifest.
    #[must_use]
    pub fn compare_lock(&self, lock: &Hash) -> Option<Finding> {
        differs("Cargo.lock", &self.sources.lock, lock).map(|message| Finding::error(ABOUT, message))
    }

    /// Returns how a policy file differs from that of the manifest.
    #[must_use]
    pub fn compare_policy_file(&self, file: &Hash) -> Option<Finding> {
        differs("the policy file", &self.sources.policy_file, file).map(|message| Finding::error(ABOUT, message))
    }

    /// Returns how a guest's configuration differs from that of the manifest. It is a notice: an
    /// operator names the bridge and the address of the host.
    #[must_use]
    pub fn compare_configuration(&self, file: &Hash) -> Option<Finding> {
        let wanted = self.configuration.as_ref()?;
        let message = differs("the guest's configuration", wanted, file)?;
        Some(Finding::notice(ABOUT, format!("{message}; it is judged by itself")))
    }
}

fn differs(what: &str, wanted: &Hash, found: &Hash) -> Option<String> {
    let message = || {
        format!(
            "{what} is not that of the release: the manifest has {}, the file {}",
            hexadecimal(wanted),
            hexadecimal(found)
        )
    };
    (wanted != found).then(message)
}
