//! The exported facts: documented, complete, the same in both forms, and of use for the recipes of
//! docs/facts.md.

mod common;
mod tool;

use std::collections::{BTreeMap, BTreeSet};

use cloister_caps::tables::Tables;
use cloister_policy::{Extras, FACTS_SCHEMA, parse};
use common::image::{kernel, pack_extras, program};
use serde_json::Value;
use tool::{folder, run, stdout};

fn document() -> String {
    std::fs::read_to_string(folder().join("../docs/facts.md")).unwrap()
}

/// An image with inventories: crate `a` 1.0.0 and crate `b` 2.0.0 have `unsafe`.
fn image() -> Vec<u8> {
    let programs = ["cloister-driver", "cloister-manager", "cloister-store"];
    let crates: Vec<(&str, &str, u32)> =
        programs.map(|name| (name, "0.1.0", 0)).into_iter().chain([("a", "1.0.0", 1), ("b", "2.0.0", 3)]).collect();
    let component = |(name, version, _): &(&str, &str, u32)| serde_json::json!({ "type": "library", "name": name, "version": version });
    let components: Vec<Value> = crates.iter().map(component).collect();
    let sbom = serde_json::json!({ "bomFormat": "CycloneDX", "specVersion": "1.6", "components": components });
    let item = |(name, version, blocks): &(&str, &str, u32)| {
        serde_json::json!({
            "name": name, "crate-version": version, "forbids": *blocks == 0, "blocks": blocks,
            "functions": 0, "traits": 0, "implementations": 0
        })
    };
    let uses: Vec<Value> = crates.iter().map(item).collect();
    let uses = serde_json::json!({ "format": "cloister-unsafe", "version": 1, "crates": uses });
    let (sbom, uses) = (sbom.to_string(), uses.to_string());
    let extras = Extras { sbom: Some(sbom.as_bytes()), unsafe_uses: Some(uses.as_bytes()) };
    pack_extras(&kernel(), &[program(0), program(1), program(2)], &extras)
}

/// Returns the facts of an image as JSON and as Datalog.
fn of_image() -> (Value, String) {
    let place = tempfile::tempdir().unwrap();
    let path = place.path().join("image.elf");
    std::fs::write(&path, image()).unwrap();
    let path = path.to_str().unwrap();
    let (json, datalog) = (run(&["facts", path]), run(&["facts", path, "--format", "datalog"]));
    assert_eq!((json.status.code(), datalog.status.code()), (Some(0), Some(0)), "{}", stdout(&json));
    (serde_json::from_str(&stdout(&json)).unwrap(), stdout(&datalog))
}

/// Each relation is in the tables of the document, with its columns in order, and no other.
#[test]
fn the_document_has_every_relation_and_column() {
    let text = document();
    let rows = text.lines().filter_map(|line| line.strip_prefix("| `")?.split_once("` | "));
    let documented: BTreeMap<String, String> = rows
        .map(|(name, rest)| {
            let columns = rest.split(" | ").next().unwrap().split(", ");
            let column = |column: &str| match column.strip_suffix('#') {
                Some(name) => format!("{}: number", name.trim_matches('`')),
                None => format!("{}: symbol", column.trim_matches('`')),
            };
            (name.to_owned(), columns.map(column).collect::<Vec<_>>().join(", "))
        })
        .collect();
    let (json, datalog) = of_image();
    let declared: BTreeMap<String, String> = datalog
        .lines()
        .filter_map(|line| line.strip_prefix(".decl ")?.strip_suffix(')')?.split_once('('))
        .map(|(name, columns)| (name.to_owned(), columns.to_owned()))
        .collect();
    assert_eq!(declared, documented);
    assert!(text.contains(&format!("schema {FACTS_SCHEMA}.")) && json["result"]["schema"] == FACTS_SCHEMA);
    assert!(datalog.starts_with(&format!("// Facts of Cloister, schema {FACTS_SCHEMA}: docs/facts.md.\n")));
    // Both forms have the same rows.
    for (name, columns) in &declared {
        let rows = json["result"][name].as_array().unwrap_or_else(|| panic!("{name}"));
        assert_eq!(datalog.matches(&format!("\n{name}(")).count(), rows.len(), "{name}");
        for row in rows {
            let shown = columns.split(", ").map(|column| {
                let (column, kind) = column.split_once(": ").unwrap();
                let value = &row[column];
                assert_eq!(value.is_number(), kind == "number", "{name}.{column}");
                value.to_string()
            });
            let fact = format!("\n{name}({}).\n", shown.collect::<Vec<_>>().join(", "));
            assert!(datalog.contains(&fact), "{fact}");
        }
    }
}

