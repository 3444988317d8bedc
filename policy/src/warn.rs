//! Warns of rules that are allowed, but may not be what the author means.

use std::cmp::Reverse;

use serde::Serialize;

use crate::authority::Rule;
use crate::claim::and;
use crate::diagnostic::Span;
use crate::model::{Domain, Named, Service};
use crate::sound::{Sound, Step};

/// The largest id of a domain: one less than `DOMID_FIRST_RESERVED` (`xen.h`).
const LAST_DOMAIN: u16 = 32751;

/// Words before the colon of lines that the kernel writes to the console, other than the reserved
/// names. A service's lines begin with its name and a colon.
const LOG_PREFIXES: [&str; 5] = ["fault", "profile", "refused", "restart", "use"];

/// Words that readers and programs take for the level or the author of a line.
const LOG_WORDS: [&str; 8] = ["error", "fatal", "info", "init", "linux", "panic", "verified", "warning"];

/// A rule that is allowed, but may not be what the author means.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Warning {
    /// The kind of warning, which docs/policy.md lists.
    pub kind: &'static str,
    /// The line of the policy, from 1.
    pub line: usize,
    /// What is odd, and why it matters.
    pub message: String,
    /// What to do about it.
    pub help: String,
    /// The rules that it is about.
    pub rules: Vec<Step>,
}

impl Sound {
    /// Returns the warnings, in the order of the kinds and then of the file.
    #[must_use]
    pub fn warnings(&self) -> Vec<Warning> {
        let mut found = Vec::new();
        self.overlapping_domains(&mut found);
        self.any_domain(&mut found);
        self.servers_below_clients(&mut found);
        self.starving(&mut found);
        self.log_prefixes(&mut found);
        self.nodes_without_end(&mut found);
        found
    }

    fn warning(&self, kind: &'static str, span: &Span, message: String, help: String, rules: &[Rule]) -> Warning {
        let rules = rules.iter().map(|rule| self.step(*rule)).collect();
        Warning { kind, line: self.lines.line(span.start), message, help, rules }
    }

    /// Warns of entries of `[domains]` that have ids in common: a rule about one is a rule about
    /// the same domain under another name.
    fn overlapping_domains(&self, found: &mut Vec<Warning>) {
        let mut domains: Vec<&Named<Domain>> = self.policy.domains.items.iter().collect();
        domains.sort_by_key(|domain| (domain.body.first, Reverse(domain.body.last)));
        let mut widest: Option<&Named<Domain>> = None;
        for domain in domains {
            if let Some(other) = widest.filter(|other| other.body.last >= domain.body.first) {
                let (one, two) = (&other.name.value, &domain.name.value);
                let (first, last) = (domain.body.first, domain.body.last.min(other.body.last));
                let ids = if first == last { format!("domain {first}") } else { format!("domains {first} to {last}") };
                found.push(self.warning(
                    "overlapping-domains",
                    &domain.name.span,
                    format!(
                        "`{two}` and `{one}` both contain {ids}: what is said of one name is true of the other's domain"
                    ),
                    "give each domain one name, or say in the assertions what holds for both names".into(),
                    &[],
                ));
            }
            if widest.is_none_or(|other| other.body.last < domain.body.last) {
                widest = Some(domain);
            }
        }
    }

    /// Warns of a peer that may be any domain, or any of several at any time.
    fn any_domain(&self, found: &mut Vec<Warning>) {
        for domain in &self.policy.domains.items {
            let Domain { first, last, ref pin } = domain.body;
            let name = &domain.name.value;
            let everything = first == 0 && last == LAST_DOMAIN;
            let message = match pin {
                Some(pin) if everything => {
                    format!("`{name}` may be any domain: `{}` alone says which, by what XenStore says", pin.by.value)
                }
                None if everything => format!("`{name}` may be any domain, and each time another"),
                None if first < last => format!(
                    "`{name}` may be any of {} domains, and each time another: no `pin` says which",
                    u32::from(last) - u32::from(first) + 1
                ),
                _ => continue,
            };
            let help = "write the id of the one domain that is meant, or add `pin`".to_owned();
            found.push(self.warning("any-domain", &domain.name.span, message, help, &[]));
        }
    }

