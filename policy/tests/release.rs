//! The commands for a release: `verify`, `keygen`, `sign`, `rebuild` and `unused`, with their exit
//! statuses.

mod common;

use std::path::{Path, PathBuf};
use std::process::{Command, Output};

use common::image::{image, kernel, pack_all, program};
use common::release::{LOCK, release_of};

/// Returns a folder with the image of `good.toml`.
struct Place(tempfile::TempDir);

impl Place {
    fn new() -> Self {
        let place = Place(tempfile::tempdir().unwrap());
        place.write("image.elf", &image());
        place.write("release.toml", release_of(&image()).text().as_bytes());
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
    assert!(shown.contains("\nshown: the form of the file, its tables, its rules"), "{output}");
    assert!(!output.contains("verified"), "{output}");
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
        for command in [format!("verify {file}"), format!("sign {file} --release release.toml --key absent")] {
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

const SIGN: &str = "sign image.elf --release release.toml --key release.key";
const VERIFY: &str = "verify image.elf --release release.toml --key";

#[test]
fn a_release_is_signed_and_checked() {
    let place = Place::new();
    assert_eq!(place.run("keygen release.key").0, Some(0));
    assert_eq!(place.run("keygen other.key").0, Some(0));
    let (status, _, problems) = place.run("keygen release.key");
    assert_eq!((status, problems.contains("is there already")), (Some(2), true), "{problems}");
    let (status, _, problems) = place.run(&format!("{VERIFY} release.key.pub"));
    assert_eq!((status, problems.contains("cannot open release.toml.sig")), (Some(2), true), "{problems}");
    let (status, output, _) = place.run(SIGN);
    assert_eq!(status, Some(0));
    assert!(output.starts_with("signature release.toml.sig\ncloister-signature 2\nrelease sha256 "), "{output}");
    let (status, output, _) = place.run(&format!("{VERIFY} release.key.pub"));
    assert_eq!(status, Some(0));
    assert!(
        output.contains("\nnot shown: that the programs were compiled from the sources of the release;"),
        "{output}"
    );
    assert!(output.ends_with("\nverified: the release that the given key signed\n"), "{output}");
    let (status, output, _) = place.run(&format!("{VERIFY} other.key.pub"));
    assert_eq!((status, output.contains("error: signature: signed with another key")), (Some(1), true), "{output}");
    assert!(output.ends_with("refused: 1 error\n"), "{output}");
    let (status, _, problems) = place.run(&format!("{VERIFY} release.key"));
    assert_eq!((status, problems.contains("not a public key")), (Some(2), true), "{problems}");
    // A manifest of another image, written by whoever made that image.
    let mut changed = program(1);
    changed.parts[0].bytes[0] ^= 1;
    let other = pack_all(&kernel(), &[program(0), changed, program(2)]);
    place.write("image.elf", &other);
    let (status, output, _) = place.run(&format!("{VERIFY} release.key.pub"));
    assert_eq!((status, output.contains("release: the program of manager is another")), (Some(1), true), "{output}");
    let (status, _, problems) = place.run(SIGN);
    assert_eq!((status, problems.contains("a release that does not verify is not signed")), (Some(1), true));
    place.write("release.toml", release_of(&other).text().as_bytes());
    let (status, output, _) = place.run(&format!("{VERIFY} release.key.pub"));
    assert_eq!(
        (status, output.contains("signature: the signature is for another manifest")),
        (Some(1), true),
        "{output}"
    );
    assert!(!output.contains("verified"), "{output}");
    let (status, output, _) = place.run(&format!("{VERIFY} release.key.pub --format json"));
    let json: serde_json::Value = serde_json::from_str(&output).unwrap();
    assert_eq!((status, &json["result"]["holds"]), (Some(1), &false.into()));
}

#[test]
fn input_of_a_release_that_cannot_be_used_is_status_2() {
    let place = Place::new();
    place.write("broken.toml", b"format = 1\n");
    place.write("binary", &[0xFF; 64]);
    for (arguments, expected) in [
        ("--release absent", "cannot open absent"),
        ("--release broken.toml", "broken.toml: `[image]` is missing"),
        ("--release binary", "binary is not text"),
        ("--lock binary", "binary is not text"),
        ("--config absent", "cannot open absent"),
        ("--key release.key.pub", "--release"),
        ("--deny deny.toml", "--lock"),
        ("--lock broken.toml --deny deny.toml", "--deny needs the sources of the image"),
    ] {
        let (status, output, problems) = place.run(&format!("verify image.elf {arguments}"));
        assert_eq!((status, output.as_str()), (Some(2), ""), "{arguments}");
        assert!(problems.starts_with("error: ") && problems.contains(expected), "{arguments}: {problems}");
    }
}

#[test]
fn a_lock_file_and_a_configuration_are_compared_with_the_manifest() {
    let place = Place::new();
    let config =
        "type = \"pvh\"\nkernel = \"image.elf\"\nmemory = 8\nvcpus = 1\nnomigrate = 1\nmax_maptrack_frames = 0\n";
    place.write("guest.cfg", config.as_bytes());
    let mut release = release_of(&image());
    release.configuration = Some(cloister_policy::release::hash_of(config.as_bytes()));
    place.write("release.toml", release.text().as_bytes());
    let (status, output, _) = place.run("verify image.elf --release release.toml --config guest.cfg");
    assert_eq!(status, Some(0), "{output}");
    assert!(output.contains("\nshown: the guest's configuration gives the image what it needs"), "{output}");
    assert!(!output.contains("is not that of the release"), "{output}");
    place.write("guest.cfg", format!("{config}on_crash = \"destroy\"\n").as_bytes());
    let (status, output, _) = place.run("verify image.elf --release release.toml --config guest.cfg");
    assert_eq!((status, output.contains("notice: release: the guest's configuration is not that")), (Some(0), true));
    place.write("guest.cfg", format!("{config}pci = [ \"01:00.0\" ]\n").as_bytes());
    let (status, output, _) = place.run("verify image.elf --config guest.cfg");
    assert_eq!((status, output.contains("error: configuration: line 7: `pci` gives the guest")), (Some(1), true));
    place.write("Cargo.lock", format!("{LOCK}\n").as_bytes());
    let (status, output, _) = place.run("verify image.elf --release release.toml --lock Cargo.lock");
    assert_eq!((status, output.contains("error: release: Cargo.lock is not that of the release")), (Some(1), true));
    assert!(output.contains("error: lock: the image carries no SBOM to compare"), "{output}");
    place.write("policy.toml", &[&std::fs::read(good()).unwrap()[..], b"# more\n"].concat());
    let (status, output, _) = place.run("verify image.elf --release release.toml --policy policy.toml");
    assert_eq!(
        (status, output.contains("error: release: the policy file is not that of the release")),
        (Some(1), true)
    );
}

/// Runs `verify --deny` with a program in place of cargo, and returns what it was given.
#[cfg(unix)]
fn denied(script: &str) -> (Option<i32>, String, String, String) {
    use std::os::unix::fs::PermissionsExt;
    let place = Place::new();
    place.write("Cargo.toml", b"[workspace]\n");
    place.write("Cargo.lock", LOCK.as_bytes());
    place.write("rules.toml", b"");
    place.write("cargo", format!("#!/bin/sh\necho \"$@\" > given\n{script}\n").as_bytes());
    std::fs::set_permissions(place.path("cargo"), std::fs::Permissions::from_mode(0o755)).unwrap();
    let arguments = ["verify", "image.elf", "--lock", "Cargo.lock", "--deny", "rules.toml"];
    let mut command = Command::new(env!("CARGO_BIN_EXE_cloister-policy"));
    let output =
        command.args(arguments).current_dir(place.0.path()).env("CARGO", place.path("cargo")).output().unwrap();
    let text = |bytes| String::from_utf8(bytes).unwrap();
    (output.status.code(), text(output.stdout), text(output.stderr), place.read("given"))
}

#[cfg(unix)]
#[test]
fn cargo_deny_judges_the_crates_of_the_lock_file() {
    let (_, output, _, given) = denied("exit 0");
    assert!(given.starts_with("deny --offline --locked ") && given.contains("/Cargo.toml --config "), "{given}");
    assert!(given.trim_end().ends_with("/rules.toml check --hide-inclusion-graph"), "{given}");
    // The image of the tests has no SBOM, and is refused for that alone.
    assert!(output.contains("refused: 1 error"), "{output}");
    let (status, output, ..) = denied("echo 'error[rejected]: failed to satisfy license \u{1b}[2J' >&2; exit 4");
    assert!(
        status == Some(1) && output.contains("error: deny: error[rejected]: failed to satisfy license"),
        "{output}"
    );
    assert!(!output.contains('\u{1b}'), "{output:?}");
    let (status, _, problems, _) = denied("echo 'error: no such command: `deny`' >&2; exit 101");
    assert!(status == Some(2) && problems.contains("cargo install cargo-deny --locked"), "{problems}");
    let (status, _, problems, _) = denied("echo \"error: unexpected argument '--config' found\" >&2; exit 2");
    assert!(status == Some(2) && problems.contains("older than 0.20"), "{problems}");
    let (status, _, problems, _) = denied("echo 'failed to open the advisory database' >&2; exit 1");
    assert!(status == Some(2) && problems.contains("cargo-deny did not judge the crates"), "{problems}");
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

/// A repository with a lock file, and a program in place of cargo that makes the manifest
/// `built.toml` of the repository the result of a build.
#[cfg(unix)]
struct Repository {
    place: Place,
    commit: String,
}

#[cfg(unix)]
impl Repository {
    fn new() -> Self {
        use std::os::unix::fs::PermissionsExt;
        let place = Place::new();
        std::fs::create_dir_all(place.path("repository")).unwrap();
        std::fs::create_dir_all(place.path("bin")).unwrap();
        place.write("repository/Cargo.lock", LOCK.as_bytes());
        place.write("repository/built.toml", release_of(&image()).text().as_bytes());
        place.write("policy.toml", &std::fs::read(good()).unwrap());
        let script = "#!/bin/sh\n[ \"$1 $2 $3\" = 'xtask build --policy' ] || exit 9\ncmp -s \"$4\" ../policy.toml || exit 8\n\
            mkdir -p target/image/policy\ncp built.toml target/image/policy/release.toml\n";
        place.write("bin/cargo", script.as_bytes());
        std::fs::set_permissions(place.path("bin/cargo"), std::fs::Permissions::from_mode(0o755)).unwrap();
        let mut repository = Repository { place, commit: String::new() };
        for arguments in ["init -q", "add -A", "-c user.name=a -c user.email=a@b commit -q -m first"] {
            repository.git(arguments);
        }
        repository.commit = repository.git("rev-parse HEAD").trim().to_owned();
        repository
    }

    fn git(&self, arguments: &str) -> String {
        let mut command = Command::new("git");
        let output = command.args(arguments.split(' ')).current_dir(self.place.path("repository")).output().unwrap();
        assert!(output.status.success(), "git {arguments}: {}", String::from_utf8_lossy(&output.stderr));
        String::from_utf8(output.stdout).unwrap()
    }

    /// Writes the manifest with a commit, and rebuilds it.
    fn rebuild(
        &self,
        commit: Option<&str>,
        change: impl FnOnce(&mut cloister_policy::release::Release),
    ) -> (Option<i32>, String, String) {
        let mut release = release_of(&image());
        release.sources.commit = commit.map(str::to_owned);
        change(&mut release);
        self.place.write("release.toml", release.text().as_bytes());
        let path = std::env::join_paths(
            [self.place.path("bin")].into_iter().chain(std::env::split_paths(&std::env::var_os("PATH").unwrap())),
        );
        let mut command = Command::new(env!("CARGO_BIN_EXE_cloister-policy"));
        command.args(["rebuild", "release.toml", "--source", "repository"]).env("PATH", path.unwrap());
        let output = command.current_dir(self.place.0.path()).output().unwrap();
        let text = |bytes| String::from_utf8(bytes).unwrap();
        (output.status.code(), text(output.stdout), text(output.stderr))
    }
}

#[cfg(unix)]
#[test]
fn a_release_is_built_again_from_its_commit() {
    let repository = Repository::new();
    let commit = repository.commit.clone();
    // What is newer than the commit does not count.
    repository.place.write("repository/built.toml", b"newer");
    repository.git("-c user.name=a -c user.email=a@b commit -q -a -m second");
    let (status, output, problems) = repository.rebuild(Some(&commit), |_| {});
    assert_eq!((status, problems.as_str()), (Some(0), ""), "{output}");
    assert!(output.starts_with(&format!("rebuilt: commit {commit} gives the same image, sha256 ")), "{output}");
    let (status, output, _) = repository.rebuild(Some(&commit), |release| release.hashes.programs[0].1[0] ^= 1);
    assert_eq!((status, output.contains("error: release: the kernel is another")), (Some(1), true), "{output}");
    let (status, output, _) = repository.rebuild(Some(&commit), |release| release.sources.toolchain = "rustc 2".into());
    assert_eq!((status, output.contains("error: release: the compiler is rustc 1.95.0")), (Some(1), true), "{output}");
    let (status, output, _) = repository.rebuild(Some(&commit), |release| release.sources.lock[0] ^= 1);
    assert_eq!((status, output.contains("error: release: Cargo.lock is not that")), (Some(1), true), "{output}");
    for (commit, lines, expected) in [
        (None, 1, "release.toml names no commit"),
        (Some("0123456789abcdef0123456789abcdef01234567"), 2, "\"git\" -c core.hooksPath"),
    ] {
        let (status, output, problems) = repository.rebuild(commit, |_| {});
        assert_eq!((status, output.as_str()), (Some(2), ""), "{problems}");
        assert!(problems.contains(expected) && problems.lines().count() >= lines, "{problems}");
    }
    let (status, _, problems) = repository.rebuild(Some(&commit), |release| release.sources.policy_file[0] ^= 1);
    assert_eq!((status, problems.contains("policy.toml: the policy file is not that of the release")), (Some(2), true));
    // A commit whose build gives no manifest.
    let newer = repository.git("rev-parse HEAD");
    let (status, _, problems) = repository.rebuild(Some(newer.trim()), |_| {});
    assert_eq!((status, problems.contains("release.toml: ")), (Some(2), true), "{problems}");
}

#[test]
fn an_image_that_does_not_verify_is_not_signed() {
    let place = Place::new();
    let mut changed = program(1);
    changed.parts[1].bytes[0x100..0x103].copy_from_slice(&[0x0F, 0x01, 0xC1]);
    place.write("image.elf", &pack_all(&kernel(), &[program(0), changed, program(2)]));
    assert_eq!(place.run("keygen release.key").0, Some(0));
    let (status, _, problems) = place.run(SIGN);
    assert_eq!(status, Some(1));
    assert!(
        problems.contains("`vmcall`") && problems.contains("a release that does not verify is not signed"),
        "{problems}"
    );
    assert!(!place.path("release.toml.sig").exists());
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
