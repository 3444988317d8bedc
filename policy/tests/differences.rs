//! What `diff` says about changes of the shipped policy that a reader must not misjudge.

use cloister_policy::{Change, Class, Difference, Sound, analyse_text, diff};

fn shipped() -> String {
    std::fs::read_to_string(concat!(env!("CARGO_MANIFEST_DIR"), "/default.toml")).unwrap()
}

fn sound(text: &str) -> Sound {
    analyse_text("test.toml", text).unwrap_or_else(|report| panic!("{report}"))
}

/// Compares the shipped policy with one in which each text is replaced once.
fn changed(changes: &[(&str, &str)]) -> Difference {
    let old = shipped();
    let mut new = old.clone();
    for (from, to) in changes {
        assert!(new.contains(from), "{from}");
        new = new.replacen(from, to, 1);
    }
    diff(&sound(&old), &sound(&new))
}

fn sentences(difference: &Difference, class: Class) -> Vec<String> {
    let of = difference.changes.iter().filter(|change| change.class == class);
    of.map(|change: &Change| change.sentence.clone()).collect()
}

/// A service that no longer stops the image leaves the others running without it.
#[test]
fn giving_up_to_stop_with_a_service_is_no_narrowing() {
    let difference = changed(&[("then = \"stop-image\"", "then = \"stop-service\"")]);
    assert_eq!(difference.class, Class::Incomparable);
    let more = sentences(&difference, Class::Widening);
    assert_eq!(more, ["the image now runs on without grant-manager when grant-manager has used up its restarts"]);
    assert_eq!(sentences(&difference, Class::Narrowing).len(), 1);
}

/// A queue of the same name with another server is another queue. What is said of the old one is
/// not said of the new one.
#[test]
fn a_moved_queue_has_no_false_witness() {
    let queue = "[queues.shutdown]\nfrom = \"control\"\nto = \"tcpip\"";
    let difference = changed(&[(queue, "[queues.shutdown]\nfrom = \"control\"\nto = \"netfront\"")]);
    assert_eq!(difference.class, Class::Incomparable);
    let change = difference
        .changes
        .iter()
        .find(|change| change.sentence.starts_with("control can no longer send up to 8 messages"))
        .unwrap();
    let witness = &change.witness;
    assert_eq!(witness.new, "there is no queue of the interface control from control to tcpip");
    assert_eq!((witness.new_question.as_deref(), witness.new_amount), (None, 0));
    assert_eq!(witness.old, "can control request shutdown? yes, 8 messages");
}

/// Who loses its place in the order leaves it to others.
#[test]
fn a_lower_priority_or_weight_is_a_gain_of_others() {
    let difference = changed(&[("priority = 70", "priority = 10")]);
    assert_eq!(difference.class, Class::Incomparable);
    let more = sentences(&difference, Class::Widening);
    let others = ["control", "http", "netfront", "tcpip", "xenstore"];
    assert_eq!(more, others.map(|name| format!("{name} now goes before grant-manager")));
    assert_eq!(
        sentences(&difference, Class::Narrowing),
        ["grant-manager now comes after control, http, netfront, tcpip and xenstore"]
    );
    // A number without a change of the order says nothing.
    let numbers =
        [("= 70", "= 255"), ("= 60", "= 9"), ("= 50", "= 8"), ("= 40", "= 7"), ("= 30", "= 6"), ("= 20", "= 5")];
    let numbers = numbers.map(|(from, to)| (format!("priority {from}"), format!("priority {to}")));
    let numbers: Vec<(&str, &str)> = numbers.iter().map(|(from, to)| (from.as_str(), to.as_str())).collect();
    assert_eq!(changed(&numbers).class, Class::Equivalent);
    let difference = changed(&[("share = 40", "share = 20")]);
    assert_eq!(difference.class, Class::Incomparable);
    let more = sentences(&difference, Class::Widening);
    assert!(
        more.iter().any(|says| says
            == "tcpip can now have 19.6 % of the remaining memory for stream-in; before, it could have 13.6 % of the remaining memory for stream-in"),
        "{more:?}"
    );
    let doubled = [
        ("share = 9", "share = 18"),
        ("share = 16", "share = 32"),
        ("share = 40", "share = 80"),
        ("share = 1\n", "share = 2\n"),
    ];
    assert_eq!(changed(&doubled).class, Class::Equivalent);
}

