//! Questions to the policy that ships, and their answers.

use cloister_policy::{Class, Sound, analyse, analyse_text, diff};

fn sound(text: &str) -> Sound {
    analyse_text("policy.toml", text).unwrap_or_else(|report| panic!("{report}"))
}

fn shipped() -> Sound {
    analyse(&std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("default.toml")).unwrap()
}

/// Returns the answer to a question about the shipped policy: for each path, its rules.
fn paths(question: &str) -> Vec<(String, Vec<String>)> {
    let explanation = shipped().explain(question).unwrap();
    let found = explanation.answers.into_iter().filter(|answer| answer.holds);
    found.map(|answer| (answer.subject, answer.path.into_iter().map(|step| step.rule).collect())).collect()
}

#[test]
fn a_path_is_given_rule_by_rule() {
    let found = paths("can netfront reach ring-pages.issue");
    assert_eq!(found, [("netfront".into(), vec!["queues.grants".into(), "grants.ring-pages".into()])]);
    let found = paths("can http send tx-events");
    assert_eq!(found, [("http".into(), vec!["queues.socket".into(), "queues.net".into(), "ports.tx-events".into()])]);
    // Answers and paths give authority too, and each step names both sides.
    let found = shipped().explain("can xenstore reach power.off").unwrap().to_string();
    assert!(found.contains("queues.control-store: xenstore answers control by interface store"), "{found}");
    let found = shipped().explain("can netback reach ring-pages.issue").unwrap().to_string();
    let step = "netback may write /local/domain/*/backend/vif/{self}/0/feature-gso-tcpv4, which netfront reads";
    assert!(found.contains(step), "{found}");
    let found = shipped().explain("can http reach stream-in.write with 1 takeover").unwrap().to_string();
    assert!(found.contains("or:") && found.contains("http writes stream-out, which tcpip maps"), "{found}");
    // Whoever can pass the back end a bit can have it write what it can write.
    let found = paths("who can write rx-pool");
    assert_eq!(found.len(), 9);
    let itself: Vec<&str> =
        found.iter().filter(|(_, path)| path.len() == 1).map(|(subject, _)| subject.as_str()).collect();
    assert_eq!(itself, ["netback"]);
    let found: Vec<String> = paths("who can reach SCHEDOP_shutdown").into_iter().map(|(subject, _)| subject).collect();
    assert_eq!(found.iter().filter(|subject| *subject == "control").count(), 3);
    // By the answers of xenstore, control ends the domain.
    assert_eq!(found.iter().filter(|subject| *subject == "xenstore").count(), 3);
    let text = std::fs::read_to_string(concat!(env!("CARGO_MANIFEST_DIR"), "/default.toml")).unwrap();
    for answer in shipped().explain("what can netfront do").unwrap().answers {
        for step in answer.path {
            let line = text.lines().nth(step.line - 1).unwrap();
            let name = step.rule.split(['.', '"']).rfind(|part| !part.is_empty()).unwrap();
            assert!(line.contains(name), "{} is said to be in line {}: {line}", step.rule, step.line);
        }
    }
}

#[test]
fn where_there_is_no_path_the_nearest_takeover_is_named() {
    let explanation = shipped().explain("can http reach netback.pin?").unwrap();
    assert!(!explanation.holds);
    assert_eq!(explanation.answers[0].takeovers, ["xenstore"]);
    assert!(explanation.to_string().contains("the closure contains no path"));
    let explanation = shipped().explain("who can issue no-such").unwrap_err();
    assert!(explanation.to_string().contains("there is no object `no-such`"));
}

