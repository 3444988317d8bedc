//! Checks the licences, sources and versions of all crates in the lock files, by the rules in
//! `deny.toml`, which `cargo deny` reads too.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;

use anyhow::{Context, Result, bail};
use cargo_metadata::MetadataCommand;
use spdx::{Expression, Licensee, ParseMode};
use toml_edit::{DocumentMut, Item, TableLike};

use crate::workspace;

/// The file with the rules.
const RULES: &str = "deny.toml";
/// The folders of the workspaces with a lock file.
const WORKSPACES: [&str; 2] = ["", "tests/fuzz/fuzz"];
/// What the check leaves out.
pub const NOT_CHECKED: &str = "advisories: NOT CHECKED: their database is on no package registry. \
    With a network: cargo install cargo-deny --locked && cargo deny check";

/// The rules.
struct Rules {
    licences: Vec<Licensee>,
    /// More licences of single crates, by name.
    exceptions: BTreeMap<String, Vec<Licensee>>,
    registries: BTreeSet<String>,
    /// Crates of which there is one version.
    single: BTreeSet<String>,
}

/// A crate in a lock file.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
struct Locked {
    name: String,
    version: String,
    /// `None` for a crate of the workspace.
    source: Option<String>,
    has_checksum: bool,
    licence: Option<String>,
}

/// What is wrong with a crate.
#[derive(Debug, PartialEq, Eq)]
enum Defect {
    Unlicensed,
    Licence(String),
    Source(String),
    NoChecksum,
    Versions,
}

/// A crate that breaks a rule.
#[derive(Debug, PartialEq, Eq)]
struct Finding {
    name: String,
    version: String,
    defect: Defect,
}

impl fmt::Display for Finding {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Finding { name, version, defect } = self;
        write!(f, "{name} {version}: ")?;
        match defect {
            Defect::Unlicensed => write!(f, "its manifest names no licence: use another crate"),
            Defect::Licence(licence) => write!(
                f,
                "its licence \"{licence}\" is not allowed by [licenses] of {RULES}: use another crate, or allow it there with a reason"
            ),
            Defect::Source(source) => {
                write!(
                    f,
                    "it comes from \"{source}\", which [sources] of {RULES} does not allow: use a release on crates.io"
                )
            }
            Defect::NoChecksum => write!(f, "the lock file has no checksum of it: run `cargo update -p {name}`"),
            Defect::Versions => write!(
                f,
                "[bans] of {RULES} allows one version of it, and the lock file has more: `cargo tree --duplicates` shows why"
            ),
        }
    }
}

/// Checks all crates. Prints what is wrong. Returns `true` if nothing is.
pub fn check() -> Result<bool> {
    let root = workspace::root();
    let text = std::fs::read_to_string(root.join(RULES)).with_context(|| RULES.to_owned())?;
    let rules = Rules::parse(&text).with_context(|| RULES.to_owned())?;
    let mut good = true;
    for folder in WORKSPACES {
        let crates = crates(folder)?;
        let findings = rules.check(&crates);
        findings.iter().for_each(|finding| println!("{finding}"));
        println!("{}: {} crates", root.join(folder).join("Cargo.lock").display(), crates.len());
        good &= findings.is_empty();
    }
    Ok(good)
}

/// Returns the crates in the lock file of the workspace in `folder`.
fn crates(folder: &str) -> Result<Vec<Locked>> {
    let folder = workspace::root().join(folder);
    let lock = std::fs::read_to_string(folder.join("Cargo.lock")).context("Cargo.lock")?;
    let metadata = MetadataCommand::new()
        .manifest_path(folder.join("Cargo.toml"))
        .other_options(["--locked".to_owned()])
        .exec()
        .context("cargo metadata failed")?;
    let licences = metadata.packages.into_iter().map(|package| {
        let key = (package.name.to_string(), package.version.to_string());
        (key, package.license)
    });
    locked(&lock, &licences.collect())
}

/// The licence of each crate, by name and version.
type Licences = BTreeMap<(String, String), Option<String>>;

/// Parses a lock file. A crate without an entry in `licences` is an error: it would escape the
/// check.
fn locked(lock: &str, licences: &Licences) -> Result<Vec<Locked>> {
    let lock: DocumentMut = lock.parse().context("the lock file")?;
    let packages = lock.get("package").and_then(Item::as_array_of_tables).context("the lock file has no packages")?;
    let parse = |package: &dyn TableLike| {
        let field = |key| package.get(key).and_then(Item::as_str).map(str::to_owned);
        let name = field("name").context("a package has no name")?;
        let version = field("version").context("a package has no version")?;
        let Some(licence) = licences.get(&(name.clone(), version.clone())).cloned() else {
            bail!("cargo metadata does not know {name} {version}, which is in the lock file");
        };
        Ok(Locked { name, version, source: field("source"), has_checksum: field("checksum").is_some(), licence })
    };
    packages.iter().map(|package| parse(package)).collect()
}

