//! Policies whose assertions say, to a reader, what is not so. Each is refused, for the reason.

use cloister_policy::{analyse_text, load, parse};
use std::path::Path;

fn hole(name: &str) -> String {
    let folder = Path::new(concat!(env!("CARGO_MANIFEST_DIR"), "/tests/holes"));
    std::fs::read_to_string(folder.join(format!("{name}.toml"))).unwrap()
}

/// Returns the messages with which a policy is refused.
fn findings(text: &str) -> Vec<String> {
    parse("hole.toml", text)
        .err()
        .map(|report| report.findings().map(|found| found.message).collect())
        .unwrap_or_default()
}

/// Each file, and the start of each message.
const HOLES: &[(&str, &[&str])] = &[
    (
        "confidentiality",
        &[
            "assertion `secret-stays` does not hold: web can read secret (1 page)",
            "assertion `secret-not-by-messages` does not hold: bytes of secret can reach d",
        ],
    ),
    (
        "domain-as-relay",
        &[
            "assertion `a-never-reaches-power` does not hold: a can power the domain off",
            "assertion `apart` does not hold: a and b both share with the domain d",
        ],
    ),
    (
        "domain-id-of-no-entry",
        &[
            "assertion `driver-domain-cannot-wake` does not hold: it says nothing: no entry of [domains] has the id of `domain:1000`: `d` has 1-100",
        ],
    ),
    ("domain-id-reserved", &["no domain can have the id 40000: the last one is 32751"]),
    (
        "exclusive-ignores-domain",
        &[
            "assertion `nobody-but-t-writes-rx` does not hold: nf may grant 1 page of rx to d as read-write when t asks",
            "assertion `nf-only-writes-rx` does not hold: nf may grant 1 page of rx to d as read-write when t asks",
        ],
    ),
    ("grant-of-anothers-private-region", &["grant `g-grant` opens region `secret`, which is not for `a`"]),
    ("operation-of-nothing", &["a program has no operation `write`; it has execute"]),
    ("overlapping-domains", &["assertion `only-a-writes-r-besides-any` does not hold: trusted can write r (1 page)"]),
    (
        "path-parent",
        &[
            "assertion `a-writes-nothing-of-device` does not hold: a can write device/vif/0",
            "assertion `a-writes-nothing-of-tree` does not hold: a can write /local/domain/*/data",
            "assertion `a-w-slash` does not hold: a can write /local/domain/*/data",
        ],
    ),
    (
        "power-by-xenstore-reply",
        &[
            "assertion `evil-cannot-power-off` does not hold: evil can power the domain off",
            "assertion `xs-cannot` does not hold: xs can power the domain off",
            "assertion `only-control` does not hold: evil can power the domain off",
        ],
    ),
    ("program-mistyped", &["there is no program `cloister-htttp`"]),
    (
        "program-nowhere",
        &[
            "assertion `untrusted-program-not-run` does not hold: it says nothing: no service runs `cloister-ftp`; did you mean `cloister-ftpd`?",
        ],
    ),
    ("program-without-operation", &["a program has no operation `write`; it has execute"]),
    (
        "socket-relay",
        &[
            "assertion `app-cannot-reach-network` does not hold: app can send an event over ev",
            "assertion `only-tls` does not hold: app can send an event over ev",
        ],
    ),
];

#[test]
fn each_hole_is_refused_for_its_reason() {
    for (name, expected) in HOLES {
        let found = findings(&hole(name));
        assert_eq!(found.len(), expected.len(), "{name}: {found:?}");
        for (found, expected) in found.iter().zip(*expected) {
            assert!(found.starts_with(expected), "{name}: {found}");
        }
    }
    let files = std::fs::read_dir(concat!(env!("CARGO_MANIFEST_DIR"), "/tests/holes")).unwrap().count();
    assert_eq!(files, HOLES.len(), "each file is in the list");
}

/// The text with changes, each of which must fit.
fn changed(name: &str, changes: &[(&str, &str)]) -> String {
    changes.iter().fold(hole(name), |text, (from, to)| {
        assert!(text.contains(from), "{name}: {from}");
        text.replace(from, to)
    })
}