/// The relations of the shipped policy have what the kernel's tables have.
#[test]
fn the_relations_are_those_of_the_tables() {
    let text = std::fs::read_to_string(folder().join("default.toml")).unwrap();
    let blob = parse("default.toml", &text).unwrap().tables().unwrap();
    let tables = Tables::parse(&blob).unwrap();
    let json: Value = serde_json::from_str(&stdout(&run(&["facts", "default.toml"]))).unwrap();
    let facts = &json["result"];
    let rows = |relation: &str, columns: &[&str]| -> BTreeSet<String> {
        let row = |row: &Value| {
            columns.iter().map(|column| row[column].to_string().replace('"', "")).collect::<Vec<_>>().join(" ")
        };
        facts[relation].as_array().unwrap().iter().map(row).collect()
    };
    let services = tables.services().iter().map(|service| {
        let (name, priority) = (tables.name(service.name), service.priority);
        format!("{name} {priority} {} {} {}", service.budget_us, service.period_us, service.restart_limit)
    });
    let columns = ["name", "priority", "budget_us", "period_us", "restarts"];
    assert_eq!(rows("service", &columns), services.collect());
    let maps = tables.mappings().iter().map(|mapping| {
        let region = tables.name(tables.region(mapping.region).name);
        format!("{region} {}", tables.service_name(mapping.service))
    });
    // A region with a dot in its name is the compiler's: a stack, a queue's, rules.
    assert_eq!(
        rows("map", &["region", "service"]),
        maps.filter(|row| !row.split(' ').next().unwrap().contains('.')).collect()
    );
    let grants = tables.grants().iter().map(|grant| {
        let region = tables.name(tables.region(grant.region).name);
        format!("{} {region} {}", tables.name(grant.name), grant.count)
    });
    assert_eq!(rows("grant", &["name", "region", "pages"]), grants.collect());
    let queues = tables.queues().iter().filter(|queue| tables.name(queue.name).ends_with(".requests")).map(|queue| {
        let name = tables.name(queue.name).trim_end_matches(".requests");
        format!("{name} {} {} {}", tables.service_name(queue.sender), tables.service_name(queue.receiver), queue.depth)
    });
    assert_eq!(rows("queue", &["name", "client", "server", "depth"]), queues.collect());
    let ports =
        tables.ports().iter().map(|port| format!("{} {}", tables.name(port.name), tables.service_name(port.service)));
    assert_eq!(rows("port", &["name", "service"]), ports.collect());
    assert_eq!(facts["path"].as_array().unwrap().len(), text.split("[xenstore.").skip(1).map(rights_of).sum::<usize>());
    assert!(rows("can", &["subject", "object", "operation", "steps"]).contains("netfront ring-pages issue 1"));
    assert!(rows("least_takeovers", &["subject", "operation", "takeovers"]).contains("http power.off 1"));
    assert!(rows("causes", &["service", "hypercall"]).contains("control SCHEDOP_shutdown"));
}

/// Returns the number of words in the lists of paths of an entry.
fn rights_of(entry: &str) -> usize {
    let lines = entry.split("\n\n").next().unwrap().lines().filter(|line| line.starts_with('"'));
    lines.map(|line| line.split_once(" = ").unwrap().1.matches('"').count() / 2).sum()
}

