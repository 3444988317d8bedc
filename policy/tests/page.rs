//! The page to sign: what it says of assertions, its sums and addresses, and its form on paper.

mod common;

use std::path::Path;
use std::process::{Command, Output};

use cloister_caps::tables::Tables;
use cloister_policy::{About, ShowFormat, Sound, analyse_text, parse};
use regex::Regex;
use serde_json::Value;
use sha2::{Digest, Sha256};

const FORMS: [&str; 4] = ["text", "markdown", "html", "json"];

fn folder() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR"))
}

fn shipped() -> String {
    std::fs::read_to_string(folder().join("default.toml")).unwrap()
}

fn sound(text: &str) -> Sound {
    analyse_text("test.toml", text).unwrap_or_else(|report| panic!("{report}"))
}

fn run(arguments: &[&str], epoch: Option<&str>) -> Output {
    let mut command = Command::new(env!("CARGO_BIN_EXE_cloister-policy"));
    command.args(arguments).current_dir(folder()).env_remove("SOURCE_DATE_EPOCH");
    if let Some(epoch) = epoch {
        command.env("SOURCE_DATE_EPOCH", epoch);
    }
    command.output().unwrap()
}

fn stdout(output: &Output) -> String {
    String::from_utf8(output.stdout.clone()).unwrap()
}

fn page(policy: &Sound) -> Value {
    serde_json::to_value(policy.page(&About::default())).unwrap()
}

/// A policy with this assertion about `driver`, `manager` and `store`.
fn asserting(why: &str, claim: &str) -> Sound {
    let good = std::fs::read_to_string(folder().join("tests/good.toml")).unwrap();
    sound(&format!("{good}\n[[assert]]\nname = \"a\"\nwhy = \"{why}\"\n{claim}\n"))
}

/// Each kind of claim is said by the tool, in words that follow from the rule.
#[test]
fn the_page_says_what_is_claimed() {
    let flow = |takeovers: u32| {
        format!("kind = \"cannot-cause\"\nfrom = \"store\"\nto = \"pool-pages.issue\"\ntakeovers = {takeovers}")
    };
    let leak = |takeovers: u32| {
        format!("kind = \"no-leak\"\nregions = [\"driver-heap\", \"pool\"]\nto = \"store\"\ntakeovers = {takeovers}")
    };
    let at_most = |what: &str, of: &str| format!("kind = \"at-most\"\nwhat = \"{what}\"\n{of}limit = 1");
    let only = |may: &str| format!("kind = \"only\"\nwho = [\"driver\", \"manager\"]\nmay = \"{may}\"");
    let exclusive = |access: &str| {
        format!(
            "kind = \"exclusive\"\nowner = \"driver\"\nregions = [\"driver-heap\", \"pool\"]\naccess = \"{access}\""
        )
    };
    let of = "service = \"driver\"\n";
    for (claim, sentence) in [
        (
            flow(0),
            "store cannot have memory granted under pool-pages, itself or through others; taking over services is not considered.",
        ),
        (
            flow(1),
            "store cannot have memory granted under pool-pages, itself or through others, even if it takes over 1 service.",
        ),
        (
            flow(2),
            "store cannot have memory granted under pool-pages, itself or through others, even if it takes over up to 2 services.",
        ),
        (
            only("grant.issue"),
            "Of all subjects, inside and outside the image, only driver and manager can have memory granted under any grant, themselves or through others; taking over services is not considered.",
        ),
        (
            only("device/vif/0/state.write"),
            "Of all subjects, inside and outside the image, only driver and manager can write the XenStore path device/vif/0/state, themselves or through others; taking over services is not considered.",
        ),
        (
            only("EVTCHNOP_send"),
            "Of all subjects, inside and outside the image, only driver and manager can cause the hypercall EVTCHNOP_send, themselves or through others; taking over services is not considered.",
        ),
        (exclusive("map"), "Nobody but driver maps driver-heap or pool, inside or outside the image."),
        (exclusive("write"), "Nobody but driver writes driver-heap or pool, inside or outside the image."),
        (
            exclusive("map") + "\nbesides = [\"manager\"]",
            "Nobody but driver and manager maps driver-heap or pool, inside or outside the image.",
        ),
        (
            flow(1) + "\nunless = [\"driver\", \"manager\"]",
            "Without the help of driver or manager, store cannot have memory granted under pool-pages, itself or through others, even if it takes over 1 service.",
        ),
        (
            only("grant.issue") + "\ntakeovers = 2\nunless = [\"store\"]",
            "Without the help of store, of all subjects, inside and outside the image, only driver and manager can have memory granted under any grant, themselves or through others, even if another takes over up to 2 services.",
        ),
        (
            only("grant.issue") + "\ndirectly = true",
            "Of all subjects, inside and outside the image, only driver and manager can have memory granted under any grant themselves; who can through others is not considered.",
        ),
        (
            leak(0),
            "No bytes of driver-heap or pool can get to store by memory, paths or messages; taking over services is not considered.",
        ),
        (
            leak(2) + "\nunless = [\"manager\"]\nallow-vacuous = true",
            "Without the help of manager, no bytes of driver-heap or pool can get to store by memory, paths or messages, even if up to 2 services are taken over. It may be about something that the policy does not have.",
        ),
        (at_most("grants", ""), "The policy has at most 1 grant rule for the image."),
        (at_most("granted-pages", ""), "Other domains may use at most 1 page of the image."),
        (at_most("peer-writable-pages", of), "Other domains may write at most 1 page of driver."),
        (at_most("cpu-percent", of), "The budgets of driver are at most 1 % of one processor."),
        (at_most("restarts", of), "The kernel restarts driver at most 1 time after a fault."),
        (
            "kind = \"share-nothing\"\nbetween = [\"manager\", \"store\"]".into(),
            "No two of manager and store have a region, a queue, a pin, a server, a client, a peer or a path in common.",
        ),
    ] {
        let policy = asserting("a threat", &claim);
        assert_eq!(page(&policy)["assertions"][0]["sentence"], sentence, "{claim}");
        assert!(policy.show(ShowFormat::Text, &About::default()).contains(sentence));
        let html = policy.show(ShowFormat::Html, &About::default());
        assert!(html.contains(&format!("<div class=\"claim\">{sentence}</div>")), "{claim}");
    }
}

