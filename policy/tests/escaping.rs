//! Whatever a file, a name or an argument contains, no command writes a character that steers a
//! terminal, reverses the text or ends a page's element.

#![cfg(unix)]

mod common;

use std::path::Path;
use std::process::Command;

use cloister_policy::{Extras, is_plain};
use common::image::{kernel, pack_extras, program};
use proptest::prelude::*;

/// Pieces of text that steer a terminal, change the direction, hide, or are markup.
const HOSTILE: [&str; 16] = [
    "\u{1b}[2J",
    "\u{1b}]0;t\u{7}",
    "\u{9b}31m",
    "\u{8}\u{7f}",
    "\r",
    "\n",
    "\u{202e}",
    "\u{2066}",
    "\u{200d}",
    "\u{2028}",
    "\u{e0041}",
    "\u{301}",
    "<script>",
    "</style>",
    "\"'",
    "plain",
];

fn hostile() -> impl Strategy<Value = String> {
    prop::collection::vec(0usize..HOSTILE.len(), 1..5).prop_map(|pieces| {
        let text: Vec<&str> = pieces.into_iter().map(|piece| HOSTILE[piece]).collect();
        text.concat()
    })
}

/// Runs the command and returns its output and its problems.
fn run(folder: &Path, arguments: &[&str]) -> [String; 2] {
    let mut command = Command::new(env!("CARGO_BIN_EXE_cloister-policy"));
    let output = command.args(arguments).current_dir(folder).output().unwrap();
    assert!(output.status.code().is_some_and(|code| code <= 2), "{arguments:?}: {output:?}");
    [output.stdout, output.stderr].map(|bytes| String::from_utf8(bytes).unwrap())
}

fn check(folder: &Path, arguments: &[&str]) -> Result<(), TestCaseError> {
    for text in run(folder, arguments) {
        let raw = text.chars().find(|c| !is_plain(*c) && !matches!(c, '\n' | '\t'));
        prop_assert_eq!(raw, None, "{:?}: {:?}", arguments, text);
        // What begins like markup is a page or a picture; anything else is text about one.
        if (arguments.contains(&"html") || arguments.contains(&"svg")) && text.starts_with('<') {
            prop_assert!(!text.contains("<script"), "{:?}", arguments);
            prop_assert!(text.matches("</style>").count() <= 1, "{:?}", arguments);
        }
        if arguments.contains(&"json") && text.starts_with('{') {
            prop_assert!(serde_json::from_str::<serde_json::Value>(&text).is_ok(), "{:?}: {}", arguments, text);
        }
    }
    Ok(())
}

/// Returns a policy with the text in each place that takes any string: written as it is, and as an
/// escape of TOML.
fn policies(text: &str) -> Vec<String> {
    let good = std::fs::read_to_string(concat!(env!("CARGO_MANIFEST_DIR"), "/tests/good.toml")).unwrap();
    let escaped: String = text.chars().map(|c| format!("\\U{:08X}", u32::from(c))).collect();
    let assertion = |text: &str, name: &str, to: &str| {
        format!(
            "{good}\n[[assert]]\nname = \"{name}\"\nwhy = \"{text}\"\nkind = \"cannot-cause\"\nfrom = \"store\"\nto = \"{to}\"\n"
        )
    };
    let mut all = Vec::new();
    for text in [text, &escaped] {
        all.push(assertion(text, "a", "power.off"));
        all.push(assertion("why", text, "power.off"));
        all.push(assertion("why", "a", &format!("{text}.off")));
        all.push(good.replace("name = \"test\"", &format!("name = \"{text}\"")));
        all.push(good.replace("\"device/vif/0/**\"", &format!("\"device/{text}\"")));
        all.push(good.replace("cloister-driver", text));
        all.push(good.replace("[ports.events]", &format!("[ports.\"{text}\"]")));
        all.push(format!("{good}\n# {text}\n\"{text}\" = \"{text}\"\n"));
    }
    all
}