    /// Warns of rights to write any number of nodes: the XenStore daemon allows the domain a number
    /// in all.
    fn nodes_without_end(&self, found: &mut Vec<Warning>) {
        for (entry, item) in self.policy.xenstore.items.iter().enumerate() {
            for (position, right) in item.body.iter().enumerate().filter(|(_, right)| right.write) {
                let (client, path) = (&item.name.value, &right.path.value);
                if !path.split('/').any(|part| matches!(part, "*" | "**")) {
                    continue;
                }
                let message = format!(
                    "`{client}` may write any number of nodes by `{path}`, until no other client of XenStore can make one"
                );
                let help = "write the paths of the nodes that are meant".to_owned();
                let rules = [Rule::Path(entry, position)];
                found.push(self.warning("nodes-without-end", &right.path.span, message, help, &rules));
            }
        }
    }

    /// Warns of servers of a lower priority than their clients: a client waits while all services
    /// between the two run.
    fn servers_below_clients(&self, found: &mut Vec<Warning>) {
        let services = &self.policy.services.items;
        for (position, (item, ends)) in self.policy.queues.items.iter().zip(&self.index.queues).enumerate() {
            let (Some(client), Some(server)) = (services.get(ends.from), services.get(ends.to)) else { continue };
            if server.body.priority >= client.body.priority {
                continue;
            }
            let message = format!(
                "the server `{}` (priority {}) comes after its client `{}` (priority {}): who runs between the two delays the answers",
                server.name.value, server.body.priority, client.name.value, client.body.priority
            );
            let help = format!("give `{}` at least the priority of `{}`", server.name.value, client.name.value);
            let rules = [Rule::Queue(position)];
            found.push(self.warning("server-below-client", &item.name.span, message, help, &rules));
        }
    }

    /// Warns of services that get no processor time, or less than their budget, if those that go
    /// before them use theirs (docs/scheduling.md, "The promise").
    fn starving(&self, found: &mut Vec<Warning>) {
        let mut order: Vec<(usize, &Named<Service>)> = self.policy.services.items.iter().enumerate().collect();
        order.sort_by_key(|(_, service)| (Reverse(service.body.priority), &service.name.value));
        // The time that is used before the next service, in periods of the service itself.
        let (mut starved, mut short): (Vec<&str>, Vec<&str>) = (Vec::new(), Vec::new());
        let (mut first_starved, mut first_short) = (None, None);
        let mut before: Vec<(u64, u64)> = Vec::new();
        for (position, service) in order {
            let (budget, period) = (u64::from(service.body.budget_us.value), u64::from(service.body.period_us.value));
            // The checks make `period` a multiple of each earlier one.
            let used: u64 = before
                .iter()
                .map(|(sum, length)| sum.saturating_mul(period / length.max(&1)))
                .fold(0, u64::saturating_add);
            let left = period.saturating_sub(used);
            if left == 0 {
                first_starved.get_or_insert((position, service));
                starved.push(&service.name.value);
            } else if left < budget {
                first_short.get_or_insert((position, service));
                short.push(&service.name.value);
            }
            match before.iter_mut().find(|(_, length)| *length == period) {
                Some((sum, _)) => *sum = sum.saturating_add(budget),
                None => before.push((budget, period)),
            }
        }
        let sum = format!("the budgets of all services are {:.0} % of the processor", self.budgets_percent());
        for (kind, first, names, gets) in [
            ("starving", first_starved, starved, "may get no time at all"),
            ("budget-short", first_short, short, "may get less than the budget"),
        ] {
            let Some((position, service)) = first else { continue };
            let message = format!("{} {gets} while the services before use theirs; {sum}", and(&names));
            let help = "lower the budgets of the services of higher priority (docs/scheduling.md)".to_owned();
            let rules = [Rule::Service(position)];
            found.push(self.warning(kind, &service.name.span, message, help, &rules));
        }
    }

    /// Returns the sum of the services' budgets in percent of one processor.
    pub(crate) fn budgets_percent(&self) -> f64 {
        let budgets = self.policy.services.items.iter().map(|service| {
            f64::from(service.body.budget_us.value) * 100.0 / f64::from(service.body.period_us.value.max(1))
        });
        budgets.sum()
    }

    /// Warns of services whose lines on the console look like those of another author.
    fn log_prefixes(&self, found: &mut Vec<Warning>) {
        for service in &self.policy.services.items {
            let name = service.name.value.as_str();
            let message = if LOG_PREFIXES.contains(&name) {
                format!("lines of the service `{name}` on the console begin with `{name}: `, as lines of the kernel do")
            } else if LOG_WORDS.contains(&name) {
                format!("lines of the service `{name}` on the console look like messages of another author")
            } else {
                continue;
            };
            let help = "choose a name that says what the service does".to_owned();
            found.push(self.warning("log-prefix", &service.name.span, message, help, &[]));
        }
    }
}