/// The author's words are marked as such, wherever they are, and cannot be taken for the verdict.
#[test]
fn the_authors_words_are_marked() {
    let lie = "no other domain may ever read or write the keys <b>holds</b> | [x](y) `z` **FAILS** & _u_";
    let policy = asserting(lie, "kind = \"at-most\"\nwhat = \"ports\"\nlimit = 9");
    let about = About::default();
    let text = policy.show(ShowFormat::Text, &about);
    let said =
        |page: &str, before: &str| page.matches("no other domain may ever").count() == page.matches(before).count();
    assert!(said(&text, "the author says, and nothing checks: \"no other domain may ever"), "{text}");
    let markdown = policy.show(ShowFormat::Markdown, &about);
    assert!(said(&markdown, "the author says, and nothing checks: \"no other domain may ever"), "{markdown}");
    assert!(!markdown.contains("<b>") && !markdown.contains("[x]") && !markdown.contains(" **FAILS**"), "{markdown}");
    let html = policy.show(ShowFormat::Html, &about);
    assert!(said(&html, "<div class=\"said\">the author says: “no other domain may ever"), "{html}");
    assert!(html.contains("keys &lt;b&gt;holds&lt;/b&gt; | [x](y)") && !html.contains("<b&") && !html.contains("<b>"));
    assert!(text.contains("There are at most 9 event channels for the image."));
}

/// The paths that were considered are on the page, with their rules.
#[test]
fn the_page_says_what_was_considered() {
    let found = page(&sound(&shipped()));
    let of = |name: &str| {
        let all = found["assertions"].as_array().unwrap();
        all.iter().find(|row| row["name"] == name).unwrap_or_else(|| panic!("{name}")).clone()
    };
    let row = of("channels-by-netfront");
    assert_eq!(row["considered"], "every subject that can do it itself: 2 paths");
    let rules: Vec<&str> =
        row["paths"].as_array().unwrap().iter().map(|path| path["steps"][0]["rule"].as_str().unwrap()).collect();
    assert_eq!(rules, ["ports.rx-events", "ports.tx-events"]);
    let row = of("http-opens-no-memory");
    let says = row["paths"][0]["says"].as_str().unwrap();
    assert!(says == "http can have 128 pages granted under rx-pages, by taking over tcpip, then netfront", "{says}");
    let row = of("payload-is-tcpips");
    let steps = row["paths"][0]["steps"].as_array().unwrap();
    assert!(steps.iter().any(|step| step["rule"].as_str().unwrap().starts_with("grants.")), "{steps:?}");
}

