//! The commands for a release: `verify`, `keygen`, `sign` and `unused`, with their exit statuses.

mod common;

use std::path::{Path, PathBuf};
use std::process::{Command, Output};

use common::image::{image, kernel, pack_all, program};

/// Returns a folder with the image of `good.toml`.
struct Place(tempfile::TempDir);

impl Place {
    fn new() -> Self {
        let place = Place(tempfile::tempdir().unwrap());
        place.write("image.elf", &image());
        place
    }

    fn path(&self, name: &str) -> PathBuf {
        self.0.path().join(name)
    }

    fn write(&self, name: &str, content: &[u8]) {
        std::fs::write(self.path(name), content).unwrap();
    }

    fn read(&self, name: &str) -> String {
        std::fs::read_to_string(self.path(name)).unwrap()
    }

    /// Runs the command in the folder, and returns status, output and problems.
    fn run(&self, arguments: &str) -> (Option<i32>, String, String) {
        let words: Vec<&str> = arguments.split(' ').collect();
        let program = env!("CARGO_BIN_EXE_cloister-policy");
        let Output { status, stdout, stderr } =
            Command::new(program).args(words).current_dir(self.0.path()).output().unwrap();
        let text = |bytes| String::from_utf8(bytes).unwrap();
        (status.code(), text(stdout), text(stderr))
    }
}

fn good() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/good.toml")
}

#[test]
fn an_image_verifies_by_itself_and_against_its_policy() {
    let place = Place::new();
    let (status, output, problems) = place.run("verify image.elf");
    assert_eq!((status, problems.as_str()), (Some(0), ""));
    let (shown, not_shown) = output.trim_end().rsplit_once('\n').unwrap();
    assert!(shown.contains("\nverified: the form of the file, its tables, its rules"), "{output}");
    assert!(not_shown.starts_with("not shown: that the code of the kernel and of the services"), "{output}");
    let (status, ..) = place.run(&format!("verify image.elf --policy {}", good().display()));
    assert_eq!(status, Some(0));
    let other = std::fs::read_to_string(good()).unwrap().replace("priority = 50", "priority = 51");
    place.write("other.toml", other.as_bytes());
    let (status, output, _) = place.run("verify image.elf --policy other.toml");
    assert_eq!(status, Some(1));
    assert!(output.contains("the priority is 50; [services.driver] makes it 51"), "{output}");
}

#[test]
fn the_json_form_has_a_version_and_the_verdict() {
    let (status, output, _) = Place::new().run("verify image.elf --format json");
    assert_eq!(status, Some(0));
    let json: serde_json::Value = serde_json::from_str(&output).unwrap();
    assert_eq!((&json["version"], &json["kind"]), (&1.into(), &"verify".into()));
    assert_eq!(json["result"]["holds"], true);
    assert_eq!(json["result"]["not-shown"], serde_json::json!(["code of the kernel", "code of the services"]));
}

#[test]
fn a_damaged_image_is_refused_with_status_1() {
    let place = Place::new();
    let mut file = image();
    let at = common::offset_of(&file, b"CLOISTER") + 200;
    file[at] ^= 4;
    place.write("image.elf", &file);
    let (status, output, _) = place.run("verify image.elf");
    assert_eq!(status, Some(1));
    assert!(output.contains("error: seal: the file is not as it was packed"), "{output}");
}

#[test]
fn input_that_is_no_image_is_status_2() {
    let place = Place::new();
    let whole = image();
    place.write("empty", b"");
    place.write("binary", &[0xA5; 1000]);
    place.write("cut", &whole[..whole.len() / 2]);
    place.write("kernel", &kernel().build());
    let newer = {
        let mut file = whole.clone();
        let at = common::offset_of(&file, b"CLOISTER") + 8;
        file[at] = 9;
        file
    };
    place.write("newer", &newer);
    let large = std::fs::File::create(place.path("large")).unwrap();
    large.set_len(100 << 20).unwrap();
    let larger = std::fs::File::create(place.path("larger")).unwrap();
    larger.set_len(300 << 20).unwrap();
    for (file, expected) in [
        ("empty", "the file is empty"),
        ("binary", "not an ELF file"),
        ("cut", "does not fit the file"),
        ("kernel", "holds no capability tables"),
        ("newer", "capability tables of version 9"),
        ("large", "not an ELF file"),
        ("larger", "has more than 268435456 bytes"),
        (".", "cannot read"),
        ("absent", "cannot open"),
    ] {
        for command in [format!("verify {file}"), format!("sign {file} --key absent")] {
            let (status, output, problems) = place.run(&command);
            assert_eq!((status, output.as_str()), (Some(2), ""), "{command}");
            assert!(problems.starts_with("error: ") && problems.contains(expected), "{command}: {problems}");
        }
    }
    let (status, _, problems) = place.run("verify image.elf --policy absent");
    assert_eq!((status, problems.contains("cannot open absent")), (Some(2), true));
    let (status, _, problems) = place.run("verify image.elf --sbom out.json");
    assert_eq!((status, problems.contains("carries no bill of materials")), (Some(2), true));
}

