//! Policies with assertions that a reviewer made hold although they are false. Each stands for a
//! way over which somebody acts on others, or bytes leave.

/// A policy, and the start of each message with which it is refused.
pub struct Case {
    pub name: &'static str,
    pub text: String,
    #[allow(dead_code, reason = "another test compares the closure only")]
    pub refused: &'static [&'static str],
}

/// Returns the shipped policy without its assertions, with changes, each of which must fit, and
/// with more at its end.
fn shipped(changes: &[(&str, &str)], added: &str) -> String {
    let text = include_str!("../../default.toml").split("[[assert]]").next().unwrap();
    let changed = changes.iter().fold(text.to_owned(), |text, (from, to)| {
        assert!(text.contains(from), "{from}");
        text.replace(from, to)
    });
    changed + added
}

/// Returns a service of another program.
fn service(name: &str, held: &str) -> String {
    format!(
        "[services.{name}]\nprogram = \"my-{name}\"\npriority = 10\ncpu = {{ budget_us = 100, period_us = 10000 }}\n\
         stack = \"4K\"\nrestart = {{ limit = 0, then = \"stop-service\" }}\n{held}"
    )
}

/// Returns an assertion.
fn assert(name: &str, claim: &str) -> String {
    format!("[[assert]]\nname = \"{name}\"\nwhy = \"w\"\n{claim}\n")
}

fn cannot_cause(name: &str, from: &str, to: &str, rest: &str) -> String {
    assert(name, &format!("kind = \"cannot-cause\"\nfrom = \"{from}\"\nto = \"{to}\"\n{rest}"))
}

fn no_leak(name: &str, region: &str, to: &str, rest: &str) -> String {
    assert(name, &format!("kind = \"no-leak\"\nregions = [\"{region}\"]\nto = \"{to}\"\n{rest}"))
}

const VAULT: &str = "[regions.secret]\npages = 1\nmap = { vault = \"read-write\" }\n";

/// Returns every case.
pub fn cases() -> Vec<Case> {
    let mut cases = by_the_console();
    cases.extend(by_xenstore());
    cases.extend(by_messages());
    cases.extend(by_memory_and_grants());
    cases
}

fn by_the_console() -> Vec<Case> {
    let leaks = no_leak("a-toolstack", "secret", "toolstack", "takeovers = 15")
        + &no_leak("b-back-end", "secret", "netback", "takeovers = 15");
    let without_toolstack = no_leak("c-unless", "secret", "netback", "takeovers = 15\nunless = [\"toolstack\"]");
    vec![
        Case {
            name: "console-leak",
            text: shipped(&[], &(service("vault", "console = [\"write\"]\n") + VAULT + &leaks + &without_toolstack)),
            refused: &[
                "assertion `a-toolstack` does not hold: bytes of secret can reach toolstack",
                "assertion `b-back-end` does not hold: bytes of secret can reach netback",
            ],
        },
        Case {
            name: "refusal-leak",
            text: shipped(
                &[],
                &(service("vault", "")
                    + VAULT
                    + &leaks
                    + &cannot_cause("no-event", "vault", "EVTCHNOP_send", "takeovers = 15")),
            ),
            refused: &[
                "assertion `a-toolstack` does not hold: bytes of secret can reach toolstack",
                "assertion `b-back-end` does not hold: bytes of secret can reach netback",
                "assertion `no-event` does not hold: vault can have the kernel write lines about it to the console",
            ],
        },
    ]
}

