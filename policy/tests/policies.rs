//! The shipped policies, their canonical form and hash, the bindings, and input that is not a
//! policy.

use std::path::{Path, PathBuf};

use cloister_policy::{Checked, load, parse};
use proptest::prelude::*;

const SHIPPED: [&str; 3] = ["default.toml", "../tests/guests/prober.toml", "../tests/guests/selftest.toml"];

fn folder() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR"))
}

fn good() -> String {
    std::fs::read_to_string(folder().join("tests/good.toml")).unwrap()
}

/// Returns a policy with one set of several domains that is pinned, and one that is not.
fn pinned() -> String {
    let text = good().replace("[\"read\", \"write\", \"watch\"]", "[\"read\", \"watch\"]");
    let pin = "pin = { by = \"store\", node = \"device/vif/0/backend-id\" }";
    let more = "[ports.more-events]\nservice = \"driver\"\npeer = \"other\"\nrights = [\"open\"]";
    let text = text.replace("ids = \"0\"", &format!("ids = \"0-9\"\n{pin}\n\n[domains.other]\nids = \"1-3\""));
    format!("{text}\n{more}\n")
}

fn checked(text: &str) -> Checked {
    parse("test.toml", text).unwrap()
}

#[test]
fn the_shipped_policies_hold() {
    for file in SHIPPED {
        let policy = load(&folder().join(file)).unwrap();
        for service in policy.services() {
            assert!(policy.bindings(service.name()).is_some());
        }
    }
}

/// A policy that gives netfront rights of earlier versions breaks a named assertion.
#[test]
fn under_the_shipped_policy_only_the_toolstack_names_the_back_end() {
    let text = std::fs::read_to_string(folder().join("default.toml")).unwrap();
    // The compiler refuses a writable node that pins a domain before it looks at assertions.
    let pin = "pin = { by = \"xenstore\", node = \"device/vif/0/backend-id\" }\n";
    let rule = "\"device/vif/0/backend\" = [\"read\", \"watch\"]\n";
    assert!(text.contains(rule) && text.contains(pin));
    let text = text.replacen(pin, "", 1);
    for (wider, broken) in [
        ("\"device/vif/0/**\"", &["back-end-by", "back-end-domain-by", "address-by"][..]),
        ("\"device/**\"", &["back-end-by", "back-end-domain-by", "address-by"]),
        ("\"/local/domain/*/**\"", &["back-end-by", "back-end-domain-by", "address-by"]),
        ("\"/local/domain/*/device/vif/*/backend\"", &["back-end-by"]),
        ("\"/local/domain/{self}/device/vif/0/backend-id\"", &["back-end-domain-by"]),
        ("\"/local/domain/{self}/device/vif/0/mac\"", &["address-by"]),
        ("\"device/vif/1/**\"", &[]),
        ("\"device/vif/0\"", &[]),
        ("\"device/vif/0/mac/**\"", &[]),
    ] {
        // The other rule stays: an assertion about a path that no rule is about would not hold.
        let wide = text.replacen(rule, &format!("{rule}{wider} = [\"write\"]\n"), 1);
        let found = parse("wide.toml", &wide).err().map(|report| report.to_string()).unwrap_or_default();
        for name in ["back-end-by", "back-end-domain-by", "address-by"] {
            assert_eq!(
                found.contains(&format!("{name}-toolstack")),
                broken.contains(&name),
                "{wider}: {name}\n{found}"
            );
        }
    }
}

#[test]
fn programs_are_16_mib_apart_in_the_order_of_the_names() {
    let policy = load(&folder().join("default.toml")).unwrap();
    let found: Vec<_> =
        policy.services().map(|service| (service.name(), service.program(), service.image_base())).collect();
    let expected = [
        ("control", "cloister-control", 0x0100_0000),
        ("grant-manager", "cloister-grant-manager", 0x0200_0000),
        ("http", "cloister-http", 0x0300_0000),
        ("netfront", "cloister-netfront", 0x0400_0000),
        ("tcpip", "cloister-tcpip", 0x0500_0000),
        ("xenstore", "cloister-xenstore", 0x0600_0000),
    ];
    assert_eq!(found, expected);
}

