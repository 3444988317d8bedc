//! Measures the amounts of assertions of kind `at-most`.

use cloister_interfaces::CATALOG;
use cloister_interfaces::queue::producer_pages;

use super::{Outcome, Prover, Refutation};
use crate::authority::Rule;
use crate::authority::index::QueueEnds;
use crate::model::{Measure, Queue, Source};

/// Returns the pages of a queue: in each direction those of its messages, and one of the receiver.
pub(crate) fn queue_pages(queue: &Queue) -> u64 {
    let sizes = CATALOG.iter().find(|(interface, _, _)| *interface == queue.interface.value);
    let depth = usize::from(queue.depth);
    let pages = |size: usize| producer_pages(size, depth) as u64 + 1;
    sizes.map_or(0, |(_, request, reply)| pages(*request) + pages(*reply))
}

impl Prover<'_> {
    pub(super) fn at_most(&self, what: Measure, service: Option<usize>, limit: u64) -> Outcome {
        let parts = self.measured(what, service);
        let sum: u64 = parts.iter().map(|(amount, _)| amount).sum();
        // Rounded up: rounding to the nearest percent would hide a breach.
        let (sum, shown) = if what == Measure::CpuPercent {
            (sum.div_ceil(10_000), format!("{:.1}", sum as f64 / 10_000.0))
        } else {
            (sum, sum.to_string())
        };
        let of = service.and_then(|service| self.sound.policy.services.items.get(service));
        let of = of.map_or(String::new(), |item| format!(" of {}", item.name.value));
        let finding = format!("{}{of}: {shown}, and the bound is {limit}", what.word());
        if sum <= limit {
            return Ok(finding.into());
        }
        let mut parts: Vec<(u64, Rule)> = parts.into_iter().filter(|(amount, _)| *amount > 0).collect();
        parts.sort_by_key(|(amount, _)| std::cmp::Reverse(*amount));
        Err(Refutation { finding, path: parts.into_iter().take(8).map(|(_, rule)| rule).collect() })
    }

    /// Returns the parts of an amount, each with the rule that gives it.
    fn measured(&self, what: Measure, service: Option<usize>) -> Vec<(u64, Rule)> {
        let (policy, index) = (&self.sound.policy, &self.sound.index);
        let chosen = |position: usize| service.is_none_or(|service| service == position);
        let services = policy.services.items.iter().enumerate().filter(|(position, _)| chosen(*position));
        match what {
            Measure::Grants | Measure::GrantedPages | Measure::WritablePages => {
                let grants = policy.grants.items.iter().zip(&index.grants).enumerate();
                let held = grants.filter(|(_, (_, granted))| chosen(granted.holder) || chosen(granted.client));
                held.map(|(position, (item, _))| {
                    let writable = item.body.access.value == cloister_caps::tables::Access::ReadWrite;
                    let amount = match what {
                        Measure::Grants => 1,
                        Measure::WritablePages if !writable => 0,
                        _ => u64::from(item.body.pages.value),
                    };
                    (amount, Rule::Grant(position))
                })
                .collect()
            }
            Measure::Ports => {
                let ports = index.ports.iter().enumerate().filter(|(_, port)| chosen(port.service));
                ports.map(|(position, _)| (1, Rule::Port(position))).collect()
            }
            Measure::CpuPercent => services
                .map(|(position, item)| {
                    let (budget, period) = (u64::from(item.body.budget_us.value), u64::from(item.body.period_us.value));
                    ((budget * 1_000_000).div_ceil(period.max(1)), Rule::Service(position))
                })
                .collect(),
            Measure::Restarts => {
                services.map(|(position, item)| (u64::from(item.body.restart_limit), Rule::Service(position))).collect()
            }
            Measure::Pages => {
                let stacks =
                    services.map(|(position, item)| (u64::from(item.body.stack_pages.value), Rule::Service(position)));
                let regions = policy.regions.items.iter().enumerate().filter(|(position, _)| {
                    let map = index.maps.get(*position);
                    map.is_some_and(|map| map.iter().any(|(mapper, _)| chosen(*mapper)))
                });
                let regions = regions.map(|(position, item)| {
                    let pages = match item.body.source.value {
                        Source::Fixed { pages } => pages,
                        Source::Share { minimum, .. } => minimum,
                        _ => 0,
                    };
                    (u64::from(pages), Rule::Region(position))
                });
                let ours = |ends: &QueueEnds| chosen(ends.from) || chosen(ends.to);
                let queues = index.queues.iter().zip(&policy.queues.items).enumerate();
                let queues = queues.filter(|(_, (ends, _))| ours(ends));
                let queues = queues.map(|(position, (_, item))| (queue_pages(&item.body), Rule::Queue(position)));
                stacks.chain(regions).chain(queues).collect()
            }
        }
    }
}
