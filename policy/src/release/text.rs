//! Reads and writes the text of a manifest.

use toml_edit::{Document, Item, TableLike};

use super::manifest::{Hash, Hashes, KERNEL, Release, Sources};
use crate::printable::{hexadecimal, is_plain, printable};

/// The version of the form.
const FORMAT: i64 = 1;
/// The longest name of a compiler, in bytes.
const MAX_TOOLCHAIN: usize = 200;

/// The reason why a text is not a manifest.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum ReleaseError {
    /// It is not TOML.
    #[error("line {line}: not TOML: {reason}")]
    Toml {
        /// The line, from 1.
        line: usize,
        /// The mistake.
        reason: String,
    },
    /// It has another version, or none.
    #[error("not a manifest with `format = {FORMAT}`: use the verifier of its release")]
    Version,
    /// A key is missing.
    #[error("`{0}` is missing: `cargo xtask build` writes it")]
    Missing(String),
    /// A key or section is not known.
    #[error("line {line}: `{key}` is not known: use the verifier of its release, or remove it")]
    Unknown {
        /// The line, from 1.
        line: usize,
        /// The key.
        key: String,
    },
    /// A value is not of its kind.
    #[error("line {line}: `{key}` is not {expected}")]
    Value {
        /// The line, from 1.
        line: usize,
        /// The key.
        key: String,
        /// The expected kind.
        expected: &'static str,
    },
}

const A_HASH: &str = "a SHA-256 of 64 lower-case hexadecimal digits";
const A_SECTION: &str = "a section";
const A_COMMIT: &str = "a commit of 40 or 64 lower-case hexadecimal digits";
const A_COMPILER: &str = "a line of `rustc --version`, up to 200 visible characters";

impl Release {
    /// Parses the text of a manifest.
    ///
    /// # Errors
    /// The text is not a manifest of this version; the error says where and why.
    pub fn parse(text: &str) -> Result<Self, ReleaseError> {
        parse(text)
    }

    /// Returns the text of the manifest, which [`Release::parse`] reads.
    #[must_use]
    pub fn text(&self) -> String {
        render(self)
    }
}

pub(super) fn render(release: &Release) -> String {
    let Release { hashes, sources, configuration } = release;
    let digits = |hash: &Hash| Some(hexadecimal(hash));
    let optional = |hash: &Option<Hash>| hash.as_ref().map(|hash| hexadecimal(hash));
    let programs = hashes.programs.iter().map(|(name, hash)| (name.as_str(), digits(hash)));
    let sections = [
        (
            "image",
            vec![
                ("sha256", digits(&hashes.image)),
                ("policy-sha256", digits(&hashes.policy)),
                ("tables-sha256", digits(&hashes.tables)),
                ("sbom-sha256", optional(&hashes.sbom)),
                ("unsafe-sha256", optional(&hashes.unsafe_uses)),
            ],
        ),
        ("programs", programs.collect()),
        (
            "sources",
            vec![
                ("policy-file-sha256", digits(&sources.policy_file)),
                ("lock-sha256", digits(&sources.lock)),
                ("toolchain", Some(sources.toolchain.clone())),
                ("commit", sources.commit.clone()),
            ],
        ),
        ("guest", vec![("configuration-sha256", optional(configuration))]),
    ];
    let mut out = format!("# What the image of this release is made of; see docs/verify.md.\nformat = {FORMAT}\n");
    for (section, lines) in sections {
        let lines: Vec<_> = lines.into_iter().filter_map(|(key, value)| Some((key, value?))).collect();
        if !lines.is_empty() {
            out += &format!("\n[{section}]\n");
        }
        lines.into_iter().for_each(|(key, value)| out += &format!("{key} = \"{value}\"\n"));
    }
    out
}