#[test]
fn the_canonical_form_is_a_policy_with_itself_as_canonical_form() {
    for file in SHIPPED {
        let policy = load(&folder().join(file)).unwrap();
        let again = checked(policy.canonical());
        assert_eq!(again.canonical(), policy.canonical());
        assert_eq!(again.hash(), policy.hash());
        assert!(!policy.canonical().contains('#'));
    }
}

#[test]
fn comments_order_and_spacing_do_not_change_the_hash() {
    let text = good();
    let (head, sections) = text.split_once("\n[").unwrap();
    let mut sections: Vec<String> = sections.split("\n\n[").map(|section| format!("\n# said\n[{section}\n")).collect();
    sections.reverse();
    let turned = format!("{head}\n{}", sections.concat())
        .replace("read-write\", store = \"read\"", "read-write\",   'store' = \"read\"")
        .replace("[\"open\", \"send\", \"close\"]", "[\"close\",\n  \"open\", # one\n  \"send\",\n]")
        .replace("priority = 50", "priority = 0x32")
        .replace("maximum = \"1M\"", "maximum = \"1024K\"")
        .replace("ids = \"0\"", "ids = \"0-0\"");
    assert_ne!(turned, text);
    assert_eq!(checked(&turned).canonical(), checked(&text).canonical());
    assert_eq!(checked(&turned).hash(), checked(&text).hash());
}

#[test]
fn every_statement_changes_the_hash() {
    let text = good();
    let changes = [
        ("name = \"test\"", "name = \"test2\""),
        ("ids = \"0\"", "ids = \"0-1\""),
        ("\"cloister-driver\"", "\"cloister-driver2\""),
        ("priority = 50", "priority = 51"),
        ("budget_us = 2000", "budget_us = 2001"),
        ("period_us = 10000", "period_us = 20000"),
        ("\"16K\"", "\"20K\""),
        ("limit = 0", "limit = 1"),
        ("\"stop-image\"", "\"stop-service\""),
        ("clock = [\"now\"]", "clock = [\"now\", \"wall\"]"),
        ("clock = [\"now\"]", ""),
        ("pages = 4\nmap", "pages = 5\nmap"),
        ("driver = \"read-write\", store = \"read\"", "driver = \"read\", store = \"read-write\""),
        (", store = \"read\" }", " }"),
        ("[regions.notes]\n", "[regions.notes]\nkeep = true\n"),
        ("share = 1", "share = 2"),
        ("\"64K\"", "\"68K\""),
        ("\"1M\"", "\"2M\""),
        ("depth = 8", "depth = 16"),
        ("\"open\", ", ""),
        ("access = \"read-write\"", "access = \"read\""),
        ("pages = 4\nlifetime", "pages = 3\nlifetime"),
        ("\"device/vif/0/**\"", "\"device/vif/1/**\""),
        ("\"read\", \"write\", \"watch\"", "\"read\", \"write\""),
    ];
    let text = format!("{text}\n[regions.notes]\npages = 1\nmap = {{ driver = \"read-write\" }}\n");
    let mut seen = vec![checked(&text).hash()];
    for (from, to) in changes {
        assert!(text.contains(from), "{from}");
        let hash = checked(&text.replacen(from, to, 1)).hash();
        assert!(!seen.contains(&hash), "{from} to {to}");
        seen.push(hash);
    }
}

#[test]
fn bindings_give_each_capability_by_its_name() {
    let bindings = checked(&good()).bindings("manager").unwrap();
    let expected = include_str!("manager.bindings");
    assert_eq!(bindings, expected);
    let bindings = checked(&good()).bindings("driver").unwrap();
    for line in [
        "const HEAP: Option<cloister_caps::Slot> = Some(cloister_caps::Slot(18));",
        "const CONSOLE: Option<cloister_caps::Slot> = Some(cloister_caps::Slot(1));",
        "fn capabilities(kernel: cloister_runtime::Kernel) -> cloister_driver::Caps<cloister_runtime::Kernel, cloister_runtime::SharedRegion> {",
        "        clock: cloister_interfaces::capability::Clock::new(kernel, cloister_caps::Slot(2)),",
        "        events: cloister_interfaces::capability::Port::new(kernel, cloister_caps::Slot(7), 4),",
        "        pool: cloister_runtime::SharedRegion::new(kernel, cloister_caps::Slot(17)),",
        "        pool_pages: cloister_interfaces::rules::GrantPermission { rule: 0, pages: 4, peer_first: 0, peer_last: 0 },",
    ] {
        assert!(bindings.lines().any(|found| found == line), "{line}\n{bindings}");
    }
}