fn by_xenstore() -> Vec<Case> {
    let ring = ("map = { xenstore = \"read-write\" }", "map = { xenstore = \"read-write\", spy = \"read\" }");
    let only = "kind = \"only\"\nwho = [\"control\", \"toolstack\", \"xenstore\", \"xenstore-daemon\"]\n\
                may = \"control/shutdown.OP\"\ndirectly = true";
    vec![
        Case {
            name: "unlisted-path",
            text: shipped(
                &[],
                &(cannot_cause("a", "xenstore", "memory/target.write", "takeovers = 15\nallow-vacuous = true")
                    + &cannot_cause("b", "toolstack", "memory/target.watch", "allow-vacuous = true")
                    + &cannot_cause("c", "xenstore-daemon", "memory/**.read", "allow-vacuous = true")
                    + &cannot_cause("d", "control", "memory/target.write", "allow-vacuous = true")
                    + &cannot_cause("e", "xenstore", "memory/target.write", "")),
            ),
            refused: &[
                "assertion `a` does not hold: xenstore can write any node of XenStore",
                "assertion `b` does not hold: toolstack can watch any node of XenStore",
                "assertion `c` does not hold: xenstore-daemon can read any node of XenStore",
                "assertion `e` does not hold: it says nothing: no rule of [xenstore] is about `memory/target`",
            ],
        },
        Case {
            name: "spy-ring",
            text: shipped(
                &[ring],
                &(service("spy", "power = [\"off\"]\n")
                    + &assert("read", &only.replace("OP", "read"))
                    + &assert("watch", &only.replace("OP", "watch"))
                    + &cannot_cause("drive", "control", "power.off", "")
                    + &cannot_cause("write", "spy", "control/shutdown.write", "unless = [\"netback\"]")),
            ),
            refused: &[
                "assertion `read` does not hold: spy can read control/shutdown",
                "assertion `watch` does not hold: spy can watch control/shutdown",
                "assertion `drive` does not hold: control can power the domain off",
            ],
        },
    ]
}

fn by_messages() -> Vec<Case> {
    let unknown = |program: &str| (format!("program = \"cloister-{program}\""), format!("program = \"my-{program}\""));
    let (control, grants) = (unknown("control"), unknown("grant-manager"));
    let app = "[queues.socket-app]\nfrom = \"app\"\nto = \"tcpip\"\ninterface = \"socket\"\ndepth = 16\n";
    let to_power =
        |name: &str, from: &str, unless: &str| cannot_cause(name, from, "power.off", &format!("unless = [{unless}]"));
    vec![
        Case {
            name: "mac-leak",
            text: shipped(
                &[],
                &(String::from("[regions.secret]\npages = 1\nmap = { xenstore = \"read-write\" }\n")
                    + &no_leak(
                        "not-to-tcpip",
                        "secret",
                        "tcpip",
                        "unless = [\"netback\", \"control\", \"toolstack\"]",
                    )
                    + &no_leak("not-to-grants", "secret", "grant-manager", "unless = [\"netback\", \"toolstack\"]")),
            ),
            refused: &["assertion `not-to-tcpip` does not hold: bytes of secret can reach tcpip"],
        },
        Case {
            name: "unknown-control",
            text: shipped(
                &[(&control.0, &control.1)],
                &(to_power("a", "netfront", "\"netback\", \"xenstore\", \"grant-manager\"")
                    + &to_power("b", "http", "\"netback\", \"xenstore\", \"netfront\"")),
            ),
            refused: &[
                "assertion `a` does not hold: netfront can power the domain off",
                "assertion `b` does not hold: http can power the domain off",
            ],
        },
        Case {
            name: "two-apps",
            text: shipped(
                &[],
                &(service("app", "power = [\"off\"]\n")
                    + app
                    + &to_power("a", "http", "\"netback\", \"control\", \"xenstore\", \"netfront\"")
                    + &to_power("b", "netfront", "\"netback\", \"control\", \"xenstore\"")),
            ),
            refused: &[
                "assertion `a` does not hold: http can power the domain off",
                "assertion `b` does not hold: netfront can power the domain off",
            ],
        },
        Case {
            name: "control-answers",
            text: shipped(
                &[(&control.0, &control.1)],
                &(service("app", "")
                    + "[queues.control-app]\nfrom = \"app\"\nto = \"tcpip\"\ninterface = \"control\"\ndepth = 8\n"
                    + &to_power("a", "app", "\"netback\", \"http\", \"xenstore\", \"netfront\"")),
            ),
            refused: &["assertion `a` does not hold: app can power the domain off"],
        },
        Case {
            name: "unknown-grants",
            text: shipped(
                &[(&grants.0, &grants.1)],
                &(cannot_cause("a", "control", "grant.issue", "unless = [\"netback\"]")
                    + &cannot_cause("b", "tcpip", "grant.issue", "unless = [\"netback\"]")),
            ),
            refused: &["assertion `a` does not hold: control can have", "assertion `b` does not hold: tcpip can have"],
        },
        Case {
            name: "silent-back-end",
            text: shipped(
                &[],
                &(cannot_cause("a", "http", "xenstore-events.send", "unless = [\"netback\"]")
                    + &cannot_cause("b", "http", "tx-events.close", "unless = [\"netback\"]")
                    + &cannot_cause("c", "http", "grant.end", "unless = [\"netback\"]")
                    + &cannot_cause("d", "http", "grant.issue", "unless = [\"netback\"]")),
            ),
            refused: &[
                "assertion `a` does not hold: http can send an event over xenstore-events",
                "assertion `b` does not hold: http can close the event channel tx-events",
                "assertion `c` does not hold: http can have the grants under",
            ],
        },
    ]
}