proptest! {
    #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::with_cases(6) })]

    /// Policies with hostile strings: most are refused, and the refusal quotes them.
    #[test]
    fn policies_cannot_steer(text in hostile(), at in any::<prop::sample::Index>()) {
        let folder = tempfile::tempdir().unwrap();
        let here = folder.path();
        let all = policies(&text);
        std::fs::write(here.join("p.toml"), &all[at.index(all.len())]).unwrap();
        std::fs::copy(concat!(env!("CARGO_MANIFEST_DIR"), "/tests/good.toml"), here.join("good.toml")).unwrap();
        std::fs::write(here.join("log"), format!("cloister: policy {text}\nuse: {text} a b\nuse: driver {text} {text} {text}\n")).unwrap();
        for arguments in [
            &["check", "--warn", "p.toml"][..],
            &["check", "--warn", "p.toml", "--format", "json"],
            &["check", "--analysis-only", "p.toml"],
            &["hash", "p.toml"],
            &["canonical", "p.toml"],
            &["bindings", "p.toml", "driver"],
            &["diff", "good.toml", "p.toml"],
            &["diff", "p.toml", "good.toml", "--format", "json"],
            &["explain", "p.toml", "what can driver do"],
            &["explain", "p.toml", "what can driver do", "--format", "json"],
            &["fmt", "--check", "p.toml"],
            &["graph", "p.toml", "--format", "svg"],
            &["graph", "p.toml", "--format", "dot"],
            &["show", "p.toml", "--format", "text"],
            &["show", "p.toml", "--format", "json"],
            &["show", "p.toml", "--format", "markdown"],
            &["show", "p.toml", "--format", "html"],
            &["facts", "p.toml"],
            &["facts", "p.toml", "--format", "datalog"],
            &["unused", "p.toml", "--trace", "log"],
            &["unused", "good.toml", "--trace", "log"],
            &["unused", "good.toml", "--trace", "log", "--format", "json"],
            &["verify", "p.toml"],
        ] {
            check(here, arguments)?;
        }
    }

    /// Names of files, and words of questions and options.
    #[test]
    fn arguments_cannot_steer(text in hostile()) {
        let folder = tempfile::tempdir().unwrap();
        let here = folder.path();
        let name = format!("a{}.toml", text.replace('/', "-"));
        let name = name.as_str();
        std::fs::copy(concat!(env!("CARGO_MANIFEST_DIR"), "/tests/good.toml"), here.join(name)).unwrap();
        let (new, key, absent) = (format!("new{name}"), format!("key{name}"), format!("absent{name}"));
        let (new, key, absent) = (new.as_str(), key.as_str(), absent.as_str());
        for arguments in [
            &[text.as_str()][..],
            &["check", name, "--format", &text],
            &["check", name, absent],
            &["check", name, "--format", "json"],
            &["show", name],
            &["show", name, "--format", "html"],
            &["show", name, "--format", "markdown"],
            &["show", name, "--date", &text],
            &["show", name, "--image", name],
            &["show", name, "--release", absent],
            &["explain", name, &text],
            &["explain", name, "can", &text, "reach", "power.off"],
            &["explain", name, "who can reach", &text],
            &["bindings", name, &text],
            &["facts", name],
            &["facts", absent],
            &["graph", name, "--format", "dot"],
            &["fmt", name],
            &["init", new],
            &["init", new],
            &["keygen", key],
            &["keygen", key],
            &["sign", name, "--key", key],
            &["verify", name, "--accept", &text],
            &["verify", absent, "--policy", absent],
            &["unused", name, "--trace", absent],
            &["diff", name, absent],
        ] {
            check(here, arguments)?;
        }
    }

    /// Images whose inventories, policy, keys or signatures have hostile strings.
    #[test]
    fn images_cannot_steer(text in hostile()) {
        let folder = tempfile::tempdir().unwrap();
        let here = folder.path();
        let quoted = serde_json::to_string(&text).unwrap();
        let sbom = format!("{{ \"bomFormat\": \"CycloneDX\", \"specVersion\": \"1.6\", \"components\": [{{ \"type\": \"library\", \"name\": \"a\", \"version\": {quoted} }}] }}");
        let uses = format!("{{ \"format\": \"cloister-unsafe\", \"version\": 1, \"crates\": [{{ \"name\": {quoted}, \"crate-version\": \"1\", \"forbids\": true, \"blocks\": 0, \"functions\": 0, \"traits\": 0, \"implementations\": 0 }}] }}");
        let extras = Extras { sbom: Some(sbom.as_bytes()), unsafe_uses: Some(uses.as_bytes()) };
        let image = pack_extras(&kernel(), &[program(0), program(1), program(2)], &extras);
        std::fs::write(here.join("image.elf"), &image).unwrap();
        std::fs::write(here.join("text"), &text).unwrap();
        run(here, &["keygen", "key"]);
        let mut other = image;
        let at = other.windows(4).position(|window| window == b"test").unwrap();
        let bytes = text.as_bytes();
        let length = bytes.len().min(6);
        other[at..at + length].copy_from_slice(&bytes[..length]);
        common::seal(&mut other);
        std::fs::write(here.join("other.elf"), &other).unwrap();
        for image in ["image.elf", "other.elf"] {
            for arguments in [
                &["verify", image][..],
                &["verify", image, "--format", "json"],
                &["verify", image, "--sbom", "sbom.json"],
                &["verify", image, "--key", "text", "--signature", "text"],
                &["verify", image, "--key", "key.pub", "--signature", "text"],
                &["verify", image, "--policy", "text"],
                &["sign", image, "--key", "key"],
                &["sign", image, "--key", "text"],
                &["facts", image],
                &["facts", image, "--format", "datalog"],
                &["show", "text", "--image", image],
            ] {
                check(here, arguments)?;
            }
            // What it writes for others to read is clean, too.
            if let Ok(written) = std::fs::read_to_string(here.join("sbom.json")) {
                prop_assert!(written.chars().all(|c| is_plain(c) || matches!(c, '\n' | '\t')), "{written:?}");
            }
        }
    }
}
