use proptest::prelude::*;

use super::*;

fn hashes(first: u8) -> Hashes {
    let hash = |n: u8| [first.wrapping_add(n); 32];
    Hashes {
        image: hash(0),
        policy: hash(1),
        tables: hash(2),
        sbom: Some(hash(3)),
        unsafe_uses: Some(hash(4)),
        programs: vec![("kernel".to_owned(), hash(5)), ("http".to_owned(), hash(6)), ("tcpip".to_owned(), hash(7))],
    }
}

fn release() -> Release {
    let sources = Sources {
        policy_file: [0xA0; 32],
        lock: [0xA1; 32],
        toolchain: "rustc 1.95.0 (59807616e 2026-04-14)".to_owned(),
        commit: Some("0123456789abcdef0123456789abcdef01234567".to_owned()),
    };
    Release { hashes: hashes(1), sources, configuration: Some([0xA2; 32]) }
}

#[test]
fn a_manifest_is_read_back_unchanged() {
    let whole = release();
    assert_eq!(Release::parse(&whole.text()), Ok(whole.clone()));
    let mut least = whole;
    least.configuration = None;
    least.sources.commit = None;
    (least.hashes.sbom, least.hashes.unsafe_uses) = (None, None);
    let text = least.text();
    assert!(!text.contains("guest") && !text.contains("commit") && !text.contains("sbom"), "{text}");
    assert_eq!(Release::parse(&text), Ok(least));
}

#[test]
fn a_mistake_is_named_with_its_line() {
    let text = release().text();
    let line = |of: &str| text.lines().position(|line| line.contains(of)).unwrap() + 1;
    let said = |from: &str, to: &str| {
        assert!(text.contains(from), "{from}");
        Release::parse(&text.replacen(from, to, 1)).unwrap_err().to_string()
    };
    assert!(said("format = 1", "format = 2").contains("format = 1"));
    assert!(said("format = 1", "").contains("format = 1"));
    assert_eq!(said("[image]", "[image"), format!("line {}: not TOML: unclosed table, expected `]`", line("[image]")));
    assert_eq!(
        said("sha256 = \"01", "md5 = \"01"),
        "line 5: `image.md5` is not known: use the verifier of its release, or remove it"
    );
    assert_eq!(
        said("[sources]", "[origin]"),
        format!("line {}: `origin` is not known: use the verifier of its release, or remove it", line("[sources]"))
    );
    assert_eq!(said("kernel = ", "colonel = "), "`programs.kernel` is missing: `cargo xtask build` writes it");
    assert_eq!(said("toolchain = ", "# "), "`sources.toolchain` is missing: `cargo xtask build` writes it");
    for (from, to) in [("\"0101", "\"01"), ("\"0101", "\"0G01"), ("\"0101", "\"0A01"), ("\"0101", "\"€101")] {
        assert_eq!(said(from, to), "line 5: `image.sha256` is not a SHA-256 of 64 lower-case hexadecimal digits");
    }
    // The commit is later an argument of git.
    for other in ["HEAD", "--upload-pack=x", "0123", "0123456789ABCDEF0123456789ABCDEF01234567", ""] {
        let found = said("\"0123456789abcdef0123456789abcdef01234567\"", &format!("\"{other}\""));
        assert!(found.contains("`sources.commit` is not a commit"), "{other}: {found}");
    }
    for other in ["", "a\\u001bb", "a\\u202e", &"a".repeat(201)] {
        let found = said("rustc 1.95.0 (59807616e 2026-04-14)", other);
        assert!(found.contains("`sources.toolchain` is not a line"), "{other}: {found}");
    }
}

#[test]
fn each_part_that_differs_is_named() {
    let release = release();
    assert_eq!(release.compare(&release.hashes), []);
    type Change = fn(&mut Hashes);
    let cases: [(&str, Change); 9] = [
        ("the policy", |hashes| hashes.policy[0] ^= 1),
        ("the capability tables", |hashes| hashes.tables[31] ^= 1),
        ("the SBOM", |hashes| hashes.sbom = None),
        ("the inventory of `unsafe`", |hashes| hashes.unsafe_uses = Some([0; 32])),
        ("the kernel", |hashes| hashes.programs[0].1[0] ^= 1),
        ("the program of tcpip", |hashes| hashes.programs[2].1[0] ^= 1),
        ("the program of http", |hashes| drop(hashes.programs.remove(1))),
        ("the program of more", |hashes| hashes.programs.push(("more".to_owned(), [0; 32]))),
        ("the file", |hashes| hashes.image[7] ^= 1),
    ];
    for (part, change) in cases {
        let mut hashes = release.hashes.clone();
        change(&mut hashes);
        let found = release.compare(&hashes);
        assert!(found.len() == 1 && found[0].message.starts_with(&format!("{part} is another: ")), "{part}: {found:?}");
    }
    let mut turned = release.hashes.clone();
    turned.programs.reverse();
    assert_eq!(release.compare(&turned), [], "the order of the programs means nothing");
}

proptest! {
    #[test]
    fn any_text_is_answered(text in "(?s).{0,300}") {
        prop_assert!(Release::parse(&text).is_err());
    }

    /// No byte can change without an error or another meaning, except in what TOML ignores.
    #[test]
    fn a_changed_byte_is_an_error_or_another_manifest(at in any::<prop::sample::Index>(), byte in b' '..=b'~') {
        let text = release().text();
        let body = text.find("format").unwrap();
        let at = body + at.index(text.len() - body);
        let mut changed = text.clone().into_bytes();
        changed[at] = byte;
        let changed = String::from_utf8(changed).unwrap();
        if let Ok(found) = Release::parse(&changed) {
            let ignored = |text: &str| text.split_whitespace().collect::<String>();
            prop_assert!(found != release() || ignored(&changed) == ignored(&text) || changed.contains('\''), "{changed}");
        }
    }
}
