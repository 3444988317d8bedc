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

/// A right to everything below a node that becomes one to a node is narrower, and is named as it was.
#[test]
fn a_path_that_loses_what_is_below_is_narrower() {
    let node = "\"device/vif/0/state\" = [\"read\", \"write\"]\n";
    let below = format!("{node}\"device/vif/0/state/**\" = [\"write\"]\n");
    let (old, new) = (sound(&shipped().replacen(node, &below, 1)), sound(&shipped()));
    let difference = diff(&old, &new);
    assert_eq!(difference.class, Class::Narrowing);
    let less = sentences(&difference, Class::Narrowing);
    assert!(
        less.iter().any(|says| says == "netfront can no longer write everything below device/vif/0/state"),
        "{less:?}"
    );
    assert_eq!(diff(&new, &old).class, Class::Widening);
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
    let says = "netfront can now have 2 pages granted under ring-pages by itself; before, through 1 other";
    assert!(more.iter().any(|sentence| sentence == says), "{more:?}");
    let back = diff(&sound(new), &sound(&text));
    let less = sentences(&back, Class::Narrowing);
    let says = "netfront can now only have 2 pages granted under ring-pages through 1 other; before, by itself";
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
        format!("kind = \"cannot-cause\"\nfrom = \"store\"\nto = \"{to}\"\ntakeovers = {takeovers}")
    };
    let leak = |regions: &str, takeovers: u32| {
        format!("kind = \"no-leak\"\nregions = {regions}\nto = \"store\"\ntakeovers = {takeovers}")
    };
    let exclusive = |regions: &str, access: &str| {
        format!("kind = \"exclusive\"\nowner = \"driver\"\nregions = {regions}\naccess = \"{access}\"")
    };
    let apart = |between: &str| format!("kind = \"share-nothing\"\nbetween = {between}");
    let of = "service = \"driver\"\n";
    let unless = "\nunless = [\"manager\"]";
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
        (flow("grant.issue", 1) + unless, flow("grant.issue", 1)),
        (flow("grant.issue", 1) + "\nallow-vacuous = true", flow("grant.issue", 1)),
        (leak("[\"pool\"]", 0), leak("[\"pool\"]", 1)),
        (leak("[\"pool\"]", 1), leak("[\"driver-heap\", \"pool\"]", 1)),
        (leak("[\"pool\"]", 1) + unless, leak("[\"pool\"]", 1)),
        (exclusive("[\"pool\"]", "map") + "\nbesides = [\"manager\"]", exclusive("[\"pool\"]", "map")),
        (only("[\"driver\"]", "grant.issue") + "\ndirectly = true", only("[\"driver\"]", "grant.issue")),
        (only("[\"driver\"]", "grant.issue"), only("[\"driver\"]", "grant.issue") + "\ntakeovers = 1"),
        (only("[\"driver\"]", "grant.issue") + unless, only("[\"driver\"]", "grant.issue")),
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
        (flow("grant.issue", 2) + unless, flow("grant.issue", 1)),
        (flow("grant.issue", 2) + "\nallow-vacuous = true", flow("grant.issue", 1)),
        (leak("[\"pool\"]", 2), leak("[\"driver-heap\"]", 2)),
        (leak("[\"pool\"]", 2) + unless, leak("[\"pool\"]", 1)),
        (exclusive("[\"pool\"]", "map") + "\nbesides = [\"manager\"]", exclusive("[\"pool\"]", "write")),
        (only("[\"driver\"]", "grant.issue") + "\ndirectly = true", only("[\"driver\"]", "grant.issue") + unless),
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

/// Two services of equal priority, by their names and programs.
fn equals(names: [&str; 2]) -> Sound {
    let service = |(name, program): (&str, &str)| {
        format!(
            "[services.{name}]\nprogram = \"{program}\"\npriority = 50\nstack = \"4K\"\n\
             cpu = {{ budget_us = 9000, period_us = 10000 }}\nrestart = {{ limit = 0, then = \"stop-image\" }}\n"
        )
    };
    let [first, second] = [(names[0], "guard"), (names[1], "plain")].map(service);
    sound(&format!("format = 2\nimage = {{ name = \"x\" }}\n{first}{second}"))
}

/// Of equal priorities, the first name goes before: of two busy services with 9 of 10 ms each, the
/// first has 9 ms and the second 1 ms.
#[test]
fn a_new_name_that_changes_the_order_of_equals_is_no_equivalence() {
    let difference = diff(&equals(["a", "b"]), &equals(["c", "b"]));
    assert_eq!(difference.class, Class::Incomparable, "{difference}");
    assert_eq!(sentences(&difference, Class::Widening), ["b now goes before c"]);
    assert_eq!(sentences(&difference, Class::Narrowing), ["c now comes after b"]);
    let witness = &difference.changes[0].witness;
    assert_eq!(witness.old, "a of priority 50 goes before b of priority 50");
    assert_eq!(witness.new, "b of priority 50 goes before c of priority 50");
    // The programs exchange their names, and so their places.
    assert_eq!(diff(&equals(["a", "b"]), &equals(["b", "a"])).class, Class::Incomparable);
    // A new name at the same place.
    assert_eq!(diff(&equals(["a", "c"]), &equals(["b", "d"])).class, Class::Equivalent);
}

/// Ports and grants of one entry of `[domains]` have one peer at a time. With a second entry of the
/// same ids, the peer of the grants may be another domain than that of the ports.
#[test]
fn another_pin_for_the_same_ids_is_no_equivalence() {
    let old = shipped().replace("ids = \"0\"", "ids = \"1-3\"");
    assert_ne!(old, shipped());
    let entry = |node: &str| {
        format!("[domains.other]\nids = \"1-3\"\npin = {{ by = \"xenstore\", node = \"{node}\" }}\n\n[domains.netback]")
    };
    let grants = old.find("[grants.").unwrap();
    let (before, after) = old.split_at(grants);
    let split = format!("{before}{}", after.replacen("peer = \"netback\"", "peer = \"other\"", 1));
    let split = |node: &str| analyse_text("test.toml", &split.replacen("[domains.netback]", &entry(node), 1));
    // No node pins two entries: what has the same pin has the same peer.
    assert!(split("device/vif/0/backend-id").is_err());
    let old = sound(&old);
    let difference = diff(&old, &split("device/vif/0/mac").unwrap_or_else(|report| panic!("{report}")));
    assert_eq!(difference.class, Class::Incomparable, "{difference}");
    let says = " is now the domain that xenstore pins by device/vif/0/mac";
    assert!(sentences(&difference, Class::Widening).iter().any(|sentence| sentence.ends_with(says)), "{difference}");
    // An entry with another name, and nothing else, is the same.
    let renamed = shipped().replace("ids = \"0\"", "ids = \"1-3\"").replace("netback", "backend");
    assert_eq!(diff(&old, &sound(&renamed)).class, Class::Equivalent);
}
