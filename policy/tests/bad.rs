//! Every mistake that the compiler knows: one policy a mistake, named after it. Each is refused at
//! the exact position with the exact words, and for nothing else.

use std::path::Path;

use cloister_policy::{Report, load};

/// File, line, column, message. Line 0 is the whole file.
const MISTAKES: &[(&str, usize, usize, &str)] = &[
    ("address-space-full", 9, 11, "the regions of service `driver` do not fit its address space"),
    ("assertion-at-most", 81, 8, "assertion `few-pages` does not hold: granted-pages: 4, and the bound is 3"),
    (
        "assertion-at-most-processor",
        81,
        8,
        "assertion `little-time` does not hold: cpu-percent of driver: 20.0, and the bound is 19",
    ),
    (
        "assertion-cannot-cause",
        81,
        8,
        "assertion `no-grants` does not hold: driver can have 4 pages granted under pool-pages",
    ),
    (
        "assertion-cannot-cause-by-takeover",
        81,
        8,
        "assertion `no-ring` does not hold: manager can write store-ring by taking over store",
    ),
    (
        "assertion-cannot-cause-to-pin",
        83,
        8,
        "assertion `one-takeover` does not hold: driver can choose which domain of backend is the peer by taking over store",
    ),
    ("assertion-exclusive", 81, 8, "assertion `own-pool` does not hold: store maps pool as read"),
    ("assertion-exclusive-write", 81, 8, "assertion `own-pool` does not hold: driver maps pool as read-write"),
    (
        "assertion-only",
        81,
        8,
        "assertion `manager-alone` does not hold: driver can have 4 pages granted under pool-pages",
    ),
    ("assertion-only-memory", 81, 8, "assertion `inside` does not hold: backend can write pool (4 pages)"),
    (
        "assertion-only-pin",
        83,
        8,
        "assertion `peer-alone` does not hold: store can choose which domain of backend is the peer",
    ),
    (
        "assertion-only-pin-missing",
        82,
        8,
        "assertion `peer-by-store` does not hold: driver can choose which domain of backend is the peer",
    ),
    ("assertion-share-nothing", 81, 8, "assertion `apart` does not hold: driver and store both map pool"),
    ("assertion-share-nothing-pin", 83, 8, "assertion `apart` does not hold: store pins the peer of manager"),
    (
        "assertion-share-nothing-queue",
        81,
        8,
        "assertion `apart` does not hold: driver and manager share the pages of queue pages",
    ),
    ("assertion-stray-key", 86, 1, "assertion `odd` has no key `owner`"),
    ("assertion-twice", 88, 8, "two assertions have the name `odd`"),
    ("assertion-unknown-kind", 83, 8, "`kind` cannot be \"never\""),
    (
        "assertion-unknown-operation",
        85,
        6,
        "`pool` has no operation `issue`; it has read, write, claim, weigh, keep, from-module, from-command-line, from-xenstore-ring",
    ),
    ("assertion-unknown-service", 84, 22, "there is no service `drier`"),
    ("assertion-without-why", 80, 1, "assertion `odd` has no `why`"),
    ("budget-missing", 12, 1, "`cpu` has no `budget_us`"),
    ("budget-over-period", 12, 21, "the budget is longer than the period"),
    ("capability-name-clash", 58, 8, "service `driver` has two capabilities with the name `clock`"),
    ("capability-name-clash-of-region-and-grant", 68, 9, "service `driver` has two capabilities with the name `pool`"),
    ("capability-name-clash-with-pins", 36, 10, "service `store` has two capabilities with the name `pins`"),
    ("capability-name-clash-with-rules", 36, 10, "service `store` has two capabilities with the name `rules`"),
    ("domain-id-reserved", 7, 7, "`ids` must be a domain id from 0 to 32751, or two joined by -, the lower one first"),
    (
        "domain-range-backwards",
        7,
        7,
        "`ids` must be a domain id from 0 to 32751, or two joined by -, the lower one first",
    ),
    ("domain-unused", 9, 10, "nothing names the domain `spare`"),
    ("empty-rights", 16, 9, "`clock` is empty"),
    ("grant-of-heap", 67, 10, "region `driver-heap` holds the heap of `driver`"),
    ("grant-of-share", 69, 10, "region `driver-heap` cannot be granted"),
    ("grant-region-twice", 69, 10, "the pages of region `pool` are in two grant rules"),
    ("grant-unknown-access", 71, 10, "`access` cannot be \"write\""),
    ("grant-unknown-client", 75, 16, "there is no service `drier`"),
    ("grant-unknown-domain", 70, 8, "there is no domain `front`"),
    ("grant-unknown-holder", 74, 11, "there is no service `boss`"),
    ("grant-unknown-lifetime", 73, 12, "`lifetime` cannot be \"packet\""),
    ("grant-unknown-region", 69, 10, "there is no region `pond`"),
    ("grant-wider-than-region", 72, 9, "grant `pool-pages` covers 5 pages, and region `pool` has 4"),
    ("grant-without-queue", 75, 16, "service `store` cannot ask `manager` for grant `pool-pages`"),
    ("heap-kept", 45, 8, "region `driver-heap` cannot have `keep`"),
    ("heap-of-ring", 38, 17, "a region of kind \"xenstore-ring\" cannot be mapped as \"heap\""),
    ("heap-shared", 44, 26, "region `driver-heap` is the heap of `driver`, and `store` reads it"),
    ("heap-twice", 48, 18, "service `driver` has two heaps"),
    ("image-name-missing", 3, 2, "`image` has no `name`"),
    ("image-unknown-key", 5, 1, "`image` has no key `refuse`"),
    ("isolation-not-a-word", 5, 13, "`isolation` must be a string"),
    ("isolation-unknown-word", 5, 13, "`isolation` cannot be \"paranoid\""),
    ("keep-not-a-flag", 34, 8, "`keep` must be true or false"),
    ("keep-of-shared-region", 34, 8, "region `pool` cannot have `keep`"),
    ("map-unknown-service", 34, 32, "there is no service `stoer`"),
    ("missing-format", 1, 1, "a policy has no `format`"),
    ("missing-program", 9, 11, "service `driver` has no `program`"),
    ("module-writable", 48, 18, "a region of kind \"module\" cannot be mapped as \"read-write\""),
    ("name-is-a-rust-word", 68, 9, "`move` is a keyword of Rust"),
    ("name-not-lower-case", 32, 10, "`Pool` cannot be the name of a region"),
    ("name-reserved", 9, 11, "`kernel` cannot be the name of a service"),
    ("no-service", 0, 0, "the policy has no service"),
    ("period-no-multiple", 12, 39, "the period of service `driver` is not a multiple of that of `manager`"),
    ("period-no-multiple-of-an-equal", 28, 39, "the period of service `store` is not a multiple of that of `manager`"),
    ("pin-by-no-store", 8, 14, "service `manager` reads no node, so it cannot pin a domain"),
    (
        "pin-node-absolute",
        8,
        30,
        "`node` must be the path of one node below the domain's own directory, like \"device/vif/0/backend-id\"",
    ),
    (
        "pin-node-pattern",
        8,
        30,
        "`node` must be the path of one node below the domain's own directory, like \"device/vif/0/backend-id\"",
    ),
    ("pin-node-twice", 12, 30, "two domains are pinned by `device/vif/0/backend-id`"),
    ("pin-node-unread", 8, 30, "no service may read `device/vif/0/backend-id`, so no domain would ever be pinned"),
    ("pin-node-writable", 79, 1, "service `driver` could choose the peer: it may write `device/vif/0/backend-id`"),
    (
        "pin-node-writable-by-number",
        80,
        1,
        "service `driver` could choose the peer: it may write `device/vif/0/backend-id`",
    ),
    (
        "pin-node-writable-by-star",
        80,
        1,
        "service `driver` could choose the peer: it may write `device/vif/0/backend-id`",
    ),
    ("pin-not-a-table", 8, 7, "`pin` must be a table"),
    ("pin-unknown-service", 8, 14, "there is no service `shop`"),
    ("pin-without-node", 8, 1, "`pin` has no `node`"),
    ("port-no-peer", 58, 8, "port `events` must have one of `peer` and `kind`"),
    ("port-two-peers", 58, 8, "port `events` must have one of `peer` and `kind`"),
    ("port-unknown-domain", 60, 8, "there is no domain `front`"),
    ("port-unknown-service", 59, 11, "there is no service `drive`"),
    ("port-xenstore-opens", 66, 10, "a port of kind \"xenstore\" has the right \"send\" only"),
    ("port-xenstore-twice", 65, 8, "there are two ports of kind \"xenstore\""),
    ("priority-is-text", 11, 12, "`priority` must be a whole number from 1 to 255"),
    ("priority-zero", 11, 12, "`priority` must be a whole number from 1 to 255"),
    ("program-not-a-crate", 10, 11, "`../driver` cannot be the name of a crate"),
    ("program-sha256-number", 11, 18, "`program-sha256` must be a string"),
    ("program-sha256-short", 11, 18, "`program-sha256` must be a SHA-256 of 64 lower-case hexadecimal digits"),
    ("program-sha256-upper", 11, 18, "`program-sha256` must be a SHA-256 of 64 lower-case hexadecimal digits"),
    ("queue-cycle", 60, 6, "requests form a cycle: driver → store → driver"),
    (
        "queue-depth-not-a-power",
        50,
        9,
        "`depth` must be a power of two, so that the position of a message is a mask of its number",
    ),
    ("queue-depth-too-large", 50, 9, "`depth` must be a whole number from 2 to 32768"),
    ("queue-serves-both-kinds-of-rules", 18, 11, "service `manager` serves both `store` and `grants`"),
    ("queue-to-itself", 60, 6, "requests form a cycle: manager → manager"),
    ("queue-twice-an-interface", 61, 13, "service `driver` is a client of two queues of interface `grants`"),
    ("queue-unknown-interface", 49, 13, "there is no interface `grant`"),
    ("queue-unknown-service", 48, 6, "there is no service `manger`"),
    ("refuse-weakness-empty", 5, 19, "`refuse-weakness` is empty"),
    ("refuse-weakness-twice", 5, 39, "`refuse-weakness` lists \"mds\" twice"),
    ("refuse-weakness-unknown", 5, 32, "there is no weakness `spectre`"),
    ("region-executable", 34, 18, "service `driver` cannot execute a region"),
    ("region-mapped-twice", 34, 32, "not TOML: duplicate key"),
    ("region-pages-zero", 33, 9, "`pages` must be a whole number from 1 to 65536"),
    ("region-stray-minimum", 34, 1, "region `pool` is not a share, but has `minimum`"),
    ("region-two-sources", 32, 10, "region `pool` must have one of `pages`, `share` and `kind`"),
    ("region-two-writers", 34, 40, "region `pool` is writable by two services, `driver` and `store`"),
    ("region-unknown-access", 34, 18, "`driver` cannot be \"write\""),
    ("region-unknown-kind", 37, 8, "`kind` cannot be \"framebuffer\""),
    ("region-unmapped", 34, 7, "`map` is empty"),
    ("region-without-source", 32, 10, "region `pool` must have one of `pages`, `share` and `kind`"),
    ("region-writable-and-executable", 34, 18, "service `driver` cannot execute a region"),
    ("repeated-right", 16, 17, "`clock` lists \"now\" twice"),
    ("restart-limit-negative", 14, 21, "`limit` must be a whole number from 0 to 65535"),
    ("restart-unknown-word", 14, 31, "`then` cannot be \"panic\""),
    ("right-not-a-word", 16, 10, "`clock` must be a list of words"),
    ("rights-not-a-list", 16, 9, "`clock` must be a list of words"),
    ("ring-kept", 39, 8, "region `store-ring` cannot have `keep`"),
    ("ring-twice", 47, 8, "there are two regions of kind \"xenstore-ring\""),
    ("section-not-a-table", 2, 11, "`domains` must be a table"),
    ("share-bounds-backwards", 42, 11, "the minimum is larger than the maximum"),
    ("share-without-maximum", 40, 10, "region `driver-heap` has no `maximum`"),
    ("stack-not-pages", 13, 9, "`stack` must be a size from \"4K\" to \"1M\" that is a multiple of 4K"),
    ("stack-too-large", 13, 9, "`stack` must be a size from \"4K\" to \"1M\" that is a multiple of 4K"),
    ("too-many-capabilities", 9, 11, "service `driver` holds 68 capabilities"),
    ("too-many-clients", 106, 6, "service `store` has 5 clients of interface `store`"),
    ("too-many-grant-pages", 88, 9, "the grants cover 5004 pages; an image can grant at most 4088"),
    ("too-many-grants-held", 106, 11, "service `manager` holds 9 grants"),
    ("too-many-paths", 86, 1, "service `store` enforces 34 paths"),
    ("too-many-pins", 27, 1, "the policy pins 5 domains; it can pin at most 4"),
    ("too-many-ports", 138, 8, "the policy has 17 ports; an image has at most 16"),
    ("too-many-regions", 0, 0, "the policy takes 97 regions; an image has at most 96"),
    ("too-many-services", 25, 11, "the policy has 17 services; an image has at most 16"),
    ("unknown-key", 12, 1, "service `driver` has no key `nice`"),
    ("unknown-map-of-cpu", 12, 46, "`cpu` has no key `share`"),
    ("unknown-right", 16, 17, "a clock has no right \"set\""),
    ("unknown-section", 3, 2, "a policy has no key `imgae`"),
    ("wrong-format", 1, 10, "`format` must be 2, the format that this compiler reads"),
    ("xenstore-path-empty-component", 78, 1, "`device//0` is not a XenStore path: a component is empty"),
    (
        "xenstore-path-odd-character",
        78,
        1,
        "`device/vif/../0` is not a XenStore path: a component is * (a number), {self}, or made of a-z, A-Z, 0-9, -, _ and @",
    ),
    (
        "xenstore-path-special-watch",
        78,
        1,
        "`@releaseDomain` is not a XenStore path: names that begin with @ are special watches of the daemon",
    ),
    (
        "xenstore-path-stars-inside",
        78,
        1,
        "`device/**/0` is not a XenStore path: ** is the last component of a path, or none",
    ),
    (
        "xenstore-path-too-long",
        78,
        1,
        "`aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa` is not a XenStore path: it has more than 96 bytes",
    ),
    ("xenstore-unknown-right", 78, 30, "a XenStore path has no right \"list\""),
    ("xenstore-unknown-service", 80, 11, "there is no service `nobody`"),
    ("xenstore-without-queue", 80, 11, "service `manager` cannot reach XenStore"),
];

