//! The reader of archives against the programs that make and read them: GNU tar and cpio, and
//! bsdtar. `cargo xtask test` installs them.
#![forbid(unsafe_code)]

use std::collections::BTreeSet;
use std::fs;
use std::io::Write;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::symlink;
use std::path::{Path as FsPath, PathBuf};
use std::process::{Command, Stdio};

use cloister_http::archive::{Entries, Format, Kind};
use cloister_http::path::Path;
use cloister_http::site::{Found, Site, Unreadable};
use cloister_sim::seed::{Random, seed};

/// Folders of random content that are packed.
const FOLDERS: u64 = 12;
/// Archives that are changed and read.
const CHANGED: u64 = 400;

/// The ways to pack a folder: a shell command each. It runs in the folder, and `$OUT` is the
/// archive.
const PACKERS: [&str; 9] = [
    "tar --format=ustar -cf $OUT .",
    "tar --format=gnu -cf $OUT .",
    "tar --format=pax -cf $OUT .",
    "tar --format=pax --hard-dereference -cf $OUT .",
    "find . | LC_ALL=C sort | cpio --quiet -o -H newc > $OUT",
    "find . | LC_ALL=C sort -r | cpio --quiet -o -H crc > $OUT",
    "bsdtar --format=pax -cf $OUT .",
    "bsdtar --format=gnutar -cf $OUT .",
    "bsdtar --format=newc -cf $OUT .",
];

fn run(command: &mut Command) -> Vec<u8> {
    let output = command.stderr(Stdio::piped()).output().unwrap_or_else(|error| {
        panic!("{command:?}: {error}; install it with `apt-get install tar cpio libarchive-tools`")
    });
    assert!(output.status.success(), "{command:?}: {}", String::from_utf8_lossy(&output.stderr));
    output.stdout
}

/// Fills `root` with folders, files, and links of all kinds. Names have up to `longest` letters
/// more.
fn fill(root: &FsPath, longest: usize, random: &mut Random) {
    let mut folders = vec![root.to_owned()];
    let mut files: Vec<PathBuf> = Vec::new();
    for number in 0..30 {
        let folder = folders[random.below(folders.len())].clone();
        let long = "n".repeat(random.below(longest));
        let name = match random.below(5) {
            0 => format!("{number} with blanks"),
            1 => format!("{number}-\u{e4}\u{20ac}\u{1f600}"),
            2 => format!("{number}{long}"),
            _ => format!("{number}.txt"),
        };
        let path = folder.join(name);
        match random.below(8) {
            0 | 1 => {
                fs::create_dir(&path).expect("a folder");
                folders.push(path);
            }
            2 if !files.is_empty() => {
                fs::hard_link(&files[random.below(files.len())], &path).expect("a hard link");
                files.push(path);
            }
            3 => {
                let targets: Vec<String> = ["..", ".", "../..", "nothing", "/etc/passwd", "../../../../etc"]
                    .map(str::to_owned)
                    .into_iter()
                    .chain(files.iter().chain(&folders).map(|target| relative(&folder, target)))
                    .collect();
                symlink(&targets[random.below(targets.len())], &path).expect("a symbolic link");
            }
            _ => {
                let content = format!("{number}").repeat(random.below(400));
                fs::write(&path, content).expect("a file");
                files.push(path);
            }
        }
    }
}

/// Returns the path from a folder to a target, both below one root.
fn relative(folder: &FsPath, target: &FsPath) -> String {
    let common = folder.components().zip(target.components()).take_while(|(a, b)| a == b).count();
    let up = folder.components().skip(common).map(|_| "..".to_owned());
    let down = target.components().skip(common).map(|part| part.as_os_str().to_string_lossy().into_owned());
    let parts: Vec<String> = up.chain(down).collect();
    if parts.is_empty() { ".".into() } else { parts.join("/") }
}

/// Returns all paths below `folder`, also through links to folders, at most three deep.
fn paths(folder: &FsPath, depth: u32) -> Vec<PathBuf> {
    let mut found = Vec::new();
    for entry in fs::read_dir(folder).expect("a folder") {
        let path = entry.expect("an entry").path();
        if depth > 0 && path.is_dir() {
            found.extend(paths(&path, depth - 1));
        }
        found.push(path);
    }
    found
}

/// Returns what the file system has at a path: the content of a file, or that it is a folder with
/// something in it. Nothing outside `root` counts.
fn expected(root: &FsPath, path: &FsPath) -> Result<Vec<u8>, &'static str> {
    let target = fs::canonicalize(path).map_err(|_| "nothing")?;
    if !leads_inside(root, path) {
        return Err("nothing");
    }
    if target.is_file() {
        return Ok(fs::read(target).expect("a file"));
    }
    Err(if has_entries(&target) { "folder" } else { "nothing" })
}