#[test]
fn a_pin_is_a_capability_of_the_service_that_reads_the_node() {
    let policy = checked(&pinned());
    let bindings = policy.bindings("store").unwrap();
    let line = "        pins: [cloister_interfaces::capability::DomainPin::new(kernel, cloister_caps::Slot(4))].into_iter().collect(),";
    assert!(bindings.lines().any(|found| found == line), "{bindings}");
    let without = checked(&good()).bindings("store").unwrap();
    assert!(without.contains("        pins: [].into_iter().collect(),"), "{without}");
    let blob = policy.tables().unwrap();
    let tables = cloister_caps::tables::Tables::parse(&blob).unwrap();
    let sets = tables.domains();
    let found: Vec<_> = sets.iter().map(|set| (tables.name(set.name), set.first, set.last, set.pinned)).collect();
    assert_eq!(found, [("backend", 0, 9, true), ("other", 1, 3, false)]);
    let again = checked(policy.canonical());
    assert_eq!((again.canonical(), again.hash()), (policy.canonical(), policy.hash()));
    let changed = |from: &str, to: &str| {
        assert!(pinned().contains(from));
        checked(&pinned().replacen(from, to, 1)).hash() != policy.hash()
    };
    assert!(changed("vif/0/backend-id", "vif/0/back-id") && changed("pin = {", "# pin = {"));
}

#[test]
fn the_bindings_that_must_not_compile_are_ours() {
    let cases = Path::new(env!("CARGO_MANIFEST_DIR")).join("../tests/compile-fail/cases");
    let bindings = load(&cases.join("clerk.toml")).unwrap().bindings("clerk").unwrap();
    assert_eq!(bindings, std::fs::read_to_string(cases.join("clerk.bindings")).unwrap());
}

#[test]
fn bindings_depend_on_what_the_policy_says_and_on_nothing_else() {
    let policy = load(&folder().join("default.toml")).unwrap();
    let again = checked(policy.canonical());
    for service in policy.services() {
        assert_eq!(policy.bindings(service.name()), again.bindings(service.name()));
    }
    assert_eq!(policy.bindings("nobody"), None);
}

#[test]
fn input_that_is_no_policy_is_refused_with_a_reason() {
    let folder = tempfile::tempdir().unwrap();
    let file = |name: &str, bytes: &[u8]| -> PathBuf {
        let path = folder.path().join(name);
        std::fs::write(&path, bytes).unwrap();
        path
    };
    let nested = format!("x = {}{}", "[".repeat(50_000), "]".repeat(50_000));
    let dotted = format!("{} = 1", vec!["a"; 50_000].join("."));
    let cases = [
        (folder.path().join("missing"), "cannot open the file"),
        (folder.path().to_owned(), "cannot read the file"),
        (file("empty", b""), "the file is empty"),
        (file("blank", b" \n\t\n"), "the file is empty"),
        (file("binary", &[0x7F, b'E', b'L', b'F', 2, 1, 0xFF, 0xFE]), "not text: byte 6 is not UTF-8"),
        (file("nul", b"format = 2\0"), "is not a character that a policy can contain"),
        (
            file("huge", &vec![b'#'; 100 << 20]),
            "more than 262144 bytes, which is the largest policy that an image has room for",
        ),
        (file("nested", nested.as_bytes()), "not TOML"),
        (file("dotted", dotted.as_bytes()), "not TOML"),
        (file("prose", b"Let http talk to tcpip."), "not TOML"),
        (file("cut", b"[services.http"), "not TOML"),
    ];
    for (path, reason) in cases {
        let report = load(&path).err().unwrap();
        assert!(!report.is_readable(), "{}", path.display());
        let text = report.to_string();
        assert!(text.contains(reason) && text.len() < 2_000_000, "{}: {text}", path.display());
    }
}

#[test]
fn toml_of_something_else_is_refused_as_a_policy() {
    let report = load(&folder().join("Cargo.toml")).err().unwrap();
    assert!(report.is_readable());
    assert!(report.findings().any(|found| found.message == "a policy has no key `package`" && found.line == 1));
}

