//! Compares the assertions of two policies by what they claim: one may be stronger than another.

use std::collections::{BTreeMap, BTreeSet, HashMap};

use serde::Serialize;

use crate::authority::target::{self, PathScope};
use crate::canonical;
use crate::claim;
use crate::diagnostic::Spanned;
use crate::model::{Claim, Exclusive, Measure, Policy};
use crate::sound::Sound;

/// An assertion of one of the policies, in the names of the new one.
#[derive(Clone, Debug, Serialize)]
pub struct Asserted {
    /// Its name.
    pub name: String,
    /// Its claim, in the words of the policy.
    pub claim: String,
    /// Its claim as a sentence.
    pub sentence: String,
}

/// An assertion with a claim that differs from that of an old one, and the old one.
#[derive(Clone, Debug, Serialize)]
pub struct Replaced {
    /// The old assertion.
    pub old: Asserted,
    /// The new assertion.
    pub new: Asserted,
}

/// An assertion whose author explains it in other words.
#[derive(Clone, Debug, Serialize)]
pub struct Reworded {
    /// The name of the new assertion.
    pub name: String,
    /// The old words.
    pub old: String,
    /// The new words.
    pub new: String,
}

/// An assertion of the new policy that does not hold.
#[derive(Clone, Debug, Serialize)]
pub struct Broken {
    /// The assertion's name.
    pub name: String,
    /// Its claim as a sentence.
    pub sentence: String,
    /// The reason why it does not hold.
    pub finding: String,
}

/// The difference between the assertions of two policies.
#[derive(Clone, Debug, Default, Serialize)]
pub struct Assertions {
    /// Assertions of the old policy that follow from no assertion of the new one.
    pub dropped: Vec<Asserted>,
    /// Assertions of the new policy that follow from none of the old one, and from which none of
    /// the old one follows.
    pub added: Vec<Asserted>,
    /// Old assertions with a new one from which they follow, but not the other way round.
    pub stronger: Vec<Replaced>,
    /// Those of `dropped` from which a new assertion follows.
    pub weaker: Vec<Replaced>,
    /// Assertions with another `why`.
    pub reworded: Vec<Reworded>,
    /// Assertions of the new policy that it does not keep.
    pub broken: Vec<Broken>,
}

/// An assertion while it is compared.
struct Item {
    name: String,
    why: String,
    claim: Claim,
    allow_vacuous: bool,
    text: String,
}

impl Item {
    fn asserted(&self) -> Asserted {
        Asserted {
            name: self.name.clone(),
            claim: self.text.clone(),
            sentence: claim::sentence(&self.claim, self.allow_vacuous),
        }
    }
}

/// Compares the assertions. `renamed` gives the new name of each renamed entry.
pub(super) fn compare(old: &Sound, new: &Sound, renamed: &HashMap<&str, &str>) -> Assertions {
    let (before, after) = (items(old, renamed), items(new, &HashMap::new()));
    // Most assertions of two versions are the same text, which is found without a comparison of all
    // with all.
    let texts = |items: &[Item]| -> BTreeSet<String> { items.iter().map(|item| item.text.clone()).collect() };
    let (old_texts, new_texts) = (texts(&before), texts(&after));
    let gone: Vec<&Item> = before.iter().filter(|item| !new_texts.contains(&item.text)).collect();
    let fresh: Vec<&Item> = after.iter().filter(|item| !old_texts.contains(&item.text)).collect();
    let implies = |strong: &Item, weak: &Item| {
        // One that may be about nothing holds where the other one fails.
        let as_strict = !strong.allow_vacuous || weak.allow_vacuous;
        as_strict && implies(&new.policy, &strong.claim, &weak.claim)
    };
    let mut found = Assertions::default();
    for item in &gone {
        match after.iter().find(|strong| implies(strong, item)) {
            Some(strong) => found.stronger.push(Replaced { old: item.asserted(), new: strong.asserted() }),
            None => {
                found.dropped.push(item.asserted());
                let weak = fresh.iter().find(|weak| implies(item, weak));
                found.weaker.extend(weak.map(|weak| Replaced { old: item.asserted(), new: weak.asserted() }));
            }
        }
    }
    let related = |item: &Item| {
        let known = before.iter().any(|old| implies(old, item));
        known || gone.iter().any(|old| implies(item, old))
    };
    found.added.extend(fresh.iter().filter(|item| !related(item)).map(|item| item.asserted()));
    found.reworded = reworded(&before, &after);
    found.broken = broken(new);
    found
}