/// Returns `true` if something below `folder` is no folder.
fn has_entries(folder: &FsPath) -> bool {
    fs::read_dir(folder).expect("a folder").any(|entry| {
        let entry = entry.expect("an entry");
        let is_folder = entry.file_type().expect("a type").is_dir();
        !is_folder || has_entries(&entry.path())
    })
}

/// Returns `true` if no link on the way to `path` is absolute or leaves `root`.
fn leads_inside(root: &FsPath, path: &FsPath) -> bool {
    let mut here = root.to_owned();
    let mut left: Vec<PathBuf> = vec![path.strip_prefix(root).expect("below the root").to_owned()];
    for _ in 0..200 {
        let Some(next) = left.pop() else { return true };
        let mut parts = next.components();
        let Some(part) = parts.next() else { continue };
        left.push(parts.as_path().to_owned());
        match part {
            std::path::Component::ParentDir if here == root => return false,
            std::path::Component::ParentDir => drop(here.pop()),
            std::path::Component::Normal(name) => {
                let there = here.join(name);
                match fs::read_link(&there) {
                    Ok(target) if target.is_absolute() => return false,
                    Ok(target) => left.push(target),
                    Err(_) => here = there,
                }
            }
            _ => {}
        }
    }
    false
}

fn found(site: &Site, path: &FsPath) -> Result<Vec<u8>, &'static str> {
    let path = Path::of_name(path.as_os_str().as_bytes().iter().copied()).expect("a path");
    match site.find(&path) {
        Found::File(file) => Ok(file.data.to_vec()),
        Found::Directory => Err("folder"),
        Found::Page | Found::Nothing => Err("nothing"),
    }
}

#[test]
fn an_archive_serves_what_its_folder_has() {
    let (mut files, mut links) = (0, 0);
    for number in 0..FOLDERS {
        let mut random = Random(seed().wrapping_add(number));
        let folder = tempfile::tempdir().expect("a folder");
        let root = fs::canonicalize(folder.path()).expect("a folder").join("root");
        fs::create_dir(&root).expect("a folder");
        // ustar has room for short names only.
        let long = number % 2 == 1;
        fill(&root, if long { 90 } else { 3 }, &mut random);
        for packer in PACKERS.into_iter().filter(|packer| !long || !packer.contains("ustar")) {
            let out = folder.path().join("archive");
            run(Command::new("sh").args(["-c", packer]).current_dir(&root).env("OUT", &out));
            let archive: &'static [u8] = fs::read(&out).expect("the archive").leak();
            let site = Site::new(archive).unwrap_or_else(|error| panic!("{packer}: {error}"));
            assert!(matches!(&site, Site::Archive(archive) if archive.complete), "{packer}");
            for path in paths(&root, 3) {
                let name = path.strip_prefix(&root).expect("below the root");
                let expected = expected(&root, &path);
                files += u64::from(expected.is_ok());
                links += u64::from(path.is_symlink());
                assert_eq!(found(&site, name), expected, "{packer}: {}", name.display());
            }
        }
    }
    println!("{files} files and {links} symbolic links compared");
    assert!(files > FOLDERS * 9 * 8 && links > FOLDERS * 9, "the folders have files and links");
}

/// A tar archive of GNU tar's, with long names, pax records and links.
fn sample(format: &str) -> Vec<u8> {
    let folder = tempfile::tempdir().expect("a folder");
    let root = folder.path();
    let length = if format == "ustar" { 20 } else { 40 };
    fs::create_dir(root.join("d")).expect("a folder");
    for (name, content) in [("a", "one"), ("d/b", "two"), (&*"long".repeat(length), "three"), ("\u{e4}", "four")] {
        fs::write(root.join(name), content).expect("a file");
    }
    fs::hard_link(root.join("a"), root.join("z")).expect("a link");
    symlink("d/b", root.join("s")).expect("a link");
    run(Command::new("tar").args([&format!("--format={format}"), "--sort=name", "-cf", "-", "."]).current_dir(root))
}

/// Makes the checksum of the header at `at` right again.
fn seal(archive: &mut [u8], at: usize) {
    let Some(header) = archive.get_mut(at..at + 512) else { return };
    header[148..156].fill(b' ');
    let sum: u32 = header.iter().map(|byte| u32::from(*byte)).sum();
    header[148..156].copy_from_slice(format!("{sum:06o}\0 ").as_bytes());
}