/// Without the way that the hole was about, the same assertions hold: they are not refused for
/// being there.
#[test]
fn without_the_way_the_assertions_hold() {
    for (name, changes) in [
        (
            "power-by-xenstore-reply",
            &[
                ("[queues.s]\nfrom = \"control\"", "[queues.s]\nfrom = \"other\""),
                ("[xenstore.control]", "[xenstore.other]"),
                ("[regions.xenstore-ring]", OTHER),
            ][..],
        ),
        (
            "domain-as-relay",
            &[
                ("[domains.d]\nids = \"1\"", "[domains.d]\nids = \"1\"\n[domains.e]\nids = \"2\""),
                ("service = \"b\"\npeer = \"d\"", "service = \"b\"\npeer = \"e\""),
                ("region = \"rb\"\npeer = \"d\"", "region = \"rb\"\npeer = \"e\""),
            ],
        ),
        (
            "socket-relay",
            &[
                ("[queues.s2]\nfrom = \"tls\"\nto = \"tcp\"", "[queues.s2]\nfrom = \"tcp\"\nto = \"nf\""),
                ("who = [\"tls\", \"tcp\", \"nf\"]", "who = [\"tls\", \"tcp\", \"nf\", \"d\"]"),
            ],
        ),
        (
            "path-parent",
            &[
                ("program = \"p\"", "program = \"cloister-xenstore\""),
                ("\"device/vif/0\" = [\"write\"]", "\"device/vif/0\" = [\"read\"]"),
                ("\"/local/domain/*/data\" = [\"write\"]", "\"/local/domain/*/data\" = [\"watch\"]"),
            ],
        ),
        ("overlapping-domains", &[("ids = \"0-32751\"", "ids = \"6-32751\"")]),
        ("program-nowhere", &[("cloister-ftp.execute\"", "cloister-ftp.execute\"\nallow-vacuous = true")]),
        ("domain-id-of-no-entry", &[("takeovers = 15", "takeovers = 15\nallow-vacuous = true")]),
        ("program-mistyped", &[("cloister-htttp", "cloister-http")]),
    ] {
        let text = changed(name, changes);
        let report = parse("closed.toml", &text).err().map(|report| report.to_string());
        assert!(report.is_none(), "{name}: {}", report.unwrap());
    }
}

/// A service that nobody asserts anything about.
const OTHER: &str = "[services.other]\nprogram = \"q\"\npriority = 5\ncpu = { budget_us = 1000, period_us = 10000 }\nstack = \"4K\"\nrestart = { limit = 0, then = \"stop-image\" }\n[regions.xenstore-ring]";

/// A program that the catalogue does not know passes on whatever it gets, by any interface and in
/// both directions; a known one only what its interface says.
#[test]
fn an_unknown_program_relays_everything() {
    for interface in ["control", "grants", "net", "socket", "store"] {
        for (from, to) in [("app", "relay"), ("relay", "app")] {
            let text = format!(
                "format = 2\n[image]\nname = \"x\"\n{}{}[queues.q]\nfrom = \"{from}\"\nto = \"{to}\"\ninterface = \"{interface}\"\ndepth = 8\n\
                 [[assert]]\nname = \"a\"\nwhy = \"w\"\nkind = \"cannot-cause\"\nfrom = \"app\"\nto = \"power.off\"\n",
                service("app", "app", 1, ""),
                service("relay", "relay", 2, "power = [\"off\"]\n"),
            );
            assert_eq!(findings(&text), ["assertion `a` does not hold: app can power the domain off"], "{interface}");
        }
    }
    let known = |program: &str, interface: &str| {
        format!(
            "format = 2\n[image]\nname = \"x\"\n{}{}[queues.q]\nfrom = \"app\"\nto = \"relay\"\ninterface = \"{interface}\"\ndepth = 8\n\
             [[assert]]\nname = \"a\"\nwhy = \"w\"\nkind = \"cannot-cause\"\nfrom = \"app\"\nto = \"power.off\"\n",
            service("app", "app", 1, ""),
            service("relay", program, 2, "power = [\"off\"]\n"),
        )
    };
    assert!(findings(&known("cloister-tcpip", "socket")).is_empty());
    // tcpip has no client of `store`: this is another program under its name.
    assert_eq!(findings(&known("cloister-tcpip", "store")).len(), 1);
}