fn folder() -> &'static Path {
    Path::new(concat!(env!("CARGO_MANIFEST_DIR"), "/tests/bad"))
}

fn refusal(name: &str) -> Report {
    match load(&folder().join(format!("{name}.toml"))) {
        Ok(_) => panic!("{name} was taken for a policy that holds"),
        Err(report) => report,
    }
}

#[test]
fn each_mistake_is_refused_at_its_place() {
    for (name, line, column, message) in MISTAKES {
        let found: Vec<_> = refusal(name).findings().map(|found| (found.line, found.column, found.message)).collect();
        assert_eq!(found, [(*line, *column, (*message).to_owned())], "{name}");
    }
}

#[test]
fn each_file_is_a_known_mistake() {
    let mut files: Vec<String> = std::fs::read_dir(folder())
        .unwrap()
        .map(|entry| entry.unwrap().path().file_stem().unwrap().to_string_lossy().into_owned())
        .collect();
    files.sort();
    let known: Vec<&str> = MISTAKES.iter().map(|(name, ..)| *name).collect();
    assert_eq!(files, known);
}

#[test]
fn without_the_mistake_the_policy_holds() {
    load(&folder().with_file_name("good.toml")).unwrap();
}

#[test]
fn a_report_shows_file_place_line_and_remedy() {
    let text = std::fs::read_to_string(folder().join("grant-wider-than-region.toml")).unwrap();
    let report = cloister_policy::parse("policy/mine.toml", &text).err().unwrap().to_string();
    let expected = "\
error: grant `pool-pages` covers 5 pages, and region `pool` has 4
  --> policy/mine.toml:72:9
   |
33 | pages = 4
   |         - the region's pages
...
72 | pages = 5
   |         ^ wider than the region
   |
   = help: write `pages = 4` or fewer

policy/mine.toml: 1 error";
    assert_eq!(report, expected);
}

