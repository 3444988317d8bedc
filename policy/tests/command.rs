//! The `cloister-policy` command: its output and its exit status.

mod tool;

use std::path::{Path, PathBuf};

use tool::{folder, run, stderr, stdout};

#[test]
fn a_policy_that_holds_is_exit_status_0() {
    let output = run(&["check", "default.toml", "../tests/guests/selftest.toml"]);
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
        vec!["show", binary.to_str().unwrap()],
        vec!["graph", binary.to_str().unwrap()],
        vec!["fmt", binary.to_str().unwrap()],
        vec!["explain", binary.to_str().unwrap(), "what can http do"],
        vec!["explain", "default.toml", "what is http"],
        vec!["diff", "default.toml", binary.to_str().unwrap()],
        vec!["diff", "tests/bad/unknown-key.toml", "default.toml"],
        vec!["init", "default.toml"],
        // A policy that does not hold is a result of `check` alone.
        vec!["hash", "tests/bad/unknown-key.toml"],
        vec!["canonical", "tests/bad/unknown-key.toml"],
        vec!["bindings", "tests/bad/unknown-key.toml", "http"],
        vec!["show", "tests/bad/unknown-key.toml"],
        vec!["graph", "tests/bad/unknown-key.toml"],
        vec!["explain", "tests/bad/unknown-key.toml", "what can http do"],
        vec!["facts", binary.to_str().unwrap()],
        vec!["facts", "tests/bad/unknown-key.toml"],
        vec!["unused", "tests/bad/unknown-key.toml", "--trace", "default.toml"],
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
    let hash = cloister_policy::hexadecimal(&policy.hash());
    assert_eq!(stdout(&run(&["hash", "default.toml"])), format!("{hash}\n"));
    assert_eq!(stdout(&run(&["canonical", "default.toml"])), policy.canonical());
    assert_eq!(stdout(&run(&["bindings", "default.toml", "http"])), policy.bindings("http").unwrap());
}

#[test]
fn a_question_without_a_path_is_exit_status_1() {
    let output = run(&["explain", "default.toml", "can", "http", "reach", "power.off"]);
    assert_eq!(output.status.code(), Some(1));
    assert!(stdout(&output).starts_with("No: the closure contains no path"));
    let output = run(&["explain", "default.toml", "can control reach power.off"]);
    assert_eq!(output.status.code(), Some(0));
    assert!(stdout(&output).contains("services.control.power"));
}

#[test]
fn each_subcommand_has_its_own_default_form() {
    for (subcommand, start) in
        [("graph", "<svg "), ("show", "Policy of the image cloister\n"), ("check", "default.toml: holds")]
    {
        let output = run(&[subcommand, "default.toml"]);
        assert_eq!(output.status.code(), Some(0), "{subcommand}: {}", stderr(&output));
        assert!(stdout(&output).starts_with(start), "{subcommand}: {}", stdout(&output));
    }
}

#[test]
fn the_forms_of_a_question_are_a_line_each() {
    let text = stderr(&run(&["explain", "default.toml", "what is\nhttp"]));
    let lines: Vec<&str> = text.lines().collect();
    assert_eq!(lines.len(), 10, "{text}");
    assert_eq!(lines.last(), Some(&"  list subjects|objects|operations|assertions"));
    assert!(lines[0].contains(r"`what is\nhttp`") && !lines[1..].iter().any(|line| line.contains(r"\n")), "{text}");
}

#[test]
fn a_difference_in_the_ids_of_a_domain_names_the_whole_range() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("ids.toml");
    let path_text = path.to_str().unwrap();
    let shipped = std::fs::read_to_string(self::folder().join("default.toml")).unwrap();
    for (ids, subjects) in [
        ("1", &["  domain:0 can do less", "  domain:1 can do more"][..]),
        ("0-2", &["  domain:1 to domain:2 can do more"]),
    ] {
        std::fs::write(&path, shipped.replacen("ids = \"0\"", &format!("ids = \"{ids}\""), 1)).unwrap();
        let text = stdout(&run(&["diff", "default.toml", path_text]));
        let found: Vec<&str> = text.lines().filter(|line| line.starts_with("  domain:")).collect();
        assert_eq!(found, subjects, "{text}");
        // Questions are about one domain, and the policy answers them.
        assert!(text.contains("new: can domain:1 read rings? yes, 2 pages"), "{text}");
        let asked = run(&["explain", path_text, "can domain:1 read rings?"]);
        assert_eq!(asked.status.code(), Some(0));
    }
}

