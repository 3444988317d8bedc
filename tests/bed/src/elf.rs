//! Finds the shared libraries that a program of the distribution needs.

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};

use object::LittleEndian;
use object::elf::{self, FileHeader64};
use object::read::elf::{Dyn, FileHeader, ProgramHeader};

use crate::BedError;
use crate::error::AtPath;

type Header = FileHeader64<LittleEndian>;

/// The requests of an ELF file to the dynamic loader.
#[derive(Debug, Default)]
struct Needs {
    libraries: Vec<String>,
    interpreter: Option<String>,
}

/// Returns the files (libraries and loader) that `programs` need. They are looked for in `folders`,
/// in that order.
pub fn closure(programs: &[PathBuf], folders: &[PathBuf]) -> Result<BTreeSet<PathBuf>, BedError> {
    let mut found = BTreeSet::new();
    let mut pending = programs.to_vec();
    while let Some(path) = pending.pop() {
        let bytes = std::fs::read(&path).at(&path)?;
        let needs = needs(&bytes).map_err(|error| {
            BedError::Distribution(format!("{} is not a readable ELF file: {error}", path.display()))
        })?;
        found.extend(needs.interpreter.map(PathBuf::from));
        for name in needs.libraries {
            let library = find(&name, folders).ok_or_else(|| {
                BedError::Distribution(format!("{} needs {name}, which no package here provides", path.display()))
            })?;
            if found.insert(library.clone()) {
                pending.push(library);
            }
        }
    }
    Ok(found)
}

/// Returns the first file of this name in `folders`.
pub fn find(name: &str, folders: &[PathBuf]) -> Option<PathBuf> {
    folders.iter().map(|folder| folder.join(name)).find(|path: &PathBuf| Path::is_file(path))
}

fn needs(bytes: &[u8]) -> Result<Needs, object::read::Error> {
    let header = Header::parse(bytes)?;
    let endian = header.endian()?;
    let mut needs = Needs::default();
    let sections = header.sections(endian, bytes)?;
    for segment in header.program_headers(endian, bytes)? {
        if let Some(name) = segment.interpreter(endian, bytes)? {
            needs.interpreter = Some(String::from_utf8_lossy(name).into_owned());
        }
    }
    let Some((entries, link)) = sections.dynamic(endian, bytes)? else { return Ok(needs) };
    let strings = sections.strings(endian, bytes, link)?;
    for entry in entries {
        if entry.tag(endian) == elf::DT_NEEDED {
            needs.libraries.push(String::from_utf8_lossy(entry.string(endian, strings)?).into_owned());
        }
    }
    Ok(needs)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn this_test_program_needs_a_loader_and_the_c_library() {
        let program = std::env::current_exe().expect("own path");
        let needs = needs(&std::fs::read(program).expect("read")).expect("parse");
        assert!(needs.interpreter.is_some_and(|name| name.contains("ld-linux")));
        assert!(needs.libraries.iter().any(|name| name == "libc.so.6"));
    }

    #[test]
    fn a_missing_library_is_named() {
        let program = std::env::current_exe().expect("own path");
        let error = closure(&[program], &[]).expect_err("no folder to look in");
        assert!(error.to_string().contains(".so"), "{error}");
    }

    #[test]
    fn what_is_no_elf_file_is_refused() {
        assert!(needs(b"#!/bin/sh\n").is_err());
    }
}