/// Returns the assertions that the policy does not keep.
fn broken(policy: &Sound) -> Vec<Broken> {
    let items = &policy.policy.assertions.items;
    let verdicts = policy.verdicts();
    let failed = items.iter().zip(verdicts).filter(|(_, verdict)| !verdict.holds);
    let broken = failed.map(|(item, verdict)| Broken {
        name: verdict.name,
        sentence: item.body.sentence(),
        finding: verdict.finding,
    });
    broken.collect()
}

/// Returns the assertions that have other words: of the same name, or of the same claim.
fn reworded(old: &[Item], new: &[Item]) -> Vec<Reworded> {
    let by_name: BTreeMap<&str, &Item> = old.iter().map(|item| (item.name.as_str(), item)).collect();
    let by_claim: BTreeMap<&str, &Item> = old.iter().map(|item| (item.text.as_str(), item)).collect();
    let pair = |item: &Item| by_name.get(item.name.as_str()).or_else(|| by_claim.get(item.text.as_str())).copied();
    let changed = new.iter().filter_map(|item| Some((item, pair(item)?))).filter(|(new, old)| new.why != old.why);
    changed.map(|(new, old)| Reworded { name: new.name.clone(), old: old.why.clone(), new: new.why.clone() }).collect()
}

fn items(sound: &Sound, names: &HashMap<&str, &str>) -> Vec<Item> {
    let item = |item: &crate::model::Named<crate::model::Assertion>| {
        let claim = renamed(&item.body.claim, names);
        let mut text = String::new();
        canonical::claim(&claim, &mut text);
        let mut text = text.trim_end().replace('\n', ", ");
        let allow_vacuous = item.body.allow_vacuous;
        if allow_vacuous {
            text += ", allow-vacuous = true";
        }
        Item { name: item.name.value.clone(), why: item.body.why.clone(), claim, allow_vacuous, text }
    };
    sound.policy.assertions.items.iter().map(item).collect()
}

/// Returns a claim with new names for renamed entries.
fn renamed(claim: &Claim, names: &HashMap<&str, &str>) -> Claim {
    // A name stands alone, or before the dot of an operation.
    let rename = |word: &mut Spanned<String>| {
        let (object, rest) = word.value.split_at(word.value.find('.').unwrap_or(word.value.len()));
        if let Some(name) = names.get(object) {
            word.value = format!("{name}{rest}");
        }
    };
    let rename_all = |words: &mut Vec<Spanned<String>>| {
        words.iter_mut().for_each(rename);
        words.sort_by(|a, b| a.value.cmp(&b.value));
    };
    let mut claim = claim.clone();
    match &mut claim {
        Claim::CannotCause { from, to, unless, .. } => {
            [from, to].into_iter().for_each(rename);
            rename_all(unless);
        }
        Claim::NoLeak { regions, to, unless, .. } => {
            rename(to);
            [regions, unless].into_iter().for_each(rename_all);
        }
        Claim::Exclusive { owner, regions, besides, .. } => {
            rename(owner);
            [regions, besides].into_iter().for_each(rename_all);
        }
        Claim::AtMost { service, .. } => service.iter_mut().for_each(rename),
        Claim::Only { who, may, unless, .. } => {
            rename(may);
            [who, unless].into_iter().for_each(rename_all);
        }
        Claim::ShareNothing { between } => rename_all(between),
    }
    claim
}

