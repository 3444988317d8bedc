//! Seeds of the tests that try other numbers with each commit, and the numbers.

use std::io::Write;
use std::path::Path;
use std::process::Command;
use std::sync::OnceLock;

/// The variable that gives the seed in hexadecimal, to see a run again.
pub const SEED: &str = "CLOISTER_FUZZ_SEED";

/// Returns the seed of this run, and prints it: the one that [`SEED`] gives, or one from the id of
/// the commit. Outside of a repository it is always the same.
///
/// # Panics
/// [`SEED`] is no hexadecimal number.
#[must_use]
pub fn seed() -> u64 {
    static KNOWN: OnceLock<u64> = OnceLock::new();
    *KNOWN.get_or_init(|| {
        let hexadecimal = |text: &str| u64::from_str_radix(text, 16).ok();
        let given = std::env::var(SEED).ok().map(|text| {
            hexadecimal(text.trim_start_matches("0x"))
                .unwrap_or_else(|| panic!("{SEED}={text} is no hexadecimal number"))
        });
        let commit = || {
            let folder = Path::new(env!("CARGO_MANIFEST_DIR"));
            let head = Command::new("git").args(["rev-parse", "HEAD"]).current_dir(folder).output().ok()?;
            hexadecimal(String::from_utf8(head.stdout).ok()?.get(..16)?)
        };
        let seed = given.or_else(commit).unwrap_or(1);
        // Bypasses the test harness, which shows the output of tests only if one fails.
        let _ = writeln!(std::io::stderr(), "seeded by {SEED}={seed:016x}");
        seed
    })
}

/// Random numbers: SplitMix64 (Steele, Lea and Flood). The same start gives the same numbers.
#[derive(Clone, Debug)]
pub struct Random(pub u64);

impl Random {
    /// Returns the next number.
    pub fn word(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9E37_79B9_7F4A_7C15);
        let mut mixed = self.0;
        mixed = (mixed ^ (mixed >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
        mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
        mixed ^ (mixed >> 31)
    }

    /// Returns a number below `bound`, or 0 if there is none.
    pub fn below(&mut self, bound: usize) -> usize {
        (self.word() % bound.max(1) as u64) as usize
    }

    /// Returns one of the values.
    ///
    /// # Panics
    /// There is none.
    pub fn pick<'a, T>(&mut self, values: &'a [T]) -> &'a T {
        &values[self.below(values.len())]
    }
}