#[test]
fn the_hypercall_for_deadlines_is_the_one_that_the_kernel_makes() {
    let kernel = std::fs::read_to_string(self::folder().join("../kernel/image/src/hypercall.rs")).unwrap();
    assert!(kernel.contains("`set_timer_op`"));
    let output = run(&["explain", "default.toml", "who can reach set_timer_op"]);
    assert_eq!(output.status.code(), Some(0), "{}", stderr(&output));
}

#[test]
fn a_widening_can_be_refused() {
    let folder = tempfile::tempdir().unwrap();
    let wide = folder.path().join("wide.toml");
    let text = std::fs::read_to_string(self::folder().join("default.toml")).unwrap();
    let text = text.replacen("access = \"read\"\npages = 128", "access = \"read-write\"\npages = 128", 1);
    std::fs::write(&wide, text).unwrap();
    let wide = wide.to_str().unwrap();
    let output = run(&["diff", "default.toml", wide]);
    assert_eq!(output.status.code(), Some(0));
    let text = stdout(&output);
    assert!(
        text.starts_with("widening: ") && text.contains("new: can domain:0 write tx-pool? yes, 128 pages"),
        "{text}"
    );
    assert_eq!(run(&["diff", "default.toml", wide, "--fail-on", "widening"]).status.code(), Some(1));
    assert_eq!(run(&["diff", "default.toml", wide, "--fail-on", "narrowing"]).status.code(), Some(0));
    assert_eq!(run(&["diff", wide, "default.toml", "--fail-on", "widening"]).status.code(), Some(0));
    assert_eq!(run(&["diff", wide, "default.toml", "--fail-on", "narrowing"]).status.code(), Some(1));
    // The wide policy breaks two assertions: it can be shown, and says so.
    let output = run(&["show", wide]);
    assert_eq!(output.status.code(), Some(1));
    assert!(stdout(&output).contains("FAILS  sent-frames-are-tcpips"), "{}", stdout(&output));
    assert_eq!(run(&["check", wide]).status.code(), Some(1));
}

#[test]
fn json_has_a_version_and_says_what_it_is() {
    for (kind, arguments, status) in [
        ("check", vec!["check", "default.toml", "tests/bad/assertion-only.toml"], 1),
        ("show", vec!["show", "default.toml"], 0),
        ("explain", vec!["explain", "default.toml", "what can http do"], 0),
        ("diff", vec!["diff", "default.toml", "../tests/guests/prober.toml"], 0),
    ] {
        let output = run(&[arguments, vec!["--format", "json"]].concat());
        assert_eq!(output.status.code(), Some(status), "{kind}");
        let json: serde_json::Value = serde_json::from_str(&stdout(&output)).unwrap();
        assert_eq!((&json["version"], &json["kind"]), (&serde_json::json!(1), &serde_json::json!(kind)));
        assert!(!json["result"].is_null(), "{kind}");
    }
    let json: serde_json::Value =
        serde_json::from_str(&stdout(&run(&["check", "tests/bad/assertion-only.toml", "--format", "json"]))).unwrap();
    let finding = &json["result"][0]["findings"][0];
    assert_eq!((&finding["line"], &finding["related"][0]["line"]), (&serde_json::json!(81), &serde_json::json!(46)));
}

#[test]
fn the_page_has_every_fact_in_every_format() {
    let hash = stdout(&run(&["hash", "default.toml"]));
    for form in ["text", "markdown", "html", "json"] {
        let output = run(&["show", "default.toml", "--format", form]);
        assert_eq!(output.status.code(), Some(0), "{form}");
        let page = stdout(&output);
        for said in [
            hash.trim(),
            "rx-pool",
            "EVTCHNOP_alloc_unbound",
            "netfront-store",
            "error/device/vif/0",
            "http-opens-no-memory",
        ] {
            // Markdown escapes signs that could be markup.
            assert!(page.replace('\\', "").contains(said), "{form} does not say {said}");
        }
    }
    let page = stdout(&run(&["show", "default.toml", "--format", "html"]));
    assert!(page.contains("<svg") && page.contains("@media print"));
    for outside in ["<script", "src=", "href=", "@import", "url(http"] {
        assert!(!page.contains(outside), "{outside}");
    }
    // The name of SVG is no address to go to.
    assert!(!page.replace("http://www.w3.org/2000/svg", "").contains("://"));
}