fn service(name: &str, program: &str, priority: u8, held: &str) -> String {
    format!(
        "[services.{name}]\nprogram = \"{program}\"\npriority = {priority}\ncpu = {{ budget_us = 1, period_us = 1000 }}\n\
         stack = \"4K\"\nrestart = {{ limit = 0, then = \"stop-image\" }}\n{held}"
    )
}

/// For each kind of common thing, two services that have it and one word that takes it away.
#[test]
fn sharing_is_seen_in_each_of_its_forms() {
    let base = |middle: &str| {
        format!(
            "format = 2\n[image]\nname = \"x\"\n{}{}{}{middle}[[assert]]\nname = \"apart\"\nwhy = \"w\"\nkind = \"share-nothing\"\nbetween = [\"a\", \"b\"]\n",
            service("a", "a", 1, ""),
            service("b", "b", 1, ""),
            service("c", "c", 1, ""),
        )
    };
    let queue = |name: &str, from: &str, to: &str, interface: &str| {
        format!("[queues.{name}]\nfrom = \"{from}\"\nto = \"{to}\"\ninterface = \"{interface}\"\ndepth = 2\n")
    };
    let server = queue("one", "a", "c", "socket") + &queue("two", "b", "c", "net");
    let client = queue("one", "c", "a", "socket") + &queue("two", "c", "b", "net");
    let between = queue("one", "a", "c", "socket") + &queue("two", "c", "b", "net");
    let store = queue("one", "a", "c", "store");
    let port = |service: &str, peer: &str| {
        format!("[ports.p-{service}]\nservice = \"{service}\"\npeer = \"{peer}\"\nrights = [\"open\"]\n")
    };
    let domains = |ids: &str| format!("[domains.d]\nids = \"1-4\"\n[domains.e]\nids = \"{ids}\"\n");
    for (middle, says) in [
        (server, Some("a and b both ask c")),
        (client, Some("a and b both serve c")),
        (between, None),
        (store, None),
        (domains("4-9") + &port("a", "d") + &port("b", "e"), Some("a and b both share with the domain d")),
        (domains("5-9") + &port("a", "d") + &port("b", "e"), None),
    ] {
        let found = findings(&base(&middle));
        let expected: Vec<String> =
            says.map(|says| format!("assertion `apart` does not hold: {says}")).into_iter().collect();
        assert_eq!(found, expected, "{middle}");
    }
}

/// Every kind of assertion, about nothing: refused, unless it says so itself.
#[test]
fn an_assertion_that_says_nothing_does_not_hold() {
    let base = std::fs::read_to_string(concat!(env!("CARGO_MANIFEST_DIR"), "/tests/good.toml")).unwrap();
    for (claim, reason) in [
        (
            "kind = \"cannot-cause\"\nfrom = \"domain:7\"\nto = \"pool.write\"",
            "no entry of [domains] has the id of `domain:7`: `backend` has 0",
        ),
        (
            "kind = \"cannot-cause\"\nfrom = \"driver\"\nto = \"clock.wall\"\nunless = [\"domain:7\"]",
            "no entry of [domains]",
        ),
        (
            "kind = \"cannot-cause\"\nfrom = \"manager\"\nto = \"program:cloister-storr.execute\"",
            "no service runs `cloister-storr`; did you mean `cloister-store`?",
        ),
        (
            "kind = \"cannot-cause\"\nfrom = \"manager\"\nto = \"path:devise/vif/0/**.write\"",
            "no rule of [xenstore] is about `devise/vif/0/**`; did you mean `device/vif/0/**`?",
        ),
        (
            "kind = \"only\"\nwho = [\"driver\", \"manager\", \"store\", \"backend\", \"toolstack\", \"xenstore-daemon\"]\nmay = \"power.off\"",
            "`who` and `unless` name every subject",
        ),
        ("kind = \"no-leak\"\nregions = [\"driver-heap\"]\nto = \"domain:7\"", "no entry of [domains]"),
        (
            "kind = \"exclusive\"\nowner = \"manager\"\nregions = [\"driver-heap\"]\naccess = \"map\"\nbesides = [\"driver\"]",
            "`manager` does not map `driver-heap` itself",
        ),
        (
            "kind = \"exclusive\"\nowner = \"driver\"\nregions = [\"driver-heap\"]\naccess = \"map\"\nbesides = [\"domain:7\"]",
            "no entry of [domains]",
        ),
        ("kind = \"at-most\"\nwhat = \"grants\"\nlimit = 16", "no image has more than 16"),
        ("kind = \"at-most\"\nwhat = \"cpu-percent\"\nservice = \"driver\"\nlimit = 100", "no image has more than 100"),
        (
            "kind = \"at-most\"\nwhat = \"restarts\"\nservice = \"driver\"\nlimit = 65535",
            "no image has more than 65535",
        ),
    ] {
        let text = format!("{base}\n[[assert]]\nname = \"empty\"\nwhy = \"w\"\n{claim}\n");
        let found = findings(&text);
        assert_eq!(found.len(), 1, "{claim}: {found:?}");
        assert!(
            found[0].starts_with(&format!("assertion `empty` does not hold: it says nothing: {reason}")),
            "{}",
            found[0]
        );
        // Who has the ring reaches also the nodes that no rule names.
        let any: &[&str] = if claim.contains("path:") {
            &["assertion `empty` does not hold: manager can write any node of XenStore"]
        } else {
            &[]
        };
        assert_eq!(findings(&format!("{text}allow-vacuous = true\n")), any, "{claim}");
    }
}

