//! Finds rights that were never used: those that a policy gives, except those that the kernel
//! recorded in a run of the image.
//!
//! The kernel writes its record to the console, in lines `use: SERVICE NAME KIND WORD…`. A line
//! of a service starts with the service's name, so it cannot look like the kernel's.

use std::collections::{BTreeMap, BTreeSet};

use cloister_caps::Operation;
use cloister_caps::rights::{Kind, Rights};
use serde::Serialize;
use toml_edit::{DocumentMut, Item};

use crate::checked::{Checked, parse};
use crate::printable::hexadecimal;

/// The size of the largest log, in bytes.
pub const MAX_LOG: u64 = 256 << 20;

/// The reason why the use of rights is unknown.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum UnusedError {
    /// The log has no report of the kernel.
    #[error(
        "the log has no line that starts with `use: `: the kernel writes them when the domain powers off or reboots in good \
         order, and on a non-maskable interrupt (`xl trigger DOMAIN nmi`)"
    )]
    NoReport,
    /// The log is of another image.
    #[error("the log is of an image with another policy, {0}")]
    OtherPolicy(String),
    /// The narrower policy does not hold: an assertion, or a rule of the language, needs a right
    /// that was not used.
    #[error("without the rights that were not used the policy does not hold: {0}")]
    DoesNotHold(String),
}

/// A capability with unused rights.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Unused {
    /// The service that holds it.
    pub service: String,
    /// Its name.
    pub name: String,
    /// Its kind.
    pub kind: &'static str,
    /// The rights that were never used.
    pub rights: Vec<&'static str>,
    /// `true` if no right of the capability was used.
    pub wholly: bool,
}

/// The use of a policy's rights in a run.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Usage {
    /// The capabilities with unused rights.
    pub unused: Vec<Unused>,
    /// Queues over which no notification was sent.
    pub silent_queues: Vec<String>,
    /// Capabilities that the log does not mention, as `SERVICE NAME KIND`: their use is unknown.
    pub unknown: Vec<String>,
    /// `true` if the log names the running policy, and it is this one.
    pub policy_named: bool,
}

/// The kernel's record: words by service, name and kind.
type Record = BTreeMap<(String, String, String), BTreeSet<String>>;

/// Returns the use of a policy's rights, from the log of a run.
///
/// # Errors
/// The log has no report, or is of another policy.
pub fn unused(policy: &Checked, log: &str) -> Result<Usage, UnusedError> {
    let own = hexadecimal(&policy.hash());
    let mut record = Record::new();
    let mut policy_named = false;
    for line in log.lines().map(kernel_text) {
        if let Some(rest) = line.strip_prefix("use: ") {
            read_use(rest, &mut record);
        }
        if let Some(hash) = line.strip_prefix("cloister: policy ").map(str::trim_end) {
            if hash != own {
                return Err(UnusedError::OtherPolicy(hash.escape_default().to_string()));
            }
            policy_named = true;
        }
    }
    if record.is_empty() {
        return Err(UnusedError::NoReport);
    }
    let mut usage = Usage { unused: Vec::new(), silent_queues: Vec::new(), unknown: Vec::new(), policy_named };
    for (service, name, kind, rights) in given(policy) {
        usage.compare(&record, service, name, kind, rights);
    }
    for queue in &policy.policy.queues.items {
        let name = &queue.name.value;
        let ways = [format!("{name}.requests"), format!("{name}.replies")];
        let ends: Vec<_> = record.iter().filter(|((_, of, _), _)| ways.contains(of)).collect();
        if ends.len() == 4 && ends.iter().all(|(_, words)| words.is_empty()) {
            usage.silent_queues.push(name.clone());
        }
    }
    Ok(usage)
}

/// Returns a line without the prefixes of consoles, such as `(d1) ` or `[12:00:00] `.
fn kernel_text(line: &str) -> &str {
    let mut line = line.trim_end_matches('\r');
    loop {
        let rest = match line.chars().next() {
            Some('(') => line.split_once(") "),
            Some('[') => line.split_once("] "),
            _ => None,
        };
        match rest {
            Some((_, rest)) => line = rest,
            None => return line,
        }
    }
}

fn read_use(rest: &str, record: &mut Record) {
    let mut words = rest.split_whitespace();
    let (Some(service), Some(name), Some(kind), Some(first)) = (words.next(), words.next(), words.next(), words.next())
    else {
        return;
    };
    let of = record.entry((service.to_owned(), name.to_owned(), kind.to_owned())).or_default();
    of.extend(std::iter::once(first).chain(words).filter(|word| *word != "-").map(str::to_owned));
}