impl Rules {
    fn parse(text: &str) -> Result<Self> {
        let document: DocumentMut = text.parse()?;
        let list = |table: &str, key: &str| {
            let array = document.get(table).and_then(|table| table.get(key)).and_then(Item::as_array);
            array.with_context(|| format!("[{table}] has no list \"{key}\""))
        };
        let mut exceptions = BTreeMap::new();
        for exception in list("licenses", "exceptions")? {
            let exception = exception.as_inline_table().context("an exception is not a table")?;
            let name =
                exception.get("crate").and_then(|name| name.as_str()).context("an exception has no \"crate\"")?;
            let allow = exception.get("allow").and_then(|allow| allow.as_array());
            exceptions.insert(name.to_owned(), licensees(allow.context("an exception has no \"allow\"")?)?);
        }
        for key in ["unknown-registry", "unknown-git"] {
            let found = document.get("sources").and_then(|sources| sources.get(key)).and_then(Item::as_str);
            if found != Some("deny") {
                bail!("[sources] must have {key} = \"deny\"");
            }
        }
        let mut single = BTreeSet::new();
        for ban in list("bans", "deny")? {
            let ban = ban.as_inline_table().context("a ban is not a table")?;
            let name = ban.get("crate").and_then(|name| name.as_str()).context("a ban has no \"crate\"")?;
            if ban.get("deny-multiple-versions").and_then(|deny| deny.as_bool()) != Some(true) {
                bail!("the ban of {name} needs deny-multiple-versions = true: no other kind is checked");
            }
            single.insert(name.to_owned());
        }
        if !list("sources", "allow-git")?.is_empty() {
            bail!("[sources] allows a git repository, which no lock file has a checksum of");
        }
        let registries = list("sources", "allow-registry")?;
        let registries = registries.iter().map(|url| Ok(url.as_str().context("a registry is not a text")?.to_owned()));
        Ok(Rules {
            licences: licensees(list("licenses", "allow")?)?,
            exceptions,
            registries: registries.collect::<Result<_>>()?,
            single,
        })
    }

    fn check(&self, crates: &[Locked]) -> Vec<Finding> {
        let found = |one: &Locked, defect| Finding { name: one.name.clone(), version: one.version.clone(), defect };
        let mut findings = Vec::new();
        for one in crates {
            let defects = [self.licence_defect(one), self.source_defect(one), self.version_defect(one, crates)];
            findings.extend(defects.into_iter().flatten().map(|defect| found(one, defect)));
        }
        findings
    }

    fn licence_defect(&self, one: &Locked) -> Option<Defect> {
        let Some(licence) = &one.licence else { return Some(Defect::Unlicensed) };
        // Old manifests have "MIT/Apache-2.0".
        let expression = Expression::parse_mode(licence, ParseMode::LAX);
        let exceptions = self.exceptions.get(&one.name).into_iter().flatten();
        let allowed: Vec<&Licensee> = self.licences.iter().chain(exceptions).collect();
        let good = expression.is_ok_and(|expression| {
            expression.evaluate(|wanted| allowed.iter().any(|licence| licence.satisfies(wanted)))
        });
        (!good).then(|| Defect::Licence(licence.clone()))
    }

    fn source_defect(&self, one: &Locked) -> Option<Defect> {
        let source = one.source.as_ref()?;
        let registry = source.strip_prefix("registry+").filter(|url| self.registries.contains(*url));
        match registry {
            None => Some(Defect::Source(source.clone())),
            Some(_) => (!one.has_checksum).then_some(Defect::NoChecksum),
        }
    }

    fn version_defect(&self, one: &Locked, crates: &[Locked]) -> Option<Defect> {
        let others = crates.iter().filter(|other| other.name == one.name && **other != *one).count();
        (self.single.contains(&one.name) && others > 0).then_some(Defect::Versions)
    }
}