/// Changes what matters: sizes, kinds, names, records, and the order of blocks.
fn change(archive: &mut Vec<u8>, random: &mut Random) {
    let blocks = archive.len() / 512;
    let at = random.below(blocks) * 512;
    match random.below(6) {
        0 => archive[at + 156] = b"0123567DKLMNSVXgxZ\0"[random.below(19)],
        1 => {
            let size = [0, 1, 511, 512, 513, 1024, 5000][random.below(7)];
            archive[at + 124..at + 136].copy_from_slice(format!("{size:011o}\0").as_bytes());
        }
        2 => {
            let records =
                ["13 size=1024\n", "9 size=0\n", "10 path=q\n8 path=\n", "11 path=r\n", "x", "16 linkpath=d/b\n"];
            let records = records[random.below(6)];
            let mut block = vec![0; 1024];
            block[..2].copy_from_slice(b"px");
            block[124..136].copy_from_slice(format!("{:011o}\0", records.len()).as_bytes());
            block[156] = b"xg"[random.below(2)];
            block[257..265].copy_from_slice(b"ustar\x0000");
            block[512..512 + records.len()].copy_from_slice(records.as_bytes());
            seal(&mut block, 0);
            archive.splice(at..at, block);
        }
        3 => {
            let other = random.below(blocks) * 512;
            let block = archive[other..other + 512].to_vec();
            archive.splice(at..at, block);
        }
        4 => archive[at + random.below(512)] = random.word() as u8,
        _ => archive[at + random.below(100)] = b"a/."[random.below(3)],
    }
    seal(archive, at);
}

/// Returns a name as both sides show it. GNU tar shows a folder with a slash.
fn shown(name: &str) -> String {
    let mut name = name;
    while let Some(rest) = name.strip_prefix("./").or_else(|| name.strip_prefix('/')) {
        name = rest;
    }
    name.to_owned()
}

#[test]
fn no_name_is_found_that_gnu_tar_does_not_list() {
    let (mut names, mut read) = (0, 0);
    for number in 0..CHANGED {
        let mut random = Random(seed().wrapping_add(number));
        let mut archive = sample(["gnu", "pax", "ustar"][number as usize % 3]);
        (0..=random.below(3)).for_each(|_| change(&mut archive, &mut random));
        let mut tar = Command::new("tar");
        tar.args(["-t", "--quoting-style=literal"]).env("LC_ALL", "C.UTF-8").stdin(Stdio::piped());
        let mut tar = tar.stdout(Stdio::piped()).stderr(Stdio::null()).spawn().expect("tar");
        let mut input = tar.stdin.take().expect("a pipe");
        let bytes = archive.clone();
        let writer = std::thread::spawn(move || drop(input.write_all(&bytes)));
        let output = tar.wait_with_output().expect("tar");
        writer.join().expect("it ends");
        let listed: BTreeSet<String> = String::from_utf8_lossy(&output.stdout).lines().map(shown).collect();
        if Format::of(&archive) != Some(Format::Tar) {
            continue;
        }
        read += 1;
        for entry in Entries::new(&archive, Format::Tar).filter(|entry| !matches!(entry.kind, Kind::Other)) {
            let name: Vec<u8> = entry.name.bytes().collect();
            let Ok(name) = String::from_utf8(name) else { continue };
            // The listing has a name in a line, and no marks of its ends. What has no name, or that of
            // the folder itself, can not be asked for.
            if name.chars().any(char::is_control) || matches!(&*name, "" | ".") {
                continue;
            }
            names += 1;
            assert!(listed.contains(&name), "archive {number} of seed {:#x}: {name:?} is not in {listed:?}", seed());
        }
    }
    println!("{names} names in {read} changed archives");
    assert!(names > read * 2, "changed archives still have entries");
}

#[test]
fn an_archive_with_a_sparse_file_is_refused() {
    let folder = tempfile::tempdir().expect("a folder");
    fs::write(folder.path().join("a"), "before").expect("a file");
    fs::File::create(folder.path().join("hole")).and_then(|file| file.set_len(1 << 20)).expect("a sparse file");
    for format in ["--format=gnu", "--format=pax --sparse-version=0.1", "--format=pax --sparse-version=1.0"] {
        let mut tar = Command::new("tar");
        let archive = run(tar.arg("-Scf-").args(format.split(' ')).args(["a", "hole"]).current_dir(folder.path()));
        let Err(unreadable) = Site::new(archive.leak()) else { panic!("{format}") };
        assert_eq!(unreadable, Unreadable::Unsupported("a sparse file", 1), "{format}");
    }
}