/// Returns the capabilities that the policy gives: service, name, kind, rights.
fn given(policy: &Checked) -> Vec<(&str, &str, Kind, Rights)> {
    let policy = &policy.policy;
    let mut out = Vec::new();
    for service in &policy.services.items {
        let held = service.body.held.iter();
        out.extend(held.map(|held| (service.name.value.as_str(), held.kind.name(), held.kind, held.rights)));
    }
    for port in &policy.ports.items {
        out.push((&port.body.service.value, &port.name.value, Kind::Port, port.body.rights.value));
    }
    for service in &policy.services.items {
        let pinned = policy.pinned(&service.name.value);
        out.extend(
            pinned
                .map(|(_, item, _)| (service.name.value.as_str(), item.name.value.as_str(), Kind::Domain, Rights::PIN)),
        );
    }
    for grant in &policy.grants.items {
        out.push((&grant.body.held_by.value, &grant.name.value, Kind::Grant, Rights::ISSUE | Rights::END));
    }
    out
}

impl Usage {
    fn compare(&mut self, record: &Record, service: &str, name: &str, kind: Kind, rights: Rights) {
        let key = (service.to_owned(), name.to_owned(), kind.name().to_owned());
        let Some(used) = record.get(&key) else {
            self.unknown.push(format!("{service} {name} {}", kind.name()));
            return;
        };
        let held = Operation::ALL.iter().filter(|op| op.applies_to(kind) && rights.contains(op.right()));
        let (used, unused): (Vec<&'static str>, Vec<&'static str>) =
            held.map(|operation| operation.name()).partition(|word| used.contains(*word));
        if !unused.is_empty() {
            let (service, name) = (service.to_owned(), name.to_owned());
            self.unused.push(Unused { service, name, kind: kind.name(), rights: unused, wholly: used.is_empty() });
        }
    }

    /// Returns the policy without the unused rights, with its comments.
    ///
    /// Pins, and ports and grants that were not used at all, stay: without them, their programs would have to
    /// change.
    ///
    /// # Errors
    /// The narrower policy would not hold.
    pub fn suggest(&self, text: &str) -> Result<String, UnusedError> {
        let does_not_hold = |reason: String| UnusedError::DoesNotHold(reason);
        let mut document: DocumentMut =
            text.parse().map_err(|error: toml_edit::TomlError| does_not_hold(error.to_string()))?;
        for item in &self.unused {
            let port = item.kind == Kind::Port.name();
            if matches!(item.kind, "grant" | "domain") || (port && item.wholly) {
                continue;
            }
            let path = if port { ["ports", &item.name, "rights"] } else { ["services", &item.service, &item.name] };
            narrow(document.as_item_mut(), path, item);
        }
        let narrower = document.to_string();
        match parse("the narrower policy", &narrower) {
            Ok(_) => Ok(narrower),
            Err(report) => Err(does_not_hold(report.to_string())),
        }
    }

    /// Returns the use as text for people.
    #[must_use]
    pub fn text(&self) -> String {
        let mut out = String::new();
        for item in &self.unused {
            let extent = if item.wholly { "never used" } else { "partly used" };
            let rights = item.rights.join(", ");
            out += &format!("unused: {} {} of {}: {rights} ({extent})\n", item.kind, item.name, item.service);
        }
        for queue in &self.silent_queues {
            out += &format!("silent: queue {queue}: nobody was ever woken over it\n");
        }
        for item in &self.unknown {
            out += &format!("unknown: the log says nothing of {item}\n");
        }
        if !self.policy_named {
            out += "note: the log does not name the policy that was running\n";
        }
        let count: usize = self.unused.iter().map(|item| item.rights.len()).sum();
        match count {
            0 => out + "every right that the kernel records was exercised\n",
            1 => out + "1 right was never exercised\n",
            _ => out + &format!("{count} rights were never exercised\n"),
        }
    }
}