/// The matrix says what `explain` says to the question.
#[test]
fn the_matrix_is_what_explain_answers() {
    let policy = sound(&shipped());
    let found = page(&policy);
    let rows = found["takeovers"].as_array().unwrap();
    assert!(rows.len() > 20 && rows[0].as_object().unwrap().len() == 10, "{rows:?}");
    for row in rows {
        let operation = row["operation"].as_str().unwrap();
        // A question about a path is about those above it, too.
        if operation.contains('/') || operation.starts_with("path:") {
            continue;
        }
        for (subject, cell) in row.as_object().unwrap() {
            if subject == "operation" {
                continue;
            }
            let answer = policy.explain(&format!("can {subject} reach {operation}")).unwrap();
            let expected = match (answer.holds, answer.answers[0].takeovers.len()) {
                (true, _) => "0".to_owned(),
                (false, 0) => "–".to_owned(),
                (false, count) => count.to_string(),
            };
            assert_eq!(*cell, expected, "{subject} {operation}");
        }
    }
    let cell = |subject: &str, operation: &str| {
        rows.iter().find(|row| row["operation"] == operation).unwrap()[subject].as_str().unwrap().to_owned()
    };
    assert_eq!(cell("netfront", "ring-pages.issue"), "0");
    assert_eq!(cell("control", "power.off"), "0");
    assert_eq!(cell("http", "power.off"), "1");
    assert_eq!(cell("netback", "netback.pin"), "1");
}

/// Memory of queues and addresses are those of the tables that the kernel reads.
#[test]
fn queues_and_addresses_are_those_of_the_tables() {
    let text = shipped();
    let blob = parse("default.toml", &text).unwrap().tables().unwrap();
    let tables = Tables::parse(&blob).unwrap();
    let found = page(&sound(&text));
    let pages_of = |queue: &str| -> u32 {
        let own = tables.regions().iter().filter(|region| {
            let name = tables.name(region.name);
            [".requests", ".replies"].iter().any(|way| name.starts_with(&format!("{queue}{way}")))
        });
        own.map(|region| region.amount).sum()
    };
    let queues = found["queues"].as_array().unwrap();
    assert_eq!(queues.len(), 6);
    for queue in queues {
        let (name, memory) = (queue["queue"].as_str().unwrap(), queue["memory"].as_str().unwrap());
        assert_eq!(memory, format!("{} pages", pages_of(name)), "{name}");
    }
    let mut expected: Vec<(String, String, String)> = tables
        .mappings()
        .iter()
        .map(|mapping| {
            let service = tables.service_name(mapping.service).to_owned();
            let region = tables.name(tables.region(mapping.region).name).to_owned();
            (service, region, format!("{:#x}", mapping.address))
        })
        .collect();
    let word = |row: &Value, key: &str| row[key].as_str().unwrap().to_owned();
    let rows = found["addresses"].as_array().unwrap().iter().filter(|row| row["what"] != "its program");
    let mut shown: Vec<(String, String, String)> =
        rows.map(|row| (word(row, "service"), word(row, "what"), word(row, "from"))).collect();
    expected.sort();
    shown.sort();
    assert_eq!(shown, expected);
    let sum = |what: &str| {
        let rows = found["sums"].as_array().unwrap();
        rows.iter().find(|row| row["what"] == what).unwrap()["amount"].as_str().unwrap().to_owned()
    };
    assert_eq!(sum("budgets of the services"), "280.0 % of one processor");
    assert!(sum("pages that other domains may use").starts_with("258 pages"));
    let queue_pages: u32 = queues.iter().map(|queue| pages_of(queue["queue"].as_str().unwrap())).sum();
    assert!(sum("queues").starts_with(&format!("{queue_pages} pages")), "{}", sum("queues"));
    // Nothing has addresses in an image that there cannot be.
    let large = std::fs::read_to_string(folder().join("tests/bad/too-many-services.toml")).unwrap();
    assert_eq!(page(&sound(&large))["addresses"].as_array().unwrap().len(), 0);
}

