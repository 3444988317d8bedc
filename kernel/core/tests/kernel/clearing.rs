//! Tests which regions are cleared, at boot and at a restart.

use std::collections::BTreeSet;

use cloister_caps::RegionId;
use cloister_caps::tables::{RegionKind, Tables};
use cloister_kernel_core::clearing::{RestartStep, cleared_at_boot, for_each_restart_step};

use crate::machine::{shipped, tables};

fn names<'t>(tables: &Tables<'t>, regions: impl Iterator<Item = RegionId>) -> BTreeSet<&'t str> {
    regions.map(|region| tables.name(tables.region(region).name)).collect()
}

#[test]
fn at_boot_queues_stacks_and_all_that_peers_see_are_cleared() {
    let tables = tables(&shipped());
    let cleared: Vec<RegionId> = cleared_at_boot(&tables).collect();
    assert!(tables.grants().iter().all(|rule| cleared.contains(&rule.region)), "a peer reads nothing old");
    for queue in tables.queues().iter() {
        assert!(cleared.contains(&queue.producer_region) && cleared.contains(&queue.consumer_region));
    }
    let cleared = names(&tables, cleared.into_iter());
    assert!(["rings", "rx-pool", "tx-pool", "tcpip.stack"].iter().all(|name| cleared.contains(name)), "{cleared:?}");
    let others = tables.regions().iter().filter(|region| region.kind != RegionKind::Fixed);
    let others: BTreeSet<&str> = others.map(|region| tables.name(region.name)).collect();
    assert!(others.contains("site") && others.contains("tcpip-heap"), "{others:?}");
    assert!(cleared.is_disjoint(&others), "what is large or not ours stays as it is");
}

#[test]
fn a_restart_clears_what_its_service_alone_has_and_does_not_keep() {
    let found = |tables: &Tables<'static>, service: &str| {
        let id = tables.services().ids().find(|id| tables.service_name(*id) == service).unwrap();
        let mut steps = Vec::new();
        for_each_restart_step(tables, id, |step| steps.push(step));
        assert_eq!(steps.pop(), Some(RestartStep::Load), "its program comes last");
        let cleared = steps.into_iter().map(|step| match step {
            RestartStep::Clear(region) => region,
            RestartStep::Load => panic!("loaded twice"),
        });
        names(tables, cleared)
    };
    let before = tables(&shipped());
    assert_eq!(found(&before, "tcpip"), BTreeSet::from(["tcpip-heap", "tcpip.stack"]));
    assert_eq!(found(&before, "http"), BTreeSet::from(["http-heap", "http.stack"]));
    let prober = concat!(env!("CARGO_MANIFEST_DIR"), "/../../tests/guests/prober.toml");
    let kept = tables(&std::fs::read_to_string(prober).unwrap());
    assert!(kept.regions().iter().any(|region| kept.name(region.name) == "prober-progress"));
    assert!(!found(&kept, "prober").contains("prober-progress"), "its policy keeps it");
}