#[test]
fn the_picture_has_every_name() {
    for form in ["svg", "dot"] {
        let picture = stdout(&run(&["graph", "default.toml", "--format", form]));
        for name in [
            "netback",
            "toolstack",
            "xenstore-daemon",
            "grant-manager",
            "stream-out",
            "tcpip-heap",
            "shutdown",
            "rx-events",
        ] {
            assert!(picture.contains(name), "{form} {name}");
        }
    }
}

#[test]
fn formatting_is_done_once_and_keeps_comments_and_meaning() {
    let folder = tempfile::tempdir().unwrap();
    let guests = ["prober", "selftest", "strict", "refusing"].map(|name| format!("../tests/guests/{name}.toml"));
    for name in ["default.toml"].into_iter().chain(guests.iter().map(String::as_str)) {
        assert_eq!(run(&["fmt", "--check", name]).status.code(), Some(0), "{name}");
        let text = std::fs::read_to_string(self::folder().join(name)).unwrap();
        let mangled = text.replace(" = ", "  =   ").replace("\n\n", "\n\n\n").replace("    ", "").replace("{ ", "{   ");
        let path = folder.path().join(Path::new(name).file_name().unwrap());
        std::fs::write(&path, mangled).unwrap();
        let path = path.to_str().unwrap();
        assert_eq!(run(&["fmt", "--check", path]).status.code(), Some(1));
        assert_eq!(run(&["fmt", path]).status.code(), Some(0));
        let once = std::fs::read_to_string(path).unwrap();
        assert_eq!(run(&["fmt", "--check", path]).status.code(), Some(0), "{once}");
        assert_eq!(stdout(&run(&["hash", path])), stdout(&run(&["hash", name])));
        assert_eq!(once.matches('#').count(), text.matches('#').count());
    }
}

#[test]
fn the_starting_policy_holds_and_is_not_written_over_another_file() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("mine.toml");
    let path = path.to_str().unwrap();
    assert_eq!(run(&["init", path]).status.code(), Some(0));
    assert_eq!(run(&["init", path]).status.code(), Some(2));
    assert_eq!(run(&["check", path]).status.code(), Some(0));
    assert_eq!(run(&["fmt", "--check", path]).status.code(), Some(0));
    assert_eq!(stdout(&run(&["init"])), std::fs::read_to_string(path).unwrap());
}

#[test]
fn a_policy_too_large_for_an_image_can_be_analysed() {
    let output = run(&["check", "tests/bad/too-many-services.toml"]);
    assert_eq!(output.status.code(), Some(1));
    let output = run(&["check", "--analysis-only", "tests/bad/too-many-services.toml"]);
    assert_eq!(output.status.code(), Some(0), "{}", stderr(&output));
    assert_eq!(run(&["show", "tests/bad/too-many-services.toml"]).status.code(), Some(0));
    let output = run(&["check", "--analysis-only", "tests/bad/assertion-only.toml"]);
    assert_eq!(output.status.code(), Some(1));
}

/// The names of files are untrusted input, too.
#[cfg(unix)]
#[test]
fn the_name_of_a_file_cannot_steer_the_terminal() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("a\u{1b}[2J\u{202e}\n.toml");
    let absent = folder.path().join("\u{1b}[2J\u{202e}");
    let (path, absent) = (path.to_str().unwrap(), absent.to_str().unwrap());
    std::fs::copy(self::folder().join("default.toml"), path).unwrap();
    for arguments in [
        vec!["check", path],
        vec!["check", path, "--format", "json"],
        vec!["check", absent, "--format", "json"],
        vec!["show", path],
        vec!["show", path, "--format", "html"],
        vec!["show", path, "--format", "json"],
        vec!["graph", path, "--format", "svg"],
        vec!["fmt", path],
        vec!["verify", path],
        vec!["verify", absent],
        vec!["sign", path, "--key", absent],
        vec!["unused", path, "--trace", absent],
        vec!["unused", path, "--trace", path],
        vec!["explain", path, "\u{1b}[2J"],
        vec!["bindings", path, "\u{1b}[2J"],
        vec!["diff", path, absent],
    ] {
        let output = run(&arguments);
        assert!(output.status.code().is_some_and(|code| code <= 2), "{arguments:?}");
        for text in [stdout(&output), stderr(&output)] {
            assert!(
                text.chars().all(|c| cloister_policy::is_plain(c) || matches!(c, '\n' | '\t')),
                "{arguments:?}: {text:?}"
            );
        }
        assert!(!stdout(&output).lines().any(|line| line.starts_with(".toml")), "a line of its own: {arguments:?}");
        if arguments.contains(&"json") {
            serde_json::from_str::<serde_json::Value>(&stdout(&output)).unwrap();
        }
    }
}
