//! The documents name what exists: links lead to files, paths and functions are in the sources, and
//! the picture of the policy is the picture of the policy that ships.
#![forbid(unsafe_code)]

use std::path::{Path, PathBuf};

/// The documents that lead through the sources.
const MAPS: [&str; 2] = ["docs/architecture.md", "docs/tour.md"];

fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../..").canonicalize().unwrap()
}

fn read(path: &Path) -> String {
    std::fs::read_to_string(path).unwrap_or_else(|error| panic!("{}: {error}", path.display()))
}

/// Finds the Markdown files below `folder`. Build output and hidden folders are left out, and so
/// are the parts of the benchmarks' document, whose links are relative to `docs`.
fn documents(folder: &Path, found: &mut Vec<PathBuf>) {
    for entry in std::fs::read_dir(folder).unwrap() {
        let path = entry.unwrap().path();
        let name = path.file_name().unwrap().to_str().unwrap();
        let skipped = ["target", "corpus", "bench"].contains(&name) || name.starts_with('.');
        if path.is_dir() && !skipped {
            documents(&path, found);
        } else if path.is_file() && name.ends_with(".md") {
            found.push(path);
        }
    }
}

/// Returns `true` if `text` defines `name`: an item of Rust, or a label of an assembly file.
fn defines(text: &str, name: &str) -> bool {
    let ends = |rest: &str| !rest.starts_with(|next: char| next.is_ascii_alphanumeric() || next == '_');
    let item = |keyword: &str| {
        let pattern = format!("{keyword} {name}");
        text.match_indices(&pattern).any(|(at, _)| ends(&text[at + pattern.len()..]))
    };
    ["fn", "struct", "enum", "trait", "const", "static", "mod", "macro_rules!"].into_iter().any(item)
        || text.lines().any(|line| line.starts_with(&format!("{name}:")))
}

/// Returns the code spans of a document, fenced blocks aside.
fn spans(text: &str) -> Vec<&str> {
    text.lines().flat_map(|line| line.split('`').skip(1).step_by(2)).collect()
}

#[test]
fn the_maps_name_files_and_functions_that_exist() {
    let root = root();
    for document in MAPS {
        let text = read(&root.join(document));
        let (mut paths, mut functions) = (0, 0);
        for span in spans(&text) {
            let (path, item) = span.split_once("::").map_or((span, None), |(path, item)| (path, Some(item)));
            let ours = path.split_once('/').is_some_and(|(first, _)| root.join(first).is_dir());
            if !ours || path.contains(char::is_whitespace) {
                continue;
            }
            assert!(root.join(path).exists(), "{document}: there is no {path}");
            paths += 1;
            if let Some(item) = item {
                assert!(defines(&read(&root.join(path)), item), "{document}: {path} defines no {item}");
                functions += 1;
            }
        }
        assert!(paths > 20 && functions > 20, "{document}: {paths} paths, {functions} functions");
    }
}

/// Finds the paths below `folder`, each relative to the root with a `/` before it. Build output,
/// corpora and hidden folders are left out.
fn paths(root: &Path, folder: &Path, found: &mut Vec<String>) {
    for entry in std::fs::read_dir(folder).unwrap() {
        let path = entry.unwrap().path();
        let name = path.file_name().unwrap().to_str().unwrap();
        if name == "target" || name.starts_with('.') {
            continue;
        }
        found.push(format!("/{}", path.strip_prefix(root).unwrap().to_str().unwrap()));
        if path.is_dir() && name != "corpus" {
            paths(root, &path, found);
        }
    }
}

/// Returns what `a/{b,c}.rs` stands for: `a/b.rs` and `a/c.rs`.
fn expand(span: &str) -> Vec<String> {
    let parts = span.split_once('{').and_then(|(start, rest)| Some((start, rest.split_once('}')?)));
    let Some((start, (middle, end))) = parts else { return vec![span.to_owned()] };
    middle.split(',').map(|part| format!("{start}{}{end}", part.trim())).collect()
}

/// Returns `true` if a code span names a file or folder of the repository. A placeholder, as in
/// `corpus/NAME/`, and build output are none.
fn is_path(root: &Path, span: &str) -> bool {
    const ENDINGS: [&str; 6] = [".rs", ".s", ".toml", ".py", ".ld", ".md"];
    let placeholder =
        span.contains(['*', '<', '…', '=', '(', '"', '$']) || span.chars().any(|c| c.is_ascii_uppercase());
    let words = span.contains(char::is_whitespace) && !span.contains('{');
    let ours = span.split_once('/').is_some_and(|(first, _)| root.join(first).is_dir() && first != "target");
    !placeholder && !words && !span.starts_with(['/', '.']) && (ours || ENDINGS.iter().any(|end| span.ends_with(end)))
}

/// Documents outside of the maps may name a file by the end of its path, as `paging.rs`.
#[test]
fn every_document_names_files_that_exist() {
    /// Files of `cargo xtask dist` and of smoltcp.
    const OTHERS: [&str; 4] = ["policy.toml", "release.toml", "src/rand.rs", "src/socket/tcp.rs"];
    let root = root();
    let (mut known, mut found) = (Vec::new(), Vec::new());
    paths(&root, &root, &mut known);
    documents(&root, &mut found);
    // The changelog names files of the past.
    found.retain(|document| !document.ends_with("CHANGELOG.md"));
    let mut count = 0;
    for document in &found {
        let text = read(document);
        for span in spans(&text) {
            let (path, item) = span.split_once("::").map_or((span, None), |(path, item)| (path, Some(item)));
            if !is_path(&root, path) || OTHERS.contains(&path) {
                continue;
            }
            for path in expand(path) {
                let end = format!("/{}", path.trim_end_matches('/'));
                let file = known.iter().find(|known| known.ends_with(&end));
                let file = file.unwrap_or_else(|| panic!("{}: there is no {path}", document.display()));
                if let Some(item) = item {
                    let defined = defines(&read(&root.join(&file[1..])), item);
                    assert!(defined, "{}: {path} defines no {item}", document.display());
                }
                count += 1;
            }
        }
    }
    assert!(count > 200, "{count} paths");
}

