//! `check --warn`: rules that are allowed, but may not be what the author means.

use std::path::Path;
use std::process::{Command, Output};

use cloister_policy::analyse_text;

fn folder() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR"))
}

fn read(name: &str) -> String {
    std::fs::read_to_string(folder().join(name)).unwrap()
}

/// Returns kind and message of each warning of `good.toml` with these replacements.
fn warnings(changes: &[(&str, &str)]) -> Vec<(&'static str, String)> {
    let mut text = read("tests/good.toml");
    for (from, to) in changes {
        assert!(text.contains(from), "{from}");
        text = text.replacen(from, to, 1);
    }
    let policy = analyse_text("test.toml", &text).unwrap_or_else(|report| panic!("{report}"));
    policy.warnings().into_iter().map(|warning| (warning.kind, warning.message)).collect()
}

#[track_caller]
fn only(changes: &[(&str, &str)], kind: &str, says: &str) {
    let found = warnings(changes);
    assert!(found.len() == 1 && found[0].0 == kind && found[0].1.contains(says), "{found:?}");
}

#[test]
fn a_good_policy_has_no_warnings() {
    assert_eq!(warnings(&[]), []);
}

/// One domain under two names.
#[test]
fn domains_that_overlap() {
    let port = "[ports.events]\nservice = \"driver\"\npeer = \"backend\"";
    let with = |first: &str, second: &str| {
        let more = format!(
            "[domains.second]\n{second}\n\n[ports.more]\nservice = \"driver\"\npeer = \"second\"\nrights = [\"open\"]\n\n{port}"
        );
        warnings(&[(port, more.as_str()), ("ids = \"0\"", first)])
    };
    let kinds = |found: &[(&'static str, String)]| found.iter().map(|(kind, _)| *kind).collect::<Vec<_>>();
    let found = with("ids = \"7\"", "ids = \"7\"");
    assert_eq!(kinds(&found), ["overlapping-domains"]);
    assert!(found[0].1.contains("both contain domain 7"), "{found:?}");
    let found = with("ids = \"1-9\"", "ids = \"5-20\"");
    assert_eq!(kinds(&found), ["overlapping-domains", "any-domain", "any-domain"]);
    assert!(found[0].1.contains("both contain domains 5 to 9"), "{found:?}");
    assert_eq!(kinds(&with("ids = \"1\"", "ids = \"2\"")), Vec::<&str>::new());
    assert_eq!(kinds(&with("ids = \"1-4\"", "ids = \"5\"")), ["any-domain"]);
}

#[test]
fn a_peer_that_may_be_any_domain() {
    only(&[("ids = \"0\"", "ids = \"0-32751\"")], "any-domain", "`backend` may be any domain, and each time another");
    only(&[("ids = \"0\"", "ids = \"3-5\"")], "any-domain", "any of 3 domains");
    let pin = |ids: &str| format!("ids = \"{ids}\"\npin = {{ by = \"store\", node = \"device/vif/0/backend-id\" }}");
    let rights = ("[\"read\", \"write\", \"watch\"]", "[\"read\", \"watch\"]");
    only(&[("ids = \"0\"", &pin("0-32751")), rights], "any-domain", "`store` alone says which");
    assert_eq!(warnings(&[("ids = \"0\"", &pin("3-5")), rights]), []);
}

#[test]
fn nodes_without_end() {
    let state = "\"device/vif/0/state\" = [\"read\"";
    for path in ["device/vif/0/state/**", "device/vif/*/state", "/local/domain/*/x"] {
        let says = format!("`driver` may write any number of nodes by `{path}`");
        only(&[(state, &format!("\"{path}\" = [\"read\""))], "nodes-without-end", &says);
    }
    assert_eq!(warnings(&[(state, "\"/local/domain/{self}/x\" = [\"read\"")]), []);
}

#[test]
fn a_server_below_its_client() {
    let lower = [("cloister-manager\"\npriority = 60", "cloister-manager\"\npriority = 40")];
    only(
        &lower,
        "server-below-client",
        "the server `manager` (priority 40) comes after its client `driver` (priority 50)",
    );
    let same = [("cloister-manager\"\npriority = 60", "cloister-manager\"\npriority = 50")];
    assert_eq!(warnings(&same), []);
}

/// What the services before may use is subtracted from each period: docs/scheduling.md.
#[test]
fn budgets_that_starve() {
    let manager = "cloister-manager\"\npriority = 60\ncpu = { budget_us = 2000, period_us = 10000 }";
    let with = |cpu: &str| warnings(&[(manager, &format!("cloister-manager\"\npriority = 60\ncpu = {{ {cpu} }}"))]);
    let found = with("budget_us = 10000, period_us = 10000");
    assert_eq!(found.len(), 1, "{found:?}");
    assert!(found[0].1.starts_with("store and driver may get no time at all"), "{found:?}");
    assert!(found[0].1.ends_with("the budgets of all services are 140 % of the processor"), "{found:?}");
    // 7,000 of the 10,000 µs are used, and 2,000 more: 1,000 are left for the driver.
    let found = with("budget_us = 7000, period_us = 10000");
    assert!(
        found.len() == 1 && found[0].0 == "budget-short" && found[0].1.starts_with("driver may get less"),
        "{found:?}"
    );
    // A shorter period is counted as often as it fits.
    let found = with("budget_us = 700, period_us = 1000");
    assert!(found.len() == 1 && found[0].0 == "budget-short", "{found:?}");
    assert_eq!(with("budget_us = 600, period_us = 1000"), []);
}

/// The names that warn are those before the colon of the kernel's own lines, unless they are
/// reserved and so no names at all.
#[test]
fn names_that_forge_the_prefix_of_the_log() {
    let renamed = |name: &str| {
        let text = read("tests/good.toml")
            .replace("store = \"read", &format!("{name} = \"read"))
            .replace("services.store]", &format!("services.{name}]"));
        let text = text
            .replace("to = \"store\"", &format!("to = \"{name}\""))
            .replace("service = \"store\"", &format!("service = \"{name}\""));
        analyse_text("test.toml", &text).map(|policy| policy.warnings())
    };
    let sources = ["../kernel/core/src", "../kernel/image/src"];
    let mut prefixes = std::collections::BTreeSet::new();
    let line = regex::Regex::new(r#"(?:line|push|write|writeln)!?\([^"\n]*"([a-z]+): "#).unwrap();
    for folder in sources {
        let mut folders = vec![self::folder().join(folder)];
        while let Some(folder) = folders.pop() {
            for entry in std::fs::read_dir(folder).unwrap() {
                let path = entry.unwrap().path();
                if path.is_dir() {
                    folders.push(path);
                } else if path.extension().is_some_and(|extension| extension == "rs") {
                    let text = std::fs::read_to_string(path).unwrap();
                    prefixes.extend(line.captures_iter(&text).map(|found| found[1].to_owned()));
                }
            }
        }
    }
    // Of a refusal, the missing rule: in the middle of a line.
    prefixes.remove("none");
    assert!(["cloister", "fault", "refused", "use"].iter().all(|word| prefixes.contains(*word)), "{prefixes:?}");
    for prefix in &prefixes {
        match renamed(prefix) {
            Err(report) => assert!(report.to_string().contains("cannot be the name of a service"), "{report}"),
            Ok(found) => assert!(found.iter().any(|warning| warning.kind == "log-prefix"), "{prefix}"),
        }
    }
    for name in ["error", "panic", "verified", "linux"] {
        assert_eq!(renamed(name).unwrap()[0].kind, "log-prefix", "{name}");
    }
    assert!(renamed("users").unwrap().is_empty() && renamed("errors").unwrap().is_empty());
}

fn run(arguments: &[&str]) -> Output {
    Command::new(env!("CARGO_BIN_EXE_cloister-policy")).args(arguments).current_dir(folder()).output().unwrap()
}

/// Warnings are asked for, are on the page, and do not change the status.
#[test]
fn warnings_are_shown_where_they_are_asked_for() {
    let text = |output: &Output| String::from_utf8(output.stdout.clone()).unwrap();
    let quiet = run(&["check", "default.toml"]);
    assert!(quiet.status.success() && !text(&quiet).contains("warning"));
    let output = run(&["check", "--warn", "default.toml"]);
    assert!(output.status.success());
    let lines: Vec<String> = text(&output).lines().map(str::to_owned).collect();
    let of = |kind: &str| {
        lines.iter().filter(|line| line.contains(": warning: ") && line.ends_with(&format!("[{kind}]"))).count()
    };
    assert_eq!((of("starving"), of("budget-short")), (1, 1), "{lines:?}");
    let json = text(&run(&["check", "--warn", "default.toml", "--format", "json"]));
    let json: serde_json::Value = serde_json::from_str(&json).unwrap();
    let warnings = json["result"][0]["warnings"].as_array().unwrap();
    assert_eq!(warnings.len(), 2);
    let line = warnings[0]["line"].as_u64().unwrap() as usize;
    assert_eq!(read("default.toml").lines().nth(line - 1), Some("[services.tcpip]"));
    let page: serde_json::Value =
        serde_json::from_str(&text(&run(&["show", "default.toml", "--format", "json"]))).unwrap();
    let on_page: Vec<&str> =
        page["result"]["warnings"].as_array().unwrap().iter().map(|row| row["kind"].as_str().unwrap()).collect();
    assert_eq!(on_page, ["starving", "budget-short"]);
}

/// Each kind of warning has its row in the document.
#[test]
fn every_kind_is_documented() {
    let document = read("../docs/policy.md");
    let source = read("src/warn.rs");
    let kinds = regex::Regex::new(r#"\n\s*\(?"([a-z]+-[a-z-]+|starving)","#).unwrap();
    let kinds: std::collections::BTreeSet<String> =
        kinds.captures_iter(&source).map(|found| found[1].to_owned()).collect();
    let all = [
        "any-domain",
        "budget-short",
        "log-prefix",
        "nodes-without-end",
        "overlapping-domains",
        "server-below-client",
        "starving",
    ];
    for kind in all.into_iter().chain(kinds.iter().map(String::as_str)) {
        assert!(document.contains(&format!("| `{kind}` | ")), "{kind}");
    }
}
