//! The tampered images and the honest one as guests of real Xen, in one bed.

use std::path::Path;
use std::time::Duration;

use cloister_bed::{Bed, Config, Guest, direct};
use cloister_policy::verify::{Against, verify};

use crate::{is_refused, manifest, shipped, tampered};

/// The time within which a guest must write its lines.
const LIMIT: Duration = Duration::from_secs(60);

fn text(path: &Path) -> String {
    String::from_utf8_lossy(&std::fs::read(path).unwrap_or_default()).into_owned()
}

/// Waits until `condition` holds while the bed lives. A guest may be gone by then.
fn wait(bed: &Bed, what: &str, condition: &dyn Fn() -> bool) {
    let began = std::time::Instant::now();
    while !condition() {
        bed.alive(what).unwrap_or_else(|error| panic!("{error}"));
        assert!(began.elapsed() < LIMIT, "{what}\n{}", text(&bed.xen_log()));
        std::thread::sleep(Duration::from_millis(50));
    }
}

/// Xen boots each of the images that `verify` refuses, and what runs is not the kernel. Of the
/// honest image, the kernel prints the hashes that `verify` names.
#[test]
fn xen_runs_other_code_of_what_verify_refuses_and_the_honest_image_as_verified() {
    let original = shipped();
    let image = cloister_bed::image("default").unwrap_or_else(|error| panic!("{error}"));
    let honest = Guest::new(image);
    // Three images more, one with 4 MiB of headers.
    let config = Config { files_bytes: 16 << 20, ..Config::for_guest("tampered", &honest) };
    let bed = Bed::start(&config, &mut |_| {}).unwrap_or_else(|error| panic!("{error}"));
    for tampered in tampered::all(&original) {
        is_refused(&tampered);
        let path = bed.folder().join(format!("{}.elf", tampered.name));
        std::fs::write(&path, &tampered.file).expect("a file");
        let guest = Guest { name: tampered.name.to_owned(), mac: None, ..Guest::new(path) };
        bed.create(&guest, &mut |_| {}).unwrap_or_else(|error| panic!("{error}"));
        let wrote = || direct::lines(&text(&bed.xen_log())).contains(&tampered.says.as_str());
        wait(&bed, &tampered.says, &wrote);
        let console = text(&bed.guest_log(&guest.name)) + &direct::lines(&text(&bed.xen_log())).join("\n");
        assert!(!console.contains("cloister: "), "{}: the kernel ran\n{console}", tampered.name);
    }
    let release = manifest();
    let verdict = verify(&original, &Against { release: Some(&release), ..Against::default() }).expect("an image");
    assert!(verdict.holds() && verdict.shown.release, "{}", verdict.text());
    bed.create(&honest, &mut |_| {}).unwrap_or_else(|error| panic!("{error}"));
    let console = || text(&bed.guest_log(&honest.name));
    wait(&bed, "the tables' hash on the console", &|| console().contains("tables SHA-256 "));
    for (what, hash) in [("policy", verdict.policy_hash), ("tables", verdict.tables_hash)] {
        let hash: String = hash.iter().map(|byte| format!("{byte:02x}")).collect();
        let printed = |line: &str| line.contains(what) && line.contains(&hash);
        assert!(console().lines().any(printed), "{what} {hash}\n{}", console());
    }
    bed.finish(&[&honest.name]);
}
