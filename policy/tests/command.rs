//! The `cloister-policy` command: what it prints and its exit status.

use std::path::{Path, PathBuf};
use std::process::{Command, Output};

fn folder() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR"))
}

fn run(arguments: &[&str]) -> Output {
    Command::new(env!("CARGO_BIN_EXE_cloister-policy")).args(arguments).current_dir(folder()).output().unwrap()
}

fn stdout(output: &Output) -> String {
    String::from_utf8(output.stdout.clone()).unwrap()
}

fn stderr(output: &Output) -> String {
    String::from_utf8(output.stderr.clone()).unwrap()
}

#[test]
fn a_policy_that_holds_is_exit_status_0() {
    let output = run(&["check", "default.toml", "selftest.toml"]);
    assert_eq!(output.status.code(), Some(0), "{}", stderr(&output));
    let text = stdout(&output);
    assert!(text.starts_with("default.toml: holds; 6 services, hash "), "{text}");
    assert_eq!(text.lines().count(), 2);
}

#[test]
fn the_worst_of_several_files_decides() {
    let output = run(&["check", "default.toml", "tests/bad/unknown-key.toml"]);
    assert_eq!(output.status.code(), Some(1));
    assert!(stdout(&output).contains("default.toml: holds"));
    assert!(stderr(&output).contains("--> tests/bad/unknown-key.toml:12:1"));
    let output = run(&["check", "no-such-file.toml", "tests/bad/unknown-key.toml"]);
    assert_eq!(output.status.code(), Some(2));
    assert!(stderr(&output).contains("no-such-file.toml"));
}

#[test]
fn unusable_input_is_exit_status_2() {
    let folder = tempfile::tempdir().unwrap();
    let binary: PathBuf = folder.path().join("binary");
    std::fs::write(&binary, [0xFF; 64]).unwrap();
    let folder = folder.path().to_str().unwrap();
    for arguments in [
        vec!["check", binary.to_str().unwrap()],
        vec!["hash", binary.to_str().unwrap()],
        vec!["canonical", folder],
        vec!["bindings", "default.toml", "nobody"],
        vec!["check"],
        vec!["prove", "default.toml"],
    ] {
        let output = run(&arguments);
        assert_eq!(output.status.code(), Some(2), "{arguments:?}");
        assert!(stdout(&output).is_empty() && stderr(&output).contains("error"), "{arguments:?}");
        assert!(!stderr(&output).contains("panicked"), "{arguments:?}");
    }
}

#[test]
fn hash_canonical_and_bindings_print_what_the_library_says() {
    let policy = cloister_policy::load(&folder().join("default.toml")).unwrap();
    let hash: String = policy.hash().iter().map(|byte| format!("{byte:02x}")).collect();
    assert_eq!(stdout(&run(&["hash", "default.toml"])), format!("{hash}\n"));
    assert_eq!(stdout(&run(&["canonical", "default.toml"])), policy.canonical());
    assert_eq!(stdout(&run(&["bindings", "default.toml", "http"])), policy.bindings("http").unwrap());
}
