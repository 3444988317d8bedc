//! Finds assertions that say nothing: about things that the policy does not have, or that no policy
//! could break.

use cloister_caps::tables::{MAX_GRANT_REFS, MAX_GRANT_RULES, MAX_PORT_RULES, MAX_SERVICES};

use super::Prover;
use crate::authority::{Object, Op, Subject, target};
use crate::diagnostic::Spanned;
use crate::model::{Claim, Exclusive, Measure};
use crate::nearest::did_you_mean;

impl Prover<'_> {
    /// Returns the reason why a claim says nothing, if it does.
    pub(super) fn vacuous(&self, claim: &Claim) -> Option<String> {
        match claim {
            Claim::CannotCause { from, to, unless, .. } => {
                let named = std::iter::once(from).chain(unless);
                named.map(|name| self.no_subject(name)).find_map(|found| found).or_else(|| self.no_target(to))
            }
            Claim::NoLeak { to, unless, .. } => {
                std::iter::once(to).chain(unless).find_map(|name| self.no_subject(name))
            }
            Claim::Only { who, may, unless, .. } => {
                let missing = who.iter().chain(unless).find_map(|name| self.no_subject(name));
                missing.or_else(|| self.no_target(may)).or_else(|| self.everybody(who, unless))
            }
            Claim::Exclusive { owner, regions, access, besides } => {
                let missing = besides.iter().find_map(|name| self.no_subject(name));
                missing.or_else(|| regions.iter().find_map(|name| self.not_the_owner(&owner.value, name, access.value)))
            }
            Claim::AtMost { what, service, limit } => always_below(what.value, service.is_some(), *limit),
            Claim::ShareNothing { .. } => None,
        }
    }

    /// Returns the reason if a name stands for no subject: a domain id that no entry has.
    fn no_subject(&self, name: &Spanned<String>) -> Option<String> {
        let policy = &self.sound.policy;
        if !self.subjects(&name.value).is_empty() {
            return None;
        }
        let ids = |item: &crate::model::Named<crate::model::Domain>| {
            let (first, last) = (item.body.first, item.body.last);
            let ids = if first == last { first.to_string() } else { format!("{first}-{last}") };
            format!("`{}` has {ids}", item.name.value)
        };
        let known: Vec<String> = policy.domains.items.iter().take(8).map(ids).collect();
        let known = if known.is_empty() { "there is no entry".to_owned() } else { known.join(", ") };
        Some(format!("no entry of [domains] has the id of `{}`: {known}", name.value))
    }

    /// Returns the reason if an operation is on nothing that the policy has.
    fn no_target(&self, text: &Spanned<String>) -> Option<String> {
        let policy = &self.sound.policy;
        // A path that no rule names is one of any, which is what is said about XenStore as a whole.
        if self.targets(&text.value).iter().any(|(object, _)| *object != Object::AnyPath) {
            return None;
        }
        let object = text.value.rsplit_once('.').map_or(text.value.as_str(), |(object, _)| object);
        if let Some(program) = object.strip_prefix("program:") {
            let known: Vec<&str> = policy.services.items.iter().map(|item| item.body.program.value.as_str()).collect();
            return Some(format!("no service runs `{program}`;{}", did_you_mean(program, &known)));
        }
        if let Some(path) = object.strip_prefix("path:").or(object.contains('/').then_some(object)) {
            let rules = policy.xenstore.items.iter().flat_map(|item| &item.body);
            let known: Vec<&str> = rules.map(|right| right.path.value.as_str()).collect();
            let near = did_you_mean(path, &known);
            return Some(format!("no rule of [xenstore] is about `{path}`;{near}"));
        }
        Some(format!("the policy has no object of `{}`", text.value))
    }

    /// Returns the reason if there is no subject but those that are named.
    fn everybody(&self, who: &[Spanned<String>], unless: &[Spanned<String>]) -> Option<String> {
        let policy = &self.sound.policy;
        let (allowed, without) = (target::whole(policy, who), self.all_subjects(unless));
        let other =
            self.authority.subjects().iter().any(|subject| !allowed.contains(subject) && !without.contains(subject));
        (!other).then(|| "`who` and `unless` name every subject".to_owned())
    }

    /// Returns the reason if the owner has not the access that nobody else is to have.
    fn not_the_owner(&self, owner: &str, region: &Spanned<String>, access: Exclusive) -> Option<String> {
        let policy = &self.sound.policy;
        let (service, object) = (policy.services.index(owner)?, Object::Region(policy.regions.index(&region.value)?));
        let (op, verb) = if access == Exclusive::Map { (Op::Read, "map") } else { (Op::Write, "write") };
        let has = self.authority.own(Subject::Service(service)).any(|own| own.object == object && own.op == op);
        (!has).then(|| format!("`{owner}` does not {verb} `{}` itself", region.value))
    }
}

/// Returns the reason if an amount cannot exceed the limit in any image.
fn always_below(what: Measure, of_service: bool, limit: u32) -> Option<String> {
    let services = if of_service { 1 } else { MAX_SERVICES };
    let most = match what {
        Measure::Grants => MAX_GRANT_RULES,
        Measure::Ports => MAX_PORT_RULES,
        Measure::GrantedPages | Measure::WritablePages => MAX_GRANT_REFS as usize,
        Measure::CpuPercent => 100 * services,
        Measure::Restarts => usize::from(u16::MAX),
        // The pages of 4 GiB, below which all memory of an image lies.
        Measure::Pages => 1 << 20,
    };
    (limit as usize >= most).then(|| format!("no image has more than {most}"))
}
