//! Makes the policies of images with a compromised service, from the policy that ships.
//!
//! The program of one service is the prober's program for that role, and the service restarts after
//! each of its faults. The assertions are left out: they hold for programs that follow their
//! interfaces, and this one does not. Everything else is as it ships, above all the capabilities of
//! the service.

use std::path::PathBuf;

use anyhow::{Context, Result};
use toml_edit::{DocumentMut, value};

use crate::image::DEFAULT_POLICY;
use crate::workspace;

/// The services that are compromised, one in each image.
const COMPROMISED: [&str; 3] = ["http", "netfront", "tcpip"];
/// The restart limit: more than the prober has attempts that fault.
const RESTARTS: i64 = 500;

/// Writes the policies to `compromised/compromised-<service>.toml` in the target folder, and
/// returns the files.
pub fn policies() -> Result<Vec<PathBuf>> {
    let shipped = workspace::root().join(DEFAULT_POLICY);
    let shipped = std::fs::read_to_string(&shipped).with_context(|| shipped.display().to_string())?;
    let folder = cloister_bed::target_dir().join("compromised");
    std::fs::create_dir_all(&folder).with_context(|| folder.display().to_string())?;
    let write = |service: &&str| {
        let path = folder.join(format!("compromised-{service}.toml"));
        std::fs::write(&path, compromise(&shipped, service)?).with_context(|| path.display().to_string())?;
        Ok(path)
    };
    COMPROMISED.iter().map(write).collect()
}

/// Returns the policy with the prober in the place of a service.
fn compromise(policy: &str, name: &str) -> Result<String> {
    let mut policy: DocumentMut = policy.parse()?;
    policy.remove("assert");
    let services = policy.get_mut("services").and_then(|services| services.as_table_like_mut());
    let service = services.and_then(|services| services.get_mut(name)).and_then(|service| service.as_table_like_mut());
    let service = service.with_context(|| format!("the policy has no service {name}"))?;
    service.insert("program", value(format!("cloister-prober-{name}")));
    let restart = service.get_mut("restart").and_then(|rule| rule.as_table_like_mut());
    let restart = restart.with_context(|| format!("{name} has no restart rule"))?;
    restart.insert("limit", value(RESTARTS));
    restart.insert("then", value("stop-service"));
    Ok(policy.to_string())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_compromised_service_holds_what_it_held_and_no_more() {
        let shipped = workspace::root().join(DEFAULT_POLICY);
        let shipped = std::fs::read_to_string(shipped).expect("policy");
        for service in COMPROMISED {
            let policy = compromise(&shipped, service).expect("a policy");
            cloister_policy::parse("compromised.toml", &policy)
                .unwrap_or_else(|report| panic!("{}", report.render(false)));
            let changed = || shipped.lines().zip(policy.lines()).filter(|(before, after)| before != after);
            let after: Vec<&str> = changed().map(|(_, after)| after).collect();
            let rest: Vec<&str> = shipped.lines().skip(policy.lines().count()).collect();
            assert!(rest.iter().all(|line| !line.starts_with("[") || *line == "[[assert]]"), "{rest:?}");
            assert!(after[0].starts_with("program = ") && after[1].starts_with("restart = "), "{after:?}");
            assert_eq!(after.len(), 2, "{after:?}");
        }
        assert!(compromise(&shipped, "nobody").is_err());
    }
}
