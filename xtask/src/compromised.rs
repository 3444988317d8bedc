//! Policies of images in which a service is taken over: the policy that ships, but that the program of one service is the
//! prober's for its place, and that it is started again after each of its faults. All else, what the place is given above all, is as
//! it ships.

use std::path::PathBuf;

use anyhow::{Context, Result};
use toml_edit::{DocumentMut, value};

use crate::image::DEFAULT_POLICY;
use crate::workspace;

/// The services that are taken over, one in each image.
const PLACES: [&str; 3] = ["http", "netfront", "tcpip"];
/// More restarts than there are attempts that fault.
const RESTARTS: i64 = 500;

/// Writes the policies, as `taken/taken-<service>.toml` in the target folder.
pub fn policies() -> Result<Vec<PathBuf>> {
    let shipped = workspace::root().join(DEFAULT_POLICY);
    let shipped = std::fs::read_to_string(&shipped).with_context(|| shipped.display().to_string())?;
    let folder = cloister_bed::target_dir().join("taken");
    std::fs::create_dir_all(&folder).with_context(|| folder.display().to_string())?;
    let write = |place: &&str| {
        let path = folder.join(format!("taken-{place}.toml"));
        std::fs::write(&path, taken(&shipped, place)?).with_context(|| path.display().to_string())?;
        Ok(path)
    };
    PLACES.iter().map(write).collect()
}

fn taken(policy: &str, place: &str) -> Result<String> {
    let mut policy: DocumentMut = policy.parse()?;
    let services = policy.get_mut("services").and_then(|services| services.as_table_like_mut());
    let service = services.and_then(|services| services.get_mut(place)).and_then(|service| service.as_table_like_mut());
    let service = service.with_context(|| format!("the policy has no service {place}"))?;
    service.insert("program", value(format!("cloister-prober-{place}")));
    let restart = service.get_mut("restart").and_then(|rule| rule.as_table_like_mut());
    let restart = restart.with_context(|| format!("{place} has no restart rule"))?;
    restart.insert("limit", value(RESTARTS));
    restart.insert("then", value("stop-service"));
    Ok(policy.to_string())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_place_that_is_taken_has_what_it_had_and_no_more() {
        let shipped = workspace::root().join(DEFAULT_POLICY);
        let shipped = std::fs::read_to_string(shipped).expect("policy");
        for place in PLACES {
            let policy = taken(&shipped, place).expect("a policy");
            cloister_policy::parse("taken.toml", &policy).unwrap_or_else(|report| panic!("{}", report.render(false)));
            let changed = || shipped.lines().zip(policy.lines()).filter(|(before, after)| before != after);
            let after: Vec<&str> = changed().map(|(_, after)| after).collect();
            assert_eq!(shipped.lines().count(), policy.lines().count());
            assert!(after[0].starts_with("program = ") && after[1].starts_with("restart = "), "{after:?}");
            assert_eq!(after.len(), 2, "{after:?}");
        }
        assert!(taken(&shipped, "nobody").is_err());
    }
}
