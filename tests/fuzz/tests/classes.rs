//! The table of known classes in `docs/fuzzing.md` names tests and targets that exist; and those of
//! its tests that have no crate of their own.
#![forbid(unsafe_code)]

use std::path::{Path, PathBuf};

use cloister_caps::tables::{RegionKind, Tables};
use cloister_caps::{Kind, ServiceId};

fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../..")
}

/// The text of every Rust file below a folder.
fn sources(folder: &Path, text: &mut String) {
    for entry in std::fs::read_dir(folder).unwrap() {
        let path = entry.unwrap().path();
        let name = path.file_name().unwrap().to_str().unwrap();
        if path.is_dir() && name != "target" && !name.starts_with('.') {
            sources(&path, text);
        } else if name.ends_with(".rs") {
            text.push_str(&std::fs::read_to_string(&path).unwrap());
        }
    }
}

#[test]
fn every_name_in_the_table_exists() {
    let mut text = String::new();
    for folder in ["kernel", "netfront-service", "services", "tests"] {
        sources(&root().join(folder), &mut text);
    }
    let document = std::fs::read_to_string(root().join("docs/fuzzing.md")).unwrap();
    let table = document.split("## Known classes, by name").nth(1).expect("the section").split("\n## ").next().unwrap();
    let rows: Vec<&str> = table.lines().filter(|line| line.starts_with("| ")).skip(1).collect();
    assert!(rows.len() > 20, "{} rows", rows.len());
    for row in rows {
        let held = row.rsplit('|').nth(1).unwrap();
        let names: Vec<&str> = held.split('`').skip(1).step_by(2).collect();
        assert!(!names.is_empty(), "nothing holds: {row}");
        for name in names {
            let exists = match name.contains('-') {
                true => cloister_fuzz::target(name).is_some(),
                false => text.contains(&format!("fn {name}(")),
            };
            assert!(exists, "there is no {name}");
        }
    }
}

/// XSA-403: the pages that a peer may read or write hold a whole region each, which is no heap, no
/// stack and no queue, and which at most one service writes.
#[test]
fn a_granted_region_has_whole_pages_and_no_other_use() {
    for name in ["policy/default.toml", "tests/guests/prober.toml", "tests/guests/back-end.toml"] {
        let text = std::fs::read_to_string(root().join(name)).unwrap();
        let policy = cloister_policy::parse(name, &text).unwrap_or_else(|report| panic!("{report}"));
        let bytes = policy.tables().unwrap();
        let tables = Tables::parse(&bytes).unwrap();
        for rule in tables.grants().iter() {
            let region = tables.region(rule.region);
            let shown = tables.name(region.name);
            assert_eq!((region.kind, rule.count), (RegionKind::Fixed, region.amount), "{name}: {shown}");
            let queue = tables
                .queues()
                .iter()
                .any(|queue| [queue.producer_region, queue.consumer_region].contains(&rule.region));
            assert!(!queue, "{name}: {shown} is a queue's");
            let mapped: Vec<ServiceId> =
                tables.mappings().iter().filter(|map| map.region == rule.region).map(|map| map.service).collect();
            assert!(mapped.len() <= 2, "{name}: {shown} is mapped by {mapped:?}");
            let holders = tables.capabilities();
            let holders = holders.iter().filter(|capability| capability.kind() == Kind::Grant).count();
            assert!(holders >= tables.grants().len());
        }
    }
}
