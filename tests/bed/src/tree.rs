//! Collects the files of an initramfs: programs with their libraries, kernel modules, and added
//! files.

use std::collections::{BTreeMap, BTreeSet};
use std::io::Write;
use std::path::{Path, PathBuf};

use cloister_cpio::Archive;
use flate2::Compression;
use flate2::write::GzEncoder;

use crate::BedError;
use crate::elf;
use crate::error::AtPath;
use crate::kmod::{self, Modules};

/// The root folders that are links into `/usr`, as in Debian.
const LINKS: [&str; 4] = ["bin", "sbin", "lib", "lib64"];
const FOLDERS: [&str; 9] = ["dev", "etc", "modules", "proc", "run", "sys", "tmp", "usr/sbin", "usr/lib64"];
const LIBRARIES: [&str; 4] = ["/usr/lib/x86_64-linux-gnu", "/lib/x86_64-linux-gnu", "/usr/lib", "/lib64"];

/// A root file system in memory.
#[derive(Debug, Default)]
pub struct Tree {
    /// The mode and content of each file, by its path without leading `/`.
    files: BTreeMap<String, (u32, Vec<u8>)>,
    folders: BTreeSet<String>,
}

impl Tree {
    /// Creates a tree with the folders that every system has, and busybox.
    pub fn new() -> Result<Self, BedError> {
        let mut tree = Self::default();
        for folder in FOLDERS {
            tree.folder(folder);
        }
        let busybox = ["/usr/bin/busybox", "/bin/busybox"].iter().map(Path::new).find(|path| path.is_file());
        let busybox =
            busybox.ok_or_else(|| BedError::Distribution("busybox-static has no /usr/bin/busybox".to_owned()))?;
        tree.copy(busybox, "usr/bin/busybox")?;
        Ok(tree)
    }

    /// Adds a file with this content.
    pub fn file(&mut self, name: &str, mode: u32, content: impl Into<Vec<u8>>) {
        self.files.insert(name.to_owned(), (mode, content.into()));
    }

    /// Adds an empty folder. The folders of files need no call.
    pub fn folder(&mut self, name: &str) {
        self.folders.insert(name.to_owned());
    }

    /// Adds programs of this machine at their own paths, with the libraries that they need and
    /// those of `opened_later`, which are opened by name at run time. Libraries are looked for in
    /// `folders` first.
    pub fn programs(
        &mut self,
        programs: &[PathBuf],
        opened_later: &[&str],
        folders: &[PathBuf],
    ) -> Result<(), BedError> {
        self.libraries(programs, opened_later, folders)?;
        programs.iter().try_for_each(|path| self.copy(path, &place(path)))
    }

    /// Adds the libraries that programs need.
    pub fn libraries(
        &mut self,
        programs: &[PathBuf],
        opened_later: &[&str],
        folders: &[PathBuf],
    ) -> Result<(), BedError> {
        let folders: Vec<PathBuf> = folders.iter().cloned().chain(LIBRARIES.map(PathBuf::from)).collect();
        let mut wanted = elf::closure(programs, &folders)?;
        wanted.extend(opened_later.iter().filter_map(|name| elf::find(name, &folders)));
        wanted.iter().try_for_each(|path| self.copy(path, &place(path)))
    }

    /// Adds one program or other file of this machine at `name`.
    pub fn copy(&mut self, path: &Path, name: &str) -> Result<(), BedError> {
        let content = std::fs::read(path).at(path)?;
        self.file(name, 0o755, content);
        Ok(())
    }

    /// Adds kernel modules and those that they need, as `modules/NN-name.ko`. The number is the
    /// order in which to load them.
    pub fn modules(&mut self, kernel: &str, names: &[&str]) -> Result<(), BedError> {
        let folder = kmod::folder(kernel);
        for (index, module) in Modules::of(&folder)?.in_load_order(names)?.iter().enumerate() {
            let file = Path::new(module).file_name().unwrap_or_default().to_string_lossy();
            let name = file.split('.').next().unwrap_or_default();
            self.file(&format!("modules/{index:02}-{name}.ko"), 0o644, kmod::content(&folder.join(module))?);
        }
        Ok(())
    }

    /// Returns the compressed archive. The same tree gives the same bytes.
    pub fn pack(&self) -> std::io::Result<Vec<u8>> {
        let mut folders = BTreeSet::new();
        for name in self.files.keys().cloned().chain(self.folders.iter().map(|folder| format!("{folder}/"))) {
            let ends = name.char_indices().filter(|(_, c)| *c == '/').map(|(at, _)| at);
            folders.extend(ends.map(|at| name[..at].to_owned()));
        }
        // Level 1: the kernel unpacks it in software emulation, and the file is read once.
        let mut archive = Archive::new(GzEncoder::new(Vec::new(), Compression::fast()));
        for folder in &folders {
            archive.folder(folder)?;
        }
        for folder in LINKS {
            archive.link(folder, &format!("usr/{folder}"))?;
        }
        // c 5 1: /init prints before it has mounted devtmpfs.
        archive.device("dev/console", 5, 1)?;
        for (name, (mode, content)) in &self.files {
            archive.file(name, *mode, content)?;
        }
        let mut packed = archive.finish()?;
        packed.flush()?;
        packed.finish()
    }
}

/// Returns the path in a tree of a file of this machine.
fn place(path: &Path) -> String {
    let text = path.to_string_lossy();
    let text = text.trim_start_matches('/');
    match LINKS.iter().any(|folder| text.strip_prefix(folder).is_some_and(|rest| rest.starts_with('/'))) {
        true => format!("usr/{text}"),
        false => text.to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn files_of_the_root_folders_go_where_the_links_point() {
        assert_eq!(place(Path::new("/lib64/ld-linux-x86-64.so.2")), "usr/lib64/ld-linux-x86-64.so.2");
        assert_eq!(place(Path::new("/usr/bin/ping")), "usr/bin/ping");
        assert_eq!(place(Path::new("/binary/x")), "binary/x");
    }

    #[test]
    fn packing_is_deterministic() {
        let mut tree = Tree::default();
        tree.file("a/b/c", 0o644, b"x");
        assert_eq!(tree.pack().expect("pack"), tree.pack().expect("pack"));
    }
}