/// A broken image has its findings as facts, and status 1; what is neither is refused.
#[test]
fn a_bad_file_is_named() {
    let place = tempfile::tempdir().unwrap();
    let path = |name: &str| place.path().join(name).to_str().unwrap().to_owned();
    let mut broken = image();
    broken[0x1100] ^= 1;
    std::fs::write(path("broken.elf"), broken).unwrap();
    std::fs::write(path("elf"), b"\x7FELF").unwrap();
    std::fs::write(path("binary"), [0xFF; 9]).unwrap();
    let output = run(&["facts", &path("broken.elf")]);
    assert_eq!(output.status.code(), Some(1));
    let json: Value = serde_json::from_str(&stdout(&output)).unwrap();
    let findings = json["result"]["finding"].as_array().unwrap();
    assert!(
        findings.iter().any(|finding| finding["severity"] == "error" && finding["about"] == "seal"),
        "{findings:?}"
    );
    for name in ["elf", "binary", "none"] {
        let output = run(&["facts", &path(name)]);
        assert_eq!((output.status.code(), stdout(&output).as_str()), (Some(2), ""), "{name}");
    }
    assert_eq!(run(&["facts", "tests/bad/unknown-key.toml"]).status.code(), Some(2));
}

/// The recipes of the document, on the facts of the shipped policy and of an image.
#[test]
fn the_recipes_work() {
    let text = document();
    let recipes: Vec<&str> = text.split("```datalog\n").skip(1).map(|rest| rest.split("```").next().unwrap()).collect();
    assert_eq!(recipes.len(), 3);
    let shipped = stdout(&run(&["facts", "default.toml", "--format", "datalog"]));
    let answers = |facts: &str, recipe: &str| -> Vec<String> {
        let wanted = recipe.lines().find_map(|line| line.strip_prefix(".output ")).unwrap();
        let mut program = Program::default();
        program.read(facts);
        program.read(recipe);
        program.run();
        program.facts[wanted].iter().map(|row| row.join(" ")).collect()
    };
    assert_eq!(answers(&shipped, recipes[0]), ["netfront rings netback", "tcpip rx-pool netback"]);
    let all = ["control", "grant-manager", "http", "netfront", "tcpip", "xenstore"];
    assert_eq!(answers(&shipped, recipes[1]), all);
    assert_eq!(answers(&of_image().1, recipes[2]), ["b 2.0.0 3"]);
}

/// A term of an atom, or an atom of a rule: as much of Datalog as the recipes need.
#[derive(Clone, PartialEq, Debug)]
enum Term {
    Any,
    Variable(String),
    Constant(String),
}

#[derive(Default)]
struct Program {
    facts: BTreeMap<String, BTreeSet<Vec<String>>>,
    rules: Vec<String>,
}

type Bindings = BTreeMap<String, String>;

impl Program {
    fn read(&mut self, text: &str) {
        for line in text.lines().filter(|line| !line.is_empty() && !line.starts_with("//")) {
            if let Some(declared) = line.strip_prefix(".decl ") {
                self.facts.entry(declared.split('(').next().unwrap().to_owned()).or_default();
            } else if line.contains(":-") {
                self.rules.push(line.trim_end_matches('.').to_owned());
            } else if !line.starts_with('.') {
                let (name, terms) = atom(line.trim_end_matches('.'));
                let row = terms.into_iter().map(|term| match term {
                    Term::Constant(text) => text,
                    other => panic!("{other:?} in {line}"),
                });
                let row = row.collect();
                self.facts.get_mut(&name).unwrap_or_else(|| panic!("{name} is not declared")).insert(row);
            }
        }
    }

