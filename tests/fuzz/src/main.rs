//! `cloister-fuzz list`; `cloister-fuzz replay TARGET FILE` shows a script step by step, with the
//! effects of each; `cloister-fuzz corpora FOLDER` runs every script of every target without
//! output.
#![forbid(unsafe_code)]

use std::path::Path;
use std::process::ExitCode;

use cloister_fuzz::{TARGETS, Trace, target};

fn main() -> ExitCode {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    match arguments.iter().map(String::as_str).collect::<Vec<_>>().as_slice() {
        ["list"] => {
            for target in TARGETS {
                println!("{:22} {}", target.name, target.attack);
            }
            ExitCode::SUCCESS
        }
        ["replay", name, file] => replay(name, file),
        ["corpora", folder] => corpora(Path::new(folder)),
        _ => {
            eprintln!("cloister-fuzz list\ncloister-fuzz replay TARGET FILE\ncloister-fuzz corpora FOLDER");
            ExitCode::from(2)
        }
    }
}

fn replay(name: &str, file: &str) -> ExitCode {
    let Some(target) = target(name) else {
        eprintln!("there is no target {name}; `list` names them");
        return ExitCode::FAILURE;
    };
    let script = match std::fs::read(file) {
        Ok(script) => script,
        Err(error) => {
            eprintln!("{file}: {error}");
            return ExitCode::FAILURE;
        }
    };
    // A violated invariant is a panic, which ends the program with its own message.
    let trace = Trace::printing();
    target.run(&script, &trace);
    println!("{} events, trace {:016x}", trace.events(), trace.digest());
    ExitCode::SUCCESS
}

fn corpora(folder: &Path) -> ExitCode {
    for target in TARGETS {
        let entries = std::fs::read_dir(folder.join(target.name)).into_iter().flatten();
        for path in entries.filter_map(|entry| entry.ok().map(|entry| entry.path())) {
            match std::fs::read(&path) {
                Ok(script) => target.run(&script, &Trace::quiet()),
                Err(error) => {
                    eprintln!("{}: {error}", path.display());
                    return ExitCode::FAILURE;
                }
            }
        }
    }
    ExitCode::SUCCESS
}