proptest! {
    /// Any change to a policy gives a policy or a report, and a report can be rendered.
    #[test]
    fn a_damaged_policy_is_answered(
        cuts in prop::collection::vec((any::<prop::sample::Index>(), 0usize..40, any::<prop::sample::Index>()), 1..4),
    ) {
        let mut text: Vec<char> = good().chars().collect();
        for (at, length, to) in cuts {
            let start = at.index(text.len());
            let piece: Vec<char> = text.drain(start..(start + length).min(text.len())).collect();
            let target = to.index(text.len() + 1);
            text.splice(target..target, piece);
        }
        let text: String = text.into_iter().collect();
        match parse("mangled", &text) {
            Ok(policy) => prop_assert!(parse("canonical", policy.canonical()).is_ok()),
            Err(report) => prop_assert!(report.to_string().contains("error")),
        }
    }

    /// The same for any text.
    #[test]
    fn any_text_is_answered(text in "[\\[\\]a-z.=\"{}, \n0-9\u{fc}]{0,200}") {
        if let Err(report) = parse("any", &text) {
            prop_assert!(!report.to_string().is_empty());
        }
    }
}

#[test]
fn a_large_file_is_refused_at_once_and_only_the_first_mistakes_are_shown() {
    let good = std::fs::read_to_string(folder().join("tests/good.toml")).unwrap();
    let most = 256 << 10;
    let filled = |size: usize| format!("{good}#{}\n", "x".repeat(size - good.len() - 2));
    assert!(parse("x", &filled(most)).is_ok());
    let report = parse("x", &filled(most + 1)).err().unwrap();
    assert!(!report.is_readable() && report.to_string().contains("more than 262144 bytes"), "{report}");
    assert!(cloister_policy::analyse_text("x", &filled(most + 1)).is_ok());
    assert!(cloister_policy::analyse_text("x", &filled((8 << 20) + 1)).is_err());

    for (mistakes, more) in
        [(199, None), (200, None), (201, Some("1 more error is")), (300_000, Some("299800 more errors are"))]
    {
        let mut text = String::from("format = 2\n");
        (0..mistakes).for_each(|number| text += &format!("unknown-{number:07} = 1\n"));
        let report =
            cloister_policy::analyse_text("x", &(text + good.trim_start_matches("format = 2\n"))).err().unwrap();
        let findings: Vec<_> = report.findings().collect();
        let shown = findings.iter().filter(|finding| finding.message.contains("unknown-")).count();
        assert_eq!((shown, findings.len()), (mistakes.min(200), mistakes.min(200) + usize::from(more.is_some())));
        let text = report.to_string();
        assert!(text.len() < 100_000 && text.ends_with(&format!("x: {mistakes} errors")), "{}", text.len());
        let said = more.map(|more| format!("{more} not shown"));
        assert_eq!(findings.last().filter(|_| more.is_some()).map(|finding| finding.message.clone()), said);
        assert!(said.is_none_or(|said| text.contains(&said)));
    }
}

/// No entry is searched for in a list of all earlier ones, which would take minutes with these
/// numbers.
#[test]
fn very_many_words_and_assertions_are_read_one_by_one() {
    let good = std::fs::read_to_string(folder().join("tests/good.toml")).unwrap();
    let analysed = |text: &str| cloister_policy::analyse_text("x", text).err().map(|report| report.to_string());
    let words: Vec<String> = (0..400_000).map(|number| format!("\"w{number}\"")).collect();
    let report = analysed(&good.replace("[\"now\"]", &format!("[{}]", words.join(",")))).unwrap();
    assert!(report.ends_with("x: 400000 errors"), "{}", &report[report.len() - 100..]);
    let assertion = |name: &str| {
        format!("[[assert]]\nname = \"{name}\"\nwhy = \"x\"\nkind = \"at-most\"\nwhat = \"grants\"\nlimit = 3\n")
    };
    let all: String = (0..90_000).map(|number| assertion(&format!("a{number}"))).collect();
    assert_eq!(analysed(&format!("{good}\n{all}")), None);
    let report = analysed(&format!("{good}\n{all}{}", assertion("a89999").repeat(2))).unwrap();
    assert!(report.contains("two assertions have the name `a89999`") && report.ends_with("x: 2 errors"), "{report}");
}