/// Returns `true` if `weak` holds in every policy in which `strong` holds.
///
/// It never says so wrongly, but does not find every implication: claims about different names are
/// compared only where one of them is the word for all entries of a section.
fn implies(policy: &Policy, strong: &Claim, weak: &Claim) -> bool {
    match (strong, weak) {
        (
            Claim::CannotCause { from, to, takeovers, unless },
            Claim::CannotCause { from: weak_from, to: weak_to, takeovers: weak_takeovers, unless: weak_unless },
        ) => {
            let as_far = takeovers >= weak_takeovers && contains(weak_unless, unless);
            from.value == weak_from.value && as_far && includes(policy, &to.value, &weak_to.value)
        }
        (
            Claim::NoLeak { regions, to, takeovers, unless },
            Claim::NoLeak { regions: weak_regions, to: weak_to, takeovers: weak_takeovers, unless: weak_unless },
        ) => {
            let as_far = takeovers >= weak_takeovers && contains(weak_unless, unless);
            to.value == weak_to.value && as_far && contains(regions, weak_regions)
        }
        (
            Claim::Exclusive { owner, regions, access, besides },
            Claim::Exclusive { owner: weak_owner, regions: weak_regions, access: weak_access, besides: weak_besides },
        ) => {
            // Whoever writes a region also reads it.
            let stricter = access.value == weak_access.value || access.value == Exclusive::Map;
            let fewer = owner.value == weak_owner.value && contains(weak_besides, besides);
            fewer && stricter && contains(regions, weak_regions)
        }
        (
            Claim::AtMost { what, service, limit },
            Claim::AtMost { what: weak_what, service: weak_service, limit: weak_limit },
        ) => {
            let name = |service: &Option<Spanned<String>>| service.as_ref().map(|service| service.value.clone());
            // What a service has, the image has, too; what may be written is granted.
            let same_or_part = service.is_none() || name(service) == name(weak_service);
            let same_or_more = what.value == weak_what.value
                || what.value == Measure::GrantedPages && weak_what.value == Measure::WritablePages;
            same_or_part && same_or_more && limit <= weak_limit
        }
        (
            Claim::Only { who, may, takeovers, directly, unless },
            Claim::Only {
                who: weak_who,
                may: weak_may,
                takeovers: weak_takeovers,
                directly: weak_directly,
                unless: weak_unless,
            },
        ) => {
            // What nobody else can do at all, nobody else can do itself.
            let as_far = takeovers >= weak_takeovers && (!directly || *weak_directly) && contains(weak_unless, unless);
            contains(weak_who, who) && as_far && includes(policy, &may.value, &weak_may.value)
        }
        (Claim::ShareNothing { between }, Claim::ShareNothing { between: weak_between }) => {
            contains(between, weak_between)
        }
        _ => false,
    }
}

/// Returns `true` if every word of `part` is in `whole`.
fn contains(whole: &[Spanned<String>], part: &[Spanned<String>]) -> bool {
    part.iter().all(|word| whole.iter().any(|other| other.value == word.value))
}

/// Returns `true` if a claim about `general` speaks of everything that one about `special` does:
/// they are the same, or `general` is the word for all entries of a section, as in `grant.issue`.
fn includes(policy: &Policy, general: &str, special: &str) -> bool {
    const SECTIONS: [&str; 6] = ["region", "port", "grant", "queue", "domain", "weakness"];
    if general == special {
        return true;
    }
    let (Some((object, word)), Some((_, special_word))) = (general.rsplit_once('.'), special.rsplit_once('.')) else {
        return false;
    };
    if !SECTIONS.contains(&object) || word != special_word {
        return false;
    }
    let (Ok(all), Ok(some)) = (
        target::targets(policy, general, PathScope::Overlapping),
        target::targets(policy, special, PathScope::Overlapping),
    ) else {
        return false;
    };
    !some.is_empty() && some.iter().all(|target| all.contains(target))
}