/// Without the grant manager, netfront decides alone when memory is granted.
#[test]
fn a_mediator_less_is_no_narrowing() {
    let text = shipped();
    let (start, end) = (text.find("[services.grant-manager]").unwrap(), text.find("# Speaks the XenStore").unwrap());
    let queue = "[queues.grants]\nfrom = \"netfront\"\nto = \"grant-manager\"\ninterface = \"grants\"\ndepth = 16\n";
    assert!(text.contains(queue));
    let new = format!("{}{}", &text[..start], &text[end..])
        .replace(queue, "")
        .replace("held-by = \"grant-manager\"", "held-by = \"netfront\"");
    // Assertions are compared apart, and name the grant manager.
    let new = new.split("\n[[assert]]").next().unwrap();
    let difference = diff(&sound(&text), &sound(new));
    assert_eq!(difference.class, Class::Incomparable);
    let more = sentences(&difference, Class::Widening);
    let says = "netfront can now have 2 pages granted under ring-pages without asking another service; before, by asking 1 service";
    assert!(more.iter().any(|sentence| sentence == says), "{more:?}");
    let back = diff(&sound(new), &sound(&text));
    let less = sentences(&back, Class::Narrowing);
    let says = "netfront can now only have 2 pages granted under ring-pages by asking 1 service; before, without asking another service";
    assert!(less.iter().any(|sentence| sentence == says), "{less:?}");
}

#[test]
fn other_words_of_an_author_are_shown() {
    let why = "why = \"a broken stack must not feed the back end descriptors of its own\"";
    let difference = changed(&[(why, "why = \"nothing\"")]);
    assert_eq!(difference.class, Class::Equivalent);
    let reworded = &difference.assertions.reworded;
    assert_eq!(
        (reworded.len(), reworded[0].name.as_str(), reworded[0].new.as_str()),
        (1, "rings-are-netfronts", "nothing")
    );
    let text = difference.to_string();
    assert!(text.contains("old: \"a broken stack must not") && text.contains("new: \"nothing\""), "{text}");
}

/// A policy with these assertions, and one region, one grant and two more services.
fn with(assertions: &[&str]) -> Sound {
    let good = std::fs::read_to_string(concat!(env!("CARGO_MANIFEST_DIR"), "/tests/good.toml")).unwrap();
    let each = assertions.iter().enumerate();
    let each = each.map(|(number, claim)| format!("\n[[assert]]\nname = \"a{number}\"\nwhy = \"w\"\n{claim}\n"));
    sound(&format!("{good}{}", each.collect::<String>()))
}