/// Returns the targets of the links in a document that lead into the repository.
fn links(text: &str) -> Vec<&str> {
    let targets = text.split("](").skip(1).filter_map(|rest| rest.split_once(')')).map(|(target, _)| target);
    targets
        .map(|target| target.split('#').next().unwrap_or_default())
        .filter(|target| !target.is_empty() && !target.contains("://") && !target.contains(char::is_whitespace))
        .collect()
}

#[test]
fn links_lead_to_files() {
    let mut found = Vec::new();
    documents(&root(), &mut found);
    let mut count = 0;
    for document in &found {
        for target in links(&read(document)) {
            let path = document.parent().unwrap().join(target);
            assert!(path.exists(), "{}: the link to {target} is dead", document.display());
            count += 1;
        }
    }
    assert!(found.len() > 30 && count > 50, "{count} links in {} documents", found.len());
}

/// Decisions are named in comments and messages, too.
#[test]
fn every_decision_that_is_named_exists_and_is_in_the_index() {
    let root = root();
    let index = read(&root.join("docs/decisions/README.md"));
    let mut names = Vec::new();
    for entry in std::fs::read_dir(root.join("docs/decisions")).unwrap() {
        let name = entry.unwrap().file_name().into_string().unwrap();
        if name != "README.md" {
            assert!(index.contains(&format!("]({name})")), "{name} is not in the index");
            names.push(name);
        }
    }
    names.sort();
    for (position, name) in names.iter().enumerate() {
        assert!(name.starts_with(&format!("{:04}-", position + 1)), "{name} is out of order");
    }
    let mut sources = Vec::new();
    for folder in ["caps", "kernel", "netfront-service", "policy", "services", "tests", "xtask"] {
        files(&root.join(folder), &mut sources);
    }
    for source in sources {
        let Ok(text) = std::fs::read_to_string(&source) else { continue };
        for rest in text.split("docs/decisions/").skip(1) {
            let name: String =
                rest.chars().take_while(|c| c.is_ascii_alphanumeric() || ['-', '.'].contains(c)).collect();
            let named = name.starts_with(|c: char| c.is_ascii_digit());
            assert!(!named || names.contains(&name), "{}: there is no {name}", source.display());
        }
    }
}

/// Finds the files below `folder` that may name a decision.
fn files(folder: &Path, found: &mut Vec<PathBuf>) {
    for entry in std::fs::read_dir(folder).unwrap() {
        let path = entry.unwrap().path();
        let name = path.file_name().unwrap().to_str().unwrap();
        if path.is_dir() && name != "target" && name != "corpus" && !name.starts_with('.') {
            files(&path, found);
        } else if [".rs", ".s", ".toml", ".md"].iter().any(|ending| name.ends_with(ending)) {
            found.push(path);
        }
    }
}

#[test]
fn each_interface_opens_with_its_row_of_the_table_of_threats() {
    let root = root();
    let security = read(&root.join("SECURITY.md"));
    for interface in ["control", "grants", "net", "socket", "store"] {
        let start = format!("| `{interface}` ");
        let row = security.lines().find_map(|line| line.strip_prefix(&start)).expect("a row");
        let source = read(&root.join(format!("services/interfaces/src/protocol/{interface}.rs")));
        assert!(source.contains(&format!("//! {row}\n")), "protocol/{interface}.rs has another row");
    }
}

#[test]
fn the_picture_is_of_the_policy_that_ships() {
    let policy = read(&root().join("policy/default.toml"));
    let policy = cloister_policy::parse("default", &policy).unwrap_or_else(|report| panic!("{report}"));
    let committed = read(&root().join("docs/pictures/policy.svg"));
    assert!(
        policy.graph().svg() == committed,
        "run `cargo policy graph policy/default.toml > docs/pictures/policy.svg`"
    );
}

/// Returns the fenced blocks of a language in a document.
fn blocks<'a>(text: &'a str, language: &str) -> Vec<&'a str> {
    let fence = format!("```{language}\n");
    text.split(&fence).skip(1).filter_map(|rest| rest.split_once("```")).map(|(block, _)| block).collect()
}

#[test]
fn the_policy_of_the_smallest_service_holds_and_gives_it_what_its_caps_name() {
    let text = read(&root().join("docs/writing-a-service.md"));
    let policy = cloister_policy::parse("heartbeat.toml", blocks(&text, "toml")[0]).unwrap();
    let bindings = policy.bindings("heartbeat").unwrap();
    let caps = blocks(&text, "rust")[0].split_once("pub struct Caps<S> {").unwrap().1.split_once('}').unwrap().0;
    let fields = caps.lines().filter_map(|line| line.trim().strip_prefix("pub ")?.split_once(':'));
    let fields: Vec<_> = fields.map(|(name, _)| name).collect();
    assert_eq!(fields, ["console", "clock"]);
    assert!(bindings.contains("-> heartbeat::Caps<cloister_runtime::Kernel> {"), "{bindings}");
    for field in fields {
        assert!(bindings.contains(&format!("{field}:")), "{field} is not in\n{bindings}");
    }
}
