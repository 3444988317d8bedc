//! Checks who may read and write which memory: regions, and the grants of regions to other domains.

use std::collections::HashMap;

use crate::diagnostic::{Diagnostic, Log};
use crate::model::{Grant, MapAccess, MapEntry, Named, Policy, Region, Source};

pub(super) fn check(policy: &Policy, log: &mut Log) {
    for region in &policy.regions.items {
        one_writer(region, log);
        heap_is_private(region, log);
        kind_allows_mapping(region, log);
        keep_has_effect(policy, region, log);
    }
    one_of_each_kind(policy, log);
    one_heap_each(policy, log);
    granted_once(policy, log);
    for grant in &policy.grants.items {
        if let Some(region) = policy.regions.get(&grant.body.region.value) {
            grantable(grant, region, log);
        }
    }
}

fn one_writer(region: &Named<Region>, log: &mut Log) {
    let mut writers = region.body.map.iter().filter(|entry| entry.how.value.writes());
    let Some(first) = writers.next() else { return };
    for other in writers {
        let (one, two) = (&first.service.value, &other.service.value);
        let name = &region.name.value;
        log.push(
            Diagnostic::at(
                &other.how.span,
                format!("region `{name}` is writable by two services, `{one}` and `{two}`"),
            )
            .label(format!("`{two}` writes it"))
            .related(&first.how.span, format!("`{one}` writes it"))
            .help("make one of them \"read\"; for both directions, use two regions"),
        );
    }
}

fn heap_is_private(region: &Named<Region>, log: &mut Log) {
    let Some(heap) = region.body.map.iter().find(|entry| entry.how.value == MapAccess::Heap) else { return };
    for other in region.body.map.iter().filter(|entry| entry.service.value != heap.service.value) {
        if other.how.value == MapAccess::Read {
            let message = format!(
                "region `{}` is the heap of `{}`, and `{}` reads it",
                region.name.value, heap.service.value, other.service.value
            );
            log.push(
                Diagnostic::at(&other.service.span, message)
                    .label("reads it")
                    .related(&heap.how.span, "a heap holds private data")
                    .help("share data in a separate region"),
            );
        }
    }
}

fn kind_allows_mapping(region: &Named<Region>, log: &mut Log) {
    let source = region.body.source.value;
    for entry in &region.body.map {
        let allowed = match source {
            Source::Fixed { .. } | Source::Share { .. } => true,
            Source::Module | Source::CommandLine => entry.how.value == MapAccess::Read,
            Source::XenStoreRing => entry.how.value != MapAccess::Heap,
        };
        if !allowed {
            let (word, how) = (source.word(), entry.how.value.word());
            let instead = if source == Source::XenStoreRing { "read-write" } else { "read" };
            log.push(
                Diagnostic::at(&entry.how.span, format!("a region of kind \"{word}\" cannot be mapped as \"{how}\""))
                    .label("not allowed")
                    .related(&region.body.source.span, "the kind")
                    .help(format!("write \"{instead}\"")),
            );
        }
    }
}

/// Checks that `keep` has an effect: only a region that a restart would clear can be kept.
fn keep_has_effect(policy: &Policy, region: &Named<Region>, log: &mut Log) {
    let Some(keep) = &region.body.keep else { return };
    let clearable = matches!(region.body.source.value, Source::Fixed { .. } | Source::Share { .. });
    let heap = region.body.map.iter().any(|entry| entry.how.value == MapAccess::Heap);
    let granted = policy.grants.items.iter().any(|grant| grant.body.region.value == region.name.value);
    let why = if heap {
        "every restart clears a heap"
    } else if !clearable {
        "a restart never clears a region of this kind"
    } else if region.body.map.len() > 1 || granted {
        "a restart never clears a region that others use too"
    } else {
        return;
    };
    log.push(
        Diagnostic::at(keep, format!("region `{}` cannot have `keep`", region.name.value))
            .label(why)
            .help("leave `keep` out"),
    );
}

/// Checks that the boot module, the command line and the XenStore ring have at most one region
/// each.
fn one_of_each_kind(policy: &Policy, log: &mut Log) {
    for kind in [Source::Module, Source::CommandLine, Source::XenStoreRing] {
        let mut of_kind = policy.regions.items.iter().filter(|region| region.body.source.value == kind);
        let Some(first) = of_kind.next() else { continue };
        for other in of_kind {
            let word = kind.word();
            log.push(
                Diagnostic::at(&other.body.source.span, format!("there are two regions of kind \"{word}\""))
                    .label(format!("`{}`", other.name.value))
                    .related(&first.body.source.span, format!("`{}`", first.name.value))
                    .help("name every service that maps it in the `map` of one region"),
            );
        }
    }
}

fn one_heap_each(policy: &Policy, log: &mut Log) {
    let mut first: HashMap<&str, &MapEntry> = HashMap::new();
    let heaps = policy.regions.items.iter().flat_map(|region| &region.body.map);
    for heap in heaps.filter(|entry| entry.how.value == MapAccess::Heap) {
        let service = heap.service.value.as_str();
        let Some(first) = first.get(service) else {
            first.insert(service, heap);
            continue;
        };
        log.push(
            Diagnostic::at(&heap.how.span, format!("service `{service}` has two heaps"))
                .label("the second")
                .related(&first.how.span, "the first")
                .help("a program has one allocator; make one region large enough"),
        );
    }
}

/// Checks that no region is in two grant rules: a page has one grant reference, and one rule says
/// who may use it.
fn granted_once(policy: &Policy, log: &mut Log) {
    let mut first: HashMap<&str, &Named<Grant>> = HashMap::new();
    for grant in &policy.grants.items {
        let name = grant.body.region.value.as_str();
        let Some(first) = first.get(name) else {
            first.insert(name, grant);
            continue;
        };
        log.push(
            Diagnostic::at(&grant.body.region.span, format!("the pages of region `{name}` are in two grant rules"))
                .label(format!("`{}`", grant.name.value))
                .related(&first.body.region.span, format!("`{}`", first.name.value))
                .help("a rule covers a region from its first page; give each rule a separate region"),
        );
    }
}

fn grantable(grant: &Named<Grant>, region: &Named<Region>, log: &mut Log) {
    let name = &region.name.value;
    let Source::Fixed { pages } = region.body.source.value else {
        log.push(
            Diagnostic::at(&grant.body.region.span, format!("region `{name}` cannot be granted"))
                .label("not of a fixed size")
                .related(&region.body.source.span, "the source of its memory")
                .help("grant a region that has `pages`"),
        );
        return;
    };
    if grant.body.pages.value > pages {
        let count = grant.body.pages.value;
        log.push(
            Diagnostic::at(
                &grant.body.pages.span,
                format!("grant `{}` covers {count} pages, and region `{name}` has {pages}", grant.name.value),
            )
            .label("wider than the region")
            .related(&region.body.source.span, "the region's pages")
            .help(format!("write `pages = {pages}` or fewer")),
        );
    }
    if let Some(heap) = region.body.map.iter().find(|entry| entry.how.value == MapAccess::Heap) {
        log.push(
            Diagnostic::at(
                &grant.body.region.span,
                format!("region `{name}` holds the heap of `{}`", heap.service.value),
            )
            .label("private data would reach another domain")
            .related(&heap.how.span, "the heap")
            .help("grant a separate region"),
        );
    }
}