#[test]
fn the_page_is_the_same_for_the_same_date() {
    for form in FORMS {
        let with = |epoch| stdout(&run(&["show", "default.toml", "--format", form], Some(epoch)));
        assert!(with("951782400").contains("2000"), "{form}");
        assert_eq!(with("951782400"), with("951782401"), "{form}");
        assert_ne!(with("951782400"), with("951868800"), "{form}");
        let given = stdout(&run(&["show", "default.toml", "--format", form, "--date", "2000-02-29"], None));
        assert_eq!(given, with("951782400"), "{form}");
    }
    let text = stdout(&run(&["show", "default.toml"], Some("951782400")));
    assert!(text.contains(concat!("made by          cloister-policy ", env!("CARGO_PKG_VERSION"))), "{text}");
    assert!(text.contains("\ndate             2000-02-29\n") && text.contains("image SHA-256    not given"), "{text}");
    for date in ["2000-2-29", "2000-13-01", "2000-01-32", "today", "2000-02-29-1", "２000-02-29"] {
        assert_eq!(run(&["show", "default.toml", "--date", date], None).status.code(), Some(2), "{date}");
    }
    assert_eq!(run(&["show", "default.toml"], Some("yesterday")).status.code(), Some(2));
}

#[test]
fn the_hashes_of_an_image_are_on_the_page_if_it_is_the_policys() {
    let place = tempfile::tempdir().unwrap();
    let path = |name: &str| place.path().join(name).to_str().unwrap().to_owned();
    let image = common::image::image();
    std::fs::write(path("image.elf"), &image).unwrap();
    std::fs::write(path("release.toml"), "a manifest").unwrap();
    let hash = |bytes: &[u8]| cloister_policy::hexadecimal(&Sha256::digest(bytes));
    let tables = cloister_policy::verify::hashes(&image).unwrap().tables;
    let arguments = ["show", "tests/good.toml", "--image", &path("image.elf"), "--release", &path("release.toml")];
    for form in FORMS {
        let output = run(&[&arguments[..], &["--format", form]].concat(), None);
        assert_eq!(output.status.code(), Some(0), "{form}");
        for hash in [hash(&image), hash(b"a manifest"), cloister_policy::hexadecimal(&tables)] {
            assert!(stdout(&output).contains(&hash), "{form} {hash}");
        }
    }
    // An image of another policy, or a changed one, is not put on a page.
    let mut broken = image;
    broken[0x1100] ^= 1;
    std::fs::write(path("broken.elf"), broken).unwrap();
    for (policy, image, status) in [
        ("default.toml", "image.elf", 1),
        ("tests/good.toml", "broken.elf", 1),
        ("tests/good.toml", "release.toml", 2),
        ("tests/good.toml", "none.elf", 2),
    ] {
        let output = run(&["show", policy, "--image", &path(image)], None);
        assert_eq!(output.status.code(), Some(status), "{policy} {image}");
        assert!(stdout(&output).is_empty() && !output.stderr.is_empty());
    }
}