pub(super) fn parse(text: &str) -> Result<Release, ReleaseError> {
    let document = Document::parse(text).map_err(|error| ReleaseError::Toml {
        line: line_of(text, error.span().map_or(0, |span| span.start)),
        reason: printable(error.message()).into_owned(),
    })?;
    let root = Section { name: "", text, table: document.as_table() };
    if document.get("format").and_then(Item::as_integer) != Some(FORMAT) {
        return Err(ReleaseError::Version);
    }
    root.only(&["format", "image", "programs", "sources", "guest"])?;
    let image = root.section("image")?;
    image.only(&["sha256", "policy-sha256", "tables-sha256", "sbom-sha256", "unsafe-sha256"])?;
    let programs = root.section("programs")?;
    let mut found = Vec::new();
    for (name, _) in programs.table.iter() {
        found.push((name.to_owned(), programs.required(name, A_HASH, hash)?));
    }
    if !found.iter().any(|(name, _)| name == KERNEL) {
        return Err(ReleaseError::Missing(format!("programs.{KERNEL}")));
    }
    let hashes = Hashes {
        image: image.required("sha256", A_HASH, hash)?,
        policy: image.required("policy-sha256", A_HASH, hash)?,
        tables: image.required("tables-sha256", A_HASH, hash)?,
        sbom: image.optional("sbom-sha256", A_HASH, hash)?,
        unsafe_uses: image.optional("unsafe-sha256", A_HASH, hash)?,
        programs: found,
    };
    let sources = root.section("sources")?;
    sources.only(&["policy-file-sha256", "lock-sha256", "toolchain", "commit"])?;
    let sources = Sources {
        policy_file: sources.required("policy-file-sha256", A_HASH, hash)?,
        lock: sources.required("lock-sha256", A_HASH, hash)?,
        toolchain: sources.required("toolchain", A_COMPILER, compiler)?,
        commit: sources.optional("commit", A_COMMIT, commit)?,
    };
    let configuration = match document.contains_key("guest") {
        true => {
            let guest = root.section("guest")?;
            guest.only(&["configuration-sha256"])?;
            guest.optional("configuration-sha256", A_HASH, hash)?
        }
        false => None,
    };
    Ok(Release { hashes, sources, configuration })
}

/// A section of the file, or the file itself.
struct Section<'a> {
    name: &'a str,
    text: &'a str,
    table: &'a dyn TableLike,
}

impl<'a> Section<'a> {
    fn full(&self, key: &str) -> String {
        let key = if self.name.is_empty() { key.to_owned() } else { format!("{}.{key}", self.name) };
        printable(&key).into_owned()
    }

    fn line(&self, key: &str) -> usize {
        let span = self.table.get_key_value(key).and_then(|(key, item)| key.span().or_else(|| item.span()));
        line_of(self.text, span.map_or(0, |span| span.start))
    }

    fn wrong(&self, key: &str, expected: &'static str) -> ReleaseError {
        ReleaseError::Value { line: self.line(key), key: self.full(key), expected }
    }

    fn only(&self, known: &[&str]) -> Result<(), ReleaseError> {
        match self.table.iter().find(|(key, _)| !known.contains(key)) {
            Some((key, _)) => Err(ReleaseError::Unknown { line: self.line(key), key: self.full(key) }),
            None => Ok(()),
        }
    }

    fn section(&self, key: &'a str) -> Result<Section<'a>, ReleaseError> {
        let item = self.table.get(key).ok_or_else(|| ReleaseError::Missing(format!("[{key}]")))?;
        let table = item.as_table_like().ok_or_else(|| self.wrong(key, A_SECTION))?;
        Ok(Section { name: key, text: self.text, table })
    }

    fn optional<T>(
        &self,
        key: &str,
        expected: &'static str,
        read: impl Fn(&str) -> Option<T>,
    ) -> Result<Option<T>, ReleaseError> {
        let Some(item) = self.table.get(key) else { return Ok(None) };
        item.as_str().and_then(read).map(Some).ok_or_else(|| self.wrong(key, expected))
    }

    fn required<T>(
        &self,
        key: &str,
        expected: &'static str,
        read: impl Fn(&str) -> Option<T>,
    ) -> Result<T, ReleaseError> {
        self.optional(key, expected, read)?.ok_or_else(|| ReleaseError::Missing(self.full(key)))
    }
}

/// Returns the line of a position in a text, from 1.
fn line_of(text: &str, at: usize) -> usize {
    text.bytes().take(at).filter(|byte| *byte == b'\n').count() + 1
}

/// Reads a SHA-256 of 64 lower-case hexadecimal digits.
pub(crate) fn hash(text: &str) -> Option<Hash> {
    if !is_hexadecimal(text) || text.len() != 64 {
        return None;
    }
    let mut hash = Hash::default();
    for (at, byte) in hash.iter_mut().enumerate() {
        *byte = u8::from_str_radix(text.get(at * 2..at * 2 + 2)?, 16).ok()?;
    }
    Some(hash)
}

fn is_hexadecimal(text: &str) -> bool {
    text.bytes().all(|byte| byte.is_ascii_digit() || (b'a'..=b'f').contains(&byte))
}

/// Reads a commit. It is later an argument of git, so it can have no other form.
fn commit(text: &str) -> Option<String> {
    (is_hexadecimal(text) && matches!(text.len(), 40 | 64)).then(|| text.to_owned())
}

fn compiler(text: &str) -> Option<String> {
    let visible = text.chars().all(|c| is_plain(c) && !matches!(c, '"' | '\\'));
    (visible && (1..=MAX_TOOLCHAIN).contains(&text.len())).then(|| text.to_owned())
}
