//! Code that is not the reviewed code: without a manifest the verdict says that it was not
//! compared, with one it is refused, whatever the seal says. And programs that the policy itself
//! pins.

mod common;

use cloister_policy::verify::{Against, Verdict, verify};
use cloister_policy::{PackError, Program, hexadecimal, pack, parse};
use common::image::{NAMES, image, kernel, pack_all, program};
use common::release::release_of;
use common::{Elf, physical, pvh_note};

fn verified(file: &[u8], manifest: bool) -> Verdict {
    let release = release_of(&image());
    verify(file, &Against { release: manifest.then_some(&release), ..Against::default() }).unwrap()
}

/// Checks that an image with other code verifies by itself, but not as the release, and that the
/// verdict names the part.
#[track_caller]
fn is_seen(file: &[u8], part: &str) {
    let alone = verified(file, false);
    assert!(alone.holds(), "{}", alone.text());
    let text = alone.text();
    assert!(
        text.contains("\nnot shown: that the code of the kernel and of the services is the code that was reviewed")
    );
    assert!(!text.contains("verified"), "{text}");
    let compared = verified(file, true);
    let errors: Vec<_> = compared.findings.iter().filter(|finding| finding.is_error()).collect();
    assert!(errors.iter().all(|error| error.about == "release"), "{}", compared.text());
    let parts: Vec<&str> = errors.iter().filter_map(|error| error.message.split(" is another: ").next()).collect();
    assert_eq!(parts, [part, "the file"]);
    assert!(compared.text().ends_with("refused: 2 errors\n"));
}

fn with_kernel(kernel: &Elf) -> Vec<u8> {
    pack_all(kernel, &[program(0), program(1), program(2)])
}

#[test]
fn the_release_itself_is_shown_to_be_it() {
    let verdict = verified(&image(), true);
    assert!(verdict.holds() && verdict.shown.release && !verdict.shown.signed);
    let text = verdict.text();
    assert!(text.contains("\nshown: each part of the image is the one that the manifest names\n"), "{text}");
    assert!(text.ends_with("\nnot shown: who wrote the manifest; --key KEY checks its signature\n"), "{text}");
    assert_eq!(verdict.json()["not-shown"], serde_json::json!(["author of the manifest"]));
}

#[test]
fn a_flipped_bit_of_the_kernels_text() {
    for (part, at) in [(0, 0x155), (1, 0), (1, 0xFFF), (3, 0x17)] {
        let mut changed = kernel();
        changed.parts[part].bytes[at] ^= 0x10;
        is_seen(&with_kernel(&changed), "the kernel");
    }
}

#[test]
fn a_program_replaced_by_a_loop() {
    let mut changed = program(1);
    let text = &mut changed.parts[1].bytes;
    text[15..].fill(0xCC);
    // The runtime's `_start` calls what follows it: `jmp` to itself.
    text[9..11].copy_from_slice(&[0xEB, 0xFE]);
    is_seen(&pack_all(&kernel(), &[program(0), changed, program(2)]), "the program of manager");
}

/// The kernel's code reads a copy of the tables, and the pointer at the known place stays right.
#[test]
fn a_decoy_of_the_tables_pointer() {
    let mut changed = kernel();
    let word = |at| u64::from_le_bytes(physical(&image(), at, 8).try_into().unwrap());
    let tables = physical(&image(), word(0x10_2000), 0x200);
    changed.parts[2].bytes[0x100..0x300].copy_from_slice(&tables);
    // `lea rax, [rip + …]` instead of the load of the pointer.
    changed.parts[1].bytes[..3].copy_from_slice(&[0x48, 0x8D, 0x05]);
    is_seen(&with_kernel(&changed), "the kernel");
}

#[test]
fn another_entry_in_the_boot_code() {
    let mut changed = kernel();
    let note = pvh_note(0x10_0080);
    changed.entry = 0x10_0080;
    changed.parts[0].bytes[..note.len()].copy_from_slice(&note);
    is_seen(&with_kernel(&changed), "the kernel");
}

const GOOD: &str = include_str!("good.toml");