#[test]
fn a_release_is_signed_and_checked() {
    let place = Place::new();
    assert_eq!(place.run("keygen release.key").0, Some(0));
    assert_eq!(place.run("keygen other.key").0, Some(0));
    let (status, _, problems) = place.run("keygen release.key");
    assert_eq!((status, problems.contains("is there already")), (Some(2), true), "{problems}");
    let (status, _, problems) = place.run("verify image.elf --key release.key.pub");
    assert_eq!((status, problems.contains("cannot open image.elf.sig")), (Some(2), true), "{problems}");
    let (status, output, _) = place.run("sign image.elf --key release.key");
    assert_eq!(status, Some(0));
    assert!(output.starts_with("signature image.elf.sig\ncloister-signature 1\npolicy sha256 "), "{output}");
    let (status, output, _) = place.run("verify image.elf --key release.key.pub");
    assert_eq!(status, Some(0));
    assert!(output.ends_with("signed: by the given key\n"), "{output}");
    let (status, _, problems) = place.run("verify image.elf --key other.key.pub");
    assert_eq!((status, problems.contains("signed with another key")), (Some(1), true), "{problems}");
    let (status, _, problems) = place.run("verify image.elf --key release.key");
    assert_eq!((status, problems.contains("not a public key")), (Some(2), true), "{problems}");
    // The same policy in another image.
    let mut changed = program(1);
    changed.parts[0].bytes[0] ^= 1;
    place.write("image.elf", &pack_all(&kernel(), &[program(0), changed, program(2)]));
    let (status, _, problems) = place.run("verify image.elf --key release.key.pub");
    assert_eq!((status, problems.contains("the signature is for another image")), (Some(1), true), "{problems}");
}

#[cfg(unix)]
#[test]
fn a_secret_key_is_for_its_owner_alone() {
    use std::os::unix::fs::PermissionsExt;
    let place = Place::new();
    assert_eq!(place.run("keygen release.key").0, Some(0));
    let mode = std::fs::metadata(place.path("release.key")).unwrap().permissions().mode();
    assert_eq!(mode & 0o077, 0);
}

#[test]
fn an_image_that_does_not_verify_is_not_signed() {
    let place = Place::new();
    let mut changed = program(1);
    changed.parts[1].bytes[0x100..0x103].copy_from_slice(&[0x0F, 0x01, 0xC1]);
    place.write("image.elf", &pack_all(&kernel(), &[program(0), changed, program(2)]));
    assert_eq!(place.run("keygen release.key").0, Some(0));
    let (status, _, problems) = place.run("sign image.elf --key release.key");
    assert_eq!(status, Some(1));
    assert!(
        problems.contains("`vmcall`") && problems.contains("an image that does not verify is not signed"),
        "{problems}"
    );
    assert!(!place.path("image.elf.sig").exists());
}

#[test]
fn unused_rights_are_status_1_and_the_suggestion_holds() {
    let place = Place::new();
    place.write("policy.toml", &std::fs::read(good()).unwrap());
    place.write("log", b"use: driver clock clock -\nuse: driver console console write\n");
    let (status, output, _) = place.run("unused policy.toml --trace log --suggest narrower.toml");
    assert_eq!(status, Some(1));
    assert!(output.contains("unused: clock clock of driver: now (never used)\n"), "{output}");
    assert!(!place.read("narrower.toml").contains("clock"));
    assert_eq!(place.run("check narrower.toml").0, Some(0));
    let (status, output, _) = place.run("unused policy.toml --trace log --format json");
    assert_eq!(status, Some(1));
    let json: serde_json::Value = serde_json::from_str(&output).unwrap();
    assert_eq!(json["result"]["unused"][0]["rights"][0], "now");
    place.write("log", b"\xFF\xFE nothing\n");
    let (status, _, problems) = place.run("unused policy.toml --trace log");
    assert_eq!((status, problems.contains("has no line that starts with `use: `")), (Some(2), true), "{problems}");
    assert_eq!(place.run("unused policy.toml --trace absent").0, Some(2));
    assert_eq!(place.run("unused log --trace log").0, Some(2));
}