/// Parses a list of licences.
fn licensees(list: &toml_edit::Array) -> Result<Vec<Licensee>> {
    let parse = |value: &toml_edit::Value| {
        let text = value.as_str().context("a licence is not a text")?;
        Licensee::parse(text).map_err(|error| anyhow::anyhow!("{text}: {}", error.reason))
    };
    list.iter().map(parse).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    const CRATES_IO: &str = "registry+https://github.com/rust-lang/crates.io-index";

    fn rules() -> Rules {
        Rules::parse(&std::fs::read_to_string(workspace::root().join(RULES)).expect("rules")).expect("valid")
    }

    fn locked_of(name: &str, licence: &str, source: &str) -> Locked {
        let (licence, source) = (Some(licence.to_owned()), Some(source.to_owned()));
        Locked { name: name.to_owned(), version: "1.0.0".to_owned(), source, has_checksum: true, licence }
    }

    fn defects(crates: &[Locked]) -> Vec<Defect> {
        rules().check(crates).into_iter().map(|finding| finding.defect).collect()
    }

    #[test]
    fn usual_licences_are_allowed_and_others_are_not() {
        for licence in ["MIT", "MIT/Apache-2.0", "MIT OR GPL-3.0-only", "(MIT OR Apache-2.0) AND Unicode-3.0"] {
            assert_eq!(defects(&[locked_of("a", licence, CRATES_IO)]), []);
        }
        for licence in
            ["GPL-3.0-only", "MIT AND GPL-2.0-or-later", "AGPL-3.0", "LGPL-2.1", "Mine", "MIT OR", "", "CDDL-1.0"]
        {
            let found = defects(&[locked_of("a", licence, CRATES_IO)]);
            assert_eq!(found, [Defect::Licence(licence.to_owned())]);
        }
        assert_eq!(defects(&[Locked { licence: None, ..locked_of("a", "", CRATES_IO) }]), [Defect::Unlicensed]);
    }

    #[test]
    fn an_exception_is_that_of_one_crate() {
        assert_eq!(defects(&[locked_of("inferno", "CDDL-1.0", CRATES_IO)]), []);
        assert_eq!(defects(&[locked_of("inferno", "GPL-3.0-only", CRATES_IO)]).len(), 1);
        assert_eq!(defects(&[locked_of("inferno2", "CDDL-1.0", CRATES_IO)]).len(), 1);
    }

    #[test]
    fn only_crates_io_is_a_source_and_each_crate_has_a_checksum() {
        for source in [
            "git+https://github.com/a/b?rev=1#1",
            "registry+https://example.org/index",
            "sparse+https://example.org/index/",
            "registry+https://github.com/rust-lang/crates.io-index2",
        ] {
            assert_eq!(defects(&[locked_of("a", "MIT", source)]), [Defect::Source(source.to_owned())]);
        }
        let unchecked = Locked { has_checksum: false, ..locked_of("a", "MIT", CRATES_IO) };
        assert_eq!(defects(std::slice::from_ref(&unchecked)), [Defect::NoChecksum]);
        assert_eq!(defects(&[Locked { source: None, ..unchecked }]), [], "one of ours");
    }

    #[test]
    fn what_the_image_links_has_one_version() {
        let versions = |name| {
            let first = locked_of(name, "MIT", CRATES_IO);
            [Locked { version: "2.0.0".to_owned(), ..first.clone() }, first]
        };
        assert_eq!(defects(&versions("smoltcp")), [Defect::Versions, Defect::Versions]);
        assert_eq!(defects(&versions("syn")), []);
    }

    #[test]
    fn a_crate_of_the_lock_file_cannot_escape() {
        let lock = "[[package]]\nname = \"a\"\nversion = \"1.0.0\"\nsource = \"git+x\"\n";
        assert!(locked(lock, &BTreeMap::new()).expect_err("unknown").to_string().contains("a 1.0.0"));
        let licences = [(("a".to_owned(), "1.0.0".to_owned()), Some("MIT".to_owned()))].into();
        let crates = locked(lock, &licences).expect("known");
        assert_eq!(defects(&crates), [Defect::Source("git+x".to_owned())]);
        assert!(locked("", &licences).is_err());
    }

    #[test]
    fn the_crates_in_the_lock_files_break_no_rule() {
        assert!(check().expect("it runs"));
    }

    #[test]
    fn rules_that_check_less_are_refused() {
        let text = std::fs::read_to_string(workspace::root().join(RULES)).expect("rules");
        for (from, to) in [
            ("unknown-git = \"deny\"", "unknown-git = \"allow\""),
            ("unknown-registry = \"deny\"", ""),
            ("allow-git = []", "allow-git = [\"https://github.com/a/b\"]"),
            ("\"0BSD\"", "\"Mine\""),
            ("deny-multiple-versions = true", "deny-multiple-versions = false"),
        ] {
            assert!(text.contains(from) && Rules::parse(&text.replacen(from, to, 1)).is_err(), "{to}");
        }
    }
}