#[test]
fn a_circle_of_requests_is_shown_whole() {
    let report = refusal("queue-cycle").to_string();
    for step in ["driver → store → driver", "queue `nodes`", "queue `back`"] {
        assert!(report.contains(step), "{report}");
    }
}

#[test]
fn every_mistake_of_a_file_is_reported_in_its_order() {
    let text = "format = 2\nimage = { name = \"Test\" }\n\n[services.a]\nprogram = 3\n\n[queues.q]\nfrom = \"a\"\nto = \"b\"\ninterface = \"x\"\ndepth = 8\n";
    let report = cloister_policy::parse("mine", text).err().unwrap();
    let found: Vec<_> = report.findings().map(|found| (found.line, found.message)).collect();
    let expected = [
        (2, "`Test` cannot be the name of an image"),
        (4, "service `a` has no `priority`"),
        (4, "service `a` has no `cpu`"),
        (4, "service `a` has no `stack`"),
        (4, "service `a` has no `restart`"),
        (5, "`program` must be a string"),
        (9, "there is no service `b`"),
        (10, "there is no interface `x`"),
    ];
    assert_eq!(found, expected.map(|(line, message)| (line, message.to_owned())));
}

/// For each kind of assertion, the lines of the rules that break it.
#[test]
fn a_broken_assertion_names_the_path() {
    let cases: [(&str, &[(usize, &str)]); 14] = [
        (
            "assertion-cannot-cause",
            &[(46, "driver asks manager"), (68, "manager may grant 4 pages of pool to backend")],
        ),
        (
            "assertion-cannot-cause-by-takeover",
            &[(46, "manager answers driver"), (52, "driver asks store"), (38, "store maps store-ring as read-write")],
        ),
        ("assertion-exclusive", &[(34, "store maps pool as read")]),
        ("assertion-exclusive-write", &[(34, "driver maps pool as read-write")]),
        ("assertion-at-most", &[(68, "manager may grant 4 pages of pool")]),
        ("assertion-at-most-processor", &[(9, "driver is a service")]),
        ("assertion-only", &[(46, "driver asks manager"), (68, "manager may grant 4 pages of pool")]),
        ("assertion-only-memory", &[(68, "manager may grant 4 pages of pool to backend as read-write")]),
        ("assertion-share-nothing", &[(34, "driver maps pool"), (34, "store maps pool")]),
        ("assertion-share-nothing-queue", &[(46, "driver asks manager")]),
        (
            "assertion-share-nothing-pin",
            &[(8, "store pins the domain of backend"), (69, "manager may grant 4 pages of pool to backend")],
        ),
        ("assertion-only-pin", &[(8, "store pins the domain of backend that device/vif/0/backend-id names")]),
        ("assertion-only-pin-missing", &[(58, "driver has an event channel to backend")]),
        (
            "assertion-cannot-cause-to-pin",
            &[
                (53, "driver asks store by interface store"),
                (8, "store pins the domain of backend that device/vif/0/backend-id names"),
            ],
        ),
    ];
    for (name, path) in cases {
        let found: Vec<_> = refusal(name).findings().flat_map(|finding| finding.related).collect();
        assert_eq!(found.len(), path.len(), "{name}: {found:?}");
        for (found, (line, says)) in found.iter().zip(path) {
            assert!(found.line == *line && found.says.starts_with(says), "{name}: {found:?}");
        }
    }
}