#[test]
fn the_old_name_of_a_kind_is_an_error_that_says_the_new_one() {
    let text = hole("socket-relay").replace("\"cannot-cause\"", "\"no-flow\"");
    assert_eq!(findings(&text), ["the kind `no-flow` is now called `cannot-cause`"]);
}

/// What one claims of another's help, and of takeovers, in `only`.
#[test]
fn only_counts_takeovers_and_help() {
    let shipped = std::fs::read_to_string(concat!(env!("CARGO_MANIFEST_DIR"), "/default.toml")).unwrap();
    let holds = |claim: &str| {
        let text = format!("{shipped}\n[[assert]]\nname = \"added\"\nwhy = \"w\"\nkind = \"only\"\n{claim}\n");
        findings(&text)
    };
    let who = "who = [\"control\", \"toolstack\", \"xenstore\", \"xenstore-daemon\"]\nmay = \"power.off\"";
    assert!(holds(who).is_empty());
    let found = holds(&format!("{who}\ntakeovers = 1"));
    assert!(found[0].contains("grant-manager can power the domain off by taking over xenstore"), "{found:?}");
    assert!(holds("who = [\"control\"]\nmay = \"power.off\"\ndirectly = true").is_empty());
    assert_eq!(holds("who = [\"control\"]\nmay = \"power.off\"").len(), 1);
    assert_eq!(holds(&format!("{who}\ndirectly = true\ntakeovers = 1")).len(), 1);
}

/// The secret of a program leaves by everything that carries bytes; a known program's other
/// messages take a takeover.
#[test]
fn bytes_are_followed_through_messages_and_memory() {
    let shipped = analyse_text(
        "default.toml",
        &std::fs::read_to_string(concat!(env!("CARGO_MANIFEST_DIR"), "/default.toml")).unwrap(),
    )
    .unwrap();
    for (question, holds, takeovers) in [
        ("can http-heap leak to netback", true, &[][..]),
        ("can http-heap leak to grant-manager", false, &["netfront"]),
        ("can http-heap leak to grant-manager with 1 takeover", true, &["netfront"]),
        ("can rings leak to http", true, &[]),
        ("can xenstore-ring leak to toolstack", true, &[]),
    ] {
        let found = shipped.explain(question).unwrap();
        assert_eq!(
            (found.holds, &found.answers[0].takeovers[..]),
            (holds, &takeovers.iter().map(|name| (*name).to_owned()).collect::<Vec<_>>()[..]),
            "{question}: {found}"
        );
    }
}

#[test]
fn the_shipped_policy_still_holds() {
    load(&Path::new(env!("CARGO_MANIFEST_DIR")).join("default.toml")).unwrap();
}
