//! `symbolize`: adds function, file and line to the addresses in fault reports.

use std::collections::HashMap;
use std::io::{BufRead, BufReader, Write};
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use addr2line::Loader;
use anyhow::{Context, Result, anyhow, bail};
use clap::Args;

use crate::image::{self, DEFAULT_POLICY};

#[derive(Args)]
pub struct Arguments {
    /// The log to read; standard input without it
    #[arg(value_name = "LOG")]
    log: Option<PathBuf>,
    /// The policy of the image that wrote the log
    #[arg(long, value_name = "FILE", default_value = DEFAULT_POLICY)]
    policy: PathBuf,
}

pub fn run(arguments: &Arguments) -> Result<ExitCode> {
    let folder = image::folder(&arguments.policy)?;
    if !folder.join("kernel.elf").is_file() {
        bail!(
            "{} has no symbols: run `cargo xtask build --policy {}` first",
            folder.display(),
            arguments.policy.display()
        );
    }
    let input: Box<dyn BufRead> = match &arguments.log {
        Some(path) => Box::new(BufReader::new(std::fs::File::open(path).with_context(|| path.display().to_string())?)),
        None => Box::new(std::io::stdin().lock()),
    };
    let mut symbols = Symbols::new(folder);
    let mut output = std::io::stdout().lock();
    let mut subject = None;
    for line in input.split(b'\n') {
        let line = String::from_utf8_lossy(&line?).into_owned();
        writeln!(output, "{line}")?;
        let Some((program, address)) = address_in(&line, &mut subject) else { continue };
        for text in symbols.describe(&program, address)? {
            writeln!(output, "    {text}")?;
        }
    }
    Ok(ExitCode::SUCCESS)
}

/// Returns the program and the address that a log line names, if it belongs to a fault report.
///
/// A report begins with `fault: <service> … rip=0x…` or `kernel fault: … rip=0x…`. The lines
/// ` at 0x…` after it are its callers. `subject` keeps the program of the current report.
fn address_in(line: &str, subject: &mut Option<String>) -> Option<(String, u64)> {
    let (program, rest) = if let Some(at) = line.find("kernel fault: ") {
        ("kernel", &line[at..])
    } else if let Some(at) = line.find("fault: ") {
        let rest = &line[at + "fault: ".len()..];
        (rest.split_whitespace().next()?.trim_end_matches(':'), rest)
    } else {
        let address = parse_hexadecimal(line.trim_end().rsplit_once(" at 0x")?.1)?;
        return subject.clone().map(|program| (program, address));
    };
    *subject = Some(program.to_owned());
    let digits = rest.split_once("rip=0x")?.1;
    Some((program.to_owned(), parse_hexadecimal(digits)?))
}

/// Parses the hexadecimal number at the beginning of a text.
fn parse_hexadecimal(text: &str) -> Option<u64> {
    let end = text.find(|c: char| !c.is_ascii_hexdigit()).unwrap_or(text.len());
    u64::from_str_radix(&text[..end], 16).ok()
}

/// The symbols of an image's programs, loaded when first needed.
pub struct Symbols {
    folder: PathBuf,
    loaded: HashMap<String, Option<Loader>>,
}

impl Symbols {
    /// Prepares the symbols of the programs in an image's folder.
    pub fn new(folder: PathBuf) -> Symbols {
        Symbols { folder, loaded: HashMap::new() }
    }

    /// Returns the function at an address of a program and those that it is inlined in, the
    /// innermost first.
    pub fn functions(&mut self, program: &str, address: u64) -> Result<Vec<String>> {
        let place = |line: String| line.rsplit_once(" (").map_or(line.clone(), |(name, _)| name.to_owned());
        Ok(self.describe(program, address)?.into_iter().map(place).collect())
    }