/// Characters that control a terminal, or reverse the text around them: raw, and as TOML escapes.
#[test]
fn an_invisible_character_is_refused_everywhere_and_never_printed() {
    let good = std::fs::read_to_string(folder().with_file_name("good.toml")).unwrap();
    let hidden = "\u{1b}\u{7f}\u{9b}\u{a0}\u{301}\u{5d0}\u{660}\u{2800}\u{202e}\u{2066}\u{200f}\u{200b}\u{3000}\u{3164}\u{fe0f}\u{feff}\u{fffc}";
    for c in hidden.chars() {
        let written = format!("\\u{:04x}", u32::from(c));
        let assertion = |why: &str| {
            format!("\n[[assert]]\nname = \"a\"\nwhy = \"{why}\"\nkind = \"at-most\"\nwhat = \"grants\"\nlimit = 3\n")
        };
        for text in [
            format!("# {c}\n{good}"),
            good.clone() + &assertion(&format!("x{c}x")),
            good.clone() + &assertion(&format!("x{written}x")),
            good.replace("\"test\"", &format!("\"te{written}st\"")),
            good.replace("[services.driver]", &format!("[services.\"driver{written}\"]")),
            good.replace("\"device/vif/0/**\"", &format!("\"device/{written}/0\"")),
            good.replace("[\"now\"]", &format!("[\"now\", \"x{written}\"]")),
            format!("{good}\n[assert{written}]\n"),
        ] {
            let report = cloister_policy::parse(&format!("file{c}.toml"), &text).err().expect("refused");
            let shown = report.to_string();
            // A control character in the text is no TOML, which the parser says.
            assert!(
                shown.contains("is not a character that a policy can contain") || shown.contains("not TOML"),
                "{shown}"
            );
            assert!(shown.chars().all(|c| cloister_policy::is_plain(c) || c == '\n'), "{shown:?}");
            assert!(report.findings().all(|found| found.message.chars().all(cloister_policy::is_plain)));
        }
    }
    let plain = good.replace("\"test\"", "\"test\" # größer, 中文\t");
    cloister_policy::parse("x", &plain).unwrap();
    cloister_policy::parse("x", &good.replace('\n', "\r\n")).unwrap();
}