#[test]
fn a_path_of_xenstore_is_reached_by_a_rule_above_it() {
    for (question, holds) in [
        ("can control write path:control/shutdown", true),
        ("can netfront read /local/domain/3/backend/vif/{self}/0/state", true),
        ("can netfront write /local/domain/3/backend/vif/{self}/0/state", false),
        ("can netfront read /local/domain/{self}/device/vif/0/mac", true),
        ("can netfront write device/vif/0/state", true),
        ("can netfront write device/vif/0/backend", false),
        ("can netfront write device/vif/0", false),
        ("can netfront read device/vif/0", false),
        ("can netfront write device/vif/0/state/x", false),
        ("can netfront write device/vif/0/state/**", false),
        ("can control write path:control", false),
        ("can http read path:control", false),
    ] {
        assert_eq!(shipped().explain(question).unwrap().holds, holds, "{question}");
    }
}

/// The other forms of a question, and their status.
#[test]
fn questions_may_be_denied_and_may_allow_takeovers() {
    for (question, holds, says) in [
        ("can http not reach netback.pin", true, "Yes: the closure contains no path"),
        ("can http not reach netback.pin with 1 takeover", false, "No, it can:"),
        ("can netfront not read rings", false, "No, it can:"),
        ("can http reach netback.pin with 1 takeover", true, "by taking over xenstore"),
        ("what could http reach with 1 takeover", true, "netback.pin: http can choose"),
        ("who can reach netback.pin with 1 takeover", true, "netback can choose"),
        ("can site leak to netback", true, "bytes of site can reach netback"),
        ("why does assertion http-opens-no-memory hold", true, "it would take 2 takeovers: tcpip, then netfront"),
        ("why does granted-pages-bounded hold", true, "granted-pages: 258, and the bound is 258"),
        ("list subjects", true, "xenstore-daemon\n"),
        ("list operations", true, "netback.pin\n"),
        ("list objects", true, "stream-in\n"),
        ("list assertions", true, "peer-by-xenstore\n"),
    ] {
        let found = shipped().explain(question).unwrap();
        assert_eq!(found.holds, holds, "{question}\n{found}");
        assert!(found.to_string().contains(says), "{question}\n{found}");
    }
    for (question, says) in [
        ("why does peer-by-xenstor hold", "did you mean `peer-by-xenstore`?"),
        ("can htp reach power.off", "did you mean `http`?"),
        ("can http read stream-iin", "did you mean `stream-in`?"),
        ("list things", "there is no list `things`"),
        ("can nothing leak to netback", "there is no region `nothing`"),
    ] {
        assert!(shipped().explain(question).unwrap_err().to_string().contains(says), "{question}");
    }
}

/// The matrix has every subject and sensitive operation, with the numbers of the questions.
#[test]
fn the_matrix_has_the_least_takeovers() {
    let policy = shipped();
    let matrix = policy.matrix();
    assert_eq!(matrix.subjects.len(), 9);
    let cell = |operation: &str, subject: &str| {
        let column = matrix.subjects.iter().position(|name| name == subject).unwrap();
        matrix.rows.iter().find(|row| row.operation == operation).unwrap().takeovers[column]
    };
    for (operation, subject, least) in [
        ("power.off", "control", Some(0)),
        ("power.off", "xenstore", Some(0)),
        ("power.off", "http", Some(1)),
        ("netback.pin", "netback", Some(1)),
        ("ring-pages.issue", "netback", Some(0)),
        ("xenstore-ring.write", "http", Some(1)),
    ] {
        assert_eq!(cell(operation, subject), least, "{subject} {operation}");
    }
}

#[test]
fn text_that_is_no_question_is_answered_with_the_forms() {
    for question in ["", "why", "can http", "can http fly site", "what can nobody do", "can http reach", "who can read"]
    {
        let problem = shipped().explain(question).unwrap_err().to_string();
        assert!(problem.contains("the forms are") || problem.contains("there is no"), "{question}: {problem}");
    }
}

