//! Makes the tables of what is trusted, of sums, and of addresses.

use super::page::Table;
use crate::address_space::{PAGE, image_base};
use crate::authority::names::counted;
use crate::check;
use crate::claim::and;
use crate::diagnostic::Log;
use crate::model::Source;
use crate::plan;
use crate::prove::queue_pages;
use crate::read::render_size;
use crate::sound::Sound;
use cloister_caps::tables::{Access, RegionKind};

/// Returns a table of static columns.
pub(super) fn table(
    key: &'static str,
    title: &'static str,
    note: &'static str,
    columns: &[&str],
    rows: Vec<Vec<String>>,
) -> Table {
    Table { key, title, note, columns: columns.iter().map(|column| (*column).to_owned()).collect(), rows }
}

/// Returns who must be trusted, and for what.
pub(super) fn trusted(sound: &Sound) -> Table {
    let mut rows = vec![
        ["Xen and the processor".to_owned(), "everything".to_owned()],
        [
            "the control domain and its toolstack".into(),
            "not reading this domain's memory, and starting this image".into(),
        ],
        ["the kernel and the runtime of the services".into(), "everything inside the image".into()],
        [
            "the compiler of the programs, and this tool".into(),
            "making the programs and the tables from what is written".into(),
        ],
    ];
    for service in sound.services() {
        let mut duties = Vec::new();
        if sound.policy.served(service.name(), "store").next().is_some() {
            duties.push("letting each client reach its own XenStore paths only".to_owned());
        }
        if sound.policy.served(service.name(), "grants").next().is_some() {
            duties.push("granting memory only at the request of the service on whose behalf it is".to_owned());
        }
        let pinned = sound.policy.pinned(service.name());
        duties.extend(pinned.map(|(_, domain, pin)| {
            format!("telling the kernel which domain of {} is named by {}", domain.name.value, pin.node.value)
        }));
        if !duties.is_empty() {
            let duties: Vec<&str> = duties.iter().map(String::as_str).collect();
            rows.push([format!("{} (program {})", service.name(), service.program()), and(&duties)]);
        }
    }
    rows.push(["any other service".into(), "nothing beyond its rights below".into()]);
    let note = "If one of these does not do what it is trusted for, this page does not say what happens.";
    table("trusted", "What is trusted", note, &["who", "for"], rows.into_iter().map(Vec::from).collect())
}

/// Returns the sums over the whole policy.
pub(super) fn sums(sound: &Sound) -> Table {
    let policy = &sound.policy;
    let (mut fixed, mut least, mut most) = (0u64, 0u64, 0u64);
    for region in &policy.regions.items {
        match region.body.source.value {
            Source::Fixed { pages } => fixed += u64::from(pages),
            Source::Share { minimum, maximum, .. } => {
                least += u64::from(minimum);
                most += u64::from(maximum);
            }
            Source::Module | Source::CommandLine | Source::XenStoreRing => {}
        }
    }
    let stacks: u64 = policy.services.items.iter().map(|service| u64::from(service.body.stack_pages.value)).sum();
    let queues: u64 = policy.queues.items.iter().map(|queue| queue_pages(&queue.body)).sum();
    let granted = |writable: bool| -> u64 {
        let grants = policy.grants.items.iter();
        let counted = grants.filter(|grant| !writable || grant.body.access.value == Access::ReadWrite);
        counted.map(|grant| u64::from(grant.body.pages.value)).sum()
    };
    let pages = |count: u64| format!("{} ({} KiB)", counted(count, "page"), count * PAGE / 1024);
    let rows = [
        ("budgets of the services", format!("{:.1} % of one processor", sound.budgets_percent())),
        ("regions of a fixed size", pages(fixed)),
        ("shares of the remaining memory, at least", pages(least)),
        ("shares of the remaining memory, at most", pages(most)),
        ("stacks", pages(stacks)),
        ("queues", pages(queues)),
        ("memory that the boot promises", pages(fixed + least + stacks + queues)),
        ("pages that other domains may use", pages(granted(false))),
        ("of these, pages that they may write", pages(granted(true))),
    ];
    let rows = rows.into_iter().map(|(what, amount)| vec![what.to_owned(), amount]).collect();
    let note = "The memory of the kernel and of the programs is not in these sums. If the budgets are more than 100 %, priorities decide.";
    table("sums", "Sums", note, &["what", "amount"], rows)
}

/// Returns the address of everything that a service can reach, if an image has room for the policy.
pub(super) fn addresses(sound: &Sound) -> Table {
    let mut rows = Vec::new();
    let mut log = Log::default();
    check::limits(&sound.policy, &mut log);
    let plan = if log.is_empty() { plan::plan(&sound.policy, &sound.lines) } else { None };
    for (position, service) in plan.iter().flat_map(|plan| plan.services.iter().enumerate()) {
        let name = &service.name;
        let row = |what: &str, address: u64, size: String, access: &str| {
            vec![name.clone(), what.to_owned(), format!("{address:#x}"), size, access.to_owned()]
        };
        rows.push(row("its program", image_base(position), "up to 16M".into(), "read, execute; its data: write"));
        for mapping in plan.iter().flat_map(|plan| &plan.mappings) {
            let region = plan.as_ref().and_then(|plan| plan.regions.get(usize::from(mapping.region)));
            let (Some(region), true) = (region, usize::from(mapping.service) == position) else { continue };
            let size = match region.record.kind {
                RegionKind::Fixed => render_size(region.record.amount),
                RegionKind::Share => format!("up to {}", render_size(region.record.maximum)),
                RegionKind::Module => "as given".into(),
                RegionKind::CommandLine | RegionKind::XenStoreRing => "4K".into(),
                RegionKind::ImageData => format!("{} bytes", region.record.image_length),
            };
            let access = if mapping.access == Access::ReadWrite { "read, write" } else { "read" };
            rows.push(row(&region.name, mapping.address, size, access));
        }
    }
    let note = "Virtual addresses, in each service's own address space. Pages without a row are not mapped. Without rows, no image has room for the policy.";
    table("addresses", "Addresses", note, &["service", "what", "from", "size", "access"], rows)
}

/// Returns the warnings as a table.
pub(super) fn warnings(sound: &Sound) -> Table {
    let rows = sound
        .warnings()
        .into_iter()
        .map(|warning| vec![warning.kind.to_owned(), warning.message, warning.line.to_string()]);
    let note = "Rules that are allowed, but may not be what the author means.";
    table("warnings", "Warnings", note, &["kind", "warning", "line"], rows.collect())
}
