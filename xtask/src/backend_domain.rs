//! The `--backend` option: a policy with the `ids` of its one entry of `[domains]` replaced.

use std::path::{Path, PathBuf};

use anyhow::{Context, Result, ensure};
use clap::Args;
use toml_edit::{DocumentMut, value};

use crate::image::{DEFAULT_POLICY, find};

/// The options that choose the policy of a command that builds an image.
#[derive(Args, Debug)]
pub struct PolicyArguments {
    /// The policy to build
    #[arg(long, value_name = "FILE", default_value = DEFAULT_POLICY)]
    policy: PathBuf,
    /// The domain of the network back end, or a range as 0-2, instead of that in the policy: for a
    /// driver domain
    #[arg(long, value_name = "N", value_parser = ids)]
    backend: Option<String>,
}

impl PolicyArguments {
    /// Returns the value of `--backend`.
    pub fn ids(&self) -> Option<&str> {
        self.backend.as_deref()
    }

    /// Returns the domain of the network back end, if `--backend` names one domain and not a range.
    pub fn domain(&self) -> Option<&str> {
        self.backend.as_deref().filter(|ids| !ids.contains('-'))
    }

    /// Returns the policy file to build.
    pub fn file(&self) -> Result<PathBuf> {
        self.backend.as_ref().map_or_else(|| Ok(self.policy.clone()), |ids| policy(&self.policy, ids))
    }
}

/// Accepts digits and `-`. The policy compiler checks that they are domain ids.
fn ids(text: &str) -> Result<String, String> {
    let fits = !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_digit() || byte == b'-');
    if fits { Ok(text.to_owned()) } else { Err("expected a domain's number, or two joined by -".to_owned()) }
}

/// Writes the policy with these domain ids to `backend/<name>-backend-<ids>.toml` in the target
/// folder.
pub fn policy(file: &Path, ids: &str) -> Result<PathBuf> {
    let file = find(file)?;
    let text = std::fs::read_to_string(&file).with_context(|| file.display().to_string())?;
    let name = file.file_stem().with_context(|| format!("{} names no file", file.display()))?;
    let folder = cloister_bed::target_dir().join("backend");
    std::fs::create_dir_all(&folder).with_context(|| folder.display().to_string())?;
    let path = folder.join(format!("{}-backend-{ids}.toml", name.display()));
    std::fs::write(&path, with_ids(&text, ids)?).with_context(|| path.display().to_string())?;
    Ok(path)
}

fn with_ids(policy: &str, ids: &str) -> Result<String> {
    let mut policy: DocumentMut = policy.parse()?;
    let domains = policy.get_mut("domains").and_then(|domains| domains.as_table_like_mut());
    let domains = domains.context("the policy has no [domains]: it has no back end")?;
    ensure!(domains.len() == 1, "the policy has several [domains]: write the back end's number into it");
    for (name, domain) in domains.iter_mut() {
        let entry = domain.as_table_like_mut().with_context(|| format!("[domains.{name}] is no table"))?;
        entry.insert("ids", value(ids));
    }
    Ok(policy.to_string())
}

#[cfg(test)]
mod tests {
    use clap::Parser;

    use super::*;
    use crate::workspace;

    #[test]
    fn only_the_line_of_the_back_end_changes() {
        let shipped = std::fs::read_to_string(workspace::root().join(DEFAULT_POLICY)).expect("policy");
        for ids in ["7", "0-2"] {
            let policy = with_ids(&shipped, ids).expect("a policy");
            cloister_policy::parse("backend.toml", &policy).unwrap_or_else(|report| panic!("{}", report.render(false)));
            let changed: Vec<_> = shipped.lines().zip(policy.lines()).filter(|(old, new)| old != new).collect();
            assert_eq!(changed, [("ids = \"0\"", format!("ids = \"{ids}\"").as_str())]);
            assert_eq!(shipped.lines().count(), policy.lines().count());
        }
    }

    #[test]
    fn a_policy_without_a_back_end_or_with_several_domains_is_refused() {
        assert!(with_ids("format = 2", "1").is_err());
        assert!(with_ids("[domains.a]\nids = \"0\"\n[domains.b]\nids = \"1\"", "1").is_err());
        assert!(with_ids("[domains]\na = 1", "1").is_err());
    }

    #[test]
    fn only_domain_ids_are_accepted_and_a_file_is_written_for_them() {
        #[derive(Parser, Debug)]
        struct Line {
            #[command(flatten)]
            choice: PolicyArguments,
        }
        for no in ["", "../x", "dom0", "1 2"] {
            assert!(Line::try_parse_from(["x", "--backend", no]).is_err(), "{no}");
        }
        let choice = Line::try_parse_from(["x", "--backend", "31"]).expect("ids").choice;
        let file = choice.file().expect("a policy");
        assert!(file.ends_with("backend/default-backend-31.toml"), "{}", file.display());
        assert!(std::fs::read_to_string(file).expect("written").contains("ids = \"31\""));
        let choice = Line::try_parse_from(["x"]).expect("nothing").choice;
        assert_eq!(choice.file().expect("a policy"), Path::new(DEFAULT_POLICY));
    }
}