#[test]
fn the_largest_hardening_and_its_undoing_are_classed() {
    let text = std::fs::read_to_string(concat!(env!("CARGO_MANIFEST_DIR"), "/default.toml")).unwrap();
    let changes = [
        ("access = \"read\"\npages = 128", "access = \"read-write\"\npages = 128", Class::Widening),
        ("clock = [\"now\", \"wall\"]", "clock = [\"now\"]", Class::Narrowing),
        ("ids = \"0\"", "ids = \"0-32751\"", Class::Widening),
        ("share = 9", "share = 10", Class::Incomparable),
        ("share = 40", "share = 41", Class::Incomparable),
        ("priority = 20", "priority = 21", Class::Equivalent),
        ("priority = 20", "priority = 35", Class::Incomparable),
        // Of equals, the first name goes before: control before http, but netfront before xenstore.
        ("priority = 20", "priority = 30", Class::Equivalent),
        ("priority = 60", "priority = 50", Class::Incomparable),
        // Then netfront and the grant manager choose the peer, and xenstore only by making them grant.
        ("pin = { by = \"xenstore\", node = \"device/vif/0/backend-id\" }\n", "", Class::Incomparable),
        ("\"control/shutdown\" = [", "\"control/**\" = [", Class::Widening),
        ("\"control/shutdown\" = [", "\"control\" = [", Class::Incomparable),
        ("\"control/shutdown\" = [", "\"control/shutdown/**\" = [", Class::Incomparable),
        ("\"error/device/vif/0/error\" = [\"write\"]", "\"error/**\" = [\"write\"]", Class::Widening),
        ("depth = 1024", "depth = 512", Class::Narrowing),
        ("limit = 0", "limit = 1", Class::Widening),
        ("then = \"stop-image\"", "then = \"stop-service\"", Class::Incomparable),
        ("budget_us = 7000, period_us = 10000", "budget_us = 8000, period_us = 20000", Class::Incomparable),
        ("program = \"cloister-http\"", "program = \"my-server\"", Class::Incomparable),
        ("name = \"cloister\"", "name = \"other\"", Class::Equivalent),
        ("name = \"cloister\"", "name = \"cloister\"\nisolation = \"standard\"", Class::Equivalent),
        ("name = \"cloister\"", "name = \"cloister\"\nisolation = \"strict\"", Class::Narrowing),
        ("name = \"cloister\"", "name = \"cloister\"\nrefuse-weakness = [\"mds\"]", Class::Narrowing),
    ];
    for (from, to, class) in changes {
        assert!(text.contains(from), "{from}");
        let changed = sound(&text.replacen(from, to, 1));
        let difference = diff(&sound(&text), &changed);
        assert_eq!(difference.class, class, "{from} to {to}\n{difference}");
    }
    let demanding =
        |keys: &str| sound(&text.replacen("name = \"cloister\"", &format!("name = \"cloister\"\n{keys}"), 1));
    let strict = demanding("isolation = \"strict\"\nrefuse-weakness = [\"mds\", \"meltdown\"]");
    for (keys, class, witness) in [
        ("refuse-weakness = [\"mds\", \"meltdown\"]", Class::Widening, "can tcpip share predictors"),
        (
            "isolation = \"strict\"\nrefuse-weakness = [\"mds\"]",
            Class::Widening,
            "can toolstack start-with weakness:meltdown",
        ),
        ("isolation = \"strict\"", Class::Widening, "can toolstack start-with weakness:mds"),
        (
            "refuse-weakness = [\"taa\", \"mds\", \"meltdown\"]",
            Class::Incomparable,
            "can toolstack start-with weakness:taa",
        ),
    ] {
        let weaker = demanding(keys);
        let difference = diff(&strict, &weaker);
        assert_eq!(difference.class, class, "{keys}\n{difference}");
        assert!(difference.to_string().contains(witness), "{keys}\n{difference}");
        assert_ne!(strict.explain(witness).unwrap().holds, weaker.explain(witness).unwrap().holds, "{witness}");
    }
    let without = text.split("\n[[assert]]").next().unwrap();
    let difference = diff(&sound(&text), &sound(without));
    assert_eq!((difference.class, difference.assertions_dropped.len()), (Class::Equivalent, 20));
}
