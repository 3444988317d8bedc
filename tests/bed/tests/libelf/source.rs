//! Builds Xen's own libelf from Debian's source package.
//!
//! The package is downloaded when the test runs, with the checksum of Debian's signed lists, into
//! the bed's cache. Nothing of it is part of this repository, and nothing of the system changes:
//! apt gets its own folders.

use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use cloister_bed::packages;

/// Debian packages that build it.
const TOOLS: [&str; 3] = ["gcc", "libc6-dev", "xz-utils"];
/// The files of the source package that are used: libelf, the public headers, and the only private
/// ones that libelf includes.
const FILES: [&str; 4] =
    ["*/xen/common/libelf/*", "*/xen/include/public/*", "*/xen/include/xen/libelf.h", "*/xen/include/xen/elfstructs.h"];

/// Returns the path of the built loader.
pub fn loader() -> PathBuf {
    let cache = cloister_bed::bed_dir().join("cache/xen-source");
    for folder in ["lists/partial", "cache/archives/partial", "parts", "source"] {
        std::fs::create_dir_all(cache.join(folder)).expect("a folder of the cache");
    }
    packages::ensure_also(&TOOLS, &mut |text| println!("{text}")).expect("the tools");
    let archive = archive(&cache.join("source")).unwrap_or_else(|| download(&cache));
    let source = cache.join("unpacked");
    let _ = std::fs::remove_dir_all(&source);
    std::fs::create_dir_all(&source).expect("a folder of the cache");
    let mut tar = Command::new("tar");
    tar.args(["--extract", "--strip-components=1", "--wildcards", "--file"]).arg(&archive);
    run(tar.arg("--directory").arg(&source).args(FILES));
    build(&source)
}

/// Builds the loader of the tests with libelf. The sanitizers end it at an access that is not
/// allowed.
fn build(source: &Path) -> PathBuf {
    let (include, loader) = (source.join("include/xen"), source.join("loader"));
    std::fs::create_dir_all(&include).expect("a folder of the cache");
    // The names by which the tools of Xen include these headers (tools/include/Makefile).
    run(Command::new("cp")
        .args(["--recursive", "--no-target-directory"])
        .arg(source.join("xen/include/public"))
        .arg(&include));
    std::fs::create_dir_all(include.join("libelf")).expect("a folder of the cache");
    for name in ["libelf.h", "elfstructs.h"] {
        std::fs::copy(source.join("xen/include/xen").join(name), include.join("libelf").join(name)).expect("a header");
    }
    let libelf = source.join("xen/common/libelf");
    let mut gcc = Command::new("gcc");
    // FUZZ_NO_LIBXC leaves out libxc, as tools/fuzz/libelf/Makefile does.
    gcc.args(["-O1", "-g", "-fsanitize=address,undefined", "-DFUZZ_NO_LIBXC", "-D__XEN_TOOLS__", "-Wno-pointer-sign"]);
    gcc.arg("-I").arg(source.join("include")).arg("-iquote").arg(&libelf).arg("-o").arg(&loader);
    gcc.arg(Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/libelf/loader.c"));
    run(gcc.args(["tools", "loader", "dominfo"].map(|part| libelf.join(format!("libelf-{part}.c")))));
    loader
}

/// Returns the archive in a folder, if one was downloaded before.
fn archive(folder: &Path) -> Option<PathBuf> {
    let entries = std::fs::read_dir(folder).ok()?;
    let mut paths = entries.filter_map(|entry| Some(entry.ok()?.path()));
    paths.find(|path| path.to_string_lossy().ends_with(".orig.tar.xz"))
}

/// Downloads the source package: of the installed version of Xen if it is there, otherwise of
/// another one that Debian has.
fn download(cache: &Path) -> PathBuf {
    write_sources(&cache.join("parts"));
    run(apt("apt-get", cache).arg("update"));
    let listed = run(apt("apt-cache", cache).args(["showsrc", "--only-source", "xen"]));
    let mut versions: Vec<&str> = listed.lines().filter_map(|line| line.strip_prefix("Version: ")).collect();
    let installed = packages::ensure(&mut |text| println!("{text}")).expect("the packages of the bed");
    let own = installed.version(&format!("xen-utils-{}", installed.xen)).unwrap_or_default().to_owned();
    versions.sort_by_key(|version| *version != own);
    let folder = cache.join("source");
    for version in &versions {
        let mut command = apt("apt-get", cache);
        command.args(["source", "--download-only", "--tar-only", "--only-source", &format!("xen={version}")]);
        let done = command.current_dir(&folder).output().expect("apt-get runs");
        if let (true, Some(archive)) = (done.status.success(), archive(&folder)) {
            println!("libelf of Xen {version}; the installed one is {own}");
            return archive;
        }
        println!("no source of Xen {version}: {}", String::from_utf8_lossy(&done.stderr));
    }
    panic!("the source of Xen cannot be downloaded; Debian lists {versions:?}");
}

/// Returns an apt command with folders of its own.
fn apt(program: &str, cache: &Path) -> Command {
    let mut command = Command::new(program);
    let mut option = |name: &str, value: &Path| {
        command.arg("-o").arg(format!("{name}={}", value.display()));
    };
    option("Dir::Etc::SourceList", Path::new("/dev/null"));
    option("Dir::Etc::SourceParts", &cache.join("parts"));
    option("Dir::State::Lists", &cache.join("lists"));
    option("Dir::Cache", &cache.join("cache"));
    // The folders belong to the user of the test.
    command.args(["-o", "APT::Sandbox::User="]);
    command.env("DEBIAN_FRONTEND", "noninteractive").stdin(Stdio::null());
    command
}

/// Writes apt's list of places, with the sources in place of the packages.
fn write_sources(parts: &Path) {
    let more =
        std::fs::read_dir("/etc/apt/sources.list.d").into_iter().flatten().filter_map(|entry| Some(entry.ok()?.path()));
    for (number, path) in [PathBuf::from("/etc/apt/sources.list")].into_iter().chain(more).enumerate() {
        let Ok(text) = std::fs::read_to_string(&path) else { continue };
        let (suffix, text) = match path.extension().and_then(|extension| extension.to_str()) {
            Some("list") => ("list", text.lines().map(|line| line.replacen("deb ", "deb-src ", 1) + "\n").collect()),
            Some("sources") => (
                "sources",
                text.replace("\nTypes: deb\n", "\nTypes: deb-src\n").replacen("Types: deb\n", "Types: deb-src\n", 1),
            ),
            _ => continue,
        };
        // Other suppliers have no sources of Xen.
        if text.contains("debian") {
            std::fs::write(parts.join(format!("{number}.{suffix}")), text).expect("the list of places");
        }
    }
}

fn run(command: &mut Command) -> String {
    let output = command.output().unwrap_or_else(|error| panic!("{command:?}: {error}"));
    let text = String::from_utf8_lossy(&output.stderr).into_owned();
    assert!(output.status.success(), "{command:?}: {text}");
    String::from_utf8_lossy(&output.stdout).into_owned()
}