/// Removes the unused words from a list of rights; a list that becomes empty is removed as a whole.
fn narrow(root: &mut Item, [section, entry, key]: [&str; 3], item: &Unused) {
    let table = root.get_mut(section).and_then(|section| section.get_mut(entry)).and_then(Item::as_table_like_mut);
    let Some(table) = table else { return };
    if item.wholly {
        table.remove(key);
        return;
    }
    let Some(list) = table.get_mut(key).and_then(Item::as_array_mut) else { return };
    list.retain(|word| !word.as_str().is_some_and(|word| item.rights.contains(&word)));
    // The word that is now first loses the space after the comma.
    let first = list.get_mut(0).map(toml_edit::Value::decor_mut);
    if let Some(decor) = first.filter(|decor| decor.prefix().and_then(|prefix| prefix.as_str()) == Some(" ")) {
        decor.set_prefix("");
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const GOOD: &str = include_str!("../tests/good.toml");

    fn policy() -> Checked {
        parse("good.toml", GOOD).unwrap()
    }

    /// Returns a log in which everything was used.
    fn log() -> String {
        let hash = hexadecimal(&policy().hash());
        format!(
            "(d1) cloister: policy {hash}\n(d1) driver: hello\n\
             use: driver console console write\nuse: driver clock clock now\n(d1) use: driver events port open send close\r\n\
             [0.5] (d1) use: store store-events port send\nuse: manager pool-pages grant issue end\n\
             use: driver pages.requests queue-sender notify\nuse: driver pages.replies queue-receiver -\n\
             use: manager pages.requests queue-receiver -\nuse: manager pages.replies queue-sender -\n"
        )
    }

    fn usage(log: &str) -> Usage {
        unused(&policy(), log).unwrap()
    }

    #[test]
    fn a_run_that_used_everything_leaves_nothing() {
        let usage = usage(&log());
        assert!(usage.unused.is_empty() && usage.unknown.is_empty() && usage.silent_queues.is_empty(), "{usage:?}");
        assert!(usage.policy_named);
        assert_eq!(usage.text(), "every right that the kernel records was exercised\n");
        assert_eq!(usage.suggest(GOOD).unwrap(), GOOD);
    }

    #[test]
    fn unused_rights_are_named_and_removed_and_the_rest_of_the_file_stays() {
        let log = log().replace("port open send close", "port send").replace("clock now", "clock -");
        let usage = usage(&log);
        let text = usage.text();
        assert!(text.contains("unused: clock clock of driver: now (never used)\n"), "{text}");
        assert!(text.contains("unused: port events of driver: open, close (partly used)\n"), "{text}");
        assert!(text.ends_with("3 rights were never exercised\n"), "{text}");
        let commented = GOOD.replace("[ports.events]", "# The card.\n[ports.events]");
        let narrower = usage.suggest(&commented).unwrap();
        let expected = commented
            .replace("rights = [\"open\", \"send\", \"close\"]", "rights = [\"send\"]")
            .replace("clock = [\"now\"]\n", "");
        assert_eq!(narrower, expected);
    }

    #[test]
    fn a_port_or_grant_that_was_never_used_is_named_and_stays() {
        let log = log().replace("grant issue end", "grant -").replace("events port send", "events port -");
        let usage = usage(&log);
        assert_eq!(usage.unused.iter().filter(|item| item.wholly).count(), 2);
        assert_eq!(usage.suggest(GOOD).unwrap(), GOOD);
    }

    #[test]
    fn several_reports_add_up_and_a_silent_queue_is_named() {
        let first = log().replace("port open send close", "port open").replace("queue-sender notify", "queue-sender -");
        let found = usage(&first);
        assert_eq!(found.silent_queues, ["pages"]);
        assert_eq!(found.unused[0].rights, ["send", "close"]);
        assert!(usage(&format!("{first}use: driver events port send close\n")).unused.is_empty());
    }

    #[test]
    fn a_service_cannot_forge_lines_of_the_kernel() {
        let log = log().replace(
            "use: driver clock clock now\n",
            "driver: use: driver clock clock now\n(d1) driver: (x) use: driver clock clock now\n\
             driver... use: driver clock clock now\n",
        );
        let usage = usage(&log);
        assert_eq!(usage.unknown, ["driver clock clock"]);
        assert!(usage.unused.is_empty());
        assert_eq!(usage.suggest(GOOD).unwrap(), GOOD, "what is not known is not taken away");
    }

    #[test]
    fn an_unusable_log_is_refused() {
        let error = |log: &str| unused(&policy(), log).unwrap_err();
        assert_eq!(error(""), UnusedError::NoReport);
        assert_eq!(error("driver: hello\nuse:\nuse: a b\n"), UnusedError::NoReport);
        assert_eq!(error("cloister: policy 00ff\n"), UnusedError::OtherPolicy("00ff".into()));
        let unnamed = usage("use: driver clock clock now\n");
        assert!(!unnamed.policy_named && unnamed.unknown.len() == 4, "{unnamed:?}");
    }

    #[test]
    fn a_right_that_an_assertion_needs_is_not_removed_silently() {
        let usage = usage(&log().replace("port open send close", "port open send"));
        let broken = GOOD.replace("peer = \"backend\"\nrights", "peer = \"nobody\"\nrights");
        assert!(matches!(usage.suggest(&broken), Err(UnusedError::DoesNotHold(_))));
    }

    /// What the kernel's own lines begin with is the name of no service: before each line of a
    /// service the kernel puts its name and a colon.
    #[test]
    fn no_service_is_named_like_a_line_of_the_kernel() {
        for name in ["cloister", "fault", "profile", "refused", "restart", "stopped", "use"] {
            let named = GOOD.replace("driver", name);
            let mistakes = parse("named.toml", &named).err().expect("refused").to_string();
            assert!(mistakes.contains(&format!("`{name}` cannot be the name of a service")), "{mistakes}");
        }
    }

    proptest! {
        #[test]
        fn any_log_is_answered(log in "(use: |[(\\[a-z)\\] -]|\n){0,60}") {
            let _ = unused(&policy(), &log).map(|usage| (usage.text(), usage.suggest(GOOD)));
        }
    }
}
