//! Runs z3 on the theorems of this package, and on the values that tie them to the code.
//!
//! A file of `theorems` is plain SMT-LIB: definitions that say in bit-vectors what functions of the
//! code compute, and theorems about them. `z3 theorems/queue.smt2` prints `sat` and `unsat` for each:
//! the premise is possible, and no values refute the conclusion. The tests also evaluate the
//! definitions at thousands of points and compare them with the code itself, so that a function
//! that changes no longer agrees.
#![forbid(unsafe_code)]

use std::io::Write;
use std::process::{Command, Stdio};

use thiserror::Error;

#[path = "../../../services/grant-manager/src/pages.rs"]
#[expect(clippy::new_without_default, reason = "it is public here alone")]
pub mod manager_pages;

/// The longest time that z3 may take for one theorem, in s.
const LIMIT: u32 = 120;

/// The reason why a theorem is not known to hold.
#[derive(Debug, Error)]
pub enum ProofError {
    /// z3 cannot be started.
    #[error("z3 cannot be run ({0}): install it with `apt-get install z3`; `cargo xtask test` as root does so")]
    NoSolver(std::io::Error),
    /// z3 was started, but reading from it or writing to it failed.
    #[error("z3 failed: {0}")]
    Solver(std::io::Error),
    /// z3 printed something else than was asked for.
    #[error("z3 printed {printed:?} for:\n{script}")]
    Output {
        /// What it was given.
        script: String,
        /// What it printed.
        printed: String,
    },
    /// The file is not in the form of a theorem file.
    #[error("theorem {0} has not the form of the others")]
    Form(String),
    /// No values satisfy the premise, so the theorem says nothing.
    #[error("the premise of {0} is impossible")]
    EmptyPremise(String),
    /// Values refute the theorem.
    #[error("{name} is false:\n{model}")]
    False {
        /// The theorem's name.
        name: String,
        /// Values that refute it.
        model: String,
    },
}

/// A theorem of a file.
#[derive(Clone, Debug)]
pub struct Theorem {
    /// Its name.
    pub name: String,
    /// What is assumed, as an assertion of SMT-LIB.
    premise: String,
    /// What follows.
    pub conclusion: String,
}

/// The contents of a theorem file.
#[derive(Clone, Debug)]
pub struct Theory {
    /// The definitions and the declared constants.
    definitions: String,
    /// The theorems.
    pub theorems: Vec<Theorem>,
}

impl Theory {
    /// Takes the text of a theorem file apart.
    ///
    /// # Errors
    /// A theorem is not in the form of the others.
    pub fn parse(text: &str) -> Result<Theory, ProofError> {
        let mut blocks = text.split("; theorem ");
        let definitions = blocks.next().unwrap_or_default().to_owned();
        Ok(Theory { definitions, theorems: blocks.map(Theorem::parse).collect::<Result<_, _>>()? })
    }

    /// Proves a theorem: its premise is possible, and no values refute it.
    ///
    /// # Errors
    /// It does not hold, or z3 does not say so.
    pub fn prove(&self, theorem: &Theorem) -> Result<(), ProofError> {
        let Theorem { name, premise, conclusion } = theorem;
        let possible = format!("{}\n{premise}\n(check-sat)\n", self.definitions);
        match solve(&possible)?.trim() {
            "sat" => {}
            "unsat" => return Err(ProofError::EmptyPremise(name.clone())),
            printed => return Err(ProofError::Output { script: possible, printed: printed.to_owned() }),
        }
        let refuted = format!("{}\n{premise}\n(assert (not {conclusion}))\n(check-sat)\n", self.definitions);
        match solve(&refuted)?.trim() {
            "unsat" => Ok(()),
            "sat" => Err(ProofError::False { name: name.clone(), model: solve(&format!("{refuted}(get-model)\n"))? }),
            printed => Err(ProofError::Output { script: refuted, printed: printed.to_owned() }),
        }
    }

    /// Returns the terms that are not true, of those that say what the code has computed.
    ///
    /// # Errors
    /// z3 does not evaluate one of them.
    pub fn false_ones<'a>(&self, terms: &'a [String]) -> Result<Vec<&'a str>, ProofError> {
        let evaluated: String = terms.iter().map(|term| format!("(simplify {term})\n")).collect();
        let script = format!("{}\n{evaluated}", self.definitions);
        let printed = solve(&script)?;
        let values: Vec<&str> = printed.lines().collect();
        if values.len() != terms.len() || values.iter().any(|value| !matches!(*value, "true" | "false")) {
            let printed = printed.chars().take(400).collect();
            return Err(ProofError::Output { script: terms.first().cloned().unwrap_or_default(), printed });
        }
        Ok(terms.iter().zip(values).filter(|(_, value)| *value == "false").map(|(term, _)| term.as_str()).collect())
    }
}

impl Theorem {
    /// Takes a theorem apart: its name, its premise, the negation of its conclusion.
    fn parse(block: &str) -> Result<Theorem, ProofError> {
        let (name, rest) = block.split_once('\n').unwrap_or((block, ""));
        let parts = || {
            let rest = rest.strip_prefix("(push)\n")?.trim_end().strip_suffix("(check-sat)\n(pop)")?;
            let (premise, refuted) = rest.split_once("\n(check-sat)\n(assert (not ")?;
            let conclusion = refuted.trim_end().strip_suffix("))")?;
            Some((premise.to_owned(), conclusion.to_owned()))
        };
        let (premise, conclusion) = parts().ok_or_else(|| ProofError::Form(name.to_owned()))?;
        Ok(Theorem { name: name.to_owned(), premise, conclusion })
    }
}

/// Returns what z3 prints for a script.
fn solve(script: &str) -> Result<String, ProofError> {
    let mut command = Command::new("z3");
    command.args(["-smt2", "-in", &format!("-T:{LIMIT}")]).stdin(Stdio::piped()).stdout(Stdio::piped());
    let mut solver = command.spawn().map_err(ProofError::NoSolver)?;
    let input = solver.stdin.take();
    // It prints while it reads, so that another thread has to write.
    std::thread::scope(|scope| {
        let writer = scope.spawn(move || input.map_or(Ok(()), |mut input| input.write_all(script.as_bytes())));
        let output = solver.wait_with_output().map_err(ProofError::Solver)?;
        writer.join().unwrap_or(Ok(())).map_err(ProofError::Solver)?;
        Ok(String::from_utf8_lossy(&output.stdout).into_owned())
    })
}

/// Returns a number as a bit-vector of SMT-LIB with this number of bits.
#[must_use]
pub fn bits(value: u64, width: u32) -> String {
    format!("(_ bv{value} {width})")
}