fn by_memory_and_grants() -> Vec<Case> {
    // A grant that its holder issues, and a channel that its owner can only close: the domain sees it.
    let bits = String::from("format = 2\n[image]\nname = \"x\"\n[domains.d]\nids = \"5\"\n")
        + &service("holder", "")
        + &service("writer", "")
        + &service("p", "power = [\"off\"]\n")
        + &service("closer", "")
        + "[regions.m]\npages = 1\nmap = { writer = \"read-write\", holder = \"read\" }\n\
           [grants.g]\nregion = \"m\"\npeer = \"d\"\naccess = \"read\"\npages = 1\nlifetime = \"session\"\n\
           held-by = \"holder\"\non-behalf-of = \"holder\"\n\
           [ports.pp]\nservice = \"p\"\npeer = \"d\"\nrights = [\"open\", \"send\", \"close\"]\n\
           [ports.cc]\nservice = \"closer\"\npeer = \"d\"\nrights = [\"close\"]\n"
        + &cannot_cause("closer", "closer", "power.off", "takeovers = 15")
        + &cannot_cause("holder", "holder", "power.off", "takeovers = 15");
    let rx = (
        "map = { tcpip = \"read\" }\n\n# Frames to",
        "map = { tcpip = \"read\", filter = \"read-write\" }\n\n# Frames to",
    );
    let tx = ("map = { tcpip = \"read-write\" }\n", "map = { tcpip = \"read-write\", filter = \"read\" }\n");
    vec![
        Case {
            name: "issue-is-a-bit",
            text: bits,
            refused: &[
                "assertion `closer` does not hold: closer can power the domain off",
                "assertion `holder` does not hold: holder can power the domain off",
            ],
        },
        Case {
            name: "issue-by-another",
            text: shipped(
                &[],
                &(service("p", "power = [\"off\"]\n")
                    + "[ports.pp]\nservice = \"p\"\npeer = \"netback\"\nrights = [\"open\"]\n"
                    + &cannot_cause("a", "grant-manager", "power.off", "unless = [\"netfront\", \"tcpip\"]")),
            ),
            refused: &["assertion `a` does not hold: grant-manager can power the domain off"],
        },
        Case {
            name: "rx-writer",
            text: shipped(
                &[rx],
                &(service("filter", "") + &cannot_cause("a", "filter", "socket.reply", "unless = [\"netback\"]")),
            ),
            refused: &["assertion `a` does not hold: filter can answer over socket"],
        },
        Case {
            name: "tx-reader",
            text: shipped(
                &[tx],
                &(service("filter", "power = [\"off\"]\n")
                    + &cannot_cause("a", "http", "power.off", "unless = [\"netback\", \"control\"]")),
            ),
            refused: &["assertion `a` does not hold: http can power the domain off"],
        },
    ]
}
