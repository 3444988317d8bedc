//! Every corpus and every past crash, and a run of each target on seeded bytes: others with each
//! commit.
#![forbid(unsafe_code)]

use std::collections::BTreeSet;
use std::hash::{DefaultHasher, Hash, Hasher};
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::{Path, PathBuf};
use std::process::Command;

use cloister_fuzz::{TARGETS, Target, Trace};
use cloister_sim::seed::{Random, SEED, seed};

/// Scripts that are run of each target: one in four of seeded bytes, the others mutations of
/// scripts of the corpus.
const SCRIPTS: usize = 3000;

fn folder(kind: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join(kind)
}

fn entries(folder: &Path) -> Vec<PathBuf> {
    let Ok(entries) = std::fs::read_dir(folder) else { return Vec::new() };
    let mut paths: Vec<PathBuf> = entries.map(|entry| entry.unwrap().path()).collect();
    paths.sort();
    paths
}

/// The scripts of a target in `corpus` or `crashes`, each with its path.
fn scripts(kind: &str, target: &Target) -> Vec<(PathBuf, Vec<u8>)> {
    let read = |path: PathBuf| {
        let bytes = std::fs::read(&path).unwrap();
        (path, bytes)
    };
    entries(&folder(kind).join(target.name)).into_iter().map(read).collect()
}

/// Runs a script; if it fails, says which and keeps it.
fn run(target: &Target, name: &str, script: &[u8]) -> (u64, u64) {
    let trace = Trace::quiet();
    if catch_unwind(AssertUnwindSafe(|| target.run(script, &trace))).is_err() {
        let kept = Path::new(env!("CARGO_TARGET_TMPDIR")).join(format!("{}-{name}", target.name));
        std::fs::write(&kept, script).unwrap();
        let seed = seed();
        panic!(
            "{name} of {SEED}={seed:016x}: `cargo run -p cloister-fuzz -- replay {} {}` shows it",
            target.name,
            kept.display()
        );
    }
    (trace.events(), trace.digest())
}

/// Returns up to `most` random bytes.
fn bytes(random: &mut Random, most: usize) -> Vec<u8> {
    (0..random.below(most)).map(|_| random.below(256) as u8).collect()
}

/// Returns a script with a few changes, or the beginning of one with the end of another.
fn mutated(random: &mut Random, scripts: &[(PathBuf, Vec<u8>)]) -> Vec<u8> {
    let mut script = random.pick(scripts).1.clone();
    for _ in 0..1 + random.below(4) {
        let at = random.below(script.len() + 1);
        match random.below(4) {
            0 => drop(script.splice(at..at, bytes(random, 12))),
            1 => drop(script.drain(at..(at + random.below(12)).min(script.len()))),
            2 => {
                let other = &random.pick(scripts).1;
                script.splice(at.., other[random.below(other.len() + 1)..].iter().copied());
            }
            _ => {
                let value = random.below(256) as u8;
                script.get_mut(at).into_iter().for_each(|byte| *byte = value);
            }
        }
    }
    script.truncate(4096);
    script
}

/// One test a target, so that they share the processors and each is named when it fails.
macro_rules! targets {
    ($($test:ident: $name:literal;)*) => {
        $(#[test] fn $test() { replay_and_try($name); })*

        #[test]
        fn every_target_is_replayed() {
            let replayed = BTreeSet::from([$($name),*]);
            assert_eq!(replayed, TARGETS.iter().map(|target| target.name).collect());
        }
    };
}

targets! {
    policy_verify: "policy-verify";
    policy_text: "policy-text";
    kernel_tables: "kernel-tables";
    kernel_calls: "kernel-calls";
    boot: "boot";
    tcpip_socket: "tcpip-socket";
    tcpip_net: "tcpip-net";
    tcpip_frames: "tcpip-frames";
    tcpip_control: "tcpip-control";
    netfront_store: "netfront-store";
    netfront_rings: "netfront-rings";
    netfront_net: "netfront-net";
    netfront_handshake: "netfront-handshake";
    netfront_grants: "netfront-grants";
    http_socket: "http-socket";
    http_request: "http-request";
    http_archive: "http-archive";
    control_store: "control-store";
    control_control: "control-control";
    xenstore_wire: "xenstore-wire";
    xenstore_store: "xenstore-store";
    grant_manager_grants: "grant-manager-grants";
}

fn replay_and_try(name: &str) {
    let target = cloister_fuzz::target(name).expect("a target");
    let corpus = scripts("corpus", target);
    assert!(!corpus.is_empty(), "{name} has no corpus");
    for (path, script) in corpus.iter().chain(&scripts("crashes", target)) {
        let file = path.file_name().unwrap().to_str().unwrap();
        assert_eq!(run(target, file, script), run(target, file, script), "{file} is not the same run twice");
    }
    let mut hasher = DefaultHasher::new();
    (seed(), name).hash(&mut hasher);
    let mut random = Random(hasher.finish());
    for number in 0..SCRIPTS {
        match number % 4 {
            0 => run(target, &format!("random-{number}"), &bytes(&mut random, 600)),
            _ => run(target, &format!("mutated-{number}"), &mutated(&mut random, &corpus)),
        };
    }
}

/// cargo-fuzz would change the lock file of the programs if it were not what their manifests ask
/// for.
#[test]
fn the_lock_file_of_the_programs_is_up_to_date() {
    let mut command = Command::new(env!("CARGO"));
    command.args(["metadata", "--locked", "--format-version", "1", "--manifest-path"]);
    let output = command.arg(folder("fuzz").join("Cargo.toml")).output().unwrap();
    let message = String::from_utf8_lossy(&output.stderr);
    assert!(
        output.status.success(),
        "`cargo metadata --manifest-path tests/fuzz/fuzz/Cargo.toml` updates it: {message}"
    );
}

/// Limits the files and bytes of a corpus, so that the repository stays small.
#[test]
fn each_corpus_is_small_and_belongs_to_a_target() {
    let names: BTreeSet<&str> = TARGETS.iter().map(|target| target.name).collect();
    for kind in ["corpus", "crashes"] {
        for path in entries(&folder(kind)) {
            let name = path.file_name().unwrap().to_str().unwrap();
            assert!(names.contains(name), "{} belongs to no target", path.display());
        }
    }
    for target in TARGETS {
        let corpus = scripts("corpus", target);
        let bytes: usize = corpus.iter().map(|(_, script)| script.len()).sum();
        assert!(corpus.len() <= 100 && bytes <= 200_000, "{}: {} files, {bytes} bytes", target.name, corpus.len());
    }
}

/// The programs of cargo-fuzz are those of the table.
#[test]
fn every_target_has_a_program() {
    let manifest = std::fs::read_to_string(folder("fuzz").join("Cargo.toml")).unwrap();
    for target in TARGETS {
        let entry = format!("[[bin]]\nname = \"{0}\"\npath = \"targets/{0}.rs\"\n", target.name);
        assert!(manifest.contains(&entry), "{} is not in fuzz/Cargo.toml", target.name);
        assert!(folder("fuzz/targets").join(format!("{}.rs", target.name)).is_file(), "{}", target.name);
    }
    assert_eq!(manifest.matches("[[bin]]").count(), TARGETS.len());
    assert_eq!(entries(&folder("fuzz/targets")).len(), TARGETS.len());
}
