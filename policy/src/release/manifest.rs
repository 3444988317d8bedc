//! What a manifest says.

/// A SHA-256.
pub type Hash = [u8; 32];

/// The name of the kernel among the programs. No service can have it.
pub const KERNEL: &str = "kernel";

/// SHA-256 of an image and of its parts.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Hashes {
    /// The whole file.
    pub image: [u8; 32],
    /// The canonical policy, as the tables name it.
    pub policy: [u8; 32],
    /// The capability tables, which the kernel computes and prints.
    pub tables: [u8; 32],
    /// The bill of materials, not compressed.
    pub sbom: Option<[u8; 32]>,
    /// The inventory of `unsafe`, not compressed.
    pub unsafe_uses: Option<[u8; 32]>,
    /// The kernel and the program of each service: segments with their addresses, flags and sizes,
    /// the kernel's without the sixteen bytes that point to the tables.
    pub programs: Vec<(String, [u8; 32])>,
}

impl Hashes {
    /// Returns the hash of a service's program, or of the kernel ([`KERNEL`]).
    #[must_use]
    pub fn program(&self, name: &str) -> Option<&[u8; 32]> {
        self.programs.iter().find_map(|(known, hash)| (known == name).then_some(hash))
    }
}

/// A manifest: all that a release consists of.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Release {
    /// The parts of the image.
    pub hashes: Hashes,
    /// What the image was built from.
    pub sources: Sources,
    /// SHA-256 of the guest's `xl` configuration, if the release has one.
    pub configuration: Option<Hash>,
}

/// What an image was built from. A build of the same again gives the same bytes.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Sources {
    /// SHA-256 of the policy file as it was written: the log of refusals shows its lines.
    pub policy_file: Hash,
    /// SHA-256 of `Cargo.lock`.
    pub lock: Hash,
    /// The compiler, as `rustc --version` names it.
    pub toolchain: String,
    /// The commit, in hexadecimal; `None` if the sources were those of no commit.
    pub commit: Option<String>,
}