    /// Applies the rules until nothing is new. What a recipe negates has no rules.
    fn run(&mut self) {
        loop {
            let before: usize = self.facts.values().map(BTreeSet::len).sum();
            for rule in self.rules.clone() {
                let (head, body) = rule.split_once(" :- ").unwrap();
                let (name, terms) = atom(head);
                for bindings in self.solve(&parts(body), Bindings::new()) {
                    let row = terms.iter().map(|term| value(term, &bindings).unwrap()).collect();
                    self.facts.get_mut(&name).unwrap().insert(row);
                }
            }
            if self.facts.values().map(BTreeSet::len).sum::<usize>() == before {
                return;
            }
        }
    }

    fn solve(&self, goals: &[String], bindings: Bindings) -> Vec<Bindings> {
        let Some((goal, rest)) = goals.split_first() else { return vec![bindings] };
        for (sign, holds) in
            [(" != ", (|order: std::cmp::Ordering| order.is_ne()) as fn(_) -> bool), (" > ", |order| order.is_gt())]
        {
            if let Some((one, other)) = goal.split_once(sign) {
                let of = |text: &str| value(&term(text), &bindings).unwrap();
                let (one, other) = (of(one), of(other));
                let order = match (one.parse::<u64>(), other.parse::<u64>()) {
                    (Ok(one), Ok(other)) => one.cmp(&other),
                    _ => one.cmp(&other),
                };
                return if holds(order) { self.solve(rest, bindings) } else { Vec::new() };
            }
        }
        let negated = goal.starts_with('!');
        let (name, terms) = atom(goal.trim_start_matches('!'));
        let rows = &self.facts[&name];
        let found: Vec<Bindings> = rows.iter().filter_map(|row| unified(&terms, row, &bindings)).collect();
        if negated {
            return if found.is_empty() { self.solve(rest, bindings) } else { Vec::new() };
        }
        found.into_iter().flat_map(|bindings| self.solve(rest, bindings)).collect()
    }
}

fn unified(terms: &[Term], row: &[String], bindings: &Bindings) -> Option<Bindings> {
    assert_eq!(terms.len(), row.len());
    let mut bindings = bindings.clone();
    for (term, cell) in terms.iter().zip(row) {
        match term {
            Term::Any => {}
            Term::Constant(text) if text == cell => {}
            Term::Variable(name) if bindings.entry(name.clone()).or_insert_with(|| cell.clone()) == cell => {}
            _ => return None,
        }
    }
    Some(bindings)
}

fn value(term: &Term, bindings: &Bindings) -> Option<String> {
    match term {
        Term::Any => None,
        Term::Constant(text) => Some(text.clone()),
        Term::Variable(name) => bindings.get(name).cloned(),
    }
}

/// Splits a list at its commas, but not within parentheses and texts.
fn parts(text: &str) -> Vec<String> {
    let (mut parts, mut depth, mut quoted, mut escaped) = (vec![String::new()], 0, false, false);
    for c in text.chars() {
        match c {
            '"' if !escaped => quoted = !quoted,
            '(' if !quoted => depth += 1,
            ')' if !quoted => depth -= 1,
            ',' if !quoted && depth == 0 => {
                parts.push(String::new());
                continue;
            }
            _ => {}
        }
        escaped = c == '\\' && !escaped;
        parts.last_mut().unwrap().push(c);
    }
    parts.into_iter().map(|part| part.trim().to_owned()).collect()
}

fn atom(text: &str) -> (String, Vec<Term>) {
    let (name, terms) = text.split_once('(').unwrap_or_else(|| panic!("{text}"));
    (name.trim().to_owned(), parts(terms.strip_suffix(')').unwrap()).iter().map(|text| term(text)).collect())
}

fn term(text: &str) -> Term {
    let text = text.trim();
    match text.chars().next() {
        Some('"') => Term::Constant(serde_json::from_str(text).unwrap()),
        Some('0'..='9') => Term::Constant(text.to_owned()),
        _ if text == "_" => Term::Any,
        _ => Term::Variable(text.to_owned()),
    }
}