/// One claim follows from another, or does not.
#[test]
fn assertions_are_compared_by_what_follows_from_them() {
    let at_most =
        |what: &str, of: &str, limit: u32| format!("kind = \"at-most\"\nwhat = \"{what}\"\n{of}limit = {limit}");
    let only = |who: &str, may: &str| format!("kind = \"only\"\nwho = {who}\nmay = \"{may}\"");
    let flow = |to: &str, takeovers: u32| {
        format!("kind = \"no-flow\"\nfrom = \"store\"\nto = \"{to}\"\ntakeovers = {takeovers}")
    };
    let exclusive = |regions: &str, access: &str| {
        format!("kind = \"exclusive\"\nowner = \"driver\"\nregions = {regions}\naccess = \"{access}\"")
    };
    let apart = |between: &str| format!("kind = \"share-nothing\"\nbetween = {between}");
    let of = "service = \"driver\"\n";
    let cases = [
        (at_most("pages", "", 900), at_most("pages", "", 512)),
        (at_most("pages", of, 900), at_most("pages", "", 900)),
        (at_most("peer-writable-pages", "", 9), at_most("granted-pages", "", 9)),
        (only("[\"driver\", \"manager\"]", "grant.issue"), only("[\"manager\"]", "grant.issue")),
        (only("[\"driver\"]", "pool-pages.issue"), only("[\"driver\"]", "grant.issue")),
        (flow("grant.issue", 0), flow("grant.issue", 1)),
        (flow("pool-pages.issue", 1), flow("grant.issue", 1)),
        (exclusive("[\"pool\"]", "write"), exclusive("[\"pool\"]", "map")),
        (exclusive("[\"pool\"]", "map"), exclusive("[\"driver-heap\", \"pool\"]", "map")),
        (apart("[\"manager\", \"store\"]"), apart("[\"driver\", \"manager\", \"store\"]")),
    ];
    for (weak, strong) in &cases {
        let found = diff(&with(&[weak]), &with(&[strong])).assertions;
        let counts = [found.dropped.len(), found.added.len(), found.stronger.len(), found.weaker.len()];
        assert_eq!(counts, [0, 0, 1, 0], "{weak}\n{strong}\n{found:?}");
        let found = diff(&with(&[strong]), &with(&[weak])).assertions;
        let counts = [found.dropped.len(), found.added.len(), found.stronger.len(), found.weaker.len()];
        assert_eq!(counts, [1, 0, 0, 1], "{strong}\n{weak}\n{found:?}");
    }
    // Neither follows from the other.
    for (one, other) in [
        (at_most("pages", "", 900), at_most("ports", "", 900)),
        (at_most("pages", of, 900), at_most("pages", "service = \"store\"\n", 900)),
        (at_most("pages", of, 900), at_most("pages", "", 901)),
        (at_most("restarts", of, 900), at_most("pages", "", 9)),
        (only("[\"driver\"]", "grant.issue"), only("[\"manager\"]", "grant.end")),
        (only("[\"driver\"]", "pool-pages.issue"), only("[\"manager\"]", "grant.issue")),
        (flow("pool-pages.issue", 2), flow("grant.issue", 1)),
        (exclusive("[\"pool\"]", "map"), exclusive("[\"driver-heap\"]", "map")),
        (apart("[\"manager\", \"store\"]"), apart("[\"driver\", \"store\"]")),
    ] {
        let found = diff(&with(&[&one]), &with(&[&other])).assertions;
        let counts = [found.dropped.len(), found.added.len(), found.stronger.len(), found.weaker.len()];
        assert_eq!(counts, [1, 1, 0, 0], "{one}\n{other}\n{found:?}");
    }
    // An assertion that another one already makes is neither less nor more.
    let (strong, weak) = (at_most("pages", "", 512), at_most("pages", "", 900));
    let found = diff(&with(&[&strong, &weak]), &with(&[&strong])).assertions;
    assert!(found.dropped.is_empty() && found.added.is_empty(), "{found:?}");
}

#[test]
fn a_policy_that_fails_its_own_assertions_is_named() {
    let difference = changed(&[("access = \"read\"\npages = 128", "access = \"read-write\"\npages = 128")]);
    let names: Vec<&str> = difference.assertions.broken.iter().map(|broken| broken.name.as_str()).collect();
    assert!(names.contains(&"sent-frames-are-tcpips"), "{names:?}");
    let text = difference.to_string();
    assert!(text.contains("the new policy fails its own assertion sent-frames-are-tcpips: "), "{text}");
    assert!(changed(&[]).assertions.broken.is_empty());
}

/// Each sentence is one of a subject that can or cannot do something, not a list of fields.
#[test]
fn changes_read_as_sentences() {
    for (from, to, says) in [
        ("clock = [\"now\", \"wall\"]", "clock = [\"now\"]", "http can no longer read the wall clock"),
        (
            "budget_us = 7000",
            "budget_us = 5000",
            "http can now only run for up to 50.0 % of the time; before, it could run for up to 70.0 % of the time",
        ),
        (
            "depth = 1024",
            "depth = 2048",
            "http can now send up to 2048 messages of the interface socket to tcpip; before, it could send up to 1024 messages of the interface socket to tcpip",
        ),
        (
            "access = \"read\"\npages = 128",
            "access = \"read-write\"\npages = 128",
            "domain:0 can now write tx-pool (128 pages)",
        ),
    ] {
        let difference = changed(&[(from, to)]);
        assert!(difference.changes.iter().any(|change| change.sentence == says), "{says}\n{difference}");
        let heads = [
            "widening: the new policy allows more, and nothing less\n",
            "narrowing: the new policy allows less, and nothing more\n",
        ];
        assert!(heads.iter().any(|head| difference.to_string().starts_with(head)), "{difference}");
    }
}