/// Returns the policy that pins the program of `manager` to a hash.
fn pinning(hash: &str) -> String {
    let line = "program = \"cloister-manager\"\n";
    assert!(GOOD.contains(line));
    GOOD.replace(line, &format!("{line}program-sha256 = \"{hash}\"\n"))
}

fn manager_hash() -> String {
    hexadecimal(release_of(&image()).hashes.program("manager").unwrap())
}

fn pack_by(policy: &str, manager: &Elf) -> Result<Vec<u8>, PackError> {
    let files = [program(0).build(), manager.build(), program(2).build()];
    let given: Vec<Program<'_>> = NAMES.iter().zip(&files).map(|(service, elf)| Program { service, elf }).collect();
    pack(&parse("pinning.toml", policy).unwrap(), &kernel().build(), &given)
}

#[test]
fn a_policy_pins_a_program() {
    let policy = pinning(&manager_hash());
    let file = pack_by(&policy, &program(1)).unwrap();
    let verdict = verify(&file, &Against { policy: Some(&policy), ..Against::default() }).unwrap();
    assert!(verdict.holds(), "{}", verdict.text());
    assert!(verdict.text().contains("\nshown: the code of manager is what the policy pins\n"), "{}", verdict.text());
    assert!(verdict.text().contains("each service that the policy does not pin"), "{}", verdict.text());
    let mut other = program(1);
    other.parts[1].bytes[0x100] ^= 1;
    let refused = pack_by(&policy, &other).unwrap_err();
    assert!(matches!(&refused, PackError::Pinned { service, .. } if service == "manager"), "{refused}");
}

/// The packer refuses to make this image; another one would not.
#[test]
fn an_image_with_another_program_than_the_pinned_one_is_refused() {
    let policy = pinning(&manager_hash());
    let mut file = pack_by(&policy, &program(1)).unwrap();
    let address = program(1).parts[1].virtual_address;
    let (_, all) = common::headers(&file);
    let text = all.iter().find(|header| header.virtual_address == address).unwrap();
    common::fill_up(&mut file, text.physical_address);
    file[text.offset as usize + 0x200] = 0x90;
    common::cut_zeros(&mut file, text.physical_address);
    common::seal(&mut file);
    let verdict = verify(&file, &Against::default()).unwrap();
    let errors: Vec<String> =
        verdict.findings.iter().filter(|finding| finding.is_error()).map(ToString::to_string).collect();
    assert!(errors.len() == 1 && errors[0].contains("pin: the policy pins the program of manager to"), "{errors:?}");
    assert!(verdict.shown.pinned.is_empty());
}

#[test]
fn a_pin_is_part_of_the_policy() {
    let policy = |text: &str| parse("p", text).unwrap();
    let hash = manager_hash();
    let pinned = policy(&pinning(&hash));
    assert_ne!(pinned.hash(), policy(GOOD).hash());
    assert!(pinned.canonical().contains(&format!("program-sha256 = \"{hash}\"\npriority")));
    assert_eq!(policy(pinned.canonical()).canonical(), pinned.canonical());
    let difference = |old: &str, new: &str| cloister_policy::diff(&policy(old), &policy(new));
    for (old, new, class, sentence) in [
        (GOOD.to_owned(), pinning(&hash), "narrowing", format!("the program of manager is pinned to {hash}")),
        (pinning(&hash), GOOD.to_owned(), "widening", format!("the program of manager is no longer pinned to {hash}")),
        (pinning(&hash), pinning(&"0".repeat(64)), "incomparable", format!("was pinned to {hash}, and is to 0000")),
    ] {
        let found = difference(&old, &new).to_string();
        assert!(found.starts_with(class) && found.contains(&sentence), "{found}");
    }
    assert!(difference(&pinning(&hash), &pinning(&hash)).to_string().starts_with("equivalent"));
    let page = pinned.show(cloister_policy::ShowFormat::Text, &cloister_policy::About::default());
    assert!(page.contains(&format!("cloister-manager, only of SHA-256 {hash}")), "{page}");
}