    /// Returns a line for the function at an address, and one for each function that it is inlined
    /// in.
    fn describe(&mut self, program: &str, address: u64) -> Result<Vec<String>> {
        let Some(loader) = self.loader(program)? else { return Ok(vec![format!("(no symbols of {program})")]) };
        // addr2line adds one to the address, which would overflow.
        if address == u64::MAX {
            return Ok(vec!["(no function there)".to_owned()]);
        }
        let unreadable = |error| anyhow!("the symbols of {program} are unreadable: {error}");
        let mut lines = Vec::new();
        let mut frames = loader.find_frames(address).map_err(|error| unreadable(error.to_string()))?;
        while let Some(frame) = frames.next().map_err(|error| unreadable(error.to_string()))? {
            let name = match &frame.function {
                Some(name) => name.raw_name().map_err(|error| unreadable(error.to_string()))?.into_owned(),
                None => continue,
            };
            let place = frame.location.as_ref().map(|place| (place.file.unwrap_or("?"), place.line.unwrap_or(0)));
            lines.push(text(&name, place));
        }
        if lines.is_empty() {
            let name = loader.find_symbol(address).unwrap_or("(no function there)").to_owned();
            lines.push(text(&name, None));
        }
        Ok(lines)
    }

    fn loader(&mut self, program: &str) -> Result<Option<&Loader>> {
        if !self.loaded.contains_key(program) {
            let loader = load(&self.folder, program)?;
            self.loaded.insert(program.to_owned(), loader);
        }
        Ok(self.loaded.get(program).and_then(Option::as_ref))
    }
}

/// Loads a program's symbols. A log may contain anything, so only plain names are looked up, never
/// paths.
fn load(folder: &Path, program: &str) -> Result<Option<Loader>> {
    let plain = program.chars().all(|c| c.is_ascii_alphanumeric() || c == '-');
    let path = folder.join(format!("{program}.elf"));
    if !plain || !path.is_file() {
        return Ok(None);
    }
    Loader::new(&path).map(Some).map_err(|error| anyhow!("{}: {error}", path.display()))
}

fn text(name: &str, place: Option<(&str, u32)>) -> String {
    let name = format!("{:#}", rustc_demangle::demangle(name));
    match place {
        Some((file, line)) => format!("{name} ({file}:{line})"),
        None => name,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reports_name_program_and_address() {
        let mut subject = None;
        let line = "(XEN) (d1) fault: http page fault rip=0x1000abc rsp=0x80001000";
        assert_eq!(address_in(line, &mut subject), Some(("http".to_owned(), 0x100_0abc)));
        assert_eq!(address_in("(XEN) (d1)   at 0x1000def", &mut subject), Some(("http".to_owned(), 0x100_0def)));
        let line = "(d1) cloister: fatal: kernel fault: page fault rip=0xffffffff80001234, cr2=0x0";
        assert_eq!(address_in(line, &mut subject), Some(("kernel".to_owned(), 0xffff_ffff_8000_1234)));
        assert_eq!(subject.as_deref(), Some("kernel"));
        let line = "cloister: fatal: kernel fault: double fault vector=8 error=0x0 cs=0x8 rip=0x10 rsp=0x0";
        assert_eq!(address_in(line, &mut subject), Some(("kernel".to_owned(), 0x10)));
    }

    #[test]
    fn other_lines_are_left_alone() {
        let mut subject = None;
        for line in ["", "started at 0x100", "fault:", "fault: http without address", "kernel fault: rip=0xzz"] {
            assert_eq!(address_in(line, &mut subject), None, "{line}");
            subject = None;
        }
    }

    #[test]
    fn names_from_a_log_do_not_leave_the_folder() {
        assert!(load(Path::new("/"), "../etc/passwd").expect("no error").is_none());
    }

    /// This program's own symbols: the address of a function leads back to its name and place.
    #[test]
    fn an_address_leads_to_function_and_line() {
        let folder = tempfile::tempdir().expect("folder");
        std::fs::copy(std::env::current_exe().expect("self"), folder.path().join("self.elf")).expect("copy");
        let mut symbols = Symbols { folder: folder.path().to_owned(), loaded: HashMap::new() };
        assert_eq!(symbols.describe("none", 1).expect("no error"), ["(no symbols of none)"]);
        assert_eq!(symbols.describe("self", u64::MAX).expect("no error"), ["(no function there)"]);
        // The program is loaded anywhere; its first mapping is its address 0.
        let maps = std::fs::read_to_string("/proc/self/maps").expect("maps");
        let base = parse_hexadecimal(&maps).expect("an address");
        let address = run as fn(&Arguments) -> Result<ExitCode> as usize as u64;
        let lines = symbols.describe("self", address - base).expect("no error");
        let place = "xtask::symbolize::run (";
        assert!(lines.iter().any(|line| line.starts_with(place) && line.contains("symbolize.rs:")), "{lines:?}");
    }
}