/// On paper, heads of tables are repeated, and no letter is smaller than 7 pt.
#[test]
fn the_page_can_be_read_on_paper() {
    let html = sound(&shipped()).show(ShowFormat::Html, &About::default());
    let body = html.split("</style>").nth(1).unwrap();
    let with_head = body.split("<table>").skip(1);
    assert!(with_head.clone().count() > 10);
    for table in with_head {
        assert!(table.trim_start().starts_with("<thead><tr><th>") && table.contains("</th></tr></thead>"), "{table}");
    }
    assert!(html.contains("thead { display: table-header-group; }"));
    let print = html.split("@media print").nth(1).unwrap().split("</style>").next().unwrap();
    let sizes: Vec<f64> = Regex::new(r"font-size: ([0-9.]+)pt")
        .unwrap()
        .captures_iter(print)
        .map(|found| found[1].parse().unwrap())
        .collect();
    assert!(sizes.len() >= 4 && sizes.iter().all(|size| *size >= 7.0), "{sizes:?}");
    // The graph is as wide as a page in landscape: 297 mm less its margins, in points.
    assert!(
        html.contains("@page graph { size: A4 landscape; margin: 10mm; }") && print.contains(".graph { page: graph;")
    );
    let svg = sound(&shipped()).graph().svg();
    let width: f64 = Regex::new(r#"viewBox="0 0 ([0-9.]+) "#).unwrap().captures(&svg).unwrap()[1].parse().unwrap();
    let points = (297.0 - 20.0) / 25.4 * 72.0;
    for size in Regex::new(r#"font-size="([0-9.]+)""#).unwrap().captures_iter(&svg) {
        let size: f64 = size[1].parse().unwrap();
        assert!(size * points / width >= 7.0, "{size} of {width}");
    }
}

/// A rectangle: left, top, right, bottom.
type Area = [f64; 4];

fn numbers(text: &str) -> Vec<f64> {
    Regex::new(r"-?[0-9]+\.?[0-9]*").unwrap().find_iter(text).map(|found| found.as_str().parse().unwrap()).collect()
}

/// Returns the areas of the coloured texts, which are the labels of edges.
fn labels(svg: &str) -> Vec<(String, Area)> {
    let label = Regex::new(
        r##"<text x="([0-9.]+)" y="([0-9.]+)" font-size="13" text-anchor="middle" fill="#(?:b3261e|1f5fbf)">([^<]*)</text>"##,
    )
    .unwrap();
    let area = |found: regex::Captures<'_>| {
        let (x, y): (f64, f64) = (found[1].parse().unwrap(), found[2].parse().unwrap());
        let half = found[3].len() as f64 * 13.0 * 0.5 / 2.0;
        (found[3].to_owned(), [x - half, y - 9.5, x + half, y + 2.0])
    };
    label.captures_iter(svg).map(area).collect()
}

/// No label lies on a line, on a box, or on another label.
#[test]
fn labels_of_the_graph_are_off_the_lines() {
    let svg = sound(&shipped()).graph().svg();
    let body = svg.split("</defs>").nth(1).unwrap().split("memory across the edge").next().unwrap();
    let labels = labels(body);
    assert!(labels.len() >= 14, "{labels:?}");
    let inside = |area: &Area, x: f64, y: f64| area[0] < x && x < area[2] && area[1] < y && y < area[3];
    let paths: Vec<Vec<f64>> = Regex::new(r#"<path d="(M[^"]+)" fill="none""#)
        .unwrap()
        .captures_iter(body)
        .map(|path| numbers(&path[1]))
        .collect();
    assert!(paths.len() > 15);
    for path in &paths {
        let mut start = (path[0], path[1]);
        for part in path[2..].chunks_exact(6) {
            for step in 0..=200 {
                let (t, u) = (f64::from(step) / 200.0, 1.0 - f64::from(step) / 200.0);
                let at = |from: f64, one: f64, two: f64, to: f64| {
                    u.powi(3) * from + 3.0 * u * u * t * one + 3.0 * u * t * t * two + t.powi(3) * to
                };
                let (x, y) = (at(start.0, part[0], part[2], part[4]), at(start.1, part[1], part[3], part[5]));
                let on = labels.iter().find(|(_, area)| inside(area, x, y));
                assert!(on.is_none(), "{on:?} is on a line at {x:.0} {y:.0}");
            }
            start = (part[4], part[5]);
        }
    }
    let boxes: Vec<Vec<f64>> = Regex::new(r#"<rect (x="[^>]*height="[0-9.]+)""#)
        .unwrap()
        .captures_iter(body)
        .map(|found| numbers(&found[1]))
        .collect();
    // The first is the edge of the image.
    for of in &boxes[1..] {
        let area = [of[0], of[1], of[0] + of[2], of[1] + of[3]];
        let apart =
            |label: &Area| label[2] <= area[0] || label[0] >= area[2] || label[3] <= area[1] || label[1] >= area[3];
        assert!(labels.iter().all(|(_, label)| apart(label)), "{area:?}");
    }
    for (index, (text, one)) in labels.iter().enumerate() {
        for (other_text, other) in &labels[index + 1..] {
            let apart = one[2] <= other[0] || one[0] >= other[2] || one[3] <= other[1] || one[1] >= other[3];
            assert!(apart, "{text} and {other_text}");
        }
    }
}
